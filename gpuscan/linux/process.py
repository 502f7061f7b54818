"""One process: is it still the one that was meant, where are its mappings, where may its memory be.

A :class:`Process` holds a pidfd. The kernel gives a PID out again only after the process was
reaped, and a pidfd becomes readable when its process ends: while it is not, the PID is that process's.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.arguments import flag, instance, whole
from gpuscan.base.errors import InputError
from gpuscan.linux.system import HERE, System

PF_KTHREAD = 0x0020_0000
"""include/linux/sched.h: a kernel thread, which has no memory of its own."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MAPS_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) [0-9a-f]+ \S+ [0-9]+\s*(.*)")


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says (proc_pid_stat(5)).

    Attributes:
        comm: the name, without its parentheses.
        state: one letter; Z for a zombie.
        flags: PF_* bits.
        start_ticks: when it started, in clock ticks after boot.
        cpu_s: user and system time, in seconds.
    """

    comm: str
    state: str
    flags: int
    start_ticks: int
    cpu_s: float

    @property
    def is_kernel_thread(self) -> bool:
        """Whether this is a kernel thread."""
        return bool(self.flags & PF_KTHREAD)


def read_stat(pid: int, system: System = HERE) -> Stat | None:
    """Return what /proc/PID/stat says, None where there is no such process."""
    try:
        text = system.read_text(system.root / f"proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    before, _, after = text.rpartition(")")
    fields = after.split()
    return Stat(
        comm=before.partition("(")[2],
        state=fields[0],
        flags=int(fields[6]),
        start_ticks=int(fields[19]),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
    )


@dataclass(frozen=True, slots=True)
class Mapping:
    """A line of /proc/PID/maps: ``[start, end)``, permissions such as ``rw-p``, what is mapped."""

    start: int
    end: int
    permissions: str
    name: str

    @property
    def is_special(self) -> bool:
        """Whether these are pages that the kernel provides: [vdso], [vvar], [vsyscall]."""
        return self.name.startswith(("[vdso", "[vvar", "[vsyscall"))


def parse_maps(text: str) -> list[Mapping]:
    """Return the mappings in the text of /proc/PID/maps, ascending."""
    found = []
    for line in text.splitlines():
        match = _MAPS_LINE.fullmatch(line)
        if match is not None:
            found.append(Mapping(int(match[1], 16), int(match[2], 16), match[3], match[4]))
    return found


class Process:
    """A process that was asked for. Close it, or use it as a context manager.

    Args:
        pid: of the process, not of one of its threads.
        system: where it runs.
        one_of_many: where one of its files fails, it is let go of as if it had ended; ``failure`` says why.

    Raises:
        InputError: there is none, it is a thread or a kernel thread, or it is this process.
    """

    def __init__(self, pid: int, system: System = HERE, *, one_of_many: bool = False) -> None:
        pid = whole("a process id", pid)
        instance("a process's system", system, System, "leave it out")
        self.pid = pid
        self.system = system
        self.failure = ""
        self._one_of_many = flag("a process's one_of_many", one_of_many)
        if pid == system.getpid():
            raise InputError(f"process {pid} is gpuscan itself; name another one")
        try:
            self._pidfd = system.pidfd_open(pid)
        except OverflowError:
            raise InputError(f"{pid} is no process id; give one of a running process") from None
        except OSError as error:
            raise InputError(_why_not(pid, system, error)) from error
        try:
            self._know(pid)
        except BaseException:
            self.close()
            raise

    def _know(self, pid: int) -> None:
        """Take in who it is, and refuse whom gpuscan does not touch."""
        stat = read_stat(pid, self.system)
        if stat is None or stat.state == "Z" or not self.is_alive():
            raise InputError(f"process {pid} has ended; name one that runs")
        if stat.is_kernel_thread:
            raise InputError(
                f"process {pid} ({stat.comm}) is a kernel thread, which gpuscan never touches; "
                "name a process of a program"
            )
        self.comm = stat.comm
        self.start_ticks = stat.start_ticks

    def is_alive(self) -> bool:
        """Whether the process has not ended, so that its PID still means it."""
        if self._pidfd < 0:
            return False
        if self.system.is_readable(self._pidfd):
            self.close()
            return False
        return True

    def send_signal(self, signum: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                self.system.pidfd_send_signal(self._pidfd, signum)

    def wait(self, limit_s: float) -> bool:
        """Wait until it has ended, up to so many seconds; return whether it has."""
        if self._pidfd < 0:
            return True
        self.system.is_readable(self._pidfd, limit_s)
        return not self.is_alive()

    @property
    def proc(self) -> Path:
        """Its directory under /proc."""
        return self.system.root / f"proc/{self.pid}"

    def mappings(self) -> list[Mapping]:
        """Return its mappings, ascending; none once it has ended."""
        return parse_maps(self.text("maps"))

    def text(self, name: str) -> str:
        """Return the text of one of its files under /proc; empty once it has ended.

        Raises:
            InputError: it may not be read.
        """
        try:
            return self.system.read_text(self.proc / name)
        except OSError as error:
            if self._is_let_go(name, error):
                return ""
            if isinstance(error, PermissionError):
                raise InputError(
                    f"{self.proc / name} may not be read: another user's process takes CAP_SYS_PTRACE; "
                    "run gpuscan as root, or as its user"
                ) from error
            raise

    def opened(self, name: str) -> int | None:
        """Open one of its files under /proc to read; None once it has ended.

        Raises:
            OSError: it may not be opened.
        """
        try:
            return self.system.open(self.proc / name, os.O_RDONLY)
        except OSError as error:
            if self._is_let_go(name, error):
                return None
            raise

    def write_text(self, name: str, text: str) -> None:
        """Write to one of its files under /proc; nothing once it has ended.

        Raises:
            OSError: it may not be written.
        """
        try:
            self.system.write_text(self.proc / name, text)
        except OSError as error:
            if not self._is_let_go(name, error):
                raise

    def _is_let_go(self, name: str, error: OSError) -> bool:
        """Whether a file that failed is no matter: the process has ended, or it is let go of for that."""
        if isinstance(error, (FileNotFoundError, ProcessLookupError)):
            return True
        if self._one_of_many:
            self.failure = self.failure or f"{name}: {error.strerror}"
            self.close()
        return self._one_of_many

    def close(self) -> None:
        """Let go of the process."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            self.system.close(pidfd)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _why_not(pid: int, system: System, error: OSError) -> str:
    # pidfd_open() knows processes only: of a thread it says EINVAL, and ENOENT since v6.15.
    status = system.root / f"proc/{pid}/status"
    try:
        tgid = re.search(r"^Tgid:\s+([0-9]+)$", system.read_text(status), re.MULTILINE)
    except OSError:
        tgid = None
    if tgid is not None and int(tgid[1]) != pid:
        return f"{pid} is a thread of process {tgid[1]}; give --pid {tgid[1]}"
    if isinstance(error, ProcessLookupError) or tgid is None:
        return f"there is no process {pid}; give the id of one that runs"
    return f"process {pid} cannot be watched: {error.strerror}; take another one"
