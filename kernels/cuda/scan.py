"""One scan from request to plan: count, pick the path, cut the range, claim and stage, group, fetch.

A range is cut into *stretches*, one per warp; 8 of them are a *chunk*, which one thread
block works on. With a budget the stretches are its chunks, since one warp spends a
chunk's quotas in flat order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Cutoffs, RawPlan, ScanRequest
from gpuscan.kernels.cuda.launches import QUOTAS
from gpuscan.kernels.cuda.source import WARPS, Total
from gpuscan.kernels.cuda.transfer import Transfer
from gpuscan.records.page_map import BLOCK_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels

STRETCHES = 8192
"""Stretches a range is cut into at most: 62 warps for each of an H100's 132 SMs. Its registers hold 48 of
the dense scan at a time and 32 of the indexed one, so this is to be tuned where there is a GPU."""
STRETCH_PAGES = 4096
"""Pages of a stretch at least, and what longer ones are a multiple of."""
_SECTOR_BYTES = 64
"""What looking at one candidate moves, in the sectors of its record and of its share of the ready words.
Derived from the memory system's granularity, to be measured."""


def stretch_edges(lo: int, hi: int) -> NDArray[np.int64]:
    """Return int64[n_stretches + 1] that cut ``[lo, hi)``, not empty, into stretches."""
    step = -(-(hi - lo) // (STRETCHES * STRETCH_PAGES)) * STRETCH_PAGES
    return np.append(np.arange(lo, hi, step, dtype=np.int64), np.int64(hi))


@dataclass(slots=True)
class _Range:
    """What a scan covers: edges of the stretches, and where each may stage.

    Attributes:
        hi: the cursor of the plan.
        edges: device int64[n_stretches + 1].
        ends: device int64[n_stretches], inclusive prefix sum of the rooms.
        n_stretches, n_room: counts, ``n_room`` in folios over all.
    """

    hi: int
    edges: Any
    ends: Any
    n_stretches: int
    n_room: int

    @property
    def n_chunks(self) -> int:
        return -(-self.n_stretches // WARPS)

    def given(self) -> dict[str, Any]:
        """Return what launches are given of it."""
        return {"edges": self.edges, "n_stretches": self.n_stretches, "ends": self.ends}


@dataclass(slots=True)
class _Claims:
    """What the scan kernel stages, on the device; see scan_dense.cu."""

    offsets: Any
    words: Any
    n_staged: Any
    counts: Any

    def given(self) -> dict[str, Any]:
        """Return what launches are given of the stage."""
        return {"staged_offsets": self.offsets, "staged_words": self.words, "n_staged": self.n_staged}


class Scan:
    """A scan under way. :meth:`run` is called once."""

    def __init__(self, kernels: CudaKernels, request: ScanRequest) -> None:
        self.kernels = kernels
        self.device = kernels.device
        self.layout = kernels.layout
        self.request = request
        self.cuts = request.cuts
        self.undo: Callable[[], None] | None = None

    def run(self) -> RawPlan:
        """Claim and return the plan, whose arrays are still on their way: the next scan may begin.

        Raises:
            Whatever went wrong, after every claim was put back.
        """
        try:
            with self.kernels.working():
                return self._launch()
        except BaseException:  # KeyboardInterrupt too: claims must not get lost
            if self.undo is not None:
                self.undo()
            raise

    def _launch(self) -> RawPlan:
        request, device = self.request, self.device
        if request.lo == request.hi:
            return self._empty_plan()
        node_mask = self.kernels.node_mask(request.node_mask)
        edges = self._edges()
        edges_there = device.upload(edges)
        totals = device.zeros(len(Total), np.uint64)
        n_candidates = self._count(edges_there, node_mask, totals)
        counted = device.fetch(totals)
        path, why = self._choose_path(counted)
        covered = self._fit(edges, edges_there, node_mask, n_candidates, int(counted[Total.CANDIDATES]))
        claims, quotas = self._claim(path, covered, node_mask, totals)
        return self._group(path, why, covered, claims, quotas, totals)

    def _edges(self) -> NDArray[np.int64]:
        lo, hi = self.request.lo, self.request.hi
        return stretch_edges(lo, hi) if self.cuts is None else np.clip(self.cuts.chunk_edges, lo, hi)

    def _count(self, edges: Any, node_mask: Any, totals: Any) -> Any:
        """Return candidates per stretch, device uint64[n_stretches]; ``edges`` are on the device."""
        n_stretches = len(edges) - 1
        n_candidates = self.device.empty(n_stretches, np.uint64)
        self.kernels.launch(
            "popcounts",
            32 * n_stretches,
            node_mask=node_mask,
            edges=edges,
            n_stretches=n_stretches,
            n_candidates=n_candidates,
            totals=totals,
        )
        return n_candidates

    def _choose_path(self, counted: NDArray[np.uint64]) -> tuple[Literal["dense", "indexed"], str]:
        asked = self.request.path
        if asked != "auto":
            return asked, "as asked"
        n_set_blocks, n_blocks = int(counted[Total.SET_BLOCKS]), int(counted[Total.BLOCKS])
        if 2 * n_set_blocks <= n_blocks:
            return "indexed", f"{n_set_blocks} of {n_blocks} blocks have candidates"
        density = int(counted[Total.CANDIDATES]) / (n_blocks * BLOCK_PAGES)
        crossover = self.layout.fmt.n_bytes / _SECTOR_BYTES
        if density > crossover:
            return (
                "dense",
                f"{density:.2%} of the pages are candidates; over {crossover:.1%} all records are read",
            )
        return (
            "indexed",
            f"{density:.2%} of the pages are candidates; up to {crossover:.1%} the bits are followed",
        )

    def _fit(
        self,
        edges: NDArray[np.int64],
        edges_there: Any,
        node_mask: Any,
        n_candidates: Any,
        n_all_candidates: int,
    ) -> _Range:
        """Give every stretch room for its candidates; shorten the range so that they fit the plan.

        ``edges_there`` is ``edges`` on the device.

        What producers add after this count finds no room: it stays READY, and indexed.
        """
        device, capacity, n_stretches = self.device, self.request.capacity, len(edges) - 1
        if self.cuts is None and n_all_candidates <= capacity:
            ends = device.running_sum(n_candidates)
            return _Range(self.request.hi, edges_there, ends, n_stretches, n_all_candidates)
        rooms = device.fetch(n_candidates).astype(np.int64)
        most = None if self.cuts is None else _most_claims(self.cuts)
        if most is not None:
            rooms = np.minimum(rooms, most)
        ends_host = np.cumsum(rooms)
        if ends_host[-1] > capacity:
            last = int(np.searchsorted(ends_host, capacity, side="right"))
            before = int(ends_host[last - 1]) if last else 0
            blocks = np.arange(edges[last], edges[last + 1] + 1, BLOCK_PAGES, dtype=np.int64)
            counts = self._count(device.upload(blocks), node_mask, device.zeros(len(Total), np.uint64))
            upto = np.concatenate(([0], np.cumsum(device.fetch(counts).astype(np.int64))))
            n_blocks = int(np.searchsorted(upto, capacity - before, side="right")) - 1
            edges = np.append(edges[: last + 1], blocks[n_blocks])
            ends_host = np.append(ends_host[:last], before + min(int(rooms[last]), int(upto[n_blocks])))
            edges_there = device.upload(edges)
        return _Range(
            int(edges[-1]), edges_there, device.upload(ends_host), len(edges) - 1, int(ends_host[-1])
        )

    def _claim(self, path: str, covered: _Range, node_mask: Any, totals: Any) -> tuple[_Claims, list[Any]]:
        """Return the claims, and the quotas left, on the device; none without a budget."""
        device = self.device
        n_targets, word_type = self.layout.n_targets, self.layout.fmt.dtype
        claims = _Claims(
            device.empty(max(1, covered.n_room), np.uint32),
            device.empty(max(1, covered.n_room), word_type),
            device.zeros(covered.n_stretches, np.int64),
            device.empty(n_targets * covered.n_chunks, np.uint32),
        )
        cuts = {} if self.cuts is None else _uploaded(device.upload, self.cuts)
        self.undo = lambda: self._undo(covered, claims)
        self.kernels.launch(
            f"scan_{path}" + "_budget" * bool(cuts),
            32 * covered.n_stretches,
            node_mask=node_mask,
            **covered.given(),
            **claims.given(),
            target_counts=claims.counts,
            totals=totals,
            **cuts,
        )
        return claims, [cuts[name] for name in QUOTAS if cuts]

    def _undo(self, covered: _Range, claims: _Claims) -> None:
        with self.kernels.working():
            self.kernels.launch("undo", 32 * covered.n_stretches, **covered.given(), **claims.given())

    def _group(
        self,
        path: Literal["dense", "indexed"],
        why: str,
        covered: _Range,
        claims: _Claims,
        quotas: list[Any],
        totals: Any,
    ) -> RawPlan:
        """Scatter the claims: an inclusive prefix sum over (target, chunk), then stable copies."""
        device, n_targets = self.device, self.layout.n_targets
        count_ends = device.running_sum(claims.counts)
        flats = device.empty(max(1, covered.n_room), np.int64)
        words = device.empty(max(1, covered.n_room), self.layout.fmt.dtype)
        self.kernels.launch(
            "scatter",
            32 * covered.n_stretches,
            **covered.given(),
            **claims.given(),
            target_counts=claims.counts,
            count_ends=count_ends,
            plan_flats=flats,
            plan_words=words,
        )
        offsets = np.zeros(n_targets + 1, dtype=np.int64)
        offsets[1:] = device.fetch(count_ends[covered.n_chunks - 1 :: covered.n_chunks])
        counted = device.fetch(totals)
        left = [device.fetch(quota) for quota in quotas]
        n_claims = int(offsets[-1])
        buffers = self.kernels.host_buffers
        plan_flats, plan_words = buffers.take(n_claims)
        finish = device.fetch_beside(
            [(flats[:n_claims], plan_flats[:n_claims]), (words[:n_claims], plan_words[:n_claims])]
        )
        transfer = Transfer(finish, lambda: self._undo(covered, claims))
        plan = RawPlan(
            offsets=offsets,
            flat=plan_flats[:n_claims],
            words=plan_words[:n_claims],
            cursor=covered.hi,
            path=path,
            why=why,
            examined_pages=int(counted[Total.PAGES]),
            examined_bytes=int(counted[Total.BYTES]),
            n_unknown_target=int(counted[Total.UNKNOWN]),
            arrive=transfer.arrive,
            on_recycle=lambda: buffers.give(plan_flats, plan_words),
        )
        transfer.keep_until_over(plan)
        # Now, since the next scan may want them; should the transfer fail, a budget is underfilled.
        if self.cuts is not None:
            for mine, after in zip(self.cuts.quotas, left, strict=True):
                mine[:] = _whole(mine, after)
        return plan

    def _empty_plan(self) -> RawPlan:
        path: Literal["dense", "indexed"] = "dense" if self.request.path == "dense" else "indexed"
        return RawPlan(
            offsets=np.zeros(self.layout.n_targets + 1, dtype=np.int64),
            flat=np.zeros(0, dtype=np.int64),
            words=np.zeros(0, dtype=self.layout.fmt.dtype),
            cursor=self.request.hi,
            path=path,
            why="as asked" if self.request.path == path else "the range is empty",
            examined_pages=0,
            examined_bytes=0,
        )


def _whole(mine: NDArray[np.int64], after: NDArray[np.uint64]) -> NDArray[np.int64]:
    return after.view(np.int64).reshape(mine.shape)


def _uploaded(upload: Callable[[NDArray[Any]], Any], cuts: Cutoffs) -> dict[str, Any]:
    """Return cut-offs as kernels are given them."""
    quotas = (upload(quota.ravel().view(np.uint64)) for quota in cuts.quotas)
    return {
        "now": cuts.now,
        "cut_key": upload(np.ascontiguousarray(cuts.cut_key, dtype=np.int32)),
        "resume_flat": upload(np.ascontiguousarray(cuts.resume_flat, dtype=np.int64)),
        **dict(zip(QUOTAS, quotas, strict=True)),
    }


def _most_claims(cuts: Cutoffs) -> NDArray[np.int64] | None:
    """Return the most folios each chunk can give, int64[n_chunks]; None where a target has no limit."""
    if bool((cuts.cut_key < 0).any()):
        return None
    most: NDArray[np.int64] = np.sum([quota.sum(axis=1) for quota in cuts.quotas], axis=0)
    return most
