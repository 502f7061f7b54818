"""A page of ``gpuscan bench scan``, ``request``, ``tick`` and ``sweep --out``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.bench.report import (
    REQUEST_COLUMNS,
    SCAN_COLUMNS,
    TICK_COLUMNS,
    case_title,
    request_table,
    scan_table,
    series_along,
    tick_table,
)
from gpuscan.report.contract import RESULT, About, Figure, Line, Page, Plot, ResultKind, Table

_STATE = "cold"
_TABLES = (
    ("scans", "Scans", SCAN_COLUMNS, scan_table),
    ("requests", "Requests", REQUEST_COLUMNS, request_table),
    ("ticks", "Ticks", TICK_COLUMNS, tick_table),
)
_AXES = {
    "density": ("Time by density", "density (share of pages that are READY)", 1.0),
    "n_pages": ("Time by memory", "memory (GiB)", PAGE_BYTES / 2**30),
}


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of a benchmark; see :class:`ResultKind`."""
    host, settings = document["host"], document["settings"]
    facts = (
        ("measured on", f"{host['cpu']}, {host['n_cpus']} CPUs, {format_bytes(host['memory_bytes'])}"),
        ("load when it began", f"{host['load_1min']:.1f}"),
        ("rounds", f"{settings['rounds']}, all in turn"),
        ("read bandwidth", f"{document['ceilings']['read_bytes_per_s'] / 1e9:.1f} GB/s"),
        ("kernels", str(host["kernel_sources"])),
    )
    command = f"bench.json in {RESULT}"
    figures: list[Figure] = [
        _plot(series, axis, command) for axis in _AXES for series in series_along(document["scans"], axis)
    ]
    for key, title, columns, rows in _TABLES:
        figures += [
            Table(
                About(
                    f"{title}: {case_title(case)}",
                    "Medians, with the tenth and ninetieth percentile.",
                    command,
                ),
                columns,
                tuple(rows(case)),
            )
            for case in document[key]
        ]
    return Page("Benchmark", "gpuscan and peers, on the same records", facts, tuple(figures))


def _plot(series: Sequence[Mapping[str, Any]], axis: str, command: str) -> Plot:
    title, label, unit = _AXES[axis]
    names = dict.fromkeys(row["name"] for case in series for row in case["results"] if row["state"] == _STATE)
    x = [case[axis] * unit for case in series]
    times = [
        {row["name"]: row["scaled_ns"] * 1e-6 for row in case["results"] if row["state"] == _STATE}
        for case in series
    ]
    lines = tuple(Line(name, x, [of_case.get(name) for of_case in times]) for name in names)
    where = case_title({name: value for name, value in series[0].items() if name != axis})
    return Plot(
        About(
            f"{title}: {where}",
            "Caches cold, medians; the line of read is what it takes to read all records once.",
            command,
        ),
        label,
        "time (ms)",
        lines,
        log_x=True,
        log_y=True,
        has_points=True,
        names_recur=True,
    )


RESULT_KIND = ResultKind("bench.json", "bench", page)
