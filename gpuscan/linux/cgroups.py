"""The tree of memory cgroups: which directory has which inode number.

/proc/kpagecgroup names cgroups by the inode number of their directory (Documentation/admin-guide/mm/
pagemap.rst). Hierarchies of cgroup v1 number theirs each for itself, so that of memory is looked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gpuscan.base.errors import InputError

CGROUPS = Path("sys/fs/cgroup")


class MemoryCgroups:
    """The memory cgroups that are there, seen once.

    Args:
        root: below which /sys lies.
    """

    def __init__(self, root: Path) -> None:
        self._mounts = root / CGROUPS
        self._top = _top(self._mounts)
        self.path_of: Mapping[int, str] = {} if self._top is None else _walked(self._top)
        """Path below the top of the hierarchy, ``/`` for itself, by inode number."""

    def name_of(self, path: Path) -> str:
        """Return the name of a cgroup: its path below the top.

        Args:
            path: of its directory, below /sys/fs/cgroup if it is relative; or its name, as is returned.

        Raises:
            InputError: there is no such memory cgroup.
        """
        if self._top is None:
            raise InputError(
                f"{self._mounts} has no memory cgroups; mount cgroup2 there, or capture without --cgroup"
            )
        is_name = path.is_absolute() and not path.is_relative_to(self._mounts)
        place = self._top / path.relative_to(path.anchor) if is_name else self._mounts / path
        try:
            name = _name(place.resolve(), self._top.resolve())
        except ValueError:
            raise InputError(
                f"{place} is not below {self._top}; give a memory cgroup, by its path there"
            ) from None
        if name not in self.path_of.values():
            raise InputError(f"{place} is no cgroup; give the path of one below {self._top}")
        return name


def is_in(name: str, top: str) -> bool:
    """Whether a cgroup is another one, or below it; both by their names."""
    return name == top or name.startswith(f"{top.rstrip('/')}/")


def _top(mounts: Path) -> Path | None:
    """Return the directory of the hierarchy that memory is charged in, None where there is none."""
    if (mounts / "cgroup.controllers").is_file():
        return mounts
    if (mounts / "memory/cgroup.procs").is_file():
        return mounts / "memory"
    with suppress(OSError):
        if "memory" in (mounts / "unified/cgroup.controllers").read_text(errors="replace").split():
            return mounts / "unified"
    return None


def _walked(top: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        with suppress(OSError):  # it was removed meanwhile
            found[directory.stat().st_ino] = _name(directory, top)
            waiting += [entry for entry in directory.iterdir() if entry.is_dir() and not entry.is_symlink()]
    return found


def _name(directory: Path, top: Path) -> str:
    """Return a path below the top as a text: whoever may make a cgroup may give it any bytes for a name."""
    below = os.fsencode(directory.relative_to(top)).decode("utf-8", "replace")
    return "/" if below == "." else f"/{below}"
