"""Directories and files for what a process needs while it runs; gone at the end, whatever ends it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.files.owned import Temporary, abandoned, let_go, note_left, opened


@contextmanager
def scratch_directory(purpose: str) -> Iterator[Path]:
    """Yield a directory of ours among the temporary files, which only this user may look into.

    It is removed when the block ends; what a killed process left of this purpose is removed when it begins.

    Args:
        purpose: part of its name.

    Raises:
        RunFailedError: it cannot be made.
    """
    parent, stem = Path(tempfile.gettempdir()).absolute(), f"gpuscan-{purpose}"
    with opened(parent) as handle:
        try:
            sweep_scratch(purpose, parent, handle)
            temporary = Temporary.make(stem, handle)
        except OSError as error:
            raise RunFailedError(
                f"cannot make a temporary directory in {parent}: {error.strerror}; make room, or set TMPDIR"
            ) from error
        try:
            yield parent / temporary.name
        finally:
            why = temporary.remove()
            if why:
                note_left(parent, [f"{temporary.name} ({why})"])


def unnamed_file(purpose: str, parent: Path) -> int:
    """Return a handle, to read and write, of a new file that no directory names.

    So nobody else finds it, cuts it short or puts another in its place, and it is gone with the process.
    Where the file system makes none without a name, it loses its name at once; a process that is killed
    before leaves an empty file, in a directory of ours that is swept as those of :func:`scratch_directory`.

    Args:
        purpose: part of the directory's name.
        parent: the directory on whose file system it is.

    Raises:
        InputError: the file system keeps names of open files.
        OSError: it cannot be made; nothing is left of it, but for what could not be removed and is named.
    """
    with opened(parent) as handle:
        sweep_scratch(purpose, parent, handle)
        try:
            return os.open(".", _NEVER_NAMED, 0o600, dir_fd=handle)
        except OSError as error:
            if error.errno not in _NONE_WITHOUT_A_NAME:
                raise
        return _no_longer_named(purpose, parent, handle)


def _no_longer_named(purpose: str, parent: Path, handle: int) -> int:
    temporary = Temporary.make(f"gpuscan-{purpose}", handle)
    made = -1
    try:
        place = temporary.open()
        try:
            made = os.open(purpose, _NAMED, 0o600, dir_fd=place)
        finally:
            let_go(place)
        if not temporary.remove():
            return made
        raise InputError(
            f"the file system of {parent} keeps names of open files, as NFS and some of FUSE do, so a file "
            "there can be found and cut by others; give a directory on another one"
        )
    except BaseException:  # KeyboardInterrupt too
        let_go(made)  # with it goes the name that was kept
        why = temporary.remove()
        if why:
            note_left(parent, [f"{temporary.name} ({why})"])
        raise


_NEVER_NAMED = os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
"""O_EXCL: nor does it get one (linkat(2))."""
_NAMED = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NONE_WITHOUT_A_NAME = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)
"""What file systems, and kernels, without O_TMPFILE answer (open(2))."""


def sweep_scratch(purpose: str, parent: Path, handle: int) -> None:
    """Remove what processes left that were killed; name what is called like that and is not ours."""
    left: list[str] = []
    for temporary in abandoned(f"gpuscan-{purpose}", handle, left):
        why = temporary.remove()
        if why:
            left.append(f"{temporary.name} ({why})")
    note_left(parent, left)
