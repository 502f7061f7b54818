"""A migrator that moves folios of a simulated machine, with the kernel's refusals in the kernel's order.

``migrate()`` is one batch: what ``migrate_misplaced_folio_prepare()`` and
``migrate_pages(MIGRATE_ASYNC)`` in mm/migrate.c do with it. The kernel prepares
(isolates) every folio of a batch before any of them gets its new page, so all of
them see the target's free memory as it was before the batch; so do they here.
What one batch used, the next one misses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.flow import FolioEvents, MigrateResult, MigrateStatus
from gpuscan.sim.loops import DIRTY, EXEC_SHARED, FILE
from gpuscan.sim.machine import SimulatedMachine

ROUND_PAGES = 512
"""NR_MAX_BATCHED_MIGRATION: ``migrate_pages()`` closes a round with the folio that reaches it."""

_PENDING = 1
"""Status of a folio nothing was decided about yet; not an errno."""


@dataclass(slots=True, eq=False)
class _Batch:
    """The folios of one call and what became of them so far."""

    frames: NDArray[np.int64]
    folios: NDArray[np.int64]
    status: NDArray[np.int16]
    reasons: dict[str, int]

    @property
    def pending(self) -> NDArray[np.bool_]:
        pending: NDArray[np.bool_] = self.status == _PENDING
        return pending

    def refuse(self, who: NDArray[np.bool_], code: MigrateStatus, why: str) -> None:
        """End those of ``who`` that are pending."""
        ended = who & self.pending
        count = int(ended.sum())
        if count:
            self.status[ended] = code
            reason = f"{code.name}: {why}"
            self.reasons[reason] = self.reasons.get(reason, 0) + count


class SimulatedMigrator:
    """A :class:`gpuscan.flow.Migrator` on a simulated machine. For use by one thread.

    Args:
        machine: whose folios move.
        has_vma: whether the caller knows the VMA, as the hint fault path and move_pages(2)
            do. kmigrated (RFC v1) passes none, and then shared executables are not refused.
    """

    def __init__(self, machine: SimulatedMachine, *, has_vma: bool = True) -> None:
        self._machine = machine
        self._cost = machine.spec.cost
        self._has_vma = has_vma
        self._random = np.random.default_rng([machine.spec.seed, 2])

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        """Move one batch of folios to a node.

        Args:
            target_nid: a node with memory.
            pfns: int64[n], first pages.
            n_pages: int64[n], their sizes as the caller knows them. The folio's size on the
                machine counts; one that differs is refused, since that folio is gone.

        Returns:
            Status and reasons per folio, modelled time, frames freed and allocated.
        """
        machine = self._machine
        frames = machine.page_map.flat_of_pfn(pfns)
        folios = np.where(frames >= 0, machine.space.folios_at(np.maximum(frames, 0)), -1)
        batch = _Batch(frames, folios, np.full(len(frames), _PENDING, dtype=np.int16), {})
        orders = machine.space.orders_of(folios)
        self._look_up(batch, target_nid, (1 << orders) == n_pages)
        self._prepare(batch, target_nid, orders)
        return self._migrate_pages(batch, target_nid, orders)

    def prepare(self, frame: int, target_nid: int) -> int:
        """Check one folio as ``migrate_misplaced_folio_prepare()`` does.

        Args:
            frame: its head frame (flat); a folio is there.
            target_nid: a node with memory.

        Returns:
            0, or -errno (:class:`gpuscan.flow.MigrateStatus`).
        """
        frames = np.array([frame], dtype=np.int64)
        folios = self._machine.space.folios_at(frames)
        batch = _Batch(frames, folios, np.full(1, _PENDING, dtype=np.int16), {})
        self._prepare(batch, target_nid, self._machine.space.orders_of(folios))
        return 0 if batch.pending[0] else int(batch.status[0])

    def migrate_isolated(self, target_nid: int, frames: NDArray[np.int64]) -> MigrateResult:
        """Move folios that :meth:`prepare` accepted: ``migrate_pages()`` with a list in this order.

        Args:
            target_nid: a node with memory.
            frames: int64[n], head frames (flat), no two alike.
        """
        folios = self._machine.space.folios_at(frames)
        batch = _Batch(frames, folios, np.full(len(frames), _PENDING, dtype=np.int16), {})
        return self._migrate_pages(batch, target_nid, self._machine.space.orders_of(folios))

    def _look_up(self, batch: _Batch, target_nid: int, size_fits: NDArray[np.bool_]) -> None:
        """What kmigrated_walk_zone() (RFC v1) finds out before it prepares a folio."""
        batch.refuse((batch.folios < 0) | ~size_fits, MigrateStatus.ENOENT, "folio is gone")
        here = self._machine.page_map.nid_of_flat(np.maximum(batch.frames, 0)) == target_nid
        batch.refuse(here, MigrateStatus.ENOENT, "already on the target")

    def _prepare(self, batch: _Batch, target_nid: int, orders: NDArray[np.int64]) -> None:
        """The checks of migrate_misplaced_folio_prepare() (Linux 6.11 to 6.16), in its order."""
        machine = self._machine
        flags = machine.space.flags[np.maximum(batch.frames, 0)]
        is_file = flags & FILE != 0
        if is_file.any():  # anonymous memory and shmem are SWAPBACKED: dirty or not, they pass
            if self._has_vma:
                batch.refuse(is_file & (flags & EXEC_SHARED != 0), MigrateStatus.EACCES, "shared executable")
            batch.refuse(is_file & (flags & DIRTY != 0), MigrateStatus.EAGAIN, "dirty file page")
        for order in np.unique(orders[batch.pending]).tolist():
            if not machine.frames.is_balanced(target_nid, 1 << order):
                batch.refuse(orders == order, MigrateStatus.EAGAIN, "target not balanced")
                # Only in memory tiering mode, and only where there is a zone to wake it for.
                if machine.spec.hint_faults.only_lower_tier and machine.frames.has_memory(target_nid):
                    machine.wake_kswapd(target_nid)
        off_lru = self._drawn(batch, self._cost.isolation_failure_share)
        batch.refuse(off_lru | _repeats(batch.frames), MigrateStatus.EAGAIN, "isolation failed")

    def _migrate_pages(self, batch: _Batch, target_nid: int, orders: NDArray[np.int64]) -> MigrateResult:
        """Move what was isolated, round by round (migrate_pages(), migrate_pages_batch())."""
        isolated = np.flatnonzero(batch.pending)
        copy_fails = self._drawn(batch, self._cost.copy_failure_share)
        events: list[FolioEvents] = []
        moved_pages = n_rounds = 0
        for members in rounds(isolated, 1 << orders[isolated]):
            n_rounds += 1
            for same in _runs(members, orders[members]):
                order = int(orders[same[0]])
                # alloc_misplaced_dst_folio(): __GFP_THISNODE, no reclaim, kswapd is not woken.
                new = self._machine.frames.alloc(len(same), target_nid, order)
                moved, n_allocated = same[: len(new)], len(new)
                fails = copy_fails[moved]
                if fails.any():
                    batch.refuse(_mask(batch, moved[fails]), MigrateStatus.EAGAIN, "copy failed")
                    self._machine.frames.free(new[fails], order)
                    moved, new = moved[~fails], new[~fails]
                if len(moved):
                    old = self._machine.space.move(batch.folios[moved], new)
                    self._machine.frames.free(old, order)
                    events.append(FolioEvents(freed=old, allocated=new, order=order))
                    batch.status[moved] = MigrateStatus.MOVED
                    moved_pages += len(moved) << order
                if n_allocated < len(same):
                    # What is unmapped moves (it has), then the call ends.
                    batch.refuse(
                        _mask(batch, same[[n_allocated]]), MigrateStatus.ENOMEM, "no free page on the target"
                    )
                    batch.refuse(batch.pending, MigrateStatus.ENOMEM, "not reached, the call ended")
                    break
            if not batch.pending.any():
                break
        busy_ns = self._cost.round_ns * n_rounds + self._cost.page_ns * moved_pages
        return MigrateResult(batch.status, batch.reasons, busy_ns, tuple(events), n_rounds)

    def _drawn(self, batch: _Batch, share: float) -> NDArray[np.bool_]:
        if share <= 0.0:
            return np.zeros(len(batch.status), dtype=np.bool_)
        return self._random.random(len(batch.status)) < share


def rounds(members: NDArray[np.int64], n_pages: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut folios of ``n_pages`` base pages into rounds, each closed by the folio that reaches 512 base pages.

    513 single pages are two rounds; so are two huge pages.
    """
    result: list[NDArray[np.int64]] = []
    before = np.concatenate(([0], np.cumsum(n_pages)))
    start = 0
    while start < len(members):
        end = int(np.searchsorted(before, before[start] + ROUND_PAGES))
        result.append(members[start:end])
        start = end
    return result


def _runs(members: NDArray[np.int64], orders: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut members where the order changes."""
    changes = np.flatnonzero(orders[1:] != orders[:-1]) + 1
    return np.split(members, changes) if len(changes) else [members]


def _mask(batch: _Batch, members: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(len(batch.status), dtype=np.bool_)
    mask[members] = True
    return mask


def _repeats(frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which elements occurred before: the second isolation of a folio fails."""
    repeats = np.zeros(len(frames), dtype=np.bool_)
    if (frames[1:] <= frames[:-1]).any():  # a plan is strictly ascending
        repeats[:] = True
        repeats[np.unique(frames, return_index=True)[1]] = False
    return repeats
