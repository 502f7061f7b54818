"""Machines, stores and comparisons for the tests of shards."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.store.contract import PageStore
from gpuscan.store.plan import Plan
from gpuscan.topology import MemoryKind, Node, Topology, Zone
from machines import MARKS


@st.composite
def machines(draw: st.DrawFn) -> Topology:
    """Return nodes with one or two zones, holes, ragged ends, and sections that zones share."""
    n_nodes = draw(st.integers(2, 4))
    position = draw(st.integers(0, 3 * SECTION_PAGES))
    nodes = []
    for nid in range(n_nodes):
        zones = []
        for name in ("Normal", "Movable")[: draw(st.integers(1, 2))]:
            present = []
            for _ in range(draw(st.integers(1, 2))):
                n_pages = draw(st.sampled_from([1, 700, 20_000, SECTION_PAGES, 2 * SECTION_PAGES + 77]))
                present.append((position, position + n_pages))
                position += n_pages + draw(st.sampled_from([0, 5, 40_000]))
            zones.append(Zone(name, tuple(present), sum(end - start for start, end in present), MARKS))
        is_cxl = nid >= n_nodes // 2
        kind = MemoryKind.CXL if is_cxl else MemoryKind.DRAM
        nodes.append(Node(nid, kind, int(is_cxl), () if is_cxl else (nid,), tuple(zones)))
    distance = np.full((n_nodes, n_nodes), 20, dtype=np.uint8)
    np.fill_diagonal(distance, 10)
    return Topology("drawn", tuple(nodes), distance)


def assert_same_plans(ones: list[Plan], others: list[Plan]) -> None:
    """Compare plan by plan everything that does not say how the scan went."""
    assert [plan.cursor for plan in ones] == [plan.cursor for plan in others]
    for one, other in zip(ones, others, strict=True):
        for name in ("offsets", "pfn", "flat", "words", "order"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                np.testing.assert_array_equal(mine, theirs, err_msg=name)
                assert mine.dtype == theirs.dtype, name
        assert (one.n_unknown_target, one.n_superseded) == (other.n_unknown_target, other.n_superseded)


def random_pfns(store: PageStore, rng: np.random.Generator, n: int) -> Any:
    """Return PFNs of the machine, of its holes and of around it, some of them twice."""
    pages = store.page_map
    flats = rng.integers(0, pages.n_pages, n)
    pfns = pages.pfn_of_flat(flats)
    pfns[rng.random(n) < 0.05] += SECTION_PAGES
    pfns[rng.random(n) < 0.02] = -3
    if n:
        pfns[rng.random(n) < 0.3] = rng.choice(pfns)
    return rng.permutation(pfns)
