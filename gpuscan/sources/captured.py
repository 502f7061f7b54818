"""From a snapshot's page flags to the frames that a simulated machine starts from."""

from __future__ import annotations

import numpy as np

from gpuscan.pageflags import Frames, Kpf, bits, page_slices
from gpuscan.sim.captured import CapturedFrames, FrameBit
from gpuscan.snapshot import Snapshot

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
