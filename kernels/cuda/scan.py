"""One scan from request to plan: count, pick the path, cut the range, claim and stage, scatter, fetch.

A range is cut into *stretches*, one per warp; 8 of them are a *chunk*, which one thread
block works on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from gpuscan.kernels.api import RawPlan, ScanRequest
from gpuscan.kernels.cuda.budget import bring
from gpuscan.kernels.cuda.counting import CountedRange
from gpuscan.kernels.cuda.source import Total
from gpuscan.kernels.cuda.transfer import Transfer
from gpuscan.kernels.cuda.workspace import SMALL_PLAN, Stage
from gpuscan.kernels.device_plan import DevicePlan
from gpuscan.records.page_map import BLOCK_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels

_SECTOR_BYTES = 64
"""What looking at one candidate moves, in the sectors of its record and of its share of the ready words.
Derived from the memory system's granularity, to be measured."""
_BLOCK_WORD_BYTES = 8


_Plan = TypeVar("_Plan")


class _Claimed(NamedTuple):
    """Claims in a stage: of so many stretches, and at most ``n_room`` folios."""

    path: Literal["dense", "indexed"]
    why: str
    stage: Stage
    n_stretches: int
    n_room: int


class Scan:
    """A scan under way. :meth:`run` or :meth:`run_on_device` is called, once."""

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
        return self._put_back_on_error(lambda: self._launch(self._empty_plan, self._fetch))

    def run_on_device(self) -> DevicePlan:
        """Claim and return the plan, whose arrays are there, and stay there; raises as :meth:`run`."""
        return self._put_back_on_error(lambda: self._launch(self._empty_device_plan, self._keep))

    def _put_back_on_error(self, launch: Callable[[], _Plan]) -> _Plan:
        try:
            with self.kernels.working():
                return launch()
        except BaseException:  # KeyboardInterrupt too: claims must not get lost
            if self.undo is not None:
                self.undo()
            raise

    def _launch(self, empty: Callable[[str, int], _Plan], finish: Callable[[_Claimed], _Plan]) -> _Plan:
        request = self.request
        if request.lo == request.hi:
            return empty("the range is empty", 0)
        cuts = {} if self.cuts is None else bring(self.kernels, self.cuts, request.node_mask)
        node_mask = self.kernels.node_mask(request.node_mask)
        counted = CountedRange(self.kernels, request.lo, request.hi, node_mask)
        totals = counted.totals
        path, why = self._choose_path(totals)
        if path == "indexed" and totals[Total.SET_BLOCKS] == 0:
            # What is marked from now on comes with the next scan.
            return empty(why, _BLOCK_WORD_BYTES * counted.n_sections)
        if cuts:
            self.kernels.cuts.forget()  # they are about to be counted down
        stage = self.kernels.stages.take()
        n_stretches = self._cut(path, stage, counted, node_mask, cuts)
        n_room = min(totals[Total.CANDIDATES], request.capacity)
        self._claim(path, stage.with_room(n_room), n_stretches, node_mask, cuts)
        return finish(_Claimed(path, why, stage, n_stretches, n_room))

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
        self.undo = lambda: self._undo(stage, n_stretches)
        self.kernels.launch(
            f"scan_{path}" + "_budget" * bool(cuts),
            32 * n_stretches,
            node_mask=node_mask,
            n_stretches=n_stretches,
            **stage.given,
            **cuts,
        )

    def _undo(self, stage: Stage, n_stretches: int) -> None:
        with self.kernels.working():
            self.kernels.launch("undo", 32 * n_stretches, n_stretches=n_stretches, **stage.given)

    def _scatter(self, claimed: _Claimed, flats: Any, words: Any) -> None:
        self.kernels.launch(
            "scatter",
            32 * claimed.n_stretches,
            n_stretches=claimed.n_stretches,
            plan_flats=flats,
            plan_words=words,
            **claimed.stage.given,
        )

    def _settle_quotas(self) -> None:
        """Tell the caller what is left of a budget: now, since the next scan may want it.

        Should the plan be lost on its way, the budget is underfilled.
        """
        if self.cuts is not None:
            for mine, after in zip(self.cuts.quotas, self.kernels.scratch.report.quotas(), strict=True):
                mine[:] = after
            self.kernels.cuts.know(self.cuts)

    def _keep(self, claimed: _Claimed) -> DevicePlan:
        """Let the plan have arrays of its own, on the device, with room for what was claimed and no more."""
        device, stage, n_targets = self.device, claimed.stage, self.layout.n_targets
        self._scatter(claimed, stage.flats, stage.plan_words)
        totals, offsets = self.kernels.scratch.report.fetch(has_plan=False, has_budget=self.cuts is not None)
        n_claims = int(offsets[-1])
        flats, pfns = device.empty(n_claims, np.int64), device.empty(n_claims, np.int64)
        words = device.empty(n_claims, self.layout.fmt.dtype)
        kept_offsets = device.empty(n_targets + 1, np.int64)
        self.kernels.launch(
            "name_pfns",
            max(n_claims, n_targets + 1),
            plan_flats=stage.flats,
            plan_words=stage.plan_words,
            n_items=n_claims,
            section_pfn=self.kernels.section_pfn(),
            kept_offsets=kept_offsets,
            kept_flats=flats,
            kept_words=words,
            plan_pfns=pfns,
        )
        device.wait()
        self.undo = None
        self.kernels.stages.give(stage)
        self._settle_quotas()
        return DevicePlan(
            offsets=offsets,
            device_offsets=kept_offsets,
            pfn=pfns,
            flat=flats,
            words=words,
            cursor=totals[Total.CURSOR],
            path=claimed.path,
            why=claimed.why,
            examined_pages=totals[Total.PAGES],
            examined_bytes=totals[Total.BYTES],
            n_unknown_target=totals[Total.UNKNOWN],
        )

    def _fetch(self, claimed: _Claimed) -> RawPlan:
        """Begin to fetch the plan."""
        device, report, stage = self.device, self.kernels.scratch.report, claimed.stage
        is_small = claimed.n_room <= SMALL_PLAN
        flats, words = (report.flats, report.words) if is_small else (stage.flats, stage.plan_words)
        self._scatter(claimed, flats, words)
        totals, offsets = report.fetch(has_plan=is_small, has_budget=self.cuts is not None)
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
                finish,
                lambda: self._undo(stage, claimed.n_stretches),
                lambda: self.kernels.stages.give(stage),
            )
        plan = RawPlan(
            offsets=offsets,
            flat=plan_flats[:n_claims],
            words=plan_words[:n_claims],
            cursor=totals[Total.CURSOR],
            path=claimed.path,
            why=claimed.why,
            examined_pages=totals[Total.PAGES],
            examined_bytes=totals[Total.BYTES],
            n_unknown_target=totals[Total.UNKNOWN],
            arrive=None if transfer is None else transfer.arrive,
            on_recycle=None if transfer is None else lambda: buffers.give(plan_flats, plan_words),
        )
        self._settle_quotas()
        return plan

    def _empty_plan(self, why: str, n_bytes: int) -> RawPlan:
        return RawPlan(
            offsets=np.zeros(self.layout.n_targets + 1, dtype=np.int64),
            flat=np.zeros(0, dtype=np.int64),
            words=np.zeros(0, dtype=self.layout.fmt.dtype),
            **self._empty_facts(why, n_bytes),
        )

    def _empty_device_plan(self, why: str, n_bytes: int) -> DevicePlan:
        n_offsets = self.layout.n_targets + 1
        return DevicePlan(
            offsets=np.zeros(n_offsets, dtype=np.int64),
            device_offsets=self.device.zeros(n_offsets, np.int64),
            pfn=self.device.empty(0, np.int64),
            flat=self.device.empty(0, np.int64),
            words=self.device.empty(0, self.layout.fmt.dtype),
            n_unknown_target=0,
            **self._empty_facts(why, n_bytes),
        )

    def _empty_facts(self, why: str, n_bytes: int) -> dict[str, Any]:
        path = "dense" if self.request.path == "dense" else "indexed"
        return {
            "cursor": self.request.hi,
            "path": path,
            "why": "as asked" if self.request.path == path else why,
            "examined_pages": 0,
            "examined_bytes": n_bytes,
        }
