"""Values out of documents that somebody else may have written: of the right type, in their range, or refused.

JSON's ``true`` is no 1 here, 1.0 is no 1, and a text of a million characters is no name. All of it raises an
ArgumentError (a ValueError) that names what is wrong; whoever reads the document says where, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.errors import ArgumentError

TEXT_MAX = 4096
"""Characters of a text: a path, or a sentence."""
TIME_NS_MAX = 1 << 62
"""Of simulated time: 146 years. A tick more still fits 63 bits."""
_LIST_MAX = 1 << 28


def table(value: Any, what: str, keys: tuple[str, ...] | None = None) -> Mapping[str, Any]:
    """Return a table, one that has exactly these keys where they are given."""
    if not isinstance(value, dict):
        raise ArgumentError(f"{what} is not a table")
    missing = sorted(set(keys or ()) - value.keys())
    if missing:
        raise ArgumentError(f"{what} lacks the key {missing[0]!r}")
    if keys is not None and len(value) > len(keys):
        unknown = next(key for key in value if key not in keys)
        raise ArgumentError(f"{what} has the key {shown(unknown)}, which is not known")
    return value


def whole(value: Any, lowest: int, highest: int, what: str) -> int:
    """Return a whole number in [lowest, highest]."""
    if type(value) is not int or not lowest <= value <= highest:
        raise ArgumentError(f"{what} is {shown(value)}, not a whole number from {lowest} to {highest}")
    return value


def number(value: Any, lowest: float, highest: float, what: str) -> float:
    """Return a number in [lowest, highest], which NaN is not."""
    if type(value) not in (int, float) or not lowest <= value <= highest:
        raise ArgumentError(f"{what} is {shown(value)}, not a number from {lowest} to {highest}")
    return float(value)


def flag(value: Any, what: str) -> bool:
    """Return true or false."""
    if type(value) is not bool:
        raise ArgumentError(f"{what} is {shown(value)}, neither true nor false")
    return value


def text(value: Any, what: str, n_max: int = TEXT_MAX) -> str:
    """Return a text that can be printed and named: no NUL byte, no half of a surrogate pair."""
    if type(value) is not str or len(value) > n_max or "\0" in value:
        raise ArgumentError(f"{what} is {shown(value)}, not a text of up to {n_max} characters")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ArgumentError(f"{what} is not a text: it has half of a pair of UTF-16")
    return value


def items(value: Any, what: str, n_max: int = _LIST_MAX, n: int | None = None) -> Sequence[Any]:
    """Return a list (a tuple, before it was written) of at most ``n_max`` items, or of ``n``."""
    is_list = type(value) in (list, tuple)
    if not is_list or len(value) > n_max or (n is not None and len(value) != n):
        wanted = f"up to {n_max}" if n is None else str(n)
        found = f"{len(value)} of them" if is_list else shown(value)
        raise ArgumentError(f"{what} is {found}, not a list of {wanted}")
    found_items: Sequence[Any] = value
    return found_items


def texts(value: Any, what: str, n_max: int) -> list[str]:
    """Return a list of texts."""
    return [text(item, what) for item in items(value, what, n_max)]


def wholes(value: Any, lowest: int, highest: int, what: str, n: int | None = None) -> list[int]:
    """Return a list of whole numbers."""
    return [whole(item, lowest, highest, what) for item in items(value, what, n=n)]


def pairs(value: Any, what: str) -> list[tuple[Any, Any]]:
    """Return a list of lists of two, as ``dict.items()`` is written; the first of each only once."""
    found = [tuple(items(item, what, n=2)) for item in items(value, what)]
    if any(type(first) not in (int, str) for first, _ in found):
        raise ArgumentError(f"{what} has a key that is neither a whole number nor a text")
    if len({first for first, _ in found}) != len(found):
        raise ArgumentError(f"{what} has a key twice")
    return found


def counts(value: Any, what: str) -> dict[str, int]:
    """Return counts by name."""
    return {
        text(name, what, 200): whole(count, 0, INT64_MAX, f"{what} of {shown(name)}")
        for name, count in pairs(value, what)
    }


def array(
    value: Any,
    dtype: Any,
    what: str,
    *,
    n: int | None = None,
    lowest: int | None = None,
    end: int | None = None,
) -> NDArray[Any]:
    """Return an array of one dimension, of ``n`` elements in [lowest, end)."""
    wanted = np.dtype(dtype)
    if not isinstance(value, np.ndarray) or value.dtype != wanted or value.ndim != 1:
        found = value.dtype if isinstance(value, np.ndarray) else shown(value)
        raise ArgumentError(f"{what} is {found}, not an array of {wanted}")
    if n is not None and len(value) != n:
        raise ArgumentError(f"{what} has {len(value)} elements, not {n}")
    if len(value) and lowest is not None and int(value.min()) < lowest:
        raise ArgumentError(f"{what} has {int(value.min())}, below {lowest}")
    if len(value) and end is not None and int(value.max()) >= end:
        raise ArgumentError(f"{what} has {int(value.max())}, which is not below {end}")
    return value


def random_state(value: Any, what: str) -> dict[str, Any]:
    """Return the state of NumPy's default generator."""
    found = table(value, what, ("bit_generator", "state", "has_uint32", "uinteger"))
    inner = table(found["state"], what, ("state", "inc"))
    if found["bit_generator"] != "PCG64":
        raise ArgumentError(f"{what} is of the generator {shown(found['bit_generator'])}, not of PCG64")
    return {
        "bit_generator": "PCG64",
        "state": {key: whole(inner[key], 0, (1 << 128) - 1, what) for key in ("state", "inc")},
        "has_uint32": whole(found["has_uint32"], 0, 1, what),
        "uinteger": whole(found["uinteger"], 0, (1 << 32) - 1, what),
    }


def shown(value: Any) -> str:
    """Return a value as JSON has it, or what it is where that would be long."""
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of many digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
