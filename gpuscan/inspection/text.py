"""Looks at small files of text, to tell what they are."""

from __future__ import annotations

import tomllib
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
