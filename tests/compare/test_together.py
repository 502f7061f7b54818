"""What models do in one step against the same batch by batch, section by section, where targets fill up."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.compare.closed_loop import ClosedResult, run_closed
from gpuscan.compare.open_loop import OpenResult, StepCosts, run_model
from gpuscan.compare.recording import record_accesses
from gpuscan.compare.request_list import RequestList, make_request_list
from gpuscan.compare.settings import Settings
from gpuscan.compare.static_machine import StillPages
from gpuscan.compare.stream import RecordedStream
from gpuscan.designs.model import Meeting, Model
from gpuscan.designs.pghot import SectionFlag
from gpuscan.designs.pghot_marks import PghotRecords
from gpuscan.designs.taking import Batch, Window
from gpuscan.engine.policy import Policy
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.sim.spec import (
    HintFaultSpec,
    KernelCostSpec,
    MachineSpec,
    MigrationCostSpec,
    PatternSpec,
    ProcessSpec,
)
from machines import tiered

MS = 1_000_000
SLOW = KernelCostSpec(walk_pfn_ns=2000.0)
COSTS = StepCosts(page_ns=400.0, entry_ns=20.0)


def settings(**changes: Any) -> Settings:
    """Two processes that lie in all three sections of node 2, and find no room for all on nodes 0 and 1."""
    pattern = PatternSpec(hot_share=0.6)
    processes = (
        ProcessSpec("one", 70_000, (0,), 200_000.0, ((2, 1.0),), pattern=pattern),
        ProcessSpec(
            "two", 20_000, (1,), 50_000.0, ((2, 1.0),), pattern=pattern, file_share=0.3, dirty_share=0.2
        ),
        ProcessSpec("cold", 75_000, (0,), 100.0, ((0, 1.0),)),
        ProcessSpec("colder", 70_000, (1,), 100.0, ((1, 1.0),)),
    )
    faults = HintFaultSpec(1 << 30, 200 * MS, hot_latency_ns=0)
    spec = replace(MachineSpec(processes, faults, seed=5, kernel=SLOW), **changes)
    policy = Policy(record_format="pghot", freq_threshold=1, hz=1000)
    return Settings(tiered(3), spec, policy, 1200 * MS, 1)


def given(chosen: Settings, directory: Path) -> tuple[RecordedStream, RequestList]:
    recording = record_accesses(chosen.topology, chosen.spec, chosen.horizon_ns, directory)
    stream = RecordedStream(chosen.topology, chosen.spec, recording)
    return stream, make_request_list(chosen, stream, directory / "list.npy")


def plain(result: ClosedResult | OpenResult) -> dict[str, Any]:
    facts = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(result).items()
    }
    return {name: value for name, value in facts.items() if value == value}  # without NaN


@pytest.fixture
def section_by_section(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let nothing be done together from now on; what was before that is counted."""
    walked, met = [], []
    together, meet = SectionFlag._walk_together, PghotRecords.meet

    def walk_together(self: SectionFlag, spans: Any, *others: Any) -> int:
        n_walked = together(self, spans, *others)
        walked.append((n_walked, len(spans)))
        return n_walked

    def meet_all(self: PghotRecords, *others: Any) -> Meeting | None:
        met.append(meet(self, *others))
        return met[-1]

    monkeypatch.setattr(SectionFlag, "_walk_together", walk_together)
    monkeypatch.setattr(PghotRecords, "meet", meet_all)

    def now() -> tuple[list[tuple[int, int]], list[Meeting | None]]:
        monkeypatch.setattr(SectionFlag, "_walk_together", lambda *_: 0)
        monkeypatch.setattr(PghotRecords, "meet", lambda *_: None)
        return walked, met

    return now


@pytest.mark.parametrize(
    "design", [pytest.param("section-flag", marks=pytest.mark.slow), "section-flag-next"]
)
def test_sections_together_are_sections_one_by_one(
    design: str, tmp_path: Path, section_by_section: Any
) -> None:
    chosen = settings()
    stream, requests = given(chosen, tmp_path)

    def both() -> list[dict[str, Any]]:
        machine = stream.open().machine
        return [
            plain(run_closed(design, chosen, stream)),
            plain(run_model(design, chosen, StillPages(machine), requests, COSTS)),
        ]

    together = both()
    walked, met = section_by_section()
    alone = both()
    for mine, theirs in zip(together, alone, strict=True):
        assert mine == theirs
    closed, opened = together
    assert closed["migrated"] > 1000
    assert sum(closed["lost"].values()) > 100, "the target is full in the end"
    assert opened["found"] > 1000
    assert {0, 3} <= {n_walked for n_walked, _ in walked}, "all at once, and one where that may not be"
    assert any(0 < n_walked < n_spans for n_walked, n_spans in walked)
    assert any(meeting is not None and meeting.during.any() and not meeting.during.all() for meeting in met)


def test_what_draws_failures_is_not_moved_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = MigrationCostSpec(isolation_failure_share=0.2, copy_failure_share=0.1)
    chosen = replace(settings(cost=cost), horizon_ns=600 * MS)
    stream, _ = given(chosen, tmp_path)
    monkeypatch.delattr(SimulatedMigrator, "migrate_singles")
    assert run_closed("section-flag", chosen, stream).migrated > 100


@pytest.mark.slow  # 2 s each
@pytest.mark.parametrize("design", ["rfc-v1", "zone-flag", "percpu-list", "hot-list"])
def test_batches_together_are_batches_one_by_one(
    design: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = replace(settings(), horizon_ns=1300 * MS)
    stream, requests = given(chosen, tmp_path)
    steady: list[int] = []
    n_steady = Model._n_steady

    def noted(self: Model, window: Window, batch: Batch) -> int:
        steady.append(n_steady(self, window, batch))
        return steady[-1]

    def both() -> list[dict[str, Any]]:
        machine = stream.open().machine
        return [
            plain(run_closed(design, chosen, stream)),
            plain(run_model(design, chosen, StillPages(machine), requests, COSTS)),
        ]

    monkeypatch.setattr(Model, "_n_steady", noted)
    together = both()
    monkeypatch.setattr(Model, "_n_steady", lambda *_: 0)
    assert together == both()
    assert together[0]["migrated"] > 1000
    assert max(steady) > 600
