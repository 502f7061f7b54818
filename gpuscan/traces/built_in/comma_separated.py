"""Tables of accesses as text: a heading, and numbers between commas (CSV).

:mod:`gpuscan.traces.columns` has the columns. Numbers are decimal, or hexadecimal behind ``0x``; a time in
seconds may have a fraction. Lines behind ``#`` are comments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.traces.columns import OTHERS, PLACES, REMEDY, TIMES, Columns, facts_of, of_file, only
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import lines_of

_DECIMAL = re.compile(r"[0-9]{1,18}")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,15}")
_FRACTION = re.compile(r"([0-9]{1,10})\.([0-9]{1,9})")


def read_csv(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the rows, some thousand at a time.

    Raises:
        InputError: the heading or a line is foreign, out of order or cut short; names the line.
        OSError: the file cannot be read.
    """
    columns: Columns | None = None
    last_ns, n_rows = 0, 0
    for first, text in lines_of(path, on_read):
        rows: list[list[str]] = []
        facts: dict[str, int] = {}
        for number, line in enumerate(text.decode("ascii", "replace").splitlines(), first):
            if line.startswith("#"):
                facts = facts or facts_of(path, line[1:].encode())
            elif columns is None and line.strip():
                columns = Columns.of(path, _cells(line))
            elif line.strip():
                cells = line.split(",")
                if columns is None or len(cells) != len(columns.names):
                    raise InputError(f"{path}:{number}: the line has {len(cells)} values; {REMEDY}")
                rows.append([cell.strip() for cell in cells])
        if columns is not None and rows:
            values = {
                name: _numbers(path, n_rows + 1, name, [row[at] for row in rows])
                for at, name in enumerate(columns.names)
            }
            samples = columns.samples(path, n_rows + 1, values, last_ns)
            last_ns, n_rows = int(values[columns.time][-1]), n_rows + len(rows)
            yield samples
        if columns is not None and facts:
            yield only(facts, of_regions=columns.of_regions)


def _cells(line: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(",")]


def _numbers(path: Path, row: int, name: str, cells: list[str]) -> NDArray[Any]:
    """Return a column; a time in nanoseconds, ``share`` as floats."""
    unit = TIMES.get(name, 1)
    try:
        if name == "share":
            return np.array([float(cell or "nan") for cell in cells])
        return np.array([_number(cell, unit) for cell in cells], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    for at, cell in enumerate(cells):
        try:
            np.int64(float(cell or "nan") if name == "share" else _number(cell, unit))
        except (ValueError, OverflowError):
            raise InputError(
                f"{path}: row {row + at:,}: {name} is {cell[:40]!r}, not a number; {REMEDY}"
            ) from None
    raise InputError(f"{path}: row {row:,}: {name} is not a column of numbers; {REMEDY}")


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


def _heading(start: bytes) -> list[str]:
    lines = start.decode("ascii", "replace").splitlines()
    return _cells(next((line for line in lines if line.strip() and not line.startswith("#")), ""))


def _sniff(start: bytes) -> Sniff:
    names = _heading(start)
    is_one = any(name in TIMES for name in names) and any(name in PLACES for name in names)
    others = (*TIMES, *PLACES, *OTHERS)
    return Sniff.MAY_BE if is_one and all(name in others for name in names) else Sniff.NO


def _advice(path: Path, start: bytes) -> str:
    names = _heading(start)
    looks_like_one = len(names) > 1 and any(name in (*TIMES, *PLACES) for name in names)
    return f"is a table of other columns; {REMEDY}" if looks_like_one and not _sniff(start) else ""


def _of_file(path: Path, start: bytes) -> TraceFormat:
    return of_file(TRACE_FORMAT, Columns.of(path, _heading(start)))


TRACE_FORMAT = TraceFormat(
    about="a CSV file with columns such as time_ns, pfn, cpu and weight",
    noun="access",
    knows_cpus=True,
    sniff=_sniff,
    advice=_advice,
    outside_advice="",
    read=read_csv,
    is_virtual=False,
    assumes="",
    of_file=_of_file,
)
