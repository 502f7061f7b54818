"""Memory that is on a disk: a file without a name, mapped, for what is larger than memory and rarely touched.

Its blocks are reserved when it is made, so a disk that fills up later takes nothing from it: to write to a
page for which the file system has no block would end the process (SIGBUS; mmap(2)). A file system that
copies on write is asked not to, and may want a block all the same: btrfs where a snapshot has the file, ZFS
always. Nobody but this process has it (:func:`gpuscan.files.scratch.unnamed_file`). What is in it is lost
with the process: it is memory.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import DeviceError, InputError, RunFailedError
from gpuscan.base.memory import available_bytes
from gpuscan.base.units import format_bytes
from gpuscan.files.owned import let_go, opened
from gpuscan.files.scratch import unnamed_file

_PIECE_BYTES = 1 << 30
"""Reserved at once. Where the file system reserves nothing by itself, the C library writes to every block
(posix_fallocate(3)), so that a TiB takes minutes: between two pieces it is told how far that is."""
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
"""File systems whose files are memory."""
_GET_FLAGS, _SET_FLAGS, _NO_COPY_ON_WRITE = 0x8008_6601, 0x4008_6602, 0x0080_0000
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_NOCOW_FL (linux/fs.h); elsewhere a refusal, which nobody minds."""
_ANOTHER = "give a directory on another one"
_REMEDIES = {
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or give a directory on a file system that has "
    "larger files",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this host (fs.file-max)",
    errno.EROFS: f"its file system is read-only; {_ANOTHER}",
    errno.EIO: f"its disk has an error; {_ANOTHER}",
    errno.ENODEV: f"its file system has no mapped files; {_ANOTHER}",
    errno.ENOMEM: "close something else that takes memory",
}
"""What to do where a file cannot be made, by error number."""


class DiskMemory:
    """Zeros on a disk, mapped as memory; see :func:`disk_memory`.

    Attributes:
        array: uint8[n_bytes], writable; it begins a page. Whoever has it, or a view of it, has the memory,
            after :meth:`close` too.
    """

    def __init__(self, directory: Path, file: _File, n_bytes: int) -> None:
        """Map ``n_bytes`` of a file.

        Raises:
            OSError: it cannot be mapped.
        """
        mapped = mmap.mmap(file.handle, n_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        mapped.madvise(mmap.MADV_RANDOM)  # a page that is touched says nothing of its neighbours
        self.array: NDArray[np.uint8] = np.frombuffer(mapped, dtype=np.uint8)
        self._directory = directory
        self._file = file
        self._n_bytes = n_bytes
        self._pid = os.getpid()

    def check(self) -> None:
        """Refuse to work on a file that somebody cut short: to touch what is not there ends the process.

        Raises:
            RunFailedError: somebody did, through /proc/PID/fd: the file has no name. Or this process was
                forked from the one that made it.
        """
        if os.getpid() != self._pid:
            raise RunFailedError(
                f"the records in {self._directory} are those of process {self._pid}, which this one was "
                "forked from: they are shared and their index is not, so what is claimed here is lost there; "
                "open a store in this process"
            )
        n_bytes = os.fstat(self._file.handle).st_size
        if n_bytes < self._n_bytes:
            raise RunFailedError(
                f"the file in {self._directory} that is {format_bytes(self._n_bytes)} of this process's "
                f"memory was cut to {format_bytes(n_bytes)}, so what was in it is lost; begin again"
            )

    def close(self) -> None:
        """Let go of the file. Idempotent; it is not used afterwards."""
        self._file.close()
        self.array = np.empty(0, dtype=np.uint8)


class _File:
    """The one owner of a file's handle: it is closed once, whoever is interrupted where.

    Attributes:
        handle: of it, -1 once it is closed.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._let_go = weakref.finalize(self, let_go, handle)

    def close(self) -> None:
        self.handle = -1  # its number may be another file's from now on
        self._let_go()


def disk_memory(directory: Path, n_bytes: int, on_reserved: Callable[[int], Any] | None = None) -> DiskMemory:
    """Make memory on a disk.

    Args:
        directory: on whose file system it is.
        n_bytes: how much, more than 0.
        on_reserved: called with how many bytes were reserved since the last call.

    Raises:
        DeviceError: the file system has no room for it, or the process no addresses; nothing was reserved,
            or nothing is left of it.
        InputError: it cannot be there.
    """
    try:
        with opened(directory) as parent:
            _check_room(directory, parent, n_bytes)
        file = _File(unnamed_file("memory", directory))
        try:
            _copy_nothing_on_write(file.handle)
            for begin in range(0, n_bytes, _PIECE_BYTES):
                piece_bytes = min(_PIECE_BYTES, n_bytes - begin)
                os.posix_fallocate(file.handle, begin, piece_bytes)
                if on_reserved is not None:
                    on_reserved(piece_bytes)
            return _mapped(directory, file, n_bytes)
        except BaseException:  # KeyboardInterrupt too
            file.close()
            raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_room(directory, n_bytes, "it filled up meanwhile; make room") from None
        if error.errno == errno.EDQUOT:
            raise _no_room(directory, n_bytes, "and the quota there is used up; have it raised") from None
        said = os.strerror(error.errno or 0)
        remedy = _REMEDIES.get(error.errno or 0, "give a directory that this process may write to")
        raise InputError(f"no memory can be kept in {directory}: {said}; {remedy}") from error


def _check_room(directory: Path, parent: int, n_bytes: int) -> None:
    """Refuse what the file system of a directory, whose handle ``parent`` is, has no room for.

    Raises:
        DeviceError: it has none.
    """
    found = os.fstatvfs(parent)
    free_bytes = found.f_bavail * found.f_frsize
    if found.f_blocks and free_bytes < n_bytes:  # some count no blocks: ramfs
        raise _no_room(directory, n_bytes, f"{format_bytes(free_bytes)} are free; make room")
    kind = _file_system(parent)
    available = available_bytes()
    if kind in _IN_MEMORY and available < n_bytes:
        raise DeviceError(
            f"{format_bytes(n_bytes)} are needed in {directory}, which is memory ({kind}), "
            f"{format_bytes(available)} are available; give a directory on a disk"
        )


def _file_system(handle: int) -> str:
    """Return what kind of file system a file is on, by the table of mounts; empty where that does not say."""
    device = os.fstat(handle).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")  # proc_pid_mountinfo(5)
        if before.split()[2] == number:
            return after.split()[0]
    return ""


def _copy_nothing_on_write(handle: int) -> None:
    """Have a file that is still empty written in place, where its file system would copy (chattr(1), +C)."""
    with suppress(OSError):
        (flags,) = struct.unpack("I", fcntl.ioctl(handle, _GET_FLAGS, struct.pack("I", 0)))
        fcntl.ioctl(handle, _SET_FLAGS, struct.pack("I", flags | _NO_COPY_ON_WRITE))


def _mapped(directory: Path, file: _File, n_bytes: int) -> DiskMemory:
    try:
        return DiskMemory(directory, file, n_bytes)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise DeviceError(
            f"{format_bytes(n_bytes)} of a file cannot be mapped ({os.strerror(error.errno)}); raise "
            "the limit of the address space (ulimit -v)"
        ) from error


def _no_room(directory: Path, n_bytes: int, why: str) -> DeviceError:
    return DeviceError(
        f"{format_bytes(n_bytes)} are needed on the file system of {directory}, {why}, or {_ANOTHER}"
    )
