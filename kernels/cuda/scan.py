"""One scan from request to plan: count, pick the path, cut the range, claim and stage, group, fetch.

A range is cut into *stretches*, one per warp; 8 of them are a *chunk*, which one thread
block works on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuscan.kernels.api import RawPlan, ScanRequest
from gpuscan.kernels.cuda.budget import bring
from gpuscan.kernels.cuda.counting import CountedRange
from gpuscan.kernels.cuda.source import WARPS, Total
from gpuscan.kernels.cuda.transfer import Transfer
from gpuscan.kernels.cuda.workspace import SMALL_PLAN, Stage
from gpuscan.records.page_map import BLOCK_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels

_SECTOR_BYTES = 64
"""What looking at one candidate moves, in the sectors of its record and of its share of the ready words.
Derived from the memory system's granularity, to be measured."""
_BLOCK_WORD_BYTES = 8


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
        cuts = {} if self.cuts is None else bring(self.kernels, self.cuts, request.node_mask)
        node_mask = self.kernels.node_mask(request.node_mask)
        counted = CountedRange(self.kernels, request.lo, request.hi, node_mask)
        totals = counted.totals
        path, why = self._choose_path(totals)
        if path == "indexed" and totals[Total.SET_BLOCKS] == 0:
            # What is marked from now on comes with the next scan.
            if self.cuts is not None:
                self.kernels.cuts.know(self.cuts)
            return self._empty_plan(why, n_bytes=_BLOCK_WORD_BYTES * counted.n_sections)
        stage = self.kernels.stages.take()
        n_stretches = self._cut(path, stage, counted, node_mask, cuts)
        n_room = min(totals[Total.CANDIDATES], request.capacity)
        self._claim(path, stage.with_room(n_room), n_stretches, node_mask, cuts)
        return self._group(path, why, stage, n_stretches, n_room)

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

    def _cut(
        self, path: str, stage: Stage, counted: CountedRange, node_mask: Any, cuts: dict[str, Any]
    ) -> int:
        """Cut the range into stretches, and return how many.

        Where there are more candidates than the plan holds, a budget may let fewer of them claim: then
        these are counted, and the plan covers as far as they fit.
        """
        capacity = self.request.capacity
        if not cuts or counted.totals[Total.CANDIDATES] <= capacity:
            return counted.cut(stage, path, capacity)
        n_stretches = counted.cut(stage, path, self.layout.n_pages)
        most_claims = self.kernels.scratch.most_claims
        self.kernels.launch(
            "count_claims",
            32 * n_stretches,
            node_mask=node_mask,
            edges=stage.edges,
            n_stretches=n_stretches,
            now=cuts["now"],
            most_claims=most_claims,
            **self.kernels.cuts.some("cut_key", "resume_flat", "stop_from", "stop_below"),
        )
        self.kernels.launch(
            "fit_claims",
            1,
            capacity=min(capacity, self.layout.n_pages),
            most_claims=most_claims,
            edges=stage.edges,
            n_stretches=n_stretches,
            ends=stage.given["ends"],
            **counted.given,
        )
        return n_stretches

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
        totals, offsets = report.fetch(has_plan=is_small, has_budget=self.cuts is not None)
        left = report.quotas() if self.cuts is not None else None
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
        if self.cuts is not None and left is not None:
            for mine, after in zip(self.cuts.quotas, left, strict=True):
                mine[:] = after
            self.kernels.cuts.know(self.cuts)
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
