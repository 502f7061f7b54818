"""Files that appear whole or not at all: written beside, then renamed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from gpuscan.errors import InputError, RunFailedError

SCHEMA = 1
"""Of every JSON document gpuscan prints or writes; goes up when readers of the old one would misread it."""


def json_text(document: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """Return ``document`` as JSON text with ``"schema"`` first, NumPy values as plain numbers and lists.

    NaN and infinities, which JSON does not have, become null.
    """
    plain = _plain({"schema": SCHEMA, **document})
    return json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # a NumPy array or scalar, without importing NumPy for --help
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn what the system says against a write inside the block into one sentence about ``path``.

    Raises:
        RunFailedError: an OSError was met, a full disk for example.
    """
    try:
        yield
    except OSError as error:
        raise RunFailedError(
            f"cannot write {path}: {error.strerror or error}, so nothing was left there; "
            "make room or give another place"
        ) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` (see :func:`json_text`) to ``path``: whole, or not at all.

    Raises:
        RunFailedError: it cannot be written; an older file at ``path`` is untouched.
    """
    beside = _beside(path, "tmp")
    try:
        with writing_to(path):
            beside.write_text(json_text(document) + "\n", encoding="utf-8")
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, *, marker: str, force: bool = False) -> Iterator[Path]:
    """Yield a directory to fill; it takes the name ``path`` when the block ends well, else it is removed.

    Args:
        path: where the directory shall be.
        marker: name of a file that the block writes; a directory at ``path`` that has
            one is an earlier result and is replaced, an empty one too.
        force: replace whatever directory is at ``path``.

    Raises:
        InputError: ``path`` is something else; nothing was touched.
        RunFailedError: an OSError was met, in the block too; nothing new is left behind.
    """
    path = path.absolute()
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is not a directory; give another place")
    if path.is_dir() and not force and any(path.iterdir()) and not (path / marker).is_file():
        raise InputError(f"{path} holds files that gpuscan did not write; give another place")
    beside, replaced = _beside(path, "tmp"), _beside(path, "old")
    try:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.mkdir()
            yield beside
            if path.exists():
                path.rename(replaced)
            beside.rename(path)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _beside(path: Path, label: str) -> Path:
    return path.with_name(f"{path.name}.{label}-{os.getpid()}")
