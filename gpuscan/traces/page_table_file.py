"""Page tables as files: read whatever the form, and written as Parquet or CSV."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError, check_room
from gpuscan.files.writing import new_file
from gpuscan.traces.csv_text import cells_of, numbers_of
from gpuscan.traces.page_table import REMEDY, PageTable, check_columns
from gpuscan.traces.parquet_file import MAGIC, batches_of, opened
from gpuscan.traces.parquet_file import names_of as names_of_parquet
from gpuscan.traces.parquet_file import numbers_of as numbers_of_parquet
from gpuscan.traces.pieces import PackedError, check_plain, start_of
from gpuscan.traces.table_file import check_suffix, table_writer
from gpuscan.traces.text import lines_of

FACTS = "gpuscan.pages"
_ROW_BYTES = 12 * 8
"""What a row takes at most: its columns, and those of the table, sorted."""


def read_page_table(path: Path) -> PageTable:
    """Read a page table.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        start = start_of(path, len(MAGIC))
        columns = _of_parquet(path) if start == MAGIC else _of_csv(path)
    except UnfitError as error:
        raise InputError(f"{path} {error}; give a smaller page table, or one that is a file") from error
    except PackedError as error:
        raise InputError(f"{path}:1: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read the page table {path}: {error.strerror}; {REMEDY}") from error
    except ValueError as error:  # a NUL byte in the name
        raise InputError(f"{str(path)!r} is not a file name ({error}); {REMEDY}") from error
    return PageTable.of(path, columns)


def _of_parquet(path: Path) -> dict[str, NDArray[Any]]:
    check_plain(path)
    with opened(path) as table:
        names = names_of_parquet(path, table, (), REMEDY)
        check_columns(path, tuple(names))
        check_room(table.metadata.num_rows * _ROW_BYTES)
        parts: list[list[NDArray[Any]]] = []
        n_left = table.metadata.num_rows
        for batch in batches_of(table):
            n_left -= batch.num_rows
            if n_left < 0:
                raise UnfitError(f"has more rows than the {table.metadata.num_rows:,} that it says")
            parts.append(
                [numbers_of_parquet(path, name, batch.column(at), 1, REMEDY) for at, name in enumerate(names)]
            )
    return _joined(names, parts)


def _of_csv(path: Path) -> dict[str, NDArray[Any]]:
    names: list[str] = []
    parts: list[list[NDArray[Any]]] = []
    n_rows = 0
    for first, text in lines_of(path, lambda _: None):
        rows: list[list[str]] = []
        for number, line in enumerate(text.decode("ascii", "replace").splitlines(), first):
            if line.startswith("#") or not line.strip():
                continue
            if not names:
                names = cells_of(line)
                check_columns(path, tuple(names))
                continue
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) != len(names):
                raise InputError(f"{path}:{number}: the line has {len(cells)} values; {REMEDY}")
            rows.append(cells)
        parts.append(
            [
                numbers_of(path, n_rows + 1, name, [row[at] for row in rows], 1, REMEDY)
                for at, name in enumerate(names)
            ]
        )
        n_rows += len(rows)
        check_room(n_rows * _ROW_BYTES)
    if not names:
        raise InputError(f"{path} is empty; {REMEDY}")
    return _joined(names, [part for part in parts if part])


def _joined(names: list[str], parts: list[list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    none = np.empty(0, dtype=np.int64)
    return {name: np.concatenate([none, *(part[at] for part in parts)]) for at, name in enumerate(names)}


def write_page_table(out: Path, tables: Iterable[dict[str, NDArray[np.int64]]]) -> int:
    """Write a page table, and return how many pages it has.

    Args:
        out: where to, ``.parquet`` or ``.csv``; a file that is there is replaced.
        tables: parts of it, columns ``pid``, ``virtual_page``, ``pfn`` and ``n_pages`` of int64[n].

    Raises:
        InputError: there are no pages, or ``out`` has another suffix.
        RunFailedError: it cannot be written; nothing is left there.
    """
    check_suffix(out)
    n_pages = 0
    with new_file(out) as file, closing(table_writer(out, file)) as writer:
        for columns in tables:
            if len(columns["pfn"]):
                writer.rows(columns)
                n_pages += int(columns["n_pages"].sum())
        if not n_pages:
            raise InputError(f"no page of these processes is there to be written to {out}; check their PIDs")
        writer.end(FACTS, '{"gpuscan_pages": 1}')
    return n_pages
