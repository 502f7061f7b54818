"""Numba's compiler as this project uses it: serial, without the GIL, cached where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from gpuscan.base.code_cache import cached_njit

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function at its first call; what it calls must be in the same file, or the cache is stale."""
    return cast(Callable[_P, _R], cached_njit(function, nogil=True))
