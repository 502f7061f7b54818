"""Write tracking of a program that gpuscan starts: a userfaultfd in asynchronous write-protect mode.

PAGEMAP_SCAN finds and re-arms the pages written since the last scan where a userfaultfd covers them
(Documentation/admin-guide/mm/userfaultfd.rst, UFFD_FEATURE_WP_ASYNC; both since v6.7). Only a process
itself can make one for its memory. So a program is started under ptrace(2) and, stopped at its execve(2)
before its first instruction, made to call userfaultfd(2); gpuscan takes the descriptor over
(pidfd_getfd(2)) and has the program close its own. The same with the processes it forks, and after each
further execve. A process that shares its memory with another one (vfork(2), posix_spawn(3)) is left alone
until its execve: threads of the other one may be running the very text that would be changed, and its
userfaultfd covers that memory already. When gpuscan ends, however it ends, the kernel lifts all protection
and the tracing.

A traced program cannot be stopped by SIGSTOP or a terminal's Ctrl-Z: it goes on at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.linux.ranges import Ranges
from gpuscan.linux.syscalls import has_pagemap_scan

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

_TRACEME, _PEEKTEXT, _POKETEXT, _CONT, _GETREGS, _SETREGS = 0, 1, 4, 7, 12, 13
_SYSCALL, _SETOPTIONS = 24, 0x4200
_O_TRACESYSGOOD, _O_TRACEFORK, _O_TRACEVFORK, _O_TRACEEXEC = 1 << 0, 1 << 1, 1 << 2, 1 << 4
_EVENT_EXEC = 4
_SYSCALL_STOP = signal.SIGTRAP | 0x80
"""A stop at a system call, with PTRACE_O_TRACESYSGOOD (ptrace(2)); a SIGTRAP is the program's own."""
_WNOTHREAD, _WALL = 0x2000_0000, 0x4000_0000
"""Wait for what this thread traces, and leave the children of others alone."""
_SYS_CLOSE, _SYS_KCMP, _SYS_USERFAULTFD, _SYS_PIDFD_GETFD = 3, 312, 323, 438  # x86-64
_KCMP_VM = 1
"""include/uapi/linux/kcmp.h"""
_SYSCALL_TRAP = 0xCC050F
"""``syscall; int3`` in the first bytes of a word."""

_USER_MODE_ONLY = 1
_API = (3 << 30) | (24 << 16) | (0xAA << 8) | 0x3F
_REGISTER = (3 << 30) | (32 << 16) | (0xAA << 8) | 0x00
_API_VERSION = 0xAA
_MODE_WP = 1 << 1
_FEATURES = (1 << 12) | (1 << 13) | (1 << 15)
"""WP_HUGETLBFS_SHMEM, WP_UNPOPULATED, WP_ASYNC (include/uapi/linux/userfaultfd.h)."""


_REGISTERS = """
    r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss
    fs_base gs_base ds es fs gs
"""


class _Registers(ctypes.Structure):
    """``struct user_regs_struct`` of x86-64."""

    _fields_ = [(name, ctypes.c_uint64) for name in _REGISTERS.split()]  # ctypes' way


def check_write_tracking() -> None:
    """Refuse a machine on which programs cannot be started with write tracking.

    Raises:
        InputError: says why.
    """
    if platform.machine() != "x86_64":
        raise InputError(
            f"write tracking is made for x86-64, not {platform.machine()}; take another --monitor"
        )
    if not has_pagemap_scan():
        raise InputError("the kernel has no PAGEMAP_SCAN (before v6.7); take another --monitor")
    try:
        _same_memory(os.getpid(), os.getpid())
    except OSError as error:
        raise InputError(f"kcmp(2) fails ({error.strerror}); take another --monitor") from error
    fd = _libc.syscall(ctypes.c_long(_SYS_USERFAULTFD), ctypes.c_long(os.O_CLOEXEC | _USER_MODE_ONLY))
    if fd < 0:
        said = os.strerror(ctypes.get_errno())
        raise InputError(f"userfaultfd(2) fails ({said}); take another --monitor")
    try:
        _enable(fd)
    except OSError as error:
        raise InputError(
            f"userfaultfd(2) has no asynchronous write protection here ({error.strerror}); "
            "take another --monitor"
        ) from error
    finally:
        os.close(fd)


class TrackedProgram:
    """A program started with write tracking, with the processes that it forks.

    Has what callers use of :class:`subprocess.Popen`; only the thread that traces it may wait for it.

    Args:
        argv: name and arguments.
        stdout: descriptor for its standard output; gpuscan's own by default.
        on_started: called in the thread that traces it once it runs.

    Raises:
        OSError: the program cannot be started.
        RunFailedError: it cannot be traced; it was killed.
    """

    def __init__(
        self, argv: Sequence[str], stdout: int | None = None, on_started: Callable[[], None] = lambda: None
    ) -> None:
        self.pid = -1
        self._on_started = on_started
        self.returncode: int | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._descriptors: dict[int, int] = {}
        self._failure: BaseException | None = None
        started = threading.Event()
        # All requests must come from the thread that is the tracer, and that is the one that forks.
        threading.Thread(target=self._trace, args=(argv, stdout, started), name="tracer", daemon=True).start()
        started.wait()
        if self._failure is not None:
            raise self._failure

    def descriptor(self, pid: int) -> int | None:
        """Return the userfaultfd on the memory that a process has now, None without one."""
        with self._lock:
            return self._descriptors.get(pid)

    def poll(self) -> int | None:
        """Return the exit code of the program, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the program and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal to the program if it still runs."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill the program if it still runs."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Give up the userfaultfds, and with them the protection of all pages."""
        with self._lock:
            for fd in self._descriptors.values():
                os.close(fd)
            self._descriptors = {}

    def _trace(self, argv: Sequence[str], stdout: int | None, started: threading.Event) -> None:
        try:
            # Only ptrace(2) between fork and execve.
            popen = subprocess.Popen(argv, stdout=stdout, preexec_fn=_be_traced)
            self.pid = popen.pid
            try:
                _wait_for_trap(popen.pid)
                options = _O_TRACESYSGOOD | _O_TRACEFORK | _O_TRACEVFORK | _O_TRACEEXEC
                _ptrace(_SETOPTIONS, popen.pid, 0, options)
                self._attach(popen.pid)
                self._on_started()
                _ptrace(_CONT, popen.pid)
            except OSError as error:
                popen.kill()
                popen.wait()
                raise RunFailedError(
                    f"{argv[0]} cannot be started with write tracking ({error.strerror}); "
                    "take another --monitor"
                ) from error
            popen.returncode = 0  # else its finalizer would wait for it
        except (OSError, RunFailedError) as error:
            self._failure = error
            return
        finally:
            started.set()
        self._follow()

    def _follow(self) -> None:
        """Look after the traced processes until the last one has ended."""
        known = {self.pid}
        while True:
            try:
                pid, status = os.waitpid(-1, _WALL | _WNOTHREAD)
            except ChildProcessError:
                break
            if not os.WIFSTOPPED(status):
                known.discard(pid)
                self._gone(pid, status)
                continue
            # The event of an execve comes within the call, whose end would overwrite a register: on to that.
            request = _SYSCALL if status >> 16 == _EVENT_EXEC else _CONT
            with contextlib.suppress(OSError):  # killed while it was stopped
                _ptrace(request, pid, 0, self._passed_on(pid, status, known))

    def _passed_on(self, pid: int, status: int, known: set[int]) -> int:
        """Do what a stop asks for; return the signal that the process shall get."""
        signum = os.WSTOPSIG(status)
        if pid not in known and signum == signal.SIGSTOP:  # how a forked process begins
            alone = not _shares_memory(pid, known)
            known.add(pid)
            if alone:
                self._try_attach(pid)
            return 0
        if status >> 16:  # its parent's part of that, or an execve
            return 0
        if signum == _SYSCALL_STOP:  # after an execve: new memory
            self._try_attach(pid)
            return 0
        return signum

    def _try_attach(self, pid: int) -> None:
        """Attach to a process; where that fails it goes on without being seen."""
        self._keep(pid, None)
        with contextlib.suppress(OSError):
            # A filter of its own may kill it for a call that it does not make by itself.
            if _seccomp(pid) == _seccomp("self"):
                self._attach(pid)

    def _attach(self, pid: int) -> None:
        fd = _taken_over(pid)
        try:
            _enable(fd)
        except OSError:
            os.close(fd)
            raise
        self._keep(pid, fd)

    def _gone(self, pid: int, status: int) -> None:
        self._keep(pid, None)
        if pid == self.pid:
            self.returncode = os.waitstatus_to_exitcode(status)
            self._ended.set()

    def _keep(self, pid: int, fd: int | None) -> None:
        with self._lock:
            old = self._descriptors.pop(pid, None)
            if old is not None:
                os.close(old)
            if fd is not None:
                self._descriptors[pid] = fd


def register(fd: int, ranges: Ranges) -> None:
    """Cover ranges of the program's memory; those that are gone, or cannot be covered, are left out.

    Raises:
        ProcessLookupError: the memory is not there any more: the program ended, or became another one.
    """
    for start, end in ranges.tolist():
        argument = (ctypes.c_uint64 * 4)(start, end - start, _MODE_WP, 0)
        try:
            fcntl.ioctl(fd, _REGISTER, argument)
        except OSError as error:
            # userfaultfd_register() says ENOMEM where the memory it was made for is gone.
            if error.errno in (errno.ENOMEM, errno.ESRCH):
                raise ProcessLookupError(errno.ESRCH, "the memory is gone") from error


def _enable(fd: int) -> None:
    fcntl.ioctl(fd, _API, (ctypes.c_uint64 * 3)(_API_VERSION, _FEATURES, 0))


def _shares_memory(pid: int, others: set[int]) -> bool:
    """Whether a process runs in the memory of one of the others; so too where the kernel does not say."""
    for other in others:
        try:
            if _same_memory(pid, other):
                return True
        except ProcessLookupError:  # that one has ended meanwhile
            continue
        except OSError:
            return True
    return False


def _same_memory(pid: int, other: int) -> bool:
    """Whether two processes have the same address space (kcmp(2))."""
    returned: int = _libc.syscall(
        *map(ctypes.c_long, (_SYS_KCMP, pid, other, _KCMP_VM)), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    if returned < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return returned == 0


def _be_traced() -> None:
    _libc.ptrace(_TRACEME, 0, None, None)


def _taken_over(pid: int) -> int:
    """Have the stopped program make a userfaultfd, and return it as a descriptor of this process."""
    saved = _Registers()
    _ptrace(_GETREGS, pid, 0, ctypes.addressof(saved))
    text = _ptrace(_PEEKTEXT, pid, saved.rip)
    _ptrace(_POKETEXT, pid, saved.rip, text & ~0xFFFFFF | _SYSCALL_TRAP)
    try:
        theirs = _call(pid, saved, _SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
        try:
            return _descriptor_of(pid, theirs)
        finally:
            _call(pid, saved, _SYS_CLOSE, theirs)
    finally:
        _ptrace(_POKETEXT, pid, saved.rip, text)
        _ptrace(_SETREGS, pid, 0, ctypes.addressof(saved))


def _descriptor_of(pid: int, number: int) -> int:
    """Return a descriptor of another process as one of this process (pidfd_getfd(2))."""
    pidfd = os.pidfd_open(pid)
    try:
        ours: int = _libc.syscall(ctypes.c_long(_SYS_PIDFD_GETFD), pidfd, number, 0)
        if ours < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return ours
    finally:
        os.close(pidfd)


def _call(pid: int, saved: _Registers, number: int, argument: int) -> int:
    registers = _Registers.from_buffer_copy(saved)
    registers.rax, registers.rdi = number, argument
    registers.orig_rax = (1 << 64) - 1  # no system call to be restarted
    _ptrace(_SETREGS, pid, 0, ctypes.addressof(registers))
    _ptrace(_CONT, pid)
    _wait_for_trap(pid)
    _ptrace(_GETREGS, pid, 0, ctypes.addressof(registers))
    returned = ctypes.c_int64(registers.rax).value
    if returned < 0:
        raise OSError(-returned, os.strerror(-returned))
    return returned


def _wait_for_trap(pid: int) -> None:
    # Its end, if it was killed meanwhile, is left for whoever waits for that.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | _WALL)
    stop = None
    with contextlib.suppress(ChildProcessError):  # said of one that has ended
        stop = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | _WALL)
    if stop is None or stop.si_status != signal.SIGTRAP:
        raise OSError(errno.ESRCH, "the program did not stop where it should")


def _seccomp(pid: int | str) -> list[str]:
    """Return what /proc/PID/status says of system call filters: the mode and how many."""
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith("Seccomp")]


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    returned: int = _libc.ptrace(request, pid, address, data)
    number = ctypes.get_errno()
    if returned == -1 and number:
        raise OSError(number, os.strerror(number))
    return returned & ((1 << 64) - 1)
