"""The same operations on the GPU and on a twin; every answer, and at the end every array, must be equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accept.beds import NO_OUTCOMES, Drained, drain, fill, layout_of, make_eligible
from accept.rig import Rig, launch, own_source
from gpuscan.kernels.api import Backend, Budget, Kernels, RecordParams, ScanPath, ScanRequest, StoreArrays
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.own_kernels import header, view_of
from gpuscan.records.page_map import BLOCK_PAGES

_PATHS: tuple[ScanPath, ...] = ("dense", "indexed", "auto")
_DUMPED_UP_TO_PAGES = 1 << 28
"""Stores whose arrays are compared as a whole: 1 GiB of records takes a second or two."""
_THRESHOLD = 2
_BUDGET_PAGES = (-1, 0, 1, 7, 64, 700, 10**9)


@dataclass(frozen=True, slots=True)
class CheckedCase:
    """One store that is worked on twice.

    Attributes:
        n_pages: a multiple of a section.
        format_name, n_targets, large_folios: the layout.
        exclusive: how claims are made on the GPU.
        n_items: PFNs per ``request`` and ``record`` call.
        by_index: of the GPU's store the index alone is on it, the records are in pinned memory.
        seed: of everything.
    """

    n_pages: int
    format_name: str
    n_targets: int
    exclusive: bool
    n_items: int
    large_folios: bool = False
    by_index: bool = False
    seed: int = 1

    @property
    def title(self) -> str:
        """What it is, in one line."""
        return (
            f"{self.n_pages} pages, {self.format_name}, {self.n_targets} targets"
            + ", large folios" * self.large_folios
            + ", exclusive" * self.exclusive
            + ", records in pinned memory" * self.by_index
        )


class MismatchError(Exception):
    """The GPU and the twin differ: in what, and where first."""


def check(
    case: CheckedCase, gpu: CudaBackend, twin: Backend, out_of_time: Callable[[], bool]
) -> dict[str, Any]:
    """Run all operations on both; stop early, between paths, when the time is over.

    Returns:
        The case, what was compared, ``complete``.

    Raises:
        MismatchError: they differ.
    """
    layout = layout_of(case.n_pages, case.format_name, case.n_targets, large_folios=case.large_folios)
    mine = gpu.open_index(layout, None) if case.by_index else gpu.open(layout)
    pair = _Pair([mine, twin.open(layout)], case)
    try:
        pair.prepare()
        complete = True
        for path in _PATHS[case.by_index :]:  # a dense scan would read all records
            if out_of_time():
                complete = False
                break
            pair.produce()
            pair.drain_and_release(path)
            pair.spend_a_budget(path)
            pair.free_and_empty(path)
        pair.compare_arrays()
    finally:
        pair.close()
    return {"case": case.title, "twin": twin.name, "compared": pair.compared, "complete": complete}


class _Pair:
    """Two stores, [GPU, twin], that always did the same."""

    def __init__(self, both: list[Kernels], case: CheckedCase) -> None:
        self.both = both
        self.case = case
        self.layout = both[0].layout
        self.rng = np.random.default_rng(case.seed)
        self.compared: dict[str, int] = {}
        self.now = 1000

    def close(self) -> None:
        for kernels in self.both:
            kernels.close()

    def _equal(self, what: str, one: Any, other: Any) -> None:
        self.compared[what] = self.compared.get(what, 0) + 1
        mine, theirs = np.asarray(one), np.asarray(other)
        if mine.shape != theirs.shape:
            raise MismatchError(
                f"{self.case.title}: {what} has shape {mine.shape}, the twin's {theirs.shape}"
            )
        wrong = np.flatnonzero(mine.ravel() != theirs.ravel())
        if len(wrong):
            at = int(wrong[0])
            raise MismatchError(
                f"{self.case.title}: {what} differs at {len(wrong)} of {mine.size} places, first at {at}: "
                f"{mine.ravel()[at]}, the twin has {theirs.ravel()[at]}"
            )

    def prepare(self) -> None:
        """Make the pages eligible, and folios where there are orders."""
        for kernels in self.both:
            make_eligible(kernels)
        if self.case.large_folios:
            blocks = self.rng.permutation(self.case.n_pages // BLOCK_PAGES)[:96] * BLOCK_PAGES
            for order, heads in zip((9, 4, 1), np.array_split(blocks, 3), strict=True):
                for kernels in self.both:
                    kernels.set_order(heads, order)

    def _items(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return PFNs, some twice and some that are not there, and targets, some that are not nodes."""
        pfns = self.layout.page_map.pfn_of_flat(self.rng.integers(0, self.case.n_pages, self.case.n_items))
        repeats = self.rng.integers(0, len(pfns), len(pfns) // 8)
        pfns[: len(repeats)] = pfns[repeats]
        pfns[-3:] = (-1, int(pfns.max()) + (1 << 40), 1 << 62)
        nids = self.rng.integers(0, self.case.n_targets, len(pfns)).astype(np.int32)
        nids[-8:-4] = (-1, 1023, 1024, 2**31 - 1)
        return pfns, nids

    def produce(self) -> None:
        """``request``, ``record`` and what they leave: outcomes, counts, nodes activated, index."""
        for round_index in range(2):
            pfns, nids = self._items()
            ended = [np.zeros(len(pfns), dtype=np.uint8) for _ in self.both]
            counts = [each.request(pfns, nids, out) for each, out in zip(self.both, ended, strict=True)]
            self._equal("request counts", *counts)
            self._equal("request outcomes", *ended)
            self.now += 300
            params = RecordParams(self.now, 1000, _THRESHOLD, drop_top_tier=bool(round_index))
            pfns, nids = self._items()
            counts = [
                each.record(pfns, nids, params, out) for each, out in zip(self.both, ended, strict=True)
            ]
            self._equal("record counts", *counts)
            self._equal("record outcomes", *ended)
        self._equal("active nodes", *(each.take_active() for each in self.both))
        self._equal("READY", *(each.count_ready() for each in self.both))
        self._equal("index bits", *(each.count_index() for each in self.both))

    def _equal_plans(self, what: str, drained: list[Drained]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        mine, theirs = (each.by_target() for each in drained)
        for part, one, other in zip(("folios per target", "pages", "words"), mine, theirs, strict=True):
            self._equal(f"{what}: {part}", one, other)
        return mine[1], mine[2]

    def drain_and_release(self, path: ScanPath) -> None:
        """Bounded plans until all is claimed, a node left out; half of it comes back, then again."""
        mask = np.ones(1024, dtype=np.uint8)
        mask[2] = 0
        capacity = max(BLOCK_PAGES, self.case.n_items // 5)
        drained = [drain(each, path, capacity, mask=mask) for each in self.both]
        flats, words = self._equal_plans(f"plan, {path}", drained)
        back = np.sort(self.rng.permutation(len(flats))[: len(flats) // 2])
        flats, words = flats[back], words[back]
        freed = flats[:5]
        for each in self.both:
            each.set_eligible(freed, False)
        for _ in range(2):
            ended = [np.zeros(len(flats), dtype=np.uint8) for _ in self.both]
            counts = [each.release(flats, words, out) for each, out in zip(self.both, ended, strict=True)]
            self._equal("release counts", *counts)
            self._equal("release outcomes", *ended)
        for each in self.both:
            each.set_eligible(freed, True)

    def spend_a_budget(self, path: ScanPath) -> None:
        """``rank``, then a scan that may take no more; the rest stays READY."""
        limits = self.rng.choice(np.array(_BUDGET_PAGES), self.layout.n_targets).astype(np.int64)
        limits[0] = self.case.n_items // 8  # less than there is, so that something is left over
        resume = self.rng.integers(0, self.case.n_pages, self.layout.n_targets)
        budget = Budget(limits, resume, self.layout.fmt.time_of(self.now))
        cuts = [each.rank(budget, 0, self.case.n_pages) for each in self.both]
        self._equal("cut-offs", *(each.cut_key for each in cuts))
        self._equal("ranked pages", *(each.seen_pages for each in cuts))
        drained = [
            drain(each, path, max(BLOCK_PAGES, self.case.n_items), cuts=cut)
            for each, cut in zip(self.both, cuts, strict=True)
        ]
        self._equal_plans(f"budgeted plan, {path}", drained)
        self._equal("READY after a budget", *(each.count_ready() for each in self.both))

    def free_and_empty(self, path: ScanPath) -> None:
        """``discard`` some pages, claim all others."""
        freed = np.unique(self.rng.integers(0, self.case.n_pages, 1000))
        self._equal("discarded", *(each.discard(freed) for each in self.both))
        self.drain_all(f"whole plan, {path}", path, self.both[0].count_index()[0])

    def drain_all(self, what: str, path: ScanPath, room: int) -> None:
        """Claim everything; nothing is READY then, and no bit is set."""
        drained = [drain(each, path, max(BLOCK_PAGES, room)) for each in self.both]
        self._equal_plans(what, drained)
        self._equal("READY after all was claimed", [each.count_ready() for each in self.both], [0, 0])
        self._equal("index after all was claimed", [each.count_index() for each in self.both], [(0, 0)] * 2)

    def compare_arrays(self) -> None:
        """Compare the arrays, after a last round of requests."""
        pfns, nids = self._items()
        for each in self.both:
            each.request(pfns, nids, NO_OUTCOMES)
        if self.case.n_pages > _DUMPED_UP_TO_PAGES:
            return
        mine, theirs = (each.dump() for each in self.both)
        for name in StoreArrays.__slots__:
            self._equal(f"array {name}", getattr(mine, name), getattr(theirs, name))


def check_filled(
    case: CheckedCase, density: float, rig: Rig, gpu: CudaBackend, twin: Backend
) -> dict[str, Any]:
    """Fill the GPU's store on the device, load the same into the twin, and compare one plan per path.

    Returns:
        READY pages, and what was compared.

    Raises:
        MismatchError: a plan differs.
    """
    layout = layout_of(case.n_pages, case.format_name, case.n_targets)
    on_gpu = gpu.open(layout)
    pair = _Pair([on_gpu, twin.open(layout)], case)
    n_ready = 0
    try:
        for path in _PATHS:
            n_ready = fill(rig, on_gpu, density, case.seed)
            pair.both[1].load(on_gpu.dump())
            pair.drain_all(f"filled at {density:g}, {path}", path, n_ready)
    finally:
        pair.close()
    return {"twin": twin.name, "n_ready": n_ready, "compared": pair.compared, "complete": True}


def check_on_device(case: CheckedCase, rig: Rig, gpu: CudaBackend, twin: Backend) -> dict[str, Any]:
    """Have a kernel of somebody else's mark pages, leave the plan on the device, release and ask from there.

    Returns:
        What was compared.

    Raises:
        MismatchError: they differ.
    """
    layout = layout_of(case.n_pages, case.format_name, case.n_targets)
    on_gpu = gpu.open(layout)
    pair = _Pair([on_gpu, twin.open(layout)], case)
    try:
        pair.prepare()
        # Each page once: of two threads that name one the hardware picks the last.
        pfns = layout.page_map.pfn_of_flat(pair.rng.choice(case.n_pages, case.n_items, replace=False))
        pfns[-3:] = (-1, int(pfns.max()) + (1 << 40), 1 << 62)
        nids = pair.rng.integers(-1, case.n_targets + 1, len(pfns)).astype(np.int32)
        with rig.device.working():
            there = rig.device.upload(pfns), rig.device.upload(nids)
            ended = rig.device.zeros(len(pfns), np.uint8)
        sampler = rig.device.compile(header(layout.fmt) + own_source(layout.fmt, "sampler", prelude=False))
        view = view_of(on_gpu)
        with rig.device.working():
            launch(sampler("sampler"), len(pfns), view, *there, np.int64(len(pfns)), ended)
            marked = rig.device.fetch(ended)
        expected = np.zeros(len(pfns), dtype=np.uint8)
        pair.both[1].request(pfns, nids, expected)
        pair._equal("outcomes of a kernel of one's own", marked, expected)
        for _ in range(2):
            request = ScanRequest(0, case.n_pages, max(BLOCK_PAGES, case.n_items))
            stays, theirs = on_gpu.scan_on_device(request), pair.both[1].scan(request)
            with rig.device.working():
                mine = [rig.device.fetch(each) for each in (stays.flat, stays.words, stays.pfn)]
            its = (theirs.flat, theirs.words, layout.page_map.pfn_of_flat(theirs.flat))
            pair._equal("offsets of a plan that stays", stays.offsets, theirs.offsets)
            for what, one, other in zip(("flat pages", "words", "PFNs"), mine, its, strict=True):
                pair._equal(f"{what} of a plan that stays", one, other)
            released = (
                on_gpu.release(stays.flat, stays.words, NO_OUTCOMES),
                pair.both[1].release(theirs.flat, theirs.words, NO_OUTCOMES),
            )
            pair._equal("release from the device", *released)
            theirs.recycle()
            counts = on_gpu.request(*there, NO_OUTCOMES), pair.both[1].request(pfns, nids, NO_OUTCOMES)
            pair._equal("request from the device", *counts)
        pair.compare_arrays()
    finally:
        pair.close()
    return {"twin": twin.name, "compared": pair.compared, "complete": True}
