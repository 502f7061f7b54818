"""Numba's compiler as this project uses it: serial, without the GIL, cached where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from numba import njit

from gpuscan.base.code_cache import cached_njit

_P = ParamSpec("_P")
_R = TypeVar("_R")
_OPTIONS = {"nogil": True}


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function at its first call; what it calls must be in the same file, or the cache is stale."""
    return cast(Callable[_P, _R], cached_njit(function, **_OPTIONS))


def inlined(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function a part of the compiled ones that call it, as an inner loop wants it.

    A call that LLVM does not inline of its own counts the references of every array that it hands over: two
    locked instructions each. Half as fast again is perf's parser without them.
    """
    return cast(Callable[_P, _R], njit(**_OPTIONS, forceinline=True)(function))
