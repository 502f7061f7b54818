"""A page of ``gpuscan live --out``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number, format_time
from gpuscan.report.contract import Figure, Page, ResultKind
from gpuscan.report.run_parts import Series, ledger_of, lost_of, map_of, nodes_of, requests_of, waits_of
from gpuscan.run.tables import Tables, read_tables

_TIME = "time since the monitor was on (s)"
_SAID_OF_MAP = (
    "An access is a page that the monitor saw accessed at a look; a mark is a far one of these, or one that "
    "was cold, each time that it was counted."
)


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of a live session that was kept; see :class:`ResultKind`."""
    return page_of_tables(document, read_tables(result))


def page_of_tables(document: Mapping[str, Any], tables: Tables) -> Page:
    """Return what there is to say of a live session; see :class:`ResultKind`."""
    machine, start, end = document["machine"], document["start"], document["end"]
    where = f"{machine['topology']}, {format_bytes(machine['memory_bytes'])}"
    if start["dry_run"]:
        pages, pages_to = end["planned_pages"], end["planned_pages_to"]
        what = ("planned", f"{format_bytes(pages * PAGE_BYTES)}{_to(pages_to)} (dry run, nothing was moved)")
    else:
        what = ("moved", f"{format_bytes(end['moved_pages'] * PAGE_BYTES)}{_to(end['moved_pages_to'])}")
    spent = f"{end['cpu_s']['gpuscan']:.2f} s gpuscan, {end['cpu_s']['kernel']:.2f} s kernel threads"
    facts = (
        ("machine", f"{where} in {format_number(machine['n_nodes'], 'node')}"),
        ("monitor", f"{start['source']}: {start['source_sees']}"),
        ("device", str(start["device"])),
        ("ended", f"{end['reason']}, after {format_time(end['t_s'] * 1e9)}, {end['ticks']:,} ticks"),
        what,
        *_left(end.get("evacuation")),
        *lost_of(document, tables),
        *((("run by", str(document["made_by"])),) if "made_by" in document else ()),
        ("overhead", f"{end['overhead_percent']:.1f}% of one CPU ({spent})"),
    )
    series = Series(tables.series, _TIME)
    figures = (
        *map_of(tables, _TIME, _SAID_OF_MAP),
        *_seen(series),
        *nodes_of(tables, _TIME),
        *requests_of(series),
        _took(series),
        *waits_of(tables),
        *ledger_of(document),
    )
    named = ", ".join(f"{each['pid']} ({each['comm']})" for each in start["processes"])
    notes = tuple(str(note) for note in start["notes"])
    return Page("Pages of running processes", f"gpuscan live: {named or 'nobody'}", facts, figures, notes)


def _left(evacuation: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """Return what is left of a node that was emptied; earlier results say nothing."""
    if evacuation is None:
        return ()
    why = "; ".join(f"{n:,} pages {reason}" for reason, n in evacuation["left"].items())
    left = format_bytes(evacuation["left_pages"] * PAGE_BYTES)
    return ((f"left on node {evacuation['node']}", f"{left}: {why}" if why else left),)


def _to(pages_to: Mapping[str, int]) -> str:
    said = ", ".join(f"{format_bytes(n * PAGE_BYTES)} to node {nid}" for nid, n in pages_to.items())
    return f": {said}" if said else ""


def _seen(series: Series) -> list[Figure]:
    if "metric.hot_pages" not in series.columns:
        return []
    return [
        series.plot(
            "Near, of what was accessed",
            "Of the pages that a look found accessed, those that lie where nothing would move them from: "
            "rises as hot pages come near.",
            "of accessed pages (%)",
            series.ratio("near", "metric.hot_near_pages", "metric.hot_pages", 100),
        )
    ]


def _took(series: Series) -> Figure:
    columns = {"look": "metric.observe_ns", "scan": "scan_ns", "moves": "migrate_busy_ns"}
    return series.plot(
        "What it took",
        "Time that each tick took to look at what was accessed, to scan, and to move pages (the busiest "
        "target), all measured.",
        "time per tick (ms)",
        *(series.mean(name, column, 1e-6) for name, column in columns.items() if column in series.columns),
    )


RESULT_KIND = ResultKind("live.json", "live", page, page_of_tables)
