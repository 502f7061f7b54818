"""The figures of docs/answers.md as tables, from what is kept of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpuscan.base.units import format_bytes, format_time

_EVERY_GAP = 4
"""The file and the plot have a row for every 0.5 s between two accesses; here every fourth is shown."""


class Answer(NamedTuple):
    """A table: its caption, its columns, the cells of its rows."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


def _time(ns: float | None) -> str:
    return "no model" if ns is None else format_time(ns)


def scan(kept: Mapping[str, Any]) -> list[Answer]:
    """Return the time of one round by memory."""
    designs = kept["scan_ns"]
    rows = [
        [format_bytes(n_bytes), *(_time(designs[name][at]) for name in designs)]
        for at, n_bytes in enumerate(kept["memory_bytes"])
    ]
    caption = f"time of one round, one page in {1 / kept['density']:,.0f} READY"
    return [Answer(caption, ["memory", *designs], rows)]


def place(kept: Mapping[str, Any]) -> list[Answer]:
    """Return how late pages are found, and what that takes of a core."""
    return [
        Answer(
            f"how late a page is found, marks {what}",
            ["design", "p1", "p50", "p99", "of a core"],
            [
                [
                    name,
                    *(format_time(of[f"p{percent}_ns"]) for percent in (1, 50, 99)),
                    f"{of['of_core']:.2%}",
                ]
                for name, of in kept[what].items()
            ],
        )
        for what in ("spread over 2 s", "all at one moment")
    ]


def fill(kept: Mapping[str, Any]) -> list[Answer]:
    """Return how full batches are, and what goes to the wrong node."""
    designs = list(dict.fromkeys(row["design"] for row in kept["rows"]))
    targets = list(dict.fromkeys(row["targets"] for row in kept["rows"]))
    cells = {(row["targets"], row["design"]): row for row in kept["rows"]}

    def table(caption: str, shown: Callable[[Mapping[str, Any]], str]) -> Answer:
        rows = [[str(k), *(shown(cells[k, name]) for name in designs)] for k in targets]
        return Answer(caption, ["targets", *designs], rows)

    return [
        table("folios in a batch", lambda row: f"{row['folios_per_batch']:.3g}"),
        table("moved to a node that was not asked for", lambda row: f"{row['wrong']:.1%}"),
    ]


def density(kept: Mapping[str, Any]) -> list[Answer]:
    """Return the time of a scan of 1 TiB by what is READY."""
    designs = ("rfc-fixed", "section-flag", "percpu-list", "gpuscan")
    rows = [
        [f"{share:g}", *(_time(kept[name][at]) for name in designs)]
        for at, share in enumerate(kept["density"])
    ]
    return [Answer("time of one scan of 1 TiB, by the share of READY pages", ["share", *designs], rows)]


def folio(kept: Mapping[str, Any]) -> list[Answer]:
    """Return what a record per folio saves."""
    rows = [
        [
            f"{row['huge_share']:.0%}",
            f"{row['every_page']:,}",
            f"{row['by_folio']:,}",
            format_bytes(row["page_records"]),
            format_bytes(row["folio_records"]),
        ]
        for row in kept["rows"]
    ]
    columns = ["in 2 MiB folios", "PFNs, every page", "PFNs, by folio", "page records", "folio records"]
    return [Answer("what one record for a folio saves", columns, rows)]


def compact(kept: Mapping[str, Any]) -> list[Answer]:
    """Return what 8 bits a page cost."""
    formats = ("pghot-compact", "pghot")
    gaps = [
        [f"{row['gap_ms'] / 1000:g} s", *(f"{row[name]:.1%}" for name in formats)]
        for row in kept["rows"][::_EVERY_GAP]
    ]
    targets = [[str(row["targets"]), *(f"{row[name]:.1%}" for name in formats)] for row in kept["targets"]]
    return [
        Answer("pages touched twice that are found hot, by the time between", ["apart", *formats], gaps),
        Answer("moved to a node that was not asked for", ["targets", *formats], targets),
    ]


TABLES: dict[str, Callable[[Mapping[str, Any]], list[Answer]]] = {
    "scan": scan,
    "place": place,
    "fill": fill,
    "density": density,
    "folio": folio,
    "compact": compact,
}
