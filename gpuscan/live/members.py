"""Which processes a live run is about: PIDs, a cgroup, or a command and what it starts."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from gpuscan.base.errors import InputError
from gpuscan.linux.capabilities import Right
from gpuscan.linux.cgroups import CGROUPS
from gpuscan.linux.process import Process, read_stat
from gpuscan.linux.system import HERE, System
from gpuscan.live.starter import Program

END_WITHIN_S = 5.0
"""How long whoever was asked to end may take."""
_STDERR = 2
_AGAIN_NS = 60_000_000_000
"""Who was let go of because a file failed is taken again after so long."""


class Selection(Protocol):
    """What was asked for."""

    changes: bool
    """Whether other processes may belong to it later."""

    def pids(self) -> list[int]:
        """Return the PIDs that belong to it now."""
        ...


class Pids:
    """Processes named one by one."""

    changes = False

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = list(dict.fromkeys(pids))

    def pids(self) -> list[int]:
        """Return the PIDs."""
        return self._pids


class Cgroup:
    """The processes of a cgroup and of those below it (cgroup v2).

    Args:
        path: its directory; relative paths are below /sys/fs/cgroup.
        system: where they run.

    Raises:
        InputError: it is no cgroup.
    """

    changes = True

    def __init__(self, path: Path, system: System = HERE) -> None:
        self._system = system
        self._path = system.root / CGROUPS / path
        if not system.is_file(self._path / "cgroup.procs"):
            raise InputError(f"{self._path} is no cgroup (it has no cgroup.procs); give the path of one")

    def pids(self) -> list[int]:
        """Return the PIDs of its members now; gpuscan itself is not one."""
        found: list[int] = []
        for directory in self._system.walk(self._path):
            with contextlib.suppress(OSError):  # removed meanwhile, or threaded
                found += map(int, self._system.read_text(directory / "cgroup.procs").split())
        return [pid for pid in dict.fromkeys(found) if pid not in (0, self._system.getpid())]


class Command:
    """A command that gpuscan starts, with its descendants.

    Args:
        argv: name and arguments.
        stdout_to_stderr: keep its output out of gpuscan's.
        start: starts it, with the rights of the caller or others.
        system: where they run.

    Raises:
        InputError: it cannot be started.
    """

    changes = True
    keeps = (Right("CAP_KILL", "to end what the command started as another user"),)
    """Rights that it needs."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdout_to_stderr: bool = False,
        start: Callable[[Sequence[str], int | None], Program] | None = None,
        system: System = HERE,
    ) -> None:
        self._system = system
        try:
            stdout = _STDERR if stdout_to_stderr else None
            self._popen = system.start(argv, stdout=stdout) if start is None else start(argv, stdout)
        except OSError as error:
            raise InputError(
                f"{argv[0]} cannot be started ({error.strerror}); give a command after --"
            ) from error
        self.pid = self._popen.pid
        self.was_ended = False
        """Whether it ran until :meth:`end` ended it."""

    def pids(self) -> list[int]:
        """Return the command and its descendants, as far as they are still its descendants.

        None once the command has ended: its PID may be another's then.
        """
        if self._popen.poll() is not None:
            return []
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):  # it ended meanwhile, or one of its threads
                tasks = self._system.root / f"proc/{pid}/task"
                for tid in sorted(self._system.names_in(tasks)):
                    with contextlib.suppress(OSError):
                        found += map(int, self._system.read_text(tasks / tid / "children").split())
        return found

    def end(self, descendants: Sequence[Process] = ()) -> int | None:
        """End the command and what it started, as far as they still run.

        Args:
            descendants: what was seen to be started by it.

        Returns:
            Its exit code (negative: the signal that ended it).
        """
        others = [process for process in descendants if process.pid != self.pid]
        try:
            if self._popen.poll() is None:
                self.was_ended = True
                self._popen.send_signal(signal.SIGTERM)
            for process in others:
                with contextlib.suppress(PermissionError):  # of another user: said when it is to be killed
                    process.send_signal(signal.SIGTERM)
            until_ns = self._system.monotonic_ns() + int(END_WITHIN_S * 1e9)
            self._popen.wait(END_WITHIN_S)
            for process in others:
                process.wait(max(0, until_ns - self._system.monotonic_ns()) / 1e9)
        except BaseException as error:  # another Ctrl-C, too, must not leave them behind
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            try:
                self._kill(others)
            finally:
                if self._popen.poll() is None:
                    self._popen.wait()
        return self._popen.returncode

    def _kill(self, others: Sequence[Process]) -> None:
        """Kill the command and others, however often that is broken off; what went wrong is raised then."""
        went_wrong: BaseException | None = None
        left: list[Callable[[], None]] = [self._kill_command]
        left += [partial(process.send_signal, signal.SIGKILL) for process in others]
        while left:
            try:
                left[0]()
            except KeyboardInterrupt as error:
                went_wrong = error
                continue
            except OSError as error:  # of one of another user, say: that keeps nobody else alive
                went_wrong = went_wrong or error
            del left[0]
        if went_wrong is not None:
            raise went_wrong

    def _kill_command(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()

    def exit_code(self, within_s: float = 0.0) -> int | None:
        """Return its exit code, None while it runs; its end is waited for so long."""
        if within_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(within_s)
        return self._popen.poll()


class Roster:
    """The processes of a selection, each with a number of its own, which is never given to another one.

    Args:
        selection: what was asked for.
        system: where they run.
        releases: lets go of those that run on and do not belong any more, or of which a file cannot be read.

    Raises:
        InputError: a process that was named cannot be watched.
    """

    def __init__(self, selection: Selection, system: System = HERE, *, releases: bool = False) -> None:
        self._selection = selection
        self._releases = releases
        self._system = system
        self.processes: dict[int, Process] = {}
        self._leaving: list[Process] = []
        self._n_seen = 0
        self._failed_ns: dict[int, int] = {}
        self.failures: dict[int, str] = {}
        """Why some are not watched for now, by PID."""
        try:
            if selection.changes:
                self.refresh()
            else:
                for pid in selection.pids():
                    self._enter(Process(pid, system))
        except BaseException:
            self.close()
            raise

    def _enter(self, process: Process) -> None:
        self.processes[self._n_seen] = process
        self._n_seen += 1

    def refresh(self) -> bool:
        """Look who came and went; return whether anybody did. Those that ended are taken off."""
        ended = [number for number, process in self.processes.items() if not process.is_alive()]
        for number in ended:
            process = self.processes.pop(number)
            if process.failure:
                self._note_failure(process.pid, process.failure)
        self._forget_failures()
        changed = bool(ended)
        if not self._selection.changes:
            return changed
        known = {process.pid for process in self.processes.values()}
        newcomers: list[Process] = []
        pids = self._selection.pids()
        if self._releases:
            changed |= self._release(known - set(pids))
        try:
            for pid in pids:
                if pid in known or pid in self.failures:
                    continue
                newcomer = self._newcomer(pid)
                if newcomer is not None:
                    newcomers.append(newcomer)
            # A PID may have become another's before there was a hold on it: asked again, it does not belong.
            members = set(self._selection.pids()) if newcomers else set()
        except BaseException:
            for process in newcomers:
                process.close()
            raise
        for process in newcomers:
            if process.pid in members:
                self._enter(process)
                changed = True
            else:
                process.close()
        return changed

    def _newcomer(self, pid: int) -> Process | None:
        """Return a hold on a process; None where it has gone again, or is none of a program."""
        try:
            stat = read_stat(pid, self._system)
            if stat is None or stat.is_kernel_thread or stat.state == "Z":
                return None
            return Process(pid, self._system, one_of_many=self._releases)
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, ProcessLookupError):
                self._note_failure(pid, str(cause.strerror))
        except OSError as error:
            if not self._releases:
                raise
            self._note_failure(pid, str(error.strerror))
        return None

    def _note_failure(self, pid: int, why: str) -> None:
        self._failed_ns[pid] = self._system.monotonic_ns()
        self.failures[pid] = why

    def _forget_failures(self) -> None:
        now_ns = self._system.monotonic_ns()
        for pid in [pid for pid, at_ns in self._failed_ns.items() if now_ns - at_ns >= _AGAIN_NS]:
            del self._failed_ns[pid], self.failures[pid]

    def _release(self, pids: set[int]) -> bool:
        """Take off processes that run on; return whether there were any."""
        gone = [number for number, process in self.processes.items() if process.pid in pids]
        self._leaving += [self.processes.pop(number) for number in gone]
        return bool(gone)

    def let_go(self) -> None:
        """Close those that were taken off while they run: nobody watches them any more."""
        leaving, self._leaving = self._leaving, []
        for process in leaving:
            process.close()

    def alive(self) -> list[tuple[int, Process]]:
        """Return the processes that run, with their numbers."""
        return [(number, process) for number, process in self.processes.items() if process.is_alive()]

    def is_foreign(self) -> bool:
        """Whether one of the processes is another user's."""
        return any(self._is_foreign(process) for _, process in self.alive())

    def _is_foreign(self, process: Process) -> bool:
        try:
            return self._system.owner(process.proc) != self._system.geteuid()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            return False

    def close(self) -> None:
        """Let go of all of them."""
        self.let_go()
        for process in self.processes.values():
            process.close()
