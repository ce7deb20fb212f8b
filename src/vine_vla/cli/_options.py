"""Options that mean the same in every command."""

from __future__ import annotations

from typing import Annotated

import tyro

Device = Annotated[
    str | None,
    tyro.conf.arg(
        help="Where nets run: cpu, cuda, cuda:1, mps or whatever torch knows; default: cuda if there is one."
    ),
]
