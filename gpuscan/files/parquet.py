"""Tables as Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpuscan.files.writing import create

if TYPE_CHECKING:
    import pyarrow as pa


def create_table(path: Path, table: pa.Table, compression: str = "zstd") -> None:
    """Write a table to a new file, as :func:`gpuscan.files.writing.create` opens it.

    It is made in memory first: a writer of pyarrow's that could not write tries again when it is collected,
    and complains on stderr (``ParquetWriter.__del__``, pyarrow 18 to 26).

    Raises:
        OSError: the system refused it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.BufferOutputStream()
    pq.write_table(table, made, compression=compression)
    with create(path) as file:
        file.write(made.getvalue())
