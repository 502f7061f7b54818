"""What a snapshot gives the rest: frames for a simulated machine to start from, and hot pages to record."""

from __future__ import annotations

import numpy as np

from gpuscan.engine.stages import Produced
from gpuscan.records.page_flags import Frames, Kpf, bits, page_slices
from gpuscan.sim.captured import CapturedFrames, FrameBit
from gpuscan.snapshot.snapshot import Snapshot

_ANON_OR_SHMEM = bits(Kpf.ANON, Kpf.SWAPBACKED)


def captured_frames(snapshot: Snapshot, frames: Frames | None = None) -> CapturedFrames:
    """Return the frames of a snapshot for :func:`gpuscan.sim.captured.machine_from_frames`.

    ``FrameBit.EXEC_SHARED`` is never set: page flags show who shares a page, not whether
    it may be executed.

    Args:
        snapshot: of a machine, split or not.
        frames: what ``snapshot.frames()`` returned, where it is at hand.
    """
    frames = snapshot.frames() if frames is None else frames
    flags = np.zeros(len(snapshot.flags), dtype=np.uint8)
    for part in page_slices(len(flags)):
        words, is_head = snapshot.flags[part], frames.eligible[part]
        out = flags[part]
        out[is_head] = FrameBit.LRU
        for seen, bit in (
            (_ANON_OR_SHMEM, FrameBit.SWAPBACKED),
            (bits(Kpf.DIRTY), FrameBit.DIRTY),
            (bits(Kpf.REFERENCED), FrameBit.REFERENCED),
        ):
            out[is_head & ((words & seen) != 0)] |= np.uint8(bit)
        out[~is_head & (frames.order[part] > 0)] = FrameBit.TAIL
        out[(words & bits(Kpf.BUDDY)) != 0] = FrameBit.FREE
    return CapturedFrames(flags, frames.order, frames.hot)


def hot_on_lower_tiers(snapshot: Snapshot, frames: Frames, target_nid: int | None = None) -> Produced:
    """Return what a tiering source would record: every hot folio that is not on the top tier, once.

    Args:
        snapshot: of a machine, split or not.
        frames: of :meth:`Snapshot.frames`.
        target_nid: where to; by default each node's ``Topology.promotion_target``. Folios of a
            node that no top-tier node can be reached from are left out.
    """
    topology = snapshot.topology
    pfns = [np.empty(0, dtype=np.int64)]
    nids = [np.empty(0, dtype=np.int32)]
    for node in topology.nodes:
        target = topology.promotion_target(node.nid) if target_nid is None else target_nid
        if not node.present_pages or topology.is_top_tier(node.nid) or target is None:
            continue
        for low, high in topology.page_map.node_section_ranges(node.nid):
            flats = low + np.flatnonzero(frames.hot[low:high])
            pfns.append(topology.page_map.pfn_of_flat(flats))
            nids.append(np.full(len(flats), target, dtype=np.int32))
    return Produced("record", np.concatenate(pfns), np.concatenate(nids))
