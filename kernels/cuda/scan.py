"""One scan from request to plan: count, pick the path, cut the range, claim and stage, group, fetch.

A range is cut into *stretches*, one per warp; 8 of them are a *chunk*, which one thread
block works on. With a budget the stretches are its chunks, since one warp spends a
chunk's quotas in flat order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Cutoffs, RawPlan, ScanRequest
from gpuscan.kernels.cuda.launches import QUOTAS
from gpuscan.kernels.cuda.source import WARPS, Total
from gpuscan.kernels.cuda.stretches import cells_of, n_stretches_of, weights_of
from gpuscan.kernels.cuda.transfer import Transfer
from gpuscan.kernels.cuda.workspace import SMALL_PLAN, Stage
from gpuscan.records.page_map import BLOCK_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels

_SECTOR_BYTES = 64
"""What looking at one candidate moves, in the sectors of its record and of its share of the ready words.
Derived from the memory system's granularity, to be measured."""
_BLOCK_WORD_BYTES = 8
_NO_LIMIT = (1 << 63) - 1


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
        request = self.request
        if request.lo == request.hi:
            return self._empty_plan("the range is empty")
        node_mask = self.kernels.node_mask(request.node_mask)
        totals, counts = self._count(node_mask)
        path, why = self._choose_path(totals)
        if path == "indexed" and totals[Total.SET_BLOCKS] == 0:
            # What is marked from now on comes with the next scan.
            return self._empty_plan(why, n_bytes=_BLOCK_WORD_BYTES * self.n_sections)
        stage = self.kernels.stages.take()
        cuts = {} if self.cuts is None else _uploaded(self.device.upload, self.cuts)
        n_stretches, n_room = (
            self._cut(path, stage, totals, counts)
            if self.cuts is None
            else self._fit(self.cuts, stage, totals, counts)
        )
        self._claim(path, stage.with_room(n_room), n_stretches, node_mask, cuts)
        return self._group(path, why, stage, n_stretches, n_room, [cuts[name] for name in QUOTAS if cuts])

    def _count(self, node_mask: Any) -> tuple[list[int], dict[str, int]]:
        """Count candidates; return the totals, and what launches are given of how."""
        lo, hi = self.request.lo, self.request.hi
        cells = cells_of(lo, hi)
        self.n_sections = cells.n_sections
        counts = {"lo": lo, "hi": hi, "cell_shift": cells.shift}
        self.kernels.launch(
            "popcounts", 32 * cells.n_walkers, node_mask=node_mask, n_walkers=cells.n_walkers, **counts
        )
        return self.kernels.scratch.report.fetch_totals(), counts

    def _choose_path(self, totals: list[int]) -> tuple[Literal["dense", "indexed"], str]:
        asked = self.request.path
        if asked != "auto":
            return asked, "as asked"
        n_set_blocks, n_blocks = totals[Total.SET_BLOCKS], totals[Total.BLOCKS]
        if 2 * n_set_blocks <= n_blocks:
            return "indexed", f"{n_set_blocks} of {n_blocks} blocks have candidates"
        density = totals[Total.CANDIDATES] / (n_blocks * BLOCK_PAGES)
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

    def _cut(self, path: str, stage: Stage, totals: list[int], counts: dict[str, int]) -> tuple[int, int]:
        """Cut the range into stretches; return how many, and the room that all of them have, in folios.

        Every stretch has room for its candidates; the range ends where they no longer fit the plan. What
        producers add after the count finds no room: it stays READY, and indexed.
        """
        lo, hi, capacity = self.request.lo, self.request.hi, self.request.capacity
        n_stretches, n_candidates = n_stretches_of(lo, hi), totals[Total.CANDIDATES]
        n_blocks = (hi - lo) // BLOCK_PAGES
        weights = weights_of(
            path, self.layout.fmt, n_candidates, totals[Total.SET_BLOCKS], n_blocks, n_stretches
        )
        self._launch_cut("cut_stretches", stage, n_stretches, **counts, **weights)
        return n_stretches, min(n_candidates, capacity)

    def _fit(self, cuts: Cutoffs, stage: Stage, totals: list[int], counts: dict[str, int]) -> tuple[int, int]:
        """Give a budget's chunks room, and shorten the range, as :meth:`_cut` does."""
        device = self.device
        edges = np.clip(cuts.chunk_edges, self.request.lo, self.request.hi)
        n_stretches = len(edges) - 1
        device.write(stage.with_stretches(n_stretches).edges[: n_stretches + 1], edges)
        most = _most_claims(cuts)
        self._launch_cut(
            "fit_chunks",
            stage,
            n_stretches,
            **counts,
            most_claims=device.upload(most),
            n_before=self.kernels.scratch.n_before(n_stretches),
        )
        return n_stretches, min(totals[Total.CANDIDATES], self.request.capacity)

    def _launch_cut(self, kernel: str, stage: Stage, n_stretches: int, **given: Any) -> None:
        self.kernels.launch(
            kernel,
            32 * (n_stretches + 1),
            capacity=min(self.request.capacity, self.layout.n_pages),
            edges=stage.edges,
            n_stretches=n_stretches,
            ends=stage.given["ends"],
            n_staged=stage.given["n_staged"],
            **given,
        )

    def _claim(self, path: str, stage: Stage, n_stretches: int, node_mask: Any, cuts: dict[str, Any]) -> None:
        target_counts, _ = self.kernels.scratch.columns(_n_chunks(n_stretches))
        self.undo = lambda: self._undo(stage, n_stretches)
        self.kernels.launch(
            f"scan_{path}" + "_budget" * bool(cuts),
            32 * n_stretches,
            node_mask=node_mask,
            n_stretches=n_stretches,
            target_counts=target_counts,
            **stage.given,
            **cuts,
        )

    def _undo(self, stage: Stage, n_stretches: int) -> None:
        with self.kernels.working():
            self.kernels.launch("undo", 32 * n_stretches, n_stretches=n_stretches, **stage.given)

    def _group(
        self,
        path: Literal["dense", "indexed"],
        why: str,
        stage: Stage,
        n_stretches: int,
        n_room: int,
        quotas: list[Any],
    ) -> RawPlan:
        """Find the places of the claims, scatter them there, and begin to fetch them."""
        device, scratch = self.device, self.kernels.scratch
        report = scratch.report
        is_small = n_room <= SMALL_PLAN
        flats, words = (report.flats, report.words) if is_small else (stage.flats, stage.plan_words)
        n_chunks = _n_chunks(n_stretches)
        target_counts, places = scratch.columns(n_chunks)
        self.kernels.launch(
            "group",
            32 * self.layout.n_targets,
            n_chunks=n_chunks,
            target_counts=target_counts,
            places=places,
        )
        self.kernels.launch(
            "scatter",
            32 * n_stretches,
            n_stretches=n_stretches,
            places=places,
            plan_flats=flats,
            plan_words=words,
            **stage.given,
        )
        totals, offsets = report.fetch(has_plan=is_small)
        left = [device.fetch(quota) for quota in quotas]
        n_claims = int(offsets[-1])
        if is_small:
            plan_flats, plan_words = report.plan(n_claims)
            transfer = None
            self.kernels.stages.give(stage)
            self.undo = None
        else:
            buffers = self.kernels.host_buffers
            plan_flats, plan_words = buffers.take(n_claims)
            finish = device.fetch_beside(
                [(flats[:n_claims], plan_flats[:n_claims]), (words[:n_claims], plan_words[:n_claims])]
            )
            transfer = Transfer(
                finish, lambda: self._undo(stage, n_stretches), lambda: self.kernels.stages.give(stage)
            )
        plan = RawPlan(
            offsets=offsets,
            flat=plan_flats[:n_claims],
            words=plan_words[:n_claims],
            cursor=totals[Total.CURSOR],
            path=path,
            why=why,
            examined_pages=totals[Total.PAGES],
            examined_bytes=totals[Total.BYTES],
            n_unknown_target=totals[Total.UNKNOWN],
            arrive=None if transfer is None else transfer.arrive,
            on_recycle=None if transfer is None else lambda: buffers.give(plan_flats, plan_words),
        )
        if transfer is not None:
            transfer.keep_until_over(plan)
        # Now, since the next scan may want them; should the transfer fail, a budget is underfilled.
        if self.cuts is not None:
            for mine, after in zip(self.cuts.quotas, left, strict=True):
                mine[:] = _whole(mine, after)
        return plan

    def _empty_plan(self, why: str, n_bytes: int = 0) -> RawPlan:
        path: Literal["dense", "indexed"] = "dense" if self.request.path == "dense" else "indexed"
        return RawPlan(
            offsets=np.zeros(self.layout.n_targets + 1, dtype=np.int64),
            flat=np.zeros(0, dtype=np.int64),
            words=np.zeros(0, dtype=self.layout.fmt.dtype),
            cursor=self.request.hi,
            path=path,
            why="as asked" if self.request.path == path else why,
            examined_pages=0,
            examined_bytes=n_bytes,
        )


def _n_chunks(n_stretches: int) -> int:
    return -(-n_stretches // WARPS)


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


def _most_claims(cuts: Cutoffs) -> NDArray[np.int64]:
    """Return the most folios each chunk can give, int64[n_chunks]; no limit where a target has none."""
    if bool((cuts.cut_key < 0).any()):
        return np.full(len(cuts.chunk_edges) - 1, _NO_LIMIT)
    most: NDArray[np.int64] = np.sum([quota.sum(axis=1) for quota in cuts.quotas], axis=0)
    return most
