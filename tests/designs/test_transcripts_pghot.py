"""The transcription of pghot, held to small machines worked out by hand from the patch text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from transcripts.pghot import DEFAULT, PRECISE, Mode, Pghot, Revision, Tunables
from transcripts.world import Layout, Span, layout, migrate_rounds

# -- pghot: the record ---------------------------------------------------------------------------------------

SECTION = 16
SMALL = Tunables(section_pages=SECTION, rate_limit_mbps=1)  # 256 pages a second
LOW = 32  # first PFN of the lower tier


def tiers(nids: list[int], **exceptions: Sequence[int] | Sequence[tuple[int, int]]) -> Layout:
    """Return nodes 0 and 9 (top tier, a section each: PFN 0 and 16) and the given pages from PFN 32 on."""
    zones = [Span(0, 0, 16), Span(9, 16, 32)]
    zones += [
        Span(nid, LOW + nids.index(nid), LOW + len(nids) - nids[::-1].index(nid))
        for nid in dict.fromkeys(nids)
    ]
    return layout([0] * 16 + [9] * 16 + nids, zones, top_tier=(0, 9), **exceptions)  # type: ignore[arg-type]


def roomy(columns: Layout, mode: Mode = DEFAULT, revision: Revision = Revision.V7, **changes: int) -> Pghot:
    """Return the thread where the top tier has plenty of free memory: no threshold, no rate limit."""
    return Pghot(columns, mode, revision, replace(SMALL, **changes), {0, 9})


def heat(thread: Pghot, *pfns: int, nid: int = 0, now: int = 1000) -> None:
    """Record two accesses to each page: as many as the threshold asks for."""
    for pfn in pfns:
        assert thread.record_access(pfn, nid, now) == 0
        assert thread.record_access(pfn, nid, now) == 0


def test_pghot_default_record() -> None:
    """Jiffy 1000 is in bucket 7, jiffy 1200 in bucket 9. Frequency in bits 0-1, bucket in 2-6, READY in 7."""
    thread = roomy(tiers([1] * 16))
    thread.record_access(LOW, 0, 1000)
    assert thread.records[LOW] == 0b0_00111_01
    assert (thread.hot_sections, thread.activated) == (set(), set())
    thread.record_access(LOW, 0, 1200)
    assert thread.records[LOW] == 0b1_01001_10
    assert (thread.hot_sections, thread.activated) == ({2}, {1})
    for now in (1300, 1400, 1500):
        thread.record_access(LOW, 0, now)
    assert thread.records[LOW] & 3 == 3  # two bits: it stays at 3


def test_pghot_precise_record() -> None:
    """Node in bits 0-9, frequency 10-12, the low 14 bits of the jiffy (20000 - 16384) in 13-26, READY 31."""
    thread = roomy(tiers([1] * 16), PRECISE)
    thread.record_access(LOW, 9, 20000)
    assert thread.records[LOW] == 9 | 1 << 10 | 3616 << 13
    thread.record_access(LOW, -1, 20001)
    assert thread.records[LOW] == 0 | 2 << 10 | 3617 << 13 | 1 << 31
    # pghot_nid_valid: a node of the lower tier, a node that is not there.
    assert thread.record_access(LOW, 1, 20002) == -22
    assert thread.record_access(LOW, 8, 20002) == -22
    assert thread.world.counters["pghot_recorded_hintfaults"] == 2


@pytest.mark.parametrize(
    ("mode", "later", "freq"),
    [
        # Default, window 3000 ms: 1000 is bucket 7 = 896. 3968 is bucket 31 = 3968: 3072 ms.
        # 3967 is bucket 30 = 3840: 2944 ms.
        (DEFAULT, 3967, 2),
        (DEFAULT, 3968, 1),
        # 5 bits of buckets of 128 wrap at 4096: 1000 + 4096 looks like now.
        (DEFAULT, 5096, 2),
        # Precise, window 5000 ms, compared with ">"; 14 bits wrap at 16384.
        (PRECISE, 6000, 2),
        (PRECISE, 6001, 1),
        (PRECISE, 1000 + 16384, 2),
    ],
)
def test_pghot_window_and_its_wrap_around(mode: Mode, later: int, freq: int) -> None:
    thread = roomy(tiers([1] * 16), mode)
    thread.record_access(LOW, 0, 1000)
    thread.record_access(LOW, 0, later)
    assert (thread.records[LOW] >> mode.freq_shift) & mode.freq_max == freq
    assert bool(thread.records[LOW] & mode.ready) == (freq == 2)


@pytest.mark.parametrize("mode", [DEFAULT, PRECISE])
@pytest.mark.parametrize(("revision", "ready"), [(Revision.V7, True), (Revision.AFTER, False)])
def test_pghot_ready_and_a_new_window(mode: Mode, revision: Revision, ready: bool) -> None:
    """v7 keeps the bits that it does not replace, READY too; after it: from 0, and 1 is below 2."""
    thread = roomy(tiers([1] * 16), mode, revision)
    heat(thread, LOW)
    later = 1000 + (3200 if mode is DEFAULT else 5001)
    thread.record_access(LOW, 0, later)
    assert (thread.records[LOW] >> mode.freq_shift) & mode.freq_max == 1
    assert bool(thread.records[LOW] & mode.ready) == ready
    # The section stays hot and the node activated either way: after v7 for nothing.
    thread.wake(1, later)
    assert thread.world.calls == ([((LOW,), 0)] if ready else [])


def test_pghot_hz_250_stretches_the_buckets() -> None:
    """A jiffy is 4 ms: 800 jiffies are 3200 ms in the precise mode, below its 5000; 1251 are 5004, above."""
    for later, freq in ((1800, 2), (2251, 1)):
        thread = roomy(tiers([1] * 16), PRECISE, hz=250)
        thread.record_access(LOW, 0, 1000)
        thread.record_access(LOW, 0, later)
        assert (thread.records[LOW] >> 10) & 7 == freq


def test_pghot_records_lower_tier_pages_on_the_lru_only() -> None:
    """Counted as a hint fault: all four valid ones. Counted as recorded: none."""
    thread = roomy(tiers([1] * 16, off_lru=[LOW], offline=[LOW + 1]))
    for pfn, nid in ((0, 9), (LOW, 0), (LOW + 1, 0), (LOW + 2, 1)):
        assert thread.record_access(pfn, nid, 1000) == 0
    assert thread.world.counters["pghot_recorded_hintfaults"] == 4
    assert thread.world.counters["pghot_recorded_accesses"] == 0
    assert not any(thread.records.values())


def test_pghot_counts_a_folio_at_its_first_page() -> None:
    thread = roomy(tiers([1] * 16, folios=[(LOW, 4)]))
    thread.record_access(LOW + 1, 0, 1000)
    thread.record_access(LOW + 3, 0, 1000)
    assert thread.wake(1, 1000)
    assert thread.world.calls == [((LOW,), 0)]
    # One step for the folio, one for each of the twelve others.
    assert thread.world.counters["pfns_examined"] == 13
    assert thread.world.counters["pgpromote_success"] == 4


# -- pghot: the walk -----------------------------------------------------------------------------------------


def test_pghot_walks_only_if_the_flag_is_set() -> None:
    thread = roomy(tiers([1] * 16))
    thread.record_access(LOW, 0, 1000)
    assert not thread.wake(1, 1100)
    thread.record_access(LOW, 0, 1000)
    assert thread.wake(1, 1100)
    assert not thread.wake(1, 1200)
    assert thread.records[LOW] == 0


def test_pghot_flushes_at_each_section_s_end_and_skips_cold_sections() -> None:
    """Sections 2, 3, 4 of node 1; 3 is cold and no PFN of it is looked at."""
    thread = roomy(tiers([1] * 48))
    heat(thread, 32, 47, 64)
    thread.wake(1, 1000)
    assert thread.world.calls == [((47, 32), 0), ((64,), 0)]
    assert thread.world.counters["pfns_examined"] == 32
    assert thread.world.counters["cond_resched"] == 0


def test_pghot_flushes_when_target_or_memcg_changes() -> None:
    """Targets 0 0 9 9 and memcgs 5 5 5 6: flushed with the old node before the new folio is added."""
    thread = roomy(tiers([1] * 16, memcgs=[(32, 5), (33, 5), (34, 5), (35, 6)]), PRECISE)
    heat(thread, 32, 33, nid=0)
    heat(thread, 34, 35, nid=9)
    thread.wake(1, 1000)
    assert thread.world.calls == [((33, 32), 0), ((34,), 9), ((35,), 9)]
    assert thread.world.counters["cond_resched"] == 2


def test_pghot_batch_holds_one_more_than_batch_nr() -> None:
    """Added, then counted, then compared with ">": the 513th folio is the one that exceeds 512. Its
    migrate_pages() call needs a second round for the one folio that the first, full at 512 base pages, leaves
    over.
    """
    columns = layout([0] * 1024 + [1] * 600, [Span(0, 0, 1024), Span(1, 1024, 1624)], top_tier=(0,))
    thread = roomy(columns, section_pages=1024)
    heat(thread, *range(1024, 1624))
    thread.wake(1, 1000)
    assert [len(pfns) for pfns, _ in thread.world.calls] == [513, 87]
    assert thread.world.calls[0] == (tuple(range(1536, 1023, -1)), 0)
    assert migrate_rounds([1] * 513) == [512, 1]


def test_migrate_rounds_close_with_the_folio_that_reaches_512_pages() -> None:
    """511 small ones and a 2 MiB folio make one round of 1023 pages; a 2 MiB folio alone fills one."""
    assert migrate_rounds([1] * 511 + [512, 1]) == [512, 1]
    assert migrate_rounds([512, 512]) == [1, 1]
    assert migrate_rounds([]) == []


def test_pghot_full_batch_followed_by_another_target_calls_nothing_for_the_empty_list() -> None:
    """batch_nr 1: two folios fill it. The change to 9 finds the list empty; it is still a cond_resched."""
    thread = roomy(tiers([1] * 16), PRECISE, batch_nr=1)
    heat(thread, 32, 33, nid=0)
    heat(thread, 34, nid=9)
    thread.wake(1, 1000)
    assert thread.world.calls == [((33, 32), 0), ((34,), 9)]
    assert thread.world.counters["cond_resched"] == 2


def test_pghot_cleared_section_bit_strands_what_the_walk_skips() -> None:
    """Hot, then off its LRU list during the walk: READY stays, the section is cold, nobody returns."""
    thread = roomy(tiers([1] * 16))
    heat(thread, LOW)
    thread.world.pages[LOW].folio.on_lru = False
    thread.wake(1, 1000)
    thread.world.pages[LOW].folio.on_lru = True
    assert thread.records[LOW] & DEFAULT.ready
    thread.walk_node(1, 1000)
    assert thread.world.calls == []
    # Another hot page in the section brings it along.
    heat(thread, LOW + 5)
    thread.wake(1, 1000)
    assert thread.world.calls == [((LOW + 5, LOW), 0)]


def test_pghot_section_belongs_to_the_node_of_its_first_page() -> None:
    """Section 2 is half node 1, half node 2: node 2's thread never walks it, node 1's clears its bit and
    takes only its own pages. Section 3 begins with a hole and has no records at all.
    """
    nids = [1] * 8 + [2] * 8 + [1] * 16
    thread = roomy(tiers(nids, holes=[48]))
    heat(thread, 40)
    assert thread.activated == {2}
    thread.wake(2, 1000)
    assert thread.hot_sections == {2}
    heat(thread, 32)
    thread.wake(1, 1000)
    assert thread.world.calls == [((32,), 0)]
    assert thread.hot_sections == set()
    assert thread.records[40] & DEFAULT.ready
    heat(thread, 50)
    assert thread.records[50] == 0
    assert thread.world.counters["pghot_recorded_accesses"] == 4


def test_pghot_record_is_zeroed_before_the_page_is_refused() -> None:
    thread = roomy(tiers([1] * 16, refused=[LOW]))
    heat(thread, LOW)
    thread.wake(1, 1000)
    assert thread.records[LOW] == 0
    assert thread.world.counters["prepare_refused"] == 1
    assert thread.world.calls == []


# -- pghot: threshold and rate limit -------------------------------------------------------------------------


def test_pghot_rate_limit_lets_one_second_s_pages_through_and_zeroes_the_rest() -> None:
    """1 MB/s is 256 pages. At 2000 ms the second begins with the first candidate, which does not count
    against it: candidates 2 to 256 make 255, the 257th makes 256 and is stopped, and so are the 43 after it.
    """
    columns = layout(
        [0] * 512 + [1] * 300, [Span(0, 0, 512), Span(1, 512, 812)], top_tier=(0,), refused=[512]
    )
    thread = Pghot(columns, tunables=replace(SMALL, section_pages=512))
    heat(thread, *range(512, 812), now=2000)
    thread.wake(1, 2000)
    assert thread.world.counters["pgpromote_candidate"] == 300
    assert thread.world.counters["rate_limited"] == 44
    # PFN 512 is refused by prepare, after it was counted.
    assert thread.world.calls == [(tuple(range(767, 512, -1)), 0)]
    assert not any(thread.records.values())
    # 1001 ms later a new second begins; exactly 1000 ms would not do.
    heat(thread, 800, now=3000)
    thread.wake(1, 3000)
    assert len(thread.world.calls) == 1
    heat(thread, 800, now=3001)
    thread.wake(1, 3001)
    assert thread.world.calls[1:] == [((800,), 0)]


def test_pghot_threshold_drops_old_marks_before_the_rate_limit_counts_them() -> None:
    """Marked at 1000 (bucket 896), walked at 3968: 3072 ms old, the threshold is the window, 3000."""
    thread = Pghot(tiers([1] * 16), tunables=SMALL)
    heat(thread, LOW)
    thread.wake(1, 3968)
    assert thread.world.calls == []
    assert thread.records[LOW] == 0
    assert thread.world.counters["too_old"] == 1
    assert thread.world.counters["pgpromote_candidate"] == 0


def test_pghot_threshold_is_compared_with_not_less_than() -> None:
    """Precise mode, window and so threshold 5000 ms: a mark of 4999 ms passes, one of 5000 is too old."""
    thread = Pghot(tiers([1] * 16), PRECISE, tunables=SMALL)
    heat(thread, LOW)
    thread.wake(1, 5999)
    heat(thread, LOW + 1)
    thread.wake(1, 6000)
    assert thread.world.calls == [((LOW,), 0)]
    assert thread.world.counters["too_old"] == 1


def test_pghot_top_tier_page_in_a_lower_tier_section_is_not_recorded() -> None:
    """Section 2 begins with node 1 and so has records, but its second half is node 0's, of the top tier."""
    thread = roomy(tiers([1] * 8 + [0] * 8))
    heat(thread, 40, nid=9)
    assert thread.records[40] == 0
    assert thread.world.counters["pghot_recorded_accesses"] == 0


def test_pghot_free_memory_bypasses_threshold_and_rate_limit() -> None:
    thread = roomy(tiers([1] * 16), rate_limit_mbps=0)
    heat(thread, LOW)
    thread.wake(1, 3968)
    assert thread.world.calls == [((LOW,), 0)]
    assert thread.world.counters["pgpromote_candidate_nrl"] == 1
    assert thread.world.counters["pgpromote_candidate"] == 0


def test_pghot_threshold_moves_once_a_minute() -> None:
    """After 60 s with fewer candidates than nine tenths of 256 x 60 it rises by 3000 x 2 / 16 = 375 ms, to
    6000 at most; with more than eleven tenths it falls, to 375 at least; free memory resets it.
    """
    thread = Pghot(tiers([1] * 16), tunables=SMALL)
    now = 0
    for expected in (3375, 3750, 4125, 4500, 4875, 5250, 5625, 6000, 6000):
        now += 60_001
        thread.should_migrate(1, 0, 0, now)
        assert thread.promotion[0].threshold_ms == expected
    # 60 000 ms after the last step: not yet.
    thread.should_migrate(1, 0, 0, now + 60_000)
    assert thread.promotion[0].threshold_start_ms == now
    for expected in (5625, 5250):
        now += 60_001
        thread.promotion[0].candidates += 256 * 60 * 11 // 10 + 1
        thread.should_migrate(1, 0, 0, now)
        assert thread.promotion[0].threshold_ms == expected
    thread.roomy.add(0)
    thread.should_migrate(1, 0, 0, now)
    assert thread.promotion[0].threshold_ms == 0
