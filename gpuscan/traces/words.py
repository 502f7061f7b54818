"""Eight characters of a text as one number, for compiled parsers.

What is built here goes into the code of its callers, whose cache does not notice a change in this file: what
does something else gets another name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as untyped_intrinsic

_intrinsic = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", untyped_intrinsic)


@_intrinsic
def eight(typing: Any, text: Any, at: Any) -> Any:
    """Return the eight characters from ``text[at]`` on as a number, the first its lowest byte."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, given[0])
        pointer = builder.gep(array.data, [given[1]])
        return builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(text, types.int64), build


@_intrinsic
def byte(typing: Any, text: Any, at: Any) -> Any:
    """Return the character ``text[at]``; ``at`` is not counted from the end where it is negative.

    That saves a comparison each time, 8 % of the parser of perf's lines.
    """

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, given[0])
        return builder.load(builder.gep(array.data, [given[1]]))

    return types.uint8(text, types.int64), build


@_intrinsic
def low_zeros(typing: Any, word: Any) -> Any:
    """Return how many bits of a number that is not 0 are 0 below its lowest 1."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), build


@_intrinsic
def high_zeros(typing: Any, word: Any) -> Any:
    """Return how many bits of a number that is not 0 are 0 above its highest 1."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.ctlz(given[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), build
