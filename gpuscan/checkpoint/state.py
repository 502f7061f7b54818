"""States: nested dicts of plain values and NumPy arrays, and their two halves on disk.

A *state* is what ``state()`` of a class returns and its ``restore()`` takes: a dict with string
keys (no dots), whose values are dicts of the same kind, JSON values (whole numbers of any size),
one-dimensional NumPy arrays, or :class:`ArraysElsewhere`. An array may be a view of what its owner works
on: it is to be written, or copied, before its owner goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gpuscan.checkpoint.arrays import ArrayFacts, ArrayPlace, Written

State = dict[str, Any]


@runtime_checkable
class ArraysElsewhere(Protocol):
    """Arrays in other processes, which write them themselves. On disk they are a dict of arrays."""

    def write_arrays(self, place: ArrayPlace, path: str) -> tuple[dict[str, ArrayFacts], Written]:
        """Write all of them below ``path``, synced; return what they are, by path, and what it cost.

        Raises:
            RunFailedError: one cannot be written.
        """
        ...


def split(
    state: Mapping[str, Any],
) -> tuple[State, dict[str, NDArray[Any]], dict[str, ArraysElsewhere]]:
    """Return the plain values of a state, nested as they were, and by path (``store.records``) its arrays.

    Those that are elsewhere come last.
    """
    plain: State = {}
    arrays: dict[str, NDArray[Any]] = {}
    elsewhere: dict[str, ArraysElsewhere] = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            plain[key], inner, away = split(value)
            arrays |= {f"{key}.{path}": array for path, array in inner.items()}
            elsewhere |= {f"{key}.{path}": owner for path, owner in away.items()}
        elif isinstance(value, np.ndarray):
            arrays[key] = value
        elif isinstance(value, ArraysElsewhere):
            elsewhere[key] = value
        else:
            plain[key] = value
    return plain, arrays, elsewhere


def join(plain: State, arrays: Mapping[str, Any]) -> State:
    """Return the state whose halves these are; ``plain`` becomes part of it.

    Raises:
        ValueError: an array has a place that is taken.
    """
    for path, array in arrays.items():
        at = plain
        *groups, name = path.split(".")
        for group in groups:
            at = at.setdefault(group, {})  # not there where arrays were elsewhere
            if not isinstance(at, dict):
                raise ValueError(f"the place of the array {path} is taken")
        if name in at:
            raise ValueError(f"the place of the array {path} is taken")
        at[name] = array
    return plain


def canonical(plain: Mapping[str, Any]) -> str:
    """Return plain values as the one JSON text they have (sorted keys; floats come back as they were).

    Raises:
        TypeError, ValueError: something in it is no JSON value; NaN is none.
    """
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_number)


def digest(data: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes: nobody can tell a changed chunk from an unchanged one by less."""
    return hashlib.sha256(data).hexdigest()


def _number(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a NumPy number
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no part of a state")
