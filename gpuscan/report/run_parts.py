"""Figures of what a run keeps beside its document, simulated or live: map, nodes, waits, series, ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number, format_time
from gpuscan.heatmap.map import HeatMap
from gpuscan.heatmap.nodes import NODES_FILE, Full, NodeFill
from gpuscan.heatmap.waits import PAGES_ONE_IN, WAITS_FILE
from gpuscan.report.contract import RESULT, About, Figure, Flow, Line, Plot, Table, Zoomed
from gpuscan.run.tables import SERIES_FILE, Tables

_NODES_SHOWN, _TIMES_SHOWN, _REASONS_SHOWN = 8, 3, 3
_TICKS = "metric.ticks"
"""Of a long live session a row of the series is several ticks."""

_SAID_OF_MAP = (
    "Every pixel is a range of pages for a while: pale where nothing happened, and where something did "
    "from dark blue to yellow, the more the yellower. Zoom with "
    "the wheel or the buttons until a pixel is as fine as what was kept. What a tick did fills it here, from "
    "its begin to its end, and stands at its end in the plots below and in --trace-events: there it moves."
)


class Series:
    """The rows of a series, each a tick or several of them, over one axis of time.

    What is counted in a row stands at its end: what was marked in a tick moves when that is over.

    Args:
        columns: values by name.
        time_label: of the axis.

    Attributes:
        columns: so.

    Raises:
        KeyError, ValueError: they are of something else.
    """

    def __init__(self, columns: Mapping[str, list[Any]], time_label: str) -> None:
        self.columns = columns
        self._time_label = time_label
        spans = zip(columns["now_ns"], columns["duration_ns"], strict=True)
        self._seconds = [(began_ns + lasted_ns) * 1e-9 for began_ns, lasted_ns in spans]
        self._n_ticks = self.columns.get(_TICKS, [1] * len(self._seconds))
        if any(n is None or not n >= 1 for n in self._n_ticks):
            raise ValueError(f"a row of {SERIES_FILE} is of no tick")

    def line(self, name: str, column: str) -> Line:
        """Return what each row has."""
        return Line(name, self._seconds, self.columns[column])

    def mean(self, name: str, column: str, scale: float = 1.0) -> Line:
        """Return the mean of each row's ticks."""
        pairs = zip(self.columns[column], self._n_ticks, strict=True)
        return Line(name, self._seconds, [None if v is None else v * scale / n for v, n in pairs])

    def ratio(self, name: str, column: str, other: str, scale: float = 1.0) -> Line:
        """Return how much of one column there is for each of another."""
        pairs = zip(self.columns[column], self.columns[other], strict=True)
        return Line(name, self._seconds, [scale * v / n if n and v is not None else None for v, n in pairs])

    def plot(self, title: str, sentence: str, y_label: str, *lines: Line) -> Plot:
        """Return a plot over time."""
        about = About(title, sentence, f"{SERIES_FILE} in {RESULT}")
        return Plot(about, self._time_label, y_label, lines, shares_time=True)


def map_of(tables: Tables, time_label: str, sentence: str = "") -> list[Figure]:
    """Return the map of a run, where there is one and something in it.

    Args:
        tables: of the run.
        time_label: of the axis of time.
        sentence: what there is to say of it beside what it is.
    """
    heats = tuple(heat for heat in (tables.heat, tables.by_address) if heat is not None and heat.layers)
    return [_zoomed(heats, time_label, sentence)] if heats else []


def _zoomed(heats: tuple[HeatMap, ...], time_label: str, sentence: str) -> Zoomed:
    sentences = (_SAID_OF_MAP, sentence) if sentence else (_SAID_OF_MAP,)
    about = About(
        "Where and when",
        " ".join(sentences),
        f"gpuscan heatmap {RESULT}" + (" [--by addresses]" if len(heats) > 1 else ""),
    )
    return Zoomed(about, heats, time_label)


def nodes_of(tables: Tables, time_label: str) -> list[Figure]:
    """Return how full nodes were, where that was kept."""
    is_known = any(node.now_ns for node in tables.nodes.values())
    return [plot_of_nodes(tables.nodes, time_label)] if is_known else []


def plot_of_nodes(nodes: Mapping[int, NodeFill], time_label: str) -> Plot:
    """Return for how much of each node there was room on it; of many nodes, the fullest."""
    least = {nid: min(node.room_pages, default=node.n_pages) / node.n_pages for nid, node in nodes.items()}
    shown = [nodes[nid] for nid in sorted(sorted(nodes, key=least.__getitem__)[:_NODES_SHOWN])]
    marks = "; ".join(
        f"{node.name}: {format_bytes(node.n_pages * PAGE_BYTES)}, low {_share(node, 'low')}, "
        f"high {_share(node, 'high')}, promo {_share(node, 'promo')}"
        for node in shown
    )
    which = (
        "" if len(shown) == len(nodes) else f"The {len(shown)} nodes of {len(nodes):,} that were fullest. "
    )
    about = About(
        "Room on nodes",
        f"{which}What is free on a node above its high watermark and its reserve, when what a tick marked "
        "has moved: at 0 it is full, and what is to be moved there is refused. Watermarks, in shares of the "
        f"node: {marks}. Full: {'; '.join(full_nodes(nodes)) or 'none at any time'}.",
        f"{NODES_FILE} in {RESULT}",
    )
    lines = tuple(
        Line(
            node.name,
            [ns * 1e-9 for ns in node.now_ns],
            [100 * room / node.n_pages for room in node.room_pages],
        )
        for node in shown
    )
    return Plot(about, time_label, "room (% of node)", lines, shares_time=True)


def full_nodes(nodes: Mapping[int, NodeFill]) -> list[str]:
    """Say of each node that was full when, and what it had no room for meanwhile; of many, those that had
    none for most."""
    full = {nid: found for nid, node in nodes.items() if (found := node.full())}
    shown = sorted(full, key=lambda nid: (-nodes[nid].no_room[-1], nid))[:_NODES_SHOWN]
    said = [_full(nodes[nid], full[nid]) for nid in sorted(shown)]
    return [*said, f"{len(full) - len(shown):,} more"] if len(shown) < len(full) else said


def _full(node: NodeFill, full: Sequence[Full]) -> str:
    refused = f", no room for {format_number(node.no_room[-1], 'folio')}" if node.no_room[-1] else ""
    if len(full) <= _TIMES_SHOWN:
        return f"{node.name} {' and '.join(map(_from_to, full))}{refused}"
    share = sum(time.n_moments for time in full) / len(node.now_ns)
    between = f"{_seconds(full[0].first_ns)} and {_seconds(full[-1].last_ns)}"
    return f"{node.name} {len(full):,} times between {between} ({share:.1%} of all moments){refused}"


def _from_to(time: Full) -> str:
    if time.first_ns == time.last_ns:
        return f"at {_seconds(time.first_ns)}"
    return f"from {_seconds(time.first_ns)} to {_seconds(time.last_ns)}"


def _seconds(ns: int) -> str:
    return f"{ns * 1e-9:.6g} s"


def lost_of(document: Mapping[str, Any], tables: Tables) -> list[tuple[str, str]]:
    """Return what there is to say, first of all, of requests that were lost, and of why."""
    ledger = document["ledger"]
    n_dropped, n_refused = sum(ledger["dropped"].values()), sum(ledger["refusals"].values())
    if not n_dropped:
        said = "none was dropped"
    else:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in _largest(ledger["dropped"]))
        said = f"{n_dropped / max(1, ledger['requested']):.1%} of them were dropped: {reasons}"
    if waiting := ledger["pending"] + ledger["in_flight"]:
        said += f"; {waiting:,} wait at the end"
    facts = [("requests lost", said)]
    if n_refused:
        reasons = ", ".join(f"{n:,} times {reason}" for reason, n in _largest(ledger["refusals"]))
        facts.append(("why folios were refused", reasons))
    if full := full_nodes(tables.nodes):
        facts.append(("nodes that were full", "; ".join(full)))
    return facts


def _largest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((str(why), int(n)) for why, n in counts.items()), key=lambda each: -each[1])[
        :_REASONS_SHOWN
    ]


def _share(node: NodeFill, mark: str) -> str:
    return f"{node.marks[mark] / node.n_pages:.1%}"


def waits_of(tables: Tables) -> list[Figure]:
    """Return how long pages waited, where that was kept and one did."""
    return [_waits(tables.waits)] if tables.waits else []


def _waits(waits: Mapping[int, int]) -> Plot | Table:
    total = sum(waits.values())
    found, until = 0, []
    for n in waits.values():
        found += n
        until.append(100 * found / total)
    about = About(
        "How long pages waited",
        "From the tick in which a page was first marked (whether that began a request, was counted or "
        "refused) to that in which a scan claimed it; what is never claimed is not in it. "
        f"{format_number(total, 'page')}, one in {PAGES_ONE_IN} of all.",
        f"{WAITS_FILE} in {RESULT}",
    )
    if len(waits) == 1:
        ((ns, n),) = waits.items()
        return Table(about, ("waited", "pages claimed"), ((format_time(ns), f"{n:,} (100%)"),))
    line = Line("claimed", [ns * 1e-9 for ns in waits], until)
    return Plot(about, "waited at most (s)", "pages claimed (%)", (line,), has_points=True)


def requests_of(series: Series) -> list[Figure]:
    """Return what was asked for, moved and not moved, and how full batches were."""
    return [
        series.plot(
            "Marked, claimed, waiting",
            "Requests that began in each tick, folios that its scan claimed, and what was still READY after "
            "it: a growing rest means that budget, rate or room is short.",
            "folios per tick",
            series.mean("marked", "marked"),
            series.mean("claimed", "candidates"),
            series.line("READY afterwards", "pending"),
        ),
        series.plot(
            "Moved and not moved",
            "Folios that were moved, refused (they may try again) and given up in each tick.",
            "folios per tick",
            series.mean("moved", "migrated"),
            series.mean("refused", "refused"),
            series.mean("dropped", "dropped"),
        ),
        series.plot(
            "Batches",
            "How full batches are: base pages in one of them, on average of each tick.",
            "base pages a batch (mean per tick)",
            series.ratio("pages a batch", "batch_pages", "n_batches"),
        ),
    ]


def ledger_of(document: Mapping[str, Any]) -> list[Figure]:
    """Return where requests went, and why folios were refused if some were."""
    figures: list[Figure] = [_ledger(document)]
    if document["ledger"]["refusals"]:
        figures.append(_refusals(document))
    return figures


def _ledger(document: Mapping[str, Any]) -> Flow:
    ledger = document["ledger"]
    parts = [
        ("migrated", ledger["migrated"]),
        *((f"dropped: {reason}", n) for reason, n in ledger["dropped"].items()),
        ("superseded", ledger["superseded"]),
        ("in flight", ledger["in_flight"]),
        ("pending", ledger["pending"]),
    ]
    about = About(
        "Where every request went",
        "Each request ends in exactly one of these; together they are all that were made.",
        f"ledger.json in {RESULT}",
    )
    return Flow(about, "folios", "requested", tuple((str(name), int(n)) for name, n in parts))


def _refusals(document: Mapping[str, Any]) -> Flow:
    refusals = document["ledger"]["refusals"]
    about = About(
        "Why folios were refused",
        "Every refusal by its reason; a folio that tries again may meet several.",
        f"ledger.json in {RESULT}",
    )
    return Flow(about, "refusals", "refused", tuple((str(name), int(n)) for name, n in refusals.items()))
