"""A project that uses gpuscan: mypy --strict and pyright must accept it. Never run, only checked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import gpuscan
from gpuscan import (
    AddressMap,
    ArgumentError,
    Engine,
    Ledger,
    MigrateResult,
    MigrateStatus,
    Migrator,
    MovePagesMigrator,
    Outcome,
    PageStore,
    Plan,
    Policy,
    Process,
    Produced,
    ReleaseOutcome,
    Resumable,
    Room,
    RunReport,
    Sampled,
    Source,
    Store,
    TickReport,
    Topology,
)


class MySource:
    """A source with a state."""

    def __init__(self) -> None:
        self.n_seen = 0

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        self.n_seen += 1
        return Sampled(
            (Produced("record", np.arange(3), np.zeros(3, dtype=np.int32)),), elapsed_ns=duration_ns
        )

    def finished(self) -> bool:
        return self.n_seen > 10

    def state(self) -> dict[str, Any]:
        return {"n_seen": self.n_seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.n_seen = state["n_seen"]


class MyMigrator:
    """A migrator that does nothing."""

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        status = np.full(len(pfns), MigrateStatus.EAGAIN, dtype=np.int16)
        return MigrateResult(status, {"EAGAIN: no": len(pfns)}, 0.0)


def protocols() -> tuple[Source, Migrator, Resumable]:
    source = MySource()
    return source, MyMigrator(), source


def by_hand(machine: Topology) -> Iterator[tuple[int, NDArray[np.int64]]]:
    with Store(machine, "pghot", device="auto", large_folios=True, n_threads=2) as store:
        assert_type(store.request([1, 2], 0), dict[Outcome, int])
        threading.Thread(target=store.forget, args=(np.arange(3),)).start()
        cuts = store.rank({0: 512}, now_jiffies=5, nodes=[2])
        assert_type(store.scan(nodes={2}, cuts=cuts), Plan)
        with closing(store.drain(node_mask=np.ones(1024, dtype=np.uint8), budget_pages=7)) as plans:
            for plan in plans:
                for batch in plan.batches():
                    yield batch.target_nid, plan.pfn[batch.lo : batch.hi]
                assert_type(store.release(plan.flat, plan.words), dict[ReleaseOutcome, int])


def looped(store: PageStore, on_tick: Any) -> Ledger:
    policy = Policy(record_format="rfc", on_refused="drop", node_interval_ns=((0, 1_000_000),))
    engine = Engine(store, MySource(), MyMigrator(), policy, plan_sink=lambda tick, plan, batches: None)
    assert_type(engine.tick(), TickReport)
    report = engine.run(5, on_tick)
    assert_type(report, RunReport)
    assert_type(report.ledger.dropped["freed"], int)
    return report.ledger


def really(machine: Topology, pid: int) -> MovePagesMigrator:
    addresses = AddressMap()
    return MovePagesMigrator({0: Process(pid)}, addresses, machine.page_map, Room())


def simulated() -> float:
    workload = gpuscan.load_workload("cxl-promote", ["ticks=3"])
    scenario = gpuscan.build_scenario(workload, device="cpu")
    try:
        report = scenario.run()
    except ArgumentError as error:
        raise SystemExit(error.exit_code) from error
    snapshot = gpuscan.Snapshot.read(Path("host.zarr"))
    assert_type(snapshot.topology.node(0).nid, int)
    return report.ticks[-1].metrics["accesses"]
