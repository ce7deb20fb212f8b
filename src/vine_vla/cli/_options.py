"""Options that mean the same in every command."""

from __future__ import annotations

from typing import Annotated

import tyro

from vine_vla.core.errors import VineError

Device = Annotated[
    str | None,
    tyro.conf.arg(
        help="Where nets run: cpu, cuda, cuda:1, mps or whatever torch knows; default: cuda if there is one."
    ),
]

Threads = Annotated[
    int, tyro.conf.arg(help="Threads of torch; 1 is faster on a machine that does other work.")
]


def read_keys(
    pairs: tuple[str, ...], where: str = "--key", example: str = "front=observation/top"
) -> dict[str, str]:
    """NAME=KEY pairs; raises VineError for anything else."""
    found = {}
    for pair in pairs:
        name, equals, key = pair.partition("=")
        if not equals or not name or not key:
            raise VineError(f"{pair!r} is not NAME=KEY", where=where, hint=f"e.g. {example}")
        found[name] = key
    return found
