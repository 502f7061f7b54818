"""The transcription of RFC v1, held to small machines worked out by hand from the patch text."""

from __future__ import annotations

import pytest

from transcripts.rfc_v1 import Kmigrated, Rival
from transcripts.world import Layout, Span, layout

READY = 4  # bit 2


def nid_bits(nid: int) -> int:
    return nid << 3


def pages_of(nid: int, n_pages: int) -> Layout:
    """Return ``n_pages`` pages of one node at PFN 0 and one page of each of nodes 1, 2 and 5 behind them."""
    others = [other for other in (1, 2, 5) if other != nid]
    zones = [Span(nid, 0, n_pages)] + [
        Span(other, n_pages + i, n_pages + i + 1) for i, other in enumerate(others)
    ]
    return layout([nid] * n_pages + others, zones)


# -- RFC v1: the word ----------------------------------------------------------------------------------------


def test_rfc_mark_is_bit_2_with_the_node_above_it() -> None:
    """Bits 0 and 1 belong to page_owner, so node 5 makes 0b101_1_00."""
    thread = Kmigrated(pages_of(0, 4))
    assert thread.add_pfn(2, 5) == 0
    assert thread.words[2] == 0b101_1_00
    assert thread.activated == {0}


@pytest.mark.parametrize(("fixed", "stored"), [(False, 1), (True, 9)])
def test_rfc_posted_mask_keeps_the_node_modulo_8(fixed: bool, stored: int) -> None:
    """The mask is made from the shift, 3, and not from the width, 10: of 0b1001 the three low bits remain."""
    thread = Kmigrated(pages_of(0, 4), fixed=fixed)
    thread.add_pfn(0, 9)
    assert thread.words[0] == READY | nid_bits(stored)


def test_rfc_second_request_replaces_only_the_three_low_bits() -> None:
    """exchange_nid clears what the mask covers: 5 (0b101) is gone when 10 (0b010 modulo 8) comes."""
    thread = Kmigrated(pages_of(0, 4))
    thread.add_pfn(0, 5)
    thread.add_pfn(0, 10)
    assert thread.words[0] == READY | nid_bits(2)


def test_rfc_well_placed_page_on_node_9_goes_to_node_1() -> None:
    """A fault on a well-placed page marks it with its own node (4/4); 9 comes back as 1."""
    columns = layout([9, 9, 1], [Span(9, 0, 2), Span(1, 2, 3)])
    posted = Kmigrated(columns)
    posted.add_pfn(0, 9)
    posted.walk_node(9)
    # The zone's first candidate flushes nothing to -1, the walk's end flushes the page to node 1.
    assert posted.world.calls == [((), -1), ((0,), 1)]
    assert posted.words[0] == nid_bits(7)

    fixed = Kmigrated(columns, fixed=True)
    fixed.add_pfn(0, 9)
    fixed.walk_node(9)
    assert fixed.world.calls == []
    assert fixed.world.counters["at_home"] == 1
    assert fixed.words[0] == nid_bits(1023)


@pytest.mark.parametrize(("fixed", "left"), [(False, 7), (True, 1023)])
def test_rfc_consumed_word_holds_minus_one_under_the_mask(fixed: bool, left: int) -> None:
    thread = Kmigrated(pages_of(0, 4), fixed=fixed)
    thread.add_pfn(0, 5)
    thread.walk_node(0)
    assert thread.words[0] == nid_bits(left)
    assert thread.world.calls[-1] == ((0,), 5)


# -- RFC v1: the batch ---------------------------------------------------------------------------------------


def test_rfc_not_equal_sends_mixed_targets_to_the_last_page_s_node() -> None:
    """Targets 1, 2, 5. The first differs from -1: nothing goes to -1, and 1 is remembered. From then on the
    newest target is copied before it is compared, so 2 and 5 do not differ from themselves and all three go
    to 5.
    """
    thread = Kmigrated(pages_of(0, 4))
    for pfn, nid in ((0, 1), (1, 2), (2, 5)):
        thread.add_pfn(pfn, nid)
    thread.walk_node(0)
    assert thread.world.calls == [((), -1), ((2, 1, 0), 5)]
    assert thread.world.counters["empty_batch_calls"] == 1
    assert thread.world.counters["cond_resched"] == 1
    assert thread.world.counters["pgpromote_success"] == 3


def test_rfc_fixed_flushes_on_every_change_with_the_old_node() -> None:
    thread = Kmigrated(pages_of(0, 4), fixed=True)
    for pfn, nid in ((0, 1), (1, 1), (2, 2), (3, 5)):
        thread.add_pfn(pfn, nid)
    thread.walk_node(0)
    # list_add: the page added last is first.
    assert thread.world.calls == [((1, 0), 1), ((2,), 2), ((3,), 5)]
    assert thread.world.counters["cond_resched"] == 2


def test_rfc_batch_of_512_goes_to_the_node_of_the_page_that_is_not_in_it() -> None:
    """600 candidates, even PFNs for 1, odd for 2. Candidate 0 is spent on the empty flush, which resets the
    count; 512 further candidates make PFN 512 the one that fills it: PFNs 0 to 511 go to that page's node, 1.
    The rest, 512 to 599, goes to the node of 599, 2.
    """
    thread = Kmigrated(pages_of(0, 600))
    for pfn in range(600):
        thread.add_pfn(pfn, 1 + pfn % 2)
    thread.walk_node(0)
    assert thread.world.calls == [
        ((), -1),
        (tuple(range(511, -1, -1)), 1),
        (tuple(range(599, 511, -1)), 2),
    ]
    assert thread.world.counters["cond_resched"] == 2


def test_rfc_fixed_first_batch_has_511_folios_the_next_512() -> None:
    """Counted before it is added: the 512th candidate (PFN 511) flushes the 511 before it and opens the next
    list without being counted, so that one is flushed by the 512th after it (PFN 1023), 512 folios long.
    """
    thread = Kmigrated(pages_of(0, 1100), fixed=True)
    for pfn in range(1100):
        thread.add_pfn(pfn, 1)
    thread.walk_node(0)
    assert [len(pfns) for pfns, _ in thread.world.calls] == [511, 512, 77]
    assert thread.world.calls[1][0][-1] == 511


def test_rfc_every_zone_starts_its_own_batch_and_device_zones_are_left_out() -> None:
    """Three zones of node 0, the last ZONE_DEVICE: two empty calls, two lists, and PFN 4 keeps its mark."""
    zones = [Span(0, 0, 2), Span(0, 2, 4), Span(0, 4, 6, device=True), Span(1, 6, 7)]
    thread = Kmigrated(layout([0] * 6 + [1], zones))
    for pfn in range(6):
        thread.add_pfn(pfn, 1)
    thread.walk_node(0)
    assert thread.world.calls == [((), -1), ((1, 0), 1), ((), -1), ((3, 2), 1)]
    assert thread.words[4] == READY | nid_bits(1)
    assert thread.world.counters["zones_walked"] == 2
    assert thread.world.counters["pfns_examined"] == 4


def test_rfc_zone_span_with_another_node_s_pages_takes_only_its_own() -> None:
    """Zone spans may overlap: node 0's zone spans node 1's page 1 and a hole at 2."""
    columns = layout([0, 1, 0, 0], [Span(0, 0, 4), Span(1, 1, 2)], holes=[2])
    thread = Kmigrated(columns)
    assert thread.add_pfn(2, 1) == -22
    for pfn, nid in ((0, 1), (1, 0), (3, 1)):
        thread.add_pfn(pfn, nid)
    thread.walk_node(0)
    assert thread.world.calls == [((), -1), ((3, 0), 1)]
    assert thread.words[1] == READY
    assert thread.world.counters["pfns_examined"] == 4


# -- RFC v1: what is lost ------------------------------------------------------------------------------------


def test_rfc_mark_is_consumed_before_the_page_is_refused() -> None:
    """kmigrated_get_nid comes before migrate_misplaced_folio_prepare: refused once, forgotten for good."""
    thread = Kmigrated(layout([0, 0, 1], [Span(0, 0, 2), Span(1, 2, 3)], refused=[0]))
    thread.add_pfn(0, 1)
    thread.add_pfn(1, 1)
    thread.walk_node(0)
    assert thread.world.calls == [((), -1), ((1,), 1)]
    assert thread.words[0] == nid_bits(7)
    assert thread.world.counters["prepare_refused"] == 1
    thread.walk_node(0)
    assert len(thread.world.calls) == 2


def test_rfc_mark_survives_free_and_reallocation() -> None:
    """Nothing clears page_ext on free: a page off the LRU is skipped before its mark is read, and whoever
    gets the frame next inherits the mark.
    """
    thread = Kmigrated(pages_of(0, 2))
    thread.add_pfn(0, 1)
    thread.world.pages[0].folio.on_lru = False
    thread.walk_node(0)
    assert thread.world.calls == []
    assert thread.words[0] == READY | nid_bits(1)
    thread.world.pages[0].folio.on_lru = True
    thread.walk_node(0)
    assert thread.world.calls == [((), -1), ((0,), 1)]


@pytest.mark.parametrize(
    ("order", "fixed", "taken", "left"),
    [
        # The mark is for 1, the second request for 5. Whole before, whole after:
        ("PPCC", False, 5, nid_bits(7)),
        ("CCPP", False, 1, nid_bits(5) | READY),
        # The nid is taken before READY is set again: the mark that stays names node 7, which is not there.
        ("PCPC", False, 5, nid_bits(7) | READY),
        ("PCCP", False, 5, nid_bits(7) | READY),
        ("CPPC", False, 5, nid_bits(7) | READY),
        ("CPCP", False, 5, nid_bits(7) | READY),
        ("CPCP", True, 5, nid_bits(1023) | READY),
    ],
)
def test_rfc_two_atomics_on_each_side(order: str, fixed: bool, taken: int, left: int) -> None:
    thread = Kmigrated(pages_of(0, 4), fixed=fixed)
    thread.add_pfn(0, 1)
    thread.walk_node(0, (Rival(0, 5, order),))
    assert thread.world.calls[-1] == ((0,), taken)
    assert thread.words[0] == left
    # Its set_bit comes after the walk's clear_bit: the next walk starts at once.
    assert thread.activated == {0}


def test_rfc_page_with_the_consumed_node_is_claimed_and_put_back() -> None:
    """The walk after the race takes 7, no node of this machine: the list goes there and comes back."""
    thread = Kmigrated(pages_of(0, 4))
    thread.add_pfn(0, 0)
    # At home, so the folio stays on the LRU and the stray mark can be found.
    thread.walk_node(0, (Rival(0, 0, "CPCP"),))
    assert thread.world.calls == []
    thread.walk_node(0)
    assert thread.world.counters["invalid_nid"] == 1
    assert thread.world.calls == [((), -1), ((0,), 7)]
    assert thread.world.counters["pgmigrate_fail"] == 1
    assert thread.world.pages[0].folio.on_lru


def test_rfc_race_on_an_unmarked_page_skips_the_second_consumer_atomic() -> None:
    """READY clear: kmigrated_get_nid leaves the nid alone, so the request of the rival is whole."""
    thread = Kmigrated(pages_of(0, 4))
    thread.walk_node(0, (Rival(0, 5, "CPCP"),))
    assert thread.world.calls == []
    assert thread.words[0] == nid_bits(5) | READY


def test_rfc_race_on_a_page_that_is_not_asked_about_happens_after_the_walk() -> None:
    thread = Kmigrated(layout([0, 1], [Span(0, 0, 1), Span(1, 1, 2)], off_lru=[0]))
    thread.walk_node(0, (Rival(0, 1, "PPCC"),))
    assert thread.words[0] == nid_bits(1) | READY


# -- RFC v1: large folios ------------------------------------------------------------------------------------


def test_rfc_tail_page_carries_a_mark_of_its_own() -> None:
    """Folio 0..3, marked at its head and at tail 2, and folio 4..7 marked at tail 6 only. As posted the
    tail's own record counts: folio 4 moves because of page 6. Folio 0 is off the LRU once its head is taken,
    so page 2 keeps its mark.
    """
    columns = layout([0] * 8 + [1], [Span(0, 0, 8), Span(1, 8, 9)], folios=[(0, 4), (4, 4)])
    thread = Kmigrated(columns)
    for pfn in (0, 2, 6):
        thread.add_pfn(pfn, 1)
    thread.walk_node(0)
    assert thread.world.calls == [((), -1), ((4, 0), 1)]
    assert thread.words[2] == READY | nid_bits(1)
    assert thread.world.counters["pfns_examined"] == 8
    assert thread.world.counters["pgmigrate_success"] == 8


def test_rfc_fixed_steps_over_folios_and_never_sees_a_tail() -> None:
    columns = layout([0] * 8 + [1], [Span(0, 0, 8), Span(1, 8, 9)], folios=[(0, 4), (4, 4)])
    thread = Kmigrated(columns, fixed=True)
    for pfn in (0, 6):
        thread.add_pfn(pfn, 1)
    thread.walk_node(0)
    assert thread.world.calls == [((0,), 1)]
    assert thread.words[6] == READY | nid_bits(1)
    assert thread.world.counters["pfns_examined"] == 2


def test_rfc_flag_is_cleared_before_the_walk() -> None:
    thread = Kmigrated(pages_of(0, 2))
    thread.add_pfn(0, 1)
    thread.walk_node(0)
    assert thread.activated == set()
