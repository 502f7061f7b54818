"""How ``request`` and ``record`` bring PFNs into the order of regions, and where the PFN table leads."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from gpuscan.kernels.api import NODE_HAS_MEMORY, RecordParams, StoreLayout, empty_node_flags
from gpuscan.kernels.cpu import arguments, batches
from gpuscan.kernels.cpu.arguments import N_BUCKETS, N_REGIONS, SLOT_IS_SEARCHED, Store, machine_of, store_of
from gpuscan.kernels.cpu.backend import CpuBackend, allocate
from gpuscan.kernels.cpu.buffers import Buffers
from gpuscan.kernels.cpu.gather import (
    SCRATCH_ITEMS,
    TARGET_BITS,
    UNKNOWN_PFN,
    UNKNOWN_TARGET,
    count_regions,
    index_bits_of,
    order_by_region,
    refined,
)
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.records.formats import record_format
from gpuscan.records.page_map import SECTION_PAGES, Extent, PageMap

EXTENTS = [
    Extent(100, 900, 0, 0),
    Extent(900, 1_000, 1, 0),
    Extent(3 * SECTION_PAGES + 7, 6 * SECTION_PAGES + 11, 1, 0),
    Extent(6 * SECTION_PAGES + 12, 6 * SECTION_PAGES + 40, 0, 0),
    Extent(1 << 30, (1 << 30) + 5, 0, 0),
]


@pytest.fixture
def layout() -> StoreLayout:
    flags = empty_node_flags()
    flags[:2] = NODE_HAS_MEMORY
    return StoreLayout(PageMap.from_extents(EXTENTS), record_format("rfc"), flags)


@pytest.fixture
def store(layout) -> Store:
    return store_of(layout, allocate(layout))


@pytest.mark.parametrize("slots", [1, 4, 1 << 16])
def test_the_table_finds_what_the_page_map_does(layout, store, monkeypatch, slots):
    monkeypatch.setattr(arguments, "_SLOTS_MAX", slots)
    edges = [edge for extent in EXTENTS for edge in (extent.pfn_start, extent.pfn_end)]
    pfns = np.unique([[0, 1 << 40, *(edge + step for edge in edges)] for step in (-1, 0, 1, 500)])
    pfns = np.append(pfns, -1)
    machine, bits = machine_of(layout), index_bits_of(layout.n_pages)
    nids = np.ones(len(pfns), dtype=np.int32)
    assert len(machine.extent_of_slot) == len(machine.slot_words) <= slots
    counts = np.zeros(N_REGIONS, dtype=np.int64)
    count_regions.for_bits(32)(machine, pfns, 0, len(pfns), counts)
    assert counts.sum() == len(pfns)
    places, order = np.cumsum(counts) - counts, np.empty(len(pfns), dtype=np.int64)
    order_by_region.for_bits(32)(store, machine, pfns, nids, 0, len(pfns), bits, places, order)
    assert places.tolist() == np.cumsum(counts).tolist()
    pages, positions = order >> bits, order & ((1 << bits) - 1)
    flats = pages >> TARGET_BITS
    assert flats.tolist() == layout.page_map.flat_of_pfn(pfns[positions]).tolist()
    assert (pages[flats >= 0] & ((1 << TARGET_BITS) - 1) == 1).all()


def test_regions_have_about_as_many_pages_each(layout):
    """However far apart the machine's memory lies, and in order of PFNs."""
    wide = PageMap.from_extents(
        [Extent(0, 700 * SECTION_PAGES, 0, 0), Extent(1 << 33, (1 << 33) + 500 * SECTION_PAGES, 0, 0)]
    )
    machine = machine_of(StoreLayout(wide, layout.fmt, layout.node_flags))
    regions = machine.slot_words & (N_REGIONS - 1)
    assert (np.diff(regions) >= 0).all()
    populated = wide.flat_of_pfn((np.arange(len(regions)) + machine.first_slot) << machine.slot_shift) >= 0
    n_slots = np.bincount(regions[populated], minlength=N_REGIONS)
    assert len(machine.slot_words) <= 1 << 16
    assert n_slots.max() <= max(1, 2 * -(-populated.sum() // N_REGIONS))


def test_holes_beyond_those_that_a_word_can_name_are_searched_for():
    n_extents = 100
    extents = [Extent(2 * n * SECTION_PAGES, (2 * n + 1) * SECTION_PAGES, n % 2, 0) for n in range(n_extents)]
    flags = empty_node_flags()
    flags[:2] = NODE_HAS_MEMORY
    layout = StoreLayout(PageMap.from_extents(extents), record_format("rfc"), flags)
    machine, store = machine_of(layout), store_of(layout, allocate(layout))
    assert len(machine.offsets) == n_extents
    is_split = machine.slot_words & SLOT_IS_SEARCHED != 0
    assert 0 < is_split[::2].sum() < n_extents
    pfns = np.arange(0, 2 * n_extents * SECTION_PAGES, 1_001)
    bits, order = index_bits_of(layout.n_pages), np.empty(len(pfns), dtype=np.int64)
    counts = np.zeros(N_REGIONS, dtype=np.int64)
    count_regions.for_bits(32)(machine, pfns, 0, len(pfns), counts)
    places, nids = np.cumsum(counts) - counts, np.ones(len(pfns), dtype=np.int32)
    order_by_region.for_bits(32)(store, machine, pfns, nids, 0, len(pfns), bits, places, order)
    flats, positions = order >> (bits + TARGET_BITS), order & ((1 << bits) - 1)
    assert flats.tolist() == layout.page_map.flat_of_pfn(pfns[positions]).tolist()


@pytest.mark.parametrize(
    ("sections", "shift", "shift_of_large_folios"),
    [(2_048, -1, -1), (2_049, 10, -1), (8_191, 11, -1), (8_192, 11, 15), (8_193, 12, 15), (1 << 18, 16, 16)],
)
def test_machines_with_large_regions_have_buckets(layout, sections, shift, shift_of_large_folios):
    assert machine_of(layout).bucket_shift == -1
    pages = PageMap.from_extents([Extent(0, sections * SECTION_PAGES, 0, 0)])
    for has_large_folios, expected in ((False, shift), (True, shift_of_large_folios)):
        machine = machine_of(replace(layout, page_map=pages, has_large_folios=has_large_folios))
        assert machine.bucket_shift == expected
        if expected >= 0:
            assert (N_BUCKETS << expected) * N_REGIONS >= pages.n_pages


def test_where_there_are_too_many_offsets_the_rare_ones_are_searched_for(layout):
    large = Extent(0, 500 * SECTION_PAGES, 0, 0)
    small = [Extent((600 + 2 * n) * SECTION_PAGES, (601 + 2 * n) * SECTION_PAGES, 1, 0) for n in range(90)]
    machine = machine_of(replace(layout, page_map=PageMap.from_extents([large, *small])))
    is_searched = machine.slot_words & SLOT_IS_SEARCHED != 0
    assert not is_searched[:500].any()
    assert is_searched[600::2].sum() == 90 - 63


@pytest.mark.parametrize("n_items", [1, 700, 8_192, 8_193, 30_000])
def test_entries_are_ordered_by_bucket_and_stay_as_they_were_within_one(n_items):
    rng = np.random.default_rng(n_items)
    entries = (rng.integers(-2, 1 << 20, n_items) << 30) | np.arange(n_items)
    order, begin, shift = entries.copy(), 0, 30 + 7
    scratch = np.full(SCRATCH_ITEMS + 1, -7)
    while begin < n_items:
        end = refined(order, begin, n_items, shift, scratch)
        part, was = order[begin:end], entries[begin:end]
        assert part.tolist() == was[np.argsort((was >> shift) & (N_BUCKETS - 1), kind="stable")].tolist()
        assert end == n_items or end - begin == 8_192
        begin = end
    assert scratch[-1] == -7
    assert refined(order, 0, n_items, -1, scratch[:0]) == n_items


@pytest.mark.parametrize("order", [0, 9, 11, 15])
@pytest.mark.parametrize("call", ["request", "record"])
def test_pages_marked_by_bucket_are_those_of_the_reference(layout, monkeypatch, call, order):
    """Also those of large folios, which are asked for by any of their pages."""
    monkeypatch.setattr(batches, "PARALLEL_FROM_ITEMS", 1_000)
    monkeypatch.setattr(arguments, "_BUCKET_PAGES_MIN", 0)
    monkeypatch.setattr(arguments, "_BUCKETS_MIN", 0)
    layout = replace(layout, has_large_folios=order > 0)
    assert machine_of(layout).bucket_shift == (15 if order else 1)
    params = () if call == "request" else (RecordParams(7, 1_000, 2, drop_top_tier=False),)
    found = []
    for backend in (CpuBackend(2), ReferenceBackend()):
        kernels = backend.open(layout)
        kernels.set_eligible(np.flatnonzero(np.arange(layout.n_pages) % 5 | (order > 0)), eligible=True)
        if order:
            first = np.arange(2 * SECTION_PAGES, 3 * SECTION_PAGES, 1 << order)
            kernels.set_order(first, order)
        rng = np.random.default_rng(5)
        said = []
        for n_items in (12_000, 900, 30_000):
            # Few pages, so that many are asked for more than once, each time for another node.
            few = np.r_[100:1_100, 4 * SECTION_PAGES : 5 * SECTION_PAGES : 11, -1]
            pfns = rng.choice(few, n_items)
            nids = rng.integers(-1, 3, n_items).astype(np.int32)
            outcomes = np.empty(n_items, dtype=np.uint8)
            said.append(getattr(kernels, call)(pfns, nids, *params, outcomes).tolist())
            said.append(outcomes.tolist())
        arrays = kernels.dump()
        found.append((said, [getattr(arrays, each.name).tolist() for each in fields(arrays)]))
    assert found[0] == found[1]


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_batches_cover_the_call_and_keep_the_order_within_a_word(layout, store, monkeypatch, n_threads):
    monkeypatch.setattr(batches, "PARALLEL_FROM_ITEMS", 1_000)
    monkeypatch.setattr(batches, "_BATCH_ITEMS_MIN", 1_000)
    rng = np.random.default_rng(3)
    pfns = rng.integers(90, 7 * SECTION_PAGES, 5_500)
    nids = rng.integers(-1, 3, 5_500).astype(np.int32)
    machine, workers = machine_of(layout), Workers(n_threads)
    seen: list[int] = []
    buffers = Buffers(0, 1, 0)
    for batch in batches.batches_of(pfns, nids, store, machine, layout, workers, buffers):
        assert batch.order is not None
        pages, positions = batch.order >> batch.index_bits, batch.order & ((1 << batch.index_bits) - 1)
        flats, targets = pages >> TARGET_BITS, pages & ((1 << TARGET_BITS) - 1)
        assert [lo for lo, _ in batch.parts] == [0, *(hi for _, hi in batch.parts[:-1])]
        assert batch.parts[-1][1] == len(flats) == len(pfns[batch.span])
        wanted = nids[batch.span][positions]
        is_known = (wanted == 0) | (wanted == 1)
        expected = layout.page_map.flat_of_pfn(pfns[batch.span][positions])
        assert UNKNOWN_PFN in expected
        assert flats.tolist() == np.where(is_known, expected, UNKNOWN_TARGET).tolist()
        assert (targets == wanted)[flats >= 0].all()
        part_of: dict[int, int] = {}
        for part, (lo, hi) in enumerate(batch.parts):
            for word in np.unique(flats[lo:hi][flats[lo:hi] >= 0] >> 6).tolist():
                assert part_of.setdefault(word, part) == part
        for word in np.unique(flats[flats >= 0] >> 6).tolist():
            assert (np.diff(positions[flats >> 6 == word]) > 0).all()
        seen += (positions + batch.span.start).tolist()
    assert sorted(seen) == list(range(len(pfns)))
    workers.close()


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_pages_that_are_by_region_already_are_not_ordered(layout, store, monkeypatch, n_threads):
    monkeypatch.setattr(batches, "PARALLEL_FROM_ITEMS", 1_000)
    pfns = np.sort(np.random.default_rng(3).integers(90, 7 * SECTION_PAGES, 5_500))
    pfns[10:200] = pfns[10:200][::-1]  # within a section
    nids, machine, workers = np.zeros(5_500, dtype=np.int32), machine_of(layout), Workers(n_threads)

    def batch_of(given):
        buffers = Buffers(0, 1, 0)
        (batch,) = batches.batches_of(given, nids, store, machine, layout, workers, buffers)
        return batch

    batch = batch_of(pfns)
    assert batch.order is None
    assert [lo for lo, _ in batch.parts] == [0, *(hi for _, hi in batch.parts[:-1])]
    assert batch.parts[-1][1] == len(pfns)
    assert len(batch.parts) > n_threads
    cuts = [hi for _, hi in batch.parts[:-1]]
    assert (pfns[cuts] // SECTION_PAGES > pfns[np.array(cuts) - 1] // SECTION_PAGES).all()
    # One that is out of place, inside a share or where two shares meet.
    for place in (7, 5_400, *(5_500 * share // n_threads for share in range(1, n_threads))):
        late = pfns.copy()
        late[place] = 100 if place > 7 else pfns[-1]
        assert batch_of(late).order is not None
    workers.close()


def test_an_empty_call_loads_what_a_large_one_needs(layout, monkeypatch):
    called: list[str] = []
    for name in ("count_regions", "order_by_region"):
        compiled = getattr(batches, name)
        monkeypatch.setattr(compiled, "for_bits", lambda _bits, name=name: lambda *_: called.append(name))
    none = np.empty(0, dtype=np.int64)
    kernels = CpuBackend(1).open(layout)
    kernels.request(none, none.astype(np.int32), none.astype(np.uint8))
    assert called == ["count_regions", "order_by_region"]


def test_what_an_empty_call_orders_is_put_into_the_room_for_it(layout, monkeypatch):
    places: list[int] = []

    def ordered(*arguments):
        next_of_region, order = arguments[-2:]
        places.extend(next_of_region.tolist())
        assert len(order) == 1

    monkeypatch.setattr(order_by_region, "for_bits", lambda _bits: ordered)
    none = np.empty(0, dtype=np.int64)
    CpuBackend(1).open(layout).request(none, none.astype(np.int32), none.astype(np.uint8))
    assert places == [0] * N_REGIONS


@pytest.mark.parametrize("first_pfn", [1 << 40, 1 << 51, 1 << 53, 1 << 61])
def test_a_page_is_found_wherever_it_lies(first_pfn):
    flags = empty_node_flags()
    flags[:2] = NODE_HAS_MEMORY
    extents = [Extent(first_pfn, first_pfn + 40 * SECTION_PAGES, 1, 0)]
    layout = StoreLayout(PageMap.from_extents(extents), record_format("rfc"), flags)
    kernels = CpuBackend(1).open(layout)
    pages = np.array([0, 5, 40 * SECTION_PAGES - 1])
    kernels.set_eligible(pages, eligible=True)
    kernels.request(first_pfn + pages, np.zeros(3, dtype=np.int32), np.empty(3, dtype=np.uint8))
    assert np.flatnonzero(kernels.dump().records).tolist() == pages.tolist()


@pytest.mark.parametrize("n_pages", [1 << 15, 1 << 28, 1 << 31, 1 << 32, (1 << 36) - SECTION_PAGES])
def test_an_entry_has_room_for_every_page_target_and_position(n_pages):
    bits = index_bits_of(n_pages)
    last = ((n_pages - 1) << TARGET_BITS | 1023) << bits | ((1 << bits) - 1)
    assert last < 1 << 63
    assert bits == 22 or last >= 1 << 62
    assert bits >= 15


def test_a_call_is_cut_where_an_entry_has_few_bits_for_the_position(layout, store, monkeypatch):
    """As in a store of 2^43 pages and more; it is then cut below the size from which threads share a call."""
    monkeypatch.setattr(batches, "index_bits_of", lambda _n_pages: 10)
    pfns, workers = np.arange(100, 900).repeat(7), Workers(1)
    nids = np.zeros(len(pfns), dtype=np.int32)
    assert len(pfns) < batches.PARALLEL_FROM_ITEMS
    found = list(batches.batches_of(pfns, nids, store, machine_of(layout), layout, workers, Buffers(0, 1, 0)))
    assert max(batch.span.stop - batch.span.start for batch in found) == 1 << 10
    assert sum(batch.span.stop - batch.span.start for batch in found) == len(pfns)
