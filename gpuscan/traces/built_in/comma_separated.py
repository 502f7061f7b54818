"""Tables of accesses as text: a heading, and numbers between commas (CSV).

:mod:`gpuscan.traces.columns` has the columns. Numbers are decimal, or hexadecimal behind ``0x``; a time in
seconds may have a fraction. Lines behind ``#`` are comments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gpuscan.base.errors import InputError
from gpuscan.traces.columns import OTHERS, PLACES, REMEDY, TIMES, Columns, facts_of, of_file, only
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.csv_text import SHARE, cells_of, numbers_of
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import lines_of


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
                columns = Columns.of(path, cells_of(line))
            elif line.strip():
                cells = line.split(",")
                if columns is None or len(cells) != len(columns.names):
                    raise InputError(f"{path}:{number}: the line has {len(cells)} values; {REMEDY}")
                rows.append([cell.strip() for cell in cells])
        if columns is not None and rows:
            values = {
                name: numbers_of(
                    path,
                    n_rows + 1,
                    name,
                    [row[at] for row in rows],
                    SHARE if name == "share" else TIMES.get(name, 1),
                    REMEDY,
                )
                for at, name in enumerate(columns.names)
            }
            samples = columns.samples(path, n_rows + 1, values, last_ns)
            last_ns, n_rows = int(values[columns.time][-1]), n_rows + len(rows)
            yield samples
        if columns is not None and facts:
            yield only(facts, of_regions=columns.of_regions)


def _heading(start: bytes) -> list[str]:
    lines = start.decode("ascii", "replace").splitlines()
    return cells_of(next((line for line in lines if line.strip() and not line.startswith("#")), ""))


def _sniff(start: bytes) -> Sniff:
    names = _heading(start)
    is_one = any(name in TIMES for name in names) and any(name in PLACES for name in names)
    others = (*TIMES, *PLACES, *OTHERS)
    return Sniff.MAY_BE if is_one and all(name in others for name in names) else Sniff.NO


def _advice(path: Path, start: bytes) -> str:
    names = _heading(start)
    looks_like_one = len(names) > 1 and any(name in (*TIMES, *PLACES) for name in names)
    return f"is a table of other columns; {REMEDY}" if looks_like_one and not _sniff(start) else ""


def _of_file(path: Path, start: bytes, given: Mapping[str, str]) -> TraceFormat:
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
    given={},
    of_file=_of_file,
)
