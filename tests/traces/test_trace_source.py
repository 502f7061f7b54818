"""From the samples of a trace to marks on a simulated machine: hand-computed on four nodes.

Each has one section. Nodes 0 and 1 are DRAM with CPUs 0 and 1, nodes 2 and 3 CXL, nearest to 0 and 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from gpuscan.engine.stages import Sampled
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.captured import CapturedFrames, FrameBit, machine_from_frames
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, ProcessSpec
from gpuscan.topology import Topology, Zone
from gpuscan.traces import Samples, open_trace
from gpuscan.traces import source as source_module
from gpuscan.traces.source import TraceSource, frames_of, page_chunks, survey
from machines import MARKS, tiered

MS = 1_000_000
NODE = [(2 * nid + 1) * SECTION_PAGES for nid in range(4)]
"""First PFN of each node."""
SPEC = MachineSpec(
    (ProcessSpec("trace", 1, (0, 1), 0.0, ((0, 1.0),)),), HintFaultSpec(scan_period_ns=0), demotion=False
)


def perf(path: Path, *rows: tuple[int, int, int]) -> Path:
    """Write samples given as (time in ms, CPU, PFN)."""
    lines = [
        f"[{cpu:03d}] {ms // 1000:5d}.{ms % 1000:03d}000: {9:16d}{pfn << 12:16x}\n" for ms, cpu, pfn in rows
    ]
    path.write_text("".join(lines))
    return path


def damo(path: Path, *snapshots: tuple[int, list[tuple[int, int, int]]], **record: Any) -> Path:
    """Write snapshots given as (time in ms, regions as (first PFN, pages, accesses))."""
    listed = [
        {
            "end_time": ms * MS,
            "regions": [
                {"start": pfn << 12, "end": (pfn + n) << 12, "nr_accesses": {"samples": count}}
                for pfn, n, count in regions
            ],
        }
        for ms, regions in snapshots
    ]
    path.write_text(json.dumps([{"snapshots": listed, **record}]))
    return path


def replay(
    path: Path, topology: Topology | None = None, **options: Any
) -> tuple[SimulatedMachine, TraceSource]:
    topology = topology or tiered()
    found = survey(
        open_trace(path), topology, options.get("min_weight", 0), min_share=options.get("min_share", 0.0)
    )
    machine = machine_from_frames(topology, frames_of(topology, found.pages), SPEC)
    return machine, TraceSource(machine, found, **options)


def marks(sampled: Sampled) -> list[tuple[int, int]]:
    return [
        pair for part in sampled.produced for pair in zip(part.pfns.tolist(), part.nids.tolist(), strict=True)
    ]


ROWS = (
    (1000, 0, NODE[2] + 10),
    (1000, 1, NODE[2] + 11),
    (1050, 1, NODE[0] + 4),
    (1050, 0, NODE[0] + 4),
    (1099, 7, NODE[2] + 12),
    (1099, 0, 0),
    (1099, 0, NODE[3] + SECTION_PAGES),
    (1100, 0, NODE[3]),
)


def test_samples_become_marks_tick_by_tick(tmp_path: Path) -> None:
    _, source = replay(perf(tmp_path / "t", *ROWS))
    first = source.sample(0, 100 * MS)
    assert marks(first) == [(NODE[2] + 10, 0), (NODE[2] + 11, 1)]
    assert {part.kind for part in first.produced} == {"request"}
    expected = {"accesses": 4, "accesses_fast": 2, "accesses_local": 1, "marks": 2}
    expected |= {"pages_top_tier": 1, "pages_at_home": 1, "pages_unmovable": 0, "pages_no_target": 0}
    expected |= {"samples_unresolved": 1, "samples_unknown_cpu": 1, "samples_outside": 1, "samples_light": 0}
    assert {name: first.metrics[name] for name in expected} == expected
    assert not source.finished()
    second = source.sample(100 * MS, 100 * MS)
    assert marks(second) == [(NODE[3], 0)]
    assert second.metrics["accesses"] == 1
    assert second.metrics["samples_unresolved"] == 0
    assert source.finished()


def test_with_all_tiers_a_page_goes_to_the_node_of_its_cpu(tmp_path: Path) -> None:
    _, source = replay(perf(tmp_path / "t", *ROWS), only_lower_tier=False, mark="record")
    sampled = source.sample(0, 100 * MS)
    assert marks(sampled) == [(NODE[2] + 10, 0), (NODE[2] + 11, 1), (NODE[0] + 4, 1)]
    assert {part.kind for part in sampled.produced} == {"record"}


def test_a_page_that_moved_is_accessed_where_it_is(tmp_path: Path) -> None:
    page = NODE[2] + 10
    machine, source = replay(perf(tmp_path / "t", (0, 0, page), (100, 0, page), (100, 1, page + 1)))
    assert source.sample(0, 100 * MS).metrics["accesses_fast"] == 0
    moved = SimulatedMigrator(machine).migrate(0, np.array([page]), np.array([1]))
    assert moved.status.tolist() == [0]
    sampled = source.sample(100 * MS, 100 * MS)
    assert sampled.metrics["accesses_fast"] == 1
    assert marks(sampled) == [(page + 1, 1)]


def test_light_samples_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text(
        f"[000] 1.000000: 3 {NODE[2] << 12:x}\n[000] 2.000000: 4 {NODE[2] + 1 << 12:x}\n"
        f"[000] 3.000000: 5 {NODE[2] + 2 << 12:x}\n"
    )
    found = survey(open_trace(path), tiered(), 4)
    assert (found.n_samples, found.n_pages, found.start_ns, found.end_ns) == (2, 2, 2000 * MS, 3000 * MS)
    assert found.sentence() == "trace t: 2 samples over 1 s on 2 pages; left out: 1 below source.min_weight"
    with pytest.raises(InputError, match=r"no sample can be used .*3 below source\.min_weight"):
        survey(open_trace(path), tiered(), 6)


def test_regions_go_to_the_promotion_target_and_end_with_the_memory(tmp_path: Path) -> None:
    end = NODE[2] + SECTION_PAGES
    path = damo(
        tmp_path / "t",
        (500, [(end - 3, 1000, 2), (NODE[0], 2, 1), (NODE[3] - 1, 2, 7), (NODE[2], 5, 0)]),
        (600, [(NODE[3] - 9, 5, 3), (NODE[3], 1, 3)]),
    )
    _, source = replay(path)
    sampled = source.sample(0, 50 * MS)
    assert marks(sampled) == [(end - 3, 0), (end - 2, 0), (end - 1, 0), (NODE[3], 1)]
    assert "accesses_local" not in sampled.metrics
    expected = {
        "accesses": 6,
        "accesses_fast": 2,
        "pages_at_home": 2,
        "samples_idle": 1,
        "samples_outside": 1,
    }
    assert {name: sampled.metrics[name] for name in expected} == expected
    assert not source.finished()
    assert marks(source.sample(50 * MS, 51 * MS)) == [(NODE[3], 1)]


@pytest.mark.parametrize(
    ("intervals", "min_share", "left"),
    [
        ({"sample_us": "5000", "aggr_us": "100000"}, 0.5, [10, 20]),  # 20 looks
        ({"sample_us": "5 ms", "aggr_us": "100 ms"}, 0.5, [10, 20]),
        ({"sample_us": 5000, "aggr_us": 100_000}, 0.51, [20]),
        ({"sample_us": 5000, "aggr_us": 100_000}, 0.0, [2, 10, 20]),
        ({"sample_us": 5000, "aggr_us": 20_000}, 0.5, [2, 10, 20]),  # 4 looks
        (None, 0.5, [10, 20]),  # as many looks as the most accessed region had
        (None, 0.51, [20]),
    ],
)
def test_regions_that_few_looks_found_accessed_are_left_out(
    tmp_path: Path, intervals: Any, min_share: float, left: list[int]
) -> None:
    regions = [(NODE[2] + 100 * place, count, count) for place, count in enumerate((2, 10, 20))]
    record = {} if intervals is None else {"intervals": intervals}
    path = damo(tmp_path / "t", (1, regions), **record)
    found = survey(open_trace(path), tiered(), min_share=min_share)
    assert (found.n_samples, found.n_pages) == (len(left), sum(left))
    assert found.left_out["rare"] == 3 - len(left)
    _, source = replay(path, min_share=min_share)
    assert source.sample(0, MS).metrics["samples_rare"] == 3 - len(left)


def test_a_percentage_is_a_share(tmp_path: Path) -> None:
    path = tmp_path / "t"
    regions = [
        {
            "start": NODE[2] + page << 12,
            "end": NODE[2] + page + 1 << 12,
            "nr_accesses": {"percent": f"{share}%"},
        }
        for page, share in ((0, 10), (5, 50), (9, 100))
    ]
    path.write_text(json.dumps([{"snapshots": [{"end_time": 5, "regions": regions}]}]))
    assert survey(open_trace(path), tiered(), min_share=0.5).left_out["rare"] == 1


def test_a_sample_of_a_tail_page_marks_the_folio(tmp_path: Path) -> None:
    topology = tiered()
    n_pages = topology.page_map.n_pages
    flags, order = np.zeros(n_pages, dtype=np.uint8), np.zeros(n_pages, dtype=np.uint8)
    base = 2 * SECTION_PAGES  # flat index of node 2
    flags[base + 5] = flags[base + 16] = FrameBit.LRU | FrameBit.SWAPBACKED
    flags[base + 17 : base + 32] = FrameBit.TAIL
    order[base + 16] = 4
    machine = machine_from_frames(
        topology, CapturedFrames(flags, order, np.zeros(n_pages, dtype=np.bool_)), SPEC
    )
    rows = [(0, 0, NODE[2] + page) for page in (4, 5, 6, 15, 16, 31, 32)]
    found = survey(open_trace(perf(tmp_path / "t", *rows)), topology)
    sampled = TraceSource(machine, found).sample(0, MS)
    assert marks(sampled) == [(NODE[2] + 5, 0), (NODE[2] + 16, 0), (NODE[2] + 16, 0)]
    assert sampled.metrics["pages_unmovable"] == 4


def test_frames_of_a_trace_leave_the_kernel_its_memory() -> None:
    zone = Zone("Normal", ((0, 100),), 90, MARKS)
    topology = tiered()
    node = topology.nodes[0]
    nodes = (type(node)(0, node.kind, 0, (0,), (zone,)),)
    small = Topology("small", nodes, np.array([[10]], dtype=np.uint8))
    pages = np.zeros(SECTION_PAGES, dtype=np.bool_)
    pages[[5, 50]] = True
    flags = frames_of(small, pages).flags
    assert (flags[:10] == 0).all()
    assert np.flatnonzero(flags == (FrameBit.LRU | FrameBit.SWAPBACKED)).tolist() == [50]
    assert (np.delete(flags[10:100], 40) == FrameBit.FREE).all()
    assert (flags[100:] == 0).all()
    pages[50] = False
    with pytest.raises(InputError, match="belong to the kernel of 'small'"):
        frames_of(small, pages)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([(1, 0, 0)], "1 at physical address 0"),
        ([(1, 0, 3), (1, 0, 4)], "2 outside the machine's memory"),
        ([(1, 9, NODE[2])], "1 from a CPU that the machine does not have"),
    ],
)
def test_a_trace_of_another_machine(tmp_path: Path, rows: list[tuple[int, int, int]], why: str) -> None:
    path = perf(tmp_path / "t", *rows)
    with pytest.raises(
        InputError, match=rf"no sample can be used on 'tiered-test' \({why}\); give the machine"
    ):
        survey(open_trace(path), tiered())


def test_addresses_of_a_process_are_refused(tmp_path: Path) -> None:
    """Also where a program is linked so low that its heap looks like memory, and the rest is idle."""
    for n_accesses in (3, 0):
        path = damo(tmp_path / "t", (1, [(NODE[0] + 3, 10, 3), (0x7FFF_FFFF_E, 10, n_accesses)]))
        with pytest.raises(
            InputError,
            match=r"a region begins at 128 TiB, and the memory of 'tiered-test' ends at .*--given pages=FILE",
        ):
            survey(open_trace(path), tiered())


spans = st.lists(st.tuples(st.integers(0, 9 * SECTION_PAGES), st.integers(1, 3 * SECTION_PAGES)), max_size=4)


@given(spans, st.integers(100, 2 * SECTION_PAGES))
@settings(max_examples=60, deadline=None)
def test_pages_of_regions(listed: list[tuple[int, int]], chunk: int) -> None:
    page_map = tiered().page_map
    pfn, n_pages = (np.array([span[i] for span in listed], dtype=np.int64) for i in (0, 1))
    zeros = np.zeros(len(pfn), dtype=np.int64)
    samples = Samples(zeros, zeros.astype(np.int32), pfn, n_pages, zeros)
    expected = [
        (position, flat)
        for position, (start, n) in enumerate(listed)
        for flat in page_map.flat_of_pfn(np.arange(start, start + n)).tolist()
        if flat >= 0
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "_CHUNK_PAGES", chunk)
        found = [
            pair
            for positions, flats in page_chunks(samples, page_map)
            for pair in zip(positions.tolist(), flats.tolist(), strict=True)
        ]
    assert found == expected
