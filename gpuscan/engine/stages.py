"""What passes between the stages, and what a source and a migrator must offer.

    source -> store.request / store.record -> scan -> Plan -> batches -> migrator -> outcomes -> ledger

A stage never calls back: what it found out is in what it returns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import ArraySpec, check_arrays, instance, items, one_of, real, settle, text, whole
from gpuscan.kernels.signatures import MAX_ORDER

_ERRNO_MAX = 4095
"""MAX_ERRNO of the kernel (include/linux/err.h)."""
_FLATS = (0, 1 << 63)
_EVENTS = (
    ArraySpec("freed", "int64", ("freed",), _FLATS),
    ArraySpec("allocated", "int64", ("allocated",), _FLATS),
)
_PRODUCED = (ArraySpec("pfns", "int64"), ArraySpec("nids", "int32"))
BATCH = (ArraySpec("pfns", "int64"), ArraySpec("n_pages", "int64", values=(1, (1 << MAX_ORDER) + 1)))
"""What :meth:`Migrator.migrate` is given."""
_STATUS = (ArraySpec("status", "int16", values=(-_ERRNO_MAX, 1)),)


def _events(what: str, value: object) -> tuple[FolioEvents, ...]:
    return items(what, value, FolioEvents, "give gpuscan.FolioEvents in a tuple")


class MigrateStatus(IntEnum):
    """What became of one folio handed to a migrator: 0, or a negative errno as the kernel returns it."""

    MOVED = 0
    ENOENT = -2
    """The page is not there any more."""
    EIO = -5
    """A dirty page whose file system cannot move it."""
    EAGAIN = -11
    """Refused for now: target not balanced, dirty file page, isolation or the copy failed."""
    ENOMEM = -12
    """No free page on the target."""
    EACCES = -13
    """Executable file page that several processes share."""
    EFAULT = -14
    """Zero page, or not mapped."""
    EBUSY = -16
    """Busy."""
    EINVAL = -22
    """Not a page that can be moved."""
    EDQUOT = -122
    """Not tried: a budget is used up. It stays READY, and no attempt is counted."""
    ECANCELED = -125
    """Not tried: a dry run."""


@dataclass(frozen=True, slots=True, eq=False)
class FolioEvents:
    """Folios (heads, flat int64) that came or went; ``order`` of all in one batch of events.

    The engine makes freed folios ineligible and ends their requests for the reason ``why``,
    and makes allocated ones eligible.
    """

    freed: NDArray[np.int64]
    allocated: NDArray[np.int64]
    order: int = 0
    why: str = "freed"

    def __post_init__(self) -> None:
        freed, allocated = check_arrays("folio events", _EVENTS, (self.freed, self.allocated), {})
        settle(
            self,
            freed=freed,
            allocated=allocated,
            order=whole("folio events: order", self.order, 0, MAX_ORDER),
        )
        text("folio events: why", self.why)


@dataclass(frozen=True, slots=True, eq=False)
class Produced:
    """What a source wants marked.

    Attributes:
        kind: ``request`` marks outright, ``record`` counts accesses.
        pfns: int64[n].
        nids: int32[n], target nodes.
        threshold: accesses after which a recorded page is READY; None = the policy's.
    """

    kind: Literal["request", "record"]
    pfns: NDArray[np.int64]
    nids: NDArray[np.int32]
    threshold: int | None = None

    def __post_init__(self) -> None:
        one_of("produced: kind", self.kind, ("request", "record"))
        pfns, nids = check_arrays("produced", _PRODUCED, (self.pfns, self.nids), {})
        settle(self, pfns=pfns, nids=nids)
        if self.threshold is not None:
            settle(self, threshold=whole("produced: threshold", self.threshold, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """One tick of a source.

    Attributes:
        produced: what to mark.
        events: folios that came or went meanwhile (applied before ``produced``).
        metrics: what the source counted in this tick, by name, for the series
            (for a simulated machine ``accesses``, ``accesses_fast``, ...).
        elapsed_ns: the time that really passed, for a source that lives in real time; None where
            it was what the engine asked for.
    """

    produced: tuple[Produced, ...]
    events: tuple[FolioEvents, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    elapsed_ns: int | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            produced=items("sampled: produced", self.produced, Produced, "give gpuscan.Produced in a tuple"),
            events=_events("sampled: events", self.events),
        )
        if self.elapsed_ns is not None:
            settle(self, elapsed_ns=whole("sampled: elapsed_ns", self.elapsed_ns))
        instance("sampled: metrics", self.metrics, dict, "give numbers by name")
        for name, value in self.metrics.items():
            text("sampled: a name of metrics", name)
            real(f"sampled: metrics[{name!r}]", value, -math.inf)


@dataclass(frozen=True, slots=True, eq=False)
class MigrateResult:
    """What a migrator did with one batch.

    Attributes:
        status: int16[n], :class:`MigrateStatus` per folio handed in.
        reasons: for every status code below 0 that occurs, counts by a short reason
            (``{"EAGAIN: target not balanced": 3}``); they add up to the folios not moved.
        busy_ns: time the migration takes (modelled) or took (measured).
        events: folios that came or went.
        n_rounds: ``migrate_pages()`` rounds (0 where the migrator cannot tell); each ends with a TLB flush.
        n_passes: passes over the unmapped folios of all rounds: one each, up to ten where copies fail.
        n_no_room: folios, of those not moved, that the target had no room for.
    """

    status: NDArray[np.int16]
    reasons: dict[str, int]
    busy_ns: float
    events: tuple[FolioEvents, ...] = ()
    n_rounds: int = 0
    n_passes: int = 0
    n_no_room: int = 0

    def __post_init__(self) -> None:
        (status,) = check_arrays("migrate result", _STATUS, (self.status,), {})
        settle(
            self,
            status=status,
            busy_ns=real("migrate result: busy_ns", self.busy_ns),
            events=_events("migrate result: events", self.events),
            n_rounds=whole("migrate result: n_rounds", self.n_rounds),
            n_passes=whole("migrate result: n_passes", self.n_passes),
            n_no_room=whole("migrate result: n_no_room", self.n_no_room, 0, len(status)),
        )
        instance("migrate result: reasons", self.reasons, dict, "give counts by a short reason")
        for reason, count in self.reasons.items():
            text("migrate result: a reason", reason)
            whole(f"migrate result: reasons[{reason!r}]", count)


@runtime_checkable
class Resumable(Protocol):
    """What can go on from a checkpoint: a source or a migrator with a state of its own."""

    def state(self) -> dict[str, Any]:
        """Return all that sampling or migrating has changed (:mod:`gpuscan.checkpoint.state`)."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Become what :meth:`state` was taken of; called on one that has done nothing yet.

        Raises:
            ValueError: that was something else.
        """
        ...


@runtime_checkable
class Witness(Protocol):
    """What is told where and when something happened to pages; it changes nothing."""

    def marked(self, now_ns: int, pfns: NDArray[np.int64]) -> None:
        """See int64[n] pages that a source wants marked, in the tick that began at ``now_ns``."""
        ...

    def claimed(self, now_ns: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """See folios that a scan claimed: int64[n] flat heads, int64[n] base pages of each."""
        ...

    def moved(self, now_ns: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """See folios that were moved, at the place that they left."""
        ...

    def no_room(self, target_nid: int, n_folios: int) -> None:
        """See how many folios of a batch a target had no room for."""
        ...


class AccessWitness(Protocol):
    """Is told where and when accesses happened, whatever watches them; it changes nothing."""

    def sampled(self, n: int) -> NDArray[np.int64]:
        """Return which of ``n`` accesses it wants to see: int64[m], ascending."""
        ...

    def accessed(self, now_ns: int, flats: NDArray[np.int64]) -> None:
        """See int64[m] pages of accesses, about at ``now_ns``."""
        ...

    def filled(self, now_ns: int, free_pages: Mapping[int, int], room_pages: Mapping[int, int]) -> None:
        """See how many pages of each node that has memory are free at ``now_ns``, by nid, and for how many
        it has room: a folio of n pages is moved there while that is more than n; below 0 it lacks some."""
        ...


class Clocked(Protocol):
    """What is told how long something took; it changes nothing."""

    def batch(self, now_ns: int, target_nid: int, n_folios: int, n_pages: int, busy_ns: float) -> None:
        """See a batch of a plan made at ``now_ns``, and how long its migrator took."""
        ...

    def walk(self, nid: int, start_ns: int, look_ns: float, migrate_ns: float) -> None:
        """See a walk of a node's thread: when it began, how long it looked, and then moved."""
        ...


class Source(Protocol):
    """Where accesses come from."""

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """Let ``duration_ns`` pass, from ``now_ns`` on, and return what was seen."""
        ...

    def finished(self) -> bool:
        """Whether there is nothing left to see (a trace ended, a process exited)."""
        ...


class ResumableSource(Source, Resumable, Protocol):
    """A source that can go on from a checkpoint."""


class Migrator(Protocol):
    """What moves pages."""

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        """Move one batch of folios (``pfns`` int64[n] heads, ``n_pages`` int64[n] base pages) to a node."""
        ...
