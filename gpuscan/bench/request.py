"""``gpuscan bench request``: how fast producers mark pages, against random writes of one word each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import RunFailedError
from gpuscan.bench.bed import Bed, StoreShape
from gpuscan.bench.floors import Floors
from gpuscan.bench.timing import Contestant, Kind, race, stopwatch
from gpuscan.kernels.api import Outcome, RecordParams

_NO_OUTCOMES = np.empty(0, dtype=np.uint8)
_RECORD = RecordParams(now_jiffies=1000, window_jiffies=1000, threshold=1, drop_top_tier=False)


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """How requests are measured.

    Attributes:
        rounds: timed runs of everything.
        n_requests: PFNs per call.
        n_threads: threads of the requests and of the floor.
        seed: of PFNs and targets.
    """

    rounds: int
    n_requests: int
    n_threads: int
    seed: int


class Producer:
    """One bulk call on an empty store, which is emptied again untimed."""

    def __init__(self, bed: Bed, n_requests: int, call: Callable[[], NDArray[np.int64]]) -> None:
        self.bed = bed
        self.n_requests = n_requests
        self.call = call

    def measure(self) -> int:
        """Return the nanoseconds of the call.

        Raises:
            RunFailedError: not every page was marked, or the store was not empty before.
        """
        started = time.perf_counter_ns()
        counts = self.call()
        elapsed_ns = time.perf_counter_ns() - started
        accepted, refreshed = int(counts[Outcome.ACCEPTED]), int(counts[Outcome.REFRESHED])
        n_ready = self.bed.store.count_ready()
        if accepted + refreshed != self.n_requests or n_ready != accepted:
            raise RunFailedError(
                f"of {self.n_requests} requests {accepted} were accepted and {refreshed} refreshed, and then "
                f"{n_ready} pages were READY; report it"
            )
        self.bed.empty()
        return elapsed_ns


def request_case(
    shape: StoreShape, settings: RequestSettings, floors: Floors, on_step: Callable[[str], None]
) -> dict[str, Any]:
    """Measure ``request`` and ``record`` with random and with ascending PFNs.

    Args:
        shape: the store.
        settings: how many, how often.
        floors: the ceilings, with as many threads.
        on_step: called after each of ``settings.rounds + 1`` steps.

    Returns:
        One document.

    Raises:
        RunFailedError: pages were not marked.
    """
    name = f"{settings.n_requests:,} requests over {shape.n_pages:,} pages"
    with Bed(shape, settings.n_threads) as bed:
        rng = np.random.default_rng(settings.seed)
        pfns = rng.integers(0, shape.n_pages, settings.n_requests)
        nids = bed.targets(pfns, rng)

        def write_zeros() -> None:
            floors.write_at(bed.records, pfns)  # the store is empty, so this changes nothing

        contestants = [
            Contestant("random writes", Kind.FLOOR, "cold", stopwatch(write_zeros)),
            *_producers(bed, "random", pfns, nids),
            *_producers(bed, "ascending", *_ascending(pfns, nids)),
            Contestant(
                "numpy",
                Kind.PEER,
                "cold",
                _assign(bed, pfns, nids),
                {"about": "records[pfns] = words: one thread, not atomic, no index"},
            ),
        ]
        for contestant in contestants:
            contestant.measure()
        on_step(name)
        rows = race(contestants, settings.rounds, floors.flush_caches, lambda: on_step(name))
        for row in rows:
            row["per_s"] = settings.n_requests / row["median_ns"] * 1e9
            row["of_ceiling"] = row["per_s"] / rows[0]["per_s"] if row is not rows[0] else 1.0
        return {
            "n_pages": shape.n_pages,
            "n_targets": shape.n_targets,
            "format": shape.format_name,
            "device": bed.store.backend.name,
            "n_requests": settings.n_requests,
            "record_bytes": bed.records.nbytes,
            "results": rows,
        }


def _producers(bed: Bed, order: str, pfns: NDArray[np.int64], nids: NDArray[np.int32]) -> list[Contestant]:
    kernels = bed.store.kernels
    request = Producer(bed, len(pfns), lambda: kernels.request(pfns, nids, _NO_OUTCOMES))
    record = Producer(bed, len(pfns), lambda: kernels.record(pfns, nids, _RECORD, _NO_OUTCOMES))
    return [
        Contestant(f"gpuscan request, {order} PFNs", Kind.OURS, "cold", request.measure),
        Contestant(f"gpuscan record, {order} PFNs", Kind.OURS, "cold", record.measure),
    ]


def _ascending(
    pfns: NDArray[np.int64], nids: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    order = np.argsort(pfns)
    return pfns[order], nids[order]


def _assign(bed: Bed, pfns: NDArray[np.int64], nids: NDArray[np.int32]) -> Callable[[], int]:
    """Return what NumPy users would write, not atomic: mark by assignment; put back to zeros untimed."""
    fmt, records = bed.store.fmt, bed.records

    def assign() -> None:
        records[pfns] = (nids.astype(records.dtype) << fmt.nid.shift) | fmt.ready.mask

    timed = stopwatch(assign)

    def measure() -> int:
        elapsed_ns = timed()
        records[pfns] = 0
        return elapsed_ns

    return measure
