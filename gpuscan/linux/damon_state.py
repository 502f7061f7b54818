"""Who DAMON's sysfs belongs to, and how it is given back. Standard library only.

The directory has no owner, and writing ``nr_kdamonds`` wipes what anybody configured. gpuscan takes
it only while ``nr_kdamonds`` is 0, notes in a state file what it is about to do before each step, holds
a lock on that file as long as it runs, and sets ``nr_kdamonds`` back to 0. What a killed gpuscan left is
known by the state file: the boot, each kdamond's PID and start time, the process it was to watch, and the
trace instance. Where somebody else configured a kdamond beside ours, only those that it proves ours are
stopped, and the number of kdamonds stays.

The watchdog is this file run by its path, ``python -I -S damon_state.py ROOT``: the pipe that is its
standard input ends with the gpuscan that started it, however that ends, and then it cleans up.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from gpuscan.linux.system import System

ADMIN = "sys/kernel/mm/damon/admin/kdamonds"
STATE_FILE = "run/gpuscan/damon.json"
TRACING = "sys/kernel/tracing"
_INSTANCE = "gpuscan-"
OFF = {"pid": -1, "start_ticks": 0}
"""What the state file says of a kdamond that does not run."""

_OFF_WITHIN_NS = 10_000_000_000
_CLEAN_UP_WITHIN_NS, _CLEAN_UP_AGAIN_S = 60_000_000_000, 0.05
_MOST_STATE_BYTES = 1 << 20
_BUSY_WITHIN_NS, _BUSY_S = 3_000_000_000, 0.001

_T = TypeVar("_T")


class StateFile:
    """The state file, locked. Close it to give up the lock.

    It is written in place, since the lock is on the file: a text that is followed by blanks up to the end of
    the one before, so that whoever is killed before these are cut off leaves one that can be read.

    Args:
        system: where it lies.
        place: below the root.

    Raises:
        BlockingIOError: another gpuscan holds it.
        OSError: it cannot be made, or something other than a file of one name was put there.
    """

    def __init__(self, system: System, place: str = STATE_FILE) -> None:
        path = system.root / place
        system.make_parents(path, 0o755)
        self._system = system
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = system.open(path, flags, 0o600)
        try:
            found = system.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise OSError(errno.EPERM, "it is no file of gpuscan's", str(path))
            system.lock(self._fd)
        except OSError:
            system.close(self._fd)
            raise

    def read(self) -> dict[str, Any]:
        """Return what was noted last; nothing where the file is empty or was cut short."""
        data = b""
        while part := self._system.pread(self._fd, _MOST_STATE_BYTES - len(data), len(data)):
            data += part
        with contextlib.suppress(ValueError):
            # Killed before it was cut: the end of a longer note may follow the new one.
            found, _ = json.JSONDecoder().raw_decode(data.decode())
            if isinstance(found, dict):
                return found
        return {}

    def write(self, state: dict[str, Any]) -> None:
        """Note a state, on the disk before this returns."""
        data = json.dumps(state).encode()
        padded = data.ljust(self._system.fstat(self._fd).st_size)
        done = 0
        while done < len(padded):  # a note that was cut short proves nothing to whoever cleans up
            done += self._system.pwrite(self._fd, padded[done:], done)
        self._system.ftruncate(self._fd, len(data))
        self._system.fsync(self._fd)

    def clear(self) -> None:
        """Note that nothing is ours."""
        self._system.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Give up the lock."""
        self._system.close(self._fd)


def boot_id(system: System) -> str:
    """Return the identity of this boot."""
    return system.read_text(system.root / "proc/sys/kernel/random/boot_id").strip()


def start_ticks(system: System, pid: int) -> int | None:
    """Return when a process or kernel thread started, in clock ticks after boot; None if there is none."""
    try:
        text = system.read_text(system.root / f"proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])


def n_kdamonds(system: System) -> int:
    """Return how many kdamonds are configured; nobody can change that while one of them runs."""
    return int(read(system, system.root / ADMIN / "nr_kdamonds"))


def kdamond_pid(system: System, number: int) -> int:
    """Return the PID of a kdamond, -1 while it is off, or gone since somebody changed their number."""
    directory = system.root / ADMIN / str(number)
    try:
        return int(read(system, directory / "pid")) if read(system, directory / "state") == "on" else -1
    except FileNotFoundError:
        return -1


def running(system: System, number: int) -> dict[str, int]:
    """Return PID and start time of a kdamond, for the state file; those of :data:`OFF` while it is off."""
    pid = kdamond_pid(system, number)
    return {"pid": pid, "start_ticks": start_ticks(system, pid) or 0} if pid > 0 else OFF


def whose(system: System, state: dict[str, Any], numbers: Iterable[int] | None = None) -> str:
    """Say why what is configured is not what ``state`` says gpuscan configured; empty if it is.

    Args:
        system: whose DAMON it is.
        state: as it was noted.
        numbers: of the kdamonds to look at; all without it.
    """
    n = n_kdamonds(system)
    if not state or state.get("boot_id") != boot_id(system):
        return "no state file of this boot says that it is gpuscan's"
    if n != state.get("n_kdamonds"):
        return f"{n} kdamonds are configured, gpuscan's state file says {state.get('n_kdamonds')}"
    noted = state.get("kdamonds") or []
    wanted = state.get("configured") or []
    for number in range(n) if numbers is None else numbers:
        # Of a spare one nothing may be configured, and then it is off.
        pid = kdamond_pid(system, number) if number < len(wanted) else -1
        known = noted[number] if number < len(noted) else None
        if pid > 0 and known is not None and known["pid"] > 0:
            if (pid, start_ticks(system, pid) or 0) == (known["pid"], known["start_ticks"]):
                continue
            if kdamond_pid(system, number) == pid:
                return f"kdamond {number} (process {pid}) is another one than gpuscan started"
        # Off, perhaps just now, or switched on and not noted yet: then what it was to watch must be what
        # was noted.
        found = _configured(system, number)
        if found and found not in wanted[number : number + 1]:
            return f"kdamond {number} is configured for something else than gpuscan's state file says"
    return ""


def _configured(system: System, number: int) -> str:
    """Return operations and target of a kdamond, such as ``vaddr 1234``; empty if nothing is configured."""
    context = system.root / ADMIN / str(number) / "contexts/0"
    try:
        operations = read(system, context / "operations")
        target = context / "targets/0/pid_target"
        pid = read(system, target) if operations == "vaddr" else ""
    except FileNotFoundError:
        return ""
    if operations == "vaddr" and pid == "0":  # between two writes
        return ""
    return f"{operations} {pid}".strip()


def is_own(system: System, state: dict[str, Any], number: int) -> bool:
    """Whether a kdamond runs, or is configured, and is what ``state`` says that gpuscan started there."""
    if whose(system, state, [number]):
        return False
    return kdamond_pid(system, number) > 0 or bool(_configured(system, number))


def write(system: System, path: Path, value: int | str) -> None:
    """Write to a file of sysfs, which takes a value in one system call."""
    _asked_again(system, lambda: system.write_text(path, str(value)))


def read(system: System, path: Path) -> str:
    """Return what a file of sysfs says, without blanks at its ends."""
    return _asked_again(system, lambda: system.read_text(path)).strip()


def _asked_again(system: System, ask: Callable[[], _T]) -> _T:
    # mm/damon/sysfs.c only tries to take its lock (mutex_trylock()) and says EBUSY where a kdamond, or
    # another reader, holds it. Many kdamonds take it by turns, so there is a time and not a number of tries.
    deadline_ns = None
    while True:
        try:
            return ask()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            now_ns = system.monotonic_ns()
            deadline_ns = now_ns + _BUSY_WITHIN_NS if deadline_ns is None else deadline_ns
            if now_ns >= deadline_ns:
                raise
        system.sleep(_BUSY_S)


def give_back(system: System, state: dict[str, Any]) -> str:
    """Stop what gpuscan started, and leave nothing configured, as it found DAMON.

    Where somebody else configured something meanwhile, that and the number of kdamonds stay as they are.

    Returns:
        Why not all that is configured is gpuscan's; empty if it is.
    """
    why = whose(system, state)
    if why:
        for number in _own(system, state):
            if stop(system, number):
                write(system, system.root / ADMIN / str(number) / "contexts/nr_contexts", 0)
    else:
        switch_off(system, range(len(state.get("configured") or [])))
    return why


def _own(system: System, state: dict[str, Any]) -> list[int]:
    if whose(system, state, ()):  # their number is another one, or it is another boot
        return []
    noted = range(len(state.get("configured") or []))
    return [number for number in noted if is_own(system, state, number)]


def switch_off(system: System, numbers: Iterable[int]) -> None:
    """Stop these kdamonds, which are all that may run, and leave none configured."""
    for number in numbers:
        stop(system, number)
    write(system, system.root / ADMIN / "nr_kdamonds", 0)


def stop(system: System, number: int) -> bool:
    """Stop a kdamond, if it is on; the others go on. Return whether it is off."""
    state = system.root / ADMIN / str(number) / "state"
    if read(system, state) != "on":
        return True
    with contextlib.suppress(OSError):  # it may end by itself, with its process
        write(system, state, "off")
    deadline_ns = system.monotonic_ns() + _OFF_WITHIN_NS
    while read(system, state) == "on":
        if system.monotonic_ns() >= deadline_ns:
            return False
        system.sleep(0.01)
    return True


def trace_instance(system: System) -> str:
    """Return the name of this gpuscan's trace instance."""
    return f"{_INSTANCE}{system.getpid()}"


def trace_instances(system: System, state: dict[str, Any]) -> set[str]:
    """Return the trace instances of this boot that a state file names."""
    if state.get("boot_id") != boot_id(system):
        return set()
    named = state.get("trace_instances", [state.get("trace_instance")])  # at first it was one
    names = map(str, named) if isinstance(named, list) else ()
    return {name for name in names if name.startswith(_INSTANCE) and name.removeprefix(_INSTANCE).isdigit()}


def remove_traces(system: System, state: dict[str, Any]) -> list[str]:
    """Remove the trace instances that a state file names; return those that cannot be removed now."""
    return [name for name in sorted(trace_instances(system, state)) if not _is_removed(system, name)]


def _is_removed(system: System, name: str) -> bool:
    try:
        system.rmdir(system.root / TRACING / "instances" / name)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def settle(system: System, state_file: StateFile) -> bool:
    """Clear the state file once DAMON is given back and its trace instances are gone.

    Returns:
        Whether nothing is left. A kdamond that does not stop and an instance that somebody reads stay noted,
        and the watchdog and the next gpuscan try again.
    """
    state = state_file.read()
    left = remove_traces(system, state)
    if any(kdamond_pid(system, number) > 0 for number in _own(system, state)):
        return False
    if left:
        state_file.write({"boot_id": boot_id(system), "n_kdamonds": 0, "trace_instances": left})
    else:
        state_file.clear()
    return not left


def restore(system: System, state_file: StateFile) -> str:
    """Give back what a gpuscan that is gone left, if anything.

    Returns:
        Why DAMON is not free now; empty if it is.
    """
    why = give_back(system, state_file.read()) if n_kdamonds(system) else ""
    settle(system, state_file)
    return why


def _watch(system: System) -> int:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        system.on_signal(signum, signal.SIG_IGN)
    if system.read(0, 1):  # gpuscan has cleaned up itself
        return 0
    deadline_ns = system.monotonic_ns() + _CLEAN_UP_WITHIN_NS
    while not _has_cleaned_up(system) and system.monotonic_ns() < deadline_ns:
        system.sleep(_CLEAN_UP_AGAIN_S)
    return 0


def _has_cleaned_up(system: System) -> bool:
    # Not at the first try, perhaps: a process that ends closes its files one after the other, the last
    # first (task_work_add(), kernel/task_work.c, v6.12), so the pipe goes before the lock does.
    try:
        state_file = StateFile(system)
        try:
            restore(system, state_file)
            return not state_file.read()
        finally:
            state_file.close()
    except OSError:
        return False


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))  # -I leaves it out, and the package is none without packages
    system = importlib.import_module("system")
    sys.exit(_watch(system.System(Path(sys.argv[1]))))
