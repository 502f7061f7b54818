"""A page of ``gpuscan compare --out``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.units import format_bytes, format_number
from gpuscan.report.contract import (
    RESULT,
    About,
    Figure,
    Line,
    Multiples,
    Page,
    Plot,
    ResultKind,
    Table,
)

_COMMAND = f"compare.json in {RESULT}"
_FROM = "From the first seed"
_AT_ONE = "delay_at_1_percent"


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of a comparison; see :class:`ResultKind`."""
    machine, curves = document["machine"], document["curves"]
    facts = (
        ("memory", format_bytes(machine["memory_bytes"])),
        ("designs", ", ".join(map(str, curves))),
        ("runs", format_number(len(document["seeds"]), "seed")),
        *((("run by", str(document["made_by"])),) if "made_by" in document else ()),
    )
    figures: list[Figure] = [*_at_equal_cost(document), *_delays(curves), _fast(curves)]
    figures += [*_lost(document), *_tables(document)]
    found_none = [str(name) for name, curve in curves.items() if not curve["delay"]["ns"]]
    notes = tuple(str(sentence) for sentence in document.get("verdict", ()))
    notes += (f"Not among the delays, they found none: {', '.join(found_none)}.",) if found_none else ()
    if "sheets" not in document:
        notes += ("Not all figures are here: an earlier gpuscan made this; its compare.json has them.",)
    name = str(document["workload"]["name"])
    return Page(
        f"{name}: designs side by side", "the same accesses for every design", facts, tuple(figures), notes
    )


def _delays(curves: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield how soon pages are found: all designs in one plot, and each before all others."""
    lines = tuple(
        Line(
            str(name), [ns * 1e-6 for ns in curve["delay"]["ns"]], [100 * s for s in curve["delay"]["share"]]
        )
        for name, curve in curves.items()
        if curve["delay"]["ns"]
    )
    x_label, y_label = "time from the mark until the scan finds the page (ms)", "requests found by then (%)"
    said = (
        "Requests that a scan has found by then: the further left a line, the sooner. All designs "
        "were given the same requests (open loop), and none had to cost what another does."
    )
    about = About("How soon pages are found", said, _COMMAND)
    yield Plot(about, x_label, y_label, lines, log_x=True, names_recur=True)
    if len(lines) > 1:
        about = About("Each design before all others", "The same lines, one design at a time.", _COMMAND)
        yield Multiples(about, x_label, y_label, lines, log_x=True)


def _at_equal_cost(document: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield what designs reach where they may cost the same, where that was measured."""
    runs = document.get("equal_cost", {})
    lines = tuple(
        Line(str(name), [x for x, _ in points], [y for _, y in points])
        for name in runs
        if (
            points := sorted(
                (100 * run["share"], run["p50_ns"] * 1e-6)
                for run in runs[name]
                if run["seed"] == document["seeds"][0]
            )
        )
    )
    if lines:
        said = (
            f"{_FROM}; every point is a run at another interval between two looks. At the same place from "
            "left to right designs cost the same: the lowest line there finds pages soonest."
            f"{_at_one(document)}"
        )
        yield Plot(
            About("How soon at what cost", said, _COMMAND),
            "of one core's time, all threads of the design (%)",
            "mark to found, median (ms)",
            lines,
            log_x=True,
            log_y=True,
            has_points=True,
            names_recur=True,
        )


def _at_one(document: Mapping[str, Any]) -> str:
    """Return who finds pages how soon at 1% of a core, the soonest first; empty where nobody knows."""
    cells = {str(name): of_name[_AT_ONE] for name, of_name in document["cells"].items() if _AT_ONE in of_name}
    known = {name: cell for name, cell in cells.items() if not cell["why_not"]}
    if not known:
        return ""
    ranked = sorted(known, key=lambda name: float(known[name]["number"]))
    said = ", ".join(f"{name} {known[name]['text']}" for name in ranked)
    others = ", ".join(f"{name} ({cell['why_not']})" for name, cell in cells.items() if name not in known)
    return f" At 1% of a core: {said}" + (f"; without a figure: {others}." if others else ".")


def _fast(curves: Mapping[str, Any]) -> Figure:
    lines = tuple(
        Line(
            str(name),
            [ns * 1e-9 for ns in curve["fast"]["time_ns"]],
            [None if share is None else 100 * share for share in curve["fast"]["share"]],
        )
        for name, curve in curves.items()
    )
    about = About(
        "Accesses served by fast memory",
        "What each design's migrations were worth: its own run, with what it moved (closed loop).",
        _COMMAND,
    )
    return Plot(about, "simulated time (s)", "accesses served by fast memory (%)", lines, names_recur=True)


def _lost(document: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield why requests were lost, by design, where some were."""
    rows = tuple(
        (str(name), str(reason), f"{count:,}", loop)
        for name, loops in document.get("lost", {}).items()
        for loop, reasons in loops.items()
        for reason, count in reasons.items()
    )
    if rows:
        said = (
            f"{_FROM}: requests that should have moved a page and did not. In the open loop all designs are "
            "asked the same and nothing moves; in the closed one each has a machine of its own."
        )
        yield Table(
            About("Why requests were lost", said, _COMMAND), ("design", "why", "requests", "loop"), rows
        )


def _tables(document: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield the table that the command prints, a part for each loop and one of costs."""
    for sheet in document.get("sheets", ()):
        said = f"A column for each design, as gpuscan compare prints it: {document['legend']}."
        notes = "".join(f" {note}." for note in sheet["notes"])
        about = About(f"All figures, {sheet['title']}", f"{said}{notes}", _COMMAND)
        rows = tuple((str(title), *map(str, cells)) for title, cells in sheet["rows"])
        yield Table(about, ("", *map(str, sheet["names"])), rows)


RESULT_KIND = ResultKind("compare.json", "compare", page)
