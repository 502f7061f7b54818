"""Settings of the kernel that gpuscan changes for a while: noted before, put back afterwards.

A setting has no owner. So what it was, and what gpuscan makes of it, is in a state file before it is written,
and that file is locked meanwhile. Put back is only what is still as gpuscan made it: whoever set it since
then meant it. What a killed gpuscan left is known by the file and the boot, and the next one puts it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.linux import damon_state
from gpuscan.linux.damon_state import StateFile
from gpuscan.linux.system import System

STATE_FILE = "run/gpuscan/settings.json"
NUMA_BALANCING = "proc/sys/kernel/numa_balancing"
"""Bits: 1 between nodes with CPUs, 2 between tiers (Documentation/admin-guide/sysctl/kernel.rst, v5.18).
Whoever writes it is root and has CAP_SYS_ADMIN (sysctl_numa_balancing(), kernel/sched/core.c)."""
PROMOTION_RATE = "proc/sys/kernel/numa_balancing_promote_rate_limit_MBps"
"""Of each node that pages go to, in MiB/s (v6.1)."""
DEMOTION = "sys/kernel/mm/numa/demotion_enabled"
"""Whether reclaim moves pages down; ``true`` or ``false`` (demotion_enabled_show(), mm/memory-tiers.c)."""
SETTINGS = (NUMA_BALANCING, PROMOTION_RATE, DEMOTION)
"""All of them."""


class _Changed(NamedTuple):
    """A setting as it was found, and what gpuscan made of it, the newest last."""

    before: str
    ours: list[str]


class SettingsTakenError(InputError):
    """Another gpuscan has them."""


class KernelSettings:
    """The settings, for this process alone. Close it, whatever happens; the next one does after a kill.

    Args:
        system: whose they are.

    Raises:
        InputError: another gpuscan has them, or what is done could not be noted.
        OSError: what an earlier one left cannot be put back.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        place = system.root / STATE_FILE
        try:
            self._state_file = StateFile(system, STATE_FILE)
        except BlockingIOError:
            raise SettingsTakenError(
                f"another gpuscan changes settings of the kernel (it holds the lock on {place}); end it"
            ) from None
        except OSError as error:
            raise InputError(
                f"{place} cannot be made ({error.strerror}), and without it settings of the kernel could not "
                "be put back after a crash; make the place writable"
            ) from error
        try:
            self._set = _noted(system, self._state_file.read())
            self.left: tuple[str, ...] = tuple(self._set)
            """Those that an earlier gpuscan had left changed."""
            self.put_back()
            self._note()
        except BaseException:
            self._state_file.close()
            raise

    def read(self, name: str) -> str:
        """Return what a setting is.

        Raises:
            InputError: this kernel has no such setting.
        """
        path = self._system.root / name
        try:
            return self._system.read_text(path).strip()
        except FileNotFoundError:
            raise InputError(
                f"{path} is not there: this kernel cannot do that, or /proc or /sys is not mounted"
            ) from None

    def check(self, name: str) -> None:
        """Refuse a setting that is not there, or may not be changed.

        Raises:
            InputError: says which.
        """
        self.read(name)
        path = self._system.root / name
        if not self._system.may_write(path):
            raise InputError(
                f"{path} may not be written: root owns it, and containers have it read-only; "
                "run gpuscan as root, outside of one"
            )

    def set(self, wanted: Mapping[str, str]) -> None:
        """Let settings be so, and put back all others that were changed; what is so already stays untouched.

        Args:
            wanted: value by name.

        Raises:
            InputError: the kernel has no such setting, or made something else of it.
            OSError: it refuses.
        """
        for name in [name for name in reversed(self._set) if name not in wanted]:
            self._put_back(name)
        for name, value in wanted.items():
            found, known = self.read(name), self._set.get(name)
            is_ours = known is not None and found in known.ours
            if found == value:
                if known is not None and not is_ours:
                    del self._set[name]
                    self._note()  # somebody else wants it so, too
                continue
            before = known.before if known is not None and is_ours else found
            # Killed before it is written, it is what it was, or what gpuscan made of it earlier.
            self._set[name] = _Changed(before, [found, value] if is_ours else [value])
            self._note()
            self._system.write_text(self._system.root / name, value)
            self._set[name] = _Changed(before, [value])
            self._note()
            if (made := self.read(name)) != value:
                raise InputError(
                    f"{self._system.root / name} was set to {value}, and is {made}; leave that out"
                )

    def changed_by_others(self) -> list[str]:
        """Return which settings are not as they were set here, and what they are, in words."""
        found = ((self._system.root / name, self.read(name), each.ours) for name, each in self._set.items())
        return [f"{path} is {now}, not {ours[-1]} any more" for path, now, ours in found if now not in ours]

    def put_back(self) -> None:
        """Let each setting be as it was found, but for those that somebody else changed since.

        Raises:
            OSError: the kernel refuses; what is left stays noted.
        """
        for name in list(reversed(self._set)):
            self._put_back(name)

    def _put_back(self, name: str) -> None:
        each = self._set[name]
        if self.read(name) in each.ours:
            self._system.write_text(self._system.root / name, each.before)
        del self._set[name]
        self._note()

    def _note(self) -> None:
        if self._set:
            settings = {name: each._asdict() for name, each in self._set.items()}
            self._state_file.write({"boot_id": damon_state.boot_id(self._system), "settings": settings})
        else:
            self._state_file.clear()

    def close(self) -> None:
        """Put all of them back, and give up the lock."""
        try:
            self.put_back()
        finally:
            self._state_file.close()


def _noted(system: System, state: dict[str, Any]) -> dict[str, _Changed]:
    """Return what a gpuscan of this boot noted, by name; after a boot all is as the boot made it."""
    noted = state.get("settings")
    if not isinstance(noted, dict) or state.get("boot_id") != damon_state.boot_id(system):
        return {}
    return {
        name: _Changed(str(each.get("before")), list(map(str, each["ours"])))
        for name, each in noted.items()
        if name in SETTINGS and isinstance(each, dict) and isinstance(each.get("ours"), list)
    }


def put_back_what_was_left(system: System) -> tuple[str, ...]:
    """Put back what a gpuscan that was killed left changed; return which settings that were.

    Where another gpuscan has them, nothing is done.

    Raises:
        InputError: see :class:`KernelSettings`.
        RunFailedError: the kernel refuses.
    """
    if not system.is_file(system.root / STATE_FILE):
        return ()
    try:
        settings = KernelSettings(system)
        settings.close()
    except SettingsTakenError:
        return ()
    except OSError as error:
        raise RunFailedError(
            f"what an earlier gpuscan left changed cannot be put back ({error.strerror}: {error.filename}); "
            "run it as root"
        ) from error
    return settings.left
