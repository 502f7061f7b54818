"""Runs of an engine that mark, refuse and give up, to be compared between stores."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuscan.engine.policy import Policy
from gpuscan.engine.stages import MigrateResult, MigrateStatus, Produced, Sampled
from gpuscan.engine.tick import Engine, RunReport
from gpuscan.store.contract import PageStore
from gpuscan.store.plan import Batches, Plan
from gpuscan.store.single import Store
from gpuscan.topology import Topology
from machines import tiered
from sharded import assert_same_plans, random_pfns

POLICY = Policy(budget_pages=900, capacity_folios=1024, backoff_ticks=1, max_attempts=3)


def machine(n_sections: int = 4) -> Topology:
    """Return two DRAM and two CXL nodes of so many sections each."""
    return tiered(n_sections)


class Marks:
    """A source that marks random pages, the same ones for the same seed."""

    def __init__(self, store: PageStore, seed: int) -> None:
        self._store, self._rng = store, np.random.default_rng(seed)
        self.before_tick: Any = lambda: None

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        self.before_tick()
        pfns = random_pfns(self._store, self._rng, 2000)
        nids = self._rng.integers(0, 4, len(pfns)).astype(np.int32)
        kinds = (Produced("request", pfns[:700], nids[:700]), Produced("record", pfns[700:], nids[700:]))
        return Sampled(kinds)

    def finished(self) -> bool:
        return False


class Moody:
    """A migrator that refuses some pages for now and some for good, by their PFN."""

    def migrate(self, target_nid: int, pfns: Any, n_pages: Any) -> MigrateResult:
        status = np.zeros(len(pfns), dtype=np.int16)
        status[pfns % 7 == 0] = MigrateStatus.EAGAIN
        status[pfns % 31 == 0] = MigrateStatus.EACCES
        refused = {
            MigrateStatus(code).name: int((status == code).sum()) for code in np.unique(status[status < 0])
        }
        return MigrateResult(status, refused, 1000.0)


def run(store: PageStore, n_ticks: int, seed: int, before_tick: Any = None) -> tuple[RunReport, list[Plan]]:
    """Run ticks on a store; return the report and every plan."""
    plans: list[Plan] = []

    def keep(tick: int, plan: Plan, batches: Batches) -> None:
        plans.append(plan)

    source = Marks(store, seed)
    if before_tick is not None:
        source.before_tick = before_tick
    return Engine(store, source, Moody(), POLICY, plan_sink=keep).run(n_ticks), plans


def single(n_ticks: int, seed: int, topology: Topology | None = None) -> tuple[RunReport, list[Plan]]:
    """Do the run on a single store."""
    with Store(topology or machine(), device="cpu", n_threads=1) as store:
        store.load_pages(store.page_map.present_bits())
        return run(store, n_ticks, seed)


def undisturbed(ticks: list[Any]) -> list[tuple[int, ...]]:
    return [
        (
            tick.marked,
            tick.refreshed,
            tick.rejected,
            tick.candidates,
            tick.migrated,
            tick.refused,
            tick.pending,
        )
        for tick in ticks
    ]


def assert_same_run(one: tuple[RunReport, list[Plan]], other: tuple[RunReport, list[Plan]]) -> None:
    assert one[0].ledger == other[0].ledger
    assert one[0].refusals == other[0].refusals
    assert undisturbed(one[0].ticks) == undisturbed(other[0].ticks)
    assert_same_plans(one[1], other[1])
