"""Tables as Parquet files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError, check_room, first_line, open_file
from gpuscan.files.writing import create

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_FOOTER_BYTES_MAX = 64 << 20
_FOOTER_ITEMS_MAX = 1 << 20
"""Of Thrift lists: row groups and their columns."""
_GROUP_ROWS = 1 << 16
"""Of a file that is written some rows at a time: what wrote them in other pieces wrote the same."""
_DIGITS_MAX = 9
_MAGIC = b"PAR1"


def create_table(path: Path, table: pa.Table, compression: str = "zstd") -> None:
    """Write a table to a new file, as :func:`gpuscan.files.writing.create` opens it.

    Raises:
        OSError: the system refused it.
    """
    content = table_content(table, compression=compression)
    with create(path) as file:
        file.write(content)


def table_content(table: pa.Table, **options: Any) -> pa.Buffer:
    """Return a table as the content of a Parquet file; ``options`` are those of pyarrow's ``write_table()``.

    It is made in memory: a writer of pyarrow's that could not write tries again when it is collected, and
    complains on stderr (``ParquetWriter.__del__``, pyarrow 18 to 26).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.BufferOutputStream()
    pq.write_table(table, made, **options)
    return made.getvalue()


class ParquetRows:
    """Writes columns to a file that is open, some rows at a time, in row groups of one size. Close it.

    Args:
        file: as :func:`gpuscan.files.writing.new_file` gives it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._n_held = 0

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
        self._held.append(table)
        self._n_held += len(table)
        if self._n_held >= _GROUP_ROWS:
            self._write(_GROUP_ROWS)

    def end(self, name: str, text: str) -> None:
        """Say something of what was written, one column at least, and bring the file to its end.

        Raises:
            OSError: the system refused it.
        """
        assert self._writer is not None
        self._write(1)
        self._writer.add_key_value_metadata({name: text})
        self._writer.close()
        self._writer = None

    def _write(self, n_rows_min: int) -> None:
        """Write what is held, group by group, as long as it has so many rows."""
        import pyarrow as pa

        assert self._writer is not None
        table = pa.concat_tables(self._held)
        while len(table) >= n_rows_min:
            self._writer.write_table(table.slice(0, _GROUP_ROWS))
            table = table.slice(_GROUP_ROWS)
        self._held, self._n_held = [table], len(table)

    def close(self) -> None:
        """Give up what has not come to its end."""
        if self._writer is not None:
            with suppress(Exception):  # else it tries again when it is collected, and complains
                self._writer.close()


def read_table(path: Path, columns: pa.Schema | None, row_bytes: int, what: str) -> pa.Table:
    """Return the rows of a Parquet file that gpuscan wrote; its schema has the file's metadata.

    What the file says of itself is looked at first: its columns, and how many rows they have. The decoding is
    Arrow's, which reads through one door: what its metadata objects say of columns can end the process
    (an exception where none is caught, Arrow 26). docs/files.md has what that leaves.

    Args:
        path: the file.
        columns: all that it has; None: any numbers and texts.
        row_bytes: of all columns, at most.
        what: it should be: ``plan`` for a plan.parquet.

    Raises:
        InputError: it is not one, is cut short, or larger than memory allows.
    """
    import pyarrow as pa

    foreign = f"{path} was not written by gpuscan; give a {what}.parquet of gpuscan"
    try:
        with (
            os.fdopen(open_file(path), "rb") as file,
            footer_of(file) as parquet,
        ):
            schema, n_rows = parquet.schema_arrow, parquet.metadata.num_rows
            if columns is not None and not schema.remove_metadata().equals(columns):
                raise InputError(foreign)
            check_room(n_rows * row_bytes)
            table = parquet.read(use_threads=False)
            table.validate(full=True)
    except (UnfitError, OSError, EOFError, ValueError, MemoryError, pa.ArrowException) as error:
        why = f"is not a readable {what} file ({first_line(error)})"
        why = str(error) if isinstance(error, UnfitError) else why
        raise InputError(f"{path} {why}; give a {what}.parquet of gpuscan") from error
    if len(table) != n_rows:
        raise InputError(foreign)
    return table


def has_columns(path: Path, columns: pa.Schema) -> bool:
    """Whether a file looks like a Parquet file of these columns; reading it will tell whether it is whole.

    Raises:
        OSError: it cannot be opened.
        UnfitError: it is no regular file.
    """
    found = footer(path)
    return found is not None and bool(found[0].remove_metadata().equals(columns))


def footer(path: Path) -> tuple[pa.Schema, int] | None:
    """Return the columns of a Parquet file and how many rows it says that it has; None if it is none.

    Raises:
        OSError: it cannot be opened.
        UnfitError: it is no regular file.
    """
    import pyarrow as pa

    with os.fdopen(open_file(path), "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return None
        try:
            with footer_of(file) as parquet:
                return parquet.schema_arrow, parquet.metadata.num_rows
        except (OSError, EOFError, ValueError, MemoryError, pa.ArrowException):
            return None


def footer_of(file: BinaryIO) -> pq.ParquetFile:
    """Return an open Parquet file, of whose footer no more is taken in than such a file may have."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(
        file,
        thrift_string_size_limit=_FOOTER_BYTES_MAX,
        thrift_container_size_limit=_FOOTER_ITEMS_MAX,
    )


def check_schema(path: Path, metadata: dict[bytes, bytes], newest: int, what: str) -> None:
    """Refuse a file whose ``gpuscan.schema`` is newer than what this gpuscan reads, or is none.

    Raises:
        InputError: so it is.
    """
    version = metadata.get(b"gpuscan.schema", b"")
    if not version.isdigit() or len(version) > _DIGITS_MAX:
        raise InputError(f"{path} was not written by gpuscan; give a {what}.parquet of gpuscan")
    if int(version) > newest:
        raise InputError(
            f"{path} has schema {int(version)}, and this gpuscan reads up to {newest}; install a newer one"
        )
