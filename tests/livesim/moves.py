"""move_pages(2), by its manual page, do_pages_move() and do_pages_stat() (mm/migrate.c, v6.12)."""

from __future__ import annotations

import errno

import numpy as np

from gpuscan.linux.syscalls import NOT_WRITTEN

from .world import BASE_PAGE, PFN_BITS, SECTION, SPAN_PAGES, Proc, World


class MovePages:
    """The call, and a count of what it told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: dict[int, int] = {}
        """Address -> target of what was asked last and has no status."""

    def __call__(self, pid: int, addresses: np.ndarray, nodes: np.ndarray | None) -> tuple[int, np.ndarray]:
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
        returned = self._move(proc, places, nodes.tolist(), status)
        for i in np.flatnonzero(status != NOT_WRITTEN).tolist():
            self._asked.pop(int(addresses[i]), None)
            world.confirmed_pages += int(status[i] == nodes[i])
        return returned, status

    def refused(self, addresses: np.ndarray, returned: int) -> tuple[int, np.ndarray]:
        """Refuse a call as a whole."""
        self._asked = {}
        return returned, np.full(len(addresses), NOT_WRITTEN, dtype=np.int32)

    def _move(self, proc: Proc, places: list[int], nodes: list[int], status: np.ndarray) -> int:
        queued: list[int] = []
        world, start = self._world, 0
        for i, (place, nid) in enumerate(zip(places, nodes, strict=True)):
            if nid in world.offline or nid not in (0, 1, 2):
                left = self._flush(proc, queued, nid, status, start, i)
                return left + len(places) - i - 1 if left > 0 else -errno.ENODEV
            own = _nid(proc, place)
            found = -errno.ENOENT if own is None else nid if own == nid else None
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
            world.move(proc, place, nid)
            world.moved_pages += 1
        if not left:
            part = status[start:end]
            part[part == NOT_WRITTEN] = nid
        return left


def _nid(proc: Proc, place: int) -> int | None:
    word = proc.words[place] if 0 <= place < SPAN_PAGES else 0
    return int(word & PFN_BITS) // SECTION if word else None
