"""The folder of a trained System 2: what every kind of backend keeps in the same place.

DIR/system2.json              format, kind, schema; and what the kind shares between its variants
DIR/VARIANT/model.json        a folder with one is a variant; the kind's own weights lie beside it
DIR/VARIANT/calibration.json  scale and thresholds of a kind that is calibrated from outside
DIR/VARIANT/metrics.json, reliability.png, MODEL_CARD.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema
from vine_vla.storage import json

INFO, MODEL, CALIBRATION = "system2.json", "model.json", "calibration.json"
METRICS, CARD, PICTURE = "metrics.json", "MODEL_CARD.md", "reliability.png"
FORMAT = 2
EXECUTED = "-executed"
"""`all-executed`: the variant `all` with execution calibration."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a trained System 2; VineError if it is missing or damaged."""
    return json.read_json(path, missing="no trained System 2", hint="train it with `vine train system2`")


def system2_folder(path: Path | str) -> Path:
    """`path` if it is the folder of a System 2, else `path/system2` if that is one, else `path`."""
    path = Path(path)
    inner = path / "system2"
    return inner if not (path / INFO).is_file() and (inner / INFO).is_file() else path


def read_info(folder: Path) -> dict[str, Any]:
    """What `system2.json` says.

    Raises:
        VineError: it is missing or damaged, or of another format.
    """
    info = read_json(folder / INFO)
    found = info.get("format")
    if found != FORMAT or not isinstance(info.get("kind"), str):
        raise VineError(
            f"format {found} is of another version of VINE, this one reads {FORMAT}",
            where=str(folder / INFO),
            hint="train System 2 again: `vine train system2 DATASET --out NEW_FOLDER`",
        )
    return info


def read_schema(folder: Path, info: dict[str, Any]) -> Schema:
    """The vocabulary that `system2.json` holds."""
    return Schema.from_json(info["schema"], where=str(folder / INFO))


def trained_variants(folder: Path) -> list[str]:
    """Names of the variants in a System 2 folder, sorted."""
    return sorted(file.parent.name for file in folder.glob(f"*/{MODEL}"))


def default_variant(folder: Path) -> str:
    """`all` if it was trained, else the first there is; VineError if there is none."""
    there = trained_variants(folder)
    if not there:
        raise VineError(
            "no variant has been trained", where=str(folder), hint="run `vine train system2` again"
        )
    return "all" if "all" in there else there[0]
