"""Where a program's records are: found by what they say, in the memory of the process that has them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux import syscalls

from .. import kernel
from . import records

_CHUNK_PAGES = 1024
_OVERLAP = 64
"""Bytes; a mark and its number are shorter."""
_NUMBERED = re.compile(re.escape(records.MARK) + rb"(\d{6})-000000-")
_FOUND_LEAST = 0.99
_TIMES_TRIED = 20
_PAUSE_S = 0.1


class Near(NamedTuple):
    """How much is on a node: shares of the hot pages, of the others, and of all reads."""

    hot: float
    others: float
    reads: float


class Places:
    """The pages of the records that are read.

    Args:
        pid: a process that has all of them in its page tables.
        drawn: how often each is drawn, a share.
        hot_share: as many of the pages that are read most are hot as take this share of all reads.

    Attributes:
        pages: uint64[n], addresses of the pages, rising.
        reads: float64[n], the share of all reads that goes to each.
        hot: bool[n], which are hot.
    """

    def __init__(self, pid: int, drawn: list[float], hot_share: float = 0.8) -> None:
        self._pid = pid
        self._shares = np.array(records.shares_of_reads(drawn))
        self._stretches: list[tuple[int, int]] = []
        self._addresses = self._find()
        found = self._addresses >= 0
        assert self._shares[found].sum() >= _FOUND_LEAST, (
            f"{(~found).sum()} of {len(found)} records are not in the memory of {pid}, or more than once"
        )
        of_pages = self._addresses[found] // PAGE_BYTES * PAGE_BYTES
        self.pages, which = np.unique(of_pages.astype(np.uint64), return_inverse=True)
        reads = np.bincount(which, weights=self._shares[found])
        self.reads = reads / reads.sum()
        falling = np.argsort(-self.reads, kind="stable")
        before = np.cumsum(self.reads[falling]) - self.reads[falling]
        self.hot = np.zeros(len(self.pages), dtype=bool)
        self.hot[falling[before < hot_share]] = True

    def address(self, number: int) -> int:
        """Return where a record begins."""
        assert self._addresses[number] >= 0
        return int(self._addresses[number])

    def nodes(self) -> NDArray[np.int64]:
        """Return the node of each page of ``pages``, -1 where it is not mapped."""
        frames = np.zeros(len(self.pages), dtype=np.uint64)
        for start, n_pages in self._stretches:
            lo, hi = np.searchsorted(
                self.pages, np.array([start, start + n_pages * PAGE_BYTES], dtype=np.uint64)
            )
            of_stretch = kernel.page_frames(self._pid, start, n_pages * PAGE_BYTES)
            frames[lo:hi] = of_stretch[(self.pages[lo:hi] - np.uint64(start)) // np.uint64(PAGE_BYTES)]
        return kernel.nodes_of(frames)

    def near(self, nid: int) -> Near:
        """Return how much is on a node."""
        there = self.nodes() == nid
        return Near(
            float(there[self.hot].mean()), float(there[~self.hot].mean()), float(self.reads[there].sum())
        )

    def put(self, nid: int, least: float = 1.0) -> None:
        """Move all memory of the mappings that have records to a node; no policy stays behind.

        Args:
            nid: the node.
            least: share of their pages that must be there then. After NUMA balancing late faults bring
                a few back: it moves what it has unmapped before it was switched off.
        """
        for _ in range(_TIMES_TRIED):  # a page that is on its way to an LRU list is busy
            for start, n_pages in self._stretches:
                there = kernel.page_nodes(self._pid, start, n_pages * PAGE_BYTES)
                elsewhere = start + PAGE_BYTES * np.flatnonzero((there >= 0) & (there != nid))
                if len(elsewhere):
                    target = np.full(len(elsewhere), nid, dtype=np.int32)
                    syscalls.move_pages(self._pid, elsewhere.astype(np.uint64), target, of_all=True)
            share = float((self.nodes() == nid).mean())
            if share == 1.0:
                return
            time.sleep(_PAUSE_S)
        assert share >= least, f"{share:.1%} of the pages are on node {nid}"

    def are_still_there(self) -> bool:
        """Whether each record is where it was found."""
        now = self._find()
        return bool((now == self._addresses)[self._addresses >= 0].mean() >= _FOUND_LEAST)

    def _find(self) -> NDArray[np.int64]:
        """Return the address of each record; -1 where it is not found, or at two places."""
        addresses = np.full(records.N_READ, -1, dtype=np.int64)
        twice: set[int] = set()
        self._stretches = []
        for start, end in _writable(self._pid):
            n_before = int((addresses >= 0).sum())
            for number, address in _marks(self._pid, start, end):
                if number >= records.N_READ:
                    continue
                if addresses[number] >= 0 and addresses[number] != address:
                    twice.add(number)
                addresses[number] = address
            if int((addresses >= 0).sum()) > n_before:
                self._stretches.append((start, (end - start) // PAGE_BYTES))
        addresses[list(twice)] = -1
        return addresses


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        if rights.startswith("rw"):
            start, end = (int(word, 16) for word in span.split("-"))
            yield start, end


def _marks(pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield number and address of each record in what is there of a mapping: no page is made by looking."""
    frames = kernel.page_frames(pid, start, end - start)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (frames > 0).astype(np.int8), [0]))))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for first, last in edges.reshape(-1, 2):
            for page in range(first, last, _CHUNK_PAGES):
                address = start + page * PAGE_BYTES
                n_bytes = min((last - page) * PAGE_BYTES, _CHUNK_PAGES * PAGE_BYTES + _OVERLAP)
                memory.seek(address)
                for hit in _NUMBERED.finditer(memory.read(n_bytes)):
                    yield int(hit[1]), address + hit.start()
