"""Frames for the pages of a trace whose addresses are virtual: a page table, made up by one rule.

A page gets a frame when it is accessed for the first time: of the lowest tier first, there of the lowest
node, the lowest PFN that its zones manage. So a trace begins as if all of its program had been put on the
slowest memory, and what has no room there is on the next. The rule knows nothing but the order of the trace,
so it says the same each time that the trace is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.base.units import format_number
from gpuscan.topology import Topology
from gpuscan.traces.samples import Samples

RULE = "virtual addresses: pages got frames as they were first accessed, from the lowest tier up"
_N_PAGES_MAX = 1 << 22
"""Of the regions of a block, which are taken page by page."""


class MadeUpPages:
    """A page table that grows as pages are accessed.

    Args:
        topology: the machine whose frames they get.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._frames = _in_order(topology)
        self._pages = np.empty(0, dtype=np.int64)
        self._pfns = np.empty(0, dtype=np.int64)

    def mapped(self, samples: Samples) -> Samples:
        """Return samples of physical pages, a page each.

        Raises:
            InputError: the machine has fewer frames than the trace has pages.
        """
        if not len(samples):
            return samples
        if int(samples.n_pages.max()) > 1:
            samples = _page_by_page(samples)
        page = samples.pfn
        distinct, first = np.unique(page, return_index=True)
        is_new = self._position(distinct)[1]
        new = distinct[is_new][np.argsort(first[is_new], kind="stable")]
        if len(new):
            self._add(new)
        position, _ = self._position(page)
        return Samples(
            samples.time_ns,
            samples.cpu,
            self._pfns[position],
            samples.n_pages,
            samples.weight,
            share=samples.share,
            **samples.left_out(),
        )

    def _position(self, page: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return where pages are in the table, or would be, and which are not there."""
        position = np.searchsorted(self._pages, page)
        if not len(self._pages):
            return position, np.ones(len(page), dtype=np.bool_)
        is_new: NDArray[np.bool_] = self._pages[np.minimum(position, len(self._pages) - 1)] != page
        return position, is_new

    def _add(self, new: NDArray[np.int64]) -> None:
        n = len(self._pages)
        if n + len(new) > len(self._frames):
            raise InputError(
                f"the trace accesses more than {format_number(len(self._frames), 'page')}, which is all that "
                f"{self._topology.name!r} has; give a larger machine"
            )
        pages = np.concatenate([self._pages, new])
        pfns = np.concatenate([self._pfns, self._frames[n : n + len(new)]])
        order = np.argsort(pages, kind="stable")
        self._pages, self._pfns = pages[order], pfns[order]


def _in_order(topology: Topology) -> NDArray[np.int64]:
    """Return the PFNs that pages get, one after the other."""
    page_map = topology.page_map
    reserved = [zone.present_pages - zone.managed_pages for _, zone in topology.zones]
    parts: list[tuple[int, int, int, NDArray[np.int64]]] = []
    for zone_id, start, end in zip(
        page_map.extent_zone.tolist(),
        page_map.extent_pfn_start.tolist(),
        page_map.extent_pfn_end.tolist(),
        strict=True,
    ):
        node, zone = topology.zones[zone_id]
        kernel = min(reserved[zone_id], end - start)
        reserved[zone_id] -= kernel
        if zone.name != "Device" and start + kernel < end:
            parts.append((-node.tier, node.nid, start, np.arange(start + kernel, end, dtype=np.int64)))
    parts.sort(key=lambda part: part[:3])
    return np.concatenate([pfns for *_, pfns in parts]) if parts else np.empty(0, dtype=np.int64)


def _page_by_page(samples: Samples) -> Samples:
    n_pages = int(samples.n_pages.sum())
    if n_pages > _N_PAGES_MAX:
        raise InputError(
            f"the trace has regions of {format_number(n_pages, 'virtual page')} at one time, and at most "
            f"{_N_PAGES_MAX:,} can be given frames; record smaller ones"
        )
    repeated = np.repeat(np.arange(len(samples)), samples.n_pages)
    first = np.cumsum(samples.n_pages) - samples.n_pages
    offset = np.arange(n_pages) - first[repeated]
    return Samples(
        samples.time_ns[repeated],
        samples.cpu[repeated],
        samples.pfn[repeated] + offset,
        np.ones(n_pages, dtype=np.int64),
        samples.weight[repeated],
        **samples.left_out(),
        share=None if samples.share is None else samples.share[repeated],
    )
