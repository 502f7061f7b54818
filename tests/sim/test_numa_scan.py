"""The hint fault scanner visits what task_numa_work() does, and is put off as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.address_space import AddressSpace, Mapping
from gpuscan.sim.loops import PROT_NONE
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.process import Process
from gpuscan.sim.scan_period import n_scan_windows
from gpuscan.sim.scanner import HintScanner
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.topology.model import Topology
from machines import node, tiered
from transcripts.numa_scan import Entry, Scan, Vma

MIB = 1 << 20
MS = 1_000_000
TICK = 100 * MS
PAGE = 4096
_GAP = 64 * MIB


class Both:
    """The scanner, and its transcription, on one address space; frames of odd sections are scanned."""

    def __init__(self, vmas: list[tuple[int, int]], scan_pages: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        mappings, self.vmas, heads, first, address = [], [], [], 0, 0
        free = [0, SECTION_PAGES]  # next frame of the section that is not scanned, and of the one that is
        for n_folios, order in vmas:
            mappings.append(Mapping(first, n_folios, order))
            entries, scanned = [], False
            for folio in range(n_folios):
                if folio % 100 == 0:  # in runs, so that whole stretches have nothing to unmap
                    scanned = bool(random.random() < 0.6)
                frame = -(-free[scanned] // (1 << order)) << order
                free[scanned] = frame + (1 << order)
                heads.append(frame)
                entries.append(Entry(address + (folio << order) * PAGE, PAGE << order, scanned))
            self.vmas.append(Vma(address, address + (n_folios << order) * PAGE, entries))
            first += n_folios
            address += _GAP
        self.scan = Scan(self.vmas, scan_pages)
        assert free[0] <= SECTION_PAGES
        assert free[1] <= 2 * SECTION_PAGES
        self.space = AddressSpace(tuple(mappings), 2 * SECTION_PAGES)
        self.space.map(0, np.array(heads, dtype=np.int64))
        spec = ProcessSpec("app", 1, (0,), 1.0, ())
        nothing: Any = None  # is accessed
        self.process = Process(spec, tuple(mappings), pattern=nothing)
        scanned_nids = np.zeros(N_NODES_MAX, dtype=np.uint8)
        scanned_nids[1] = 1
        nids = np.array([0, 1], dtype=np.int32)
        self.scanner = HintScanner(
            HintFaultSpec(scan_bytes=scan_pages * PAGE), self.space, nids, scanned_nids
        )

    def visit(self) -> None:
        self.scanner.visit(self.process, 0)
        self.scan.visit()

    def touch(self, share: float, random: np.random.Generator) -> None:
        """Let accesses make some entries present again, in both."""
        folio = 0
        for vma in self.vmas:
            for entry in vma.entries:
                if random.random() < share:
                    entry.protnone = False
                    self.space.flags[self.space.frame_of[folio] >> self.space.slot_shift] &= ~np.uint8(
                        PROT_NONE
                    )
                folio += 1

    def compare(self) -> None:
        slots = self.space.frame_of >> self.space.slot_shift
        mine = (self.space.flags[slots] & PROT_NONE != 0).tolist()
        assert mine == [entry.protnone for vma in self.vmas for entry in vma.entries]
        assert self.scanner.n_walked == self.scan.walked
        assert self.scanner.progress(self.process).n_passes == self.scan.seq


_VMAS = st.lists(
    st.one_of(st.tuples(st.integers(1, 2500), st.just(0)), st.tuples(st.integers(1, 5), st.just(9))),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    vmas=_VMAS,
    scan_pages=st.sampled_from((1, 100, 256, 512, 513, 768, 1024, 3 * 256, 5000)),
    seed=st.integers(0, 1000),
    n_visits=st.integers(1, 8),
)
def test_a_visit_unmaps_what_the_kernel_s_does(
    vmas: list[tuple[int, int]], scan_pages: int, seed: int, n_visits: int
) -> None:
    both, random = Both(vmas, scan_pages, seed), np.random.default_rng(seed)
    for _ in range(n_visits):
        both.visit()
        both.compare()
        both.touch(0.5, random)


@pytest.mark.parametrize(
    ("mib", "scan_mib", "unmapped_mib", "passes"),
    [
        (300, 256, [256, 44, 256, 44], [0, 1, 1, 2]),  # 150 a visit: it ends with the last VMA
        (512, 256, [256, 256, 256, 256], [0, 0, 1, 1]),  # no page is left for more: the next visit finds out
        (8, 3, [4, 4, 4, 4], [0, 0, 1, 1]),  # up to the next 2 MiB
        (9, 3, [4, 4, 1, 4], [0, 0, 1, 1]),
    ],
)
def test_visits_of_a_process(mib: int, scan_mib: int, unmapped_mib: list[int], passes: list[int]) -> None:
    huge = Topology("one", (node(0, (0, 5 * SECTION_PAGES), cpus=(0,)),), np.array([[10]], dtype=np.uint8))
    app = ProcessSpec("app", mib * MIB // PAGE, (0,), 1.0, ((0, 1.0),))
    faults = HintFaultSpec(scan_mib * MIB, TICK, only_lower_tier=False)
    sim = SimulatedMachine(huge, MachineSpec((app,), faults))
    unmapped, done = [], []
    for k in range(4):
        sim.space.flags &= ~np.uint8(PROT_NONE)  # everything was touched
        unmapped.append(int(sim.run(k * TICK, TICK).metrics["unmapped_folios"]) * PAGE // MIB)
        done.append(sim.scanner.progress(sim.processes[0]).n_passes)
    assert unmapped == unmapped_mib
    assert done == passes


@pytest.mark.parametrize(
    ("rss_pages", "scan_mib", "windows"),
    [
        # round_up(x, y) is ((x - 1) | (y - 1)) + 1: right where y is a power of two ...
        (76_801, 256, 2),
        (256_000, 256, 4),
        # ... and else not: 76,800 pages are 300 MiB, (255,999 | 76,799) + 1 = 262,144, which is 3 of them.
        (256_000, 300, 3),
        (76_801, 300, 1),
        (76_800, 300, 1),
    ],
)
def test_the_windows_of_a_pass_are_counted_with_round_up(rss_pages: int, scan_mib: int, windows: int) -> None:
    n_scan = scan_mib * 256
    assert ((rss_pages - 1 | n_scan - 1) + 1) // n_scan == windows
    assert n_scan_windows(rss_pages, scan_mib * MIB) == windows


@pytest.mark.parametrize(("cpu_nids", "pauses_ms"), [((0,), 100 + 32 * 6), ((0, 1), 100 + 16 * 6)])
def test_scanning_takes_three_percent_of_a_task_s_time_at_most(
    cpu_nids: tuple[int, ...], pauses_ms: int
) -> None:
    """A visit takes 6 ms; the task that came is put off by 32 times that, another one is not."""
    app = ProcessSpec("app", 6000, cpu_nids, 1e6, ((2, 1.0),), pattern=PatternSpec(kind="uniform"))
    faults = HintFaultSpec(
        32 * MIB,
        adaptive=True,
        scan_delay_ns=0,
        scan_period_min_ns=TICK,
        scan_period_max_ns=TICK,
        pte_ns=1000.0,
    )
    sim = SimulatedMachine(tiered(), MachineSpec((app,), faults))
    visits = [ms for ms in range(1500) if sim.run(ms * MS, MS).metrics["ptes_walked"]]
    assert np.diff(visits).tolist() == [pauses_ms] * (len(visits) - 1)
    assert len(visits) > 4
    assert 6 / pauses_ms <= 1 / 32 * len(cpu_nids)
