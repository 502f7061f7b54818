"""Tables as Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gpuscan.files.writing import create

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


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


class ParquetRows:
    """Writes columns to a file that is open, some rows at a time. Close it.

    Args:
        file: as :func:`gpuscan.files.writing.new_file` gives it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer: pq.ParquetWriter | None = None

    def rows(self, columns: Mapping[str, Any]) -> None:
        """Append rows, by column; all have the names and types of the first.

        Raises:
            OSError: the system refused it.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(dict(columns))
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, table.schema, compression="zstd")
        if len(table):
            self._writer.write_table(table)

    def end(self, name: str, text: str) -> None:
        """Say something of what was written, one column at least, and bring the file to its end.

        Raises:
            OSError: the system refused it.
        """
        assert self._writer is not None
        self._writer.add_key_value_metadata({name: text})
        self._writer.close()
        self._writer = None

    def close(self) -> None:
        """Give up what has not come to its end."""
        if self._writer is not None:
            with suppress(Exception):  # else it tries again when it is collected, and complains
                self._writer.close()
