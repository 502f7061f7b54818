"""Parquet files that somebody made, batch by batch: whole numbers by column."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.files.parquet import footer_of
from gpuscan.files.reading import UnfitError, check_room, first_line, open_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAGIC = b"PAR1"
_BATCH_ROWS = 1 << 16
_COLUMNS_MAX = 16
_SCALE_MAX = (1 << 62) // 10**9


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file that somebody made; see :func:`gpuscan.store.plan_file.read_plans`.

    Raises:
        InputError: it is damaged.
    """
    import pyarrow as pa

    try:
        with os.fdopen(open_file(path), "rb") as file, footer_of(file) as table:
            yield table
    except InputError:
        raise
    except (UnfitError, OSError, EOFError, ValueError, MemoryError, pa.ArrowException) as error:
        why = f"is not a readable Parquet file ({first_line(error)})"
        why = str(error) if isinstance(error, UnfitError) else why
        raise InputError(f"{path} {why}; copy it again whole") from error


def names_of(path: Path, table: pq.ParquetFile, floats: tuple[str, ...], remedy: str) -> list[str]:
    """Return the names of the columns, all of which have whole numbers, but for some that may have others.

    Args:
        path: for what is said of them.
        table: the file.
        floats: names of columns of any numbers.
        remedy: what to do about another.

    Raises:
        InputError: there are too many, or one has something else.
    """
    import pyarrow as pa

    schema = table.schema_arrow
    if len(schema.names) > _COLUMNS_MAX:
        raise InputError(f"{path} has {len(schema.names):,} columns; {remedy}")
    for at, name in enumerate(schema.names):
        kind = schema.field(at).type
        if not (pa.types.is_integer(kind) or (name in floats and pa.types.is_float64(kind))):
            raise InputError(
                f"{path}: the column {name[:40]} has values of type {kind}, not whole numbers; {remedy}"
            )
    return list(schema.names)


def batches_of(table: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Yield the rows, some ten thousand at a time; what a row group takes was held against the memory before.

    Raises:
        UnfitError: one takes too much.
        OSError, ValueError, pa.ArrowException: the file is damaged.
    """
    for group in range(table.metadata.num_row_groups):
        check_room(table.metadata.row_group(group).total_byte_size)
    for batch in table.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
        batch.validate(full=True)
        yield batch


def numbers_of(path: Path, name: str, column: pa.Array, unit: int, remedy: str) -> NDArray[np.int64]:
    """Return int64[n], the numbers of a column, times their unit.

    Raises:
        InputError: one is missing, or too large for its unit.
    """
    import pyarrow as pa

    if column.null_count:
        raise InputError(f"{path}: a value of the column {name} is missing; {remedy}")
    numbers: NDArray[Any] = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    if unit > 1 and len(numbers) and (int(numbers.max()) >= _SCALE_MAX or int(numbers.min()) < 0):
        raise InputError(f"{path}: a value of the column {name} is out of range; record it again")
    return numbers * unit if unit > 1 else numbers
