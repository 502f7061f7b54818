"""The simulated machine: nodes, page frames, processes with their page tables, and the time.

Three nodes of one section each: 0 and 1 with CPUs, 2 without (a lower tier). All pages are base pages.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from gpuscan.records.page_flags import Kpf
from gpuscan.topology import MemoryKind, Node, Topology, Watermarks, Zone
from gpuscan.topology.sysfs import Host

SECTION = 32_768
NIDS = (0, 1, 2)
NEAR, FAR = 0, 2
BASE_PAGE = 0x400
"""Page number where mappings begin."""
SPAN_PAGES = 512
"""Page numbers that a process may use."""
PRESENT, EXCLUSIVE, SOFT_DIRTY = (np.uint64(1 << bit) for bit in (63, 56, 55))
PFN_BITS = np.uint64((1 << 55) - 1)
ON_LRU = np.uint64(1 << Kpf.LRU | 1 << Kpf.ANON)
REFERENCED = np.uint64(1 << Kpf.REFERENCED)
FREE = np.uint64(1 << Kpf.BUDDY)
ACCESS_NS = 40_000_000
"""Processes touch their hot pages this often."""
REUSE_STEPS = 3
"""PIDs are given out cyclically (alloc_pid(), kernel/pid.c): a freed one does not come back at once."""


def host(offline: Iterable[int] = ()) -> Host:
    """Return the machine as its files say; nodes that are offline have no memory."""
    gone = set(offline)
    nodes = tuple(
        Node(
            nid,
            MemoryKind.CXL if nid == FAR else MemoryKind.DRAM,
            int(nid == FAR),
            () if nid == FAR else (nid,),
            () if nid in gone else (_zone(nid),),
        )
        for nid in NIDS
    )
    distance = np.array([[10, 20, 30], [20, 10, 40], [30, 40, 10]], dtype=np.uint8)
    return Host(Topology("simulated", nodes, distance), ())


def _zone(nid: int) -> Zone:
    return Zone("Normal", ((nid * SECTION, (nid + 1) * SECTION),), SECTION, Watermarks(1, 2, 3, 4))


HOST = host()


@dataclass(eq=False)
class Proc:
    """A process.

    Attributes:
        words: uint64[SPAN_PAGES], its pagemap from ``BASE_PAGE`` on; 0 where nothing is.
        mappings: (first page, number of pages), counted from ``BASE_PAGE``, ascending.
        hot: bool[SPAN_PAGES], pages that it keeps touching.
        is_target: whether it was asked for.
        command: its name.
        mems: the nodes that its cpuset allows.
    """

    pid: int
    start_ticks: int
    words: np.ndarray
    is_target: bool = True
    parent: Proc | None = None
    mappings: list[tuple[int, int]] = field(default_factory=list)
    hot: np.ndarray = field(default_factory=lambda: np.zeros(SPAN_PAGES, dtype=np.bool_))
    is_alive: bool = True
    is_zombie: bool = False
    code: int | None = None
    command: str = "worker"
    mems: str = "0-2"

    @property
    def cgroup(self) -> str:
        """The path of its cgroup: that of a unit of its name."""
        return f"/system.slice/{self.command}.service"


class World:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_ns = 1_000_000_000
        self.flags = np.full(len(NIDS) * SECTION, FREE)
        self.idle = np.zeros(len(NIDS) * SECTION // 64, dtype=np.uint64)
        self._free: dict[int, list[int]] = {nid: [] for nid in NIDS}
        self._next = {nid: itertools.count(nid * SECTION + 64) for nid in NIDS}
        self.n_used = dict.fromkeys(NIDS, 0)
        self.n_mapped = np.zeros(len(NIDS) * SECTION, dtype=np.uint64)
        """How often each frame is mapped, as /proc/kpagecount says."""
        self.step = 0
        self.forks_share = False
        """Whether a child maps its parent's pages."""
        self.mapped_at: dict[tuple[int, int], int] = {}
        """(pid, pfn) of pages that were mapped when another process had them -> the step."""
        self.counted_at: dict[int, int] = {}
        """pfn -> the step at which gpuscan was told how often it is mapped."""
        self.may_have: Callable[[str, int], bool] = lambda command, nid: True
        """Whether a process of a name may have pages that gpuscan moves to a node."""
        self.may_share: Callable[[str], bool] = lambda command: True
        """Whether pages that it shares with others may move at all."""
        self.pressure = dict.fromkeys(NIDS, 0)
        self.offline: set[int] = set()
        self.hotplugs = False
        """Whether the machine's files tell of nodes that are offline, and the kernel empties them before."""
        self.processes: dict[int, Proc] = {}
        self._pids = itertools.count(100)
        self._next_access_ns = self.now_ns
        self.waiting: list[tuple[int, int]] = []
        """(step, pid) of PIDs to be given out again."""
        self.confirmed_pages = 0
        """Pages that the kernel told gpuscan are on the target that it asked for."""
        self.moved_pages = 0
        self.is_chosen: Callable[[str], bool] = lambda command: True
        """Whether a process of a name is one that was asked for, where names decide."""
        self.broken: list[str] = []
        """Invariants that did not hold."""
        self.log: list[str] = []
        self._inodes = itertools.count(100)
        self._made_cgroups: dict[str, int] = {}
        self.moved_by_damon: Counter[tuple[int | None, bool]] = Counter()
        """Pages, by the inode of the cgroup that a scheme is for, and whether they were hot."""

    def give_frame(self, nid: int) -> int:
        """Allocate a page frame; the one that was freed last comes first."""
        pfn = self._free[nid].pop() if self._free[nid] else next(self._next[nid])
        self.flags[pfn] = ON_LRU
        self.idle[pfn >> 6] &= ~np.uint64(1 << (pfn & 63))
        self.n_used[nid] += 1
        return pfn

    def take_frame(self, pfn: int) -> None:
        """Free a page frame."""
        self.flags[pfn] = FREE
        self._free[pfn // SECTION].append(pfn)
        self.n_used[pfn // SECTION] -= 1

    def free_pages(self, nid: int) -> int:
        """Return the free pages of a node."""
        return max(0, SECTION - self.n_used[nid] - self.pressure[nid])

    def spawn(
        self,
        n_pages: int,
        *,
        is_target: bool = True,
        parent: Proc | None = None,
        pid: int | None = None,
        command: str = "worker",
    ) -> Proc:
        """Start a process with a mapping of so many pages."""
        pid = next(self._pids) if pid is None else pid
        proc = Proc(pid, self.now_ns // 10_000_000 + pid, np.zeros(SPAN_PAGES, np.uint64), is_target, parent)
        proc.command = command
        if proc.cgroup not in self.cgroups:
            self._made_cgroups[proc.cgroup] = next(self._inodes)
        self.processes[pid] = proc
        self.map(proc, n_pages)
        return proc

    def map(self, proc: Proc, n_pages: int) -> None:
        """Map and touch so many new pages, where there is room."""
        first = max((start + n for start, n in proc.mappings), default=-1) + 1
        n_pages = min(n_pages, SPAN_PAGES - first)
        if n_pages <= 0:
            return
        proc.mappings.append((first, n_pages))
        for page in range(first, first + n_pages):
            if self.chance.random() < 0.9:
                nid = FAR if self.chance.random() < 0.7 else self.chance.choice(NIDS)
                self.put(proc, page, self.give_frame(nid))
        proc.hot[first : first + n_pages] = [self.chance.random() < 0.5 for _ in range(n_pages)]

    def put(self, proc: Proc, page: int, pfn: int) -> None:
        """Map a frame."""
        proc.words[page] = PRESENT | EXCLUSIVE | SOFT_DIRTY | np.uint64(pfn)
        self.n_mapped[pfn] += np.uint64(1)
        if self.n_mapped[pfn] > 1:
            self.mapped_at[proc.pid, pfn] = self.step

    def share(self, proc: Proc, other: Proc) -> None:
        """Map all pages of another process, where there is room: shared memory, or what a fork leaves."""
        first = max((start + n for start, n in proc.mappings), default=-1) + 1
        for start, n in other.mappings:
            if first + n > SPAN_PAGES:
                break
            proc.mappings.append((first, n))
            for page in range(n):
                if word := other.words[start + page]:
                    self.put(proc, first + page, int(word & PFN_BITS))
            proc.hot[first : first + n] = [self.chance.random() < 0.3 for _ in range(n)]
            first += n

    def words_of(self, proc: Proc) -> np.ndarray:
        """Return its pagemap as the kernel shows it."""
        pfns = (proc.words & PFN_BITS).astype(np.int64)
        return np.where((proc.words != 0) & (self.n_mapped[pfns] > 1), proc.words & ~EXCLUSIVE, proc.words)

    def mappers(self, pfn: int) -> list[tuple[Proc, int]]:
        """Return who maps a frame, and at which page."""
        return [
            (proc, page)
            for proc in self.processes.values()
            for page in np.flatnonzero((proc.words != 0) & ((proc.words & PFN_BITS) == pfn)).tolist()
        ]

    def unmap(self, proc: Proc, place: int) -> None:
        """Take one mapping away."""
        first, n = proc.mappings.pop(place)
        for page in range(first, first + n):
            if proc.words[page]:
                pfn = int(proc.words[page] & PFN_BITS)
                self.n_mapped[pfn] -= np.uint64(1)
                self.mapped_at.pop((proc.pid, pfn), None)
                if not self.n_mapped[pfn]:
                    self.take_frame(pfn)
        proc.words[first : first + n] = 0

    def move(self, proc: Proc, page: int, nid: int) -> None:
        """Move a page to a node, for all who map it."""
        old = int(proc.words[page] & PFN_BITS)
        new = self.give_frame(nid)
        for each, place in self.mappers(old) if self.n_mapped[old] > 1 else [(proc, page)]:
            each.words[place] = each.words[place] & ~PFN_BITS | np.uint64(new)
            if (at := self.mapped_at.pop((each.pid, old), None)) is not None:
                self.mapped_at[each.pid, new] = at
        self.n_mapped[new], self.n_mapped[old] = self.n_mapped[old], 0
        self.take_frame(old)

    def empty(self, nid: int) -> None:
        """Move all pages off a node, as the kernel does before a block is offline (offline_pages())."""
        for proc in self.running():
            for page in np.flatnonzero(proc.words & PRESENT).tolist():
                if int(proc.words[page] & PFN_BITS) // SECTION == nid:
                    self.move(proc, page, NEAR)

    def end(self, proc: Proc, code: int = 0) -> None:
        """Let a process end; it is gone at once unless gpuscan is to wait for it."""
        if not proc.is_alive:
            return
        while proc.mappings:
            self.unmap(proc, 0)
        proc.is_alive, proc.code = False, code
        if not proc.is_zombie:
            del self.processes[proc.pid]

    def touch(self) -> None:
        """Let all processes touch their hot pages, as often as time has passed for."""
        if self.now_ns < self._next_access_ns:
            return
        self._next_access_ns = self.now_ns + ACCESS_NS
        for proc in self.processes.values():
            which = np.flatnonzero(proc.hot & (proc.words != 0))
            if not len(which):
                continue
            proc.words[which] |= SOFT_DIRTY
            pfns = (proc.words[which] & PFN_BITS).astype(np.int64)
            self.flags[pfns] |= REFERENCED
            np.bitwise_and.at(self.idle, pfns >> 6, ~(np.uint64(1) << (pfns & 63).astype(np.uint64)))

    def pages_on(self, nid: int) -> int:
        """Return how many pages the processes that were asked for have on a node, shared ones once."""
        words = [proc.words[proc.words != 0] & PFN_BITS for proc in self.running() if proc.is_target]
        pfns = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *words]))
        return int((pfns // np.uint64(SECTION) == nid).sum())

    @property
    def cgroups(self) -> dict[str, int]:
        """The cgroups that are there, and the inode of each; one without a process is removed."""
        return {proc.cgroup: self._made_cgroups[proc.cgroup] for proc in self.running()}

    def running(self) -> list[Proc]:
        """Return the processes that run."""
        return [proc for proc in self.processes.values() if proc.is_alive]
