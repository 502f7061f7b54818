"""How long to pause before a look, so that all of them together stay below a share of a core."""

from __future__ import annotations

LONGEST_NS = 60_000_000_000
"""A pause is never longer: where that is not enough, the share is exceeded, counted and said."""
_SAVED_NS = 1_000_000_000
"""What was not used is kept for as long: a look after a quiet time may cost more."""
_WEIGHT = 0.25
_CAUTION = 1.1


class Pace:
    """A ceiling for the CPU time of this process.

    What it may take grows with time; a look is due once what it will cost, as those before did, is there.

    Args:
        share: of one core, above 0.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.cost_ns = 0.0
        """Of a look, as the last ones cost."""
        self.n_lengthened = 0
        """Pauses that were longer than they would have been."""
        self.n_exceeded = 0
        """Looks after which even the longest pause was too short."""
        self._saved_ns = 0.0

    def took(self, cpu_ns: int, elapsed_ns: int) -> None:
        """Hear what the time since the last call cost, one look in it.

        Args:
            cpu_ns: CPU time.
            elapsed_ns: how long that was.
        """
        self.rested(cpu_ns, elapsed_ns)
        # What one look cost beyond the others, when processes came for example, is owed once, not at each.
        self.cost_ns += (_WEIGHT if self.cost_ns else 1.0) * (cpu_ns - self.cost_ns)
        if self._needed_ns() > LONGEST_NS:
            self.n_exceeded += 1
            self._saved_ns = max(self._saved_ns, -self.share * LONGEST_NS)

    def rested(self, cpu_ns: int, elapsed_ns: int) -> None:
        """Hear what a time without a look cost."""
        self._saved_ns = min(self.share * _SAVED_NS, self._saved_ns + self.share * elapsed_ns - cpu_ns)

    def _needed_ns(self) -> float:
        return max(0.0, (_CAUTION * self.cost_ns - self._saved_ns) / self.share)

    def pause_ns(self, wanted_ns: int) -> int:
        """Return how long to pause where it would be ``wanted_ns``: as long, or longer, up to a minute."""
        return max(wanted_ns, min(LONGEST_NS, int(self._needed_ns())))

    def lengthens(self, wanted_ns: int) -> bool:
        """Note a pause that is about to be made; return whether it is longer than wanted."""
        is_longer = self.pause_ns(wanted_ns) > wanted_ns
        self.n_lengthened += is_longer
        return is_longer
