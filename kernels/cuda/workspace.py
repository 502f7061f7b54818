"""Memory that scans work in: kept, so that a scan allocates nothing where one of its size was before.

What launches hand to each other is in order on the device, so a store has it once (:class:`Scratch`). What
must stay until a plan is in host memory is that scan's (:class:`Stage`), and there are as many as plans on
their way.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cuda.device import Device
from gpuscan.kernels.cuda.launches import QUOTAS
from gpuscan.kernels.cuda.source import ROW_CHUNKS, WARPS, Total
from gpuscan.kernels.cuda.stretches import STRETCHES, most_cells, n_stretches_of
from gpuscan.kernels.layout import StoreLayout
from gpuscan.records.page_map import SECTION_PAGES

SMALL_PLAN = 256
"""Folios of a plan that comes with its counts, in one copy: 3 KB."""
_KEPT_ROOM = 1 << 20
"""Folios of the largest stage that is kept, 20 MB; larger ones go back to where memory comes from."""
_SECTION_BYTES = 4 + 2 * 64
"""Of a section's counts: its own and those of its 64 blocks."""


def scratch_bytes(layout: StoreLayout) -> int:
    """Return what counting takes, which grows with the store."""
    return layout.n_pages // SECTION_PAGES * _SECTION_BYTES


class Report:
    """What the host is told of a scan: one buffer on the device, and one in pinned memory.

    Args:
        device: where the scan runs.
        layout: of the store.

    Attributes:
        totals: device uint64[len(Total)], followed by
        offsets: device int64[n_targets + 1], followed by
        flats, words: device int64 and records[SMALL_PLAN], followed by
        left: device uint64[3 * n_targets], the quotas of a budget, followed by
        seen_pages: device int64[n_targets], followed by
        cut_key: device int32[n_targets], of a ranking.
    """

    def __init__(self, device: Device, layout: StoreLayout) -> None:
        self._device = device
        n_targets, fmt = layout.n_targets, layout.fmt
        n_words = (
            *(len(Total), n_targets + 1, SMALL_PLAN, SMALL_PLAN * fmt.n_bytes // 8),
            *(len(QUOTAS) * n_targets, n_targets, -(-n_targets // 2)),
        )
        ends = np.cumsum(n_words).tolist()
        there = device.zeros(ends[-1], np.uint64)
        here = device.host_empty(ends[-1], np.uint64)
        types = (np.uint64, np.int64, np.int64, fmt.dtype, np.uint64, np.int64, np.int32)
        places = list(zip([0, *ends], ends, types, strict=False))
        parts = [there[lo:hi].view(dtype) for lo, hi, dtype in places]
        self.totals, self.offsets, self.flats, self.words = parts[:4]
        self.left, self.seen_pages, self.cut_key = parts[4:]
        parts = [here[lo:hi].view(dtype) for lo, hi, dtype in places]
        self._totals, self._offsets, self._flats, self._words = parts[:4]
        self._left, self._seen_pages, self._cut_key = parts[4:]
        self._n_targets = n_targets
        self._copies = [(there[:end], here[:end]) for end in ends]
        self._ranking = there[ends[3] :], here[ends[3] :]

    def fetch_totals(self) -> list[int]:
        """Wait for the device; return its totals."""
        self._device.fetch_into(*self._copies[0])
        totals: list[int] = self._totals.tolist()
        return totals

    def fetch(self, *, has_plan: bool, has_budget: bool) -> tuple[list[int], NDArray[np.int64]]:
        """Wait for the device; return its totals and offsets. What else there is comes with them."""
        self._device.fetch_into(*self._copies[4 if has_budget else 3 if has_plan else 1])
        return self._totals.tolist(), self._offsets.copy()

    def fetch_ranking(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Wait for the device; return cut_key, seen_pages, and the quotas as :meth:`quotas` does."""
        self._device.fetch_into(*self._ranking)
        return self._cut_key[: self._n_targets].copy(), self._seen_pages.copy(), self.quotas()

    def quotas(self) -> NDArray[np.int64]:
        """Return what was fetched of the quotas, int64[3, n_targets]."""
        quotas: NDArray[np.int64] = self._left.view(np.int64).reshape(len(QUOTAS), self._n_targets).copy()
        return quotas

    def plan(self, n_claims: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return flat pages and words of the plan that was fetched."""
        return self._flats[:n_claims].copy(), self._words[:n_claims].copy()


class Scratch:
    """What a store's scans hand from launch to launch.

    Attributes:
        report: what the host is told.
        most_claims: device int64[STRETCHES], folios that a budget lets claim of each stretch.
        given: what every launch may be given of it, by name.
    """

    def __init__(self, device: Device, layout: StoreLayout) -> None:
        n_sections = layout.n_pages // SECTION_PAGES
        n_cells = most_cells(n_sections)
        n_chunks = -(-n_stretches_of(0, layout.n_pages) // WARPS)
        n_rows = -(-n_chunks // ROW_CHUNKS)
        self.report = Report(device, layout)
        self.given = {
            "section_counts": device.empty(n_sections, np.uint32),
            "block_counts": device.empty(64 * n_sections, np.uint16),
            "cell_ends": device.empty(3 * n_cells, np.int64),
            # Both are 0 again after every launch that uses them.
            "cell_tallies": device.zeros(n_cells, np.uint64),
            "n_done": device.zeros(1 + n_rows, np.uint32),
            "chunk_places": device.empty(layout.n_targets * n_chunks, np.int64),
            "row_places": device.empty(layout.n_targets * n_rows, np.int64),
            "totals": self.report.totals,
            "plan_offsets": self.report.offsets,
        }
        self.most_claims = device.empty(STRETCHES, np.int64)


class Stage:
    """Where one scan stages its claims, until its plan is in host memory.

    Attributes:
        edges: device int64[n_stretches + 1].
        flats, plan_words: device, the plan.
        given: what launches are given by name: ``edges``; ``ends``, device int64[n_stretches], up to where
            each stretch has room; ``n_staged``; and claims by stretch in flat order, ``staged_offsets`` from
            the stretch's first page and ``staged_words``.
    """

    def __init__(self, device: Device, record_dtype: np.dtype[Any]) -> None:
        self._device = device
        self._record_dtype = record_dtype
        self.given: dict[str, Any] = {}
        self.edges = device.empty(STRETCHES + 1, np.int64)
        self.given |= {
            "edges": self.edges,
            "ends": device.empty(STRETCHES, np.int64),
            "n_staged": device.empty(STRETCHES, np.int64),
        }
        self._take_room(SMALL_PLAN)

    def _take_room(self, n_room: int) -> None:
        empty = self._device.empty
        self.given |= {
            "staged_offsets": empty(n_room, np.uint32),
            "staged_words": empty(n_room, self._record_dtype),
        }
        self.flats, self.plan_words = empty(n_room, np.int64), empty(n_room, self._record_dtype)
        self.n_room = n_room  # what is there, also where memory lacks

    def with_room(self, n_room: int) -> Stage:
        """Make it large enough for so many folios."""
        if n_room > self.n_room:
            self._take_room(n_room + n_room // 8)
        return self


class Stages:
    """Idle stages: two, so that one scan runs while the plan of another travels.

    ``deque`` operations are atomic, so no lock is needed.
    """

    def __init__(self, device: Device, record_dtype: np.dtype[Any]) -> None:
        self._device = device
        self._record_dtype = record_dtype
        self._idle: deque[Stage] = deque(maxlen=2)

    def take(self) -> Stage:
        """Return an idle stage, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            return Stage(self._device, self._record_dtype)

    def give(self, stage: Stage) -> None:
        """Take back a stage that nothing on the device uses any more."""
        if stage.n_room <= _KEPT_ROOM:
            self._idle.append(stage)
