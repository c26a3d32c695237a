"""The one way to compile a function.

Law: a compiled function computes the same uncompiled, so that it can be debugged and its branches counted (`NUMBA_DISABLE_JIT=1`).
Results are cached on disk beside the module, or under `NUMBA_CACHE_DIR`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba: no Python objects, wrap-around integers, IEEE floats (no fast-math, so results are the same on any machine)."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile an inner function that allocates no array: without reference counting, which costs more than the work when dozens of arrays are passed."""
    return numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)  # type: ignore[no-any-return]
