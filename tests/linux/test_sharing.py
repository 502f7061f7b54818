"""Who maps shared pages: two processes on files, and a count that a third one may be in."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from gpuscan.linux.hugetlb import free_huge_pages
from gpuscan.linux.numa import parse_numa_maps, read_allowance
from gpuscan.linux.process import Process
from gpuscan.linux.resident import PageFlags, pages_in
from gpuscan.linux.sharing import Sharing
from gpuscan.linux.system import System
from gpuscan.records.page_flags import Kpf
from procfs import FakeProcess

AT = 0x10000
FRAMES = np.arange(40, 48)


def heads(*pfns):
    return np.array(pfns, dtype=np.int64)


def orders(*values):
    return np.array(values, dtype=np.int64)


class Watched(System):
    """Files below a folder, a clock that stands, and how often /proc/PID/pagemap is opened."""

    def __init__(self, root):
        super().__init__(root)
        self.now_ns = self.read_takes_ns = self.n_opened = 0

    def monotonic_ns(self):
        return self.now_ns

    def open(self, path, flags, *args, **others):
        self.n_opened += path.name == "pagemap"
        return super().open(path, flags, *args, **others)

    def pread(self, *args):
        self.now_ns += self.read_takes_ns
        return super().pread(*args)


class Bed:
    """Two processes that map 40 to 47, the second one at other addresses, and how often these are mapped."""

    def __init__(self, root, capabilities="ffffffffffffffff"):
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/status").write_text(f"CapEff:\t{capabilities}\n")
        self.root = root
        self.first, self.second = FakeProcess(root, 77), FakeProcess(root, 78)
        for process, at in ((self.first, AT), (self.second, AT + 0x40000)):
            process.map(at, FRAMES, exclusive=False)
            lines = f"{at:x}-{at + 0x8000:x} rw-s 00000000 00:00 0 \n"
            (process.proc / "maps").write_text(lines)
        self.count(2)
        self.system = Watched(root)
        self.sharing = Sharing(self.system)
        self.processes = {7: self.first, 3: self.second}
        for process in (self.first, self.second):
            process.system = self.system

    def count(self, n, **others):
        counts = np.zeros(64, dtype=np.uint64)
        counts[FRAMES] = n
        for name, value in others.items():
            counts[int(name[1:])] = value
        (self.root / "proc/kpagecount").write_bytes(counts.tobytes())

    def newcomer(self, number, at, frames):
        """Have another process map pages, and watch it."""
        process = self.processes[number] = FakeProcess(self.root, 70 + number)
        process.system = self.system
        process.map(at, frames, exclusive=False)

    def look_again(self, frames=FRAMES):
        """Look for who else has pages, where the first one has them."""
        self.sharing.look_again(frames, AT + 0x1000 * (frames - FRAMES[0]), self.processes)

    def n_known(self):
        return int(self.sharing.are_watched(FRAMES, np.zeros(8, dtype=np.int64)).sum())

    def read(self):
        starts = {7: np.array([AT]), 3: np.array([AT + 0x40000])}
        self.sharing.read([(7, self.first, starts[7]), (3, self.second, starts[3])])


@pytest.fixture
def bed(tmp_path):
    bed = Bed(tmp_path)
    assert bed.sharing.why_not() == ""
    bed.read()
    yield bed
    bed.sharing.close()


def test_pages_of_which_all_mappings_were_found_are_known(bed):
    bed.count(2, p41=3, p42=1)
    assert bed.sharing.are_watched(heads(40, 41, 42, 43, 50), orders(0, 0, 0, 0, 0)).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert bed.sharing.are_watched(heads(40, 44), orders(2, 2)).tolist() == [False, True]


def test_the_process_with_the_lowest_number_comes_first(bed):
    first, end = bed.sharing.mappings.bounds(heads(44), orders(2))
    found = bed.sharing.mappings.take(np.arange(int(first[0]), int(end[0])))
    assert found.process.tolist() == [3, 7] * 4
    assert found.pfn.tolist() == [44, 44, 45, 45, 46, 46, 47, 47]
    assert found.address[:2].tolist() == [AT + 0x44000, AT + 0x4000]


def test_what_came_or_went_since_then_is_seen(bed):
    asked = heads(40, 41, 42, 44), orders(0, 0, 0, 2)
    assert bed.sharing.are_still(*asked).all()
    bed.count(2, p40=3)  # a third one
    assert bed.sharing.are_still(*asked).tolist() == [False, True, True, True]
    bed.second.unmap(AT + 0x41000)
    bed.count(2, p41=1)
    assert bed.sharing.are_still(*asked).tolist() == [True, True, True, True]
    bed.count(2)  # one went, and a stranger came
    assert bed.sharing.are_still(*asked).tolist() == [True, False, True, True]
    bed.second.map(AT + 0x42000, [60], exclusive=False)  # another frame is there now
    assert bed.sharing.are_still(*asked).tolist() == [True, False, False, True]


def test_who_was_forked_since_then_is_found_where_its_parent_has_the_page(bed):
    bed.count(3)
    bed.look_again()
    assert bed.n_known() == 0
    bed.newcomer(5, AT, FRAMES[:4])
    bed.newcomer(9, AT + 0x2000, FRAMES[2:])
    bed.count(3, p42=4, p43=4)
    bed.look_again(np.append(FRAMES[::-1], FRAMES[:7]))
    assert bed.n_known() == 8
    assert bed.sharing.are_still(FRAMES, np.zeros(8, dtype=np.int64)).all()
    found = bed.sharing.mappings
    assert found.process.tolist() == [3, 5, 7] * 2 + [3, 5, 7, 9] * 2 + [3, 7, 9] * 4
    assert found.pfn.tolist() == sorted([*FRAMES, *FRAMES, *FRAMES[:4], *FRAMES[2:]])
    assert (found.address == AT + 0x1000 * (found.pfn - 40) + 0x40000 * (found.process == 3)).all()
    bed.newcomer(6, AT, FRAMES[:3])
    bed.count(4, p42=5)
    bed.look_again()
    expected = [3, 5, 6, 7] * 2 + [3, 5, 6, 7, 9] + [3, 5, 7, 9] + [3, 7, 9] * 4
    assert bed.sharing.mappings.process.tolist() == expected, "nobody is found twice"


def test_one_look_looks_again_at_so_many_words_and_the_next_one_at_as_many(bed, monkeypatch):
    bed.newcomer(9, AT, FRAMES)
    bed.count(3)
    monkeypatch.setattr("gpuscan.linux.sharing._MOST_AGAIN", 9)
    for n_found in (3, 6, 8):
        bed.look_again()
        assert bed.n_known() == n_found


def test_words_between_two_pages_count_and_one_page_is_looked_for_whatever_it_takes(bed, monkeypatch):
    bed.newcomer(9, AT, FRAMES)
    bed.count(3)
    monkeypatch.setattr("gpuscan.linux.sharing._MOST_AGAIN", 9)
    few = FRAMES[[0, 2, 7]]
    for n_found in (2, 3):  # 3 words, and one that has 5 to be read
        bed.look_again(few)
        assert bed.n_known() == n_found


def test_strangers_on_the_first_pages_do_not_keep_the_others_from_their_turn(bed, monkeypatch):
    monkeypatch.setattr("gpuscan.linux.sharing._MOST_AGAIN", 12)
    bed.newcomer(9, AT + 0x6000, FRAMES[6:])
    bed.count(3)
    for number in (11, 12, 13, 14):  # each look has another newcomer, so nothing is known to be in vain
        bed.newcomer(number, AT, [])
        bed.look_again()
    assert bed.n_known() == 2


def test_what_was_looked_for_in_vain_waits_for_others_or_for_the_tables(bed):
    bed.count(3)
    bed.look_again()
    n_opened = bed.system.n_opened
    bed.look_again()
    assert bed.system.n_opened == n_opened
    bed.newcomer(9, AT, FRAMES[:1])
    bed.look_again()
    assert bed.n_known() == 1
    n_opened = bed.system.n_opened
    bed.look_again()
    assert bed.system.n_opened == n_opened
    bed.system.now_ns += 10_000_000_000
    bed.read()
    n_opened = bed.system.n_opened
    bed.look_again()
    assert bed.system.n_opened == n_opened + 3


def test_where_nobody_is_found_the_mappings_stay_as_they_are(bed):
    before = bed.sharing.mappings
    bed.look_again()
    bed.count(3)
    bed.look_again()
    assert bed.sharing.mappings is before


def test_looking_again_takes_a_twentieth_of_the_time(bed):
    bed.newcomer(9, AT, FRAMES[:1])
    bed.count(3)
    bed.system.read_takes_ns = 1000
    bed.look_again()
    took_ns = bed.system.now_ns
    assert took_ns == 4000, "the counts, and three tables"
    assert bed.n_known() == 1
    bed.newcomer(10, AT + 0x1000, FRAMES[1:2])
    bed.system.now_ns = 21 * took_ns - 1
    bed.look_again()
    assert bed.n_known() == 1
    bed.system.now_ns = 21 * took_ns
    bed.look_again()
    assert bed.n_known() == 2


def test_a_process_that_ended_has_nothing_mapped(bed):
    bed.second.alive = False
    assert not bed.sharing.are_still(heads(40), orders(0)).any()
    bed.count(1)
    assert bed.sharing.are_still(heads(40), orders(0)).all()


def test_what_counts_once_and_is_shared_is_not_told_of_hugetlb_pages(bed):
    bed.second.unmap(AT + 0x41000)
    bed.count(2, p41=1)
    asked, is_hugetlb = (heads(40, 41), orders(0, 0)), np.array([True, True])
    assert bed.sharing.are_still(*asked).tolist() == [True, True]
    assert bed.sharing.are_still(*asked, is_hugetlb).tolist() == [True, False]
    bed.sharing.keep([7])
    bed.count(1)
    assert bed.sharing.are_watched(*asked).tolist() == [True, True]
    assert bed.sharing.are_watched(*asked, is_hugetlb).tolist() == [False, False]


def test_who_is_not_watched_any_more_is_a_stranger(bed):
    bed.sharing.keep([7])
    assert not bed.sharing.are_watched(heads(40), orders(0)).any()
    bed.count(1)
    assert bed.sharing.are_watched(heads(40), orders(0)).all()


def test_without_the_right_nothing_is_opened(tmp_path):
    bed = Bed(tmp_path, capabilities="0")
    (tmp_path / "proc/kpagecount").unlink()
    assert bed.sharing.why_not() == "CAP_SYS_NICE is missing"
    assert not bed.sharing.are_watched(heads(40), orders(0)).any()


def test_mappings_with_pages_that_are_mapped_more_than_once():
    text = (
        "10000 default anon=3 dirty=3 mapmax=2 N2=3 kernelpagesize_kB=4\n"
        "20000 default anon=3 dirty=3 N2=3 kernelpagesize_kB=4\n"
    )
    assert [one.is_shared for one in parse_numa_maps(text)] == [True, False]


def test_hugetlb_pages_of_2_mib_may_move_and_larger_ones_stay(tmp_path):
    head, tail = (1 << Kpf.HUGE | 1 << bit for bit in (Kpf.COMPOUND_HEAD, Kpf.COMPOUND_TAIL))
    words = np.full(5 * 512, tail, dtype=np.uint64)
    words[[0, 512, 1024]] = head  # two of 2 MiB; what begins at 1024 goes on to the end
    words[2 * 512 - 1] |= 1 << Kpf.HWPOISON
    (tmp_path / "kpageflags").write_bytes(words.tobytes())
    flags = PageFlags(tmp_path / "kpageflags")
    folios = flags.folios_of(np.array([3, 512, 1100, 2000]))
    flags.close()
    assert folios.hugetlb.all()
    assert folios.movable.tolist() == [True, True, False, False]
    assert folios.head.tolist()[:2] == [0, 512]
    assert folios.order.tolist()[:2] == [9, 9]


def test_what_a_pool_does_not_say_it_does_not_have(tmp_path):
    assert free_huge_pages(0, System(tmp_path)) == 0


SHARES = """
import mmap, os, sys
memory = mmap.mmap(-1, 4 << 20)
memory[::4096] = b"x" * 1024
forked = os.fork()
if not forked:
    sum(memory[::4096])
    sys.stdout.write(f"{os.getppid()} {os.getpid()}\\n")
    sys.stdout.flush()
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="page frame numbers are root's to see")
def test_this_kernel_counts_as_many_mappings_as_are_found_of_all_who_share():
    with subprocess.Popen(
        [sys.executable, "-c", SHARES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        try:
            parent, forked = (Process(int(pid)) for pid in child.stdout.readline().split())
            for processes, are_all in (((parent, forked), True), ((parent,), False)):
                sharing = Sharing()
                assert sharing.why_not() == ""
                asked = [(n, one, read_allowance(one).shared) for n, one in enumerate(processes)]
                sharing.read(asked)
                shm = [
                    at
                    for at in parent.mappings()
                    if at.permissions == "rw-s" and at.end - at.start == 4 << 20
                ]
                pages = pages_in(parent, [(at.start, at.end) for at in shm])
                assert len(pages) == 1024
                assert not pages.exclusive.any()
                nothing = np.zeros(1024, dtype=np.int64)
                assert (sharing.are_watched(pages.pfn, nothing) == are_all).mean() > 0.95
                assert (sharing.are_still(pages.pfn, nothing) == are_all).mean() > 0.95
                sharing.close()
            parent.close()
            forked.close()
        finally:
            child.stdin.close()
