"""A simulated machine whose memory starts out as a real one's was: from a snapshot's page flags.

Every folio on an LRU list becomes a folio of one process, ``captured``, in PFN order
per folio order; free frames are free, all others belong to the kernel for good.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.sim.address_space import AddressSpace, Mapping
from gpuscan.sim.frames import FrameAllocator
from gpuscan.sim.loops import DIRTY, EXEC_SHARED, FILE, REFERENCED
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.patterns import ListedPattern, stream_key
from gpuscan.sim.placement import Contents
from gpuscan.sim.process import Process, check_process
from gpuscan.sim.spec import MachineSpec
from gpuscan.topology.model import Topology


class FrameBit(IntFlag):
    """What is known of a captured frame; all but ``TAIL`` and ``FREE`` count on first pages only."""

    LRU = 1
    """On an LRU list: it can move."""
    SWAPBACKED = 2
    """Anonymous memory or shmem; without it an LRU folio is a file's."""
    DIRTY = 4
    REFERENCED = 8
    EXEC_SHARED = 16
    """Mapped executable by several processes."""
    TAIL = 32
    """Not the first page of its folio."""
    FREE = 64
    """In the buddy allocator (every page of a free block)."""


@dataclass(frozen=True, slots=True, eq=False)
class CapturedFrames:
    """The frames of a snapshot, over the flat index of the topology it goes with.

    Attributes:
        flags: uint8[n_pages], :class:`FrameBit`; 0 for pages that are not present.
        order: uint8[n_pages], folio order, on first pages.
        hot: bool[n_pages], on first pages: folios that take the hot accesses.
    """

    flags: NDArray[np.uint8]
    order: NDArray[np.uint8]
    hot: NDArray[np.bool_]


def machine_from_frames(topology: Topology, frames: CapturedFrames, spec: MachineSpec) -> SimulatedMachine:
    """Build a machine from captured frames: see :func:`captured_contents`."""
    spec, contents = captured_contents(topology, frames, spec)
    return SimulatedMachine(topology, spec, contents)


def captured_contents(
    topology: Topology, frames: CapturedFrames, spec: MachineSpec
) -> tuple[MachineSpec, Contents]:
    """Return what a machine starts with whose memory was captured, and the description that goes with it.

    Args:
        topology: the snapshot's, maybe split.
        frames: its frames.
        spec: as for :class:`SimulatedMachine`. Its first process says where the captured
            process runs and how often it accesses memory; ``hot_access_share`` of the
            accesses go to the hot folios (Zipf with ``skew``), the rest to all pages
            alike. Its size, placement and file shares are the snapshot's.

    Raises:
        InputError: nothing is on an LRU list, a folio is not aligned to its size, or the
            arrays do not fit the topology.
    """
    n_frames = topology.page_map.n_pages
    if not len(frames.flags) == len(frames.order) == len(frames.hot) == n_frames:
        raise InputError(
            f"the captured frames ({len(frames.flags)}) do not fit the {n_frames} of topology "
            f"{topology.name!r}; use the topology of the same snapshot"
        )
    if not spec.processes:
        raise InputError("the machine runs nothing: give one process, which says how the memory is accessed")
    heads = np.flatnonzero((frames.flags & FrameBit.LRU != 0) & (frames.flags & FrameBit.TAIL == 0))
    if not len(heads):
        raise InputError("the snapshot has no page on an LRU list, so nothing could move; capture it again")
    orders = frames.order[heads]
    misaligned = heads & ((1 << orders.astype(np.int64)) - 1) != 0
    if misaligned.any():
        flat = int(heads[misaligned][0])
        raise InputError(
            f"the folio at PFN {int(topology.page_map.pfn_of_flat(flat))} is not aligned to its order "
            f"{int(frames.order[flat])}; capture the snapshot again"
        )

    # Address order: by folio order, then PFN.
    heads = heads[np.argsort(orders, kind="stable")]
    mappings: list[Mapping] = []
    for order, count in zip(*np.unique(orders, return_counts=True), strict=True):
        mappings.append(Mapping(sum(m.n_folios for m in mappings), int(count), int(order)))
    space = AddressSpace(tuple(mappings), n_frames)
    space.map(0, heads)
    space.flags[space.slots_of(heads)] = _machine_flags(frames.flags[heads])

    first = spec.processes[0]
    process = replace(first, name="captured", n_pages=sum(mapping.n_pages for mapping in mappings), order=0)
    check_process(process, topology)
    pattern = ListedPattern(
        first.pattern, np.flatnonzero(frames.hot[heads]), space.mappings, stream_key(spec.seed, 0, 0)
    )
    free = FrameAllocator(topology, frames.flags & FrameBit.FREE != 0)
    contents = Contents(free, space, (Process(process, space.mappings, pattern),))
    return replace(spec, processes=(process,)), contents


def _machine_flags(captured: NDArray[np.uint8]) -> NDArray[np.uint8]:
    flags = np.zeros(len(captured), dtype=np.uint8)
    is_file = captured & FrameBit.SWAPBACKED == 0
    flags[is_file] |= FILE
    flags[is_file & (captured & FrameBit.DIRTY != 0)] |= DIRTY
    flags[is_file & (captured & FrameBit.EXEC_SHARED != 0)] |= EXEC_SHARED
    flags[captured & FrameBit.REFERENCED != 0] |= REFERENCED
    return flags
