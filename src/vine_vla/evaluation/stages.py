"""Stages of a long run: each is done once, and again when its settings or an earlier stage changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vine_vla.evaluation.files import write_json

STAGES = "stages.json"

Say = Callable[[str], None]


class StageLog:
    """`stages.json`: what is done, under which key, and how long it took."""

    def __init__(self, root: Path, say: Say) -> None:
        self.file, self.say = root / STAGES, say
        self.done: dict[str, dict[str, Any]] = {}
        if self.file.is_file():
            self.done = json.loads(self.file.read_text(encoding="utf-8"))

    @contextmanager
    def stage(self, name: str, settings: dict[str, Any], after: Sequence[str] = ()) -> Iterator[bool]:
        """Yields whether the stage must run; records it when its block ends without an error."""
        chain = [self.done[other]["key"] for other in after]
        text = json.dumps([settings, chain], sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if self.done.get(name, {}).get("key") == key:
            self.say(f"{name}: there")
            yield False
            return
        self.say(name)
        before = (
            self.done.get(name, {}).get("seconds", 0.0)
            if self.done.get(name, {}).get("begun") == key
            else 0.0
        )
        started = time.monotonic()
        try:
            yield True
        except BaseException:
            # An interrupted stage goes on later: its time so far counts.
            self.done[name] = {"begun": key, "seconds": before + time.monotonic() - started}
            write_json(self.file, self.done)
            raise
        self.done[name] = {"key": key, "seconds": round(before + time.monotonic() - started, 1)}
        write_json(self.file, self.done)
