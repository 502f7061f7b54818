"""Resumed runs equal those that nobody stopped, whatever they are of and whenever it happens."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import CASES
from gpuscan.run.resume import ResumedRun
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.topology.resolve import resolve_topology
from gpuscan.traces.built_in import perf
from hosts import small_host
from runs import Case, Crash, assert_same, resume, run_with_checkpoints


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def split() -> Snapshot:
    return small_host().split_cxl(0.5)


def crashed_and_resumed(case: Case, path: Path, crash_after: int, every: int) -> dict[str, Any]:
    with pytest.raises(Crash):
        run_with_checkpoints(case, path, str(every), crash_after=crash_after)
    return resume(path, case, str(every))


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_equals_one_that_nobody_stopped(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    assert len(whole["ticks"]) == case.n_ticks
    assert sum(tick["marked"] for tick in whole["ticks"][:9])
    assert sum(tick["migrated"] for tick in whole["ticks"][9:])
    assert_same(whole, crashed_and_resumed(case, tmp_path / "c", crash_after=11, every=9))


def test_the_cases_have_state_to_lose(tmp_path: Path) -> None:
    """A resumed run that equals another proves nothing where there was nothing to keep."""
    held: dict[str, int] = {"waits": 0, "attempts": 0, "pending": 0, "awake": 0, "unmapped": 0}
    for number, name in enumerate(("refusals and a rate", "huge pages", "phase-shift")):
        state = state_at_crash(name, tmp_path / str(number))
        held["waits"] += len(state["engine"]["backoff"]["flats"])
        held["attempts"] += len(state["engine"]["backoff"]["attempts"])
        held["pending"] += state["engine"]["ledger"]["requested"] - state["engine"]["ledger"]["migrated"]
        held["awake"] += bool(state["machine"]["kswapd"]["hands"])
        held["unmapped"] += int(state["machine"]["scanner"]["unmapped_ms"].any())
    assert all(held.values()), held


def state_at_crash(name: str, path: Path) -> dict[str, Any]:
    """Return what is kept after the ninth tick of a case."""
    with pytest.raises(Crash):
        run_with_checkpoints(CASES[name], path, "9", crash_after=11)
    run = ResumedRun(path)
    run.close()
    return run._state


def test_the_producers_have_state_to_lose(tmp_path: Path) -> None:
    state = state_at_crash("a pause that follows the faults", tmp_path / "pause")
    ((_, progress),) = state["machine"]["scanner"]["progress"]
    assert all(progress[name] for name in ("cursor", "n_passes", "passed_ns", "next_ns", "n_passes_counted"))
    assert progress["period"]["counts"]["failed"]
    assert len(state["machine"]["failed"])
    state = state_at_crash("a threshold that moves", tmp_path / "threshold")
    assert all(all(control.values()) for _, control in state["source"]["controls"])
    bits = state_at_crash("accessed bits", tmp_path / "bits")["source"]["bits"]
    assert any(cursor for _, cursor in bits["cursors"])
    assert (bits["last_nid"] >= 0).any()
    units = state_at_crash("hotness units", tmp_path / "units")["source"]["units"]
    assert all(units["next_unit"])
    assert units["n_counted"]
    assert sum(units["n_listed"]) == len(units["listed_units"]) == len(units["listed_counts"]) > 0
    assert units["counters"].any()
    assert (units["last_nid"] >= 0).any()
    fresh = np.random.default_rng([1, 3]).bit_generator.state
    for name in ("one thread", "kswapd draws among nodes"):
        kswapd = state_at_crash(name, tmp_path / name)["machine"]["kswapd"]
        assert kswapd["hands"]
        assert kswapd["random"] != fresh


def test_any_number_of_crashes(tmp_path: Path) -> None:
    case = CASES["refusals and a rate"]
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    with pytest.raises(Crash):
        run_with_checkpoints(case, tmp_path / "c", "1", crash_after=2)
    for crash_after in (3, 5, 9):
        with pytest.raises(Crash):
            resume(tmp_path / "c", case, "1", crash_after=crash_after)
    assert_same(whole, resume(tmp_path / "c", case, "5"))
    assert_same(whole, resume(tmp_path / "c", case, "5"))  # once more, from the last checkpoint


def test_from_the_generation_before(tmp_path: Path) -> None:
    case = CASES["refusals and a rate"]
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    with pytest.raises(Crash):
        run_with_checkpoints(case, tmp_path / "c", "4", crash_after=11)
    before, newest = sorted((tmp_path / "c").glob("checkpoint-*"))
    (newest / "state.json").unlink()
    assert_same(whole, resume(before, case, "4"))
    assert_same(whole, resume(tmp_path / "c", case, "4"))


def test_a_trace_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "_BLOCK_BYTES", 4096)
    first = resolve_topology("two-socket-cxl", 1 << 30).node(2).zones[0].present[0][0]
    trace = tmp_path / "mem.txt"
    lines = [
        f"[000] {second:5d}.{page * 1000:06d}: {page % 500:16d}{first + page * (second - 99) << 12:16x}\n"
        for second in (100, 101)
        for page in range(900)
    ]
    trace.write_text("".join(lines) + f"[001] {102:5d}.000000: {5:16d}{0:16x}\n")
    case = Case(
        "cxl-promote", ("source.kind=trace", f'source.trace="{trace}"', "policy.budget_pages=50"), n_ticks=30
    )
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    assert len(whole["ticks"]) == 19
    assert_same(whole, crashed_and_resumed(case, tmp_path / "c", crash_after=11, every=9))


def test_a_captured_machine_goes_on(split: Snapshot, tmp_path: Path) -> None:
    case = Case("cxl-promote", ("processes.0.accesses_per_gib_s=5_000_000",), snapshot=split)
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    assert sum(tick["migrated"] for tick in whole["ticks"][9:])
    assert_same(whole, crashed_and_resumed(case, tmp_path / "c", crash_after=11, every=9))


def test_a_checkpoint_per_tick_changes_nothing(tmp_path: Path) -> None:
    case = replace(CASES["huge pages"], n_ticks=6)
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    assert_same(whole, run_with_checkpoints(case, tmp_path / "often", "1"))
