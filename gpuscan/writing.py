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


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` (see :func:`json_text`) to ``path``: whole, or not at all.

    Raises:
        RunFailedError: it cannot be written; an older file at ``path`` is untouched.
    """
    beside = _beside(path)
    try:
        beside.write_text(json_text(document) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
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
        InputError: ``path`` is something else, before anything is written.
        RunFailedError: the system refused a write (a full disk); nothing new is left behind.
    """
    path = path.absolute()
    check_replaceable(path, marker=marker, force=force)
    beside = _beside(path)
    replaced = _beside(path, "old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        yield beside
        if path.exists():
            path.rename(replaced)
        beside.rename(path)
    except OSError as error:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def check_replaceable(path: Path, *, marker: str, force: bool = False) -> None:
    """Refuse a ``path`` that :func:`new_directory` would refuse: asked before a long run, not after it."""
    if not path.exists() or (force and path.is_dir()):
        return
    if not path.is_dir():
        raise InputError(f"{path} is not a directory; give another --out")
    if any(path.iterdir()) and not (path / marker).is_file():
        raise InputError(
            f"{path} has files that gpuscan did not write; give another --out, or --force to replace them"
        )


def _beside(path: Path, label: str = "tmp") -> Path:
    return path.with_name(f"{path.name}.{label}-{os.getpid()}")


def _cannot_write(path: Path, error: OSError) -> RunFailedError:
    return RunFailedError(
        f"cannot write {path}: {error.strerror or error}, so nothing was left there; make room or give another place"
    )
