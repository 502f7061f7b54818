"""What a design may be told: the kernel's own bounds of its tunables. What it refuses is refused.

Each design declares its own (``gpuscan/designs/built_in/``). pghot's are those of include/linux/pghot.h and
of the sysctl table and debugfs files of mm/pghot.c, as the tree after "[PATCH v7 0/7] mm: Hot page tracking
and promotion infrastructure" has them (those of the threshold are the same in the debugfs files of earlier
versions); kpromoted's those of the sysctl table of its mm/pghot.c ("[RFC PATCH v2 0/8]"). Batch and pause of
kmigrated (RFC v1) and of kpromoted are constants of their code and have no bounds there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpuscan.base.errors import InputError

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy

MIB = 1 << 20
NS_PER_MS = 1_000_000
INT_MAX = (1 << 31) - 1
"""proc_dointvec_minmax() takes no more."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What one value may be.

    Attributes:
        key: what a user sets.
        value: what was set, in ``unit``.
        least, most: inclusive.
        unit: with a space before it, or nothing.
        source: the kernel's name for the bounds.
    """

    key: str
    value: float
    least: int
    most: int
    unit: str
    source: str

    def check(self, design: str) -> None:
        """Refuse a value out of bounds.

        Raises:
            InputError: it is.
        """
        if not self.least <= self.value <= self.most:
            raise InputError(
                f"{design} takes a {self.key} from {self.least:,} to {self.most:,}{self.unit} "
                f"({self.source}), not {self.value:,g}{self.unit}; give one of these"
            )


@dataclass(frozen=True, slots=True)
class Divisor:
    """A value that must divide another: see :class:`Bound`."""

    key: str
    value: int
    of: int
    unit: str

    def check(self, design: str) -> None:
        """Refuse a value that does not.

        Raises:
            InputError: it is one.
        """
        if self.of % self.value:
            raise InputError(
                f"{design} with {self.value} {self.unit} ({self.key}); give a divisor of {self.of}"
            )


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was set.

    Attributes:
        policy: threshold, window, rate limit, record format and ``hz`` of it hold for a design.
        mark: what the producer does.
        sleep_ns, batch_folios: of a thread; None: as published.
    """

    policy: Policy
    mark: Literal["request", "record"] = "request"
    sleep_ns: int | None = None
    batch_folios: int | None = None


def no_bounds(_: Tuning) -> Iterator[Bound | Divisor]:
    """Yield nothing: all of it is constants."""
    return iter(())


def whole_ms(policy: Policy) -> Divisor:
    """Return that a jiffy must be whole milliseconds: the models convert without a remainder."""
    return Divisor("policy.hz", policy.hz, 1000, "jiffies a second")


def rate_limit_bounds(policy: Policy) -> Iterator[Bound]:
    """Yield the bounds of ``pghot_promote_rate_limit_MBps``, where there is a limit."""
    rate = policy.rate_limit_bytes_per_s / MIB
    if rate:
        yield Bound("policy.rate_limit", rate, 1, INT_MAX, " MiB a second", "pghot_promote_rate_limit_MBps")
