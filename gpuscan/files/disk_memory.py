"""Memory that is on a disk: a file without a name, mapped, for what is larger than memory and rarely touched.

Its blocks are reserved when it is made, so a disk that fills up later takes nothing from it: to write to a
page for which the file system has no block would end the process (SIGBUS; mmap(2)). Nobody but this process
has it (:func:`gpuscan.files.scratch.unnamed_file`). What is in it is lost with the process: it is memory.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import DeviceError, InputError, RunFailedError
from gpuscan.base.units import format_bytes
from gpuscan.files.owned import let_go, opened
from gpuscan.files.scratch import unnamed_file

_PIECE_BYTES = 1 << 30
"""Reserved at once. Where the file system reserves nothing by itself, the C library writes to every block
(posix_fallocate(3)), so that a TiB takes minutes: between two pieces it is told how far that is."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskMemory:
    """Zeros on a disk, mapped as memory; see :func:`disk_memory`.

    Attributes:
        array: uint8[n_bytes], writable; it begins a page. Whoever has it, or a view of it, has the memory,
            after :meth:`close` too.
    """

    def __init__(self, directory: Path, handle: int, n_bytes: int) -> None:
        """Map ``n_bytes`` of the file ``handle``, which is this one's from now on.

        Raises:
            OSError: it cannot be mapped.
        """
        mapped = mmap.mmap(handle, n_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        mapped.madvise(mmap.MADV_RANDOM)  # a page that is touched says nothing of its neighbours
        self.array: NDArray[np.uint8] = np.frombuffer(mapped, dtype=np.uint8)
        self._directory = directory
        self._handle = handle
        self._n_bytes = n_bytes
        self._let_go = weakref.finalize(self, let_go, handle)

    def check(self) -> None:
        """Refuse to work on a file that somebody cut short: to touch what is not there ends the process.

        Raises:
            RunFailedError: somebody did, through /proc/PID/fd: the file has no name.
        """
        n_bytes = os.fstat(self._handle).st_size
        if n_bytes < self._n_bytes:
            raise RunFailedError(
                f"the file in {self._directory} that is {format_bytes(self._n_bytes)} of this process's "
                f"memory was cut to {format_bytes(n_bytes)}, so what was in it is lost; begin again"
            )

    def close(self) -> None:
        """Let go of the file. Idempotent; it is not used afterwards."""
        self._let_go()
        self.array = np.empty(0, dtype=np.uint8)


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
            found = os.fstatvfs(parent)
        free_bytes = found.f_bavail * found.f_frsize
        if free_bytes < n_bytes:
            raise _no_room(directory, n_bytes, free_bytes)
        handle = unnamed_file("memory", directory)
        try:
            for begin in range(0, n_bytes, _PIECE_BYTES):
                piece_bytes = min(_PIECE_BYTES, n_bytes - begin)
                os.posix_fallocate(handle, begin, piece_bytes)
                if on_reserved is not None:
                    on_reserved(piece_bytes)
            return _mapped(directory, handle, n_bytes)
        except BaseException:  # KeyboardInterrupt too
            let_go(handle)
            raise
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(directory, n_bytes, None) from None
        said = os.strerror(error.errno or 0)
        raise InputError(
            f"no memory can be kept in {directory}: {said}; give a directory that this process may write to"
        ) from error


def _mapped(directory: Path, handle: int, n_bytes: int) -> DiskMemory:
    try:
        return DiskMemory(directory, handle, n_bytes)
    except OSError as error:
        raise DeviceError(
            f"{format_bytes(n_bytes)} of a file cannot be mapped ({os.strerror(error.errno or 0)}); raise "
            "the limit of the address space (ulimit -v)"
        ) from error


def _no_room(directory: Path, n_bytes: int, free_bytes: int | None) -> DeviceError:
    free = "it filled up meanwhile" if free_bytes is None else f"{format_bytes(free_bytes)} are free"
    return DeviceError(
        f"{format_bytes(n_bytes)} are needed on the file system of {directory}, {free}; make room, or give a "
        "directory on another one"
    )
