"""The one door to the running kernel: files, processes, signals, the clock, and system calls.

Whatever ``gpuscan live`` asks of the kernel goes through a :class:`System` that it is given, so that a
simulated kernel can answer in its place (docs/simulation.md). Standard library only: the watchdog runs
without packages.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpuscan.linux.syscalls import PageIs
    from gpuscan.topology.sysfs import Host

Handler = Callable[[int, FrameType | None], Any] | int | None
"""What a signal does, as :func:`signal.signal` takes and returns it."""


class System:
    """This machine. Methods are named as the calls that they make, and raise OSError as those do.

    Args:
        root: where /proc, /sys and /run lie.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def read_text(self, path: Path) -> str:
        """Return the text of a file; bytes that are no UTF-8 are replaced."""
        return path.read_text(errors="replace")

    def write_text(self, path: Path, text: str) -> None:
        """Write a text in one system call, as files of procfs and sysfs take a value."""
        path.write_text(text)

    def is_dir(self, path: Path) -> bool:
        """Whether there is a directory."""
        return path.is_dir()

    def is_file(self, path: Path) -> bool:
        """Whether there is a regular file."""
        return path.is_file()

    def may_write(self, path: Path) -> bool:
        """Whether a file may be written (access(2))."""
        return os.access(path, os.W_OK)

    def owner(self, path: Path) -> int:
        """Return the user that a file belongs to."""
        return path.stat().st_uid

    def inode(self, path: Path) -> int:
        """Return the number of a file's inode: a name that was given again has another one."""
        return path.stat().st_ino

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """Make a directory."""
        path.mkdir(mode)

    def make_parents(self, path: Path, mode: int) -> None:
        """Make the directory that a file is to lie in, and those above it, where they are not there."""
        path.parent.mkdir(mode=mode, parents=True, exist_ok=True)

    def rmdir(self, path: Path) -> None:
        """Remove a directory."""
        path.rmdir()

    def names_in(self, place: Path | int) -> list[str]:
        """Return the names in a directory, given by its path or its descriptor."""
        return os.listdir(place)  # noqa: PTH208  # by descriptor

    def walk(self, top: Path) -> list[Path]:
        """Return a directory and all below it, each before those in it; those removed meanwhile left out."""
        found = []
        for directory, below, _ in os.walk(top):
            below.sort()
            found.append(Path(directory))
        return found

    def open(self, path: Path | str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Open a file."""
        return os.open(path, flags, mode, dir_fd=dir_fd)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def read(self, fd: int, n_bytes: int) -> bytes:
        """Read from where the descriptor stands."""
        return os.read(fd, n_bytes)

    def write(self, fd: int, data: bytes) -> int:
        """Write where the descriptor stands."""
        return os.write(fd, data)

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        """Read from an offset."""
        return os.pread(fd, n_bytes, offset)

    def preadv(self, fd: int, view: memoryview, offset: int) -> int:
        """Read from an offset into memory; return how many bytes were read."""
        return os.preadv(fd, [view], offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write at an offset."""
        return os.pwrite(fd, data, offset)

    def fstat(self, fd: int) -> os.stat_result:
        """Return what kind of file a descriptor is of, and its size."""
        return os.fstat(fd)

    def ftruncate(self, fd: int, n_bytes: int) -> None:
        """Cut a file."""
        os.ftruncate(fd, n_bytes)

    def fsync(self, fd: int) -> None:
        """Bring a file to the disk."""
        os.fsync(fd)

    def lock(self, fd: int) -> None:
        """Lock a file for as long as the descriptor is open; BlockingIOError where another one has it."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def pipe(self) -> tuple[int, int]:
        """Make a pipe that does not block; return the end to read from and the one to write to."""
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def is_readable(self, fd: int, limit_s: float = 0.0) -> bool:
        """Whether there is something to read, waiting up to so long; a pidfd tells the end of its process."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(limit_s * 1000))

    def getpid(self) -> int:
        """Return the PID of this process."""
        return os.getpid()

    def geteuid(self) -> int:
        """Return the user in effect."""
        return os.geteuid()

    def pidfd_open(self, pid: int) -> int:
        """Take hold of a process."""
        return os.pidfd_open(pid)

    def pidfd_send_signal(self, pidfd: int, signum: int) -> None:
        """Send a signal to a process that is held."""
        signal.pidfd_send_signal(pidfd, signum)

    def start(self, argv: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        """Start a program; ``how`` as :class:`subprocess.Popen` takes it."""
        return subprocess.Popen(argv, **how)

    def is_in_foreground(self) -> bool:
        """Whether a terminal sends its Ctrl-C to this process, and so to a command that it started."""
        try:
            with Path("/dev/tty").open("rb", buffering=0) as terminal:
                return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
        except OSError:  # there is none
            return False

    def on_signal(self, signum: int, handler: Handler) -> Handler:
        """Set what a signal does; return what it did before. Threads other than the main one may not.

        What is ignored stays so, under nohup or in the background of a script; for the command, too.
        """
        if threading.current_thread() is not threading.main_thread():
            return handler
        if signal.getsignal(signum) is signal.SIG_IGN:
            return signal.SIG_IGN
        return signal.signal(signum, handler)

    def monotonic_ns(self) -> int:
        """Return the time of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """Return the time since 1970, which may be set."""
        return time.time_ns()

    def minute_of_day(self) -> int:
        """Return the minute of the day, 0 to 1439, of the machine's local time."""
        now = time.localtime()
        return now.tm_hour * 60 + now.tm_min

    def user_name(self, uid: int) -> str:
        """Return the name of a user; the number where there is none."""
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)

    def process_time(self) -> float:
        """Return the CPU time of this process, in seconds."""
        return time.process_time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def move_pages(
        self,
        pid: int,
        addresses: NDArray[np.uint64],
        nodes: NDArray[np.int32] | None,
        *,
        of_all: bool = False,
    ) -> tuple[int, NDArray[np.int32]]:
        """See :func:`gpuscan.linux.syscalls.move_pages`."""
        from gpuscan.linux.syscalls import move_pages

        return move_pages(pid, addresses, nodes, of_all=of_all)

    def pagemap_scan(
        self, fd: int, start: int, end: int, required: PageIs, *, write_protect: bool = False
    ) -> NDArray[np.int64]:
        """See :func:`gpuscan.linux.syscalls.pagemap_scan`."""
        from gpuscan.linux.syscalls import pagemap_scan

        return pagemap_scan(fd, start, end, required, write_protect=write_protect)

    def has_pagemap_scan(self) -> bool:
        """See :func:`gpuscan.linux.syscalls.has_pagemap_scan`."""
        from gpuscan.linux.syscalls import has_pagemap_scan

        return has_pagemap_scan()

    def has_soft_dirty(self) -> bool:
        """See :func:`gpuscan.linux.syscalls.has_soft_dirty`."""
        from gpuscan.linux.syscalls import has_soft_dirty

        return has_soft_dirty()

    def read_host(self) -> Host:
        """See :func:`gpuscan.topology.sysfs.read_host`."""
        from gpuscan.topology.sysfs import read_host

        return read_host(self.root)


HERE = System()
"""The machine that gpuscan runs on."""
