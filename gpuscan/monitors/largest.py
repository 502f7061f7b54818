"""A monitor that takes so many processes at a time, for more of them: the largest are watched."""

from __future__ import annotations

from collections.abc import Sequence

from gpuscan.linux.process import Process
from gpuscan.monitors.contract import Monitor
from gpuscan.monitors.touched import NOTHING, UNSEEN, Touched

_INCUMBENT = 2
"""A process that is watched gives way to one that is so many times as large: what a monitor has found out
is lost when it starts anew, and sizes change all the time."""


class Largest:
    """The largest processes, by resident memory, watched by another monitor.

    Args:
        monitor: which takes at most ``most`` processes.
        most: how many.
    """

    def __init__(self, monitor: Monitor, most: int) -> None:
        self._monitor = monitor
        self._most = most
        self._processes: list[Process] = []
        self._watched: list[Process] = []
        self._is_refused = False
        self.name = monitor.name
        self.sees = monitor.sees

    def watch(self, processes: Sequence[Process]) -> None:
        """Watch these processes, or the largest of them."""
        self._processes = list(processes)
        n = len(self._processes)
        few = f"; of {n} processes the {self._most} largest" if n > self._most else ""
        self.sees = self._monitor.sees + few
        watched = self._processes if len(self._processes) <= self._most else self._largest()
        # The same ones again: there are others that are not watched.
        is_same = set(map(id, watched)) == set(map(id, self._watched)) and not self._is_refused
        if len(watched) == len(self._processes) or not is_same:
            self._watched, self._is_refused = watched, True
            self._monitor.watch(watched)
            self._is_refused = False

    def _largest(self) -> list[Process]:
        watched = set(map(id, self._watched))
        sizes = [_resident_pages(one) * (_INCUMBENT if id(one) in watched else 1) for one in self._processes]
        by_size = sorted(range(len(sizes)), key=lambda place: -sizes[place])
        return [self._processes[place] for place in sorted(by_size[: self._most])]

    def observe(self, now_ns: int) -> list[Touched]:
        """Return what was touched, for each process; :data:`UNSEEN` for those that are not watched."""
        found = dict(zip(map(id, self._watched), self._monitor.observe(now_ns), strict=False))
        nothing = NOTHING if len(self._watched) == len(self._processes) else UNSEEN
        return [found.get(id(process), nothing) for process in self._processes]

    def cpu_s(self) -> float:
        """Return the CPU time of kernel threads that work for it."""
        return self._monitor.cpu_s()

    def close(self) -> None:
        """Leave the kernel as it was found."""
        self._monitor.close()


def _resident_pages(process: Process) -> int:
    # /proc/PID/statm: the second number is the resident set, in pages.
    words = process.text("statm").split()
    return int(words[1]) if len(words) > 1 else 0
