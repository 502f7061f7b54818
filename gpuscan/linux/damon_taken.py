"""DAMON's sysfs, taken: whose it is, what is noted before each step, and how it is given back.

Layout: Documentation/admin-guide/mm/damon/usage.rst. Rules: :mod:`gpuscan.linux.damon_state`.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.linux import damon_state
from gpuscan.linux.capabilities import Right
from gpuscan.linux.damon_state import ADMIN, STATE_FILE, StateFile
from gpuscan.linux.privileges import give_up_before_exec
from gpuscan.linux.process import read_stat
from gpuscan.linux.system import HERE, System

SYSFS = Right("CAP_DAC_OVERRIDE", "to write DAMON's sysfs, which root owns", unless_root=True)
"""And tracefs and /run/gpuscan: all that they ask for is to be their owner."""


class DamonUnavailableError(InputError):
    """DAMON cannot be used here; says why."""


class TakenDamon:
    """DAMON's sysfs, taken for this process. Close it, whatever happens; a watchdog does after a kill.

    Args:
        operations: what will be watched, ``vaddr`` or ``paddr``.
        system: whose DAMON it is.

    Raises:
        DamonUnavailableError: the kernel has none or not these operations, it may not be used, or
            somebody else uses it.
    """

    remedy = "take another --monitor"
    """What to do where it cannot be taken."""

    def __init__(self, operations: str, system: System = HERE) -> None:
        self._system = system
        self._operations = operations
        self._admin = system.root / ADMIN
        noted = system.root / STATE_FILE
        self._n = 0
        self._noted: list[str] = []
        """What each kdamond is for, as :mod:`gpuscan.linux.damon_state` compares it; "" where it is free."""
        self._running: list[dict[str, int]] = []
        self._cpu_s: dict[int, float] = {}
        """By number of those that are in use."""
        self._cpu_before_s = 0.0
        self._watchdog: subprocess.Popen[bytes] | None = None
        if not system.is_dir(self._admin):
            raise DamonUnavailableError(
                f"{self._admin} is not there: the kernel has no CONFIG_DAMON_SYSFS, or /sys is not mounted; "
                f"{self.remedy}"
            )
        if not system.may_write(self._admin / "nr_kdamonds"):
            raise DamonUnavailableError(
                f"{self._admin} may not be written, root owns it; run gpuscan with sudo, give it "
                f"{SYSFS.name}, or {self.remedy}"
            )
        n_found = damon_state.n_kdamonds(system)
        if n_found and not system.is_file(noted):
            raise DamonUnavailableError(self._taken(n_found, "no state file says that it is gpuscan's", {}))
        try:
            self._state_file = StateFile(system)
        except BlockingIOError:
            raise DamonUnavailableError(
                f"another gpuscan uses DAMON, or another part of this one (it holds the lock on {noted}); "
                f"end it, or {self.remedy}"
            ) from None
        except OSError as error:
            raise DamonUnavailableError(
                f"{noted} cannot be made ({error.strerror}), and without it DAMON could not be "
                f"given back after a crash; make the place writable, or {self.remedy}"
            ) from error
        try:
            why = damon_state.restore(system, self._state_file)
            if why:
                raise DamonUnavailableError(self._taken(n_found, why, self._state_file.read()))
        except BaseException:
            self._state_file.close()
            raise
        try:
            self._check_operations()
        except BaseException:
            self.close()
            raise

    def _check_operations(self) -> None:
        # Only a context that is configured says what the kernel was built with.
        self._claim([""])
        self._write(self._admin / "0/contexts/nr_contexts", 1)
        context = self._admin / "0/contexts/0"
        try:
            available = self._system.read_text(context / "avail_operations").split()
        except FileNotFoundError:
            raise DamonUnavailableError(
                "this kernel's DAMON does not say what it can watch (it has no avail_operations, which are "
                f"there since v5.19); {self.remedy}"
            ) from None
        self._write(context / "schemes/nr_schemes", 1)
        self._look_at(context)
        self._stop()
        self._check_more()
        if self._operations not in available:
            raise DamonUnavailableError(
                f"this kernel's DAMON watches {', '.join(available) or 'nothing'} but not {self._operations} "
                f"(CONFIG_DAMON_{self._operations.upper()}); {self.remedy}"
            )

    def _look_at(self, context: Path) -> None:
        """See what else a configured context, with one scheme, says of the kernel."""

    def _check_more(self) -> None:
        """Refuse a kernel that lacks what else is needed; nothing is configured."""

    def _claim(self, noted: Sequence[str]) -> None:
        """Make kdamond directories, noting before what they are for.

        A spare one has no thread and nothing configured. More cannot be made while one runs: then the kernel
        refuses to change their number (damon_sysfs_kdamonds_add_dirs(), mm/damon/sysfs.c, v6.12).

        Args:
            noted: operations and target of each, as :mod:`gpuscan.linux.damon_state` compares them; "" for
                a spare one.
        """
        n_found = damon_state.n_kdamonds(self._system)
        if n_found:
            why = "somebody configured it meanwhile"
            raise DamonUnavailableError(self._taken(n_found, why, self._state_file.read()))
        self._n = len(noted)
        self._noted = list(noted)
        self._running = [damon_state.OFF] * self._n
        self._note()
        if self._watchdog is None:
            self._watchdog = self._start_watchdog()
        self._write(self._admin / "nr_kdamonds", self._n)

    def _note(self) -> None:
        """Note what each kdamond is for, and who of them is known to run."""
        n_used = max(self._used(), default=-1) + 1
        self._state_file.write(
            {
                "boot_id": damon_state.boot_id(self._system),
                "n_kdamonds": self._n,
                "configured": self._noted[:n_used],
                "kdamonds": self._running[:n_used],
                "trace_instances": sorted(
                    {damon_state.trace_instance(self._system)}
                    | damon_state.trace_instances(self._system, self._state_file.read())
                ),
            }
        )

    def _note_running(self, numbers: Iterable[int]) -> None:
        """Note who these kdamonds are, now that they are on."""
        for number in numbers:
            self._running[number] = damon_state.running(self._system, number)
        self._note()

    def _used(self) -> list[int]:
        """Return the numbers of the kdamonds that are not spare ones."""
        return [number for number, what in enumerate(self._noted) if what]

    def _free(self, number: int) -> None:
        """Stop a kdamond and let it have nothing configured, so that it is a spare one; to be noted then.

        In this order each state in between is one that the last note allows.
        """
        if not damon_state.stop(self._system, number):
            raise DamonUnavailableError(f"kdamond {number} does not stop; {self.remedy}")
        self._write(self._admin / str(number) / "contexts/nr_contexts", 0)
        self._noted[number], self._running[number] = "", damon_state.OFF
        self._cpu_before_s += self._cpu_s.pop(number, 0.0)

    def _taken(self, n: int, why: str, state: dict[str, Any]) -> str:
        """Say who has DAMON: not those that ``state`` proves ours."""
        on = {
            number: pid for number in range(n) if (pid := damon_state.kdamond_pid(self._system, number)) > 0
        }
        others = [pid for number, pid in on.items() if not damon_state.is_own(self._system, state, number)]
        who = ", ".join(f"process {pid}" for pid in others) or "switched off"
        return (
            f"DAMON is taken: {n} kdamond{'s' if n > 1 else ''} configured ({who}), and {why}; "
            f"leave it to its owner and {self.remedy}"
        )

    def _write(self, path: Path, value: int | str) -> None:
        try:
            damon_state.write(self._system, path, value)
        except OSError as error:
            raise DamonUnavailableError(
                f"{path} does not take {value} ({error.strerror}); {self.remedy}"
            ) from error

    def has_places(self) -> bool:
        """Whether there are kdamonds; somebody may have removed them all, once none of them ran."""
        return damon_state.n_kdamonds(self._system) > 0

    def is_running(self, number: int) -> bool:
        """Whether a kdamond is on; one of a process ends with it."""
        return damon_state.kdamond_pid(self._system, number) > 0

    def cpu_s(self) -> float:
        """Return the CPU time that the kdamonds were last seen to have taken, in seconds."""
        for number in self._used():
            pid = damon_state.kdamond_pid(self._system, number)
            stat = read_stat(pid, self._system) if pid > 0 else None
            if stat is not None:
                self._cpu_s[number] = stat.cpu_s
        return self._cpu_before_s + sum(self._cpu_s.values())

    def close(self) -> None:
        """Stop the kdamonds and leave DAMON as it was found: nothing configured.

        Where somebody else configured something meanwhile, that and the number of kdamonds are left to them.
        """
        goodbye = b""  # without one the watchdog tries, too
        try:
            try:
                self._stop()
            finally:
                self._end_more()
            if damon_state.settle(self._system, self._state_file):
                goodbye = b"."
        finally:
            try:
                self._state_file.close()
            finally:
                self._let_watchdog_go(goodbye)

    def _end_more(self) -> None:
        """Give up what else there is to give up, once nothing runs."""

    def _let_watchdog_go(self, goodbye: bytes) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            with contextlib.suppress(OSError):
                self._watchdog.stdin.write(goodbye)
                self._watchdog.stdin.flush()
            self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None

    def _stop(self) -> None:
        if self._n:
            damon_state.give_back(self._system, self._state_file.read())
            self._n, self._noted = 0, []
            self._cpu_before_s += sum(self._cpu_s.values())
            self._cpu_s.clear()

    def _start_watchdog(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C and a shell's kill of the job do not reach it.
        return self._system.start(
            [sys.executable, "-I", "-S", damon_state.__file__, str(self._system.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_with_rights_to_clean_up,
        )


def _with_rights_to_clean_up() -> None:
    with contextlib.suppress(OSError):  # it is rights too many then, not too few
        give_up_before_exec([SYSFS])


def give_back_what_was_left(system: System) -> None:
    """Give DAMON back where a gpuscan and its watchdog were killed, whoever uses it next.

    Where another gpuscan has it, or what is configured is somebody else's, nothing is done.

    Raises:
        OSError: the kernel refuses.
    """
    if not system.is_file(system.root / STATE_FILE):
        return
    try:
        state_file = StateFile(system)
    except BlockingIOError:
        return
    try:
        if state_file.read():
            damon_state.restore(system, state_file)
    finally:
        state_file.close()
