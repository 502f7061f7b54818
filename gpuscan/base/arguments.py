"""What a value handed to the library must be. A refusal is one sentence: the cause, the place, the remedy.

:func:`check_arrays` holds arrays against a table of :class:`ArraySpec`. The operations of the kernels
have theirs in :mod:`gpuscan.kernels.signatures`; a dataclass of arrays has one beside it.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import ArgumentError

_T = TypeVar("_T")
_BITS_SHOWN = 256
"""A longer number is told by its length: Python refuses to print a really long one."""
INT64_MAX = (1 << 63) - 1
_NAME_MAX = 255
"""NAME_MAX of Linux: bytes of a file's name."""


def shown(value: object) -> str:
    """Return what a value is, in few words: itself where that is short, else its type."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}{list(value.shape)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value).bit_length() > _BITS_SHOWN:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return reprlib.repr(value)
    return f"a value of type {type(value).__name__}"


def whole(what: str, value: object, low: int = 0, high: int = INT64_MAX) -> int:
    """Return a whole number from ``low`` to ``high``, both included; NumPy's are welcome, bool is none.

    Raises:
        ArgumentError: it is something else.
    """
    if type(value) is int and low <= value <= high:  # nearly always: a check costs a tenth of a microsecond
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentError(f"{what} is {shown(value)}, not a whole number; give {_span(low, high)}")
    number = int(value)
    if not low <= number <= high:
        raise ArgumentError(f"{what} is {shown(number)}; give {_span(low, high)}")
    return number


def _span(low: int, high: int) -> str:
    return f"{low} or more" if high == INT64_MAX else f"{low} to {high}"


def real(what: str, value: object, low: float = 0.0) -> float:
    """Return a finite number of at least ``low``.

    Raises:
        ArgumentError: it is something else.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and number >= low:
            return number
    raise ArgumentError(f"{what} is {shown(value)}; give a number of at least {low:g}")


def flag(what: str, value: object) -> bool:
    """Return True or False.

    Raises:
        ArgumentError: it is something else; a number is not taken for one.
    """
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise ArgumentError(f"{what} is {shown(value)}; give True or False")


def text(what: str, value: object) -> str:
    """Return a string.

    Raises:
        ArgumentError: it is something else.
    """
    return instance(what, value, str, "give a string")


def one_of(what: str, value: object, choices: Collection[str]) -> None:
    """Refuse what is not one of some strings.

    Raises:
        ArgumentError: it is something else.
    """
    if not isinstance(value, str) or value not in choices:
        raise ArgumentError(f"{what} is {shown(value)}; give one of {', '.join(choices)}")


def instance(what: str, value: object, kind: type[_T], remedy: str) -> _T:
    """Return a value of a type.

    Raises:
        ArgumentError: it is something else; ``remedy`` says what to give.
    """
    if not isinstance(value, kind):
        raise ArgumentError(f"{what} is {shown(value)}, not a {kind.__name__}; {remedy}")
    return value


def has_methods(what: str, value: object, names: Sequence[str], remedy: str) -> None:
    """Refuse what lacks methods of a protocol.

    Raises:
        ArgumentError: it does; ``remedy`` says what to give.
    """
    missing = [name for name in names if not callable(getattr(value, name, None))]
    if missing or isinstance(value, type):
        lacks = f"has no {', '.join(f'{name}()' for name in missing)}" if missing else "is not made yet"
        raise ArgumentError(f"{what}, {shown(value)}, {lacks}; {remedy}")


def items(what: str, value: object, kind: type[_T], remedy: str) -> tuple[_T, ...]:
    """Return a tuple of values of a type, from any sequence.

    Raises:
        ArgumentError: it is no sequence, or one of its values is something else.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ArgumentError(f"{what} is {shown(value)}, not a tuple; {remedy}")
    return tuple(all_of(what, value, kind, remedy))


def place_of(what: str, value: object) -> Path:
    """Return a path, from one or from a string.

    Raises:
        ArgumentError: it is something else, or what no file can be called.
    """
    if isinstance(value, str | PathLike) and (path := str(value)) and "\0" not in path:
        try:
            encoded = os.fsencode(path)
        except UnicodeEncodeError:
            encoded = b"x" * (_NAME_MAX + 1)
        if all(len(part) <= _NAME_MAX for part in encoded.split(b"/")):
            return Path(path)
    raise ArgumentError(f"{what} is {shown(value)}; give a path")


def function(what: str, value: object, remedy: str) -> None:
    """Refuse what cannot be called; None is fine.

    Raises:
        ArgumentError: it cannot.
    """
    if value is not None and not callable(value):
        raise ArgumentError(f"{what} is {shown(value)}, which cannot be called; {remedy}")


def integers(what: str, value: object) -> NDArray[Any]:
    """Return an array of whole numbers of any width and shape, not converted.

    Raises:
        ArgumentError: it is something else; numbers from 2**64 on, and masked arrays, too.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ArgumentError(
            f"{what} come in a masked array, whose masked values would count; give a plain one"
        )
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # ragged lists, arrays of another device
        raise ArgumentError(f"{what} are {shown(value)}, which is no array; give an array of int64") from None
    if array.size and array.dtype.kind not in "iu":
        raise ArgumentError(f"{what} are whole numbers below 2**63, not {array.dtype}; convert the array")
    return array


_DLPACK_CUDA = (2, 13)
"""kDLCUDA and kDLCUDAManaged of ``DLDeviceType``, dlpack.h."""


def is_on_gpu(value: object) -> bool:
    """Return whether an array is in a GPU's memory, as ``__cuda_array_interface__`` or DLPack say."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "__cuda_array_interface__"):
        return True
    tell = getattr(value, "__dlpack_device__", None)
    return tell is not None and int(tell()[0]) in _DLPACK_CUDA


def settle(instance_of_frozen: object, **values: object) -> None:
    """Set fields of a frozen dataclass to what its checks made of them; for its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(instance_of_frozen, name, value)


def all_of(what: str, value: object, kind: type[_T], remedy: str) -> list[_T]:
    """Return the values of anything that can be gone through, each of a type.

    Raises:
        ArgumentError: it cannot, or one of them is something else.
    """
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        raise ArgumentError(f"{what} are {shown(value)}; {remedy}")
    listed = list(value)
    for place, item in enumerate(listed):
        if not isinstance(item, kind):
            raise ArgumentError(f"{what}[{place}] is {shown(item)}, not a {kind.__name__}; {remedy}")
    return listed


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of an operation or a dataclass.

    Attributes:
        name: as callers know it.
        dtype: NumPy's name for it, or ``record`` for that of the store's format.
        shape: a dimension each: its name, ``name+1``, or ``name?`` for as many or none. A name stands for
            one number in all arrays of a call; who checks may know it already.
        values: half-open range of the values, as numbers or names of dimensions; None = any of the dtype.
        multiple_of: a number or a name, whose multiples the values are.
        ascends: no value is below the one before it.
        has_bits: a number or a name, whose bits every value has.
        is_bool: True and False are values too.
        exact: is taken as it is given, never converted: a kernel writes to it, or to others with it.
        optional: None stands for "not given".
    """

    name: str
    dtype: str
    shape: tuple[str, ...] = ("n",)
    values: tuple[int | str, int | str] | None = None
    multiple_of: int | str = 1
    ascends: bool = False
    has_bits: int | str = 0
    is_bool: bool = False
    exact: bool = False
    optional: bool = False

    def wanted(self, dims: Mapping[str, int], dtype: np.dtype[Any]) -> str:
        """Return what to give, in words."""
        said = f"{dtype}[{', '.join(_dimension(each, dims) for each in self.shape)}]"
        if self.values is not None:
            low, high = (_number(each, dims) for each in self.values)
            said += f" of values from {low}" + f" to {high - 1}" * (high <= INT64_MAX)
        if self.exact:
            said += ", contiguous and writable"
        return said


def check_arrays(
    place: str,
    specs: Sequence[ArraySpec],
    given: Iterable[Any],
    dims: MutableMapping[str, int],
    record_dtype: np.dtype[Any] | None = None,
) -> list[Any]:
    """Return arrays as kernels take them: of the dtype, contiguous, aligned, writable.

    Those that are so already are not copied.

    Args:
        place: the operation, for the sentence.
        specs: what is expected.
        given: a value for each; anything that NumPy makes an array of whole numbers.
        dims: numbers known for names of dimensions; those that a call settles are added.
        record_dtype: what ``record`` stands for.

    Raises:
        ArgumentError: an array is something else, or one that is written overlaps another.
    """
    taken: list[Any] = []
    for spec, value in zip(specs, given, strict=True):
        if value is None and spec.optional:
            taken.append(None)
            continue
        dtype = record_dtype if spec.dtype == "record" and record_dtype is not None else _dtype(spec.dtype)
        fault, array = _fault(spec, value, dtype, dims)
        if fault:
            raise ArgumentError(f"{place}: {spec.name} {fault}; give {spec.wanted(dims, dtype)}")
        taken.append(array)
    for number, spec in enumerate(specs):
        if spec.exact and taken[number] is not None:
            _refuse_overlap(place, specs, taken, number)
    return taken


@cache
def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name)


def _fault(
    spec: ArraySpec, value: Any, dtype: np.dtype[Any], dims: MutableMapping[str, int]
) -> tuple[str, Any]:
    """Return what is wrong with an array, or nothing, and the array as kernels take it."""
    is_plain = type(value) is np.ndarray and value.dtype == dtype and value.flags.carray
    array = value
    if not is_plain:
        if spec.exact:
            return f"is {shown(value)}{_layout_of(value, dtype)}, and is taken as it is", None
        fault, array = _converted(spec, value, dtype)
        if fault:
            return fault, None
    if array.ndim != len(spec.shape):
        return f"has {array.ndim} dimensions, expected {len(spec.shape)}", None
    for axis, name in enumerate(spec.shape):
        if dims.get(name) == array.shape[axis]:
            continue
        fault = _length_fault(array.shape[axis], name, dims)
        if fault:
            return fault if array.ndim == 1 else f"has along axis {axis} {fault.removeprefix('has ')}", None
    return _value_fault(spec, array, dims), array


def _converted(spec: ArraySpec, value: Any, dtype: np.dtype[Any]) -> tuple[str, Any]:
    if isinstance(value, np.ma.MaskedArray):
        return "is a masked array, whose masked values would count", None
    if is_on_gpu(value):
        return "is in a GPU's memory", None
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # ragged lists, arrays of another device
        return f"is {shown(value)}, which is no array", None
    kinds = "iub" if spec.is_bool else "iu"
    if array.size and array.dtype.kind not in kinds:
        return f"is {shown(value if isinstance(value, np.ndarray) else array)}, not of whole numbers", None
    if array.size and array.dtype.kind != "b" and not np.can_cast(array.dtype, dtype):
        limits = np.iinfo(dtype)
        least, most = int(array.min()), int(array.max())
        if least < limits.min or most > limits.max:
            return f"has values from {least} to {most}", None
    return "", np.require(array, dtype=dtype, requirements=["C", "A", "W"])


def _layout_of(value: Any, dtype: np.dtype[Any]) -> str:
    """Return why an array of the right dtype is not plain, in words."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        return ""
    if not value.flags.writeable:
        return " that is read-only"
    return " that is not contiguous" if type(value) is np.ndarray else " of a class of its own"


def _length_fault(length: int, name: str, dims: MutableMapping[str, int]) -> str:
    key = name.rstrip("?")
    add = 0
    if key.endswith("+1"):
        key, add = key[:-2], 1
    known = dims.get(key)
    if name.endswith("?") and length == 0:
        return ""
    if known is None:
        if length < add:
            return f"has {length} elements, expected {add} or more"
        dims[key] = length - add
    elif length != known + add:
        return f"has {length} elements, expected {known + add}" + " or none" * name.endswith("?")
    return ""


def _value_fault(spec: ArraySpec, array: NDArray[Any], dims: Mapping[str, int]) -> str:
    if array.size == 0:
        return ""
    if spec.values is not None:
        low, high = (_number(each, dims) for each in spec.values)
        least, most = int(array.min()), int(array.max())
        if least < low or most >= high:
            allowed = f"in [{low}, {high})" if high <= INT64_MAX else f"{low} or more"
            return f"has values from {least} to {most}, which are not all {allowed}"
    multiple = 1 if spec.multiple_of == 1 else _number(spec.multiple_of, dims)
    if multiple > 1 and (array % multiple).any():
        return f"has values that are no multiples of {multiple}"
    if spec.ascends and np.count_nonzero(array[1:] < array[:-1]):
        return "does not ascend"
    bits = 0 if spec.has_bits == 0 else _number(spec.has_bits, dims)
    if bits and not (array & array.dtype.type(bits)).all():
        return "has records that are not READY"
    return ""


def _number(named: int | str, dims: Mapping[str, int]) -> int:
    """Return a number, or that of a dimension; what a dataclass cannot know yet bounds nothing."""
    if isinstance(named, int):
        return named
    known = dims.get(named.removesuffix("+1"))
    return INT64_MAX + 1 if known is None else known + named.endswith("+1")


def _dimension(name: str, dims: Mapping[str, int]) -> str:
    """Return a dimension as a number where it is known."""
    key = name.rstrip("?")
    add = key.endswith("+1")
    key = key.removesuffix("+1")
    said = str(dims[key] + add) if key in dims else key + "+1" * add
    return f"{said} or 0" if name.endswith("?") else said


def _refuse_overlap(place: str, specs: Sequence[ArraySpec], taken: Sequence[Any], number: int) -> None:
    for other, array in enumerate(taken):
        if other != number and array is not None and np.may_share_memory(taken[number], array):
            raise ArgumentError(
                f"{place}: {specs[number].name} overlaps {specs[other].name} in memory; "
                "give it an array of its own"
            )
