"""NumPy: positions of the READY records, sorted by target."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.bench.peers.answer import Answer
from gpuscan.bench.peers.contract import Peer, PeerKind


class NumpySort(Peer):
    """``flatnonzero`` of the READY bit, then a stable ``argsort`` of the targets."""

    def run(self) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return offsets and PFNs."""
        question, fmt = self.question, self.question.fmt
        pfn = np.flatnonzero(question.records & fmt.ready.mask)
        if not fmt.has_nid:
            offsets = np.zeros(question.n_targets + 1, dtype=np.int64)
            offsets[question.fixed_target + 1 :] = len(pfn)
            return offsets, pfn
        # 16 bits: NumPy sorts those by radix, wider ones by merging.
        target = ((question.records[pfn] >> fmt.nid.shift) & fmt.nid.max).astype(np.int16)
        order = np.argsort(target, kind="stable")
        offsets = np.concatenate(([0], np.cumsum(np.bincount(target, minlength=question.n_targets))))
        return offsets, pfn[order]

    def answer(self) -> Answer:
        """Return the same as an answer."""
        return Answer(*self.run())


PEER = PeerKind(
    about="numpy.flatnonzero, stable argsort of 16-bit targets",
    make=NumpySort,
    imports=(),
    extra="",
    label="numpy",
    style={"color": "#E69F00", "marker": "^"},
)
