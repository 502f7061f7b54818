"""Who DAMON's sysfs belongs to, and how it is given back. Standard library only.

The directory has no owner, and writing ``nr_kdamonds`` wipes what anybody configured. gpuscan takes
it only while ``nr_kdamonds`` is 0, notes in a state file what it is about to do before each step, holds
a lock on that file as long as it runs, and sets ``nr_kdamonds`` back to 0. What a killed gpuscan left is
known by the state file: the boot, each kdamond's PID and start time, the process it was to watch, and the
trace instance.

The watchdog is this file run by its path, ``python -I -S damon_state.py ROOT``: the pipe that is its
standard input ends with the gpuscan that started it, however that ends, and then it cleans up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

ADMIN = "sys/kernel/mm/damon/admin/kdamonds"
STATE_FILE = "run/gpuscan/damon.json"
TRACING = "sys/kernel/tracing"
_INSTANCE = "gpuscan-"

_OFF_WITHIN_S = 10.0
_N_BUSY = 100
_BUSY_S = 0.001

_T = TypeVar("_T")


class StateFile:
    """The state file, locked. Close it to give up the lock.

    It is written in place, since the lock is on the file: a text that is followed by blanks up to the end of
    the one before, so that whoever is killed before these are cut off leaves one that can be read.

    Raises:
        BlockingIOError: another gpuscan holds it.
        OSError: it cannot be made, or something other than a file of one name was put there.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        try:
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise OSError(errno.EPERM, "it is no file of gpuscan's", str(path))
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise

    def read(self) -> dict[str, Any]:
        """Return what was noted last; nothing where the file is empty or was cut short."""
        data = os.pread(self._fd, 1 << 20, 0)
        with contextlib.suppress(ValueError):
            found = json.loads(data)
            if isinstance(found, dict):
                return found
        return {}

    def write(self, state: dict[str, Any]) -> None:
        """Note a state, on the disk before this returns."""
        data = json.dumps(state).encode()
        padded = data.ljust(os.fstat(self._fd).st_size)
        if os.pwrite(self._fd, padded, 0) != len(padded):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        os.ftruncate(self._fd, len(data))
        os.fsync(self._fd)

    def clear(self) -> None:
        """Note that nothing is ours."""
        os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._fd)


def boot_id(root: Path) -> str:
    """Return the identity of this boot."""
    return (root / "proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(root: Path, pid: int) -> int | None:
    """Return when a process or kernel thread started, in clock ticks after boot; None if there is none."""
    try:
        text = (root / f"proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])


def n_kdamonds(root: Path) -> int:
    """Return how many kdamonds are configured."""
    return int(_read(root / ADMIN / "nr_kdamonds"))


def kdamond_pid(root: Path, number: int) -> int:
    """Return the PID of a kdamond, -1 while it is off."""
    directory = root / ADMIN / str(number)
    if _read(directory / "state") != "on":
        return -1
    return int(_read(directory / "pid"))


def running(root: Path, n: int) -> list[dict[str, int]]:
    """Return PID and start time of kdamonds 0 to n - 1, for the state file; -1 and 0 for one that is off."""
    found = []
    for number in range(n):
        pid = kdamond_pid(root, number)
        found.append({"pid": pid, "start_ticks": (start_ticks(root, pid) or 0) if pid > 0 else 0})
    return found


def whose(root: Path, state: dict[str, Any]) -> str:
    """Say why what is configured is not what ``state`` says gpuscan configured; empty if it is."""
    n = n_kdamonds(root)
    if not state or state.get("boot_id") != boot_id(root):
        return "no state file of this boot says that it is gpuscan's"
    if n != state.get("n_kdamonds"):
        return f"{n} kdamonds are configured, gpuscan's state file says {state.get('n_kdamonds')}"
    noted = state.get("kdamonds") or []
    wanted = state.get("configured") or []
    for number in range(n):
        pid = kdamond_pid(root, number)
        known = noted[number] if number < len(noted) else None
        if pid > 0 and known is not None and known["pid"] > 0:
            if (pid, start_ticks(root, pid) or 0) != (known["pid"], known["start_ticks"]):
                return f"kdamond {number} (process {pid}) is another one than gpuscan started"
            continue
        # Off, or switched on and not noted yet: then what it was to watch must be what was noted.
        found = _configured(root, number)
        if found and found not in wanted[number : number + 1]:
            return f"kdamond {number} is configured for something else than gpuscan's state file says"
    return ""


def _configured(root: Path, number: int) -> str:
    """Return operations and target of a kdamond, such as ``vaddr 1234``; empty if nothing is configured."""
    context = root / ADMIN / str(number) / "contexts/0"
    try:
        operations = _read(context / "operations")
        target = context / "targets/0/pid_target"
        pid = _read(target) if operations == "vaddr" else ""
    except FileNotFoundError:
        return ""
    if operations == "vaddr" and pid == "0":  # between two writes
        return ""
    return f"{operations} {pid}".strip()


def write(path: Path, value: int | str) -> None:
    """Write to a file of sysfs, which takes a value in one system call."""
    _asked_again(lambda: path.write_text(str(value)))


def _read(path: Path) -> str:
    return _asked_again(path.read_text).strip()


def _asked_again(ask: Callable[[], _T]) -> _T:
    # mm/damon/sysfs.c only tries to take its lock (mutex_trylock()) and says EBUSY where a kdamond, or
    # another reader, holds it.
    for _ in range(_N_BUSY):
        try:
            return ask()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(_BUSY_S)
    return ask()


def switch_off(root: Path) -> None:
    """Stop every kdamond and leave none configured: how DAMON was when gpuscan took it."""
    for number in range(n_kdamonds(root)):
        state = root / ADMIN / str(number) / "state"
        if _read(state) == "on":
            with contextlib.suppress(OSError):  # it may end by itself, with its process
                write(state, "off")
        deadline = time.monotonic() + _OFF_WITHIN_S
        while _read(state) == "on" and time.monotonic() < deadline:
            time.sleep(0.01)
    write(root / ADMIN / "nr_kdamonds", 0)


def trace_instance() -> str:
    """Return the name of this gpuscan's trace instance."""
    return f"{_INSTANCE}{os.getpid()}"


def remove_trace(root: Path, state: dict[str, Any]) -> None:
    """Remove the trace instance that a state file names."""
    name = str(state.get("trace_instance", ""))
    if name.removeprefix(_INSTANCE).isdigit() and state.get("boot_id") == boot_id(root):
        with contextlib.suppress(OSError):
            (root / TRACING / "instances" / name).rmdir()


def restore(root: Path, state_file: StateFile) -> str:
    """Give back what a gpuscan that is gone left, if anything.

    Returns:
        Why DAMON is not free now; empty if it is.
    """
    state = state_file.read()
    remove_trace(root, state)
    if n_kdamonds(root) == 0:
        state_file.clear()
        return ""
    why = whose(root, state)
    if not why:
        switch_off(root)
        state_file.clear()
    return why


def _watch(root: Path) -> int:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    if sys.stdin.buffer.read(1):  # gpuscan has cleaned up itself
        return 0
    with contextlib.suppress(OSError):
        state_file = StateFile(root / STATE_FILE)
        restore(root, state_file)
        state_file.close()
    return 0


if __name__ == "__main__":
    sys.exit(_watch(Path(sys.argv[1])))
