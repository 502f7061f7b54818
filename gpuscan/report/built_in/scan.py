"""A page of ``gpuscan scan --out``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_time
from gpuscan.report.contract import RESULT, About, Bars, Figure, Line, Page, Plot, ResultKind, Table
from gpuscan.store.plan_file import read_plans

_PLAN_FILE = "plan.parquet"
_N_STRETCHES = 512
_TITLE, _SUBTITLE = "What would be migrated", "one scan of a captured machine"


def page(document: Mapping[str, Any], result: Path) -> Page:
    """Return what there is to say of a scan; see :class:`ResultKind`."""
    scan, recorded = document["scan"], document["recorded"]
    facts = (
        ("snapshot", f"{document['snapshot']}: {document['topology']}"),
        ("hot", str(document["hot_rule"])),
        ("candidates", f"{recorded.get('accepted', 0):,} of {document['n_folios']:,} folios"),
        ("scan", f"{format_time(scan['time_ns'])}, {scan['path']} path, on {document['device']['name']}"),
        ("why that path", str(scan["why"])),
    )
    command = f"scan.json in {RESULT}"
    routes = [
        (f"node {route['source_nid']} to {route['target_nid']}", route["pages"] * PAGE_BYTES / 2**30)
        for route in document["routes"]
    ]
    if not routes:
        notes = ("Nothing would be moved: no hot folio has a node that it should be on instead.",)
        return Page(_TITLE, _SUBTITLE, facts, (), notes)
    targets = [
        (
            f"node {target['nid']}",
            format_bytes(target["pages"] * PAGE_BYTES),
            f"{target['batches']:,}",
            f"{target['fill']:.1%}",
        )
        for target in document["targets"]
    ]
    figures: list[Figure] = [
        Bars(
            About("From where to where", "Memory that would be moved, by the nodes it lies on now.", command),
            "memory to move (GiB)",
            tuple(routes),
        ),
        Table(
            About(
                "Batches",
                "How many batches each target gets, and how full they are on average.",
                command,
            ),
            ("target", "memory", "batches", "how full"),
            tuple(targets),
        ),
    ]
    if (result / _PLAN_FILE).exists() and (plot := _by_place(result)) is not None:
        figures.insert(0, plot)
    return Page(_TITLE, _SUBTITLE, facts, tuple(figures))


def _by_place(result: Path) -> Plot | None:
    """Return how much of each stretch of page frames would be moved, a line for each target."""
    rows = read_plans(result / _PLAN_FILE)
    if not len(rows):
        return None
    pfns = rows["pfn"].to_numpy().astype(np.int64)
    n_pages, nids = rows["n_pages"].to_numpy(), rows["target_nid"].to_numpy()
    first, end = int(pfns.min()), int((pfns + n_pages).max())
    edges = np.linspace(first, end, min(_N_STRETCHES, end - first) + 1)
    middles = ((edges[:-1] + edges[1:]) / 2 * PAGE_BYTES / 2**30).tolist()
    lines = []
    for nid in np.unique(nids):
        mine = nids == nid
        pages, _ = np.histogram(pfns[mine], edges, weights=n_pages[mine])
        lines.append(Line(f"to node {nid}", middles, (pages * PAGE_BYTES / 2**20).tolist()))
    each = format_bytes(int((edges[1] - edges[0]) * PAGE_BYTES))
    return Plot(
        About(
            "Where they lie",
            f"Memory that would be moved from each {each} of physical addresses.",
            f"{_PLAN_FILE} in {RESULT}",
        ),
        "physical address (GiB)",
        "memory to move (MiB)",
        tuple(lines),
    )


RESULT_KIND = ResultKind("scan.json", "scan", page)
