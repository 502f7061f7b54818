"""The one writer: files and directories that appear whole or not at all.

What becomes NAME is filled as ``new`` in a directory ``NAME.gpuscan-...`` beside it, which carries a mark and
which nobody else may look into (``owned``); then it is synced and takes its name in one step. An
earlier result changes places with it (renameat2(2), RENAME_EXCHANGE), so that there is one by that name at
every moment; where the file system cannot do that it is ``old`` in there for a moment. What a killed process
left is swept by the next one that writes to the same name, and an earlier result that it had put aside comes
back.

Nothing else in gpuscan opens a file for writing, renames or removes (``tests/files/test_one_writer.py``).
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import hashlib
import json
import math
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.files.owned import Temporary, abandoned, let_go, note_left, opened
from gpuscan.files.replacing import why_not_ours_to_replace

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


class _OtherError(Exception):
    """An OSError on its way through :func:`writing_to`, of something else."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def not_of_this() -> Iterator[None]:
    """Let an OSError of the block be itself outside of the :func:`writing_to` around it.

    For what is done while a result is being written and is no write of it: what a terminal refuses is none.
    """
    try:
        yield
    except OSError as error:
        raise _OtherError(error) from error


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn what the system says against a write inside the block into one sentence about ``path``.

    Raises:
        RunFailedError: an OSError was met, a full disk for example.
    """
    try:
        yield
    except _OtherError as other:
        raise other.error from None
    except OSError as error:
        # By number where there is one: pyarrow wraps the system's own words in its own.
        said = os.strerror(error.errno) if error.errno else str(error)
        raise RunFailedError(
            f"cannot write {path}: {said}, so nothing was left there; make room or give another place"
        ) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` (see :func:`json_text`) to ``path``: whole, or not at all, like :func:`new_file`."""
    write_file(path, json_text(document) + "\n")


def write_file(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path``: whole, or not at all, as :func:`new_file` does."""
    with new_file(path) as file:
        file.write(text.encode())


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to fill; it takes the name ``path`` when the block ends well, else nothing is left of it.

    Raises:
        InputError: something other than a file has that name.
        RunFailedError: an OSError was met, in the block too; an older file at ``path`` is untouched.
    """
    path = path.absolute()
    with writing_to(path):
        _check_regular(path)
        with _beside(path) as (parent, place):
            with _created("new", place) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _check_same(path, parent)
            os.rename("new", path.name, src_dir_fd=place, dst_dir_fd=parent)
            _sync_name(path, parent)


def check_file(path: Path) -> None:
    """Refuse a name that :func:`new_file` would not give to a file: asked before a long job, not after it.

    Raises:
        InputError: something other than a file has it (a link, a device), its directory is not there, or this
            process may not write there, or not replace what has the name.
    """
    path = path.absolute()
    _check_regular(path)
    _check_writable(path)
    _check_ours(path)


def _check_regular(path: Path) -> None:
    _check_parent(path)
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise InputError(f"{path} is {_kind_of(path)}, not a file; give another place")


def create(path: Path) -> BinaryIO:
    """Open a new file in a directory that is being filled (:func:`new_directory`, ``scratch``).

    Raises:
        OSError: it is there, or the system refused it.
    """
    return os.fdopen(os.open(path, _CREATE, 0o666), "wb")


def create_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` (see :func:`json_text`) to a new file, as :func:`create` opens it."""
    with create(path) as file:
        file.write(f"{json_text(document)}\n".encode())


def copy(old: Path, new: Path) -> None:
    """Copy a file to a new one in a directory that is being filled.

    Raises:
        OSError: the new one is there, or the system refused it.
    """
    with old.open("rb") as source, create(new) as target:
        while piece := source.read(_PIECE_BYTES):
            target.write(piece)


def open_kept(path: Path) -> int:
    """Open a file of ours that stays and changes (a log, a lock), made empty where it is not there.

    Returns:
        A handle to read and write, which the caller closes.

    Raises:
        InputError: a link, a FIFO or a file with a second name was put there: it may be anybody's.
        OSError: the system refused it.
    """
    handle = -1
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        found = os.fstat(handle)
    except OSError as error:
        if handle >= 0:
            let_go(handle)
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
    else:
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return handle
        let_go(handle)
    raise InputError(f"{path} is {_kind_of(path)}, and gpuscan did not make it; give another place")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a directory of results of one kind holds, by which it is known again.

    Attributes:
        marker: name of a file that every one has.
        others: patterns (fnmatch) of what else may be in one.
    """

    marker: str
    others: tuple[str, ...]

    def foreign(self, path: Path) -> list[str]:
        """Return the names in a directory that none of this kind has."""
        patterns = (self.marker, *self.others)
        return sorted(
            entry.name
            for entry in path.iterdir()
            if not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns)
        )


def check_place(path: Path, contents: Contents, *, force: bool = False) -> None:
    """Refuse a place that :func:`new_directory` would refuse: asked before a long job, not after it.

    Args:
        path: where the directory shall be.
        contents: what one of this kind holds.
        force: replace an earlier one.

    Raises:
        InputError: its parent is not there or cannot be written, it is not a directory, it holds an
            earlier result and ``force`` is not set, or it holds something else; nothing was touched.
    """
    path = path.absolute()
    _check_writable(path)
    _check_replaceable(path, contents, force=force)


def _check_writable(path: Path) -> None:
    _check_parent(path)
    try:
        with opened(path.parent) as parent:
            Temporary.make(_stem(path), parent).remove()
    except OSError as error:
        if error.errno not in _FULL:
            said = os.strerror(error.errno or 0)
            raise InputError(f"cannot write {path}: {said}; give another place") from error


def _check_ours(path: Path) -> None:
    """Refuse what has a name where this process may not take that from it."""
    why = why_not_ours_to_replace(path)
    if why:
        raise InputError(f"{path} cannot be replaced: {why}; give another place")


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(f"the directory {path.parent} is not there; make it, or give another place")


def _check_same(path: Path, parent: int) -> None:
    """Refuse to give a name in a directory that another took the place of: it would be found in neither."""
    try:
        is_same = os.path.samestat(os.fstat(parent), path.parent.stat())
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise RunFailedError(f"{path.parent} is another directory than before, so nothing was written there")


def _check_replaceable(path: Path, contents: Contents, *, force: bool) -> None:
    """Refuse to replace what is at ``path``, unless nothing is, or what gpuscan wrote and may replace."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise InputError(f"{path} is {_kind_of(path)}, not a directory; give another place")
    _check_ours(path)  # and so it may be looked into
    if not any(path.iterdir()):
        return
    if not stat.S_ISREG(_mode_of(path / contents.marker)):
        raise InputError(f"{path} holds files that gpuscan did not write; give another place")
    foreign = contents.foreign(path)
    if foreign:
        raise InputError(f"{path} holds {foreign[0]}, which gpuscan did not write; give another place")
    if not force:
        raise InputError(f"{path} holds an earlier result; give another place, or --force to replace it")


_FULL = (errno.ENOSPC, errno.EDQUOT)
"""A full disk may have room again by the end of the job."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES = 1 << 20


@contextmanager
def new_directory(path: Path, contents: Contents, *, force: bool = True) -> Iterator[Path]:
    """Yield a directory to fill; it takes the name ``path`` when the block ends well, else it is removed.

    What is yielded names the directory by this process's handle of it, so that it is the same one whatever
    becomes of names meanwhile.

    Args:
        path: where the directory shall be; its parent must be there.
        contents: what the block writes; a directory at ``path`` that holds such is an earlier result, an
            empty one is as good as none.
        force: replace an earlier result.

    Raises:
        InputError: as :func:`check_place`; nothing was touched.
        RunFailedError: an OSError was met, in the block too, or something came to ``path`` meanwhile; nothing
            new is left behind.
    """
    path = path.absolute()
    _check_writable(path)
    with writing_to(path), _beside(path) as (parent, place):
        _check_replaceable(path, contents, force=force)
        os.mkdir("new", dir_fd=place)
        new = os.open("new", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        try:
            directory = Path(f"/proc/self/fd/{new}")
            yield directory
            sync(directory)
        finally:
            let_go(new)
        _check_same(path, parent)
        try:
            _check_replaceable(path, contents, force=True)
        except InputError as error:
            raise RunFailedError(f"something came there meanwhile, so nothing was written: {error}") from None
        _take_name(path, parent, place)
        _sync_name(path, parent)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[int, int]]:
    """Yield handles of the directory of ``path`` and of one beside it, ours, which is removed at the end."""
    with opened(path.parent) as parent:
        _sweep(path, parent)
        temporary = Temporary.make(_stem(path), parent)
        try:
            place = temporary.open()
            try:
                yield parent, place
            finally:
                let_go(place)
        finally:
            why = temporary.remove()
            if why:
                note_left(path.parent, [f"{temporary.name} ({why}; the next one to write {path.name} will)"])


@contextmanager
def _created(name: str, dir_fd: int) -> Iterator[BinaryIO]:
    with os.fdopen(os.open(name, _CREATE, 0o666, dir_fd=dir_fd), "wb") as file:
        yield file


def _take_name(path: Path, parent: int, place: int) -> None:
    """Let ``new`` be what ``path`` names, and what that was be in ``place``."""
    if not os.path.lexists(path):
        os.rename("new", path.name, src_dir_fd=place, dst_dir_fd=parent)
        return
    if _exchange("new", place, path.name, parent):
        return
    try:
        os.rename(path.name, "old", src_dir_fd=parent, dst_dir_fd=place)
        os.rename("new", path.name, src_dir_fd=place, dst_dir_fd=parent)
    except BaseException:
        _bring_back(path, parent, place)
        raise


def _exchange(name: str, dir_fd: int, other: str, other_fd: int) -> bool:
    """Let two names change places at once; return whether this system and file system can."""
    call = getattr(_LIBC, "renameat2", None)
    while call is not None:
        if call(dir_fd, os.fsencode(name), other_fd, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return True
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return False


_LIBC = ctypes.CDLL(None, use_errno=True)
_RENAME_EXCHANGE = 2
"""include/uapi/linux/fs.h, v3.15; renameat2(2) says which file systems have it."""


def _bring_back(path: Path, parent: int, place: int) -> None:
    """Give an earlier result its name again that was put aside for a new one which did not take it."""
    if stat.S_ISDIR(_mode_of("old", place)) and not os.path.lexists(path):
        os.rename("old", path.name, src_dir_fd=place, dst_dir_fd=parent)


def _sweep(path: Path, parent: int) -> None:
    """Remove what killed writers of ``path`` left beside it; bring back what one had put aside."""
    left: list[str] = []
    for temporary in abandoned(_stem(path), parent, left):
        place = temporary.open()
        try:
            _bring_back(path, parent, place)
            is_aside = stat.S_ISDIR(_mode_of("old", place)) and stat.S_ISDIR(_mode_of("new", place))
        finally:
            let_go(place)
        if is_aside:  # something else took the name before its own successor did
            left.append(f"{temporary.name} (the earlier {path.name} is in it, as old)")
            continue
        why = temporary.remove()
        if why:
            left.append(f"{temporary.name} ({why})")
    note_left(path.parent, left)


def _stem(path: Path) -> str:
    """Return how names beside ``path`` begin; they have 70 bytes more, and a name has 255 at most."""
    name = os.fsencode(path.name)
    return f"{path.name if len(name) <= _NAME_BYTES else hashlib.sha256(name).hexdigest()}.gpuscan"


_NAME_BYTES = 160


def sync(directory: Path) -> None:
    """Bring a new directory to the disk. A file with more links than one was brought there before.

    Raises:
        OSError: the system refused it.
    """
    for path in [*directory.rglob("*"), directory]:
        if path.is_dir() or path.stat().st_nlink == 1:
            sync_path(path)


def sync_path(path: Path) -> None:
    """fsync(2) a file or a directory."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        let_go(handle)


def _sync_name(path: Path, parent: int) -> None:
    """Bring a name to the disk that was just given; what has it is whole before and after: no failure."""
    try:
        os.fsync(parent)
    except OSError as error:
        said = os.strerror(error.errno or 0)
        warnings.warn(f"{path} is written, and may be gone after a power cut ({said})", stacklevel=2)


def _mode_of(name: str | Path, dir_fd: int | None = None) -> int:
    """Return what kind of thing has a name, as st_mode; 0 if none has."""
    try:
        return os.lstat(name, dir_fd=dir_fd).st_mode
    except FileNotFoundError:
        return 0


def _kind_of(path: Path) -> str:
    mode = _mode_of(path)
    if stat.S_ISREG(mode):
        return "a file" if path.lstat().st_nlink == 1 else "a file with several names"
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO"}
    return kinds.get(stat.S_IFMT(mode), "a device or socket")
