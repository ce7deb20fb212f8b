"""The hash of System 1's weights: written by training, checked by everything that must not change them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vine_vla.core.errors import VineError

RUN_FILE = "system1.json"
POLICY_FOLDER = "policy"
WEIGHTS = "model.safetensors"


def weights_hash(policy: Path) -> str:
    """sha256 of the weights in a saved policy's folder."""
    path = policy / WEIGHTS
    if not path.is_file():
        raise VineError("no weights", where=str(path), hint="train it with `vine train system1`")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored_hash(run: Path) -> str:
    """The hash that training wrote down for the System 1 in `run`."""
    path = run / RUN_FILE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["weights_sha256"])
    except OSError as error:
        raise VineError(
            "no trained System 1", where=str(path), hint="train it with `vine train system1`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise VineError(
            f"damaged System 1: {error!r}", where=str(path), hint="train it with `vine train system1`"
        ) from error


def check_weights(run: Path) -> str:
    """The hash of the System 1 in `run`; VineError if its weights are not those that training wrote."""
    wanted, found = stored_hash(run), weights_hash(run / POLICY_FOLDER)
    if wanted != found:
        raise VineError(
            "System 1's weights have changed since it was trained",
            where=str(run / POLICY_FOLDER / WEIGHTS),
            hint="train System 1 anew, then System 2 and everything measured with it",
        )
    return found
