"""Stages of a long run: each is done once, and again when its settings or an earlier stage changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vine_vla.storage.json import write_json

STAGES = "stages"

Say = Callable[[str], None]


class StageLog:
    """`stages/NAME.json`: what is done, under which key, and how long it took.

    A file a stage, so that processes that run different stages at the same time do not disturb each other.
    """

    def __init__(self, root: Path, say: Say) -> None:
        self.folder, self.say = root / STAGES, say
        self.folder.mkdir(parents=True, exist_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        file = self._file(name)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return found

    def _file(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.json"

    def seconds(self) -> dict[str, float]:
        """How long every stage took, in the order in which they ended."""
        files = sorted(self.folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
        return {file.stem: json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in files}

    @contextmanager
    def stage(self, name: str, settings: dict[str, Any], after: Sequence[str] = ()) -> Iterator[bool]:
        """Yields whether the stage must run; records it when its block ends without an error."""
        chain = [self._read(other)["key"] for other in after]
        text = json.dumps([settings, chain], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        known = self._read(name)
        if known.get("key") == key:
            self.say(f"{name}: there")
            yield False
            return
        self.say(name)
        before = known["seconds"] if known.get("begun") == key else 0.0
        started = time.monotonic()
        try:
            yield True
        except BaseException:
            # An interrupted stage goes on later: its time so far counts.
            write_json(self._file(name), {"begun": key, "seconds": before + time.monotonic() - started})
            raise
        write_json(self._file(name), {"key": key, "seconds": round(before + time.monotonic() - started, 1)})
