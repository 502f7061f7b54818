"""The experiments: each returns what its plot is drawn from, plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from answers.bench_machine import MS, S, entries_of, machine_with, pages_of, through
from gpuscan.base.units import PAGE_BYTES
from gpuscan.bench.bed import Bed, Case, StoreShape
from gpuscan.compare.cost_fit import Estimate
from gpuscan.compare.cost_model import (
    MODEL_SIZES,
    CostModel,
    measure_model,
    measured_steps,
    step_document,
)
from gpuscan.compare.static_machine import StillPages
from gpuscan.compare.steps.caches import emptied
from gpuscan.compare.steps.scans import MODEL_DENSITY, scan_once
from gpuscan.designs.built_in.percpu_list import ENTRY_BYTES
from gpuscan.designs.rfc import PAGE_EXT_BYTES
from gpuscan.engine.policy import Policy

TARGETS = (1, 2, 3, 4, 6, 8, 12, 16)
DENSITIES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
HUGE_SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
GAPS_MS = range(500, 33_001, 500)
OnStep = Callable[[str], None]
"""Called as often as :data:`EXPERIMENTS` says, with what was done."""
_SEED, _SCANS = 1, 9


def _number(estimate: Estimate) -> float | None:
    return None if estimate.why_not else estimate.ns


def _scan_ns(bed: Bed, n_ready: int) -> float:
    """Return the median CPU time of a scan of a filled bed, which is put back after each; with cold caches,
    as the steps are measured."""
    times, empty = [], emptied()
    for _ in range(_SCANS + 1):
        empty()
        n_claimed, elapsed_ns = scan_once(bed, bed.store.n_pages, release=True)
        assert n_claimed == n_ready
        times.append(elapsed_ns)
    return float(np.median(times[1:]))


def scanned(on_step: OnStep) -> dict[str, Any]:
    """What a round takes, by size of memory: modelled from steps that are measured here."""
    model = measure_model(on_step)
    designs = ("rfc-fixed", "section-flag", "percpu-list", "gpuscan")
    return {
        "memory_bytes": list(MODEL_SIZES),
        "density": MODEL_DENSITY,
        "scan_ns": {
            name: [_number(model.scan_of(name, size // PAGE_BYTES)) for size in MODEL_SIZES]
            for name in designs
        },
        "steps": {what: step_document(step) for what, step in model.steps.items()},
    }


def place(on_step: OnStep) -> dict[str, Any]:
    """How late a page is found, by position: an 8 GiB zone, marks spread over 2 s or at one moment."""
    machine = machine_with(1, 64)
    pages, rng = pages_of(machine), np.random.default_rng(_SEED)
    pfns = rng.choice(pages, 40_000, replace=False)
    nids = np.zeros(len(pfns), dtype=np.int64)
    found: dict[str, Any] = {}
    for what, times in (
        ("spread over 2 s", rng.integers(S, 3 * S, len(pfns))),
        ("all at one moment", np.full(len(pfns), 1505 * MS)),
    ):
        results = through(
            ("rfc-fixed", "section-flag", "percpu-list", "gpuscan"),
            machine,
            entries_of(pfns, nids, times),
            Policy(freq_threshold=1),
            on_step=on_step,
        )
        found[what] = {
            name: {
                "place": result.place_in_zone.tolist(),
                "delay_ns": result.delays_ns.tolist(),
                "of_core": result.scan_ns / (2 * S),
            }
            for name, result in results.items()
        }
    return found


def fill(on_step: OnStep) -> dict[str, Any]:
    """How full batches are, and what goes to the wrong node, with k targets drawn at random for each page."""
    rows = []
    for k in TARGETS:
        machine = machine_with(k, 4)
        rng = np.random.default_rng(_SEED)
        pfns = rng.choice(pages_of(machine), 20_000, replace=False)
        nids = rng.integers(0, k, len(pfns))
        times = rng.integers(1, 100 * MS, len(pfns))
        designs = ("rfc-v1", "rfc-fixed", "section-flag", "percpu-list", "gpuscan")
        policy = Policy(freq_threshold=1, record_format="pghot")
        for name, result in through(
            designs, machine, entries_of(pfns, nids, times), policy, on_step=on_step
        ).items():
            rows.append(
                {
                    "targets": k,
                    "design": name,
                    "folios_per_batch": float(result.fills.mean()),
                    "batches": len(result.fills),
                    "theory": k / (k - 1) if k > 1 else None,
                    "wrong": result.wrong_node / max(1, result.found),
                }
            )
    return {"rows": rows}


def density(on_step: OnStep) -> dict[str, Any]:
    """What a scan of 1 TiB takes by the share of READY pages: walks and lists from steps that are measured
    here, gpuscan on a store of that size (1 GiB of records)."""
    model: CostModel = measure_model(on_step)
    n_pages = 1 << 28
    shape = StoreShape(n_pages, 16, "rfc", "cpu")
    ours = {}
    with Bed(shape, 1) as bed:
        for share in DENSITIES:
            n_ready = bed.fill(Case(shape, share, "uniform", _SEED))
            ours[share] = _scan_ns(bed, n_ready)
            bed.empty()
            on_step("gpuscan")
    n_cpus, n_nodes = 64, 4
    return {
        "density": list(DENSITIES),
        "rfc-fixed": [_number(model.scan_of("rfc-fixed", n_pages, share)) for share in DENSITIES],
        "section-flag": [_number(model.scan_of("section-flag", n_pages, share)) for share in DENSITIES],
        "percpu-list": [_number(model.scan_of("percpu-list", n_pages, share)) for share in DENSITIES],
        "gpuscan": [ours[share] for share in DENSITIES],
        "list_holds_density": n_cpus * n_nodes * 4096 / n_pages,
        "list_bytes": n_cpus * n_nodes * 4096 * ENTRY_BYTES,
        "entry_ns": model.steps["list entry"].look_ns,
        "page_ns": model.steps["walk"].look_ns,
    }


def folio(on_step: OnStep) -> dict[str, Any]:
    """What one record per folio saves, by the share of memory in 2 MiB folios: PFNs looked at, bytes kept."""
    rows = []
    for share in HUGE_SHARES:
        machine = machine_with(1, 32, huge_share=share)
        pages = StillPages(machine)
        cxl = machine.topology.nodes[-1]
        (zone,) = pages.zones(cxl.nid)
        n_steps = pages.n_steps(zone.start_pfn, zone.end_pfn, cxl.nid)
        span = zone.end_pfn - zone.start_pfn
        rows.append(
            {
                "huge_share": share,
                "every_page": span,
                "by_folio": n_steps,
                "page_records": span * PAGE_EXT_BYTES,
                "folio_records": machine.space.n_folios * 4,
            }
        )
        on_step(f"{share:.0%} in folios")
    return {"rows": rows}


def compact(on_step: OnStep) -> dict[str, Any]:
    """What 8 bits per page cost: pages touched twice, so far apart that they are cold; targets not kept."""
    rows = []
    machine = machine_with(1, 4)
    rng = np.random.default_rng(_SEED)
    n_pages = 1000
    for gap_ms in GAPS_MS:
        pfns = rng.choice(pages_of(machine), n_pages, replace=False)
        first = rng.integers(100 * MS, 5000 * MS, n_pages)
        twice = entries_of(
            np.concatenate((pfns, pfns)),
            np.zeros(2 * n_pages, dtype=np.int64),
            np.concatenate((first, first + gap_ms * MS)),
        )
        row: dict[str, Any] = {"gap_ms": gap_ms}
        for fmt in ("pghot-compact", "pghot"):
            policy = Policy(record_format=fmt)
            result = through(("section-flag",), machine, twice, policy, on_step=on_step)["section-flag"]
            row[fmt] = result.found / n_pages
        rows.append(row)
    targets = []
    for k in TARGETS:
        many = machine_with(k, 4)
        pfns = rng.choice(pages_of(many), 10_000, replace=False)
        nids = rng.integers(0, k, len(pfns))
        entries = entries_of(pfns, nids, rng.integers(1, 100 * MS, len(pfns)))
        row = {"targets": k}
        for fmt in ("pghot-compact", "pghot"):
            policy = Policy(record_format=fmt, freq_threshold=1)
            result = through(("section-flag",), many, entries, policy, on_step=on_step)["section-flag"]
            row[fmt] = result.wrong_node / max(1, result.found)
        targets.append(row)
    return {"rows": rows, "targets": targets}


EXPERIMENTS: dict[str, tuple[Callable[[OnStep], dict[str, Any]], int]] = {
    "scan": (scanned, len(measured_steps())),
    "place": (place, 2 * 4),
    "fill": (fill, 5 * len(TARGETS)),
    "density": (density, len(measured_steps()) + len(DENSITIES)),
    "folio": (folio, len(HUGE_SHARES)),
    "compact": (compact, 2 * (len(GAPS_MS) + len(TARGETS))),
}
"""Question -> its experiment, and how many steps that has."""
