"""What a spinlock costs those who take it, modelled from how long it is held and how often."""

from __future__ import annotations

from dataclasses import dataclass

from gpuscan.sim.spec import KernelCostSpec


@dataclass(slots=True)
class LockUse:
    """How one lock, or several that are used alike, were held in some stretch of time.

    Attributes:
        n_holds: how often.
        n_lines, n_lines_squared: sums over the holds: cold cache lines touched meanwhile, and their squares.
    """

    n_holds: int = 0
    n_lines: int = 0
    n_lines_squared: int = 0

    def hold(self, n_lines: int) -> None:
        """Note that the lock was held for as long as ``n_lines`` cold lines take."""
        self.n_holds += 1
        self.n_lines += n_lines
        self.n_lines_squared += n_lines * n_lines

    def wait_ns(self, duration_ns: float, cost: KernelCostSpec, n_cpus: int, n_locks: int = 1) -> float:
        """Return how long one hold waits on average: M/G/1, the Pollaczek-Khinchine mean.

        A hold lasts two locked instructions (one of them to let go) and its lines. Beyond what
        the formula can say (a lock that is always held), everybody waits for all others.

        Args:
            duration_ns: the stretch of time.
            cost: of lines and atomics.
            n_cpus: how many can wait: all but the one that holds it.
            n_locks: over how many locks the holds are spread.
        """
        if not self.n_holds:
            return 0.0
        fixed, line = 2 * cost.atomic_ns, cost.cold_line_ns
        mean = fixed + line * self.n_lines / self.n_holds
        squares = line * line * self.n_lines_squared + 2 * fixed * line * self.n_lines
        mean_square = fixed * fixed + squares / self.n_holds
        per_ns = self.n_holds / n_locks / duration_ns
        most = (n_cpus - 1) * mean
        busy = per_ns * mean
        if busy >= 1.0:
            return most
        return min(most, per_ns * mean_square / (2.0 * (1.0 - busy)))
