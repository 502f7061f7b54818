"""One definition for each figure: what a run of a design says is what the comparison says, and adds up."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gpuscan.compare.open_loop import StepCosts, run_model
from gpuscan.compare.request_list import ENTRY, RequestList, digest_entries
from gpuscan.compare.settings import Settings
from gpuscan.compare.static_machine import StillPages
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.engine import design_engine
from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import RunReport, TickReport
from gpuscan.run.report import summary_rows
from gpuscan.run.summary import summarize
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, ProcessSpec
from machines import tiered

MS = 1_000_000
POLICY = Policy(interval_ns=100 * MS, freq_threshold=1)
BYTES_EACH = {
    "rfc-v1": 64 + 8,  # struct page, and page_ext->flags
    "rfc-fixed": 64 + 8,
    "zone-flag": 64 + 8,
    "per-folio": 64 + 4,
    "section-flag": 64 + 1,
    "section-flag-next": 64 + 1,
    "percpu-list": 64 + 16,
    "hot-list": 64 + 40,
}
LISTS = ("percpu-list", "hot-list")


def machine(order: int = 0) -> SimulatedMachine:
    process = ProcessSpec("app", 8192, (0,), 40_000.0, ((2, 1.0),), order=order)
    hint_faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=200 * MS, hot_latency_ns=0)
    return SimulatedMachine(tiered(), MachineSpec((process,), hint_faults))


@cache
def run(name: str, order: int = 0) -> RunReport:
    return design_engine(name, machine(order), POLICY).run(20)


def entries() -> np.ndarray:
    """Return two requests for each of 300 pages."""
    sim = machine()
    found = np.zeros(600, dtype=ENTRY)
    found["time_ns"] = np.arange(600) * MS
    found["pfn"] = np.tile(sim.page_map.pfn_of_flat(sim.space.frame_of[:300].astype(np.int64)), 2)
    return found


@pytest.mark.parametrize("name", DESIGNS.models)
def test_bytes_are_those_of_struct_page_and_record_in_run_and_compare(name: str, tmp_path: Path) -> None:
    report = run(name)
    summary = summarize(report)
    counters, walks = report.counters, report.walks
    assert walks is not None
    n_looked_at = counters["entries_examined" if name in LISTS else "pfns_examined"]
    assert walks.n_examined == n_looked_at > 0
    assert summary.examined_bytes == n_looked_at * BYTES_EACH[name]
    sim = machine()
    settings = Settings(sim.topology, sim.spec, POLICY, 2000 * MS, 1)
    path = tmp_path / "requests.npy"
    asked = entries()
    np.save(path, asked)
    requests = RequestList(path, 600, 600, 600 * MS, digest_entries(asked))
    opened = run_model(name, settings, StillPages(sim), requests, StepCosts(3.0, 21.0))
    assert opened.examined > 0
    assert opened.examined_bytes == opened.examined * BYTES_EACH[name]
    assert opened.unit == ("entries" if name in LISTS else "pages")


@pytest.mark.parametrize("name", DESIGNS.models)
def test_scans_are_walks_and_their_time_is_that_of_one(name: str) -> None:
    report = run(name)
    summary, walks = summarize(report), report.walks
    assert walks is not None
    kind = "turn" if name in LISTS else "walk"
    assert summary.n_scans == summary.n_plans == len(walks.times_ns) == report.counters[f"{kind}s"]
    assert summary.paths == {kind: summary.n_scans}
    assert report.counters["walks" if kind == "turn" else "turns"] == 0
    assert {tick.path for tick in report.ticks} <= {kind, "idle"}
    # Several nodes' walks in a tick are several walks.
    assert summary.scan_ns_total == pytest.approx(sum(tick.scan_ns for tick in report.ticks), abs=200)
    assert summary.scan_ns_p99 <= max(walks.times_ns)
    rows = dict(summary_rows(report, summary, "top tier"))
    assert f"{summary.n_scans:,} {kind}s" in rows["scan"]
    assert rows["scan"].startswith("no walk; ") == (name in LISTS)
    assert rows["scan"].endswith("read (modelled)")


@pytest.mark.parametrize("name", DESIGNS.models)
def test_batches_are_those_with_folios_and_their_fill_is_of_what_one_may_hold(name: str) -> None:
    report = run(name)
    summary, counters = summarize(report), report.counters
    n_full = counters["batch_calls"] - counters["empty_batch_calls"]
    assert summary.n_batches == n_full > 0
    assert (counters["empty_batch_calls"] > 0) == (name == "rfc-v1")
    limit = 1024 if name == "hot-list" else 512
    assert (summary.batch_limit, summary.batch_unit) == (limit, "folios")
    assert summary.batch_fill == counters["batch_folios"] / (n_full * limit)
    assert f"of {limit} folios" in dict(summary_rows(report, summary, "top tier"))["batches"]


def test_huge_pages_fill_a_batch_as_folios_and_moves_at_the_fault_are_told_apart() -> None:
    pghot = summarize(run("section-flag", order=9))
    assert pghot.batch_fill == 16 / 512  # sixteen folios in one batch, of 512 pages each
    at_fault = run("rfc-v1", order=9)
    rows = dict(summary_rows(at_fault, summarize(at_fault), "top tier"))
    assert rows["moved"] == "32 MiB at the fault in 8.98 ms (modelled)"


def test_a_design_whose_threads_never_woke_has_no_walk() -> None:
    report = replace(run("section-flag"), ticks=[TickReport(0, 0, 1)])
    assert report.walks is not None
    report.walks = replace(report.walks, times_ns=np.empty(0))  # a copy's, the run is shared
    assert dict(summary_rows(report, summarize(report), "top tier"))["scan"] == "no walk"
