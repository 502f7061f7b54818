"""From addresses to page frames to folios, and the map back, on files as the kernel writes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from damon_kernel import stat_line
from gpuscan.base.errors import InputError
from gpuscan.linux import resident
from gpuscan.linux.address_map import AddressMap
from gpuscan.linux.process import Process, parse_maps, read_stat
from gpuscan.linux.ranges import as_ranges, contains, intersect, join
from gpuscan.linux.resident import NO_PAGES, PageFlags, Pages, pages_in, pfns_at, present_ranges
from gpuscan.linux.syscalls import has_pagemap_scan
from gpuscan.linux.system import System
from gpuscan.records.page_flags import Kpf
from procfs import LRU_PAGE, FakeProcess, large_folio, write_flags


def test_present_pages_of_ranges_with_what_the_kernel_says_of_them(tmp_path):
    process = FakeProcess(tmp_path)
    process.map(0x10000, [500, 501])
    process.map(0x13000, [900], exclusive=False, soft_dirty=True)
    pages = pages_in(process, [(0x10000, 0x20000)])
    assert pages.address.tolist() == [0x10000, 0x11000, 0x13000]
    assert pages.pfn.tolist() == [500, 501, 900]
    assert pages.exclusive.tolist() == [True, True, False]
    assert pages.soft_dirty.tolist() == [False, False, True]
    assert pages_in(process, [(0x11000, 0x12000)]).pfn.tolist() == [501]
    assert len(pages_in(process, [])) == 0


def counted_words(monkeypatch):
    """Count the words of pagemaps that are read from now on."""
    counted, words = [], resident._words

    def counting(system, fd, low, high):
        counted.append(high - low)
        return words(system, fd, low, high)

    monkeypatch.setattr(resident, "_words", counting)
    return counted


def test_a_few_pages_are_enough(tmp_path, monkeypatch):
    process = FakeProcess(tmp_path)
    process.map(0x10000, range(500, 600))
    counted = counted_words(monkeypatch)
    pages = pages_in(process, [(0, 0x20000), (0x20000, 1 << 46)], n_most=40)
    assert pages.pfn.tolist() == list(range(500, 540))
    assert sum(counted) <= 8 * 40
    counted.clear()
    assert len(pages_in(process, [(1 << 40, 1 << 46)], n_most=40)) == 0
    assert sum(counted) <= 8 * 40 + 40


def test_pages_with_small_holes_are_one_range():
    assert present_ranges(NO_PAGES).tolist() == []
    address = np.array([0x1000, 0x2000, 0x5000, 0x100_0000])
    nothing = np.zeros(4, dtype=np.bool_)
    assert present_ranges(Pages(address, address, nothing, nothing)).tolist() == [
        [0x1000, 0x6000],
        [0x100_0000, 0x100_1000],
    ]


RESERVES = """
import mmap
MAP_NORESERVE = 0x4000
memory = mmap.mmap(-1, 1 << 34, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory[5 << 12] = memory[7 << 12] = memory[3 << 32] = 1
print("there", flush=True)
input()
"""


@pytest.mark.skipif(not has_pagemap_scan(), reason="PAGEMAP_SCAN came with v6.7")
def test_of_memory_that_is_reserved_only_no_words_are_read(monkeypatch):
    counted = counted_words(monkeypatch)
    with subprocess.Popen(
        [sys.executable, "-c", RESERVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        with Process(child.pid) as process:
            (reserved,) = (one for one in process.mappings() if one.end - one.start >= 1 << 34)
            start = reserved.end - (1 << 34)  # the kernel may have joined another one to it
            pages = pages_in(process, [(start, reserved.end)])
        child.communicate(b"\n")
    assert (pages.address - start).tolist() == [5 << 12, 7 << 12, 3 << 32]
    assert sum(counted) == 3 + 1


def test_pages_of_a_process_that_ended(tmp_path):
    process = FakeProcess(tmp_path)
    (process.proc / "pagemap").unlink()
    assert len(pages_in(process, [(0, 0x10000)])) == 0


def test_frames_behind_addresses_far_apart(tmp_path):
    process = FakeProcess(tmp_path)
    process.map(0x10000, [500])
    process.map(0x9000_0000, [700, 701])
    addresses = np.array([0x10000, 0x12000, 0x9000_1000])
    assert pfns_at(process, addresses).tolist() == [500, -1, 701]


def test_the_pages_of_this_very_process():
    with Process(os.getppid()) as parent:
        pages = pages_in(parent, [(one.start, one.end) for one in parent.mappings()[:3]])
    assert len(pages) > 0


@pytest.fixture
def flags(tmp_path):
    write_flags(
        tmp_path,
        4096,
        {
            **large_folio(512, 9),
            **large_folio(1024, 4),
            100: 1 << Kpf.SLAB,
            101: LRU_PAGE | 1 << Kpf.HUGE,
            # Three pages that look like a folio that is being split.
            **{2048: LRU_PAGE | 1 << Kpf.COMPOUND_HEAD},
            **dict.fromkeys((2049, 2050), LRU_PAGE | 1 << Kpf.COMPOUND_TAIL),
        },
    )
    opened = PageFlags(tmp_path / "proc/kpageflags")
    yield opened
    opened.close()


def test_folios_behind_pages(flags):
    folios = flags.folios_of(np.array([7, 700, 1029, 100, 101, 2049, 512, 5000]))
    assert folios.head.tolist()[:3] == [7, 512, 1024]
    assert folios.order.tolist()[:3] == [0, 9, 4]
    assert folios.movable.tolist() == [True, True, True, False, False, False, True, False]


class Counted(np.ndarray):
    """An array that counts the elements that are computed with it."""

    n_elements = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        Counted.n_elements += max(np.size(one) for one in inputs)
        plain = [np.asarray(one) if isinstance(one, Counted) else one for one in inputs]
        found = getattr(ufunc, method)(*plain, **kwargs)
        return found.view(Counted) if isinstance(found, np.ndarray) else found


def test_the_work_for_huge_pages_grows_with_their_number_and_not_with_its_square(tmp_path, monkeypatch):
    monkeypatch.setattr(Counted, "n_elements", 0)
    n_blocks, n_each = 512, 8
    thp = LRU_PAGE | 1 << Kpf.THP
    words = np.full((n_blocks, 512), thp | 1 << Kpf.COMPOUND_TAIL, dtype=np.uint64)
    words[:, 0] = thp | 1 << Kpf.COMPOUND_HEAD
    (tmp_path / "kpageflags").write_bytes(words.tobytes())
    opened = PageFlags(tmp_path / "kpageflags")
    pfns = (np.arange(n_blocks)[::-1, None] * 512 + np.arange(n_each)).ravel()
    folios = opened.folios_of(pfns.view(Counted))
    opened.close()
    assert (folios.head == pfns // 512 * 512).all()
    assert (folios.order == 9).all()
    assert folios.movable.all()
    assert 0 < Counted.n_elements < 100 * len(pfns)


def test_flags_in_any_order(flags):
    huge = LRU_PAGE | 1 << Kpf.HUGE
    assert flags.at(np.array([101, 7, 101])).tolist() == [huge, LRU_PAGE, huge]


def entered(addresses, heads, at, process=0, tick=0, orders=None):
    heads = np.asarray(heads)
    orders = np.zeros(len(heads), dtype=np.int64) if orders is None else np.asarray(orders)
    return [part.tolist() for part in addresses.put(heads, np.asarray(at), orders, process, tick)]


def test_a_frame_that_stands_for_something_else_is_told():
    addresses = AddressMap()
    assert entered(addresses, [5, 9], [0x5000, 0x9000]) == [[True, True], [False, False]]
    assert entered(addresses, [2, 5, 9], [0x2000, 0x5000, 0xA000]) == [
        [True, False, False],
        [False, False, True],
    ]
    assert entered(addresses, [5], [0x5000], process=1) == [[False], [True]]
    assert entered(addresses, [2], [0x2000], orders=[9]) == [[False], [True]]
    found, known = addresses.find(np.array([5, 6, 9]))
    assert known.tolist() == [True, False, True]
    assert found.address[known].tolist() == [0x5000, 0xA000]
    assert found.process[known].tolist() == [1, 0]


def test_of_a_large_folio_any_page_may_be_the_first_seen():
    addresses = AddressMap()
    entered(addresses, [512], [0x200000], orders=[9])
    assert entered(addresses, [512], [0x201000], orders=[9]) == [[False], [False]]


def test_candidates_that_are_not_seen_again_grow_stale():
    addresses = AddressMap()
    entered(addresses, [5, 9], [0x5000, 0x9000], tick=1)
    entered(addresses, [9], [0x9000], tick=8)
    assert addresses.stale(8).tolist() == [5]
    addresses.drop(np.array([5, 77]))
    assert len(addresses) == 1


class AddressMapMachine(RuleBasedStateMachine):
    """An address map beside a dict that does the same."""

    heads = st.lists(st.integers(0, 30), max_size=12, unique=True)

    def __init__(self):
        super().__init__()
        self.addresses = AddressMap()
        self.model = {}

    @rule(heads=heads, shift=st.integers(0, 1), order=st.sampled_from([0, 9]), process=st.integers(0, 1))
    def put(self, heads, shift, order, process):
        tick = len(self.model)
        at = [(head + shift) << 12 for head in heads]
        new, reused = entered(self.addresses, heads, at, process, tick, [order] * len(heads))
        for head, address, is_new, is_reused in zip(heads, at, new, reused, strict=True):
            old = self.model.get(head)
            assert is_new == (old is None)
            stood_for = old is not None and (
                old[1:3] != (order, process) or (not order and old[0] != address)
            )
            assert is_reused == stood_for
            self.model[head] = (address, order, process, tick)

    @rule(heads=heads)
    def drop(self, heads):
        self.addresses.drop(np.array(heads, dtype=np.int64))
        for head in heads:
            self.model.pop(head, None)

    @rule(before=st.integers(0, 12))
    def stale(self, before):
        stale = self.addresses.stale(before).tolist()
        assert stale == sorted(head for head, entry in self.model.items() if entry[3] < before)

    @invariant()
    def all_is_found(self):
        found, known = self.addresses.find(np.arange(31))
        assert len(self.addresses) == len(self.model) == known.sum()
        columns = (found.head, found.address, found.order, found.process, found.seen_tick)
        rows = zip(*(column[known].tolist() for column in columns), strict=True)
        assert {head: tuple(rest) for head, *rest in rows} == self.model


TestAddressMap = AddressMapMachine.TestCase
TestAddressMap.settings = settings(deadline=None, max_examples=40, stateful_step_count=20)


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))),
)
def test_ranges_intersect_as_sets_do(left, right):
    def pages(pairs):
        return {page for start, end in pairs for page in range(start, end)}

    both = intersect(as_ranges(left), as_ranges(right))
    assert pages(both.tolist()) == pages(left) & pages(right)
    numbers = np.arange(61)
    assert set(numbers[contains(as_ranges(left), numbers)].tolist()) == pages(left)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=12),
    st.integers(1, 12),
)
def test_ranges_are_joined_over_the_smallest_holes(steps, n_most):
    edges = np.cumsum(np.array(steps, dtype=np.int64).reshape(-1, 2)).reshape(-1, 2)
    ranges = as_ranges([(start, end) for start, end in edges.tolist()])
    assert len(ranges) == len(steps)
    joined = join(ranges, n_most)
    assert len(joined) == min(len(ranges), n_most)
    assert len(intersect(joined, ranges)) == len(ranges)
    holes = sorted((ranges[1:, 0] - ranges[:-1, 1]).tolist(), reverse=True)
    assert (joined[1:, 0] - joined[:-1, 1]).sum() == sum(holes[: len(joined) - 1])


def test_mappings():
    text = (
        "7f00-8000 rw-p 00000000 00:00 0 \n"
        "a000-b000 r-xp 00001000 fe:00 26723                      /usr/lib/a b.so (deleted)\n"
        "c000-d000 r-xp 00000000 00:00 0                          [vdso]\n"
    )
    first, second, third = parse_maps(text)
    assert (first.start, first.end, first.permissions, first.name) == (0x7F00, 0x8000, "rw-p", "")
    assert second.name == "/usr/lib/a b.so (deleted)"
    assert [one.is_special for one in (first, second, third)] == [False, False, True]


def test_a_name_with_spaces_and_parentheses(tmp_path):
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/stat").write_text(stat_line(5, "a) b (c", start=4711))
    stat = read_stat(5, System(tmp_path))
    assert stat is not None
    assert (stat.comm, stat.start_ticks, stat.is_kernel_thread) == ("a) b (c", 4711, False)
    assert read_stat(6, System(tmp_path)) is None


def test_a_process_that_ends_is_not_alive_any_more():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with Process(child.pid) as process:
        assert process.is_alive()
        child.communicate(b"\n")
        assert not process.is_alive()
        assert process.mappings() == []


def test_a_signal_goes_to_the_process_that_was_meant_and_its_end_is_waited_for():
    with subprocess.Popen(["sleep", "60"]) as child, Process(child.pid) as process:
        assert not process.wait(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20)
        assert process.wait(20)
        process.send_signal(signal.SIGTERM)  # to nobody
    assert child.returncode == -signal.SIGTERM


def test_processes_that_are_refused():
    with pytest.raises(InputError, match="is gpuscan itself"):
        Process(os.getpid())
    with pytest.raises(InputError, match="4194304000 is no process id"):
        Process(4194304000)
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        with pytest.raises(InputError, match="has ended"):
            Process(child.pid)


def test_a_kernel_thread_is_refused():
    if (stat := read_stat(2)) is None or not stat.is_kernel_thread:
        pytest.skip("process 2 is no kernel thread: this is a PID namespace of its own")
    with pytest.raises(InputError, match="is a kernel thread, which gpuscan never touches"):
        Process(2)
