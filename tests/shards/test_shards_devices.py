"""Devices of shards: one that fails is replaced by the CPU, and a shard may go on on another kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shards_recovery import FragileTransport

from failing import FailingBackend
from gpuscan.base.errors import DeviceFailedError
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.shards import shard as shard_module
from gpuscan.shards.messages import ShardSpec
from gpuscan.shards.sharded_store import ShardedStore
from gpuscan.shards.transport import InProcessTransport
from gpuscan.store.plan import Plan
from sharded import random_pfns
from sharded_runs import assert_same_run, machine, run, single


class Gpu(FailingBackend):
    """A GPU that one shard of a run has, and that may fail."""

    taken = False


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Give the first shard of a run a GPU; the CPU is what it is."""
    backend = Gpu(CpuBackend(1))

    def open_backend(device: str, n_threads: int | None = None) -> tuple[Any, str]:
        if device == "cpu" or backend.taken:
            return CpuBackend(1), "cpu"
        backend.taken = True
        return backend, "cuda: there is a GPU"

    monkeypatch.setattr(shard_module, "open_backend", open_backend)
    return backend


def run_on(
    gpu: Gpu, place: Path | None, fails_after: int | None = None, **options: Any
) -> tuple[Any, ShardedStore, int]:
    """Run with a shard on a GPU that fails so many calls after protection; return how many came before."""
    gpu.calls, gpu.fails_at, gpu.taken = [], None, False
    with ShardedStore(machine(1), device="auto", n_shards=2, n_threads=1, **options) as store:
        store.load_pages(store.page_map.present_bits())
        if place is not None:
            store.protect(place)
        n_before = len(gpu.calls)
        gpu.fails_at = None if fails_after is None else n_before + fails_after
        return run(store, 2, seed=4), store, n_before


def test_a_shard_whose_device_fails_goes_on_on_the_cpu(gpu: Gpu, tmp_path: Path) -> None:
    expected = single(2, 4, machine(1))
    found, store, n_before = run_on(gpu, tmp_path / "calm", cpu_takes_over=True)
    assert_same_run(found, expected)
    assert (store.device_name, store.device_failures()) == ("mixed", ())
    calls = gpu.calls[n_before:]
    lost_in = set()
    for number, fails_after in enumerate(range(0, len(calls), max(1, len(calls) // 12))):
        heard: list[str] = []
        found, store, _ = run_on(
            gpu, tmp_path / str(number), fails_after, cpu_takes_over=True, on_failure=heard.append
        )
        assert_same_run(found, expected)
        assert len(gpu.calls) == n_before + fails_after + 1  # nobody asked the dead device again
        assert (store.device_name, len(store.recovery_s())) == ("mixed, then cpu", 1)
        assert heard == list(store.device_failures())
        what = calls[fails_after]
        assert heard[0].startswith(f"shard 0: the device cuda failed in {what} (DriverLostError")
        assert heard[0].endswith(": the CPU went on from its checkpoint and log")
        lost_in.add(what)
    assert {"record", "scan"} <= lost_in


def test_a_device_that_fails_when_counts_are_cut_is_replaced_too(gpu: Gpu, tmp_path: Path) -> None:
    expected = single(2, 4, machine(1))
    _, _, n_before = run_on(gpu, tmp_path / "calm", cpu_takes_over=True)
    fails_after = gpu.calls[n_before:].index("cut")
    found, store, _ = run_on(gpu, tmp_path / "cut", fails_after, cpu_takes_over=True)
    assert_same_run(found, expected)
    (sentence,) = store.device_failures()
    assert sentence.startswith("shard 0: the device cuda failed in cut (DriverLostError")
    with pytest.raises(DeviceFailedError, match=r"^shard 0: the device cuda failed in cut \(DriverLost"):
        run_on(gpu, tmp_path / "no fallback", fails_after)


def test_without_a_fallback_or_a_checkpoint_the_device_of_a_shard_ends_the_run(
    gpu: Gpu, tmp_path: Path
) -> None:
    for place, cpu_takes_over in ((tmp_path, False), (None, True)):
        with pytest.raises(DeviceFailedError, match=r"^shard 0: the device cuda failed in \w+ \(DriverLost"):
            run_on(gpu, place, 20, cpu_takes_over=cpu_takes_over)


class Elsewhere(FragileTransport):
    """Makes a shard that was lost anew on a device that ends full plans at other pages."""

    def create(self, spec: ShardSpec, state: Path | None) -> None:
        super().create(spec if state is None else replace(spec, device="reference"), state)


@pytest.mark.parametrize("lose_at", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (16, 24))])
def test_a_shard_made_anew_on_another_device_claims_the_same_folios(tmp_path: Path, lose_at: int) -> None:
    expected = plans_in_rounds(tmp_path / "calm", InProcessTransport())
    assert max(len(plans) for plans in expected) > 3
    transport = Elsewhere(lose_at, done=False, again=0)
    found = plans_in_rounds(tmp_path / "lost", transport)
    assert transport.n_lost == 1
    # Plans that were handed out are what they were; later ones may end elsewhere, as devices do.
    assert [claims_of(plans) for plans in found] == [claims_of(plans) for plans in expected]


def claims_of(plans: list[Plan]) -> list[tuple[int, int]]:
    """Return all that was claimed in a round."""
    return sorted(
        (int(flat), int(word)) for plan in plans for flat, word in zip(plan.flat, plan.words, strict=True)
    )


def plans_in_rounds(place: Path, transport: InProcessTransport) -> list[list[Plan]]:
    """Claim more than fits a plan, within a budget, round after round."""
    rounds = []
    with ShardedStore(machine(1), device="cpu", n_shards=1, transport=transport, n_threads=1) as store:
        store.load_pages(store.page_map.present_bits())
        store.protect(place)
        if isinstance(transport, FragileTransport):
            transport.armed = True
        rng = np.random.default_rng(5)
        for now in range(3):
            store.request(random_pfns(store, rng, 9000), rng.integers(0, 4, 9000).astype(np.int32))
            plans = []
            for plan in store.drain(capacity=512, budget_pages=700, now_jiffies=now):
                plans.append(plan)
                back = plan.flat % 5 == 0
                store.release(plan.flat[back], plan.words[back])
            rounds.append(plans)
    return rounds
