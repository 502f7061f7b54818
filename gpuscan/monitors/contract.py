"""What a monitor of real memory offers: the pages of processes that were accessed, and those that were not.

There is one monitor per mechanism of the kernel; :mod:`gpuscan.monitors.catalogue` finds them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from gpuscan.linux.capabilities import Right
from gpuscan.linux.system import HERE, System

if TYPE_CHECKING:
    from gpuscan.linux.damon import Intervals
    from gpuscan.linux.process import Process
    from gpuscan.linux.write_tracking import TrackedProgram
    from gpuscan.monitors.touched import Touched
    from gpuscan.topology.model import Topology


class Monitor(Protocol):
    """A mechanism that tells which pages are accessed, open.

    Attributes:
        name: as ``--monitor`` takes it.
        sees: what it sees and how finely, in a few words.
    """

    name: str
    sees: str

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


class StartsProgram(ABC):
    """A monitor that starts the program that it watches."""

    @abstractmethod
    def start(
        self, argv: Sequence[str], stdout: int | None = None, on_started: Callable[[], None] = lambda: None
    ) -> TrackedProgram:
        """Start the program; see :class:`gpuscan.linux.write_tracking.TrackedProgram`."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known when a monitor is opened.

    Attributes:
        topology: of the machine; physical memory to watch is that of its nodes.
        n_processes: how many processes there are to watch.
        starts: whether gpuscan will start the process.
        intervals: of DAMON; None for those that it has by itself.
        cold_after_ns: when a page counts as cold; None where cold pages are of no interest.
        system: where they run.
        is_looking: the first monitor that fits is looked for; else this one was asked for by its name.
    """

    topology: Topology
    n_processes: int
    starts: bool = False
    intervals: Intervals | None = None
    cold_after_ns: int | None = None
    system: System = HERE
    is_looking: bool = False

    def looking(self) -> Circumstances:
        """Return the same while the first that fits is looked for."""
        return replace(self, is_looking=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorKind:
    """What a monitor declares; all of it.

    Attributes:
        place_in_auto: those of ``auto`` are tried by ascending places, and by name among equals; None: only
            taken by its name. The built-in ones have 10, 20, ... 60.
        opens: rights that opening it needs and nothing later does.
        keeps: rights that it goes on to need once it is open. Neither has what every live run needs.
        watches_frames: what it watches is the machine's physical memory, so it is opened anew when some
            comes or goes.
        open: opens it, so that :attr:`Monitor.name` is that which it is asked for by. Raises an
            :class:`InputError` that says why where it does not work, or lets :class:`OSError` pass; it has
            changed nothing then.
    """

    place_in_auto: int | None
    opens: Sequence[Right]
    keeps: Sequence[Right]
    watches_frames: bool
    open: Callable[[Circumstances], Monitor]
