"""Page flags to folios: bit by bit, against a loop that goes through the pages one at a time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.records.page_flags import NO_PAGE, PAGE_KINDS, Kpf, bits, count_pages, find_frames, hot_rule
from gpuscan.records.page_map import SECTION_PAGES

LRU, HEAD, TAIL = bits(Kpf.LRU), bits(Kpf.COMPOUND_HEAD), bits(Kpf.COMPOUND_TAIL)


def section(**words):
    """Return one section of free pages but for ``p<PFN>=word``."""
    flags = np.full(SECTION_PAGES, bits(Kpf.BUDDY))
    for pfn, word in words.items():
        flags[int(pfn[1:])] = word
    return flags


def folio(flags, pfn, n_pages, word=LRU):
    flags[pfn] = word | HEAD
    flags[pfn + 1 : pfn + n_pages] = word | TAIL


def test_bit_numbers_are_those_of_the_kernel_headers():
    # include/uapi/linux/kernel-page-flags.h and include/linux/kernel-page-flags.h, written out.
    assert (Kpf.REFERENCED, Kpf.DIRTY, Kpf.LRU, Kpf.ACTIVE, Kpf.BUDDY, Kpf.ANON) == (2, 4, 5, 6, 10, 12)
    assert (Kpf.SWAPBACKED, Kpf.COMPOUND_HEAD, Kpf.COMPOUND_TAIL, Kpf.HUGE, Kpf.NOPAGE) == (
        14,
        15,
        16,
        17,
        20,
    )
    assert (Kpf.PGTABLE, Kpf.RESERVED, Kpf.MLOCKED, Kpf.ARCH_3) == (26, 32, 33, 42)
    assert int(NO_PAGE) == 0x100000


def test_bit_numbers_agree_with_the_installed_header():
    header = Path("/usr/include/linux/kernel-page-flags.h")
    if not header.is_file():
        pytest.skip("the kernel's user headers are not installed here")
    defined = dict(re.findall(r"#define KPF_(\w+)\s+(\d+)", header.read_text()))
    assert {name: int(bit) for name, bit in defined.items()}.items() <= {f.name: f.value for f in Kpf}.items()


@pytest.mark.parametrize(
    "flag", [Kpf.SLAB, Kpf.BUDDY, Kpf.HUGE, Kpf.HWPOISON, Kpf.NOPAGE, Kpf.OFFLINE, Kpf.COMPOUND_TAIL]
)
def test_a_page_on_an_lru_list_is_eligible_unless(flag):
    frames = find_frames(section(p7=LRU, p8=LRU | bits(flag)), lru_gen=False)
    assert np.flatnonzero(frames.eligible).tolist() == [7]


def test_unevictable_pages_are_eligible():
    # folio_isolate_lru() asks for PG_lru only; mlocked memory migrates.
    frames = find_frames(section(p3=LRU | bits(Kpf.UNEVICTABLE, Kpf.MLOCKED)), lru_gen=False)
    assert frames.eligible[3]


@pytest.mark.parametrize(("lru_gen", "hot"), [(False, [1, 2]), (True, [1])])
def test_active_counts_as_hot_only_without_the_multi_generation_lru(lru_gen, hot):
    flags = section(p1=LRU | bits(Kpf.REFERENCED), p2=LRU | bits(Kpf.ACTIVE), p3=LRU, p4=bits(Kpf.REFERENCED))
    assert np.flatnonzero(find_frames(flags, lru_gen=lru_gen).hot).tolist() == hot
    assert ("ACTIVE says little" in hot_rule(lru_gen)) == lru_gen


def test_folios_have_their_order_on_every_page():
    flags = section()
    folio(flags, 512, 512)
    folio(flags, 1024, 4)
    folio(flags, 1028, 2)
    folio(flags, SECTION_PAGES - 16, 16)
    frames = find_frames(flags, lru_gen=False)
    assert np.flatnonzero(frames.eligible).tolist() == [512, 1024, 1028, SECTION_PAGES - 16]
    assert frames.n_pages_of.tolist() == [512, 4, 2, 16]
    assert (frames.order[512:1024] == 9).all()
    assert (frames.order[1024:1030] == [2, 2, 2, 2, 1, 1]).all()
    assert (frames.order != 0).sum() == 512 + 4 + 2 + 16
    assert frames.n_torn == 0


@pytest.mark.parametrize(
    ("pfn", "n_pages"),
    [(8, 3), (8, 1), (6, 4), (0, 24)],
    ids=["not a power of two", "head without tails", "not aligned", "two folios, one head lost"],
)
def test_torn_folios_are_left_out_and_counted(pfn, n_pages):
    flags = section()
    folio(flags, pfn, n_pages)
    frames = find_frames(flags, lru_gen=False)
    assert frames.n_torn == 1
    assert not frames.eligible.any()
    assert not frames.order.any()


def test_compound_pages_that_are_not_on_an_lru_list_are_no_folios():
    flags = section()
    folio(flags, 64, 8, bits(Kpf.SLAB, Kpf.ANON))
    folio(flags, 512, 512, bits(Kpf.HUGE))
    frames = find_frames(flags, lru_gen=False)
    assert not frames.eligible.any()
    assert frames.n_torn == 0


def test_a_ragged_section_is_refused():
    with pytest.raises(ValueError, match="whole sections"):
        find_frames(np.zeros(100, dtype=np.uint64), lru_gen=False)


def test_folios_on_both_sides_of_a_slice_edge():
    flags = np.tile(section(), 33)  # slices are 32 sections
    edge = 32 * SECTION_PAGES
    folio(flags, edge - 512, 512)
    folio(flags, edge, 512)
    frames = find_frames(flags, lru_gen=False)
    assert np.flatnonzero(frames.eligible).tolist() == [edge - 512, edge]
    assert frames.n_torn == 0


def obvious(words):
    """Return eligible heads with their sizes, and torn heads, page by page."""
    refused = (Kpf.COMPOUND_TAIL, Kpf.HUGE, Kpf.SLAB, Kpf.BUDDY, Kpf.HWPOISON, Kpf.NOPAGE, Kpf.OFFLINE)
    found, n_torn = {}, 0
    for pfn, word in enumerate(words):
        if not word >> Kpf.LRU & 1 or any(word >> flag & 1 for flag in refused):
            continue
        if not word >> Kpf.COMPOUND_HEAD & 1:
            found[pfn] = 1
            continue
        size = 1
        while pfn + size < len(words) and words[pfn + size] >> Kpf.COMPOUND_TAIL & 1:
            size += 1
        if size in (2, 4, 8, 16, 32, 64, 128, 256, 512) and pfn % size == 0:
            found[pfn] = size
        else:
            n_torn += 1
    return found, n_torn


words = st.lists(
    st.builds(
        lambda base, extra: int(base) | int(extra),
        st.sampled_from([LRU | HEAD, LRU | TAIL, TAIL, LRU, np.uint64(0), bits(Kpf.BUDDY)]),
        st.sampled_from([np.uint64(0)] * 4 + [bits(flag) for flag in Kpf]),
    ),
    max_size=64,
)


@settings(max_examples=60, deadline=None)
@given(words)
def test_frames_agree_with_the_obvious_loop(words):
    flags = np.zeros(SECTION_PAGES, dtype=np.uint64)
    flags[: len(words)] = words
    frames = find_frames(flags, lru_gen=False)
    found, n_torn = obvious(flags.tolist())
    assert (
        dict(zip(np.flatnonzero(frames.eligible).tolist(), frames.n_pages_of.tolist(), strict=True)) == found
    )
    assert frames.n_torn == n_torn


def test_counts_are_base_pages_by_section():
    first, second = section(), np.full(SECTION_PAGES, NO_PAGE)
    folio(first, 512, 512, LRU | bits(Kpf.ANON, Kpf.SWAPBACKED, Kpf.ACTIVE))
    first[0:3] = LRU | bits(Kpf.DIRTY)
    first[3] = LRU | bits(Kpf.SWAPBACKED)
    first[4] = bits(Kpf.SLAB, Kpf.ANON)
    second[:10] = 0
    second[10] = bits(Kpf.RESERVED)
    second[11] = bits(Kpf.PGTABLE)
    flags = np.concatenate([first, second])
    counted = count_pages(flags, find_frames(flags, lru_gen=False))
    expected = {kind: [0, 0] for kind in PAGE_KINDS} | {
        "lru": [516, 0],
        "anon": [512, 0],
        "shmem": [1, 0],
        "file": [3, 0],
        "dirty": [3, 0],
        "large": [512, 0],
        "hot": [512, 0],
        "free": [SECTION_PAGES - 517, 0],
        "slab": [1, 0],
        "page_table": [0, 1],
        "reserved": [0, 1],
        "no_page": [0, SECTION_PAGES - 12],
        "unflagged": [0, 10],
    }
    assert {kind: counts.tolist() for kind, counts in counted.items()} == expected
