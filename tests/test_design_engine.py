"""Designs on simulated machines: when threads walk, what producers mark, and how folios move."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpuscan.cli.main import main
from gpuscan.designs.engine import DesignEngine, ThreadWait
from gpuscan.designs.registry import DESIGNS, design_engine
from gpuscan.designs.rfc import RfcV1
from gpuscan.designs.simulated import SimulatedPages
from gpuscan.errors import InputError
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.pagemap import SECTION_PAGES
from gpuscan.policy import Policy
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, MigrationCostSpec, ProcessSpec
from gpuscan.topology import Topology
from machines import node, tiered

MS = 1_000_000
SMALL = """
shows = "a test"
ticks = 25
seed = 7
[topology]
machine = "two-socket-cxl"
memory = "1GiB"
[[processes]]
name = "p"
memory = "30%"
cpus_of = [0]
placement = { 0 = "20%", 2 = "80%" }
accesses_per_gib_s = 666_667
[source]
scan_size = "1GiB"
"""


def machine(
    topology: Topology | None = None, *, n_pages: int = 4096, order: int = 0, **changes: object
) -> SimulatedMachine:
    """Return a machine whose one process lies on node 2 (CXL) and runs on node 0."""
    process = ProcessSpec("app", n_pages, (0,), 40_000.0, ((2, 1.0),), order=order)
    hint_faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=200 * MS, hot_latency_ns=0)
    spec = replace(MachineSpec((process,), hint_faults), **changes)
    return SimulatedMachine(topology or tiered(), spec)


def engine(name: str, sim: SimulatedMachine, **policy: object) -> DesignEngine:
    return design_engine(name, sim, Policy(interval_ns=100 * MS, **policy))


def pages(sim: SimulatedMachine) -> SimulatedPages:
    return SimulatedPages(sim, SimulatedMigrator(sim, has_vma=False))


def starts(wait: ThreadWait, *times_ms: int) -> list[float | None]:
    """Return when a walk has begun by each moment, in ms."""
    found = [wait.walk_start_ns(ms * MS) for ms in times_ms]
    return [None if start is None else start / MS for start in found]


def test_a_flag_set_while_the_thread_waits_starts_nothing() -> None:
    wait = ThreadWait(1000 * MS, needs_flag=False)
    wait.flag_ns = 100 * MS
    assert starts(wait, 100, 500, 999, 1000, 1050) == [None, None, None, 1000, 1000]


def test_a_flag_set_during_a_walk_starts_the_next_one_at_once() -> None:
    wait = ThreadWait(1000 * MS, needs_flag=False)
    wait.walked(1000 * MS, 300 * MS)
    wait.flag_ns = 1200 * MS
    assert starts(wait, 1200, 1300) == [None, 1300]
    wait.walked(1300 * MS, 0)
    assert wait.flag_ns is None
    assert starts(wait, 1400, 2300) == [None, 2300]


def test_a_timeout_without_the_flag_walks_as_posted_and_not_in_pghot() -> None:
    posted, pghot = ThreadWait(1000 * MS, needs_flag=False), ThreadWait(100 * MS, needs_flag=True)
    assert starts(posted, 1000) == [1000]
    assert starts(pghot, 100) == [None]
    pghot.flag_ns = 150 * MS
    assert starts(pghot, 199, 200) == [None, 200]


TRACE = Path(__file__).parent / "data" / "traces" / "perf-cpu-time-weight-phys.txt"


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_promotes_and_loses_nothing_without_a_reason(name: str) -> None:
    sim = machine()
    report = engine(name, sim).run(40)
    assert report.design == name
    ledger = report.ledger
    assert ledger.requested == ledger.pending + ledger.migrated + ledger.superseded + ledger.dropped.total()
    assert ledger.migrated == report.counters["pgpromote_success"] > 500
    on_dram = sim.space.frame_of < 2 * SECTION_PAGES
    assert on_dram.sum() == ledger.migrated
    assert ledger.in_flight == 0


def test_the_posted_thread_walks_once_a_second_whatever_is_marked() -> None:
    report = engine("rfc-v1", machine()).run(40)
    # Marks come while it waits, so each wait lasts its second; it begins when the walk is over.
    assert [tick.tick for tick in report.ticks if tick.n_plans] == [9, 20, 30]


def test_a_fault_without_a_target_marks_the_page_with_its_own_node() -> None:
    once = HintFaultSpec(1 << 30, 5000 * MS, hot_latency_ns=0, two_stage=True)  # no second fault
    sim = machine(hint_faults=once)
    report = engine("rfc-fixed", sim).run(20)
    assert report.ledger.requested > 1000
    assert set(report.ledger.dropped) == {"already there"}
    assert report.ledger.migrated == 0


def test_huge_pages_bypass_kmigrated_and_not_pghot() -> None:
    posted = engine("rfc-v1", machine(n_pages=16_384, order=9)).run(20)
    assert posted.ledger.requested == 0
    assert posted.counters["thp_migrated_at_fault"] == 32
    assert posted.counters["pgpromote_success"] == 16_384
    pghot = engine("section-flag", machine(n_pages=16_384, order=9)).run(20)
    assert pghot.ledger.migrated == 32
    assert pghot.counters["pgpromote_success"] == 16_384
    # Each huge page fills a round by itself.
    assert pghot.counters["migrate_pages_rounds"] == 32


def test_a_demoted_page_s_request_is_stale() -> None:
    sim = machine()
    running = engine("rfc-fixed", sim)
    for _ in range(5):
        running.tick()
    pending = running.design.ledger.pending_positions()
    assert len(pending) > 100
    folios = sim.space.folios_at(pending[:10])
    frames = sim.frames.alloc(10, 3)
    old = sim.space.move(folios, frames)
    sim.frames.free(old)
    running.design._freed(int(old[0]), 1)
    assert running.design.ledger.lost["stale: freed or reallocated"] == 1
    running.design.verify()


def test_pghot_has_nothing_to_do_without_a_lower_tier() -> None:
    flat = Topology(
        "flat",
        (node(0, (0, SECTION_PAGES), cpus=(0,)), node(2, (SECTION_PAGES, 2 * SECTION_PAGES), cpus=(1,))),
        np.array([[10, 20], [20, 10]], dtype=np.uint8),
    )
    hint_faults = HintFaultSpec(1 << 30, 200 * MS, only_lower_tier=False)
    with pytest.raises(InputError, match=r"lower tiers only.*one tier; choose another"):
        engine("section-flag", machine(flat, hint_faults=hint_faults))
    engine("rfc-v1", machine(flat, hint_faults=hint_faults)).run(2)


def test_513_folios_cost_two_rounds() -> None:
    sim = machine()
    seen = pages(sim)
    heads = sim.space.frame_of[:513].astype(int).tolist()
    for head in heads:
        assert seen.page(head).lru
        assert seen.prepare(head, 0) == 0
        assert not seen.page(head).lru
    result = seen.migrate(heads[::-1], 0)
    assert all(result.moved)
    assert dict(result.counts)["migrate_pages_rounds"] == 2
    # In list order, the last one first: it gets the first free page.
    assert sim.space.frame_of[512] < sim.space.frame_of[0]


def test_enomem_ends_the_call_and_what_it_did_not_reach_is_not_counted_as_failed() -> None:
    topology = tiered()
    few = node(0, (SECTION_PAGES, SECTION_PAGES + 300), cpus=(0,))
    sim = machine(replace(topology, nodes=(few, *topology.nodes[1:])), demotion=False)
    seen = pages(sim)
    heads = sim.space.frame_of[:1000].astype(int).tolist()
    for head in heads:  # all see the same free memory
        assert seen.prepare(head, 0) == 0
    result = seen.migrate(heads, 0)
    n_moved = sum(result.moved)
    assert 200 < n_moved < 300
    assert dict(result.counts)["pgmigrate_fail"] == 1
    assert all(seen.page(head).lru for head in heads[n_moved:])
    assert seen.prepare(heads[-1], 0) == -11  # the target is not balanced now


def test_a_failed_copy_is_put_back_and_forgotten() -> None:
    sim = machine(cost=MigrationCostSpec(copy_failure_share=1.0))
    report = engine("rfc-fixed", sim).run(20)
    assert report.ledger.migrated == 0
    assert report.ledger.dropped["consumed before refusal"] > 500
    assert report.counters["pgmigrate_fail"] >= report.ledger.dropped["consumed before refusal"]
    assert report.counters["pgpromote_success"] == 0


def test_pages_of_a_simulated_machine() -> None:
    sim = machine(n_pages=2048, order=9)
    seen = pages(sim)
    head = int(sim.space.frame_of[1])
    assert seen.page(head) == (True, 2, head, 512, True)
    assert seen.page(head + 511) == (True, 2, head, 512, True)
    free = int(sim.frames.free_frames(0)[0])
    assert seen.page(free) == (True, 0, free, 1, False)
    for position in (head, free):
        assert seen.position(seen.pfn(position)) == position
    assert seen.position(0) == -1  # a hole
    (zone,) = seen.zones(2)
    assert seen.n_steps(zone.start_pfn, zone.end_pfn, 2) == SECTION_PAGES - 4 * 511
    assert seen.n_steps(zone.start_pfn, zone.end_pfn, 3) == SECTION_PAGES
    assert seen.ranges(0, 8 * SECTION_PAGES) == [
        (n * SECTION_PAGES, (n + 1) * SECTION_PAGES) for n in range(4)
    ]


def test_a_mark_on_a_page_that_lies_inside_a_huge_page_now_takes_the_whole() -> None:
    sim = machine(n_pages=2048, order=9)
    design = RfcV1(pages(sim))
    head = int(sim.space.frame_of[1])
    design.request(sim.page_map.pfn_of_flat(head + 7).item(), 0)
    design.walk(2)
    assert design.counters["pgpromote_success"] == 512
    assert design.counters["pfns_examined"] == SECTION_PAGES


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", DESIGNS)
def test_gpuscan_run_takes_a_design(small: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", small, "--design", name, "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["design"] == name
    assert document["device"]["name"] == "model"
    assert document["counters"]["pgpromote_success"] == document["ledger"]["migrated"] > 1000
    assert document["summary"]["fast"]["after"] > 0.7
    assert main(["run", small, "--design", name, "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert f"none, {name} is a model" in shown
    assert "pgpromote_success" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--design", "rfc-v2"], "unknown design 'rfc-v2'; choose gpuscan, rfc-v1"),
        (["--design", "rfc-v1", "--device", "cpu"], "a model that runs on no device; leave out --device"),
        (["--design", "rfc-v1", "--trace", str(TRACE)], "not by a trace"),
    ],
)
def test_wrong_designs_are_refused(
    small: str, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", small, *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "building" not in error


def test_out_says_that_a_design_makes_no_plans(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept"
    assert main(["run", small, "--design", "rfc-v1", "--ticks", "3", "--out", str(out)]) == 0
    assert "makes no plans" in capsys.readouterr().out
    assert json.loads((out / "ledger.json").read_text())["requested"] > 0
