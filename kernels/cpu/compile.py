"""How the kernels of this package are compiled, and how compiled ones are found again.

A kernel is a serial ``nogil`` function that Numba compiles at its first call and
keeps in its cache directory. Two facts about that cache (Numba 0.61 to 0.69) shape
this module:

- it notices an edited function by the time stamp of that function's own file only; a
  helper compiled into it from another file may change unseen. So the name that a
  kernel is cached under carries a hash of all sources that end up in kernels.
- entries of one function are numbered without a lock (``IndexDataCacheFile.save``):
  two processes that store different specialisations at once can end up with each
  other's code. So the name also carries the record width, the only thing that
  differs between the argument types of two calls: one file, one specialisation.

:mod:`gpuscan.base.code_cache` has where the cache is. Without one the kernels are compiled in
every process, after one warning.
"""

from __future__ import annotations

import hashlib
import inspect
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

from gpuscan.base.code_cache import cached_njit
from gpuscan.kernels import layout, outcomes
from gpuscan.records import formats, page_map

_F = TypeVar("_F", bound=Callable[..., Any])

# Kernels create no arrays, so they need no reference counts. With them, every helper that is
# given a Store counts all its arrays up and down with locked instructions: 300 ns per claim
# instead of 40 (Numba 0.68).
_OPTIONS = {"nogil": True, "_nrt": False}

helper = cast(Callable[[_F], _F], njit(**_OPTIONS, forceinline=True))
"""Compile a function into the kernels that call it; it is never called from Python."""


shared_step = cast(Callable[[_F], _F], njit(**_OPTIONS))
"""Compile a function that kernels call, once for all of them: for long steps that work on many pages."""


@cache
def source_hash() -> str:
    """Return a hash of every source file whose constants and code end up in compiled kernels."""
    package = Path(__file__).parent
    imported = (Path(inspect.getfile(module)) for module in (layout, outcomes, formats, page_map))
    files = [*sorted(package.glob("*.py")), *imported]
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


class Kernel:
    """A kernel, compiled once per record width, at the first call for that width.

    Args:
        function: the plain Python function, at module level.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self._compiled: dict[int, Callable[..., Any]] = {}

    def for_bits(self, record_bits: int) -> Callable[..., Any]:
        """Return the dispatcher for records of ``record_bits``."""
        compiled = self._compiled.get(record_bits)
        if compiled is None:
            compiled = self._compiled.setdefault(record_bits, _dispatcher(self.function, record_bits))
        return compiled


def kernel(function: Callable[..., Any]) -> Kernel:
    """Make a function a :class:`Kernel`."""
    return Kernel(function)


def _dispatcher(function: Callable[..., Any], record_bits: int) -> Callable[..., Any]:
    # A copy, since Numba takes the name of the cache file from __qualname__.
    plain = cast(types.FunctionType, function)
    named = types.FunctionType(plain.__code__, plain.__globals__, plain.__name__)
    named.__module__ = plain.__module__
    named.__qualname__ = f"{plain.__name__}.u{record_bits}.{source_hash()}"
    return cast(Callable[..., Any], cached_njit(named, **_OPTIONS))
