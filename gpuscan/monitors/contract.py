"""What a monitor of real memory offers: the pages of processes that were accessed, and those that were not.

There is one monitor per mechanism of the kernel: :mod:`gpuscan.monitors.damon`,
:mod:`gpuscan.monitors.pagemap_scan`, :mod:`gpuscan.monitors.kpageflags`, :mod:`gpuscan.monitors.idle`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuscan.linux.capabilities import Right
from gpuscan.linux.process import Process
from gpuscan.linux.ranges import Ranges, as_ranges
from gpuscan.linux.resident import NO_PAGES, Pages


@dataclass(frozen=True, slots=True, eq=False)
class Touched:
    """Pages of one process.

    Attributes:
        hot: were accessed in this tick.
        cold: were not for a long time.
        sure: bool[n_hot], the hot ones for which this tick is proof enough: the monitor looked often, and
            nearly every look found them accessed. None for no such page.
        unseen: the process is not watched, there are too many.
    """

    hot: Pages
    cold: Pages = NO_PAGES
    sure: NDArray[np.bool_] | None = None
    unseen: bool = False


NOTHING = Touched(NO_PAGES)
UNSEEN = Touched(NO_PAGES, unseen=True)


class Monitor(Protocol):
    """A mechanism that tells which pages are accessed.

    Attributes:
        name: as ``--monitor`` takes it.
        sees: what it sees and how finely, in a few words.
    """

    name: str
    sees: str

    @property
    def keeps(self) -> Sequence[Right]:
        """Rights that it goes on to need once it is open, beside what every live run needs."""
        ...

    def watch(self, processes: Sequence[Process]) -> None:
        """Watch these processes from now on, and no others."""
        ...

    def observe(self, now_ns: int) -> list[Touched]:
        """Return what was touched since the last call, for each process watched, in their order."""
        ...

    def cpu_s(self) -> float:
        """Return the CPU time that kernel threads of its own took, in seconds."""
        ...

    def close(self) -> None:
        """Leave the kernel as it was found."""
        ...


REHEARSED_PAGES = 1 << 16
"""Pages on which looks are rehearsed before the monitor is on: many as in a first look, but not all."""


def mapped(process: Process, *, writable: bool = False, accessible: bool = False) -> Ranges:
    """Return the mappings of a process whose pages could move, those that touch as one.

    Args:
        process: whose.
        writable: only those that may be written.
        accessible: only those that are more than reserved (PROT_NONE).
    """
    return as_ranges(
        (mapping.start, mapping.end)
        for mapping in process.mappings()
        if not mapping.is_special
        and not (writable and "w" not in mapping.permissions)
        and not (accessible and mapping.permissions.startswith("---"))
    )


class LastSeen:
    """When each page of one process was last seen accessed: monitors that see pages, not regions, need it."""

    def __init__(self) -> None:
        self._address = np.empty(0, dtype=np.int64)
        self._seen_ns = np.empty(0, dtype=np.int64)

    def cold(
        self, address: NDArray[np.int64], hot: NDArray[np.bool_], now_ns: int, cold_after_ns: int
    ) -> NDArray[np.bool_]:
        """Take in one look and say which pages were accessed in none of the last ``cold_after_ns``.

        Args:
            address: int64[n], all resident pages, ascending. A page that was not there before counts
                as accessed now.
            hot: bool[n].
            now_ns: the time.
            cold_after_ns: how long.
        """
        seen_ns = np.full(len(address), now_ns, dtype=np.int64)
        if len(self._address):
            place = np.minimum(np.searchsorted(self._address, address), len(self._address) - 1)
            known = (self._address[place] == address) & ~hot
            seen_ns[known] = self._seen_ns[place[known]]
        self._address, self._seen_ns = address, seen_ns
        cold: NDArray[np.bool_] = now_ns - seen_ns >= cold_after_ns
        return cold


class PageMonitor(ABC):
    """A monitor that looks at processes page by page, one after the other, without a thread of the kernel's.

    Args:
        cold_after_ns: report pages not seen accessed for this long as cold; None reports none.
    """

    opens: ClassVar[Sequence[Right]] = ()
    """Rights that opening it needs and nothing later does."""
    keeps: Sequence[Right] = ()

    def __init__(self, cold_after_ns: int | None) -> None:
        self._cold_after_ns = cold_after_ns
        self._processes: list[Process] = []
        self._last_seen: dict[int, LastSeen] = {}

    def watch(self, processes: Sequence[Process]) -> None:
        """Watch these processes from now on; what is known of those watched already is kept."""
        self._processes = list(processes)
        self._last_seen = {process.pid: self._last_seen.get(process.pid, LastSeen()) for process in processes}

    def _new(self, processes: Sequence[Process]) -> list[Process]:
        """Return those that are not watched yet."""
        known = set(map(id, self._processes))
        return [process for process in processes if id(process) not in known]

    def observe(self, now_ns: int) -> list[Touched]:
        """See :meth:`Monitor.observe`."""
        return [self._observed(process, now_ns) for process in self._processes]

    def cpu_s(self) -> float:
        """Return 0: no thread of the kernel's works for it."""
        return 0.0

    @abstractmethod
    def _observed(self, process: Process, now_ns: int) -> Touched:
        """Look at one process, and let the next look see what comes after this one."""

    def _touched(self, process: Process, pages: Pages, hot: NDArray[np.bool_], now_ns: int) -> Touched:
        """Return all resident pages of a process as hot and cold ones."""
        if self._cold_after_ns is None:
            return Touched(pages.take(hot))
        cold = self._last_seen[process.pid].cold(pages.address, hot, now_ns, self._cold_after_ns)
        return Touched(pages.take(hot), pages.take(cold))
