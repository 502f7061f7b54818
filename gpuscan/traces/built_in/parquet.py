"""Tables of accesses as Parquet, batch by batch; :mod:`gpuscan.traces.columns` has the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.traces.columns import FACTS, REMEDY, TIMES, Columns, facts_of, of_file, only
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.parquet_file import MAGIC, batches_of, names_of, numbers_of, opened
from gpuscan.traces.pieces import check_plain
from gpuscan.traces.samples import Samples

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def _columns(path: Path, table: pq.ParquetFile) -> Columns:
    return Columns.of(path, names_of(path, table, ("share",), REMEDY))


def read_parquet(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the rows, some ten thousand at a time.

    Raises:
        InputError: the file is damaged, or rows are foreign or out of order; names the row.
        OSError: the file cannot be read.
    """
    n_bytes = path.stat().st_size
    last_ns = n_rows = n_told = 0
    with opened(path) as table:
        columns = _columns(path, table)
        metadata = table.metadata
        n_all = max(1, metadata.num_rows)
        for batch in batches_of(table):
            values = {
                name: _values(path, name, batch.column(at)) for at, name in enumerate(batch.schema.names)
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


def _values(path: Path, name: str, column: Any) -> NDArray[Any]:
    if name == "share":
        shares: NDArray[Any] = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
        return shares
    return numbers_of(path, name, column, TIMES.get(name, 1), REMEDY)


def _of_file(path: Path, start: bytes, given: Mapping[str, str]) -> TraceFormat:
    check_plain(path)
    with opened(path) as table:
        return of_file(TRACE_FORMAT, _columns(path, table))


TRACE_FORMAT = TraceFormat(
    about="a Parquet file with such columns",
    noun="access",
    knows_cpus=True,
    sniff=lambda start: Sniff.IS if start.startswith(MAGIC) else Sniff.NO,
    advice=lambda path, start: "",
    outside_advice="",
    read=read_parquet,
    is_virtual=False,
    assumes="",
    given={},
    of_file=_of_file,
)
