"""Cgroups of a test's own, which end with all that runs in them."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .processes import eventually

CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def cgroups(name: str, below: Collection[str], controllers: str = "") -> Iterator[Path]:
    """Make a cgroup with others below it, and yield its directory; at the end all in it is killed.

    Args:
        name: of the cgroup.
        below: names of those below it.
        controllers: that those have, ``+memory +cpuset``.
    """
    if not (CGROUPS / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUPS)], check=True)
    place = CGROUPS / name
    place.mkdir()
    try:
        for above in (CGROUPS, place):
            (above / "cgroup.subtree_control").write_text(controllers)
        for each in below:
            (place / each).mkdir()
        yield place
    finally:
        (place / "cgroup.kill").write_text("1")
        eventually(lambda: "populated 0" in (place / "cgroup.events").read_text(), "all in it has ended")
        for each in below:
            (place / each).rmdir()
        place.rmdir()
