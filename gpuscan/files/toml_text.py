"""A TOML file that a person wrote: what is wrong with it is said in one sentence, with the place."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.files.reading import TOML_BYTES_MAX, UnfitError, parse_toml, read_file, toml_place


def read_toml_text(path: Path, kind: str, remedy: str) -> str:
    """Return the text of a TOML file.

    Args:
        path: of it.
        kind: what it is, such as ``workload``.
        remedy: what to do where it cannot be read.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return read_file(path, TOML_BYTES_MAX).decode()
    except OSError as error:
        raise InputError(f"cannot read the {kind} {path}: {error.strerror}; {remedy}") from error
    except UnfitError as error:
        raise InputError(f"the {kind} {path} {error}; {remedy}") from error
    except ValueError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); a {kind} is a TOML file") from error


def parse_toml_text(where: str, text: str) -> dict[str, Any]:
    """Return the table that TOML text says.

    Args:
        where: what to call the place in a complaint.
        text: of a file.

    Raises:
        InputError: it is no TOML.
    """
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        place, message = toml_place(error)
        raise InputError(f"{where}{place}: {message}; fix the TOML there") from error
    except ValueError as error:  # a number of 5000 digits; lists in lists in lists
        raise InputError(f"{where}: TOML that cannot be read ({error}); simplify it") from error
