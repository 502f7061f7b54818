"""Plans as a Parquet file: one row per folio, in the order in which it was to be moved.

Columns:
    tick          int32   the round of the run
    batch         int64   running number of the batch over the whole file
    target_nid    int16   where to
    pfn           uint64  first page of the folio
    n_pages       int32   base pages of the folio
    record        uint64  the word that the scan claimed

File metadata: ``gpuscan.schema`` (1), ``gpuscan.record_format``, ``gpuscan.batch_pages``.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpuscan.base.errors import InputError
from gpuscan.files.parquet import check_schema, has_columns, read_table
from gpuscan.files.reading import first_line
from gpuscan.files.writing import create
from gpuscan.store.plan import Batches, Plan

SCHEMA_VERSION = 1

_ROW_BYTES = 34
"""Of all columns."""
_WHAT = "plan"

_COLUMNS = pa.schema(
    [
        ("tick", pa.int32()),
        ("batch", pa.int64()),
        ("target_nid", pa.int16()),
        ("pfn", pa.uint64()),
        ("n_pages", pa.int32()),
        ("record", pa.uint64()),
    ]
)


class PlanRows:
    """Makes plans into rows; batches are numbered over all of them.

    Attributes:
        n_batches: batches so far.
    """

    def __init__(self, n_batches: int = 0) -> None:
        self.n_batches = n_batches

    def rows(self, tick: int, plan: Plan, batches: Batches) -> pa.RecordBatch:
        """Return the rows of one plan with the batches it was cut into."""
        columns = [
            pa.array(np.full(len(plan), tick, dtype=np.int32)),
            pa.array(batches.of_folio() + self.n_batches),
            pa.array(plan.target_of_folio().astype(np.int16)),
            pa.array(plan.pfn.astype(np.uint64)),
            pa.array(plan.folio_pages.astype(np.int32)),
            pa.array(plan.words.astype(np.uint64)),
        ]
        self.n_batches += len(batches)
        return pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)


def parse_rows(serialized: bytes) -> pa.RecordBatch:
    """Return the rows that :meth:`PlanRows.rows` made, from the bytes of their ``serialize()``.

    Raises:
        InputError: they are not such rows.
    """
    try:
        rows = pa.ipc.read_record_batch(pa.py_buffer(serialized), _COLUMNS)
        rows.validate(full=True)
    except (OSError, EOFError, ValueError, MemoryError, pa.ArrowException) as error:
        raise InputError(f"a kept plan is damaged ({first_line(error)}); run again from the start") from None
    if any(column.null_count for column in rows.columns):
        raise InputError("a kept plan is damaged (a value is missing); run again from the start")
    return rows


class PlanWriter:
    """Appends plans to one Parquet file; its ``append`` is an engine's plan sink.

    The file is complete once the writer is closed.

    Args:
        path: the file to create, in a directory that is being filled (see :mod:`gpuscan.files.writing`).
        record_format: name of the records' format, kept in the metadata.
        batch_pages: base pages per batch, kept in the metadata.
    """

    def __init__(self, path: Path, record_format: str, batch_pages: int) -> None:
        metadata = {
            "gpuscan.schema": str(SCHEMA_VERSION),
            "gpuscan.record_format": record_format,
            "gpuscan.batch_pages": str(batch_pages),
        }
        with ExitStack() as stack:
            self._file = stack.enter_context(create(path))
            schema = _COLUMNS.with_metadata(metadata)
            self._writer = pq.ParquetWriter(self._file, schema, compression="zstd")
            stack.pop_all()
        self._rows = PlanRows()

    def append(self, tick: int, plan: Plan, batches: Batches) -> None:
        """Write one plan with the batches it was cut into."""
        self.write(self._rows.rows(tick, plan, batches))

    def write(self, rows: pa.RecordBatch) -> None:
        """Write the rows of one plan."""
        if len(rows):
            self._writer.write_batch(rows.cast(self._writer.schema))

    def close(self) -> None:
        """Write the footer."""
        try:
            self._writer.close()
        finally:
            self._writer.is_open = False  # else it tries again when it is collected, and complains on stderr
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PatientPlanWriter:
    """Appends plans as :class:`PlanWriter` until that fails: a full disk stops the writing, not the run.

    Args:
        writer: where to.
    """

    def __init__(self, writer: PlanWriter) -> None:
        self._writer = writer
        self._failure: OSError | None = None

    def append(self, tick: int, plan: Plan, batches: Batches) -> None:
        """Write one plan, unless one before could not be written."""
        if self._failure is None:
            try:
                self._writer.append(tick, plan, batches)
            except OSError as error:
                self._failure = error

    def write(self, rows: pa.RecordBatch) -> None:
        """Write the rows of one plan; see :meth:`append`."""
        if self._failure is None:
            try:
                self._writer.write(rows)
            except OSError as error:
                self._failure = error

    def check(self) -> None:
        """Raise what stopped the writing.

        Raises:
            OSError: a plan could not be written.
        """
        if self._failure is not None:
            raise self._failure


def is_plan_file(path: Path) -> bool:
    """Whether a file looks like one of these; reading it will tell whether it is whole.

    Raises:
        OSError: it cannot be opened.
        UnfitError: it is no regular file.
    """
    return has_columns(path, _COLUMNS)


def read_plans(path: Path) -> pa.Table:
    """Return the rows of a plan file.

    Raises:
        InputError: it is not one, is cut short, of a newer schema, or larger than memory allows.
    """
    table = read_table(path, _COLUMNS, _ROW_BYTES, _WHAT)
    check_schema(path, table.schema.metadata or {}, SCHEMA_VERSION, _WHAT)
    return table
