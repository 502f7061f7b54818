"""A page of ``gpuscan bench scale --out``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_time
from gpuscan.bench.scale import projection_rows, scale_rows
from gpuscan.report.contract import RESULT, About, Figure, Line, Page, Plot, ResultKind, Table


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of shards; see :class:`ResultKind`."""
    host, settings, model = document["host"], document["settings"], document["model"]
    facts = (
        ("measured on", f"{host['cpu']}, {host['n_cpus']} CPUs, load {host['load_1min']:.1f} when it began"),
        ("store", f"{format_bytes(settings['n_pages'] * PAGE_BYTES)}, density {settings['density']:g}"),
        (
            "overhead, fitted",
            f"{format_time(model['per_tick_ns'])} a tick, {model['per_folio_ns']:.3g} ns a folio",
        ),
        ("largest residual", f"{model['largest_residual']:.0%}"),
    )
    command = f"scale.json in {RESULT}"
    kinds = dict.fromkeys(point["scaling"] for point in document["points"])
    lines = [
        Line(
            f"{kind} scaling: {name}",
            [point["n_shards"] for point in document["points"] if point["scaling"] == kind],
            [point[key] * 1e-6 for point in document["points"] if point["scaling"] == kind],
        )
        for kind in kinds
        for name, key in (("tick", "tick_ns"), ("scan", "scan_ns"))
    ]
    measured, measured_rows = scale_rows(document)
    projected, projected_rows = projection_rows(document)
    figures: list[Figure] = [
        Plot(
            About(
                "A tick by shards",
                "Strong: the same store in more shards. Weak: shards of the same size. What is above the "
                "scan is what shards cost.",
                command,
            ),
            "shards",
            "time (ms)",
            tuple(lines),
            has_points=True,
        ),
        Table(
            About("Measured", "One thread a shard; medians of a tick.", command),
            tuple(measured),
            tuple(map(tuple, measured_rows)),
        ),
        Table(
            About("Projected", "From the model that is fitted to these; not measured.", command),
            tuple(projected),
            tuple(map(tuple, projected_rows)),
        ),
    ]
    return Page("A store in shards", "one worker process for each", facts, tuple(figures))


RESULT_KIND = ResultKind("scale.json", "bench-scale", page)
