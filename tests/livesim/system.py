"""The simulated kernel's system calls, as one process of gpuscan's sees them."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpuscan.linux import damon_state, kernel_settings
from gpuscan.linux.syscalls import PageIs
from gpuscan.linux.system import System

from .changes import change, give_pids_again
from .files import CGROUPS, INSTANCES, KDAMONDS
from .machine import Machine
from .scenario import CHANGES, COMES, SHARES
from .world import BASE_PAGE, HOST, PRESENT, SOFT_DIRTY, SPAN_PAGES, Proc, host

_MOST_STEPS = 60_000
_STATE_FILES = {f"/{damon_state.STATE_FILE}", f"/{kernel_settings.STATE_FILE}"}
_BITMAP = "/sys/kernel/mm/page_idle/bitmap"
_ERRNOS = {
    "open": (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM),
    "pidfd_open": (errno.EMFILE, errno.ENOMEM),
    "pipe": (errno.EMFILE,),
    "start": (errno.EAGAIN, errno.ENOMEM),
    "read_text": (errno.EIO, errno.EBUSY, errno.EMFILE, errno.ENOMEM),
    "write_text": (errno.EIO, errno.EBUSY, errno.EINVAL, errno.ENOMEM),
    "pread": (errno.EIO, errno.ENOMEM),
    "pwrite": (errno.EIO, errno.ENOSPC),
    "mkdir": (errno.ENOSPC, errno.EACCES),
    "rmdir": (errno.EBUSY,),
    "move_pages": (errno.EPERM, errno.ENOMEM, errno.EACCES, errno.EINVAL, errno.ENODEV),
    "pagemap_scan": (errno.ENOMEM, errno.EFAULT),
    "fsync": (errno.EIO, errno.ENOSPC),
}


class Killed(BaseException):
    """SIGKILL: nothing that this process does from here on reaches the kernel."""


class Hang(BaseException):
    """More system calls than any run needs."""


@dataclass(eq=False)
class Handle:
    """An open file."""

    kind: str
    data: Any = None
    at: int = 0


class SimulatedSystem(System):
    """One process.

    Args:
        machine: which it runs on.
        stdin: what its standard input says.
    """

    def __init__(self, machine: Machine, stdin: bytes = b"") -> None:
        super().__init__(Path("/"))
        self.machine = machine
        self.world = machine.world
        self._pid = next(machine.own_pids)
        self._is_dead = self._has_read_host = False
        self._handles: dict[int, Handle] = {0: Handle("text", stdin)}
        self._handlers: dict[int, Any] = {}
        self.children: list[Child] = []

    def _enter(self, name: str, what: object = "") -> str | None:
        """Let happen what happens before a system call; return what is to happen to the call itself."""
        if self._is_dead:
            raise Killed
        machine, world = self.machine, self.world
        machine.step += 1
        world.step = machine.step
        if machine.step > _MOST_STEPS:
            raise Hang
        fault = None
        if machine.is_logging:
            said = " ".join(map(str, what)) if isinstance(what, tuple) else what
            world.log.append(f"{machine.step} {world.now_ns / 1e6:.3f} ms [{self._pid}] {name} {said}")
        machine.pass_time(2_000)
        if world.waiting:
            give_pids_again(world, machine.step)
        for event in machine.events.get(machine.step, ()):
            if event.kind in (*CHANGES, COMES, SHARES):
                change(world, event.kind, event.choice, machine.step)
                continue
            world.log.append(f"  {event.kind} {event.choice}")
            if event.kind == "kill":
                self.end()
                raise Killed
            if event.kind == "signal":
                self._take_signal((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[event.choice % 3])
            elif event.kind == "errno" and name in _ERRNOS:
                machine.n_faults += 1
                number = random.Random(event.choice).choice(_ERRNOS[name])
                if name == "move_pages":
                    return f"errno {number}"
                raise OSError(number, os.strerror(number), str(what))
            elif event.kind == "short":
                fault = "short"
                machine.n_faults += 1
        return fault

    def _take_signal(self, signum: int) -> None:
        handler = self._handlers.get(signum)
        if callable(handler):
            handler(signum, None)
        elif handler != signal.SIG_IGN:  # as the command line has it
            raise KeyboardInterrupt

    def end(self) -> None:
        """Die: the kernel closes everything."""
        self._is_dead = True
        for fd in list(self._handles):
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        handle = self._handles.pop(fd, None)
        if handle is None:
            raise OSError(errno.EBADF, "Bad file descriptor")
        name = handle.data if handle.kind == "state" else ""
        if self.machine.locks.get(name) is handle:
            del self.machine.locks[name]

    def left_open(self) -> list[str]:
        """Return what is open beside standard input."""
        return [handle.kind for fd, handle in self._handles.items() if fd]

    def _new(self, handle: Handle) -> int:
        fd = next(fd for fd in range(3, 1 << 16) if fd not in self._handles)
        self._handles[fd] = handle
        return fd

    # Files

    def read_text(self, path: Path) -> str:
        if (
            self.machine.world.hotplugs or str(path) != "/proc/meminfo"
        ):  # no step in seeds before HOTPLUG_FROM
            self._enter("read_text", path)
        return self.machine.files.read(str(path))

    def write_text(self, path: Path, text: str) -> None:
        self._enter("write_text", (path, text))
        self.machine.files.write(str(path), text)

    def is_dir(self, path: Path) -> bool:
        self._enter("is_dir", path)
        return True

    def is_file(self, path: Path) -> bool:
        is_there = self.machine.files.is_file(str(path)) or str(path) in self.machine.state_files
        if is_there or str(path) not in _STATE_FILES:  # seeds count calls
            self._enter("is_file", path)
        return is_there

    def may_write(self, path: Path) -> bool:
        self._enter("may_write", path)
        return True

    def owner(self, path: Path) -> int:
        self._enter("owner", path)
        if int(path.name) not in self.world.processes:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return 0

    def inode(self, path: Path) -> int:
        self._enter("inode", path)
        return self.world.cgroups[str(path).removeprefix(CGROUPS)]

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        self._enter("mkdir", path)
        self.machine.damon.make_instance(path.name)

    def make_parents(self, path: Path, mode: int) -> None:
        self._enter("mkdir", path)

    def rmdir(self, path: Path) -> None:
        self._enter("rmdir", path)
        self.machine.damon.remove_instance(path.name)

    def names_in(self, place: Path | int) -> list[str]:
        self._enter("names_in", place)
        if isinstance(place, int):
            below = str(self._handles[place].data).removeprefix(KDAMONDS) + "/"
            found = [path.removeprefix(below) for path in self.machine.damon.files if path.startswith(below)]
            return sorted({path.partition("/")[0] for path in found})
        if place == Path("/proc"):
            return ["self", *map(str, self.world.processes)]
        pid = place.parent.name
        if int(pid) not in self.world.processes:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(place))
        return [pid]

    def walk(self, top: Path) -> list[Path]:
        self._enter("walk", top)
        return [top]

    def open(self, path: Path | str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        self._enter("open", path)
        name = str(path) if dir_fd is None else f"{self._handles[dir_fd].data}/{path}"
        if name.endswith("/pagemap"):
            proc = self.world.processes.get(int(name.split("/")[2]))
            if proc is None:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
            return self._new(Handle("pagemap", proc))
        if name in ("/proc/kpageflags", "/proc/kpagecount", _BITMAP):
            return self._new(Handle(name))
        if name in _STATE_FILES:
            self.machine.state_files.setdefault(name, bytearray())
            return self._new(Handle("state", name))
        if name.endswith("/trace_pipe"):
            return self._new(Handle("trace", name.removeprefix(INSTANCES).partition("/")[0]))
        if flags & os.O_DIRECTORY:
            return self._new(Handle("directory", name))
        return self._new(Handle("text", self.machine.files.read(name).encode()))

    def close(self, fd: int) -> None:
        self._enter("close", fd)
        self._drop(fd)

    def read(self, fd: int, n_bytes: int) -> bytes:
        fault = self._enter("read", fd)
        handle = self._handles[fd]
        if handle.kind == "trace":
            text = self.machine.damon.text[handle.data]
            if not text:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            n_bytes = n_bytes // 3 if fault else n_bytes
            self.machine.damon.text[handle.data] = text[n_bytes:]
            return text[:n_bytes]
        if handle.kind == "pipe":
            said = b"".join(handle.data)
            handle.data.clear()
            return said
        part = handle.data[handle.at : handle.at + n_bytes]
        handle.at += len(part)
        return bytes(part)

    def write(self, fd: int, data: bytes) -> int:
        self._enter("write", fd)
        self._handles[fd].data.append(data)
        return len(data)

    def _state_file(self, fd: int) -> bytearray:
        """What an open state file holds."""
        return self.machine.state_files[self._handles[fd].data]

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        fault = self._enter("pread", (self._handles[fd].kind, offset, n_bytes))
        handle = self._handles[fd]
        if fault:
            n_bytes = n_bytes // 16 * 8
        if handle.kind == "state":
            return bytes(self._state_file(fd)[offset : offset + n_bytes])
        low, high = offset // 8, (offset + n_bytes) // 8
        if handle.kind == "/proc/kpageflags":
            return self.world.flags[low:high].tobytes()
        if handle.kind == "/proc/kpagecount":
            self.world.counted_at.update(dict.fromkeys(range(low, high), self.machine.step))
            return self.world.n_mapped[low:high].tobytes()
        words = np.zeros(max(0, high - low), dtype=np.uint64)
        first, last = max(low, BASE_PAGE), min(high, BASE_PAGE + SPAN_PAGES)
        if first < last and handle.data.is_alive:
            shown = self.world.words_of(handle.data)
            words[first - low : last - low] = shown[first - BASE_PAGE : last - BASE_PAGE]
        return words.tobytes() if handle.data.is_alive else b""

    def preadv(self, fd: int, view: memoryview, offset: int) -> int:
        fault = self._enter("pread", ("bitmap", offset, len(view)))
        data = self.world.idle[offset // 8 : offset // 8 + min(len(view), 4096) // 8].tobytes()
        data = data[: len(data) // 16 * 8] if fault and len(data) > 8 else data
        view[: len(data)] = data
        return len(data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        fault = self._enter("pwrite", (self._handles[fd].kind, offset, len(data)))
        n = len(data) // 16 * 8 if fault and len(data) > 8 else len(data)
        if self._handles[fd].kind == "state":
            self._state_file(fd)[offset : offset + n] = data[:n]
        else:
            words = np.frombuffer(data[:n], dtype=np.uint64)
            self.world.idle[offset // 8 : offset // 8 + len(words)] |= words
        return n

    def fstat(self, fd: int) -> Any:
        self._enter("fstat", fd)
        return SimpleNamespace(st_mode=stat.S_IFREG | 0o600, st_nlink=1, st_size=len(self._state_file(fd)))

    def ftruncate(self, fd: int, n_bytes: int) -> None:
        self._enter("ftruncate", n_bytes)
        state = self._state_file(fd)
        state[:] = state[:n_bytes].ljust(n_bytes, b"\0")

    def fsync(self, fd: int) -> None:
        self._enter("fsync", fd)

    def lock(self, fd: int) -> None:
        self._enter("lock", fd)
        handle = self._handles[fd]
        if handle.data in self.machine.locks:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self.machine.locks[handle.data] = handle

    def pipe(self) -> tuple[int, int]:
        self._enter("pipe")
        said: list[bytes] = []
        return self._new(Handle("pipe", said)), self._new(Handle("pipe", said))

    def is_readable(self, fd: int, limit_s: float = 0.0) -> bool:
        self._enter("poll", fd)
        handle = self._handles[fd]

        def is_ready() -> bool:
            return bool(handle.data) if handle.kind == "pipe" else not handle.data.is_alive

        if not is_ready() and limit_s > 0:
            self.machine.pass_time(int(limit_s * 1e9))
        return is_ready()

    # Processes and signals

    def getpid(self) -> int:
        return self._pid

    def geteuid(self) -> int:
        return 0

    def pidfd_open(self, pid: int) -> int:
        self._enter("pidfd_open", pid)
        proc = self.world.processes.get(pid)
        if proc is None:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        if self.machine.scenario.selection == "pids":  # who has the PID now is who was named
            proc.is_target = True
        return self._new(Handle("pidfd", proc))

    def pidfd_send_signal(self, pidfd: int, signum: int) -> None:
        self._enter("pidfd_send_signal", signum)
        proc = self._handles[pidfd].data
        if not proc.is_target:
            self.world.broken.append(f"a signal for process {proc.pid}, which nobody asked for")
        self.world.end(proc, -signum)

    def start(self, argv: Any, **how: Any) -> Any:
        self._enter("start", argv)
        if damon_state.__file__ in argv:
            child: Child = Watchdog(self)
            self.machine.watchdogs.append(child)
        else:
            proc = self.world.spawn(30)
            proc.is_zombie = True
            child = Child(self, proc)
        self.children.append(child)
        return child

    def is_in_foreground(self) -> bool:
        return False

    def on_signal(self, signum: int, handler: Any) -> Any:
        self._enter("on_signal", signum)
        before, self._handlers[signum] = self._handlers.get(signum), handler
        return before

    # Time, and calls of their own

    def monotonic_ns(self) -> int:
        self._enter("monotonic_ns")
        return self.world.now_ns

    def process_time(self) -> float:
        return self.machine.step * 2e-6

    def wall_ns(self) -> int:
        return self.world.now_ns

    def minute_of_day(self) -> int:
        return self.world.now_ns // 60_000_000_000 % 1440

    def user_name(self, uid: int) -> str:
        return "root"

    def sleep(self, seconds: float) -> None:
        self._enter("sleep", seconds)
        self.machine.pass_time(int(seconds * 1e9))

    def move_pages(self, pid: int, addresses: Any, nodes: Any, *, of_all: bool = False) -> tuple[int, Any]:
        fault = self._enter("move_pages", f"{pid} n={len(addresses)} {'?' if nodes is None else nodes[0]}")
        if fault and fault.startswith("errno"):
            return self.machine.moves.refused(addresses, nodes, -int(fault.split()[1]))
        return self.machine.moves(pid, addresses, nodes, of_all=of_all)

    def pagemap_scan(self, fd: int, start: int, end: int, required: PageIs, **_: Any) -> Any:
        self._enter("pagemap_scan", (hex(start), hex(end)))
        if not self.machine.scenario.has_scan:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        words = self._handles[fd].data.words
        bits = PRESENT | (SOFT_DIRTY if required & PageIs.SOFT_DIRTY else np.uint64(0))
        pages = np.flatnonzero((words & bits) == bits) + BASE_PAGE
        pages = pages[(pages >= start >> 12) & (pages < end >> 12)]
        return np.stack([pages << 12, pages + 1 << 12], axis=1).astype(np.int64)

    def has_pagemap_scan(self) -> bool:
        return self.machine.scenario.has_scan

    def has_soft_dirty(self) -> bool:
        return True

    def read_host(self) -> Any:
        world = self.machine.world
        if world.hotplugs or not self._has_read_host:  # no step in seeds before HOTPLUG_FROM but the first
            self._enter("read_host")
        self._has_read_host = True
        return host(world.offline) if world.hotplugs else HOST


class Child:
    """A command, as :class:`subprocess.Popen` shows it."""

    def __init__(self, system: SimulatedSystem, proc: Proc) -> None:
        self._system, self._proc = system, proc
        self.pid = proc.pid
        self.returncode: int | None = None
        self.stdin: Any = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs still, whoever asked."""
        return self._proc.is_alive

    def poll(self) -> int | None:
        self._system._enter("waitpid", self.pid)
        if self.returncode is None and not self._proc.is_alive:
            self.returncode = self._proc.code
            self._system.world.processes.pop(self.pid, None)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            if timeout is None:
                raise Hang
            self._system.machine.pass_time(int(timeout * 1e9))
            raise subprocess.TimeoutExpired("command", timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None and (signum == signal.SIGKILL or self.pid % 5):  # some ignore SIGTERM
            self._system.world.end(self._proc, -signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Watchdog(Child):
    """The watchdog: the real one, on a process of its own, when its standard input has ended."""

    def __init__(self, system: SimulatedSystem) -> None:
        self._system, self._said = system, b""
        self.pid, self.returncode, self.stdin = -1, None, self

    def write(self, data: bytes) -> None:
        self._system._enter("write", "watchdog")
        self._said += data

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> int:
        self._system._enter("waitpid", "watchdog")
        self.run()
        return 0

    def run(self) -> None:
        """Run it to its end, or to its death, if it has not run."""
        if self.returncode is None:
            self.returncode = 0
            own = SimulatedSystem(self._system.machine, self._said)
            try:
                damon_state._watch(own)
            except (Killed, KeyboardInterrupt):  # a signal that came before it ignored them
                pass
            finally:
                own.end()
