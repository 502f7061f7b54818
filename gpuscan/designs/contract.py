"""What a scan design says of itself. Everything else asks here, and knows no design by name.

There is nothing to fall back on: a design that leaves something out cannot be made, and what was never
measured of one is :class:`NotMeasured`, with the reason. ``docs/extending.md`` has a whole example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from gpuscan.base.arguments import flag, instance, one_of, text, whole
from gpuscan.base.errors import ArgumentError, RunFailedError
from gpuscan.designs.steps import CoRunner, MarkStep, ScanSize, ScanStep
from gpuscan.designs.tunables import Bound, Divisor, Tuning

if TYPE_CHECKING:
    from gpuscan.designs.machine import Machine
    from gpuscan.designs.model import Model
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine

STRUCT_PAGE_BYTES = 64
"""What a look at a page reads besides its record, one cache line."""

Kind = Literal["as posted", "in a tree", "corrected", "our reading", "ours"]
LooksAt = Literal["pages", "entries"]
Counts = Literal["never", "always", "when recorded"]


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """In place of a step: nobody measured one, and ``why``, as the table of a comparison says it."""

    why: str


def whole_size(size: ScanSize) -> ScanSize:
    """Return all of it."""
    return size


@dataclass(frozen=True, slots=True)
class Charge:
    """A part of what a scan costs: a step, and what it goes through.

    Attributes:
        step: the name of a measured one (``gpuscan/compare/steps/scans.py``), or one that the design brings.
        of: returns what of a scan it goes through; None where such a scan does not do it.
    """

    step: str | ScanStep
    of: Callable[[ScanSize], ScanSize | None] = whole_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelled:
    """How a model of a design is made and driven.

    Attributes:
        make: returns it, on a machine and under a policy.
        needs_flag: the thread walks only where the node's flag is set.
        bypasses_thp: PMD-mapped folios are not marked but moved where they fault.
        locks_records: the walk does a locked test-and-clear on the record of each page.
        two_atomics: a mark is made in two atomics and taken in two, so that the four may interleave:
            :meth:`gpuscan.designs.model.Model.walk` is told which do.
    """

    make: Callable[[Machine, Policy], Model]
    needs_flag: bool
    bypasses_thp: bool
    locks_records: bool
    two_atomics: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotStyle:
    """How a design is drawn.

    Attributes:
        order: it is drawn after those of lower numbers.
        line: arguments of matplotlib's ``plot``, ``color`` among them.
        shaded: the spread of its delays is drawn, too.
    """

    order: int
    line: Mapping[str, Any] = field(hash=False)
    shaded: bool = False

    def __post_init__(self) -> None:
        if "color" not in self.line:
            raise ArgumentError("the style of a plot has no color; give one in its line")


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A way to find the pages that shall move.

    Attributes:
        name: as ``--design`` takes it, and as the catalogue has it.
        line: what it models, for a person.
        kind: where it is from.
        order: place among all in tables.
        looks_at: what its threads go through: ``pages`` of zones or sections, or ``entries`` of lists.
        counts_accesses: whether a threshold of accesses makes a page READY: ``when recorded`` of a design
            that takes requests as well. Where ``always``, its producer reports every fault, and only pages
            below the top tier are promoted; else do_numa_page() decides first.
        asks_time: a record has a time, which can wrap around.
        threshold: ``policy.freq_threshold`` can be set: it is no constant.
        bounds: what the kernel (or a record) refuses of what was set.
        metadata_bytes: what it keeps beside struct page for a machine, under a policy, when so many pages
            were ever asked for.
        record_bytes: of a page's record, or of an entry, in the published layout; None: scans count what
            they read.
        look: the measured step that one look of the open loop is charged as; None: scans are timed.
        scan: what one scan of a machine costs, a sum.
        mark: the measured step that a producer's mark is.
        beside: the measured step that a neighbour is slowed by.
        plot: how it is drawn.
        model: how its model is made; None: it is no model but runs on a store, as gpuscan does.
    """

    name: str
    line: str
    kind: Kind
    order: int
    looks_at: LooksAt
    counts_accesses: Counts
    asks_time: bool
    threshold: bool
    bounds: Callable[[Tuning], Iterable[Bound | Divisor]]
    metadata_bytes: Callable[[SimulatedMachine, Policy, int], int]
    record_bytes: Callable[[Policy], int] | None
    look: str | ScanStep | None
    scan: tuple[Charge, ...] | NotMeasured
    mark: str | MarkStep | NotMeasured
    beside: str | CoRunner | NotMeasured
    plot: PlotStyle
    model: Modelled | None

    def __post_init__(self) -> None:
        of = f"the design {self.name!r}"
        text("the name of a design", self.name)
        text(f"{of}: line", self.line)
        one_of(f"{of}: kind", self.kind, get_args(Kind))
        whole(f"{of}: order", self.order)
        one_of(f"{of}: looks_at", self.looks_at, get_args(LooksAt))
        one_of(f"{of}: counts_accesses", self.counts_accesses, get_args(Counts))
        flag(f"{of}: asks_time", self.asks_time)
        flag(f"{of}: threshold", self.threshold)
        instance(f"{of}: plot", self.plot, PlotStyle, "give a PlotStyle")
        for name in ("bounds", "metadata_bytes"):
            if not callable(getattr(self, name)):
                raise ArgumentError(f"{of} does not declare its {name}; give a function")
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                raise ArgumentError(
                    f"{of} does not declare its {name}; give what gpuscan.designs.contract says"
                )
        if (self.model is None) != (self.record_bytes is None) or (self.model is None) != (self.look is None):
            raise ArgumentError(f"{of}: a model has record_bytes and a look; give both, or no model")
        if self.scan == ():
            raise ArgumentError(
                f"{of} does not declare what a scan costs; give it, or NotMeasured with the reason"
            )

    @property
    def runs_on_a_store(self) -> bool:
        """Whether it is no model: it runs on a store, whose scans are timed."""
        return self.model is None

    def takes_threshold(self, mark: Literal["request", "record"]) -> bool:
        """Whether it counts accesses up to a threshold that can be set, where the producer does this."""
        counts = self.counts_accesses
        return self.threshold and (counts == "always" or (counts == "when recorded" and mark == "record"))

    def n_looked_at(self, counters: Mapping[str, int]) -> int:
        """Return how many pages (or entries) the threads of its model have looked at.

        Raises:
            RunFailedError: they have looked at what it does not say.
        """
        n_pages, n_entries = counters["pfns_examined"], counters["entries_examined"]
        n_looked_at, n_others = (n_pages, n_entries) if self.looks_at == "pages" else (n_entries, n_pages)
        if n_others:
            raise RunFailedError(
                f"the design {self.name} declares that it looks at {self.looks_at}, and its model counted "
                f"{n_others:,} others; mend its declaration"
            )
        return n_looked_at

    def look_bytes(self, policy: Policy) -> int:
        """Return what a look of its model reads: struct page and the record (or the entry)."""
        assert self.record_bytes is not None
        return STRUCT_PAGE_BYTES + self.record_bytes(policy)

    def check(self, tuning: Tuning) -> None:
        """Refuse what the kernel refuses.

        Raises:
            InputError: a value is out of bounds.
        """
        for bound in self.bounds(tuning):
            bound.check(self.name)


_STEP_OR_NOT = (str, ScanStep, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "look": _STEP_OR_NOT,
    "scan": (tuple, NotMeasured),
    "mark": (str, MarkStep, NotMeasured),
    "beside": (str, CoRunner, NotMeasured),
    "model": (Modelled, type(None)),
}
assert _KINDS.keys() <= {place.name for place in fields(Design)}
