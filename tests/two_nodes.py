"""move_pages(2) between a near node and a far one, on a fake process."""

from __future__ import annotations

import errno

import numpy as np

from gpuscan.linux import numa
from gpuscan.linux.syscalls import NOT_WRITTEN
from gpuscan.linux.system import System
from procfs import FakeProcess

BASE = 0x10000
NEAR, FAR = 0, 2
NEAR_PFN, FAR_PFN = 1 << 15, 5 << 15
"""Where the nodes of ``tiered()`` begin."""


class Kernel(System):
    """move_pages(2) on one fake process, by do_pages_move() (mm/migrate.c, v6.12).

    ``status`` holds what add_folio_for_migration() finds at an address (an errno), ``sticks`` the
    addresses that are isolated and do not migrate, ``fails`` an errno for the whole call.
    """

    def __init__(self, process: FakeProcess) -> None:
        super().__init__(process.root)
        self.process = process
        self.status: dict[int, int] = {}
        self.sticks: set[int] = set()
        self.fails = 0
        self.sticky_errno = 0
        self.calls: list[list[int]] = []
        self.of_all: list[bool] = []
        self.flushes = 0
        first = {NEAR: NEAR_PFN, FAR: FAR_PFN + 20_000}
        self.free = {nid: iter(range(pfn, pfn + 10_000)) for nid, pfn in first.items()}

    def move_pages(self, pid, addresses, nodes, *, of_all=False):
        assert pid == self.process.pid
        status = np.full(len(addresses), NOT_WRITTEN, dtype=np.int32)
        if nodes is None:
            for i, address in enumerate(addresses.tolist()):
                pfn = self.process.pfn_at(address)
                status[i] = -errno.ENOENT if pfn is None else self.node_of(pfn)
            return 0, status
        self.calls.append(addresses.tolist())
        self.of_all.append(of_all)
        if self.fails:
            return -self.fails, status
        start, queued = 0, []
        for i, (address, node) in enumerate(zip(addresses.tolist(), nodes.tolist(), strict=True)):
            pfn = self.process.pfn_at(address)
            found = self.status.get(address, -errno.ENOENT if pfn is None else 0)
            if found == 0 and self.node_of(pfn) != node:
                queued.append(address)
                continue
            status[i] = found or node
            returned = self.flush(queued, node, status, start, i)
            if returned:
                return (returned + len(addresses) - i - 1 if returned > 0 else returned), status
            start, queued = i + 1, []
        return self.flush(queued, nodes[-1], status, start, len(addresses)), status

    def node_of(self, pfn):
        return NEAR if pfn < FAR_PFN else FAR

    def flush(self, queued, node, status, start, end):
        self.flushes += bool(queued)
        left = 0
        for address in queued:
            if address in self.sticks:
                left += 1
            else:
                self.process.map(address, [next(self.free[node])])
        if left:
            return -self.sticky_errno or left
        status[start:end][status[start:end] == NOT_WRITTEN] = node
        return 0


class Room(numa.Room):
    def __init__(self, n_pages=1 << 30):
        self.left = n_pages

    def pages(self, nid):
        return self.left

    def take(self, nid, n_pages):
        self.left -= n_pages
