"""What the table of a comparison shows: each column's loop, whether it is counted, measured or modelled.

A cell that cannot exist for a design says why instead of a number. *Counted*: by the loop, the same on any
machine. *Measured*: on this machine, wall time of scans, CPU time of steps. *Modelled*: counted steps times
measured (or published) costs, and what was counted in a loop whose time such costs make: in the open loop a
model's walks begin and end by them. The closed loop charges what the workload's ``[kernel]`` table says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import format_bytes, format_count, format_time
from gpuscan.compare.closed_loop import ClosedResult
from gpuscan.compare.open_loop import OpenResult
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.contract import Design, NotMeasured

Loop = Literal["open", "closed", "none"]
How = Literal["counted", "measured", "modelled"]
Unit = Literal["count", "bytes", "ns", "share"]

_EDGE = 0.1
"""Part of what was found that counts as the low end of the zones, and as the high end."""


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
        scan_1tib_ns, scan_64tib_ns: modelled; NaN where no step of it was measured.
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
    scan_1tib_ns: float
    scan_64tib_ns: float

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


@dataclass(frozen=True, slots=True)
class Column:
    """A column; a row of the printed table.

    Attributes:
        key: its name in JSON and Parquet.
        title: as printed.
        loop, how, unit: see the module.
        value: finds it.
        how_on_a_store: of designs that run on one, where it differs from ``how``.
    """

    key: str
    title: str
    loop: Loop
    how: How
    unit: Unit
    value: Callable[[Figures], Value]
    how_on_a_store: How | None = None

    def how_of(self, design: str) -> How:
        """Return whether a design's cell is counted, measured or modelled."""
        on_a_store = self.how_on_a_store
        return self.how if on_a_store is None or not DESIGNS.get(design).runs_on_a_store else on_a_store


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell over all seeds: the median, and the smallest and largest; or why there is none. ``values`` has
    every seed's number in their order, NaN where there is none."""

    how: How
    number: float
    low: float
    high: float
    why_not: str = ""
    remark: str = ""
    values: tuple[float, ...] = field(default=())


def cell_of(column: Column, seeds: Sequence[Figures]) -> Cell:
    """Return the cell of a design from its figures under each seed."""
    values = [column.value(figures) for figures in seeds]
    how = column.how_of(seeds[0].design)
    of_seeds = tuple(value.number for value in values)
    numbers = [number for number in of_seeds if not math.isnan(number)]
    if not numbers:
        nan = float("nan")
        why = next((value.why_not for value in values if value.why_not), "nothing happened")
        return Cell(how, nan, nan, nan, why, values=of_seeds)
    middle = median(numbers)
    known = (value for value in values if not math.isnan(value.number))
    remark = min(known, key=lambda value: abs(value.number - middle)).remark
    return Cell(how, middle, min(numbers), max(numbers), "", remark, of_seeds)


def cell_text(column: Column, cell: Cell) -> str:
    """Return a cell as printed: the median, with half the spread where several seeds have a number, and how
    many have one where not all do."""
    if cell.why_not:
        return cell.why_not
    text = _formatted(cell.number, column.unit)
    n_known, n_seeds = sum(not math.isnan(number) for number in cell.values), len(cell.values)
    if n_known > 1:
        text += f" ±{_formatted((cell.high - cell.low) / 2, column.unit)}"
    if n_known < n_seeds:
        text += f" ({n_known} of {n_seeds} seeds)"
    return f"{text} {cell.remark}" if cell.remark else text


def _formatted(number: float, unit: Unit) -> str:
    if unit == "bytes":
        return format_bytes(number)
    if unit == "ns":
        return format_time(number)
    if unit == "share":
        return f"{number:.1%}"
    if number < 10 and not float(number).is_integer():
        return f"{number:.2f}"
    return format_count(round(number)) if number >= 10_000 else f"{number:,.0f}"


def _examined(figures: Figures) -> Value:
    if figures.opened.unit == "entries":
        return Value(why_not=f"no walk, {format_count(figures.opened.examined)} entries")
    return Value(float(figures.opened.examined))


def _examined_bytes(figures: Figures) -> Value:
    return Value(float(figures.opened.examined_bytes))


def _busy(figures: Figures) -> Value:
    # Wall time of a scan on several threads: none of them can have used more of its core.
    n_threads = figures.n_threads
    remark = f"(at most, {n_threads} threads)" if n_threads > 1 else ""
    return Value(n_threads * figures.opened.scan_ns / figures.list_end_ns, remark=remark)


def _delay(percent: float) -> Callable[[Figures], Value]:
    def value(figures: Figures) -> Value:
        delays = figures.opened.delays_ns
        if not len(delays):
            return Value(why_not="found none")
        return Value(float(np.percentile(delays, percent)))

    return value


def _delay_at(edge: Literal["low", "high"]) -> Callable[[Figures], Value]:
    def value(figures: Figures) -> Value:
        place = figures.opened.place_in_zone
        if not len(place):
            return Value(why_not="found none")
        low, high = np.quantile(place, (_EDGE, 1 - _EDGE))
        there = place <= low if edge == "low" else place >= high
        return Value(float(np.median(figures.opened.delays_ns[there])))

    return value


def _fill(figures: Figures) -> Value:
    fills = figures.opened.fills
    if not len(fills):
        return Value(why_not="no batch")
    remark = "" if figures.opened.fill_unit == "folios" else f"(by {figures.opened.fill_unit})"
    return Value(float(fills.mean()) / figures.opened.batch_limit, remark=remark)


def _lost(lost: dict[str, int]) -> Value:
    total = sum(lost.values())
    reason = max(lost, key=lambda name: lost[name]) if lost else ""
    return Value(float(total), remark=f"({reason})" if total else "")


def _never_ready(figures: Figures) -> Value:
    # The list has requests, and only a producer that records makes gpuscan count accesses.
    remark = "(marked by request)" if figures.declared.runs_on_a_store else ""
    return Value(float(figures.opened.never_ready), remark=remark)


def _false_promotions(figures: Figures) -> Value:
    if not figures.declared.asks_time:
        return Value(why_not="asks no time")
    return Value(float(figures.opened.false_promotions))


def _resched(figures: Figures) -> Value:
    stretch_ns = figures.opened.no_resched_ns
    if math.isnan(stretch_ns):
        return Value(why_not="user space: preemptible")
    return Value(stretch_ns)


def _examined_per_promotion(figures: Figures) -> Value:
    closed = figures.closed
    if not closed.migrated:
        return Value(why_not="found none to move")
    if closed.unit == "entries":
        return Value(why_not=f"no walk, {closed.examined / closed.migrated:.2f} entries")
    return Value(closed.examined / closed.migrated)


def _unused(figures: Figures) -> Value:
    closed = figures.closed
    moved = closed.moved_used + closed.moved_unused
    if not moved:
        return Value(why_not="not known of a trace" if closed.migrated else "moved none")
    return Value(closed.moved_unused / moved)


def _moved(figures: Figures) -> Value:
    closed = figures.closed
    remark = f"({format_count(closed.moved_at_fault)} at the fault)" if closed.moved_at_fault else ""
    return Value(float(closed.migrated + closed.moved_at_fault), remark=remark)


def _wrong_node(figures: Figures) -> Value:
    if not figures.closed.wrong_node_known:
        return Value(why_not="not counted: records keep no node")
    # A record of ours says where its page goes, and what it said before is counted as lost.
    remark = "(by construction)" if figures.declared.runs_on_a_store else ""
    return Value(float(figures.closed.wrong_node), remark=remark)


def _measured(number: float, why_not: str) -> Value:
    return Value(why_not=why_not) if math.isnan(number) else Value(number)


def _declared(number: float, declared: object, why_not: str = "not measured") -> Value:
    """Return what is measured of a declared step, or why none was."""
    return _measured(
        number, f"not measured: {declared.why}" if isinstance(declared, NotMeasured) else why_not
    )


def _beside(number: float, declared: object, figures: Figures) -> Value:
    """Return what takes two threads to measure, one CPU or not wanted at all."""
    return _declared(number, declared, "not measured" if math.isnan(figures.mark_ns) else "one CPU")


def _fast(figures: Figures) -> Value:
    return _measured(figures.closed.fast_after, "nothing accessed")


COLUMNS: tuple[Column, ...] = (
    Column("pages_examined", "pages examined", "open", "modelled", "count", _examined, "counted"),
    Column("bytes_examined", "bytes examined", "open", "modelled", "bytes", _examined_bytes, "counted"),
    Column("scan_time", "scan time", "open", "modelled", "ns", lambda f: Value(f.opened.scan_ns), "measured"),
    Column(
        "busy",
        "of one core's time",
        "open",
        "modelled",
        "share",
        _busy,
        "measured",
    ),
    Column("delay_p50", "mark to found, p50", "open", "modelled", "ns", _delay(50)),
    Column("delay_p99", "mark to found, p99", "open", "modelled", "ns", _delay(99)),
    Column("delay_low", "  p50, lowest tenth of the PFNs", "open", "modelled", "ns", _delay_at("low")),
    Column("delay_high", "  p50, highest tenth of the PFNs", "open", "modelled", "ns", _delay_at("high")),
    Column(
        "batches",
        "batches",
        "open",
        "modelled",
        "count",
        lambda f: Value(float(len(f.opened.fills))),
        "counted",
    ),
    Column("fill", "  how full, mean", "open", "modelled", "share", _fill, "counted"),
    Column(
        "wrong_node_open",
        "sent to the wrong node",
        "open",
        "modelled",
        "count",
        lambda f: Value(float(f.opened.wrong_node)),
        "counted",
    ),
    Column(
        "lost_open", "requests lost", "open", "modelled", "count", lambda f: _lost(f.opened.lost), "counted"
    ),
    Column(
        "not_ready",
        "marks that left no page READY",
        "open",
        "modelled",
        "count",
        _never_ready,
        "counted",
    ),
    Column(
        "false_promotions",
        "promoted by a time that wrapped",
        "open",
        "modelled",
        "count",
        _false_promotions,
    ),
    Column("no_resched", "longest without cond_resched", "open", "modelled", "ns", _resched),
    Column(
        "fast_share",
        "accesses served by fast memory",
        "closed",
        "counted",
        "share",
        _fast,
    ),
    Column("moved", "folios moved", "closed", "counted", "count", _moved),
    Column(
        "rounds", "migrate_pages() rounds", "closed", "counted", "count", lambda f: Value(f.closed.n_rounds)
    ),
    Column(
        "wrong_node",
        "sent to the wrong node",
        "closed",
        "counted",
        "count",
        _wrong_node,
    ),
    Column("lost", "requests lost", "closed", "counted", "count", lambda f: _lost(f.closed.lost)),
    Column(
        "examined_per_promotion",
        "pages examined per promotion",
        "closed",
        "counted",
        "count",
        _examined_per_promotion,
    ),
    Column("never_again", "promotions never accessed again", "closed", "counted", "share", _unused),
    Column(
        "metadata",
        "metadata",
        "none",
        "modelled",
        "bytes",
        lambda f: Value(float(f.metadata_bytes)),
        "counted",
    ),
    Column(
        "mark_cost",
        "producer cost per mark, 1 thread",
        "none",
        "measured",
        "ns",
        lambda f: _declared(f.mark_ns, f.declared.mark),
    ),
    Column(
        "mark_cost_2",
        "producer cost per mark, 2 threads",
        "none",
        "measured",
        "ns",
        lambda f: _beside(f.mark_beside_ns, f.declared.mark, f),
    ),
    Column(
        "slowdown",
        "neighbour slowed while it scans",
        "none",
        "measured",
        "share",
        lambda f: _beside(f.slowdown, f.declared.beside, f),
    ),
    Column(
        "scan_1tib",
        "one scan of 1 TiB",
        "none",
        "modelled",
        "ns",
        lambda f: _declared(f.scan_1tib_ns, f.declared.scan),
    ),
    Column(
        "scan_64tib",
        "one scan of 64 TiB",
        "none",
        "modelled",
        "ns",
        lambda f: _declared(f.scan_64tib_ns, f.declared.scan),
    ),
)
"""All columns, in the order in which they are shown."""


def percentiles(delays_ns: NDArray[np.int64], steps: int = 200) -> tuple[list[float], list[float]]:
    """Return (shares, delays in ns) of a CDF drawn with ``steps`` points; empty without delays."""
    if not len(delays_ns):
        return [], []
    shares = np.linspace(0, 1, steps + 1)
    return shares.tolist(), np.quantile(delays_ns, shares).tolist()


def column_documents() -> list[dict[str, Any]]:
    """Return what the columns are, for JSON."""
    return [
        {"key": column.key, "title": column.title.strip(), "loop": column.loop, "unit": column.unit}
        for column in COLUMNS
    ]
