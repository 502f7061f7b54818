"""What can watch the accesses of a simulated machine: the NUMA balancing scanner, or other hardware.

An observer sees what its original could see and keeps it until its source
(:mod:`gpuscan.producers`) takes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpuscan.sim.process import Process, Stretch


class Observer(Protocol):
    """Watches the processes of one machine, one after the other, each in the order of its time."""

    def visits_ns(self, process: Process, start_ns: int, end_ns: int) -> Iterable[int]:
        """Return when it looks at the page table of a process in ``[start_ns, end_ns)``."""
        ...

    def visit(self, process: Process, now_ns: int) -> None:
        """Look at the page table of a process; every access before ``now_ns`` has been reported."""
        ...

    def accessed(
        self,
        process: Process,
        stretch: Stretch,
        first_access: int,
        folios: NDArray[np.int64],
        faulted: NDArray[np.int64],
    ) -> None:
        """See accesses that a process just made.

        Args:
            process: who.
            stretch: from where.
            first_access: number of the first of them.
            folios: int64[n], what was accessed, from 0 in the process, in order.
            faulted: int64[m], positions in ``folios`` of the accesses that met PROT_NONE, ascending.
        """
        ...


class SeesAccesses:
    """What an :class:`Observer` has in common with others that see accesses and no page tables."""

    def visits_ns(self, process: Process, start_ns: int, end_ns: int) -> Iterable[int]:
        """Return nothing: page tables are not looked at."""
        return ()

    def visit(self, process: Process, now_ns: int) -> None:
        """See :meth:`visits_ns`."""


def access_ns(process: Process, accesses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the times of accesses by number: access k happens when ``accesses_per_s * t`` reaches k + 1."""
    return ((accesses + 1) * (1e9 / process.spec.accesses_per_s)).astype(np.int64)
