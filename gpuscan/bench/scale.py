"""``gpuscan bench scale``: what shards cost here, and what that says of machines that are not here.

A model is fitted to what was measured: a tick takes the slowest shard's scan plus an overhead
that grows with the shards and with the folios that are gathered. A projection is that model with
other numbers put in; what it rests on is in the document, and what was not measured is called so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.base.units import PAGE_BYTES, format_bytes, format_time
from gpuscan.bench.bed import StoreShape, bench_topology
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.shards.dask_transport import check_workers, local_cluster
from gpuscan.shards.sharded_store import ShardedStore

Scaling = Literal["strong", "weak"]

_PARALLEL_REQUESTS = 1_000_000
_INDEX_BYTES_PER_PAGE = 2 / 8 + 1 / 4096
"""Ready and eligible bit of every page, block bit of every 512."""
_H200_BYTES, _H200_BYTES_PER_S = 141e9, 4.8e12
"""NVIDIA H200 data sheet: 141 GB of HBM3e, 4.8 TB/s. Published, not measured."""
_TARGETS = 16
_REQUESTED = ("one_shard", "all_shards")


@dataclass(frozen=True, slots=True)
class ScaleSettings:
    """What is measured.

    Attributes:
        n_pages: of the whole store (strong); of the largest one (weak), the others in proportion.
        shards: counts of shards, ascending.
        density: of pages READY in a tick.
        rounds: timed ticks, and timed calls of requests, of each.
        seed: of positions and targets.
    """

    n_pages: int
    shards: tuple[int, ...]
    density: float
    rounds: int
    seed: int

    def __post_init__(self) -> None:
        if not self.shards or min(self.shards) < 1 or list(self.shards) != sorted(set(self.shards)):
            raise InputError(f"shards {self.shards}: give ascending counts of at least 1, for example 1,2,4")
        if not 0 < self.density <= 1:
            raise InputError(f"a density of {self.density} is no share of pages; give one above 0, up to 1")
        least = max(self.shards) * _TARGETS * SECTION_PAGES
        if self.n_pages < least or self.n_pages % least:
            raise InputError(
                f"{format_bytes(self.n_pages * PAGE_BYTES)} cannot be cut evenly into up to "
                f"{max(self.shards)} shards; give a multiple of {least * PAGE_BYTES >> 30} GiB"
            )

    @property
    def n_steps(self) -> int:
        """Steps that :func:`scale_case` counts."""
        return 2 * len(self.shards)


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured with one number of shards. Times are medians; folios and bytes are of one tick.

    Attributes:
        scaling: ``strong`` = the same store in more shards, ``weak`` = a larger store.
        tick_ns, scan_ns: the whole tick (scan, gather, plan), and the slowest shard's scan in it.
        overhead_ns, overhead_max_ns: median and largest of the difference.
        many_folios, many_overhead_ns: of ticks that find what all of ``n_requests`` left, twice: what a folio
            costs cannot be told from the few of ``density``.
        network_bytes, examined_bytes: on the wire, and read by the scans.
        request_one_shard_ns, request_all_shards_ns: one call of ``n_requests``.
        request_bytes: on the wire for one request.
    """

    scaling: Scaling
    n_shards: int
    n_pages: int
    n_folios: int
    tick_ns: float
    scan_ns: float
    overhead_ns: float
    overhead_max_ns: float
    many_folios: int
    many_overhead_ns: float
    network_bytes: float
    examined_bytes: float
    n_requests: int
    request_one_shard_ns: float
    request_all_shards_ns: float
    request_bytes: float


@dataclass(frozen=True, slots=True)
class Model:
    """Fitted to both ticks of the points by least squares of the relative error, coefficients not below 0.

    ``overhead = per_tick + per_shard * shards + per_folio * folios``, all in ns.

    Attributes:
        largest_residual: of the overhead, over the points, as a share of it.
        scan_ns_per_page: of one worker of this machine, one thread, at this density.
        examined_bytes_per_page: what that scan reads.
        request_ns: of one request to one shard, transport included.
        network_bytes_per_folio, network_bytes_per_request: on the wire.
    """

    per_tick_ns: float
    per_shard_ns: float
    per_folio_ns: float
    largest_residual: float
    scan_ns_per_page: float
    examined_bytes_per_page: float
    request_ns: float
    network_bytes_per_folio: float
    network_bytes_per_request: float

    def overhead_ns(self, n_shards: int, n_folios: float) -> float:
        """Return what a tick takes beyond the slowest scan."""
        return self.per_tick_ns + self.per_shard_ns * n_shards + self.per_folio_ns * n_folios

    def best_shards(self, n_pages: int, scan_ns_per_page: float) -> int:
        """Return the shards with which a tick is shortest: the least of scan / n + overhead(n)."""
        return max(1, round(float(np.sqrt(scan_ns_per_page * n_pages / max(self.per_shard_ns, 1.0)))))


def scale_case(settings: ScaleSettings, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Measure shards on workers of this machine, fit the model, project.

    Args:
        settings: what.
        on_step: called after each of ``settings.n_steps`` steps.

    Returns:
        One document: ``points``, ``model``, ``projections``, ``inputs``.

    Raises:
        InputError: so many workers are too many for this machine.
        RunFailedError: requests were lost.
    """
    points: list[Point] = []
    check_workers(max(settings.shards))
    for n_shards in settings.shards:
        with local_cluster(n_shards) as (transport, _):
            weak_pages = settings.n_pages // max(settings.shards) * n_shards
            shapes: list[tuple[Scaling, int]] = [("strong", settings.n_pages), ("weak", weak_pages)]
            for scaling, n_pages in shapes:
                shape = StoreShape(n_pages, _TARGETS, "rfc", "cpu")
                with ShardedStore(
                    bench_topology(shape), "rfc", "cpu", n_shards=n_shards, transport=transport, n_threads=1
                ) as store:
                    points.append(_measure(store, scaling, settings))
                on_step(f"{scaling}, {n_shards} shards")
    model = fit(points)
    return {
        "settings": asdict(settings),
        "points": [asdict(point) for point in points],
        "model": asdict(model),
        "projections": project(model, settings.density),
    }


def _measure(store: ShardedStore, scaling: Scaling, settings: ScaleSettings) -> Point:
    rng = np.random.default_rng(settings.seed)
    store.load_pages(store.page_map.present_bits())
    one_ns, all_ns, many, request_bytes = [], [], [], 0.0
    first, end = store.partition.bounds(store.n_shards - 1)
    for _ in range(settings.rounds):
        one_ns.append(_request(store, rng, first, end, _PARALLEL_REQUESTS))
        before = store.network()[1]
        all_ns.append(_request(store, rng, 0, store.n_pages, _PARALLEL_REQUESTS))
        request_bytes = (store.network()[1] - before) / _PARALLEL_REQUESTS
        many.append(
            _drain(store, capacity=store.n_pages)
        )  # one plan: a plan costs calls, which are no folio's
    ticks = []
    n_marks = max(1, round(store.n_pages * settings.density))
    for _ in range(settings.rounds + 1):
        _request(store, rng, 0, store.n_pages, n_marks)
        ticks.append(_drain(store))
    tick, scan, folios, network, examined = np.array(ticks[1:], dtype=np.float64).T
    many_tick, many_scan, many_folios, *_ = np.array(many, dtype=np.float64).T
    return Point(
        scaling,
        store.n_shards,
        store.n_pages,
        int(np.median(folios)),
        float(np.median(tick)),
        float(np.median(scan)),
        float(np.median(tick - scan)),
        float((tick - scan).max()),
        int(np.median(many_folios)),
        float(np.median(many_tick - many_scan)),
        float(np.median(network)),
        float(np.median(examined)),
        _PARALLEL_REQUESTS,
        float(np.median(one_ns)),
        float(np.median(all_ns)),
        request_bytes,
    )


def _request(store: ShardedStore, rng: np.random.Generator, lo: int, hi: int, n: int) -> int:
    """Request random pages of a range, each to another node than its own; return the time."""
    flats = rng.integers(lo, hi, n)
    nids: NDArray[np.int32] = (store.page_map.nid_of_flat(flats) + 1) % _TARGETS
    started = time.perf_counter_ns()
    counts = store.request(flats, nids.astype(np.int32))  # flat = PFN here
    elapsed_ns = time.perf_counter_ns() - started
    if sum(list(counts.values())[:2]) != n:
        raise RunFailedError(f"{sum(list(counts.values())[:2])} of {n} requests were accepted; report it")
    return elapsed_ns


def _drain(store: ShardedStore, capacity: int | None = None) -> tuple[int, int, int, int, int]:
    """Claim everything; return the time, the slowest scans in it, folios, bytes on the wire and read."""
    before = store.network()[1]
    started = time.perf_counter_ns()
    scan_ns = n_folios = examined = 0
    for plan in store.drain(capacity=capacity):
        scan_ns += plan.scan_ns
        n_folios += len(plan)
        examined += plan.examined_bytes
    return time.perf_counter_ns() - started, scan_ns, n_folios, store.network()[1] - before, examined


def fit(points: Sequence[Point]) -> Model:
    """Return the model of some points."""
    few = [(1.0, point.n_shards, point.n_folios, point.overhead_ns) for point in points]
    many = [(1.0, point.n_shards, point.many_folios, point.many_overhead_ns) for point in points]
    table = np.array(few + many)
    relative = table[:, :3] / table[:, 3:]
    found, used = np.zeros(3), [0, 1, 2]
    while used:  # least squares without negative coefficients: leave out what comes out below 0
        solved = np.linalg.lstsq(relative[:, used], np.ones(len(table)), rcond=None)[0]
        if (solved >= 0).all():
            found[used] = solved
            break
        used = [column for column, value in zip(used, solved, strict=True) if value > 0]
    per_tick, per_shard, per_folio = found.tolist()
    largest = max(points, key=lambda point: point.n_pages / point.n_shards)
    network = [point.network_bytes / max(1, point.n_folios) for point in points]
    return Model(
        per_tick,
        per_shard,
        per_folio,
        float(np.abs(relative @ found - 1).max()),
        largest.scan_ns * largest.n_shards / largest.n_pages,
        float(np.median([point.examined_bytes / point.n_pages for point in points])),
        float(np.median([point.request_one_shard_ns / point.n_requests for point in points])),
        float(np.median(network)),
        float(np.median([point.request_bytes for point in points])),
    )


def project(model: Model, density: float) -> list[dict[str, Any]]:
    """Return what the model says of machines that were not measured.

    ``shards_requests_per_s`` is what shards take side by side; the engine that hands them out is not in it.
    """
    machines = (
        ("8 x H200, 64 TiB", 64 << 40, 8, "gpu"),
        ("8 x H200, 1 PiB", 1 << 50, 8, "gpu"),
        ("1,024-node pool of 64 TiB, 16 hosts", 64 << 40, 16, "cpu"),
        ("1,024-node pool of 1 PiB, 16 hosts", 1 << 50, 16, "cpu"),
    )
    rows = []
    for name, memory_bytes, n_shards, device in machines:
        n_pages = memory_bytes // PAGE_BYTES
        n_folios = n_pages * density
        if device == "gpu":  # the bytes that the scan reads here, at the published bandwidth: a floor
            scan_ns_per_page = model.examined_bytes_per_page / _H200_BYTES_PER_S * 1e9
        else:
            scan_ns_per_page = model.scan_ns_per_page
        scan_ns = scan_ns_per_page * n_pages / n_shards
        bytes_per_shard = {
            name: n_pages / n_shards * (record_bytes + _INDEX_BYTES_PER_PAGE)
            for name, record_bytes in (("rfc", 4), ("pghot-compact", 1))
        }
        rows.append(
            {
                "machine": name,
                "n_shards": n_shards,
                "scan": "floor, published bandwidth" if device == "gpu" else "one thread as here",
                "shard_bytes": bytes_per_shard,
                "fits": {
                    name: device == "cpu" or needed < _H200_BYTES for name, needed in bytes_per_shard.items()
                },
                "scan_ns": scan_ns,
                "overhead_ns": model.overhead_ns(n_shards, n_folios),
                "network_bytes_per_tick": n_folios * model.network_bytes_per_folio,
                "shards_requests_per_s": n_shards / model.request_ns * 1e9,
                "best_n_shards": model.best_shards(n_pages, scan_ns_per_page),
            }
        )
    return rows


def scale_rows(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of what was measured."""
    columns = (
        "scaling,shards,memory,folios,tick,slowest scan,overhead,its max,on the wire,1 M requests to one,"
        "to all shards"
    )
    rows = []
    for point in document["points"]:
        rates = [point["n_requests"] / point[f"request_{which}_ns"] * 1e3 for which in _REQUESTED]
        rows.append(
            [
                point["scaling"],
                str(point["n_shards"]),
                format_bytes(point["n_pages"] * PAGE_BYTES),
                f"{point['n_folios']:,}",
                *(format_time(point[f"{what}_ns"]) for what in ("tick", "scan", "overhead", "overhead_max")),
                format_bytes(point["network_bytes"]),
                *(f"{rate:.1f} M/s" for rate in rates),
            ]
        )
    return columns.split(","), rows


def projection_rows(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the projections."""
    columns = (
        "machine,shards,records a shard,fits,scan,overhead,on the wire a tick,requests (the shards' side),"
        "best with"
    )
    rows = []
    for row in document["projections"]:
        fitting = [name for name, fits in row["fits"].items() if fits]
        needed = ", ".join(f"{format_bytes(size)} {name}" for name, size in row["shard_bytes"].items())
        rows.append(
            [
                row["machine"],
                str(row["n_shards"]),
                needed,
                " and ".join(fitting) if len(fitting) < len(row["fits"]) else "yes",
                f"{format_time(row['scan_ns'])} ({row['scan']})",
                format_time(row["overhead_ns"]),
                format_bytes(row["network_bytes_per_tick"]),
                f"{row['shards_requests_per_s'] / 1e6:.0f} M/s",
                f"{row['best_n_shards']:,} shards",
            ]
        )
    return columns.split(","), rows
