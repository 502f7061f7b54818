"""The monitors on files as the kernel has them: idle marks, flags, soft-dirty bits; DAMON on its fake."""

from __future__ import annotations

import errno
import os
from typing import Any

import numpy as np
import pytest

from damon_kernel import DamonKernel, stat_line
from gpuscan.base.errors import InputError
from gpuscan.linux import damon_state, resident
from gpuscan.linux.damon import NO_REGIONS, Damon, Intervals, Regions
from gpuscan.linux.damon_taken import DamonUnavailableError
from gpuscan.linux.resident import pages_in
from gpuscan.linux.system import System
from gpuscan.monitors.built_in.damon import MOST_PROCESSES, DamonVirtual
from gpuscan.monitors.built_in.damon_paddr import DamonPhysical
from gpuscan.monitors.built_in.idle import BITMAP, IdleTracking
from gpuscan.monitors.built_in.kpageflags import ReferencedFlags
from gpuscan.monitors.built_in.soft_dirty import SoftDirty
from gpuscan.monitors.largest import Largest
from gpuscan.monitors.quiet_memory import QuietMemory
from gpuscan.monitors.touched import NOTHING, REHEARSED_PAGES, Touched
from gpuscan.records.page_flags import Kpf
from procfs import LRU_PAGE, FakeProcess, large_folio, write_flags

BASE = 0x10000
N_FRAMES = 4096


@pytest.fixture
def process(tmp_path):
    process = FakeProcess(tmp_path)
    process.add_mapping(BASE, BASE + 0x100_0000)
    process.add_mapping(0x7000_0000, 0x7000_2000, "r-xp", "[vdso]")
    return process


class IdleBitmap:
    """page_idle/bitmap as a file: :meth:`access` clears the mark of a frame, as the kernel does.

    A call moves 4,096 bytes at most (kernfs_file_read_iter(), kernfs_fop_write_iter(), fs/kernfs/file.c).
    """

    def __init__(self, root, monkeypatch, n_frames=N_FRAMES):
        self.path = root / BITMAP
        self.path.parent.mkdir(parents=True)
        self.path.write_bytes(bytes(n_frames // 8))
        preadv, pwrite = os.preadv, os.pwrite

        def is_this(fd):
            return os.path.samestat(os.fstat(fd), self.path.stat())

        def read(fd, views, at):
            return preadv(fd, [view[:4096] for view in views] if is_this(fd) else views, at)

        def write(fd, data, at):
            return pwrite(fd, data[:4096] if is_this(fd) else data, at)

        monkeypatch.setattr(os, "preadv", read)
        monkeypatch.setattr(os, "pwrite", write)

    def words(self):
        return np.frombuffer(self.path.read_bytes(), dtype=np.uint64).copy()

    def marked(self):
        words = self.words()
        return [pfn for pfn in range(N_FRAMES) if int(words[pfn // 64]) >> pfn % 64 & 1]

    def access(self, pfn):
        words = self.words()
        words[pfn // 64] &= ~np.uint64(1 << pfn % 64)
        self.path.write_bytes(words.tobytes())


def test_idle_marks_go_on_heads_only_and_accesses_take_them_off(tmp_path, process, monkeypatch):
    write_flags(tmp_path, N_FRAMES, large_folio(512, 4))
    bitmap = IdleBitmap(tmp_path, monkeypatch)
    process.map(BASE, [100, 101, 700, *range(512, 528)])
    monitor = IdleTracking(System(tmp_path))
    monitor.watch([process])
    assert bitmap.marked() == [100, 101, 512, 700]
    assert len(monitor.observe(0)[0].hot) == 0
    bitmap.access(101)
    bitmap.access(512)
    hot = monitor.observe(1)[0].hot
    assert hot.pfn.tolist() == [101, *range(512, 528)]
    assert bitmap.marked() == [100, 101, 512, 700]
    monitor.close()


def test_more_idle_marks_than_one_call_takes(tmp_path, process, monkeypatch):
    n, heap = 70_000, BASE + 0x1000_0000
    write_flags(tmp_path, 1 << 17)
    bitmap = IdleBitmap(tmp_path, monkeypatch, 1 << 17)
    process.add_mapping(heap, heap + n * 4096)
    process.map(heap, range(100, 100 + n))
    monitor = IdleTracking(System(tmp_path))
    monitor.watch([process])
    assert len(monitor.observe(0)[0].hot) == 0
    for pfn in (99, 60_000, 70_050, 70_100):
        bitmap.access(pfn)
    assert monitor.observe(0)[0].hot.pfn.tolist() == [60_000, 70_050]
    monitor.close()


def test_pages_whose_mark_is_not_taken_are_not_accessed(tmp_path, process, monkeypatch):
    write_flags(tmp_path, N_FRAMES)
    IdleBitmap(tmp_path, monkeypatch, 128)
    process.map(BASE, [100, 101, 200, 900])  # the bitmap ends before the last two
    plain = os.pwrite

    def write(fd, data, at):
        if at >= 16:
            raise OSError(errno.ENXIO, "No such device or address")
        return plain(fd, data[: 16 - at], at)

    monkeypatch.setattr(os, "pwrite", write)
    monitor = IdleTracking(System(tmp_path))
    monitor.watch([process])
    assert len(monitor.observe(0)[0].hot) == 0
    monitor.close()


def test_who_is_watched_already_keeps_its_idle_marks_when_others_come(tmp_path, process, monkeypatch):
    write_flags(tmp_path, N_FRAMES)
    bitmap = IdleBitmap(tmp_path, monkeypatch)
    other = FakeProcess(tmp_path, 78)
    other.add_mapping(BASE, BASE + 0x10000)
    process.map(BASE, [100])
    other.map(BASE, [200])
    monitor = IdleTracking(System(tmp_path))
    monitor.watch([process])
    bitmap.access(100)
    monitor.watch([process, other])
    assert bitmap.marked() == [200]
    assert [len(touched.hot) for touched in monitor.observe(0)] == [1, 0]
    monitor.close()


def test_a_page_that_was_not_marked_is_not_accessed(tmp_path, process, monkeypatch):
    write_flags(tmp_path, N_FRAMES)
    IdleBitmap(tmp_path, monkeypatch)
    process.map(BASE, [100])
    monitor = IdleTracking(System(tmp_path), cold_after_ns=10)
    monitor.watch([process])
    monitor.observe(0)
    process.map(BASE + 4096, [200])
    touched = monitor.observe(100)[0]
    assert len(touched.hot) == 0
    assert touched.cold.pfn.tolist() == [100]  # the other came only now
    monitor.close()


def test_no_idle_tracking(tmp_path):
    with pytest.raises(InputError, match="CONFIG_IDLE_PAGE_TRACKING"):
        IdleTracking(System(tmp_path))


@pytest.mark.parametrize(("lru_gen", "hot"), [(False, [100, 101]), (True, [100])])
def test_flags_that_reclaim_left(tmp_path, process, lru_gen, hot):
    write_flags(tmp_path, N_FRAMES, {100: LRU_PAGE | 1 << Kpf.REFERENCED, 101: LRU_PAGE | 1 << Kpf.ACTIVE})
    if lru_gen:
        enabled = tmp_path / "sys/kernel/mm/lru_gen/enabled"
        enabled.parent.mkdir(parents=True)
        enabled.write_text("0x0007\n")
    process.map(BASE, [100, 101, 102])
    monitor = ReferencedFlags(System(tmp_path))
    monitor.watch([process])
    assert monitor.observe(0)[0].hot.pfn.tolist() == hot
    process.alive = False
    assert len(monitor.observe(0)[0].hot) == 0
    monitor.close()


class SoftDirtyKernel(System):
    def __init__(self, has_bits=True):
        super().__init__()
        self.has_bits = has_bits

    def has_soft_dirty(self):
        return self.has_bits

    def has_pagemap_scan(self):
        return False


def test_soft_dirty_bits_are_read_and_cleared(tmp_path, process):
    process.map(BASE, [100, 101])
    process.map(BASE + 0x4000, [300], soft_dirty=True)
    monitor = SoftDirty(system=SoftDirtyKernel())
    monitor.watch([process])
    clear_refs = process.proc / "clear_refs"
    assert clear_refs.read_text() == "4"
    clear_refs.unlink()
    assert monitor.observe(0)[0].hot.pfn.tolist() == [300]
    assert clear_refs.read_text() == "4"


def test_a_kernel_without_soft_dirty_bits():
    with pytest.raises(InputError, match="CONFIG_MEM_SOFT_DIRTY"):
        SoftDirty(system=SoftDirtyKernel(has_bits=False))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(Damon, "_start_watchdog", lambda self: None)
    return DamonKernel(tmp_path, monkeypatch)


def test_damon_regions_become_pages_that_are_there(kernel, process):
    process.map(BASE, range(100, 164))
    monitor = DamonVirtual(System(kernel.root), Intervals(5_000, 50_000), cold_after_ns=1_000_000_000)
    monitor.watch([process])
    kernel.regions[0] = [
        (BASE - 0x1000, BASE + 0x10000, 10, 3),  # begins before the mapping
        (BASE + 0x10000, BASE + 0x18000, 5, 3),
        (BASE + 0x18000, BASE + 0x20000, 0, 5),
        (BASE + 0x20000, BASE + 0x8000_0000, 0, 50),
    ]
    touched = monitor.observe(0)[0]
    assert touched.hot.pfn.tolist() == list(range(100, 116))
    assert touched.sure is not None
    assert touched.sure.all()
    assert touched.cold.pfn.tolist() == list(range(132, 164))
    kernel.regions[0] = [(BASE, BASE + 0x10000, 8, 3)]
    touched = monitor.observe(0)[0]
    assert touched.sure is not None
    assert (len(touched.hot), bool(touched.sure.any())) == (16, False)
    monitor.close()


def test_a_process_begins_in_pieces_of_what_it_can_access(kernel, process):
    heap = BASE + 0x4000_0000
    process.add_mapping(heap, heap + 0x800_0000)
    process.add_mapping(heap + 0x900_0000, heap + 0x5000_0000, "---p")  # reserved only
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process])
    target = kernel.admin / "0/contexts/0/targets/0"
    n_regions = int((target / "regions/nr_regions").read_text())
    starts, ends = (
        np.array([int((target / f"regions/{number}/{end}").read_text()) for number in range(n_regions)])
        for end in ("start", "end")
    )
    assert (ends - starts).max() <= (3 << 18) + 4096
    assert {(BASE, heap), (BASE + 0x100_0000, heap + 0x800_0000)} == {
        (starts[0], starts[np.argmax(starts >= heap)]),
        (ends[np.argmax(starts >= heap) - 1], ends[-1]),
    }
    assert (ends - starts).sum() == 0x100_0000 + 0x800_0000
    monitor.close()


def test_a_region_inside_a_hot_stretch_is_hot_though_its_count_is_low(kernel, process):
    process.map(BASE, range(100, 228))
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process])
    kernel.regions[0] = [
        (BASE + 0x10000 * number, BASE + 0x10000 * (number + 1), count, 3)
        for number, count in enumerate((6, 6, 4, 6, 6, 6, 4, 0))
    ]
    touched = monitor.observe(0)[0]
    assert touched.hot.pfn.tolist() == list(range(100, 196))  # not the last one, over the border
    assert touched.sure is not None
    assert touched.sure.all()
    monitor.close()


def test_each_mapping_has_its_own_bar(kernel, process):
    heap = BASE + 0x200_0000
    process.add_mapping(heap, heap + 0x10000)
    process.map(BASE, range(100, 116))
    process.map(heap, range(200, 216))
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process])
    kernel.regions[0] = [(BASE, BASE + 0x10000, 10, 3), (heap, heap + 0x10000, 4, 3)]
    assert len(monitor.observe(0)[0].hot) == 32
    monitor.close()


def test_damon_without_demotion_reports_accessed_regions_only(kernel, process):
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process])
    assert ("0/contexts/0/schemes/0/access_pattern/nr_accesses/min", "1") in kernel.written
    assert len(monitor.observe(0)[0].hot) == 0
    monitor.close()


def test_too_many_processes_for_a_kdamond_each(kernel, process):
    monitor = DamonVirtual(System(kernel.root))
    with pytest.raises(InputError, match="--monitor damon-paddr"):
        monitor.watch([process] * (MOST_PROCESSES + 1))
    monitor.close()


def counts_of_starts(kernel):
    return sum(name.endswith("state") and value == "on" for name, value in kernel.written)


def test_no_kdamond_starts_anew_when_a_process_ends(kernel, process, tmp_path):
    other = FakeProcess(tmp_path, 78)
    other.add_mapping(BASE, BASE + 0x10000)
    other.map(BASE, range(200, 210))
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process, other])
    assert counts_of_starts(kernel) == 2
    process.alive = False
    kernel.kill_kdamond(0)
    kernel.regions[1] = [(BASE, BASE + 0x10000, 6, 3)]
    kernel.written.clear()
    monitor.watch([other])
    assert kernel.written == []
    (touched,) = monitor.observe(0)
    assert touched.hot.pfn.tolist() == list(range(200, 210))
    monitor.watch([other, FakeProcess(tmp_path, 79)])
    assert (kernel.admin / "0/contexts/0/targets/0/pid_target").read_text() == "79\n"
    monitor.close()


def test_the_kdamond_of_a_zombie_is_stopped(kernel, process, tmp_path):
    """damon_va_target_valid() finds its task until it is reaped (mm/damon/vaddr.c, v6.12)."""
    other = FakeProcess(tmp_path, 78)
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process, other])
    process.alive = False
    monitor.watch([other])
    assert [(kernel.admin / f"{number}/state").read_text() for number in (0, 1)] == ["off\n", "on\n"]
    monitor.close()


def test_who_is_watched_no_more_has_no_kdamond(kernel, process, tmp_path):
    other = FakeProcess(tmp_path, 78)
    other.add_mapping(BASE, BASE + 0x10000)
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process, other])
    monitor.watch([other])
    assert counts_of_starts(kernel) == 2
    assert [(kernel.admin / f"{number}/state").read_text() for number in (0, 1)] == ["off\n", "on\n"]
    assert (kernel.admin / "0/contexts/nr_contexts").read_text() == "0\n"
    kernel.regions[1] = [(BASE, BASE + 0x10000, 6, 3)]
    assert len(monitor.observe(0)) == 1
    monitor.close()


def test_newcomers_leave_the_kdamonds_of_others_as_they_are(kernel, process, tmp_path):
    process.map(BASE, range(100, 116))
    kernel.regions[0] = [(BASE, BASE + 0x10000, 6, 3)]
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process])
    pid = (kernel.admin / "0/pid").read_text()
    for n in range(100):  # more than there are kdamonds
        newcomers = [FakeProcess(tmp_path, 200 + n + i) for i in range(2)]
        monitor.watch([newcomers[0], process, newcomers[1]])
        assert [len(touched.hot) for touched in monitor.observe(0)] == [0, 16, 0]
    assert (kernel.admin / "0/pid").read_text() == pid
    assert (
        sum(name == "nr_kdamonds" for name, _ in kernel.written) == 3
    )  # to see what it can, and to have them
    assert sum((kernel.admin / f"{number}/state").read_text() == "on\n" for number in range(64)) == 3
    monitor.watch([])
    assert not any((kernel.admin / f"{number}/state").read_text() == "on\n" for number in range(64))
    monitor.close()
    assert (kernel.admin / "nr_kdamonds").read_text() == "0\n"


def test_a_kdamond_that_others_switch_off_is_started_again_with_a_newcomer(kernel, process, tmp_path):
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process])
    kernel.write(System(kernel.root), kernel.admin / "0/state", "off")
    monitor.watch([process, FakeProcess(tmp_path, 78)])
    assert counts_of_starts(kernel) == 3
    assert [(kernel.admin / f"{number}/state").read_text() for number in (0, 1)] == ["on\n", "on\n"]
    monitor.close()


def on(kernel):
    """Return whom the kdamonds that are on watch."""
    found = []
    for number in range(int((kernel.admin / "nr_kdamonds").read_text())):
        if (kernel.admin / f"{number}/state").read_text() == "on\n":
            target = kernel.admin / f"{number}/contexts/0/targets/0/pid_target"
            found.append(int(target.read_text()))
    return sorted(found)


def with_two_of_which_one_is_refused(kernel, process, tmp_path, monkeypatch, error):
    """Watch a process, then two more; the kdamond of the first of these goes on, that of the second not."""
    process.map(BASE, range(100, 116))
    newcomers = [FakeProcess(tmp_path, pid) for pid in (78, 79)]
    (newcomers[1].proc / "stat").write_text(stat_line(79, "refused"))
    monitor = DamonVirtual(System(kernel.root), cold_after_ns=1_000_000_000)
    monitor.watch([process])

    def refusing(system, path, value):
        if (path, value) == (kernel.admin / "2/state", "on"):
            raise error
        kernel.write(system, path, value)

    with monkeypatch.context() as refused:
        refused.setattr(damon_state, "write", refusing)
        with pytest.raises((InputError, KeyboardInterrupt)):
            monitor.watch([process, *newcomers])
    assert on(kernel) == [77, 78]
    return monitor, newcomers


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "refused"), KeyboardInterrupt()])
@pytest.mark.parametrize("again", [0, 1, 2])
def test_after_a_newcomer_is_refused_all_start_anew(kernel, process, tmp_path, monkeypatch, error, again):
    monitor, newcomers = with_two_of_which_one_is_refused(kernel, process, tmp_path, monkeypatch, error)
    kernel.regions[0] = [(BASE, BASE + 0x10000, 6, 3)]
    assert monitor.observe(0) == [NOTHING] * 3
    watched = [process, *newcomers[:again]]
    monitor.watch(watched)
    assert on(kernel) == [one.pid for one in watched]
    assert [len(touched.hot) for touched in monitor.observe(0)] == [16, *[0] * again]
    monitor.close()
    assert (kernel.admin / "nr_kdamonds").read_text() == "0\n"


def test_after_a_newcomer_is_refused_it_closes(kernel, process, tmp_path, monkeypatch):
    error = OSError(errno.ENOMEM, "refused")
    monitor, _ = with_two_of_which_one_is_refused(kernel, process, tmp_path, monkeypatch, error)
    monitor.close()
    assert (kernel.admin / "nr_kdamonds").read_text() == "0\n"


def test_nothing_is_seen_of_a_newcomer_before_it_has_a_kdamond(kernel, process, tmp_path, monkeypatch):
    process.map(BASE, range(100, 116))
    kernel.regions[0] = [(BASE, BASE + 0x10000, 6, 3)]
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process])

    def failing(*_):
        raise OSError(errno.EIO, "cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(Damon, "is_running", failing)
        with pytest.raises(OSError, match="cannot be read"):
            monitor.watch([FakeProcess(tmp_path, 78), process])
    assert [len(touched.hot) for touched in monitor.observe(0)] == [0, 16]
    monitor.close()


@pytest.mark.parametrize("has_ended", [True, False])
@pytest.mark.parametrize("pids", [[], [78]])
def test_where_somebody_removes_all_kdamonds_it_starts_anew(kernel, process, tmp_path, has_ended, pids):
    process.map(BASE, range(100, 116))
    kernel.regions[0] = [(BASE, BASE + 0x10000, 6, 3)]
    monitor = DamonVirtual(System(kernel.root))
    monitor.watch([process])
    process.alive = not has_ended
    kernel.kill_kdamond(0)
    kernel.write(System(kernel.root), kernel.admin / "nr_kdamonds", 0)
    assert monitor.observe(0) == [NOTHING]
    assert monitor.cpu_s() == 0
    newcomers = [FakeProcess(tmp_path, pid) for pid in pids]
    there = [] if has_ended else [process]
    monitor.watch([*there, *newcomers])
    assert on(kernel) == [one.pid for one in (*there, *newcomers)]
    assert [len(touched.hot) for touched in monitor.observe(0)][: len(there)] == [16] * len(there)
    monitor.close()
    assert (kernel.admin / "nr_kdamonds").read_text() == "0\n"


class Clock(System):
    now_ns = 0

    def monotonic_ns(self):
        return self.now_ns


def test_what_is_cold_is_found_by_its_age_though_newcomers_come(kernel, process, tmp_path):
    process.map(BASE, range(100, 116))
    clock = Clock(kernel.root)
    monitor = DamonVirtual(clock, Intervals(), cold_after_ns=2_000_000_000)
    cold = []
    for look in range(12):
        clock.now_ns = look * 250_000_000
        monitor.watch([process, FakeProcess(tmp_path, 200 + look)])
        kernel.regions[0] = [(BASE, BASE + 0x10000, 0, look * 4)]  # of 60 ms
        cold.append(len(monitor.observe(clock.now_ns)[0].cold))
    assert cold == [0] * 8 + [16] * 4
    monitor.close()


def test_nothing_is_known_of_a_time_when_no_kdamond_was_on(kernel, process, tmp_path):
    process.map(BASE, range(100, 116))
    clock = Clock(kernel.root)
    monitor = DamonVirtual(clock, Intervals(), cold_after_ns=5_000_000_000)

    def cold(now_ms, age):
        clock.now_ns = now_ms * 1_000_000
        kernel.regions[0] = [(BASE, BASE + 0x10000, 0, age)]
        return len(monitor.observe(clock.now_ns)[0].cold)

    monitor.watch([process])
    assert cold(4_000, 66) == 0
    kernel.write(System(kernel.root), kernel.admin / "0/state", "off")
    clock.now_ns = 600_000_000_000
    monitor.watch([process, FakeProcess(tmp_path, 78)])
    assert [cold(600_250, 4), cold(604_900, 81), cold(605_000, 82)] == [0, 0, 16]
    monitor.close()


def test_who_ended_and_is_watched_again_has_nothing_cold(kernel, process, tmp_path):
    other = FakeProcess(tmp_path, 78)
    monitor = DamonVirtual(System(kernel.root), cold_after_ns=5_000_000_000)
    monitor.watch([process, other])
    process.alive = False
    kernel.kill_kdamond(0)
    monitor.watch([other])
    monitor.watch([process, other])
    assert [len(touched.cold) for touched in monitor.observe(0)] == [0, 0]
    monitor.close()


def quiet_at(quiet, now_ms, *regions):
    """(nr_accesses, age) of one page after the other; return the pages that are cold."""
    starts = np.arange(len(regions)) * 4096
    counts, ages = np.array(regions).T
    found = quiet.look(Regions(np.stack([starts, starts + 4096], axis=1), counts, ages), now_ms * 1_000_000)
    return [page for start, end in found.tolist() for page in range(start >> 12, end >> 12)]


def test_memory_whose_age_does_not_reach_back_to_the_last_look_counts_anew():
    quiet = QuietMemory(Intervals(), 1_000_000_000, 0)
    assert [quiet_at(quiet, *look) for look in ((900, (0, 15)), (1_000, (0, 16)))] == [[], [0]]
    assert quiet_at(quiet, 1_500, (0, 1)) == []  # accessed 60 ms ago, between two looks
    assert quiet_at(quiet, 1_600, (0, 2)) == []
    assert len(quiet.look(NO_REGIONS, 1_700_000_000)) == 0
    assert quiet_at(quiet, 2_600, (0, 18)) == [0]


def test_memory_quiet_from_the_start_is_cold_by_the_clock_though_its_kdamond_lags():
    quiet = QuietMemory(Intervals(), 10_000_000_000, 0)
    # 5 % behind the clock; the second page has an access after three seconds.
    looks = [(second * 1_000, (0, second * 16), (0, second * 16 - 48)) for second in range(4, 13)]
    looks.insert(0, (3_000, (0, 48), (1, 0)))
    assert [quiet_at(quiet, *look) for look in looks] == [[]] * 7 + [[0]] * 3


def test_what_is_cold_once_is_cold_until_it_has_an_access():
    quiet = QuietMemory(Intervals(), 1_000_000_000, 0)
    quiet_at(quiet, 500, (1, 0))
    # Its age is behind the clock by more than the second look would allow.
    assert [quiet_at(quiet, *look) for look in ((1_600, (0, 17)), (1_700, (0, 1)))] == [[0], [0]]
    assert [quiet_at(quiet, *look) for look in ((1_800, (1, 0)), (1_900, (0, 1)))] == [[], []]


def test_a_rehearsal_is_on_a_few_pages(kernel, process, monkeypatch):
    process.map(BASE, range(100, 164))
    process.add_mapping(1 << 40, 1 << 44)
    n_words, words = [], resident._words

    def counting(system, fd, low, high):
        n_words.append(high - low)
        return words(system, fd, low, high)

    monkeypatch.setattr(resident, "_words", counting)
    monitor = DamonVirtual(System(kernel.root), Intervals(min_regions=(1, 1)))
    monitor.watch([process])
    assert sum(n_words) < 16 * REHEARSED_PAGES
    monitor.close()


def test_nodes_whose_memory_does_not_lie_in_the_order_of_their_numbers(kernel, process):
    ranges = [(0x4000_0000, 0x8000_0000), (0x1000_0000, 0x4000_0000), (0, 0x10_0000)]
    monitor = DamonPhysical(ranges, System(kernel.root), Intervals(min_regions=(4, 4)))
    monitor.watch([process])
    target = kernel.admin / "0/contexts/0/targets/0/regions"
    assert (target / "0/start").read_text() == "0\n"
    monitor.close()


def test_where_damon_was_taken_meanwhile_nothing_is_seen(kernel, process, monkeypatch):
    monitor = DamonPhysical([(0, N_FRAMES * 4096)], System(kernel.root))
    with monkeypatch.context() as refusing:

        def refused(*_args, **_more):
            raise DamonUnavailableError("it is taken")

        refusing.setattr(Damon, "start", refused)
        with pytest.raises(DamonUnavailableError):
            monitor.watch([process])
    assert monitor.observe(0) == [NOTHING]
    monitor.close()


def test_physical_regions_become_the_pages_of_each_process(kernel, process, tmp_path):
    other = FakeProcess(tmp_path, 78)
    other.add_mapping(BASE, BASE + 0x10000)
    process.map(BASE, range(100, 110))
    other.map(BASE, range(200, 210))
    monitor = DamonPhysical([(0, N_FRAMES * 4096)], System(kernel.root), cold_after_ns=1_000_000_000)
    monitor.watch([process, other])
    kernel.regions[0] = [
        (0, 105 * 4096, 10, 3),
        (105 * 4096, 205 * 4096, 0, 50),
        (205 * 4096, 210 * 4096, 10, 3),
    ]
    first, second = monitor.observe(0)
    assert (len(first.hot), len(second.hot)) == (0, 0)
    assert first.cold.pfn.tolist() == list(range(105, 110))
    first, second = monitor.observe(0)
    assert first.hot.pfn.tolist() == list(range(100, 105))
    assert first.cold.pfn.tolist() == list(range(105, 110))
    assert second.hot.pfn.tolist() == list(range(205, 210))
    assert second.sure is not None
    assert second.sure.all()
    kernel.regions[0] = [(205 * 4096, 210 * 4096, 10, 3)]
    first, second = monitor.observe(0)
    assert (len(first.hot), len(second.hot)) == (0, 5)
    monitor.close()


class Counted:
    """A monitor that says which processes it was given."""

    name, sees = "counted", "all"

    def __init__(self):
        self.watched: Any = []
        self.starts = 0

    def watch(self, processes):
        self.watched = list(processes)
        self.starts += 1

    def observe(self, now_ns):
        return [Touched(pages_in(process, [(BASE, BASE + 4096)])) for process in self.watched]

    def cpu_s(self):
        return 0.5

    def close(self):
        self.watched = None


def sized(tmp_path, pid, n_pages):
    process = FakeProcess(tmp_path, pid)
    process.map(BASE, [pid])
    (process.proc / "statm").write_text(f"9999 {n_pages} 5 1 0 9 0\n")
    return process


def test_of_too_many_processes_the_largest_are_watched_and_the_others_are_unseen(tmp_path):
    inner = Counted()
    monitor = Largest(inner, 2)
    small, large, middle = (sized(tmp_path, pid, n) for pid, n in ((100, 10), (101, 1000), (102, 100)))
    monitor.watch([small, large])
    assert inner.watched == [small, large]
    assert (monitor.name, monitor.sees) == ("counted", "all")
    assert [touched.unseen for touched in monitor.observe(0)] == [False, False]
    monitor.watch([small, large, middle])
    assert inner.watched == [large, middle]
    assert monitor.sees == "all; of 3 processes the 2 largest"
    seen = monitor.observe(0)
    assert [touched.unseen for touched in seen] == [True, False, False]
    assert [touched.hot.pfn.tolist() for touched in seen] == [[], [101], [102]]
    assert monitor.cpu_s() == 0.5
    monitor.close()
    assert inner.watched is None


def test_the_largest_are_asked_for_again_once_they_were_refused(tmp_path, monkeypatch):
    inner = Counted()
    monitor = Largest(inner, 1)
    processes = [sized(tmp_path, pid, n) for pid, n in ((100, 100), (101, 90))]

    def refusing(_):
        raise InputError("refused")

    with monkeypatch.context() as patched:
        patched.setattr(inner, "watch", refusing)
        with pytest.raises(InputError):
            monitor.watch(processes)
    monitor.watch(processes)
    monitor.watch(processes)
    assert (inner.watched, inner.starts) == (processes[:1], 1)


def test_who_is_watched_gives_way_to_what_is_twice_as_large_and_nothing_starts_anew_before(tmp_path):
    inner = Counted()
    monitor = Largest(inner, 1)
    first, other = sized(tmp_path, 100, 100), sized(tmp_path, 101, 90)
    monitor.watch([first, other])
    (other.proc / "statm").write_text("9 190 5 1 0 9 0\n")
    monitor.watch([first, other])
    assert (inner.watched, inner.starts) == ([first], 1)
    (other.proc / "statm").write_text("9 210 5 1 0 9 0\n")
    monitor.watch([first, other])
    assert (inner.watched, inner.starts) == ([other], 2)
    other.proc.joinpath("statm").unlink()  # it has ended
    monitor.watch([first])
    assert inner.watched == [first]
