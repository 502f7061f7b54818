"""move_pages(2), by its manual page, do_pages_move() and do_pages_stat() (mm/migrate.c, v6.12)."""

from __future__ import annotations

import errno

import numpy as np

from gpuscan.linux.syscalls import NOT_WRITTEN

from .world import BASE_PAGE, PFN_BITS, SECTION, SPAN_PAGES, Proc, World

_FRESH_STEPS = 200
"""Calls after which it is to be asked again how often a page is mapped."""


class MovePages:
    """The call, and a count of what it told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: dict[int, int] = {}
        """Address -> target of what was asked last and has no status."""

    def __call__(
        self, pid: int, addresses: np.ndarray, nodes: np.ndarray | None, *, of_all: bool = False
    ) -> tuple[int, np.ndarray]:
        world = self._world
        status = np.full(len(addresses), NOT_WRITTEN, dtype=np.int32)
        proc = world.processes.get(pid)
        if proc is None or not proc.is_alive:
            return -errno.ESRCH, status
        places = [(address >> 12) - BASE_PAGE for address in addresses.tolist()]
        if nodes is None:
            for i, place in enumerate(places):
                nid = _nid(proc, place)
                status[i] = -errno.ENOENT if nid is None else nid
                if nid is not None and self._asked.get(int(addresses[i])) == nid:
                    world.confirmed_pages += 1
                self._asked.pop(int(addresses[i]), None)
            return 0, status
        if not proc.is_target:
            world.broken.append(f"move_pages(2) on process {pid}, which nobody asked for")
        self._asked = dict(zip(addresses.tolist(), nodes.tolist(), strict=True))
        returned = self._move(proc, places, nodes.tolist(), status, of_all=of_all)
        for i in np.flatnonzero(status != NOT_WRITTEN).tolist():
            self._asked.pop(int(addresses[i]), None)
            world.confirmed_pages += int(status[i] == nodes[i])
        return returned, status

    def refused(
        self, addresses: np.ndarray, nodes: np.ndarray | None, returned: int
    ) -> tuple[int, np.ndarray]:
        """Refuse a call as a whole."""
        # After these a part may have moved, so whoever asks where the pages are is told that of all of them.
        self._asked = {}
        if nodes is not None and -returned in (errno.ENOMEM, errno.ENODEV):
            self._asked = dict(zip(addresses.tolist(), nodes.tolist(), strict=True))
        return returned, np.full(len(addresses), NOT_WRITTEN, dtype=np.int32)

    def _move(
        self, proc: Proc, places: list[int], nodes: list[int], status: np.ndarray, *, of_all: bool
    ) -> int:
        queued: list[int] = []
        world, start = self._world, 0
        for i, (place, nid) in enumerate(zip(places, nodes, strict=True)):
            if nid in world.offline or nid not in (0, 1, 2):
                left = self._flush(proc, queued, nid, status, start, i)
                return left + len(places) - i - 1 if left > 0 else -errno.ENODEV
            own = _nid(proc, place)
            found = -errno.ENOENT if own is None else nid if own == nid else None
            if found is None and not of_all and world.n_mapped[_pfn(proc, place)] > 1:
                found = -errno.EACCES
            if found is None and world.chance.random() < 0.02:
                found = -world.chance.choice((errno.EBUSY, errno.EACCES, errno.EFAULT))
            if found is None:
                queued.append(place)
                continue
            status[i] = found
            left = self._flush(proc, queued, nid, status, start, i)
            if left:
                return left + len(places) - i - 1 if left > 0 else left
            start, queued = i + 1, []
        return self._flush(proc, queued, nodes[-1], status, start, len(places))

    def _flush(
        self, proc: Proc, queued: list[int], nid: int, status: np.ndarray, start: int, end: int
    ) -> int:
        """Migrate a list; return what is left of it, or an errno below 0."""
        world, left = self._world, 0
        for place in queued:
            if nid in world.offline:
                world.broken.append(f"a page went to node {nid}, which is offline")
            if world.free_pages(nid) == 0:
                return -errno.ENOMEM
            if world.chance.random() < 0.02:
                left += 1
                continue
            self._look_who_maps(proc, place, nid)
            world.move(proc, place, nid)
            world.moved_pages += 1
        if not left:
            part = status[start:end]
            part[part == NOT_WRITTEN] = nid
        return left

    def _look_who_maps(self, proc: Proc, place: int, nid: int) -> None:
        """Note what must not be moved: what others map of whom gpuscan could know."""
        world, pfn = self._world, _pfn(proc, place)
        mappers = [each for each, _ in world.mappers(pfn)] if world.n_mapped[pfn] > 1 else [proc]
        for each in mappers:
            if not world.may_have(each.command, nid):
                world.broken.append(f"a page of process {each.pid} went to node {nid}, where it may not")
        if len(mappers) == 1:
            return
        counted_at = world.counted_at.get(pfn, -1)
        if counted_at < world.step - _FRESH_STEPS:
            world.broken.append("a shared page moved, and nobody had asked how often it is mapped")
        for each in mappers:
            if not each.is_target and world.mapped_at.get((each.pid, pfn), 0) <= counted_at:
                world.broken.append(f"a shared page moved of process {each.pid}, which nobody asked for")
            if not world.may_share(each.command):
                world.broken.append(f"a shared page of process {each.pid} moved, which must not")


def _pfn(proc: Proc, place: int) -> int:
    return int(proc.words[place] & PFN_BITS)


def _nid(proc: Proc, place: int) -> int | None:
    word = proc.words[place] if 0 <= place < SPAN_PAGES else 0
    return int(word & PFN_BITS) // SECTION if word else None
