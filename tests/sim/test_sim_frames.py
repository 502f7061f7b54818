"""The frame allocator against sets of free frames, and its watermarks against the kernel's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpuscan.sim.frames import FrameAllocator, Mark
from gpuscan.topology.model import MemoryKind, Node, Topology, Watermarks, Zone

NO_MARKS = Watermarks(0, 0, 0, 0)
RESERVE = (0, 0, 0, 40, 0)


def one_node(*zones: Zone) -> Topology:
    node = Node(0, MemoryKind.DRAM, 0, (0,), zones)
    return Topology("one", (node,), np.array([[10]], dtype=np.uint8))


def odd_topology() -> Topology:
    """Two zones with holes, odd edges and reserved pages: 1,600 and 2,200 frames, 3,700 managed."""
    return one_node(
        Zone("DMA32", ((100, 1100), (1500, 2100)), 1550, NO_MARKS),
        Zone("Normal", ((4096, 5296), (40_000, 41_000)), 2150, NO_MARKS),
    )


def whole_blocks(free: set[int], order: int) -> list[int]:
    size = 1 << order
    return [h for h in sorted({f & -size for f in free}) if all(h + i in free for i in range(size))]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("alloc"), st.integers(1, 1500), st.sampled_from([0, 0, 1, 4, 9])),
        st.tuples(st.just("free"), st.integers(0, 2**32), st.integers(1, 100)),
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None, max_examples=60)  # a shared machine may stall any single case
@given(OPERATIONS)
@example([("alloc", 3, 9), ("alloc", 1, 1), ("alloc", 38, 4), ("alloc", 768, 1)])
def test_gives_free_aligned_blocks_as_long_as_there_are_any(operations: list[tuple[str, int, int]]) -> None:
    topology = odd_topology()
    allocator = FrameAllocator(topology)
    free = set(allocator.free_frames(0).tolist())
    assert len(free) == 3700
    held: list[tuple[int, int]] = []
    for kind, a, b in operations:
        if kind == "alloc":
            heads = allocator.alloc(a, 0, order=b).tolist()
            for head in heads:
                block = set(range(head, head + (1 << b)))
                assert head % (1 << b) == 0
                assert block <= free
                free -= block
            held += [(head, b) for head in heads]
            assert len(heads) == a or not whole_blocks(free, b)
        else:
            rng = np.random.default_rng(a)
            rng.shuffle(held)
            for order in {order for _, order in held[: len(held) * b // 100]}:
                gone = [h for h, o in held[: len(held) * b // 100] if o == order]
                allocator.free(np.array(gone, dtype=np.int64), order)
                free |= {h + i for h in gone for i in range(1 << order)}
            held = held[len(held) * b // 100 :]
        assert allocator.free_pages(0) == len(free)
        assert allocator.free_frames(0).tolist() == sorted(free)


def test_the_lowest_frames_of_a_zone_are_the_kernels() -> None:
    topology = odd_topology()
    pfns = topology.page_map.pfn_of_flat(FrameAllocator(topology).free_frames(0))
    assert pfns[0] == 150  # 1,600 present, 1,550 managed
    assert pfns[pfns >= 4096][0] == 4096 + 50


def test_highest_zone_first_then_the_next() -> None:
    topology = odd_topology()
    heads = FrameAllocator(topology).alloc(2151, 0)
    pfns = topology.page_map.pfn_of_flat(heads)
    assert (pfns[:2150] >= 4096).all()
    assert pfns[2150] == 150


def test_watermarks_bound_what_a_zone_gives() -> None:
    marks = Watermarks(min=10, low=20, high=30, promo=50)
    topology = one_node(Zone("Normal", ((0, 2000),), 2000, marks, RESERVE))
    allocator = FrameAllocator(topology)
    assert len(allocator.alloc(5000, 0, marks=("low",))) == 2000 - 20 - 40
    assert allocator.free_pages(0) == 60
    assert len(allocator.alloc(5000, 0)) == 10  # the slow path goes down to min
    assert len(allocator.alloc(1, 0)) == 0


def test_huge_folios_leave_the_mark_untouched() -> None:
    marks = Watermarks(min=0, low=511, high=511, promo=511)
    topology = one_node(Zone("Normal", ((0, 1535),), 1535, marks))
    assert len(FrameAllocator(topology).alloc(9, 0, order=9, marks=("low",))) == 2
    # One page less: the second block would leave 510 of the 511 pages.
    topology = one_node(Zone("Normal", ((0, 1534),), 1534, marks))
    assert len(FrameAllocator(topology).alloc(9, 0, order=9, marks=("low",))) == 1


def test_balance_needs_more_than_high_plus_pages_plus_reserve_in_any_zone() -> None:
    marks = Watermarks(min=10, low=20, high=30, promo=50)
    small = Zone("DMA32", ((0, 50),), 50, marks)
    topology = one_node(small, Zone("Normal", ((4096, 4196),), 100, marks, RESERVE))
    allocator = FrameAllocator(topology)
    # Normal: 100 free, 30 + 40 kept; 29 pages fit, the 30th would have to leave more than 70.
    assert allocator.is_balanced(0, 29)
    assert not allocator.is_balanced(0, 30)
    assert allocator.shortage(0, "high", 35) == 6
    assert allocator.shortage(0, "promo") == 0


@given(
    st.lists(st.tuples(*[st.integers(0, 40)] * 4), min_size=1, max_size=3), st.sampled_from(["high", "promo"])
)
def test_a_zone_is_above_a_mark_where_there_is_one_and_no_shortage(
    drawn: list[tuple[int, int, int, int]], mark: Mark
) -> None:
    zones = [
        Zone(
            name,
            ((4096 * index, 4096 * index + 1 + n_free),),
            1 + n_free,
            Watermarks(min=0, low=0, high=high, promo=high + more),
            (0, 0, 0, reserve, 0),
        )
        for index, (name, (n_free, high, more, reserve)) in enumerate(
            zip(("DMA", "DMA32", "Normal"), drawn, strict=False)
        )
    ]
    allocator = FrameAllocator(one_node(*zones))
    for n_pages in range(45):  # on both sides of what any zone has
        expected = allocator.has_memory(0) and allocator.shortage(0, mark, n_pages) == 0
        assert allocator.some_zone_above(0, mark, n_pages) == expected


def test_merges_frames_freed_one_by_one_into_a_huge_folio() -> None:
    topology = one_node(Zone("Normal", ((0, 1024),), 1024, NO_MARKS))
    allocator = FrameAllocator(topology)
    frames = allocator.alloc(1024, 0)
    allocator.free(frames[frames >= 512][::2])
    assert len(allocator.alloc(1, 0, order=9)) == 0
    allocator.free(frames[frames >= 512][1::2])
    assert allocator.alloc(1, 0, order=9).tolist() == [512]


def test_starts_from_given_free_frames() -> None:
    topology = odd_topology()
    free = np.zeros(topology.page_map.n_pages, dtype=np.bool_)
    mine = topology.page_map.flat_of_pfn(np.r_[150:160, 4096:4700])
    free[mine] = True
    allocator = FrameAllocator(topology, free)
    assert allocator.free_pages(0) == 614
    assert allocator.free_frames(0).tolist() == sorted(mine.tolist())
    assert topology.page_map.pfn_of_flat(allocator.alloc(5, 0, order=9)).tolist() == [4096]


@pytest.mark.parametrize("zone", ["Device", "Normal"])
def test_no_zone_to_allocate_from(zone: str) -> None:
    managed = 100 if zone == "Device" else 0
    allocator = FrameAllocator(one_node(Zone(zone, ((0, 100),), managed, NO_MARKS)))
    assert not allocator.has_memory(0)
    assert not allocator.is_balanced(0, 1)
    assert len(allocator.alloc(1, 0)) == 0
