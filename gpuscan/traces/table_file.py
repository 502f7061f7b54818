"""Tables that are written some rows at a time: Parquet or CSV, by the name of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from gpuscan.base.errors import InputError
from gpuscan.files.parquet import ParquetRows

SUFFIXES = (".parquet", ".csv")


def check_suffix(out: Path) -> None:
    """Refuse a name that does not say what is to be written.

    Raises:
        InputError: it has another suffix than :data:`SUFFIXES`.
    """
    if out.suffix not in SUFFIXES:
        raise InputError(f"{out} ends in neither {' nor '.join(SUFFIXES)}; give a name that does")


def table_writer(out: Path, file: BinaryIO) -> ParquetRows | CsvRows:
    """Return what writes rows to a file that is open, in the form that its name says; close it."""
    return ParquetRows(file) if out.suffix == ".parquet" else CsvRows(file)


class CsvRows:
    """Writes rows as text; what is said of them stands behind them, in a comment."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._has_heading = file, False

    def rows(self, columns: dict[str, Any]) -> None:
        """Append rows, by column; all have the names of the first."""
        if not self._has_heading:
            self._file.write(f"{','.join(columns)}\n".encode())
            self._has_heading = True
        cells = [map(repr if name == "share" else str, column.tolist()) for name, column in columns.items()]
        self._file.write("".join(f"{','.join(row)}\n" for row in zip(*cells, strict=True)).encode())

    def end(self, name: str, text: str) -> None:
        """Say something of what was written."""
        self._file.write(f"# {text}\n".encode())

    def close(self) -> None:
        """Nothing is held back."""
