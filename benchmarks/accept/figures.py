"""What is measured: ceilings, scans beside peers and floors, producers, and the largest stores that fit.

Times are nanoseconds. ``kernel`` and ``span`` are the device's own clock, CUDA events: around every
kernel, added up, each behind one that spins, so that nothing of the host is in it; and, in a run of its
own, from the first to the last of them, which is what can be told of a peer. ``wall`` is the caller's of
that run, with launches, looks at counters and the plan's transfer to the host.
Everything is warm: each contestant ran once before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from accept.beds import NO_OUTCOMES, Drained, Lie, Saved, drain, fill, layout_of, make_eligible, store_bytes
from accept.model import add_modelled_budgets, add_modelled_requests, add_modelled_scans
from accept.peers import Peer, PeerAnswer
from accept.rig import Laps, Rig, TimedDevice, launch, own_source, timed_backend
from gpuscan.base.units import PAGE_BYTES
from gpuscan.kernels.api import Budget, Outcome, RecordParams, ScanPath
from gpuscan.kernels.cuda import CudaKernels
from gpuscan.kernels.cuda.backend import WORKING_BYTES
from gpuscan.records.formats import record_format
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES

PATHS: tuple[ScanPath, ...] = ("dense", "indexed", "auto")
_MARGIN_BYTES = 1 << 30
"""Left free beside the largest store: plans, stages, and what the driver takes."""
_RECORD = RecordParams(now_jiffies=1000, window_jiffies=1000, threshold=1, drop_top_tier=False)
PLAN_FLAT_BYTES = 8
USUAL_FORMAT = "rfc"
"""Of the records, where a part has but one."""

Times = dict[str, Any]


class WrongAnswerError(Exception):
    """Something that is timed does not give the answer that it must."""


@dataclass(frozen=True, slots=True)
class ScanCase:
    """A filled store that is scanned by all paths."""

    n_pages: int
    n_targets: int
    density: float
    exclusive: bool
    format_name: str = USUAL_FORMAT
    lie: Lie = "uniform"
    seed: int = 1


def spread(runs_ns: Sequence[int]) -> Times:
    """Return median, p10, p90 and least of some runs, and the runs."""
    p10, p90 = np.percentile(runs_ns, [10, 90]).tolist()
    return {
        "median_ns": median(runs_ns),
        "p10_ns": p10,
        "p90_ns": p90,
        "min_ns": min(runs_ns),
        "runs_ns": list(runs_ns),
    }


def on_device(rig: Rig, run: Callable[[], object]) -> int:
    """Return what the device took for ``run``, and nothing of what the host did to begin it."""
    with rig.device.working():
        rig.spin()
        begin = rig.mark()
        run()
        return rig.elapsed_ns(begin, rig.mark())


def ceilings(rig: Rig, n_bytes: int, rounds: int) -> dict[str, Any]:
    """Measure reading ``n_bytes``, and copying them: bytes per second, read and written counted."""
    with rig.device.working():
        one = rig.device.zeros(n_bytes // 8, np.uint64)
        other = rig.device.zeros(n_bytes // 8, np.uint64)
    read = Reader(rig, one)

    def copy() -> None:
        other[:] = one

    taken: dict[str, list[int]] = {"read": [], "copy": []}
    for _ in range(rounds + 1):
        taken["read"].append(read.measure())
        taken["copy"].append(on_device(rig, copy))
    reading, copying = spread(taken["read"][1:]), spread(taken["copy"][1:])
    return {
        "buffer_bytes": n_bytes,
        "read": reading,
        "copy": copying,
        "read_bytes_per_s": n_bytes / reading["median_ns"] * 1e9,
        "copy_bytes_per_s": 2 * n_bytes / copying["median_ns"] * 1e9,
    }


class Reader:
    """Reads an array once, and does nothing else: the floor of whoever has to look at all of it."""

    def __init__(self, rig: Rig, array: Any) -> None:
        self._rig = rig
        self._array = array
        with rig.device.working():
            self._sink = rig.device.zeros(1, np.uint32)
        self._kernel = rig.device.compile(own_source(record_format("rfc"), "bed"))("read_all")

    def measure(self) -> int:
        """Return the device's nanoseconds."""
        n_wide = self._array.nbytes // 16
        return on_device(
            self._rig, lambda: launch(self._kernel, n_wide, self._array, np.int64(n_wide), self._sink)
        )


def laps_of(device: TimedDevice, run: Callable[[], object]) -> Laps:
    """Return what each kernel of ``run`` takes by itself."""
    with device.watched(spins=True) as laps:
        run()
    return laps


def watch(
    device: TimedDevice, prepare: Callable[[], object], run: Callable[[], Any]
) -> tuple[list[Any], int, Laps]:
    """Run twice, each time after ``prepare``: for the kernels, and for the whole.

    Returns:
        What ``run`` returned, both times; the wall time of the second; what the device did.
    """
    results: list[Any] = []
    prepare()
    laps = laps_of(device, lambda: results.append(run()))
    prepare()
    with device.watched() as whole:
        started = time.perf_counter_ns()
        results.append(run())
        wall_ns = time.perf_counter_ns() - started
    return results, wall_ns, Laps(laps.by_kernel, whole.span_ns)


@dataclass(frozen=True)
class _Filled:
    """A store with pages that are READY, which can be had again as it was."""

    device: TimedDevice
    kernels: CudaKernels
    n_ready: int
    saved: Saved
    read: Reader


@contextmanager
def _filled(rig: Rig, case: ScanCase) -> Iterator[_Filled]:
    """Open and fill the store of a case; it is closed at the end."""
    backend, device = timed_backend(rig, exclusive=case.exclusive)
    kernels = backend.open(layout_of(case.n_pages, case.format_name, case.n_targets))
    try:
        n_ready = fill(rig, kernels, case.density, case.seed, case.lie)
        yield _Filled(device, kernels, n_ready, Saved(rig, kernels), Reader(rig, kernels.arrays.records))
    finally:
        kernels.close()


def scan_case(rig: Rig, case: ScanCase, peers: Sequence[Peer], rounds: int) -> dict[str, Any]:
    """Measure our three paths and the peers on one filled store, in turn.

    Raises:
        WrongAnswerError: a path did not claim every page, or a peer's answer is another.
    """
    with _filled(rig, case) as store:
        kernels, saved = store.kernels, store.saved
        layout, n_ready = kernels.layout, store.n_ready
        room = max(BLOCK_PAGES, kernels.count_index()[0])
        runs = _Runs()
        flats = np.zeros(0, dtype=np.int64)
        for turn in range(rounds + 1):
            runs.add("read", turn, store.read.measure())
            for path in PATHS:
                keep = turn == 0 and path == "dense" and len(peers) > 0
                scan = partial(drain, kernels, path, room, keep=keep)
                both, wall_ns, laps = watch(store.device, saved.restore, scan)
                drained = _whole(both, n_ready, f"{case}: {path}")
                if keep:
                    _, flats, _ = drained.by_target()
                runs.add(path, turn, laps.kernel_ns, wall_ns, laps)
                runs.facts[path] = {
                    "paths": sorted(set(drained.paths)),
                    "examined_bytes": drained.examined_bytes,
                }
            saved.restore()
            for peer in peers:
                given, kernel_ns, wall_ns = _ask(rig, peer, kernels)
                if turn == 0 and not np.array_equal(given.flats, flats):
                    raise WrongAnswerError(f"{case}: {peer.name} gives another plan")
                runs.add(peer.name, turn, kernel_ns, wall_ns)
    record_bytes = layout.n_pages * layout.fmt.n_bytes
    # Of each claim the record is written, and the plan has its flat page and its word.
    least_bytes = record_bytes + n_ready * (2 * layout.fmt.n_bytes + PLAN_FLAT_BYTES)
    rows = runs.rows(floor="read")
    for row in rows:
        row["of_least_bytes"] = row["of_floor"] and row["of_floor"] * record_bytes / least_bytes
    add_modelled_scans(rig, rows, case)
    return {
        **facts_of(case),
        "n_ready": n_ready,
        "record_bytes": record_bytes,
        "least_bytes": least_bytes,
        "results": rows,
    }


def _whole(both: Sequence[Drained], n_ready: int, what: str) -> Drained:
    """Return the last of two drains, each of which must have claimed every page."""
    for drained in both:
        if drained.n_claimed != n_ready:
            raise WrongAnswerError(f"{what} claimed {drained.n_claimed} of {n_ready} pages")
    return both[-1]


def budget_case(rig: Rig, case: ScanCase, rounds: int) -> dict[str, Any]:
    """Measure a ranking and the scan that spends its budget: one that all fits, and half of each target's.

    Raises:
        WrongAnswerError: not as many pages were claimed as the budget lets.
    """
    with _filled(rig, case) as store:
        kernels, n_ready = store.kernels, store.n_ready
        room = max(BLOCK_PAGES, n_ready)
        of_targets = drain(kernels, "indexed", room).by_target()[0]
        limits = {"all fits": np.full(case.n_targets, n_ready), "half of it": of_targets // 2}

        def spend(most: Any) -> Drained:
            resume = np.zeros(case.n_targets, dtype=np.int64)
            budget = Budget(most.copy(), resume, kernels.layout.fmt.time_of(_RECORD.now_jiffies))
            cuts = kernels.rank(budget, 0, case.n_pages)
            return drain(kernels, "indexed", room, cuts=cuts, keep=False)

        runs = _Runs()
        for turn in range(rounds + 1):
            runs.add("read", turn, store.read.measure())
            for name, most in limits.items():
                both, wall_ns, laps = watch(store.device, store.saved.restore, partial(spend, most))
                n_claimed = int(np.minimum(of_targets, most).sum())
                _whole(both, n_claimed, f"{case}: a budget, {name},")
                runs.add(name, turn, laps.kernel_ns, wall_ns, laps)
    rows = runs.rows(floor="read")
    add_modelled_budgets(rig, rows, case)
    return {**facts_of(case), "n_ready": n_ready, "results": rows}


def residency_case(rig: Rig, case: ScanCase, rounds: int) -> dict[str, Any]:
    """Measure a scan by the index, the records on the device and then in pinned memory of the host.

    The store is filled anew for each run: the driver is not asked to copy what is the host's.

    Raises:
        WrongAnswerError: not every page was claimed.
    """
    runs, n_ready = _Runs(), 0
    layout = layout_of(case.n_pages, case.format_name, case.n_targets)
    for name in ("indexed", "indexed, records in pinned memory"):
        backend, device = timed_backend(rig)
        kernels = backend.open(layout) if name == "indexed" else backend.open_index(layout, None)
        try:
            for turn in range(rounds + 1):
                n_ready = fill(rig, kernels, case.density, case.seed)
                scan = partial(drain, kernels, "indexed", max(BLOCK_PAGES, n_ready), keep=False)
                filled = partial(fill, rig, kernels, case.density, case.seed)
                both, wall_ns, laps = watch(device, filled, scan)
                drained = _whole(both, n_ready, f"{case}: {name}")
                runs.add(name, turn, laps.kernel_ns, wall_ns, laps)
                runs.facts[name] = {"examined_bytes": drained.examined_bytes}
        finally:
            kernels.close()
    rows = runs.rows(floor="indexed")
    add_modelled_scans(rig, rows, case)
    return {**facts_of(case), "n_ready": n_ready, "results": rows}


def facts_of(case: ScanCase) -> dict[str, Any]:
    """Return the case as the report has it."""
    return {
        "n_pages": case.n_pages,
        "memory_bytes": case.n_pages * PAGE_BYTES,
        "n_targets": case.n_targets,
        "format": case.format_name,
        "density": case.density,
        "lie": case.lie,
        "exclusive": case.exclusive,
    }


def _ask(rig: Rig, peer: Peer, kernels: CudaKernels) -> tuple[PeerAnswer, int, int]:
    """Return a peer's answer in host memory, the device's time without the transfer, and the wall time."""
    records = kernels.arrays.records
    with rig.device.working():
        started = time.perf_counter_ns()
        begin = rig.mark()
        flats = peer.group(records)
        end = rig.mark()
        answer = PeerAnswer(rig.device, flats)
        wall_ns = time.perf_counter_ns() - started - answer.allocated_ns
        return answer, rig.elapsed_ns(begin, end), wall_ns


class _Runs:
    """Runs by contestant; the first of each is a warm-up."""

    def __init__(self) -> None:
        self.kernel_ns: dict[str, list[int]] = {}
        self.wall_ns: dict[str, list[int]] = {}
        self.laps: dict[str, list[Laps]] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def add(
        self,
        name: str,
        turn: int,
        kernel_ns: int,
        wall_ns: int | None = None,
        laps: Laps | None = None,
    ) -> None:
        if turn == 0:
            return
        self.kernel_ns.setdefault(name, []).append(kernel_ns)
        if wall_ns is not None:
            self.wall_ns.setdefault(name, []).append(wall_ns)
        if laps is not None:
            self.laps.setdefault(name, []).append(laps)

    def rows(self, floor: str) -> list[dict[str, Any]]:
        """Return one row per contestant, each beside the floor of the same rounds."""
        floor_ns = median(self.kernel_ns[floor])
        return [
            {
                "name": name,
                "kernel": spread(runs),
                "span": spread([laps.span_ns for laps in self.laps[name]] if name in self.laps else runs),
                "wall": spread(self.wall_ns[name]) if name in self.wall_ns else None,
                "of_floor": median(runs) / floor_ns if floor_ns else None,
                "by_kernel_ns": _medians([laps.by_kernel for laps in self.laps.get(name, [])]),
                **self.facts.get(name, {}),
            }
            for name, runs in self.kernel_ns.items()
        ]


def _medians(runs: Sequence[dict[str, int]]) -> dict[str, float]:
    names = sorted({name for run in runs for name in run})
    return {name: median(run.get(name, 0) for run in runs) for name in names}


def request_case(rig: Rig, n_pages: int, n_items: int, rounds: int, seed: int = 1) -> dict[str, Any]:
    """Measure ``request`` and ``record`` with random PFNs, in call order and in any, and random atomics.

    Raises:
        WrongAnswerError: not every page was marked.
    """
    rng = np.random.default_rng(seed)
    layout = layout_of(n_pages, "rfc", 16)
    flats = rng.integers(0, n_pages, n_items)
    pfns = layout.page_map.pfn_of_flat(flats)
    n_targets = layout.n_targets
    nids = (layout.page_map.nid_of_flat(flats) + rng.integers(1, n_targets, n_items)) % n_targets
    nids = nids.astype(np.int32)
    runs = _Runs()
    atomics = rig.device.compile(own_source(layout.fmt, "bed"))("random_atomics")
    with rig.device.working():
        there = rig.device.upload(pfns), rig.device.upload(nids)
        words = rig.device.zeros(n_pages, np.uint32)
        positions = rig.device.upload(flats)
    hit = partial(launch, atomics, n_items, words, positions, np.int64(n_items))
    for turn in range(rounds + 1):
        taken = on_device(rig, hit)
        runs.add("random atomics", turn, taken)
    del words, positions, hit  # the stores below are large
    for ordered in (True, False):
        backend, device = timed_backend(rig, ordered=ordered)
        kernels = backend.open(layout)
        try:
            make_eligible(kernels)
            saved = Saved(rig, kernels)
            calls: dict[str, Callable[[], Any]] = {
                "request": partial(kernels.request, pfns, nids, NO_OUTCOMES),
                "record": partial(kernels.record, pfns, nids, _RECORD, NO_OUTCOMES),
                "request from the device": partial(kernels.request, *there, NO_OUTCOMES),
                "record from the device": partial(kernels.record, *there, _RECORD, NO_OUTCOMES),
            }
            for turn in range(rounds + 1):
                for name, call in calls.items():
                    both, wall_ns, laps = watch(device, saved.restore, call)
                    for counts in both:
                        marked = int(counts[Outcome.ACCEPTED]) + int(counts[Outcome.REFRESHED])
                        if marked != n_items:
                            raise WrongAnswerError(f"{name} marked {marked} of {n_items} pages")
                    label = f"{name}, {'call order' if ordered else 'any order'}"
                    runs.add(label, turn, laps.kernel_ns, wall_ns, laps)
        finally:
            kernels.close()
    rows = runs.rows(floor="random atomics")
    for row in rows:
        row["per_s"] = n_items / row["kernel"]["median_ns"] * 1e9
        row["of_ceiling"] = 1 / row["of_floor"] if row["of_floor"] else None
    add_modelled_requests(rig, rows, n_pages, n_items)
    return {"n_pages": n_pages, "n_items": n_items, "n_targets": n_targets, "results": rows}


def largest_pages(rig: Rig, format_name: str) -> int:
    """Return how many pages' records fit the device, a multiple of a section."""
    per_section = store_bytes(layout_of(2 * SECTION_PAGES, format_name, 1)) // 2
    room = rig.device.free_bytes() - WORKING_BYTES - _MARGIN_BYTES
    return max(0, room // per_section) * SECTION_PAGES


def large_cases(rig: Rig, least: int, wanted: int, most: int, density: float) -> Iterator[ScanCase]:
    """Yield the stores of the large part: ``wanted`` pages in the first format that fits, and the largest.

    Args:
        rig: says what fits.
        least: pages below which there is no point.
        wanted: 64 TiB on a real GPU.
        most: pages of the largest store at most, for machines without a limit of their own.
        density: of all.
    """
    for format_name in ("rfc", "pghot-compact"):
        if largest_pages(rig, format_name) >= wanted:
            yield ScanCase(wanted, 1 if format_name == "pghot-compact" else 16, density, True, format_name)
            break
    largest = min(largest_pages(rig, "rfc"), most)
    if largest >= least:
        yield ScanCase(largest, 16, density, False)


def large_case(rig: Rig, case: ScanCase, rounds: int) -> dict[str, Any]:
    """Measure dense and indexed on a store that leaves no room for a copy: it is filled anew for each run.

    Raises:
        WrongAnswerError: a path did not claim every page.
    """
    backend, device = timed_backend(rig, exclusive=case.exclusive)
    kernels = backend.open(layout_of(case.n_pages, case.format_name, case.n_targets))
    runs, n_ready = _Runs(), 0
    try:
        read = Reader(rig, kernels.arrays.records)
        for turn in range(rounds + 1):
            runs.add("read", turn, read.measure())
            for path in PATHS[:2]:
                n_ready = fill(rig, kernels, case.density, case.seed)
                room = max(BLOCK_PAGES, n_ready)
                filled = partial(fill, rig, kernels, case.density, case.seed)
                both, wall_ns, laps = watch(device, filled, partial(drain, kernels, path, room, keep=False))
                drained = _whole(both, n_ready, f"{case}: {path}")
                if kernels.count_ready():
                    raise WrongAnswerError(f"{case}: {path} left {kernels.count_ready()} pages READY")
                runs.add(path, turn, laps.kernel_ns, wall_ns, laps)
                runs.facts[path] = {"examined_bytes": drained.examined_bytes}
    finally:
        kernels.close()
    rows = runs.rows(floor="read")
    add_modelled_scans(rig, rows, case)
    return {**facts_of(case), "n_ready": n_ready, "results": rows}
