"""Files that appear whole or not at all: written beside, then renamed.

A result is written as ``NAME.tmp-PID`` and takes its name at the end; an earlier one is
``NAME.old-PID`` for that moment. What a killed process left of these is swept by the
next one that writes to the same name.
"""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
        # By number where there is one: pyarrow wraps the system's own words in its own.
        said = os.strerror(error.errno) if error.errno else str(error)
        raise RunFailedError(
            f"cannot write {path}: {said}, so nothing was left there; make room or give another place"
        ) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` (see :func:`json_text`) to ``path``: whole, or not at all.

    Raises:
        RunFailedError: it cannot be written; an older file at ``path`` is untouched.
    """
    _sweep(path)
    beside = _beside(path, "tmp")
    try:
        with writing_to(path):
            beside.write_text(json_text(document) + "\n", encoding="utf-8")
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_place(path: Path, *, marker: str, force: bool = False) -> None:
    """Refuse a place that :func:`new_directory` would refuse: asked before a long job, not after it.

    Args:
        path: where the directory shall be.
        marker: name of a file that a directory of this kind has.
        force: replace an earlier one.

    Raises:
        InputError: its parent is not there or cannot be written, it is not a directory, it holds an
            earlier result and ``force`` is not set, or it holds something else; nothing was touched.
    """
    path = path.absolute()
    if not path.parent.is_dir():
        raise InputError(f"the directory {path.parent} is not there; make it, or give another place")
    trial = _beside(path, "tmp")
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        if error.errno not in _FULL:
            said = os.strerror(error.errno or 0)
            raise InputError(f"cannot write {path}: {said}; give another place") from error
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path} is not a directory; give another place")
    if not any(path.iterdir()):
        return
    if not (path / marker).is_file():
        raise InputError(f"{path} holds files that gpuscan did not write; give another place")
    if not force:
        raise InputError(f"{path} holds an earlier result; give another place, or --force to replace it")


_FULL = (errno.ENOSPC, errno.EDQUOT)
"""A full disk may have room again by the end of the job."""


@contextmanager
def new_directory(path: Path, *, marker: str, force: bool = True) -> Iterator[Path]:
    """Yield a directory to fill; it takes the name ``path`` when the block ends well, else it is removed.

    Args:
        path: where the directory shall be; its parent must be there.
        marker: name of a file that the block writes; a directory at ``path`` that has
            one is an earlier result, an empty one is as good as none.
        force: replace an earlier result.

    Raises:
        InputError: as :func:`check_place`; nothing was touched.
        RunFailedError: an OSError was met, in the block too; nothing new is left behind.
    """
    path = path.absolute()
    _sweep(path)
    check_place(path, marker=marker, force=force)
    beside, replaced = _beside(path, "tmp"), _beside(path, "old")
    try:
        with writing_to(path):
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


def _sweep(path: Path) -> None:
    """Remove what killed writers of ``path`` left beside it; bring back what one had put aside."""
    if not path.parent.is_dir():
        return
    for entry in sorted(path.parent.glob(f"{glob.escape(path.name)}.*-*")):
        found = re.fullmatch(r"(tmp|old)-([0-9]{1,10})", entry.name[len(path.name) + 1 :])
        if found is None or _is_alive(int(found[2])):
            continue
        with suppress(OSError):  # somebody else's; it is in nobody's way
            if found[1] == "old" and not path.exists():
                entry.rename(path)
            elif entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not ours to signal, so it is there
        return True
    return True
