"""What a column of a comparison's table is, and what it is worked out from.

A cell that cannot exist for a design says why instead of a number. *Counted*: by the loop, the same on any
machine. *Measured*: on this machine, wall time of scans, CPU time of steps. *Modelled*: counted steps times
measured (or published) costs, and what was counted in a loop whose time such costs make: in the open loop a
model's walks begin and end by them. The closed loop charges what the workload's ``[kernel]`` table says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from gpuscan.base.arguments import flag, items, one_of, text, whole
from gpuscan.base.errors import ArgumentError
from gpuscan.compare.closed_loop import ClosedResult
from gpuscan.compare.cost_fit import Estimate
from gpuscan.compare.endings import NEVER_FOUND, Endings
from gpuscan.compare.equal_cost import EqualCost
from gpuscan.compare.open_loop import OpenResult
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.contract import Design, NotMeasured

Loop = Literal["open", "closed", "none"]
How = Literal["counted", "measured", "modelled"]
Unit = Literal["count", "bytes", "ns", "share"]
Better = Literal["smaller", "larger", "neither"]


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is known about one design under one seed.

    Attributes:
        design: its name.
        opened, closed: what the loops found.
        list_end_ns: how long the open loop's list is.
        n_threads: of a scan; models have one.
        metadata_bytes: what the design keeps for this machine.
        mark_ns, mark_beside_ns: producer cost alone and beside another; NaN where not measured.
        slowdown: of a neighbour while the design scans; NaN where not measured.
        scan_1tib, scan_64tib: modelled.
        mark_single_ns: producer cost alone where each mark is made by itself; NaN where not measured.
        equal_cost: the open loop at other intervals; None where it was not run at them.
    """

    design: str
    opened: OpenResult
    closed: ClosedResult
    list_end_ns: int
    n_threads: int
    metadata_bytes: int
    mark_ns: float
    mark_beside_ns: float
    slowdown: float
    scan_1tib: Estimate
    scan_64tib: Estimate
    mark_single_ns: float = float("nan")
    equal_cost: EqualCost | None = None

    @property
    def endings_open(self) -> Endings:
        """How marks of the open loop ended that nobody found."""
        return Endings.of({**self.opened.lost, NEVER_FOUND: self.opened.pending})

    @property
    def endings(self) -> Endings:
        """How marks of the closed loop ended that moved nothing."""
        return Endings.of(self.closed.lost)

    @property
    def declared(self) -> Design:
        """What the design says of itself."""
        return DESIGNS.get(self.design)


@dataclass(frozen=True, slots=True)
class Value:
    """What one design has in one column under one seed: a number, or why there is none; and a remark."""

    number: float = float("nan")
    why_not: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column; a row of the printed table.

    Attributes:
        key: its name in JSON and Parquet.
        title: as printed, 26 characters at most or it takes two lines.
        explain: one sentence for who has not read the code: what the row shows.
        loop: whose figures it shows.
        how: of its cells: counted, measured or modelled, see the module.
        unit: of its numbers.
        better: which of two numbers is the better one; what has one can be a grid's ``--objective``.
        value: finds it.
        how_on_a_store: of designs that run on one, where it differs from ``how``.
        drawn: as bars in the plot ``columns``.
    """

    key: str
    title: str
    explain: str
    loop: Loop
    how: How
    unit: Unit
    better: Better
    value: Callable[[Figures], Value]
    how_on_a_store: How | None = None
    drawn: bool = False

    def __post_init__(self) -> None:
        of = f"the column {self.key!r}"
        text("the key of a column", self.key)
        text(f"{of}: title", self.title)
        if not text(f"{of}: explain", self.explain).strip():
            raise ArgumentError(f"{of} does not say what it shows; give explain, one sentence")
        for name, kind in (("loop", Loop), ("how", How), ("unit", Unit), ("better", Better)):
            one_of(f"{of}: {name}", getattr(self, name), get_args(kind))
        if self.how_on_a_store is not None:
            one_of(f"{of}: how_on_a_store", self.how_on_a_store, get_args(How))
        flag(f"{of}: drawn", self.drawn)
        if not callable(self.value):
            raise ArgumentError(f"{of} does not say how it is worked out; give its value, a function")

    def how_of(self, design: str) -> How:
        """Return whether a design's cell is counted, measured or modelled."""
        on_a_store = self.how_on_a_store
        return self.how if on_a_store is None or not DESIGNS.get(design).runs_on_a_store else on_a_store


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns that belong together, in their order: what one file of the catalogue is.

    Attributes:
        order: place of all of them in the table.
        columns: one at least.
    """

    order: int
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        whole("the order of columns", self.order)
        items("columns", self.columns, Column, "give a tuple of them")
        if not self.columns:
            raise ArgumentError("columns: there is none; give one or more")


def known(number: float, why_not: str) -> Value:
    """Return a number, or why there is none."""
    return Value(why_not=why_not) if math.isnan(number) else Value(number)


def estimated(estimate: Estimate) -> Value:
    """Return a modelled number with its band, or why there is none."""
    if estimate.why_not:
        return Value(why_not=estimate.why_not)
    return Value(estimate.ns, remark=f"±{estimate.error:.0%}")


def declared(number: float, step: object, why_not: str = "not measured") -> Value:
    """Return what is measured of a declared step, or why none was."""
    if isinstance(step, NotMeasured):
        why_not = f"not measured: {step.why}"
    return known(number, why_not)


def ended(by_reason: Mapping[str, int]) -> Value:
    """Return how many marks ended for any of some reasons, and for which most of them did."""
    reason = max(by_reason, key=lambda name: by_reason[name], default="")
    return Value(float(sum(by_reason.values())), remark=f"({reason})" if reason else "")
