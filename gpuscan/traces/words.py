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
def base_of(typing: Any, text: Any) -> Any:
    """Return the address of the first character of a text, an array that somebody else keeps alive.

    Functions hand it to one another in place of the array, whose references they would count: two locked
    instructions for each call.
    """

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, given[0])
        return builder.ptrtoint(array.data, ir.IntType(64))

    return types.int64(text), build


@_intrinsic
def eight_from(typing: Any, base: Any, at: Any) -> Any:
    """Return the eight characters from ``at`` on of the text at ``base``, the first the lowest byte."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        place = builder.inttoptr(builder.add(given[0], given[1]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(types.int64, types.int64), build


@_intrinsic
def byte_from(typing: Any, base: Any, at: Any) -> Any:
    """Return character ``at`` of the text at ``base``."""

    def build(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.load(builder.inttoptr(builder.add(given[0], given[1]), ir.IntType(8).as_pointer()))

    return types.uint8(types.int64, types.int64), build


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
