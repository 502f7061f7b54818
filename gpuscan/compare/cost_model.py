"""What a scan takes on machines of any size: modelled from steps that are measured here, in the same run.

Each way to find READY pages is timed at two sizes; a straight line through them is the model, and a
size in between, measured as well, says how far off it is. CPU time of one thread, caches cold but for
what the run before left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuscan.base.errors import RunFailedError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.bench.bed import Bed, Case, StoreShape
from gpuscan.compare import steps
from gpuscan.compare.open_loop import StepCosts
from gpuscan.compare.settings import OURS, UNTIMED
from gpuscan.records.page_map import SECTION_PAGES

GIB_PAGES = (1 << 30) // PAGE_BYTES
MODEL_DENSITY = 1e-5
"""READY pages, share of all, of the curves over memory size."""
MODEL_SIZES = tuple(1 << shift for shift in range(30, 47))
"""Bytes: 1 GiB to 64 TiB."""

_ROUNDS = 9
_WALK_GIB = (4, 16, 8)
"""Sizes of the walks: the two that make the line, and the one that checks it. 80 bytes a page."""
_STORE_GIB = (16, 128, 64)
_N_ENTRIES = (1 << 18, 1 << 20, 1 << 19)
_N_SECTIONS = (1 << 17, 1 << 19, 1 << 18)
_SPREAD_PAGES = 1 << 22
"""Struct pages that the entries of a list are spread over: 256 MiB."""


@dataclass(frozen=True, slots=True)
class Line:
    """A measured straight line.

    Attributes:
        what: a step: ``walk`` (RFC v1's), ``section walk``, ``section check``, ``list entry``, ``gpuscan``.
        unit: what is counted: pages, sections, entries.
        fixed_ns, each_ns: intercept (0 at least) and slope.
        sizes, measured_ns: the two that made it, then the one that checks it; the least of 9 runs each.
        error: (model - measured) / measured at the checked size.
    """

    what: str
    unit: str
    fixed_ns: float
    each_ns: float
    sizes: tuple[int, ...]
    measured_ns: tuple[float, ...]
    error: float

    def ns(self, n: float) -> float:
        """Return the modelled time of ``n`` units."""
        return self.fixed_ns + self.each_ns * n


@dataclass(frozen=True, slots=True)
class CostModel:
    """All lines of one machine, by what they are of."""

    lines: dict[str, Line]

    def step_costs(self, design: str) -> StepCosts:
        """Return what the open loop charges a design's thread for."""
        page = "section walk" if design == "section-flag" else "walk"
        return StepCosts(self.lines[page].each_ns, self.lines["list entry"].each_ns)

    def scan_ns(self, design: str, n_pages: int, density: float = MODEL_DENSITY) -> float:
        """Return the modelled time of one scan of ``n_pages``, READY pages spread evenly; NaN for a design
        in ``UNTIMED``.

        Args:
            design: its name.
            n_pages: of the machine.
            density: READY pages, share of all.
        """
        lines = self.lines
        if design == OURS:
            return lines["gpuscan"].ns(n_pages)
        if design in UNTIMED:
            return float("nan")
        if design == "percpu-list":
            return lines["list entry"].ns(n_pages * density)
        if design == "section-flag":
            n_sections = n_pages / SECTION_PAGES
            hot = n_sections * -np.expm1(SECTION_PAGES * np.log1p(-density))
            walked = lines["section walk"].ns(hot * SECTION_PAGES)
            return float(lines["section check"].ns(n_sections) + walked)
        return lines["walk"].ns(n_pages)


def measure_model(on_step: Callable[[str], None]) -> CostModel:
    """Measure every line; ``on_step`` is called after each of :data:`N_STEPS`."""
    lines = {}
    for measure in (_walk, _section_walk, _section_check, _list_entry, _gpuscan):
        line = measure()
        lines[line.what] = line
        on_step(line.what)
    return CostModel(lines)


N_STEPS = 5


def timed(run: Callable[[], Any], rounds: int = _ROUNDS) -> float:
    """Return the least CPU time of a call in this thread, in ns, after one that is not timed: others on the
    machine only ever add to it."""
    times = []
    for _ in range(rounds + 1):
        started = time.thread_time_ns()
        run()
        times.append(time.thread_time_ns() - started)
    return float(min(times[1:]))


def _line(what: str, unit: str, sizes: tuple[int, ...], make: Callable[[int], Callable[[], Any]]) -> Line:
    measured = [timed(make(n)) for n in sizes]
    each_ns = max(0.0, (measured[1] - measured[0]) / (sizes[1] - sizes[0]))
    fixed_ns = max(0.0, measured[0] - each_ns * sizes[0])
    modelled = fixed_ns + each_ns * sizes[2]
    return Line(what, unit, fixed_ns, each_ns, sizes, tuple(measured), modelled / measured[2] - 1)


def _pages(gib: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n * GIB_PAGES for n in gib)


def _ready(n_pages: int) -> Any:
    return np.random.default_rng(1).choice(n_pages, int(n_pages * MODEL_DENSITY), replace=False)


def _walk() -> Line:
    def make(n_pages: int) -> Callable[[], Any]:
        pages, exts, ready = steps.struct_pages(n_pages), steps.written(n_pages), _ready(n_pages)
        found, walk = np.empty(len(ready), dtype=np.int64), steps.walk_locked.for_bits(64)

        def run() -> None:
            exts[ready] = steps.READY
            walk(pages, exts, found)

        return run

    return _line("walk", "pages", _pages(_WALK_GIB), make)


def _section_walk() -> Line:
    def make(n_pages: int) -> Callable[[], Any]:
        pages, records = steps.struct_pages(n_pages), steps.written(n_pages, np.uint8)
        ready, walk = _ready(n_pages), steps.walk_records.for_bits(8)
        found = np.empty(len(ready), dtype=np.int64)

        def run() -> None:
            records[ready] = steps.RECORD_READY
            walk(pages, records, found)

        return run

    return _line("section walk", "pages", _pages(_WALK_GIB), make)


def _section_check() -> Line:
    def make(n_sections: int) -> Callable[[], Any]:
        hot, check = steps.written(2 * n_sections), steps.check_sections.for_bits(64)
        return lambda: check(hot)

    return _line("section check", "sections", _N_SECTIONS, make)


def _list_entry() -> Line:
    pages = steps.struct_pages(_SPREAD_PAGES)

    def make(n_entries: int) -> Callable[[], Any]:
        entries = np.ones((n_entries, 2), dtype=np.int64)
        entries[:, 0] = np.random.default_rng(2).permutation(_SPREAD_PAGES)[:n_entries]
        found, drain = np.empty(n_entries, dtype=np.int64), steps.drain_list.for_bits(64)
        return lambda: drain(entries, pages, found)

    return _line("list entry", "entries", _N_ENTRIES, make)


def _gpuscan() -> Line:
    """The scan as the engine calls it (auto), one thread, 16 targets, claims and grouping included."""
    measured = []
    for n_pages in _pages(_STORE_GIB):
        shape = StoreShape(n_pages, 16, "rfc", "cpu")
        with Bed(shape, 1) as bed:
            n_ready = bed.fill(Case(shape, MODEL_DENSITY, "uniform", 1))
            measured.append(scan_ns(bed, n_ready))
            bed.empty()
    sizes = _pages(_STORE_GIB)
    each_ns = max(0.0, (measured[1] - measured[0]) / (sizes[1] - sizes[0]))
    fixed_ns = max(0.0, measured[0] - each_ns * sizes[0])
    error = (fixed_ns + each_ns * sizes[2]) / measured[2] - 1
    return Line("gpuscan", "pages", fixed_ns, each_ns, sizes, tuple(measured), error)


def scan_ns(bed: Bed, n_ready: int) -> float:
    """Return the least CPU time of one scan (auto) of a filled bed by this thread, which is put back after.

    Raises:
        RunFailedError: not every READY page was claimed.
    """
    times, none = [], np.empty(0, dtype=np.uint8)
    for _ in range(_ROUNDS + 1):
        n_claimed = cursor = elapsed_ns = 0
        while cursor < bed.store.n_pages:
            request = bed.request(cursor, "auto")
            started = time.thread_time_ns()
            plan = bed.store.kernels.scan(request)
            elapsed_ns += time.thread_time_ns() - started
            bed.store.kernels.release(plan.flat, plan.words, none)
            n_claimed, cursor = n_claimed + len(plan.flat), plan.cursor
            plan.recycle()
        times.append(elapsed_ns)
        if n_claimed != n_ready:
            raise RunFailedError(f"a scan claimed {n_claimed} pages of {n_ready}; report it")
    return float(min(times[1:]))
