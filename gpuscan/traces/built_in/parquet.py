"""Tables of accesses as Parquet, batch by batch; :mod:`gpuscan.traces.columns` has the columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError, check_room, first_line, open_file
from gpuscan.traces.columns import FACTS, REMEDY, TIMES, Columns, facts_of, of_file, only
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.pieces import check_plain
from gpuscan.traces.samples import Samples

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_MAGIC = b"PAR1"
_BATCH_ROWS = 1 << 16
_FOOTER_BYTES_MAX = 64 << 20
_FOOTER_ITEMS_MAX = 1 << 20
"""Of Thrift lists: row groups and their columns."""
_COLUMNS_MAX = 16
_SCALE_MAX = (1 << 62) // 10**9


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that somebody made; see :func:`gpuscan.store.plan_file.read_plans`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with (
            os.fdopen(open_file(path), "rb") as file,
            pq.ParquetFile(
                file,
                thrift_string_size_limit=_FOOTER_BYTES_MAX,
                thrift_container_size_limit=_FOOTER_ITEMS_MAX,
            ) as table,
        ):
            yield table
    except InputError:
        raise
    except (UnfitError, OSError, EOFError, ValueError, MemoryError, pa.ArrowException) as error:
        why = f"is not a readable Parquet file ({first_line(error)})"
        why = str(error) if isinstance(error, UnfitError) else why
        raise InputError(f"{path} {why}; copy it again whole") from error


def _columns(path: Path, table: pq.ParquetFile) -> Columns:
    import pyarrow as pa

    schema = table.schema_arrow
    if len(schema.names) > _COLUMNS_MAX:
        raise InputError(f"{path} has {len(schema.names):,} columns; {REMEDY}")
    columns = Columns.of(path, schema.names)
    for name in columns.names:
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or (name == "share" and pa.types.is_float64(kind))):
            raise InputError(
                f"{path}: the column {name} has values of type {kind}, not whole numbers; {REMEDY}"
            )
    return columns


def read_parquet(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the rows, some ten thousand at a time.

    Raises:
        InputError: the file is damaged, or rows are foreign or out of order; names the row.
        OSError: the file cannot be read.
    """
    n_bytes = path.stat().st_size
    last_ns = n_rows = n_told = 0
    with _opened(path) as table:
        columns = _columns(path, table)
        metadata = table.metadata
        for group in range(metadata.num_row_groups):
            check_room(metadata.row_group(group).total_byte_size)
        n_all = max(1, metadata.num_rows)
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            batch.validate(full=True)
            values = {
                name: _numbers(path, name, batch.column(at)) for at, name in enumerate(batch.schema.names)
            }
            if batch.num_rows:
                yield columns.samples(path, n_rows + 1, values, last_ns)
                last_ns, n_rows = int(values[columns.time][-1]), n_rows + batch.num_rows
            told = min(n_bytes, n_bytes * n_rows // n_all)
            on_read(told - n_told)
            n_told = told
        facts = facts_of(path, (metadata.metadata or {}).get(FACTS, b""))
        if facts:
            yield only(facts, of_regions=columns.of_regions)
        on_read(n_bytes - n_told)


def _numbers(path: Path, name: str, column: Any) -> NDArray[Any]:
    import pyarrow as pa

    if name == "share":
        shares: NDArray[Any] = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
        return shares
    if column.null_count:
        raise InputError(f"{path}: a value of the column {name} is missing; {REMEDY}")
    numbers: NDArray[Any] = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    unit = TIMES.get(name, 1)
    if unit > 1 and len(numbers) and (int(numbers.max()) >= _SCALE_MAX or int(numbers.min()) < 0):
        raise InputError(f"{path}: a value of the column {name} is out of range; record it again")
    return numbers * unit if unit > 1 else numbers


def _of_file(path: Path, start: bytes) -> TraceFormat:
    check_plain(path)
    with _opened(path) as table:
        return of_file(TRACE_FORMAT, _columns(path, table))


TRACE_FORMAT = TraceFormat(
    about="a Parquet file with such columns",
    noun="access",
    knows_cpus=True,
    sniff=lambda start: Sniff.IS if start.startswith(_MAGIC) else Sniff.NO,
    advice=lambda path, start: "",
    outside_advice="",
    read=read_parquet,
    is_virtual=False,
    assumes="",
    of_file=_of_file,
)
