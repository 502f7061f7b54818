"""What passes between the stages, and what a source and a migrator must offer.

    source -> store.request / store.record -> scan -> Plan -> batches -> migrator -> outcomes -> ledger

A stage never calls back: what it found out is in what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


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


@dataclass(frozen=True, slots=True, eq=False)
class Produced:
    """What a source wants marked.

    Attributes:
        kind: ``request`` marks outright, ``record`` counts accesses.
        pfns: int64[n].
        nids: int32[n], target nodes.
    """

    kind: Literal["request", "record"]
    pfns: NDArray[np.int64]
    nids: NDArray[np.int32]


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
    """

    status: NDArray[np.int16]
    reasons: dict[str, int]
    busy_ns: float
    events: tuple[FolioEvents, ...] = ()
    n_rounds: int = 0
    n_passes: int = 0


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
