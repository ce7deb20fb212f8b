"""Hashes of System 1's files: written by training, checked by everything that must not change them.

`weights_sha256` names the weights, and with them everything measured. `files_sha256` covers every file of the
policy and of its done head, so that damage is found. Neither stops an attacker, who can write the hashes too:
that is what `vetting` is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.storage.files import file_hash
from vine_vla.storage.json import read_json

RUN_FILE = "system1.json"
RUN_FORMAT = 2
"""Of `system1.json`."""
POLICY_FOLDER = "policy"
DONE = "done"
SERVER = "openpi"
"""What `system1.json` says is imported where the policy is behind a server, its weights unknown."""
WEIGHTS = "model.safetensors"
HINT = "train it with `vine train system1`"


def is_url(policy: object) -> bool:
    """Whether a policy is named by the URL of an openpi server rather than by a folder."""
    return str(policy).startswith(("ws://", "wss://"))


def weights_hash(policy: Path) -> str:
    """sha256 of the weights in a saved policy's folder."""
    path = policy / WEIGHTS
    if not path.is_file():
        raise VineError("no weights", where=str(path), hint="train it with `vine train system1`")
    return file_hash(path)


def stored_hash(run: Path) -> str:
    """The hash that training wrote down for the System 1 in `run`."""
    return str(read_run(run)["weights_sha256"])


def read_run(run: Path) -> dict[str, Any]:
    """What is written down of the System 1 in `run`.

    Raises:
        VineError: there is none, it is damaged, or of another format.
    """
    path = run / RUN_FILE
    found = read_json(path, missing="no trained System 1", hint=HINT)
    if found.get("format") != RUN_FORMAT:
        raise VineError(
            f"a System 1 of format {found.get('format', 1)}, this version reads {RUN_FORMAT}",
            where=str(path),
            hint="train it anew with `vine train system1`, or import it anew with `vine skill import`",
        )
    if not isinstance(found.get("weights_sha256"), str):
        raise VineError("damaged System 1: no weights_sha256", where=str(path), hint=HINT)
    return found


def file_hashes(run: Path) -> dict[str, str]:
    """sha256 of every file of the policy and its done head, by its path in `run`."""
    files = [file for part in (POLICY_FOLDER, DONE) for file in sorted((run / part).rglob("*"))]
    return {file.relative_to(run).as_posix(): file_hash(file) for file in files if file.is_file()}


def check_weights(run: Path) -> str:
    """The hash of the weights of the System 1 in `run`.

    Raises:
        VineError: they, or another file of it, are not what was written.
    """
    wanted = stored_hash(run)
    found = wanted if read_run(run).get("imported") == SERVER else weights_hash(run / POLICY_FOLDER)
    if wanted != found:
        raise VineError(
            "System 1's weights have changed since it was trained",
            where=str(run / POLICY_FOLDER / WEIGHTS),
            hint="train System 1 anew, then System 2 and everything measured with it",
        )
    written = read_run(run).get("files_sha256")
    if written is not None:
        _check_files(run, written)
    return found


def _check_files(run: Path, written: object) -> None:
    there = file_hashes(run)
    if not isinstance(written, dict):
        raise VineError("files_sha256 is no object", where=str(run / RUN_FILE), hint=HINT)
    for name in sorted({*there, *written}):
        if there.get(name) != written.get(name):
            what = (
                "is missing" if name not in there else "was added" if name not in written else "has changed"
            )
            raise VineError(
                f"a file of System 1 {what} since the run was made",
                where=str(run / name),
                hint="restore it, or make the run anew",
            )
