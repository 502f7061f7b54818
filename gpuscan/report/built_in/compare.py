"""A page of ``gpuscan compare --out``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.units import format_bytes, format_number
from gpuscan.report.contract import RESULT, About, Figure, Line, Page, Plot, ResultKind


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of a comparison; see :class:`ResultKind`."""
    machine, curves = document["machine"], document["curves"]
    facts = (
        ("memory", format_bytes(machine["memory_bytes"])),
        ("designs", ", ".join(map(str, curves))),
        ("runs", format_number(len(document["seeds"]), "seed")),
    )
    command = f"compare.json in {RESULT}"
    delay = tuple(
        Line(
            str(name), [ns * 1e-6 for ns in curve["delay"]["ns"]], [100 * s for s in curve["delay"]["share"]]
        )
        for name, curve in curves.items()
        if curve["delay"]["ns"]
    )
    fast = tuple(
        Line(
            str(name),
            [ns * 1e-9 for ns in curve["fast"]["time_ns"]],
            [None if share is None else 100 * share for share in curve["fast"]["share"]],
        )
        for name, curve in curves.items()
    )
    figures: list[Figure] = [
        Plot(
            About(
                "How soon pages are found",
                "Requests that a scan has found by then: the further left a line, the sooner. All designs "
                "were given the same requests (open loop).",
                command,
            ),
            "time from the mark until the scan finds the page (ms)",
            "requests found by then (%)",
            delay,
            log_x=True,
            names_recur=True,
        ),
        Plot(
            About(
                "Accesses served by fast memory",
                "What each design's migrations were worth: its own run, with what it moved (closed loop).",
                command,
            ),
            "simulated time (s)",
            "accesses served by fast memory (%)",
            fast,
            names_recur=True,
        ),
    ]
    found_none = [str(name) for name, curve in curves.items() if not curve["delay"]["ns"]]
    notes = (f"Not among the delays, they found none: {', '.join(found_none)}.",) if found_none else ()
    name = str(document["workload"]["name"])
    return Page(
        f"{name}: designs side by side", "the same accesses for every design", facts, tuple(figures), notes
    )


RESULT_KIND = ResultKind("compare.json", "compare", page, None)
