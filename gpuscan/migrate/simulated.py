"""A migrator that moves folios of a simulated machine, with the kernel's refusals in the kernel's order.

``migrate()`` is one batch: what ``migrate_misplaced_folio_prepare()`` and
``migrate_pages(MIGRATE_ASYNC)`` in mm/migrate.c do with it. The kernel prepares
(isolates) every folio of a batch before any of them gets its new page, so all of
them see the target's free memory as it was before the batch; so do they here.
What one batch used, the next one misses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.arguments import ArraySpec, check_arrays, flag, instance, whole
from gpuscan.base.distinct import distinct
from gpuscan.base.errors import ArgumentError, RunFailedError
from gpuscan.engine.stages import BATCH, FolioEvents, MigrateResult, MigrateStatus
from gpuscan.sim.frames import PMD_ORDER
from gpuscan.sim.loops import DIRTY, EXEC_SHARED, FILE
from gpuscan.sim.machine import SimulatedMachine

NR_MAX_MIGRATE_PAGES_RETRY = 10
ROUND_PAGES = 512
"""NR_MAX_BATCHED_MIGRATION: ``migrate_pages()`` closes a round with the folio that reaches it."""

_FRAMES = (ArraySpec("frames", "int64", values=(0, "pages")),)
_BATCHES = (
    ArraySpec("ends", "int64", ("batches",), values=(0, "behind"), ascends=True),
    ArraySpec("target_nids", "int64", ("batches",)),
)
_UNBALANCED, _NO_PAGE, _NOT_REACHED = (
    "target not balanced",
    "no free page on the target",
    "not reached, the call ended",
)
_NO_ROOM = (_UNBALANCED, _NO_PAGE, _NOT_REACHED)
"""Of the reasons, those for want of room on the target."""
NOT_BALANCED = 2
"""Of :meth:`SimulatedMigrator.refusals`."""
_PENDING = 1
"""Status of a folio nothing was decided about yet; not an errno."""


@dataclass(slots=True, eq=False)
class _Batch:
    """The folios of one call and what became of them so far."""

    frames: NDArray[np.int64]
    folios: NDArray[np.int64]
    status: NDArray[np.int16]
    reasons: dict[str, int]
    n_no_room: int = 0

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
            self.n_no_room += count if why in _NO_ROOM else 0


@dataclass(frozen=True, slots=True, eq=False)
class SinglesMoved:
    """What :meth:`SimulatedMigrator.migrate_singles` did.

    Attributes:
        busy_ns: float64[n_batches], modelled time of each.
        n_rounds: int64[n_batches], each of one pass.
        events: of all together.
    """

    busy_ns: NDArray[np.float64]
    n_rounds: NDArray[np.int64]
    events: tuple[FolioEvents, ...]


class SimulatedMigrator:
    """A :class:`gpuscan.engine.stages.Migrator` on a simulated machine. For use by one thread.

    Args:
        machine: whose folios move.
        has_vma: whether the caller knows the VMA, as the hint fault path and move_pages(2)
            do. kmigrated (RFC v1) passes none, and then shared executables are not refused.
    """

    def __init__(self, machine: SimulatedMachine, *, has_vma: bool = True) -> None:
        instance("a migrator's machine", machine, SimulatedMachine, "give a gpuscan.SimulatedMachine")
        flag("a migrator's has_vma", has_vma)
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
        self._check_target(target_nid)
        pfns, n_pages = check_arrays("migrate", BATCH, (pfns, n_pages), {})
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
            0, or -errno (:class:`gpuscan.engine.stages.MigrateStatus`).
        """
        self._check_target(target_nid)
        frame = whole("prepare: frame", frame, 0, self._machine.page_map.n_pages - 1)
        refused = self._refusal(frame, target_nid)
        if refused:
            self._machine.migration_failed(self._machine.space.folios_at(np.array([frame])))
        return refused

    def _refusal(self, frame: int, target_nid: int) -> int:
        """Do :meth:`_prepare` for a batch of one, without arrays: a design asks for every candidate."""
        machine = self._machine
        space = machine.space
        flags = space.flags.item(frame >> space.slot_shift)
        off_lru = self._drawn(1, self._cost.isolation_failure_share)[0]
        if flags & FILE:
            if self._has_vma and flags & EXEC_SHARED:
                return MigrateStatus.EACCES
            if flags & DIRTY:
                return MigrateStatus.EAGAIN
        if not machine.frames.is_balanced(target_nid, 1 << space.order_of(space.folio_at(frame))):
            self._not_balanced(target_nid)
            return MigrateStatus.EAGAIN
        return MigrateStatus.EAGAIN if off_lru else 0

    def migrate_isolated(self, target_nid: int, frames: NDArray[np.int64]) -> MigrateResult:
        """Move folios that :meth:`prepare` accepted: ``migrate_pages()`` with a list in this order.

        Args:
            target_nid: a node with memory.
            frames: int64[n], head frames (flat), no two alike.
        """
        self._check_target(target_nid)
        dims = {"pages": self._machine.page_map.n_pages}
        (frames,) = check_arrays("migrate_isolated", _FRAMES, (frames,), dims)
        folios = self._machine.space.folios_at(frames)
        batch = _Batch(frames, folios, np.full(len(frames), _PENDING, dtype=np.int16), {})
        return self._migrate_pages(batch, target_nid, self._machine.space.orders_of(folios))

    def migrate_singles(
        self, frames: NDArray[np.int64], ends: NDArray[np.int64], target_nids: NDArray[np.int64]
    ) -> SinglesMoved:
        """Do :meth:`migrate_isolated` for batches of single pages that no failure is drawn for and that find
        room: :meth:`ManyFolios.steady_pages`.

        Args:
            frames: int64[n], their frames, no two alike, none on a node that one goes to, batch after batch.
            ends: int64[n_batches], how many frames all batches up to each have; ascending.
            target_nids: int64[n_batches], nodes with memory.

        Raises:
            ArgumentError: there is no such node, or frame.
            RunFailedError: a target has too little room.
        """
        machine, cost = self._machine, self._cost
        dims = {"pages": machine.page_map.n_pages}
        (frames,) = check_arrays("migrate_singles", _FRAMES, (frames,), dims)
        dims["behind"] = len(frames) + 1
        ends, target_nids = check_arrays("migrate_singles", _BATCHES, (ends, target_nids), dims)
        if (ends[-1] if len(ends) else 0) != len(frames):
            raise ArgumentError(
                f"migrate_singles: ends cover more or fewer than the {len(frames):,} frames"
                "; give how many frames all batches up to each have, all of them in the last"
            )
        sizes = np.diff(ends, prepend=0)
        each_nid, new = np.repeat(target_nids, sizes), np.empty(len(frames), dtype=np.int64)
        for nid in distinct(target_nids):
            self._check_target(nid)
            mine = np.flatnonzero(each_nid == nid)
            found = machine.frames.alloc(len(mine), nid)
            if len(found) < len(mine):
                raise RunFailedError(
                    f"node {nid} has no room for {len(mine):,} pages that were to fit; this is a bug in "
                    "gpuscan, report it with the workload and the seed"
                )
            new[mine] = found
        old = machine.space.move(machine.space.folios_at(frames), new)
        machine.frames.free(old)
        n_rounds = -(-sizes // cost.round_pages)
        busy_ns = cost.round_ns * n_rounds + (cost.page_ns * sizes + cost.folio_ns * sizes)
        events = (FolioEvents(freed=old, allocated=new, order=0),) if len(old) else ()
        return SinglesMoved(busy_ns, n_rounds, events)

    def state(self) -> dict[str, Any]:
        """Return where its random numbers are, for :meth:`restore`."""
        return {"random": self._random.bit_generator.state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of.

        Raises:
            ValueError: it was of another kind.
        """
        found = checked.table(state, "the migrator", ("random",))
        self._random.bit_generator.state = checked.random_state(
            found["random"], "the migrator's random numbers"
        )

    def _check_target(self, target_nid: int) -> None:
        """Refuse a target that has no memory."""
        if not self._machine.topology.node(target_nid).present_pages:
            raise ArgumentError(f"migrate: node {target_nid} has no memory; choose a target that has")

    def _look_up(self, batch: _Batch, target_nid: int, size_fits: NDArray[np.bool_]) -> None:
        """What kmigrated_walk_zone() (RFC v1) finds out before it prepares a folio."""
        batch.refuse((batch.folios < 0) | ~size_fits, MigrateStatus.ENOENT, "folio is gone")
        here = self._machine.page_map.nid_of_flat(np.maximum(batch.frames, 0)) == target_nid
        batch.refuse(here, MigrateStatus.ENOENT, "already on the target")

    def _prepare(self, batch: _Batch, target_nid: int, orders: NDArray[np.int64]) -> None:
        """The checks of migrate_misplaced_folio_prepare() (Linux 6.11 to 6.16), in its order."""
        machine = self._machine
        flags = machine.space.flags[machine.space.slots_of(np.maximum(batch.frames, 0))]
        is_file = flags & FILE != 0
        if is_file.any():  # anonymous memory and shmem are SWAPBACKED: dirty or not, they pass
            if self._has_vma:
                batch.refuse(is_file & (flags & EXEC_SHARED != 0), MigrateStatus.EACCES, "shared executable")
            batch.refuse(is_file & (flags & DIRTY != 0), MigrateStatus.EAGAIN, "dirty file page")
        for order in distinct(orders[batch.pending]):
            if not machine.frames.is_balanced(target_nid, 1 << order):
                batch.refuse(orders == order, MigrateStatus.EAGAIN, _UNBALANCED)
                self._not_balanced(target_nid)
        off_lru = self._drawn(len(batch.status), self._cost.isolation_failure_share)
        batch.refuse(off_lru | _repeats(batch.frames), MigrateStatus.EAGAIN, "isolation failed")

    def _not_balanced(self, target_nid: int) -> None:
        """Wake kswapd: only in memory tiering mode, and only where there is a zone to wake it for."""
        machine = self._machine
        if machine.spec.hint_faults.only_lower_tier and machine.frames.has_memory(target_nid):
            machine.wake_kswapd(target_nid)

    def _migrate_pages(self, batch: _Batch, target_nid: int, orders: NDArray[np.int64]) -> MigrateResult:
        """Move what was isolated, round by round (migrate_pages(), migrate_pages_batch()).

        A round gets new folios and unmaps, flushes TLBs once, then moves in up to ten passes those that still
        have an unexpected reference. Their new folios go back at the round's end.
        """
        isolated = np.flatnonzero(batch.pending)
        copy_fails = self._drawn(len(batch.status), self._cost.copy_failure_share)
        events: list[FolioEvents] = []
        charged: list[NDArray[np.int64]] = []
        n_rounds = n_charged = n_passes = 0
        for members in rounds(isolated, 1 << orders[isolated], self._cost.round_pages):
            n_rounds += 1
            unmapped, new = self._unmap(batch, members, target_nid, orders)
            charged.append(orders[unmapped])
            # With -ENOMEM at the first folio migrate_pages_batch() returns: no TLB is flushed, nothing moved.
            n_charged += bool(len(unmapped))
            waits = copy_fails[unmapped]
            n_passes += bool(len(unmapped)) + self._retry(waits)
            for order in distinct(orders[unmapped]):
                same = orders[unmapped] == order
                self._machine.frames.free(new[same & waits], order)
                moved, frames = unmapped[same & ~waits], new[same & ~waits]
                if len(moved):
                    old = self._machine.space.move(batch.folios[moved], frames)
                    self._machine.frames.free(old, order)
                    events.append(FolioEvents(freed=old, allocated=frames, order=order))
            batch.refuse(_mask(batch, unmapped[waits]), MigrateStatus.EAGAIN, "copy failed")
            batch.status[unmapped[~waits]] = MigrateStatus.MOVED
            if len(unmapped) < len(members):
                # What is unmapped moves (it has), then the call ends.
                who = _mask(batch, members[[len(unmapped)]])
                batch.refuse(who, MigrateStatus.ENOMEM, _NO_PAGE)
                batch.refuse(batch.pending, MigrateStatus.ENOMEM, _NOT_REACHED)
                break
        # What fails has been unmapped and is mapped again. Since Linux 6.11 __migrate_folio() looks for
        # references before it copies, so the passes in between cost next to nothing.
        busy_ns = self._cost.round_ns * n_charged + self._moving_ns(charged)
        failed = (batch.status != MigrateStatus.MOVED) & (batch.status != MigrateStatus.ENOENT)
        self._machine.migration_failed(batch.folios[failed])
        return MigrateResult(
            batch.status, batch.reasons, busy_ns, tuple(events), n_rounds, n_passes, batch.n_no_room
        )

    def _unmap(
        self, batch: _Batch, members: NDArray[np.int64], target_nid: int, orders: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Get new folios for a round's, in order, until there is none; return who got one, and theirs."""
        parts: list[NDArray[np.int64]] = []
        n_unmapped = 0
        for same in _runs(members, orders[members]):
            # alloc_misplaced_dst_folio(): __GFP_THISNODE, no reclaim, kswapd is not woken.
            new = self._machine.frames.alloc(len(same), target_nid, int(orders[same[0]]))
            parts.append(new)
            n_unmapped += len(new)
            if len(new) < len(same):
                break
        return members[:n_unmapped], np.concatenate(parts)

    def _moving_ns(self, rounds_orders: list[NDArray[np.int64]]) -> float:
        """Return what it takes to unmap, copy and map folios of these orders, round by round."""
        cost = self._cost
        orders = np.concatenate(rounds_orders) if rounds_orders else np.empty(0, dtype=np.int64)
        n_pages = 1 << orders
        n_huge = int(n_pages[orders >= PMD_ORDER].sum()) if cost.huge_page_ns is not None else 0
        moving_ns = cost.page_ns * (int(n_pages.sum()) - n_huge)
        return moving_ns + cost.folio_ns * len(orders) + n_huge * (cost.huge_page_ns or 0.0)

    def _retry(self, waits: NDArray[np.bool_]) -> int:
        """Try again those of a round that ``waits`` names, and take out what moves; return the passes."""
        n_passes = 1
        while n_passes < NR_MAX_MIGRATE_PAGES_RETRY and waits.any():
            n_passes += 1
            if self._cost.copy_failure_lasts_share < 1.0:
                again = self._random.random(int(waits.sum())) < self._cost.copy_failure_lasts_share
                waits[waits] = again
        return n_passes - 1

    def _drawn(self, n: int, share: float) -> NDArray[np.bool_]:
        if share <= 0.0:
            return np.zeros(n, dtype=np.bool_)
        return self._random.random(n) < share


class ManyFolios:
    """What :meth:`SimulatedMigrator.prepare` says of many folios, for models, which have checked all.

    Args:
        migrator: whose.
    """

    def __init__(self, migrator: SimulatedMigrator) -> None:
        self._migrator = migrator

    def refusals(self, frames: NDArray[np.int64], target_nids: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return what of the machine as it is makes ``prepare`` refuse folios; nothing changes.

        Args:
            frames, target_nids: int64[n], head frames (flat), and nodes with memory.

        Returns:
            0 for nothing, 1 for the folio itself, :data:`NOT_BALANCED` for its target.
        """
        space = self._migrator._machine.space
        refused = np.zeros(len(frames), dtype=np.int8)
        flags = space.flags[space.slots_of(frames)]
        is_file = flags & FILE != 0
        if is_file.any():
            stays = flags & DIRTY != 0
            if self._migrator._has_vma:
                stays |= flags & EXEC_SHARED != 0
            refused[is_file & stays] = 1
        orders = space.orders_of(space.folios_at(frames))
        for nid in distinct(target_nids):
            for order in distinct(orders[target_nids == nid]):
                if not self._migrator._machine.frames.is_balanced(nid, 1 << order):
                    refused[(target_nids == nid) & (orders == order) & (refused == 0)] = NOT_BALANCED
        return refused

    def isolation_draws(self, n: int) -> NDArray[np.bool_]:
        """Return bool[n]: of the next folios that ``prepare`` is asked for, whose isolation fails; they are
        drawn when it is asked."""
        if self._migrator._cost.isolation_failure_share <= 0.0:
            return np.zeros(n, dtype=np.bool_)
        state = self._migrator._random.bit_generator.state
        drawn = self._migrator._drawn(n, self._migrator._cost.isolation_failure_share)
        self._migrator._random.bit_generator.state = state
        return drawn

    def steady_pages(self, nid: int) -> int:
        """Return how many single pages may come to a node with memory, and are sure to, before
        :meth:`refusals` or ``free_space_enough()`` say something else of it; 0 where failures are drawn, or
        any folio is large."""
        machine, cost = self._migrator._machine, self._migrator._cost
        if max(cost.isolation_failure_share, cost.copy_failure_share) > 0 or machine.has_large_folios:
            return 0
        return machine.steady_pages(nid)

    def prepare_many(
        self, frames: NDArray[np.int64], target_nids: NDArray[np.int64], accepted: NDArray[np.bool_]
    ) -> None:
        """Do ``prepare`` for folios, in this order, whose results are known.

        Args:
            frames, target_nids: as there.
            accepted: bool[n], where neither :meth:`refusals` nor :meth:`isolation_draws` says no.
        """
        self._migrator._drawn(len(frames), self._migrator._cost.isolation_failure_share)
        if accepted.all():
            return
        refused = self.refusals(frames[~accepted], target_nids[~accepted])
        for nid in np.unique(target_nids[~accepted][refused == NOT_BALANCED]).tolist():
            self._migrator._not_balanced(nid)
        self._migrator._machine.migration_failed(self._migrator._machine.space.folios_at(frames[~accepted]))


def rounds(
    members: NDArray[np.int64], n_pages: NDArray[np.int64], round_pages: int = ROUND_PAGES
) -> list[NDArray[np.int64]]:
    """Cut folios of ``n_pages`` base pages into rounds, closed by the folio that reaches ``round_pages``.

    513 single pages are two rounds; so are two huge pages.
    """
    result: list[NDArray[np.int64]] = []
    before = np.concatenate(([0], np.cumsum(n_pages)))
    start = 0
    while start < len(members):
        end = int(np.searchsorted(before, before[start] + round_pages))
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
