"""Settings beside unfinished work: a run is resumed with those it was begun with, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vine_vla.core.errors import VineError
from vine_vla.storage.json import read_json, write_json


def keep_settings(path: Path, settings: Mapping[str, Any], *, hint: str) -> None:
    """Write `settings` to `path`, or compare them with those that stand there.

    Args:
        path: JSON file beside the work.
        settings: everything that makes two runs the same run, as JSON values.
        hint: for whoever changed one.

    Raises:
        VineError: the file cannot be read, or another value stands there; names the first that differs.
    """
    now = json.loads(json.dumps(settings))
    if not path.is_file():
        write_json(path, now)
        return
    before = read_json(path, hint=hint)
    if difference := differing(before, now):
        raise VineError(f"begun with other settings: {difference}", where=str(path), hint=hint)


def differing(before: Any, now: Any, name: str = "settings") -> str | None:
    """The first value in which two settings differ, in one line; None if they are equal."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            if found := differing(before.get(key), now.get(key), str(key)):
                return found
        return None
    return None if before == now else f"{name} was {before}, now {now}"
