"""What the streams are for: launches that a CUDA graph would save, and transfers beside the next scan.

Times are the caller's nanoseconds, from an idle device until the work is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from accept.beds import Saved, drain, fill, layout_of
from accept.figures import (
    PATHS,
    PLAN_FLAT_BYTES,
    Reader,
    ScanCase,
    WrongAnswerError,
    facts_of,
    laps_of,
    spread,
)
from accept.rig import Laps, Rig, timed_backend
from gpuscan.kernels.api import RawPlan, ScanRequest
from gpuscan.kernels.cuda import CudaKernels
from gpuscan.records.formats import record_format
from gpuscan.records.page_map import BLOCK_PAGES


def launch_case(rig: Rig, case: ScanCase, rounds: int) -> dict[str, Any]:
    """Measure what a CUDA graph would save of a sparse tick: its scan, the launches alone, and as a graph.

    The scan looks at counters between its launches, which a graph does not: what a graph can save
    is the difference between the launches one by one and the graph.

    Raises:
        WrongAnswerError: one of the three did not claim every page.
    """
    backend, device = timed_backend(rig, exclusive=case.exclusive)
    kernels = backend.open(layout_of(case.n_pages, case.format_name, case.n_targets))
    scan = ScanRequest(0, case.n_pages, case.n_pages, "indexed")
    wall_ns: dict[str, list[int]] = {"scan": [], "launches": [], "graph": []}
    laps_of_scan: list[Laps] = []
    try:
        n_ready = fill(rig, kernels, case.density, case.seed)
        saved = Saved(rig, kernels)
        kernels.scan(scan).recycle()  # compiles, and fills the pools
        saved.restore()
        with device.recorded() as begun:
            kernels.scan(scan).recycle()

        def launches() -> list[Any]:
            return [begin() for begin in begun]

        saved.restore()
        with rig.device.working():
            graph = rig.capture(launches)
        ways: dict[str, Callable[[], object]] = {
            "scan": lambda: kernels.scan(scan).recycle(),
            "launches": launches,
            "graph": graph,
        }
        for turn in range(rounds + 1):
            for name, way in ways.items():
                saved.restore()
                taken_ns = _until_done(rig, way)
                if kernels.count_ready():
                    raise WrongAnswerError(f"{case}: {name} claimed less than {n_ready} pages")
                if turn:
                    wall_ns[name].append(taken_ns)
            saved.restore()
            laps_of_scan.append(laps_of(device, ways["scan"]))
    finally:
        kernels.close()
    times = {name: spread(runs) for name, runs in wall_ns.items()}
    without_ns = times["scan"]["median_ns"] - times["launches"]["median_ns"] + times["graph"]["median_ns"]
    return {
        **facts_of(case),
        "n_ready": n_ready,
        "n_launches": len(begun),
        "kernels_ns": median(laps.kernel_ns for laps in laps_of_scan[1:]),
        "wall": times,
        "graph_speedup": times["scan"]["median_ns"] / max(1, without_ns),
    }


def _until_done(rig: Rig, run: Callable[[], object]) -> int:
    """Return the caller's nanoseconds from an idle device to an idle device."""
    with rig.device.working():
        idle = rig.mark()
        rig.elapsed_ns(idle, idle)
        started = time.perf_counter_ns()
        run()
        done = rig.mark()
        rig.elapsed_ns(idle, done)
        return time.perf_counter_ns() - started


def overlap_case(rig: Rig, case: ScanCase, n_plans: int, rounds: int) -> dict[str, Any]:
    """Measure a store drained in several plans: each waited for, and each after the next scan was begun.

    Raises:
        WrongAnswerError: a round did not claim every page.
    """
    backend, device = timed_backend(rig, exclusive=case.exclusive)
    kernels = backend.open(layout_of(case.n_pages, case.format_name, case.n_targets))
    wall_ns: dict[str, list[int]] = {"waited": [], "overlapped": []}
    kernel_ns: list[int] = []
    try:
        n_ready = fill(rig, kernels, case.density, case.seed)
        saved = Saved(rig, kernels)
        room = max(BLOCK_PAGES, n_ready // n_plans)
        for turn in range(rounds + 1):
            for name, n_ahead in (("waited", 0), ("overlapped", 1)):
                saved.restore()
                started = time.perf_counter_ns()
                n_claimed, n_given = _drain_ahead(kernels, room, n_ahead)
                taken_ns = time.perf_counter_ns() - started
                if n_claimed != n_ready:
                    raise WrongAnswerError(f"{case}: {name} claimed {n_claimed} of {n_ready} pages")
                if turn:
                    wall_ns[name].append(taken_ns)
            saved.restore()
            kernel_ns.append(laps_of(device, partial(_drain_ahead, kernels, room, 0)).kernel_ns)
    finally:
        kernels.close()
    times = {name: spread(runs) for name, runs in wall_ns.items()}
    return {
        **facts_of(case),
        "n_ready": n_ready,
        "n_plans": n_given,
        "plan_bytes": n_ready * (PLAN_FLAT_BYTES + record_format(case.format_name).n_bytes),
        "kernels_ns": median(kernel_ns[1:]),
        "wall": times,
        "overlap_speedup": times["waited"]["median_ns"] / times["overlapped"]["median_ns"],
    }


def _drain_ahead(kernels: CudaKernels, room: int, n_ahead: int) -> tuple[int, int]:
    """Scan a store with up to ``n_ahead`` plans on their way; return pages claimed and plans."""
    begun: list[RawPlan] = []
    cursor, n_claimed, n_given, n_pages = 0, 0, 0, kernels.layout.n_pages
    while begun or cursor < n_pages:
        if cursor < n_pages:
            begun.append(kernels.scan(ScanRequest(cursor, n_pages, room, "dense")))
            cursor = begun[-1].cursor
        if len(begun) > n_ahead or cursor == n_pages:
            plan = begun.pop(0)
            n_claimed += len(plan.flat)
            n_given += 1
            plan.recycle()
    return n_claimed, n_given


def profile_case(rig: Rig, case: ScanCase) -> None:
    """Launch what Nsight Compute looks at, once: it repeats each launch and saves what that writes."""
    backend, _ = timed_backend(rig, exclusive=case.exclusive)
    kernels = backend.open(layout_of(case.n_pages, case.format_name, case.n_targets))
    try:
        Reader(rig, kernels.arrays.records).measure()
        for path in PATHS[:2]:
            n_ready = fill(rig, kernels, case.density, case.seed)
            drain(kernels, path, max(BLOCK_PAGES, n_ready), keep=False)
    finally:
        kernels.close()
