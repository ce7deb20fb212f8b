"""Scene numbers on the command line."""

from __future__ import annotations

from vine_vla.core.errors import VineError


def parse_scenes(text: str) -> tuple[int, ...]:
    """`0:60`, `0:60:3`, `5` or `1,7,9` as scene numbers; the end is exclusive."""
    try:
        scenes: list[int] = []
        for part in text.split(","):
            if ":" in part:
                numbers = [int(n) for n in part.split(":")]
                scenes += range(*numbers)
            else:
                scenes.append(int(part))
    except (ValueError, TypeError):
        raise VineError(f"not a list of scenes: {text!r}", hint="write 0:60 or 1,7,9") from None
    if not scenes or min(scenes) < 0 or len(set(scenes)) != len(scenes):
        raise VineError(f"no scenes, a negative or a repeated one in {text!r}", hint="write 0:60 or 1,7,9")
    return tuple(scenes)
