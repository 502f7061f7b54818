"""The kernel's own way: one thread, page after page, over struct page and page_ext.

What RFC v1's walk reads per page when nothing is READY: the flags of the 64-byte
``struct page`` (node, LRU), its compound head, and the flags of the 16-byte
``page_ext`` of the page (no page_owner). Left out in its favour: ``pfn_valid`` and the section look-up,
the locked test-and-clear of every page's READY bit, the reference counts of isolation.
The structures are large (80 GiB per 4 TiB), so no more than ``own_pages`` are built.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.bench.peers.answer import Answer, Question
from gpuscan.bench.peers.contract import Peer, PeerKind
from gpuscan.bench.struct_pages import PG_LRU, walk
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.records.formats import FORMATS, pack, unpack

_PAGE_WORDS, _EXT_WORDS = 8, 2
_CHUNK_PAGES = 1 << 20


@kernel
def group(
    found_pfn: NDArray[np.int64],
    found_nid: NDArray[np.int32],
    offsets: NDArray[np.int64],
    at: NDArray[np.int64],
    grouped: NDArray[np.int64],
) -> None:
    """Sort by counting: fill ``offsets`` int64[n_targets + 1] and ``grouped`` int64[n]; ``at`` is scratch."""
    offsets[:] = 0
    for nid in found_nid:
        offsets[nid + 1] += 1
    for nid in range(len(offsets) - 1):
        offsets[nid + 1] += offsets[nid]
    at[:] = 0
    for index in range(len(found_pfn)):
        nid = found_nid[index]
        grouped[offsets[nid] + at[nid]] = found_pfn[index]
        at[nid] += 1


class KernelWalk(Peer):
    """The walk over structures of its own, filled from the question's records."""

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self.n_pages = min(question.n_pages, question.own_pages)
        self.ext = FORMATS["rfc-page-ext"]
        self.pages = np.zeros((self.n_pages, _PAGE_WORDS), dtype=np.int64)
        self.pages.fill(0)
        self.pages[:, 0] = 1 << PG_LRU
        self.exts = np.zeros((self.n_pages, _EXT_WORDS), dtype=np.int64)
        n_ready = 0
        for lo in range(0, self.n_pages, _CHUNK_PAGES):
            hi = min(lo + _CHUNK_PAGES, self.n_pages)
            fields = unpack(question.fmt, question.records[lo:hi])
            nid = fields.nid if question.fmt.has_nid else question.fixed_target
            words = pack(self.ext, ready=fields.ready, nid=nid, freq=fields.freq, time=fields.time)
            self.exts[lo:hi, 0] = words.view(np.int64)
            self.exts[lo:hi, 1] = 0
            n_ready += int(np.count_nonzero(fields.ready))
        self.found_pfn = np.zeros(n_ready, dtype=np.int64)
        self.found_nid = np.zeros(n_ready, dtype=np.int32)
        self.grouped = np.zeros(n_ready, dtype=np.int64)
        self.at = np.zeros(question.n_targets, dtype=np.int64)
        self.offsets = np.zeros(question.n_targets + 1, dtype=np.int64)

    def run(self) -> None:
        """Walk, then group what was found."""
        nid = self.ext.nid
        n_found = walk.for_bits(64)(
            self.pages, self.exts, self.ext.ready.mask, nid.shift, nid.max, self.found_pfn, self.found_nid
        )
        found = self.found_pfn[:n_found], self.found_nid[:n_found]
        group.for_bits(64)(*found, self.offsets, self.at, self.grouped)

    def answer(self) -> Answer:
        """Return what a run found, of the first ``n_pages`` pages."""
        self.run()
        return Answer(self.offsets.copy(), self.grouped.copy())


PEER = PeerKind(
    about="one thread, plain compiled loop over 64 B struct page + 16 B page_ext per page",
    make=KernelWalk,
    imports=(),
    extra="",
    label="kernel's walk, 1 thread",
    style={"color": "#56B4E9", "marker": "x"},
)
