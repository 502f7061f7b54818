"""What NUMA allows a process, and how much room a node has.

Evidence: Documentation/filesystems/proc.rst (numa_maps, Mems_allowed_list); mm/mempolicy.c mpol_to_str()
writes the policies; mm/migrate.c migrate_balanced_pgdat() is the check that the kernel's own promotion
makes before it moves pages, and that move_pages(2) does not make.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import instance, whole
from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux.process import Process
from gpuscan.linux.system import HERE, System
from gpuscan.topology.lists import parse_list
from gpuscan.topology.zoneinfo import ZoneInfo, parse_zoneinfo

_NUMA_MAPS_LINE = re.compile(
    r"([0-9a-f]+) (default|local|prefer \(many\)|prefer|bind|interleave|weighted interleave)"
    r"(?:=[a-z|]+)?(?::([0-9,-]+))?((?: .*)?)"
)
_ON_NODE = re.compile(r" N([0-9]+)=([0-9]+)")
_FREE_HIGH_PRESENT = re.compile(r"^ +(?:pages free|high|present) +([0-9]+)$", re.MULTILINE)
_NODE_FREE = re.compile(rb"nr_free_pages ([0-9]+)\n")
_NODE_FREE_BYTES = 64
_UNWATCHED = 10
_PAGE_KIB = re.compile(r" kernelpagesize_kB=([0-9]+)")
_LIMITED = ("bind", "prefer", "prefer (many)")
"""Policies whose memory moves to their nodes only, as in the kernel: mpol_misplaced() (mm/mempolicy.c, v6.12)
leaves a page on a preferred node where it is, and gives MPOL_PREFERRED_MANY the restriction of MPOL_BIND."""
_MOVABLE, _DEVICE = "Movable", "Device"


@dataclass(frozen=True, slots=True)
class MappingPolicy:
    """A line of /proc/PID/numa_maps.

    Attributes:
        start: address of the mapping.
        mode: ``default``, ``bind``, ``interleave``, ...
        nids: nodes of the policy.
        resident: base pages by nid.
        is_shared: some of its pages are mapped more than once.
    """

    start: int
    mode: str
    nids: frozenset[int]
    resident: dict[int, int]
    is_shared: bool = False


def parse_numa_maps(text: str) -> list[MappingPolicy]:
    """Return the lines of /proc/PID/numa_maps that can be read, ascending."""
    found = []
    for line in text.splitlines():
        match = _NUMA_MAPS_LINE.fullmatch(line)
        if match is None:
            continue
        size = _PAGE_KIB.search(match[4])
        n_base = int(size[1]) * 1024 // PAGE_BYTES if size else 1
        resident = {int(nid): int(n) * n_base for nid, n in _ON_NODE.findall(match[4])}
        nids = frozenset(parse_list(match[3] or ""))
        # mapmax= is there where a page is mapped more than once (show_numa_map(), fs/proc/task_mmu.c, v6.12).
        is_shared = " mapmax=" in match[4]
        found.append(MappingPolicy(int(match[1], 16), match[2], nids, resident, is_shared))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Allowance:
    """Where the memory of a process is, and where it may go.

    Attributes:
        nids: nodes that its cpuset allows.
        starts: int64[n], where mappings with a policy of their own begin, ascending, and where the next
            mapping without one begins.
        policies: per ``starts``, the nodes that the policy allows; None without limit.
        resident: base pages by nid.
        shared: int64[n], where mappings begin that have pages which are mapped more than once.
    """

    nids: frozenset[int]
    starts: NDArray[np.int64]
    policies: tuple[frozenset[int] | None, ...]
    resident: dict[int, int]
    shared: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def policy_of(self, addresses: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return intp[n]: which of ``policies`` holds for each address."""
        return np.maximum(np.searchsorted(self.starts, addresses, side="right") - 1, 0)


def read_allowance(process: Process) -> Allowance:
    """Read the cpuset and the policies of a process. It walks all page tables: not for every tick."""
    allowed = re.search(r"^Mems_allowed_list:\s*(\S*)$", process.text("status"), re.MULTILINE)
    nids = frozenset(parse_list(allowed[1])) if allowed else frozenset()
    starts = [0]
    policies: list[frozenset[int] | None] = [None]
    resident: dict[int, int] = {}
    shared: list[int] = []
    for mapping in parse_numa_maps(process.text("numa_maps")):
        for nid, n in mapping.resident.items():
            resident[nid] = resident.get(nid, 0) + n
        if mapping.is_shared:
            shared.append(mapping.start)
        limit: frozenset[int] | None = None
        if mapping.mode in _LIMITED:
            limit = mapping.nids
        elif mapping.mode in ("interleave", "weighted interleave"):
            # Spread on purpose: whatever moved would undo it.
            limit = frozenset()
        if limit != policies[-1]:
            starts.append(mapping.start)
            policies.append(limit)
    return Allowance(
        nids,
        np.array(starts, dtype=np.int64),
        tuple(policies),
        resident,
        np.array(shared, dtype=np.int64),
    )


class Room:
    """Base pages that nodes can take, above the watermark at which the kernel would balance them.

    A zone counts with its free pages above its high watermark and what it keeps back for
    allocations that are not movable. /proc/zoneinfo says both, of every zone of the machine; what a node
    has free now is the first line of its own ``vmstat`` (drivers/base/node.c, node_read_vmstat(), v6.12),
    a tenth of the time. So that is read whenever the room is asked for, and what became fewer since zoneinfo
    was read is taken off, as if all of it had come from zones that count. Zoneinfo is read again when it
    is old, or when half of the room that it told is gone.

    Args:
        system: whose nodes these are.
        fresh_ns: how long zoneinfo is used (-1: not at all); a tenth of that where a node does not say what
            is free.
    """

    def __init__(self, system: System = HERE, fresh_ns: int = 1_000_000_000) -> None:
        instance("room: system", system, System, "leave it out")
        fresh_ns = whole("room: fresh_ns", fresh_ns, -1)
        self._system = system
        self._path = system.root / "proc/zoneinfo"
        self._nodes = system.root / "sys/devices/system/node"
        self._fresh_ns = fresh_ns
        self._read_ns = -1
        self._zones: list[ZoneInfo] = []
        self._told: dict[int, int] = {}
        self._free: dict[int, int] = {}
        self._taken: Counter[int] = Counter()

    def pages(self, nid: int) -> int:
        """Return the base pages that a node can take now."""
        nid = whole("room: nid", nid)
        now_ns = self._system.monotonic_ns()
        free = self.free_pages(nid)
        fresh_ns = self._fresh_ns if free is not None else self._fresh_ns // _UNWATCHED
        is_old = self._read_ns < 0 or now_ns - self._read_ns > fresh_ns
        if is_old or 2 * self._left(nid, free) < self._told.get(nid, 0):
            zones = self._look()
            self._told = room_by_node(zones)
            self._free = {}
            for zone in zones:
                self._free[zone.nid] = self._free.get(zone.nid, 0) + zone.free
            self._taken.clear()
            self._read_ns = now_ns
        return self._left(nid, free)

    def _left(self, nid: int, free: int | None) -> int:
        gone = 0 if free is None else self._free.get(nid, 0) - free
        return self._told.get(nid, 0) - max(0, gone, self._taken[nid])

    def free_pages(self, nid: int) -> int | None:
        """Return the base pages that are free on a node now, all of them; None where it does not say."""
        nid = whole("room: nid", nid)
        try:
            fd = self._system.open(f"{self._nodes}/node{nid}/vmstat", os.O_RDONLY)
        except OSError:
            return None
        try:
            found = _NODE_FREE.match(self._system.read(fd, _NODE_FREE_BYTES))
        finally:
            self._system.close(fd)
        return None if found is None else int(found[1])

    def _look(self) -> list[ZoneInfo]:
        """Read the zones; where they have what memory they had, only free pages and high watermarks."""
        text = self._system.read_text(self._path)
        counts = [int(count) for count in _FREE_HIGH_PRESENT.findall(text)]
        # Zones without memory are printed, too: none comes or goes with its memory (zoneinfo_show(), v6.12).
        if not self._zones or counts[2::3] != [zone.present for zone in self._zones]:
            self._zones = parse_zoneinfo(text, str(self._path))
        else:
            self._zones = [
                dataclasses.replace(zone, free=free, high=high)
                for zone, free, high in zip(self._zones, counts[::3], counts[1::3], strict=True)
            ]
        return self._zones

    def take(self, nid: int, n_pages: int) -> None:
        """Note that a node took base pages."""
        self._taken[whole("room: nid", nid)] += whole("room: n_pages", n_pages)


def room_by_node(zones: list[ZoneInfo]) -> dict[int, int]:
    """Return base pages by nid that movable allocations may take before a zone is below its high mark."""
    built = list(dict.fromkeys(zone.name for zone in zones))
    room: dict[int, int] = {}
    for zone in zones:
        if not zone.present or zone.name == _DEVICE:
            continue
        known = len(zone.protection) == len(built) and _MOVABLE in built
        kept = zone.protection[built.index(_MOVABLE)] if known else max(zone.protection, default=0)
        room[zone.nid] = room.get(zone.nid, 0) + max(0, zone.free - zone.high - kept)
    return room
