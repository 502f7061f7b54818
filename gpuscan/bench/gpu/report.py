"""The model's document as tables: columns and rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuscan.base.units import format_count, format_time

CASE_COLUMNS = (
    "records",
    "density",
    "",
    "kernels",
    "of bytes",
    "longest kernel",
    "takes",
    "bound by",
    "the others",
)
BAR_COLUMNS = ("", "at most", "modelled", "", "why")
CHECK_COLUMNS = ("known", "", "", "modelled", "error")
ASSUMPTION_COLUMNS = ("assumed", "", "why")
_REQUESTS = ("request", "request, any order")


def case_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each case."""
    rows = []
    for case in document["cases"]:
        longest = max(case["kernels"], key=lambda kernel: kernel["ns"])
        lie = f"{case['density']:g}" + ", hot" * (case["clustering"] == "hot")
        if case["what"] in _REQUESTS:
            lie = f"{format_count(case['n_items'] / case['ns'] * 1e9)}/s"
        ratio = case["of_floor"]
        rows.append(
            [
                case["format_name"],
                lie,
                case["what"],
                format_time(case["ns"]),
                f"{ratio:.2f}x" if case["what"] == "dense" and ratio is not None else "",
                longest["kernel"],
                format_time(longest["ns"]),
                longest["binds"],
                format_time(case["ns"] - longest["ns"]),
            ]
        )
    return rows


def bar_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each bar."""
    return [
        [
            bar["what"],
            f"{bar['most']:g}",
            f"{bar['modelled']:.3g}",
            "met" if bar["is_met"] else "missed",
            bar["binds"],
        ]
        for bar in document["bars"]
    ]


def check_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each figure that is known."""
    return [
        [
            check["what"],
            check["kind"],
            f"{check['known']:.3g} {check['unit']}",
            f"{check['modelled']:.3g}",
            f"{check['error']:+.0%}",
        ]
        for check in document["checks"]
    ]


def assumption_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each assumption."""
    return [
        [name, f"{assumed['value']:g}", assumed["why"]] for name, assumed in document["assumptions"].items()
    ]


def sensitivity_table(document: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """Return columns and rows: how many times as long a case takes where one thing is assumed otherwise."""
    cases = list(document["sensitivity"][0]["times"])
    rows = [
        [row["assumed"], f"{row['value']:g}", *(f"{row['times'][case]:.2f}x" for case in cases)]
        for row in document["sensitivity"]
    ]
    return ("assumed otherwise", "", *cases), rows
