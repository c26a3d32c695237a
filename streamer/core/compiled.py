"""The ways to compile a function.

Laws: a compiled function computes the same uncompiled, so that it can be debugged and its branches counted (`NUMBA_DISABLE_JIT=1`).
Code that was compiled from another source than the present one is never run.

Results are cached on disk beside the module, or under `NUMBA_CACHE_DIR`. numba alone looks only at the file that a function stands in, and
goes on using what it compiled from other files that have been edited since. Here a cached function's stamp is a hash of its module and of
all modules of the core that this imports.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")
_CORE = "streamer.core."
_IMPORTED = re.compile(r"^\s*from streamer\.core\.(\w+) import", re.MULTILINE)


@cache
def _sources(module: str) -> frozenset[str]:
    """Find the modules of the core that a module imports, itself and theirs included."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        found |= waiting
        waiting = {name for known in waiting for name in _IMPORTED.findall(_source(known).decode())} - found
    return frozenset(found)


@cache
def _source(module: str) -> bytes:
    return resources.files(__package__).joinpath(f"{module}.py").read_bytes()


@cache
def _stamp(module: str) -> str:
    return hashlib.sha256(b"\0".join(_source(name) for name in sorted(_sources(module)))).hexdigest()


def _compile(function: Callable[P, R], **options: bool) -> Callable[P, R]:
    """Compile with wrap-around integers and IEEE floats (no fast-math, so results are the same on any machine)."""
    flags: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", **options}
    made = numba.njit(**flags)(function)
    _mark(made, function.__module__)
    return made


def _mark(made: Any, module: str) -> None:  # noqa: ANN401  # numba's dispatcher, or the function itself where nothing is compiled
    """Stamp the cache of a function of the core."""
    kept = getattr(made, "_cache", None)
    if kept is not None and module.startswith(_CORE):
        kept._cache_file._source_stamp = _stamp(module.removeprefix(_CORE))  # noqa: SLF001  # there is no public way, and stale is wrong


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that may make arrays."""
    return _compile(function)


def compiled_uncounted(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `compiled` does, without counting references to arrays: twice as fast where small functions pass them to each other.

    The function must make no array: it reads and writes those that it is given, which its caller keeps alive. (numba refuses to compile
    one that does.)
    """
    return _compile(function, _nrt=False)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile as `compiled_uncounted` does, but into each of its callers.

    For small functions, and for those called in one place: an array is seven arguments, and passing dozens can cost more than the work.
    """
    return _compile(function, _nrt=False, forceinline=True)


@kernel
def wide(value: int) -> int:
    """Give a number 64 bits, so that what takes it is compiled once, and narrow arithmetic can't overflow."""
    return int(np.int64(value))
