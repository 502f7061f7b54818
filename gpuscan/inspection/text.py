"""Looks at small files of text, to tell what they are."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpuscan.files.reading import (
    JSON_BYTES_MAX,
    TOML_BYTES_MAX,
    UnfitError,
    parse_json,
    parse_toml,
    read_file,
)
from gpuscan.traces.pieces import start_of
from gpuscan.traces.text import lines_of

_START_BYTES = 512


def lines_of_kernel(path: Path, on_read: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file of the kernel, or of a copy, with their numbers; the kernel's have no size.

    Raises:
        InputError: a line is too long, or the last one does not end.
        OSError: it cannot be read.
    """
    for first, text in lines_of(path, on_read):
        yield from enumerate(text.splitlines(), first)


def begins_with(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Whether a file begins with a pattern.

    Raises:
        OSError: it cannot be read.
        UnfitError: it is no file.
    """
    return pattern.match(start_of(path, _START_BYTES)) is not None


def toml_of(path: Path) -> dict[str, Any]:
    """Return the table that a file of TOML says.

    Raises:
        UnfitError: it is none.
        OSError: it cannot be read.
    """
    try:
        return parse_toml(read_file(path, TOML_BYTES_MAX).decode())
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise UnfitError("is no TOML") from error


def json_of(path: Path) -> dict[str, Any]:
    """Return the table that a file of JSON says.

    Raises:
        UnfitError: it is none.
        OSError: it cannot be read.
    """
    found = parse_json(read_file(path, JSON_BYTES_MAX))
    if not isinstance(found, dict):
        raise UnfitError("is no table of JSON")
    return found


def rows_command(path: Path) -> tuple[str, str]:
    """Return the command that shows the rows of a table in Parquet, and what it does."""
    code = f"import polars; print(polars.read_parquet({str(path)!r}))"
    return f"python -c {shlex.quote(code)}", "shows its rows"
