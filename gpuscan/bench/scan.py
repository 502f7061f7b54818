"""``gpuscan bench scan``: the same READY pages found by us, by peers, and the floors under them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuscan.base.errors import RunFailedError
from gpuscan.bench.bed import Bed, Case, StoreShape
from gpuscan.bench.floors import Floors
from gpuscan.bench.host import memory_now, reset_peak
from gpuscan.bench.peers.answer import Answer, Question, plain_answer
from gpuscan.bench.peers.catalogue import open_peer
from gpuscan.bench.peers.contract import PeerKind
from gpuscan.bench.timing import Contestant, Kind, State, race, stopwatch
from gpuscan.kernels.api import RawPlan, ScanPath
from gpuscan.records.page_map import SECTION_PAGES

PATHS: tuple[ScanPath, ...] = ("dense", "indexed", "auto")
STATES: tuple[State, ...] = ("warm", "cold")
LINE_BYTES = 64
PEERS_DENSITY_MAX = 0.5
"""Share of READY pages up to which peers take part: above, their answers take more than the records."""
_PART_FOLIOS = 1 << 18
"""Of a plan, released together: what is made of it in between counts as no memory of the scan."""

_NO_OUTCOMES = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """How the cases of a benchmark are run.

    Attributes:
        rounds: timed runs of everything.
        peers: names in :data:`gpuscan.bench.peers.catalogue.PEERS`.
        walk_pages: pages that the kernel's own way is measured on at most (80 bytes each).
        n_threads: threads of the scan and of the floors.
        capacity: folios per plan; None = the store's default.
    """

    rounds: int
    peers: tuple[str, ...]
    walk_pages: int
    n_threads: int
    capacity: int | None = None


class OurScan:
    """One path of the scan over a whole store: plans until the end, each put back untimed."""

    def __init__(self, bed: Bed, path: ScanPath, n_ready: int, capacity: int | None = None) -> None:
        self.bed = bed
        self.capacity = capacity
        self.path: ScanPath = path
        self.n_ready = n_ready
        self.facts: dict[str, Any] = {}

    def measure(self) -> int:
        """Return the nanoseconds of all scans together, claims and grouping included.

        Raises:
            RunFailedError: not every READY page was claimed.
        """
        return self._drain(lambda _lo, _plan: None)

    def verify(self, question: Question) -> None:
        """Run once and compare every plan with what its range of records holds.

        Raises:
            RunFailedError: a plan is wrong.
        """

        def check(lo: int, plan: RawPlan) -> None:
            given = Answer(plan.offsets, plan.flat)
            plain_answer(question, lo, plan.cursor).require_equal(given, f"the {self.path} scan")

        self._drain(check)

    def _drain(self, look: Callable[[int, RawPlan], None]) -> int:
        kernels, cursor, elapsed_ns, n_claimed, n_plans = self.bed.store.kernels, 0, 0, 0, 0
        examined_bytes = widening_ns = 0
        while cursor < self.bed.store.n_pages:
            request = self.bed.request(cursor, self.path, self.capacity)
            started = time.perf_counter_ns()
            plan = kernels.scan(request)
            plan.wait()
            elapsed_ns += time.perf_counter_ns() - started
            widening_ns += self._put_back(plan)
            look(cursor, plan)
            n_claimed += plan.n_folios
            examined_bytes += plan.examined_bytes
            n_plans += 1
            if cursor == 0:
                self.facts |= {"path": plan.path, "why": plan.why}
            cursor = plan.cursor
            plan.recycle()
        if n_claimed != self.n_ready:
            raise RunFailedError(
                f"the {self.path} scan claimed {n_claimed} pages of {self.n_ready}; report it"
            )
        self.facts |= {"n_plans": n_plans, "bytes": examined_bytes, "widening_ns": widening_ns}
        return elapsed_ns

    def _put_back(self, plan: RawPlan) -> int:
        """Release what a plan claimed, part by part; return the ns that making its pages and words took."""
        widening_ns = 0
        for lo in range(0, plan.n_folios, _PART_FOLIOS):
            started = time.perf_counter_ns()
            flats, words = plan.part(lo, min(lo + _PART_FOLIOS, plan.n_folios))
            widening_ns += time.perf_counter_ns() - started
            self.bed.store.kernels.release(flats, words, _NO_OUTCOMES)
        return widening_ns


def scan_cases(
    shape: StoreShape,
    cases: Sequence[Case],
    settings: ScanSettings,
    floors: Floors,
    on_step: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure cases of one store shape, on one store.

    Args:
        shape: of all the cases.
        cases: what to fill the store with, one after the other.
        settings: how often, against whom.
        floors: the ceilings, with as many threads.
        on_step: called after each of the ``settings.rounds + 1`` steps of a case, with its name.

    Returns:
        One document per case.

    Raises:
        InputError: a peer is unknown or not installed.
        RunFailedError: somebody gave a wrong answer.
    """
    kinds = [(name, open_peer(name)) for name in settings.peers]
    documents = []
    _compile(shape, settings.n_threads)
    with Bed(shape, settings.n_threads) as bed:
        for case in cases:
            documents.append(_scan_case(bed, case, settings, kinds, floors, on_step))
            bed.empty()
    return documents


def _scan_case(
    bed: Bed,
    case: Case,
    settings: ScanSettings,
    kinds: Sequence[tuple[str, PeerKind]],
    floors: Floors,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    name = f"{case.shape.n_pages:,} pages, {case.density:g} {case.clustering}"
    n_ready = bed.fill(case)
    memory_before = memory_now()["rss"]
    peak_is_ours = reset_peak()
    ours = [OurScan(bed, path, n_ready, settings.capacity) for path in PATHS]
    first_ns = {scan.path: scan.measure() for scan in ours}
    extra_bytes = max(0, memory_now()["peak"] - memory_before) if peak_is_ours else None
    fmt = bed.store.fmt
    layout = bed.store.layout
    question = Question(bed.records, fmt, layout.n_targets, layout.fixed_target, settings.walk_pages)
    for scan in ours:
        scan.verify(question)
    invited = kinds if case.density <= PEERS_DENSITY_MAX else ()
    peers = [(peer_name, kind, kind.make(question)) for peer_name, kind in invited]
    if peers:
        expected = plain_answer(question, 0, question.n_pages)
        for peer_name, _, peer in peers:
            part = expected if peer.n_pages == question.n_pages else expected.below(peer.n_pages)
            part.require_equal(peer.answer(), peer_name)
        del expected
    on_step(name)

    def read() -> None:
        floors.read(bed.records)

    contestants = [
        Contestant("read", Kind.FLOOR, "cold", stopwatch(read), {"bytes": bed.records.nbytes}),
        Contestant("copy", Kind.FLOOR, "cold", stopwatch(floors.copy), {"bytes": floors.copy_bytes}),
        *(
            Contestant(f"gpuscan {scan.path}", Kind.OURS, state, scan.measure, scan.facts)
            for state in STATES
            for scan in ours
        ),
        *(
            Contestant(
                peer_name,
                Kind.PEER,
                "cold",
                stopwatch(peer.run),
                {"about": kind.about, "measured_pages": peer.n_pages},
            )
            for peer_name, kind, peer in peers
        ),
    ]
    rows = race(contestants, settings.rounds, floors.flush_caches, lambda: on_step(name))
    return {
        "n_pages": case.shape.n_pages,
        "n_targets": case.shape.n_targets,
        "format": fmt.name,
        "device": bed.store.backend.name,
        "density": case.density,
        "clustering": case.clustering,
        "n_ready": n_ready,
        "record_bytes": bed.records.nbytes,
        "first_touch_ns": bed.first_touch_ns,
        "first_scan_ns": first_ns,
        "extra_bytes": extra_bytes,
        **ratios(rows, case, n_ready, bed.records.nbytes),
        "results": rows,
    }


def ratios(rows: list[dict[str, Any]], case: Case, n_ready: int, record_bytes: int) -> dict[str, Any]:
    """Complete the rows of a case in place and return its floors.

    Every row gets ``ns_per_page``, ``of_floor`` (its time over the read floor's) and, if it
    is ours, ``faster_than``: how many times faster it is than each peer. The time of a peer
    that worked on fewer pages is scaled, in ``scaled_ns``.
    """
    by_name = {row["name"]: row for row in rows}
    read_ns, copy = by_name["read"]["median_ns"], by_name["copy"]
    n_pages = case.shape.n_pages
    for row in rows:
        row["scaled_ns"] = row["median_ns"] * n_pages / row.get("measured_pages", n_pages)
        row["ns_per_page"] = row["scaled_ns"] / n_pages
        row["of_floor"] = row["scaled_ns"] / read_ns
    peers = {row["name"]: row["scaled_ns"] for row in rows if row["kind"] == "peer"}
    for row in rows:
        if row["kind"] == Kind.OURS:
            row["faster_than"] = {name: ns / row["median_ns"] for name, ns in peers.items()}
    written = written_bytes(n_ready, record_bytes, n_pages, case.clustering == "uniform")
    return {
        "floors": {
            "read_ns": read_ns,
            "read_bytes_per_s": record_bytes / read_ns * 1e9,
            "copy_bytes_per_s": copy["bytes"] / copy["median_ns"] * 1e9,
            "written_bytes": written,
            "dense_bytes_ns": read_ns + written / copy["bytes"] * copy["median_ns"],
        }
    }


def written_bytes(n_ready: int, record_bytes: int, n_pages: int, uniform: bool) -> float:
    """Return the least that claiming and grouping ``n_ready`` records write: dirty lines, and the plan.

    A claimed record makes its cache line dirty; a plan has 8 bytes and the record per page.
    """
    bytes_each = record_bytes // n_pages
    per_line = LINE_BYTES // bytes_each
    share = n_ready / n_pages
    lines = n_pages / per_line
    dirty = lines * (1 - (1 - share) ** per_line) if uniform else n_ready / per_line
    return dirty * LINE_BYTES + n_ready * (8 + bytes_each)


def _compile(shape: StoreShape, n_threads: int) -> None:
    """Load or compile what the cases will run, on the smallest store, before memory is looked at."""
    n_pages = max(2, shape.n_targets) * SECTION_PAGES
    small = StoreShape(n_pages, shape.n_targets, shape.format_name, shape.device)
    with Bed(small, n_threads) as bed:
        n_ready = bed.fill(Case(small, 0.1, "uniform", 0))
        for path in PATHS:
            OurScan(bed, path, n_ready).measure()
        bed.empty()
