"""A device that fails in the middle of a run: nothing that was asked for is lost, or it is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from failing import DriverLostError, FailingBackend
from gpuscan.base.errors import DeviceError, DeviceFailedError, InputError
from gpuscan.cli.main import main
from gpuscan.engine.tick import TickReport
from gpuscan.kernels import failover, registry
from gpuscan.kernels.api import Budget, StoreLayout
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.run import scenario as scenario_module
from gpuscan.run.checkpoints import RunCheckpoints
from gpuscan.run.resume import ResumedRun
from gpuscan.shards import shard as shard_module
from gpuscan.shards.sharded_store import Sharding
from gpuscan.shards.transport import InProcessTransport
from gpuscan.store.single import Store
from gpuscan.topology import Topology
from machines import tiered
from runs import BUSY, Case, assert_same, resume, run_with_checkpoints, undivided

CASE = Case(
    "phase-shift",
    (
        "processes.0.accesses_per_gib_s=400_000",
        "policy.budget_pages=900",
        "producer.mark=record",
        "policy.freq_threshold=1",
        *BUSY,
    ),
    n_ticks=8,
)
LOST = [
    DriverLostError("the driver is gone"),
    MemoryError("out of device memory"),
    KeyError("in a kernel"),
    DeviceError("the GPU has no room"),
]


@pytest.fixture
def topology() -> Topology:
    return tiered(n_sections=1)


def guarded(primary: FailingBackend) -> GuardedBackend:
    return GuardedBackend(primary, lambda: CpuBackend(1))


def script(store: Store, after: Callable[[], None]) -> list[Any]:
    """Use every operation of a store many times; return all that came of it."""
    rng = np.random.default_rng(3)
    page_map = store.page_map
    said: list[Any] = []
    after()
    for now in range(6):
        flats = rng.choice(store.n_pages, 4000, replace=False)
        store.admit(flats & ~1, 1)
        after()
        said.append(store.request(page_map.pfn_of_flat(flats[:700]), rng.integers(0, 4, 700)))
        after()
        pfns, nids = page_map.pfn_of_flat(flats[500:2000]), rng.integers(0, 4, 1500)
        said.append(
            store.record(pfns, nids, now_jiffies=now, window_jiffies=9, threshold=2, drop_top_tier=False)
        )
        after()
        for plan in store.drain(capacity=512, budget_pages=500, now_jiffies=now):
            after()
            said.append((plan.pfn.tolist(), plan.words.tolist(), plan.order.tolist()))  # type: ignore[union-attr]
            said.append(store.release(plan.flat[::3], plan.words[::3]))
            after()
        said.append(store.forget(np.unique(flats[::5] & ~1)))
        after()
        said.append(store.kernels.take_active().tolist())
        said.append(store.count_ready())
    store.load_pages(store.dump().eligible_bits)
    said.append(store.dump().records.tolist())
    said.append(store.dump().eligible_bits.tolist())
    return said


def opened(topology: Topology, backend: Any) -> Store:
    return Store(topology, "rfc", backend, large_folios=True)


def never_fails(topology: Topology) -> tuple[list[Any], int]:
    backend = FailingBackend(CpuBackend(1))
    return script(opened(topology, guarded(backend)), lambda: None), len(backend.calls)


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_a_store_goes_on_wherever_its_device_fails(topology: Topology, error: Exception) -> None:
    undisturbed = script(opened(topology, CpuBackend(1)), lambda: None)
    whole, n_calls = never_fails(topology)
    assert whole == undisturbed
    lost_in = set()
    for fails_at in range(LOST.index(error), n_calls, 7):
        backend = FailingBackend(CpuBackend(1), error=error, fails_at=fails_at)
        over = guarded(backend)
        assert script(opened(topology, over), lambda: None) == whole
        (sentence,) = over.failures
        assert sentence.startswith(
            f"the device cuda failed in {backend.calls[fails_at]} ({type(error).__name__}"
        )
        assert "cpu went on from the last good state" in sentence
        assert over.name == "cuda, then cpu"
        assert len(backend.calls) == fails_at + 1  # nobody asked the dead device again
        lost_in.add(backend.calls[fails_at])
    assert {"record", "scan", "release", "set_eligible"} <= lost_in


def test_a_plan_that_never_arrives_is_made_again(topology: Topology) -> None:
    whole, _ = never_fails(topology)
    backend = FailingBackend(CpuBackend(1))
    script(opened(topology, guarded(backend)), lambda: None)
    scans = [number for number, name in enumerate(backend.calls) if name == "scan"]
    assert len(scans) >= 12
    for fails_at in scans[::5]:
        over = guarded(FailingBackend(CpuBackend(1), at_plan=True, fails_at=fails_at))
        assert script(opened(topology, over), lambda: None) == whole
        assert "failed in scan" in over.failures[0]


def test_the_journal_is_bounded(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "_JOURNAL_BYTES_MIN", 1 << 16)
    monkeypatch.setattr(failover, "_JOURNAL_SHARE", 1 << 30)
    whole, n_calls = never_fails(topology)
    largest = 0
    for fails_at in range(5, n_calls, 11):
        backend = FailingBackend(CpuBackend(1), fails_at=fails_at)
        store = opened(topology, guarded(backend))
        kernels: Any = store.kernels

        def look(kernels: Any = kernels) -> None:
            nonlocal largest
            largest = max(largest, kernels._journal_bytes)

        assert script(store, look) == whole
        assert "dump" in backend.calls
    assert 0 < largest <= 1 << 16


def test_who_asks_wrongly_is_told_so(topology: Topology) -> None:
    over = guarded(FailingBackend(CpuBackend(1)))
    store = opened(topology, over)
    with pytest.raises(ValueError, match="not all in"):
        store.forget(np.array([store.n_pages]))
    assert not over.failures


def test_the_fallback_has_none(topology: Topology) -> None:
    first = FailingBackend(CpuBackend(1), fails_at=9)
    second = FailingBackend(ReferenceBackend(), name="second", fails_at=30)
    store = opened(topology, GuardedBackend(first, lambda: second))
    with pytest.raises(DeviceFailedError, match=r"^the device second failed in \w+ \(DriverLostError"):
        script(store, lambda: None)


@pytest.mark.parametrize("lost_in", ["count_keys", "cut", "take_active"])
def test_counts_are_cut_wherever_the_device_fails(topology: Topology, lost_in: str) -> None:
    found = []
    for backend in (FailingBackend(CpuBackend(1)), FailingBackend(CpuBackend(1), at_first=lost_in)):
        over = guarded(backend)
        store = opened(topology, over)
        store.load_pages(store.page_map.present_bits())
        store.request(store.page_map.pfn_of_flat(np.arange(0, store.n_pages, 50)), 0)
        n_targets = store.layout.n_targets
        budget = Budget(np.full(n_targets, 70), np.zeros(n_targets, dtype=np.int64), 0)
        counted = store.kernels.count_keys(budget, 0, store.n_pages)
        store.take_active()
        key = np.flatnonzero(counted.pages_of_key.any(axis=0))[0]
        cuts = counted.cut(np.full(n_targets, key, dtype=np.int32))
        found.append([counted.pages_of_key.tolist(), cuts.above_pages.tolist(), cuts.tie_pages_from.tolist()])
    assert found[0] == found[1]
    assert np.sum(found[0][2]) > 1000
    (sentence,) = over.failures
    assert sentence.startswith(f"the device cuda failed in {lost_in} (DriverLostError")


class Unhelpful(CpuBackend):
    """A fallback that fails while it takes over."""

    def __init__(self, error: Exception) -> None:
        super().__init__(1)
        self._error = error

    def open(self, layout: StoreLayout) -> Any:
        raise self._error


@pytest.mark.parametrize("error", [DeviceError("no room for a store"), MemoryError(), ValueError("odd")])
def test_a_fallback_that_cannot_take_over_is_one_sentence(topology: Topology, error: Exception) -> None:
    said = r"^the device cuda failed in request \(DriverLostError: .*\), and nothing could take over \("
    backends: list[Callable[[], Any]] = [
        lambda: Unhelpful(error),
        lambda: FailingBackend(CpuBackend(1), name="second", error=error, fails_at=0),
    ]
    for fallback in backends:
        store = opened(topology, GuardedBackend(FailingBackend(CpuBackend(1), at_first="request"), fallback))
        store.load_pages(store.page_map.present_bits())  # to be loaded by the fallback
        with pytest.raises(DeviceFailedError, match=said + type(error).__name__):
            store.request([store.page_map.pfn_of_flat(np.array([0]))[0]], 1)


def test_a_fallback_that_fails_at_once_is_one_sentence(topology: Topology) -> None:
    second = FailingBackend(CpuBackend(1), name="second", at_first="request")
    store = opened(
        topology, GuardedBackend(FailingBackend(CpuBackend(1), at_first="request"), lambda: second)
    )
    with pytest.raises(DeviceFailedError, match=r"^the device second failed in request \(DriverLostError"):
        store.request([store.page_map.pfn_of_flat(np.array([0]))[0]], 1)


def test_without_a_fallback_it_is_one_sentence(topology: Topology) -> None:
    backend = GuardedBackend(FailingBackend(CpuBackend(1), error=MemoryError("no room"), fails_at=9))
    with pytest.raises(DeviceFailedError, match=r"^the device cuda failed in \w+ \(MemoryError: no room\)$"):
        script(opened(topology, backend), lambda: None)


def test_without_a_fallback_a_plan_that_is_lost_is_one_sentence(topology: Topology) -> None:
    backend = GuardedBackend(FailingBackend(CpuBackend(1), at_plan=True, fails_at=0))
    with pytest.raises(DeviceFailedError, match="failed in the copy of a plan"):
        opened(topology, backend).scan()


# Runs.


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> FailingBackend:
    """Make ``--device auto`` one that fails; the CPU is what it is."""
    backend = FailingBackend(CpuBackend(1))
    real = registry.open_backend

    def open_backend(device: Any, n_threads: int | None = None) -> Any:
        return real(device, n_threads) if device == "cpu" else (backend, "cuda: there is a GPU")

    monkeypatch.setattr(scenario_module, "open_backend", open_backend)
    return backend


@pytest.mark.slow
def test_a_run_goes_on_on_the_cpu_and_its_result_is_the_same(failing: FailingBackend, tmp_path: Path) -> None:
    whole = run_with_checkpoints(CASE, tmp_path / "whole", "1000")
    assert whole["refusals"]
    run_with_checkpoints(CASE, tmp_path / "count", "1000", device="auto", fallback=True)
    n_calls, said = len(failing.calls), list(failing.calls)
    for number, fails_at in enumerate(range(said.index("record"), n_calls, n_calls // 6)):
        failing.calls, failing.fails_at = [], fails_at
        left = run_with_checkpoints(CASE, tmp_path / str(number), "2", device="auto", fallback=True)
        assert_same(left, whole)
        assert_same(resume(tmp_path / str(number), CASE, "2"), whole)  # its checkpoints are good


def test_a_run_without_fallback_stops_with_a_checkpoint_made_at_the_failure(
    failing: FailingBackend, tmp_path: Path
) -> None:
    whole = run_with_checkpoints(CASE, tmp_path / "whole", "1000")
    ended = calls_per_tick(failing, tmp_path / "count")
    for tick in (0, 5):
        failing.calls, failing.fails_at = [], (ended[tick] + ended[tick + 1]) // 2
        place = tmp_path / str(tick)
        with pytest.raises(DeviceFailedError, match=r"the device cuda failed in .*, to the end of the tick$"):
            run_with_checkpoints(CASE, place, "1000", device="auto")
        found = ResumedRun(place)
        found.close()
        assert len(found.earlier) == tick + 2  # the tick it failed in was finished
        assert_same(resume(place, CASE, "2"), whole)


def calls_per_tick(failing: FailingBackend, place: Path) -> list[int]:
    """Return how many operations the device had done at the end of each tick of a run on it."""
    ended: list[int] = []
    on_tick = RunCheckpoints.on_tick

    def noting(self: RunCheckpoints, report: TickReport) -> None:
        on_tick(self, report)
        ended.append(len(failing.calls))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCheckpoints, "on_tick", noting)
        run_with_checkpoints(CASE, place, "1000", device="auto")
    return ended


def test_a_shard_without_fallback_stops_the_run_with_such_a_checkpoint(
    failing: FailingBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the fixture left it, not the registry's own.
    monkeypatch.setattr(shard_module, "open_backend", vars(scenario_module)["open_backend"])
    whole = run_with_checkpoints(CASE, tmp_path / "whole", "1000")
    calls: list[str] = []
    for fails_at in (None, 3 / 4):
        failing.fails_at = None if fails_at is None else int(fails_at * len(calls))
        failing.calls = []
        stops = (
            nullcontext() if fails_at is None else pytest.raises(DeviceFailedError, match=r"^shard 0: the")
        )
        transport = InProcessTransport()
        place = tmp_path / str(fails_at)
        options: dict[str, Any] = {
            "device": "auto",
            "sharding": Sharding(transport, 1, tmp_path / f"{fails_at} shards"),
        }
        with closing(transport), stops:
            run_with_checkpoints(CASE, place, "1000", **options)
        calls = failing.calls
    found = ResumedRun(place)
    found.close()
    assert len(found.earlier) > 2
    assert_same(undivided(resume(place, CASE, "2")), undivided(whole))


ARGS = ["--memory", "512MiB", "--ticks", "6", "--set", "processes.0.accesses_per_gib_s=400_000", "--quiet"]


def test_the_command_line_says_what_to_do(
    failing: FailingBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *ARGS, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    calls = list(failing.calls)
    failing.calls, failing.fails_at = [], len(calls) * 3 // 4
    assert main(["run", *ARGS]) == 1
    assert "run again with --device cpu, with --fallback" in capsys.readouterr().err
    failing.calls = []
    assert main(["run", *ARGS, "--checkpoint", str(tmp_path / "c"), "--every", "2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpuscan: error: the device cuda failed in ")
    assert err.endswith(
        f", to the end of the tick; go on from tick 5 with 'gpuscan resume {tmp_path / 'c'} --device cpu'\n"
    )
    assert main(["resume", str(tmp_path / "c"), "--device", "cpu", "--json", "--quiet"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert resumed["ledger"] == whole["ledger"]
    assert resumed["resumed_at"] == [5]
    failing.calls = []
    assert main(["run", *ARGS, "--fallback", "--json"]) == 0
    survived = json.loads(capsys.readouterr().out)
    assert survived["ledger"] == whole["ledger"]
    assert survived["device"]["name"] == "cuda, then cpu"
    assert "went on from the last good state" in survived["notes"][-1]


def test_a_model_has_no_device_to_fail() -> None:
    with pytest.raises(InputError, match="leave out --fallback"):
        Case("cxl-promote").build(design="rfc-v1", fallback=True)
