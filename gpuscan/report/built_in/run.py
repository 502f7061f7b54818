"""A page of ``gpuscan run --out``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number, format_time
from gpuscan.files.parquet import read_table
from gpuscan.heatmap.map import MAP_FILE, HeatMap, read_map
from gpuscan.heatmap.nodes import NODES_FILE, NodeFill, read_nodes
from gpuscan.heatmap.waits import PAGES_ONE_IN, WAITS_FILE, read_waits
from gpuscan.report.contract import RESULT, About, Figure, Flow, Line, Page, Plot, ResultKind, Zoomed

_SERIES_FILE = "series.parquet"
_SERIES_ROW_BYTES = 4096
_NODES_SHOWN = 8
_TIME = "time of the machine (s)"


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of a run; see :class:`ResultKind`."""
    workload, machine, summary = document["workload"], document["machine"], document["summary"]
    where = f"{machine['topology']}, {format_bytes(machine['memory_bytes'])}"
    facts = [
        ("machine", f"{where} in {format_number(machine['n_nodes'], 'node')}"),
        ("design", str(document["design"])),
        ("device", str(document["device"]["name"])),
        ("ticks", f"{summary['n_ticks']:,}, {format_time(summary['simulated_ns'])} of the machine's time"),
        ("moved", format_bytes(summary["migrated_bytes"])),
    ]
    if summary["fast"] is not None:
        fast = summary["fast"]
        share = f"{fast['before']:.1%} at first, {fast['after']:.1%} at the end"
        facts.insert(2, (f"accesses served by fast memory ({machine['fast_means']})", share))
    notes = [str(note) for note in document["notes"]]
    figures: list[Figure] = []
    if (result / MAP_FILE).exists():
        heat = read_map(result / MAP_FILE)
        if heat.layers:
            figures.append(_map(heat))
    else:
        notes.append(
            f"No map: this result has no {MAP_FILE} (an earlier gpuscan made it, or a run with checkpoints)."
        )
    figures += _series(result)
    if (result / NODES_FILE).exists() and (nodes := read_nodes(result / NODES_FILE)):
        figures.insert(len(figures) and 2, plot_of_nodes(nodes))
    if (result / WAITS_FILE).exists() and (waits := read_waits(result / WAITS_FILE)):
        figures.append(_waits(waits))
    figures.append(_ledger(document))
    if document["ledger"]["refusals"]:
        figures.append(_refusals(document))
    return Page(str(workload["name"]), str(workload["shows"]), tuple(facts), tuple(figures), tuple(notes))


def _map(heat: HeatMap) -> Zoomed:
    about = About(
        "Where and when",
        "Every pixel is a range of page frames for a while; the brighter, the more happened there. Zoom with "
        "the wheel or the buttons until a pixel is as fine as what was kept.",
        f"gpuscan heatmap {RESULT}",
    )
    return Zoomed(about, heat)


def plot_of_nodes(nodes: Mapping[int, NodeFill]) -> Plot:
    """Return how much of each node was free, above what it keeps; of many nodes, the fullest."""
    least = {nid: min(map(node.spare, node.free_pages), default=1.0) for nid, node in nodes.items()}
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
        "Free memory of nodes",
        f"{which}At 0 a node is full: no more free than its low watermark, where kswapd wakes and promotions "
        f"are refused. Watermarks, in shares of the node: {marks}.",
        f"{NODES_FILE} in {RESULT}",
    )
    lines = tuple(
        Line(
            node.name,
            [ns * 1e-9 for ns in node.now_ns],
            [100 * node.spare(free) for free in node.free_pages],
        )
        for node in shown
    )
    return Plot(about, _TIME, "above the low watermark (% of node)", lines, shares_time=True)


def _share(node: NodeFill, mark: str) -> str:
    return f"{node.marks[mark] / node.n_pages:.1%}"


def _waits(waits: Mapping[int, int]) -> Plot:
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
    line = Line("claimed", [ns * 1e-9 for ns in waits], until)
    return Plot(about, "waited at most (s)", "pages claimed (%)", (line,), has_points=True)


def _series(result: Path) -> list[Figure]:
    table = read_table(result / _SERIES_FILE, None, _SERIES_ROW_BYTES, "series")
    columns = {name: table[name].to_pylist() for name in table.column_names}
    seconds = [ns * 1e-9 for ns in columns["now_ns"]]

    def line(name: str, column: str, scale: float = 1.0) -> Line:
        return Line(name, seconds, [None if v is None else v * scale for v in columns[column]])

    def plot(title: str, sentence: str, y_label: str, *lines: Line) -> Plot:
        about = About(title, sentence, f"{_SERIES_FILE} in {RESULT}")
        return Plot(about, _TIME, y_label, lines, shares_time=True)

    figures: list[Figure] = []
    if "metric.accesses_fast" in columns:
        pairs = zip(columns["metric.accesses_fast"], columns["metric.accesses"], strict=True)
        share = Line(
            "fast", seconds, [100 * fast / n if n and fast is not None else None for fast, n in pairs]
        )
        figures.append(
            plot(
                "Accesses served by fast memory",
                "Rises as hot pages come to where they are accessed from, dips where they are moved away.",
                "of accesses (%)",
                share,
            )
        )
    figures += [
        plot(
            "Marked, claimed, waiting",
            "Requests that began in each tick, folios that its scan claimed, and what was still READY after "
            "it: a growing rest means that budget, rate or room is short.",
            "folios per tick",
            line("marked", "marked"),
            line("claimed", "candidates"),
            line("READY afterwards", "pending"),
        ),
        plot(
            "Moved and not moved",
            "Folios that were moved, refused (they may try again) and given up in each tick.",
            "folios per tick",
            line("moved", "migrated"),
            line("refused", "refused"),
            line("dropped", "dropped"),
        ),
        plot(
            "Batches",
            "How full batches are: base pages in one of them, on average of each tick.",
            "base pages a batch (mean per tick)",
            Line(
                "pages a batch",
                seconds,
                [
                    pages / n if n else None
                    for pages, n in zip(columns["batch_pages"], columns["n_batches"], strict=True)
                ],
            ),
        ),
        plot(
            "What it took",
            "Time of the scans of each tick on the computer that ran gpuscan (of another design: modelled), "
            "and of the busiest migrator (modelled).",
            "time per tick (ms)",
            line("scan", "scan_ns", 1e-6),
            line("migration", "migrate_busy_ns", 1e-6),
        ),
    ]
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


RESULT_KIND = ResultKind("report.json", "run", page)
