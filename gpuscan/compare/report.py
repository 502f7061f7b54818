"""What a comparison leaves behind: ``compare.json``, Parquet tables of all points, plots.

A ``--out`` directory holds::

    compare.json      the document that ``gpuscan compare --json`` prints
    cells.parquet     design, column, loop, how, seed, value (null where there is none): the table, long
    requests.parquet  the open loop's list of the first seed: time_ns, pfn, nid, cpu
    delays.parquet    every request found: design, delay_ns, place_in_zone (0 to 1)
    fills.parquet     every batch: design, filled, unit (folios; gpuscan's limit is of base pages)
    series.parquet    per tick of the closed loop: design, time_ns, fast_share
    model.parquet     design, memory_bytes, scan_ns: the curves over memory size
    *.png, *.svg      plots, unless ``--no-plots``
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES
from gpuscan.compare.columns.catalogue import all_columns, column_documents
from gpuscan.compare.columns.cells import Cell, cell_text
from gpuscan.compare.cost_model import MODEL_SIZES, step_document
from gpuscan.compare.endings import NEVER_FOUND, Endings
from gpuscan.compare.plots import COLUMNS_PLOT, EQUAL_COST_PLOT, PLOTS
from gpuscan.compare.request_list import ENTRY
from gpuscan.compare.settings import Settings
from gpuscan.compare.sheets import LEGEND, sheets_of
from gpuscan.compare.steps.scans import MODEL_DENSITY
from gpuscan.compare.suite import Costs, SeedRun
from gpuscan.compare.too_little import saw_too_little
from gpuscan.compare.verdict import verdict
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.files.parquet import create_table
from gpuscan.files.writing import Contents, create_json, new_directory

JSON_FILE = "compare.json"
CONTENTS = Contents(
    JSON_FILE,
    (
        *(f"{name}.parquet" for name in ("cells", "requests", "delays", "fills", "series", "model")),
        *(
            f"{name}.{suffix}"
            for name in (*PLOTS, EQUAL_COST_PLOT, COLUMNS_PLOT)
            for suffix in ("png", "svg")
        ),
    ),
)
"""Of a comparison's directory."""
_FILL_BINS = 32
_PLACE_BINS = 20


def document_of(
    designs: Sequence[str],
    runs: Sequence[SeedRun],
    cells: dict[str, dict[str, Cell]],
    settings: Settings,
    costs: Costs,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Return the JSON document of a comparison; curves and histograms are of the first seed."""
    first = runs[0]
    document = {
        "kind": "compare",
        **facts,
        "designs": list(designs),
        "seeds": [run.seed for run in runs],
        "open_loop": [
            {
                "seed": run.seed,
                "requests": run.requests.n,
                "of": run.requests.n_seen,
                "end_ns": run.requests.end_ns,
                "digest": run.requests.digest,
                "digest_by_design": {name: run.opened[name].list_digest for name in designs},
                "step_costs": {
                    name: asdict(costs.model.step_costs(name))
                    for name in designs
                    if not DESIGNS.get(name).runs_on_a_store
                },
            }
            for run in runs
        ],
        "closed_loop": [
            {
                "seed": run.seed,
                "accesses": run.stream.n_accesses,
                "horizon_ns": run.stream.horizon_ns,
                "digest": run.stream.digest,
                "digest_by_design": {name: run.closed[name].accesses_digest for name in designs},
            }
            for run in runs
        ],
        "columns": column_documents(),
        "cells": {
            name: {
                column.key: {
                    **asdict(cells[name][column.key]),
                    "text": cell_text(column, cells[name][column.key]),
                }
                for column in all_columns()
            }
            for name in designs
        },
        **_endings(designs, first),
        "curves": {name: _curves(name, first, settings, costs) for name in designs},
        "model": {
            "density": MODEL_DENSITY,
            "steps": {what: step_document(model) for what, model in costs.model.steps.items()},
            "wake_ns": costs.model.wake_ns,
            "slowdown": costs.slowdown,
        },
        "equal_cost": {
            name: [
                {"seed": run.seed, **asdict(point)}
                for run in runs
                if name in run.equal_cost
                for point in run.equal_cost[name].points
            ]
            for name in designs
        },
        "saw_too_little": saw_too_little(first),
        "walk_here": _walk_here(designs, settings, costs),
    }
    sheets = [asdict(sheet) for sheet in sheets_of(document)]
    return {**document, "verdict": verdict(document), "sheets": sheets, "legend": LEGEND}


def _endings(designs: Sequence[str], run: SeedRun) -> dict[str, Any]:
    """Return how marks ended that moved nothing, by design, loop and reason."""
    both = {
        name: {
            "open": Endings.of({**run.opened[name].lost, NEVER_FOUND: run.opened[name].pending}),
            "closed": Endings.of(run.closed[name].lost),
        }
        for name in designs
    }
    return {
        how.name: {
            name: {loop: getattr(of_loop, how.name) for loop, of_loop in loops.items()}
            for name, loops in both.items()
        }
        for how in fields(Endings)
    }


def _walk_here(designs: Sequence[str], settings: Settings, costs: Costs) -> dict[str, Any]:
    """Return what a walk of the machine's memory takes for those designs that walk; None without a figure."""
    n_pages = sum(node.present_pages for node in settings.topology.nodes)
    models = [name for name in designs if not DESIGNS.get(name).runs_on_a_store]
    walkers = [name for name in models if DESIGNS.get(name).looks_at == "pages"]
    took = {name: costs.model.scan_of(name, n_pages).ns for name in walkers}
    return {
        "memory_bytes": n_pages * PAGE_BYTES,
        "ns": {name: None if math.isnan(ns) else ns for name, ns in took.items()},
    }


def _curves(name: str, run: SeedRun, settings: Settings, costs: Costs) -> dict[str, Any]:
    opened, closed = run.opened[name], run.closed[name]
    shares, delays = percentiles(opened.delays_ns)
    counts, edges = np.histogram(
        opened.fills / max(1, opened.batch_limit), bins=_FILL_BINS, range=(0, 1 + 1 / _FILL_BINS)
    )
    place = {"place": [], "p10_ns": [], "p50_ns": [], "p90_ns": []}  # type: dict[str, list[float]]
    which = np.minimum((opened.place_in_zone * _PLACE_BINS).astype(np.int64), _PLACE_BINS - 1)
    for index in range(_PLACE_BINS):
        mine = opened.delays_ns[which == index]
        if len(mine):
            place["place"].append((index + 0.5) / _PLACE_BINS)
            for key, value in zip(
                ("p10_ns", "p50_ns", "p90_ns"), np.percentile(mine, (10, 50, 90)), strict=True
            ):
                place[key].append(float(value))
    return {
        "delay": {"share": shares, "ns": delays},
        "delay_by_place": place,
        "fill": {
            "edges": edges.tolist(),
            "batches": counts.tolist(),
            "limit": opened.batch_limit,
            "unit": opened.fill_unit,
        },
        "fast": {"time_ns": list(closed.tick_end_ns), "share": list(closed.fast_series)},
        "scan": _scan_curve(name, costs),
    }


def _scan_curve(name: str, costs: Costs) -> dict[str, Any]:
    """Return what a scan takes by size of memory, where the model has a number, and what was measured."""
    estimates = {size: costs.model.scan_of(name, size // PAGE_BYTES) for size in MODEL_SIZES}
    known = {size: estimate for size, estimate in estimates.items() if not estimate.why_not}
    measured = costs.model.measured_scans(name)
    return {
        "memory_bytes": list(known),
        "ns": [estimate.ns for estimate in known.values()],
        "error": [estimate.error for estimate in known.values()],
        "measured": {"memory_bytes": [n for n, _ in measured], "ns": [ns for _, ns in measured]},
    }


def percentiles(delays_ns: NDArray[np.int64], steps: int = 200) -> tuple[list[float], list[float]]:
    """Return (shares, delays in ns) of a CDF drawn with ``steps`` points; empty without delays."""
    if not len(delays_ns):
        return [], []
    shares = np.linspace(0, 1, steps + 1)
    return shares.tolist(), np.quantile(delays_ns, shares).tolist()


def write_out(out: Path, document: dict[str, Any], run: SeedRun, *, plots: bool, force: bool) -> None:
    """Fill the directory ``out``.

    Args:
        out: where; its parent must be there.
        document: the comparison.
        run: of the first seed: every point comes from it.
        plots: draw them too.
        force: replace an earlier comparison.

    Raises:
        InputError: ``out`` is something else, or an earlier comparison and ``force`` is not set.
        RunFailedError: it cannot be written.
    """
    with new_directory(out, CONTENTS, force=force) as directory:
        create_json(directory / JSON_FILE, document)
        for name, content in _tables(document, run).items():
            create_table(directory / f"{name}.parquet", content)
        if plots:
            from gpuscan.compare.plots import draw

            draw(document, directory)


def _tables(document: dict[str, Any], run: SeedRun) -> dict[str, pa.Table]:
    designs = document["designs"]
    loops = {column["key"]: column["loop"] for column in document["columns"]}
    cells = [
        {
            "design": name,
            "column": key,
            "loop": loops[key],
            "how": cell["how"],
            "seed": seed,
            "value": None if math.isnan(value) else value,
        }
        for name in designs
        for key, cell in document["cells"][name].items()
        for seed, value in zip(document["seeds"], cell["values"], strict=True)
    ]
    entries, scans = run.requests.entries(), {name: document["curves"][name]["scan"] for name in designs}
    return {
        "cells": pa.Table.from_pylist(cells),
        "requests": pa.table({key: np.ascontiguousarray(entries[key]) for key in ENTRY.names or ()}),
        "delays": _stacked(
            designs,
            {name: run.opened[name].delays_ns for name in designs},
            delay_ns=lambda name: run.opened[name].delays_ns,
            place_in_zone=lambda name: run.opened[name].place_in_zone,
        ),
        "fills": _stacked(
            designs,
            {name: run.opened[name].fills for name in designs},
            filled=lambda name: run.opened[name].fills,
            unit=lambda name: np.full(len(run.opened[name].fills), run.opened[name].fill_unit),
        ),
        "series": _stacked(
            designs,
            {name: run.closed[name].tick_end_ns for name in designs},
            time_ns=lambda name: np.array(run.closed[name].tick_end_ns, dtype=np.int64),
            fast_share=lambda name: np.array(run.closed[name].fast_series, dtype=np.float64),
        ),
        "model": pa.Table.from_pylist(
            [
                {"design": name, "memory_bytes": size, "scan_ns": ns}
                for name in designs
                for size, ns in zip(*(scans[name][key] for key in ("memory_bytes", "ns")), strict=True)
            ]
        ),
    }


def _stacked(designs: Sequence[str], lengths: dict[str, Any], **columns: Any) -> pa.Table:
    """Return columns of all designs, one after the other, with the design's name in front."""
    names = np.repeat(np.array(designs), [len(lengths[name]) for name in designs])
    return pa.table(
        {
            "design": pa.array(names).dictionary_encode(),
            **{key: np.concatenate([part(name) for name in designs]) for key, part in columns.items()},
        }
    )
