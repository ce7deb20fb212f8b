"""Compiled inner loops: numba, kept on disk, the same bits as the interpreter gives.

No fast maths: LLVM then keeps the order of every floating-point operation. A loop is compiled when it is
first called, which takes seconds, once a machine: the result lies beside the package (or where
NUMBA_CACHE_DIR points) and is loaded in tenths of a second from then on. `warm_up` in `planners.py` takes
that out of the first plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba


def compiled[F: Callable[..., Any]](function: F) -> F:
    """`function` compiled on its first call. What it calls must stand in the same file.

    numba keeps its result for as long as that one file is unchanged.
    """
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder can be written, neither the package's nor the user's
        return cast(F, numba.njit(nogil=True)(function))
