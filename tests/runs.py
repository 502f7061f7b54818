"""Runs for the tests of checkpoints: cases with much state, and all that a run leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gpuscan.checkpoint.directory import CheckpointDirectory, load
from gpuscan.checkpoint.state import canonical, split
from gpuscan.engine.tick import RunReport, TickReport
from gpuscan.kernels.api import StoreArrays
from gpuscan.kernels.registry import Device
from gpuscan.run.checkpoints import RunCheckpoints
from gpuscan.run.job import Job, loaded_job
from gpuscan.run.kept import KeptRequest
from gpuscan.run.request import RunRequest
from gpuscan.run.resume import ResumedRun
from gpuscan.run.scenario import Hooks, Scenario, build
from gpuscan.run.states import scenario_state
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.store.contract import PageStore
from gpuscan.store.single import Store
from gpuscan.store.state import arrays_between, page_arrays
from gpuscan.topology import Topology
from gpuscan.topology.serialize import topology_to_dict
from gpuscan.workload.files import workload_document, workload_of

BUSY = [
    "processes.0.file=30%",
    "processes.0.dirty=50%",
    "cost.isolation_failures=10%",
    "cost.copy_failures=10%",
    "policy.rate_limit=40MB/s",
    "policy.capacity_folios=512",
    "policy.backoff_ticks=2",
    "producer.hint_faults.scan_size=1GiB",
]
"""Settings under which requests wait for a retry, for the rate and for the next plan."""


@dataclass(frozen=True)
class Case:
    """A workload with overrides, maybe on a captured machine or a topology of its own."""

    workload: str
    overrides: tuple[str, ...] = ()
    memory: str = "512MiB"
    n_ticks: int = 16
    snapshot: Snapshot | None = None
    topology: Topology | None = None

    def settings(self) -> list[str]:
        """Return all overrides."""
        sized = [] if self.snapshot is not None else [f"topology.memory={self.memory}"]
        return [*sized, f"ticks={self.n_ticks}", *self.overrides]

    def build(
        self,
        plan_sink: Any = None,
        *,
        sharding: Any = None,
        finish_tick: bool = False,
        device: Device = "cpu",
        **options: Any,
    ) -> Scenario:
        """Build the scenario, on the CPU unless told otherwise."""
        if options.get("design", "gpuscan") == "gpuscan":
            options = {"device": device, "n_threads": 1, **options}
        hooks = Hooks(plan_sink, verify_every_tick=True, finish_tick=finish_tick)
        return build(self.job(**options), hooks, sharding)

    def job(self, **options: Any) -> Job:
        """Return what is to be built, nothing of it yet."""
        workload = workload_of(*workload_document(self.workload, self.settings()))
        return loaded_job(RunRequest(**options), workload, self.snapshot, self.topology)

    def request(self, every: str) -> KeptRequest:
        """Return what a checkpoint keeps of it; nothing is built of that here."""
        request = RunRequest(device="cpu", n_threads=1, every=every)
        return KeptRequest(request, "test", {}, topology_to_dict(self.job().topology), {}, "test")


class Crash(Exception):
    """What ends a run in the middle."""


def outcome(scenario: Scenario, report: RunReport, plans: list[Any]) -> dict[str, Any]:
    """Return all that a run leaves behind, but for wall times."""
    machine, store = scenario.machine, scenario.store
    assert store is not None
    state = scenario_state(scenario)
    left: dict[str, Any] = {
        f"store.{name}": array for name, array in page_arrays(store_arrays(store)).items()
    }
    del state["store"]["parts"], state["store"]["section_edges"]
    left |= {f"space.{name}": getattr(machine.space, name) for name in ("frame_of", "folio_of", "flags")}
    left |= {f"free.{node.nid}": machine.frames.free_frames(node.nid) for node in machine.topology.nodes}
    left["ticks"] = [{**asdict(tick), "scan_ns": 0} for tick in report.ticks]
    left["ledger"] = list(report.ledger.as_dict().items())
    left["dropped"] = list(report.ledger.dropped.items())
    left["refusals"] = list(report.refusals.items())
    left["plans"] = [plan.to_pydict() for plan in plans]
    plain, kept, _ = split(state)
    left["state"] = canonical(plain)
    left |= {f"state.{path}": array for path, array in kept.items()}
    return left


def store_arrays(store: PageStore) -> StoreArrays:
    """Return copies of the arrays of a store or of shards, without node_active."""
    if isinstance(store, Store):
        return store.dump()
    with TemporaryDirectory() as place, CheckpointDirectory(Path(place) / "c", "test") as directory:
        directory.save({"store": store.state()})
        state, _ = load(directory.path, "test")
    return arrays_between(state["store"], 0, store.page_map.n_sections)


def undivided(left: dict[str, Any]) -> dict[str, Any]:
    """Return what a run left that does not depend on how its store is divided.

    A scan of each part chooses its own path, and so leaves other stale bits in the index.
    """
    how = ("path", "examined_bytes", "network_calls", "network_bytes")
    kept = {
        name: value for name, value in left.items() if name not in ("store.ready_bits", "store.block_bits")
    }
    kept["ticks"] = [
        {name: value for name, value in tick.items() if name not in how} for tick in left["ticks"]
    ]
    return kept


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, other[name]), name
        else:
            assert value == other[name], name


def run_with_checkpoints(
    case: Case, path: Path, every: str, *, crash_after: int | None = None, **options: Any
) -> dict[str, Any]:
    """Run a case to its end, or until ``crash_after`` ticks; return what it left."""
    return _finish(case, RunCheckpoints(path), every, crash_after, **options)


def resume(
    path: Path, case: Case, every: str, *, crash_after: int | None = None, **options: Any
) -> dict[str, Any]:
    """Go on with a run."""
    return _finish(case, ResumedRun(path), every, crash_after, **options)


def _finish(
    case: Case, checkpoints: RunCheckpoints, every: str, crash_after: int | None, **options: Any
) -> dict[str, Any]:
    def on_tick(tick: TickReport) -> None:
        checkpoints.on_tick(tick)
        if tick.tick + 1 == crash_after:
            raise Crash

    with closed(checkpoints):
        options = {"finish_tick": True, **options}
        scenario = case.build(checkpoints.keep_plans(), **options)
        checkpoints.begin(scenario, case.request(every))
        report = scenario.run(on_tick, earlier=checkpoints.earlier)
        return outcome(scenario, report, list(checkpoints.plans()))


@contextmanager
def closed(checkpoints: RunCheckpoints) -> Iterator[None]:
    """Close checkpoints, of a run that crashed too."""
    try:
        yield
    finally:
        checkpoints.close()
