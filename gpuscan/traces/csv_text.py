"""Numbers between commas: decimal, or hexadecimal behind ``0x``; a time in seconds may have a fraction."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError

SHARE = 0
"""In place of a unit: numbers are any, and may be missing."""
_DECIMAL = re.compile(r"[0-9]{1,18}")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,15}")
_FRACTION = re.compile(r"([0-9]{1,10})\.([0-9]{1,9})")


def cells_of(heading: str) -> list[str]:
    """Return the names in a heading."""
    return [cell.strip().strip('"') for cell in heading.split(",")]


def numbers_of(path: Path, row: int, name: str, cells: list[str], unit: int, remedy: str) -> NDArray[Any]:
    """Return the numbers in cells of a column.

    Args:
        path, row, name: for what is said of one: the file, the row of the first, the column.
        cells: of a row each.
        unit: what 1 stands for, and only of more than 1 there are fractions: int64[n]; or :data:`SHARE`:
            float64[n], NaN where nothing stands.
        remedy: what to do about another cell.

    Raises:
        InputError: one is no number.
    """
    try:
        if unit == SHARE:
            return np.array([float(cell or "nan") for cell in cells])
        return np.array([_number(cell, unit) for cell in cells], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    for at, cell in enumerate(cells):
        try:
            np.int64(float(cell or "nan") if unit == SHARE else _number(cell, unit))
        except (ValueError, OverflowError):
            raise InputError(
                f"{path}: row {row + at:,}: {name} is {cell[:40]!r}, not a number; {remedy}"
            ) from None
    raise InputError(f"{path}: row {row:,}: {name} is not a column of numbers; {remedy}")


def _number(cell: str, unit: int) -> int:
    if _DECIMAL.fullmatch(cell):
        return int(cell) * unit
    if _HEXADECIMAL.fullmatch(cell):
        return int(cell, 16) * unit
    parts = _FRACTION.fullmatch(cell)
    if parts is None or unit == 1:
        raise ValueError(cell)
    scale: int = 10 ** len(parts[2])
    return int(parts[1]) * unit + int(parts[2]) * unit // scale
