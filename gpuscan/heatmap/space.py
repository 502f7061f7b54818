"""The two axes of a map: pages with their PFNs and nodes, and steps of time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuscan.base import documents as checked
from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.units import PAGE_BYTES
from gpuscan.records.formats import N_NODES_MAX

if TYPE_CHECKING:
    from gpuscan.topology import Topology

FRAMES, ADDRESSES = "frames", "addresses"
"""What the pages of a map are: page frames of nodes with zones, or of processes with mappings."""
_PAGES_MAX = 1 << 39
_N_PROCESSES_MAX = 1 << 20
_STEP_NS_MAX = 86_400 * 10**9
_KEYS = ("machine", "n_pages", "step_ns", "n_steps", "extents", "nodes", "kind")


def node_names(topology: Topology) -> dict[int, str]:
    """Return what each node is called, by nid."""
    return {node.nid: f"node {node.nid} ({node.kind.value})" for node in topology.nodes}


@dataclass(frozen=True, slots=True)
class Words:
    """What the pages of a map are called.

    Attributes:
        axis: they, with what is left out.
        one: the number of one, whose unit has ``unit_bytes``.
        unit_bytes: 1 where pages are counted, else of a page.
        owner, owners, part: what has pages, and a stretch of its.
        edge: what is named beside a map.
        gap: what is left out between two.
    """

    axis: str
    one: str
    unit_bytes: int
    owner: str
    owners: str
    part: str
    edge: str
    gap: str


WORDS = {
    FRAMES: Words(
        "page frame number (PFN); holes are left out",
        "PFN",
        1,
        "node",
        "nodes",
        "zone",
        "zones, nodes, holes (orange)",
        "hole, left out",
    ),
    ADDRESSES: Words(
        "address; what is not mapped, or was never seen accessed, is left out",
        "address",
        PAGE_BYTES,
        "process",
        "processes",
        "mapping",
        "mappings, processes, gaps (orange)",
        "left out",
    ),
}
"""By kind of map."""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of a map that has a name.

    Attributes:
        start, end: flat pages.
        nid, name: of the node; what it is called, a zone by its name.
        n_pages: present in it.
    """

    start: int
    end: int
    nid: int
    name: str
    n_pages: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Page frame numbers that have no memory, and no room of their own in a map.

    Attributes:
        flat: the page that a map has there.
        pfn, n_pages: the first, and how many.
    """

    flat: int
    pfn: int
    n_pages: int


@dataclass(frozen=True)
class Space:
    """What a map is of.

    Attributes:
        machine: its name.
        n_pages: flat pages, see :mod:`gpuscan.records.page_map`.
        step_ns: of time, what one step lasts.
        n_steps: how many were run.
        extents: present pages: first flat page, first PFN, pages, nid, zone's name; ascending.
        nodes: what a node is called, by nid: ``node 2 (cxl)``.
        kind: :data:`FRAMES`; or :data:`ADDRESSES`: then PFNs are page numbers of a process, nids and nodes
            are processes, and zones are mappings.
    """

    machine: str
    n_pages: int
    step_ns: int
    n_steps: int
    extents: tuple[tuple[int, int, int, int, str], ...]
    nodes: dict[int, str]
    kind: str = FRAMES

    @property
    def words(self) -> Words:
        """Return what its pages are called."""
        return WORDS[self.kind]

    def text_of(self, flat: int) -> str:
        """Return the PFN of a flat page, or its address, as text."""
        return f"{self.pfn_of(flat) * self.words.unit_bytes:#x}"

    @classmethod
    def of(cls, topology: Topology, step_ns: int, n_steps: int) -> Space:
        """Return that of a machine."""
        page_map = topology.page_map
        zones = {
            start: zone.name for node in topology.nodes for zone in node.zones for start, _ in zone.present
        }
        starts = sorted(zones)
        where = np.searchsorted(starts, page_map.extent_pfn_start, side="right") - 1
        extents = zip(
            (page_map.extent_pfn_start + page_map.extent_flat_offset).tolist(),
            page_map.extent_pfn_start.tolist(),
            (page_map.extent_pfn_end - page_map.extent_pfn_start).tolist(),
            page_map.extent_nid.tolist(),
            (zones[starts[at]] for at in where.tolist()),
            strict=True,
        )
        nodes = node_names(topology)
        return cls(topology.name, page_map.n_pages, step_ns, n_steps, tuple(extents), nodes)

    @cached_property
    def _starts(self) -> Any:
        return np.array([extent[0] for extent in self.extents])

    @cached_property
    def _pfns(self) -> Any:
        return np.array([extent[1] for extent in self.extents])

    def pfn_of(self, flat: int) -> int:
        """Return the PFN of a flat page; in what is not present, the one after what is before it."""
        start, pfn, n_pages, _, _ = self.extents[
            max(0, int(np.searchsorted(self._starts, flat, "right")) - 1)
        ]
        return pfn + min(max(flat - start, 0), n_pages)

    def flat_of(self, pfn: int) -> int:
        """Return the flat page of a PFN; of one in a hole, the first after it."""
        at = int(np.searchsorted(self._pfns, pfn, "right")) - 1
        if at < 0:
            return self.extents[0][0]
        start, first, n_pages, _, _ = self.extents[at]
        if pfn - first < n_pages:
            return start + pfn - first
        return self.extents[at + 1][0] if at + 1 < len(self.extents) else start + n_pages

    def node_of(self, flat: int) -> int:
        """Return the nid of a flat page."""
        return self.extents[max(0, int(np.searchsorted(self._starts, flat, "right")) - 1)][3]

    def nodes_in(self, first: int, end: int) -> str:
        """Return what to call the node, or the nodes, of flat pages ``[first, end)``."""
        nids = sorted(
            {extent[3] for extent in self.extents if extent[0] < end and extent[0] + extent[2] > first}
        )
        if not nids:
            return "hole"
        if len(nids) == 1:
            return self.nodes[nids[0]]
        return f"nodes {nids[0]}-{nids[-1]}" if self.kind == FRAMES else f"{len(nids)} processes"

    def bands(self, *, by_zone: bool) -> list[Band]:
        """Return the stretches of one node, or of one zone of a node, from the lowest page on.

        A hole within is in it, and not counted.
        """
        found: list[Band] = []
        for flat, _, n_pages, nid, zone in self.extents:
            name = zone if by_zone else self.nodes[nid]
            last = found[-1] if found else None
            if last is not None and (last.nid, last.name) == (nid, name):
                found[-1] = Band(last.start, flat + n_pages, nid, name, last.n_pages + n_pages)
            else:
                found.append(Band(flat, flat + n_pages, nid, name, n_pages))
        return found

    def holes(self) -> list[Hole]:
        """Return where PFNs between two that are present are not, from the lowest on."""
        return [
            Hole(flat + n_pages, pfn + n_pages, other_pfn - pfn - n_pages)
            for (flat, pfn, n_pages, nid, _), (_, other_pfn, _, other, _) in pairwise(self.extents)
            if other_pfn > pfn + n_pages and (self.kind == FRAMES or nid == other)
        ]

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "machine": self.machine,
            "n_pages": self.n_pages,
            "step_ns": self.step_ns,
            "n_steps": self.n_steps,
            "extents": [list(extent) for extent in self.extents],
            "nodes": [[nid, name] for nid, name in self.nodes.items()],
            **({} if self.kind == FRAMES else {"kind": self.kind}),  # which an earlier gpuscan does not know
        }

    @classmethod
    def parsed(cls, document: Any) -> Space:
        """Return what :meth:`document` was made of.

        Raises:
            ValueError: it was made of no map.
        """
        found = checked.table({"kind": FRAMES, **checked.table(document, "the space")}, "the space", _KEYS)
        kind = found["kind"]
        if kind not in WORDS:
            raise ValueError(f"it is of {checked.shown(kind)}, which is no kind of map")
        nid_max = N_NODES_MAX - 1 if kind == FRAMES else _N_PROCESSES_MAX
        n_pages = checked.whole(found["n_pages"], 1, _PAGES_MAX, "n_pages")
        nodes = {
            checked.whole(nid, 0, nid_max, "a node"): checked.text(name, "a node's name")
            for nid, name in checked.pairs(found["nodes"], "nodes")
        }
        extents = []
        flat_end = pfn_end = last_nid = 0
        for one in checked.items(found["extents"], "extents"):
            flat, pfn, count, nid, zone = checked.items(one, "an extent", n=5)
            flat = checked.whole(flat, flat_end, n_pages - 1, "an extent's flat page")
            if checked.whole(nid, 0, nid_max, "an extent's node") not in nodes:
                raise ValueError(f"an extent is of node {nid}, which has no name")
            if kind == ADDRESSES and nid > last_nid:
                pfn_end, last_nid = 0, nid  # each process has addresses of its own
            pfn = checked.whole(pfn, pfn_end, INT64_MAX // 2, "an extent's PFN")
            count = checked.whole(count, 1, n_pages - flat, "an extent's pages")
            flat_end, pfn_end = flat + count, pfn + count
            extents.append((flat, pfn, count, nid, checked.text(zone, "a zone's name")))
        if not extents:
            raise ValueError("there is no memory")
        return cls(
            checked.text(found["machine"], "machine"),
            n_pages,
            checked.whole(found["step_ns"], 1, _STEP_NS_MAX, "step_ns"),
            checked.whole(found["n_steps"], 0, 1 << 40, "n_steps"),
            tuple(extents),
            nodes,
            kind,
        )
