"""PFN <-> flat index, against a model that is a dict of every page."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import TopologyError
from gpuscan.records.page_map import Extent, PageMap, set_bit_range

SECTION = 32_768


def model(extents):
    """Lay pages out one by one: a new flat section whenever zone or section of a page changes."""
    sections: list[tuple[int, int, int]] = []
    flat_of, owner = {}, {}
    for extent in sorted(extents, key=lambda extent: extent.pfn_start):
        for pfn in range(extent.pfn_start, extent.pfn_end):
            if not sections or sections[-1] != (pfn // SECTION, extent.nid, extent.zone):
                sections.append((pfn // SECTION, extent.nid, extent.zone))
            flat_of[pfn] = (len(sections) - 1) * SECTION + pfn % SECTION
            owner[pfn] = extent
    return flat_of, owner, sections


@st.composite
def machines(draw):
    """Up to eight extents in four sections: gaps or none, zones and nodes in any turn, any order given."""
    n = draw(st.integers(1, 8))
    near_section = st.builds(lambda s, d: s * SECTION + d, st.integers(0, 4), st.integers(-2, 2))
    cuts = draw(
        st.sets(
            st.integers(0, 4 * SECTION) | near_section.filter(lambda pfn: pfn >= 0),
            min_size=2 * n,
            max_size=2 * n,
        )
    )
    bounds = sorted(cuts)
    extents: list[Extent] = []
    for i in range(n):
        start, end = bounds[2 * i], bounds[2 * i + 1]
        if extents and draw(st.booleans()):
            start = extents[-1].pfn_end
        zone = draw(st.integers(0, 3))
        extents.append(Extent(start, end, zone // 2, zone))
    return draw(st.permutations(extents))


@settings(max_examples=20, deadline=None)
@given(machines())
def test_against_the_model(extents):
    flat_of, owner, sections = model(extents)
    page_map = PageMap.from_extents(extents)
    assert page_map.n_sections == len(sections)
    assert page_map.n_pages == len(sections) * SECTION
    assert page_map.n_present_pages == len(flat_of)
    assert page_map.section_pfn.tolist() == [section * SECTION for section, _, _ in sections]
    assert page_map.section_nid.tolist() == [nid for _, nid, _ in sections]
    assert page_map.section_zone.tolist() == [zone for _, _, zone in sections]

    pfns = np.arange(-3, 4 * SECTION + 8)
    expected = np.array([flat_of.get(pfn, -1) for pfn in pfns.tolist()])
    flats = page_map.flat_of_pfn(pfns)
    np.testing.assert_array_equal(flats, expected)

    present = flats >= 0
    # Order, inverse, and the same place in the section on both sides.
    assert (np.diff(flats[present]) > 0).all()
    np.testing.assert_array_equal(page_map.pfn_of_flat(flats[present]), pfns[present])
    np.testing.assert_array_equal(flats[present] % SECTION, pfns[present] % SECTION)
    np.testing.assert_array_equal(
        page_map.nid_of_flat(flats[present]), [owner[pfn].nid for pfn in pfns[present].tolist()]
    )

    bits = np.unpackbits(page_map.present_bits().view(np.uint8), bitorder="little")
    np.testing.assert_array_equal(np.flatnonzero(bits), flats[present])

    for nid in (0, 1, 2):
        ranges = page_map.node_section_ranges(nid)
        mine = [flat for lo, hi in ranges for flat in range(lo // SECTION, hi // SECTION)]
        assert mine == [index for index, (_, owner_nid, _) in enumerate(sections) if owner_nid == nid]
        assert all(lo % SECTION == hi % SECTION == 0 and lo < hi for lo, hi in ranges)
        assert all(hi < lo for (_, hi), (lo, _) in pairwise(ranges))


def test_holes_cost_nothing():
    far = 1 << 39
    page_map = PageMap.from_extents([Extent(far, far + 1, 1, 1), Extent(5, 6, 0, 0)])
    assert page_map.n_pages == 2 * SECTION
    assert page_map.flat_of_pfn([5, 6, far, far + 1]).tolist() == [5, -1, SECTION, -1]


def test_a_section_of_two_zones_appears_once_per_zone():
    page_map = PageMap.from_extents([Extent(0, 100, 0, 0), Extent(100, 200, 0, 1)])
    assert page_map.section_pfn.tolist() == [0, 0]
    assert page_map.flat_of_pfn([99, 100]).tolist() == [99, SECTION + 100]


def test_a_section_of_one_zone_with_a_hole_appears_once():
    page_map = PageMap.from_extents([Extent(0, 100, 0, 0), Extent(200, SECTION + 1, 0, 0)])
    assert page_map.section_pfn.tolist() == [0, SECTION]
    assert page_map.flat_of_pfn([99, 150, 200, SECTION]).tolist() == [99, -1, 200, SECTION]


def test_zones_that_take_turns_in_a_section_appear_once_per_turn():
    extents = [Extent(0, 10, 0, 0), Extent(10, 20, 1, 1), Extent(20, 30, 0, 0)]
    page_map = PageMap.from_extents(extents)
    assert page_map.section_zone.tolist() == [0, 1, 0]
    assert page_map.flat_of_pfn([5, 15, 25]).tolist() == [5, SECTION + 15, 2 * SECTION + 25]


def test_indexes_are_64_bit():
    # 24 TiB: flat indexes pass 2**32.
    n_pages = 6 << 30
    page_map = PageMap.from_extents([Extent(1 << 20, (1 << 20) + n_pages, 0, 0)])
    last = (1 << 20) + n_pages - 1
    assert page_map.flat_of_pfn(last) == n_pages - 1
    assert page_map.pfn_of_flat(n_pages - 1) == last
    assert page_map.flat_of_pfn(last).dtype == np.int64


def test_shapes_are_kept():
    page_map = PageMap.from_extents([Extent(0, 64, 3, 0)])
    assert page_map.flat_of_pfn(7).shape == ()
    assert page_map.flat_of_pfn(np.zeros((2, 3), dtype=np.int64)).shape == (2, 3)
    assert page_map.flat_of_pfn([]).shape == (0,)
    assert page_map.nid_of_flat([[1], [2]]).tolist() == [[3], [3]]


@pytest.mark.parametrize(
    ("extents", "said"),
    [
        (
            [Extent(0, 10, 0, 4), Extent(9, 20, 1, 5)],
            r"^PFN 9 is in two zones \(zone 4 of node 0 and zone 5 of node 1\)",
        ),
        ([Extent(0, 100, 0, 0), Extent(5, 6, 0, 0)], r"^PFN 5 is in two zones"),
        ([Extent(0, 10, 0, 0), Extent(0, 10, 0, 1)], r"^PFN 0 is in two zones"),
        ([Extent(0, 10, 0, 0), Extent(2, 3, 0, 1), Extent(5, 6, 0, 2)], r"^PFN 2 is in two zones"),
        ([Extent(5, 5, 2, 1)], r"^zone 1 of node 2 has the empty or negative PFN range \[5, 5\)"),
        ([Extent(-1, 5, 2, 1)], r"empty or negative"),
        ([Extent(6, 5, 2, 1)], r"empty or negative"),
        ([], r"^the machine has no memory"),
    ],
)
def test_machines_that_contradict_themselves(extents, said):
    with pytest.raises(TopologyError, match=said):
        PageMap.from_extents(extents)


@given(st.data())
def test_set_bit_range_sets_those_bits_and_no_other(data):
    n_words = data.draw(st.integers(1, 5))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, n_words * 64)] * 2)))
    before = data.draw(st.lists(st.integers(0, (1 << 64) - 1), min_size=n_words, max_size=n_words))
    words = np.array(before, dtype=np.uint64)
    set_bit_range(words, start, end)
    whole = sum(word << (64 * index) for index, word in enumerate(before))
    expected = whole | (((1 << (end - start)) - 1) << start)
    assert sum(word << (64 * index) for index, word in enumerate(words.tolist())) == expected
