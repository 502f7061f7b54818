"""What scans and rankings ask of the device: launches, waits, copies and memory, counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulated import EmulatedDevice
from gpuscan.kernels.api import Budget, Cutoffs, Kernels, ScanRequest
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.kernels.cuda.workspace import SMALL_PLAN
from stores import NONE, Filling, assert_indexed, plain_layout, random_store

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cuda_host

LAYOUT = plain_layout(n_sections=2)
N_PAGES = LAYOUT.n_pages
_WAITS = ("upload", "write", "fetch", "fetch_into")


class CountedDevice(EmulatedDevice):
    """A device that counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self._depth = 0

    def compile(self, source: str) -> Callable[[str], Kernel]:
        find = super().compile(source)

        def find_counted(name: str) -> Kernel:
            kernel = find(name)

            def launch(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
                self.asked["launches"] += 1
                kernel(grid, block, args)

            return launch

        return find_counted

    def _count(self, what: str, run: Callable[[], Any]) -> Any:
        self.asked[what] += self._depth == 0  # an upload allocates, and is counted once
        self._depth += 1
        try:
            return run()
        finally:
            self._depth -= 1

    def zeros(self, length: int, dtype: Any) -> Any:
        return self._count("allocations", lambda: EmulatedDevice.zeros(self, length, dtype))

    def empty(self, length: int, dtype: Any) -> Any:
        return self._count("allocations", lambda: EmulatedDevice.empty(self, length, dtype))

    def clear(self, array: Any) -> None:
        self._count("clear", lambda: EmulatedDevice.clear(self, array))

    def upload(self, array: NDArray[Any]) -> Any:
        return self._count("upload", lambda: EmulatedDevice.upload(self, array))

    def write(self, array: Any, content: NDArray[Any]) -> None:
        self._count("write", lambda: EmulatedDevice.write(self, array, content))

    def write_from(self, array: Any, content: NDArray[Any]) -> None:
        self._count("write_from", lambda: EmulatedDevice.write_from(self, array, content))

    def fetch(self, array: Any) -> NDArray[Any]:
        fetched: NDArray[Any] = self._count("fetch", lambda: EmulatedDevice.fetch(self, array))
        return fetched

    def fetch_into(self, array: Any, into: NDArray[Any]) -> None:
        self._count("fetch_into", lambda: EmulatedDevice.fetch_into(self, array, into))

    def host_empty(self, length: int, dtype: Any) -> NDArray[Any]:
        host: NDArray[Any] = self._count("pinned", lambda: EmulatedDevice.host_empty(self, length, dtype))
        return host

    def fetch_beside(self, copies: Sequence[tuple[Any, NDArray[Any]]]) -> Callable[[], None]:
        self.asked["fetch_beside"] += 1
        return super().fetch_beside(copies)

    def taken(self) -> dict[str, int]:
        """Return what was asked for since the last call, without what was not."""
        asked = {name: n for name, n in self.asked.items() if n}
        self.asked.clear()
        return asked


@pytest.fixture
def device() -> CountedDevice:
    return CountedDevice()


def opened(device: CountedDevice, density: float) -> tuple[Kernels, Any]:
    """Return a store after its first two scans, filled anew."""
    kernels = CudaBackend(device).open(LAYOUT)
    arrays = random_store(LAYOUT, Filling(density), np.random.default_rng(2))
    for _ in range(2):
        kernels.load(arrays)
        scan(kernels)
    kernels.load(arrays)
    device.taken()
    return kernels, arrays


def scan(kernels: Kernels, path: Any = "auto", mask: Any = None, hi: int = N_PAGES) -> int:
    """Scan, read the plan, give it back; return its folios."""
    plan = kernels.scan(ScanRequest(0, hi, N_PAGES, path, mask))
    n_folios = len(plan.flat)
    plan.recycle()
    return n_folios


def test_a_scan_that_finds_nothing_is_one_launch_and_one_wait(device: CountedDevice) -> None:
    kernels, _ = opened(device, 1e-3)
    assert scan(kernels) > 0
    device.taken()
    assert scan(kernels) == 0
    assert device.taken() == {"launches": 1, "fetch_into": 1}
    plan = kernels.scan(ScanRequest(0, N_PAGES, N_PAGES))
    assert (plan.path, plan.cursor, plan.examined_pages) == ("indexed", N_PAGES, 0)
    assert plan.examined_bytes == 8 * N_PAGES // 32_768


@pytest.mark.parametrize("path", ["dense", "indexed"])
def test_a_small_plan_comes_with_its_counts(device: CountedDevice, path: str) -> None:
    kernels, _ = opened(device, 1e-3)
    assert 0 < scan(kernels, path) <= SMALL_PLAN
    assert device.taken() == {"launches": 4, "fetch_into": 2}


def test_a_larger_plan_takes_a_copy_beside_the_next_scan(device: CountedDevice) -> None:
    kernels, _ = opened(device, 1e-1)
    assert scan(kernels) > SMALL_PLAN
    assert device.taken() == {"launches": 4, "fetch_into": 2, "fetch_beside": 1}


def test_nodes_are_uploaded_when_they_change(device: CountedDevice) -> None:
    kernels, arrays = opened(device, 1e-3)
    first, other = np.ones(1024, dtype=np.uint8), np.zeros(1024, dtype=np.uint8)
    other[1] = 1
    found = []
    for mask, n_written in ((first, 1), (first.copy(), 0), (None, 0), (first, 0), (other, 1), (first, 1)):
        kernels.load(arrays)
        device.taken()
        found.append(scan(kernels, mask=mask))
        assert device.taken().get("write", 0) == n_written
    assert found[0] == found[2] == found[5] > found[4] > 0


def test_a_mask_that_changes_in_place_is_uploaded(device: CountedDevice) -> None:
    kernels, _ = opened(device, 1e-3)
    mask = np.zeros(1024, dtype=np.uint8)
    assert scan(kernels, mask=mask) == 0
    mask[:] = 1
    assert scan(kernels, mask=mask) > 0


def test_claims_of_a_small_plan_go_back_when_it_is_lost(
    device: CountedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, arrays = opened(device, 1e-3)
    fetch_into, n_fetched = device.fetch_into, 0

    def fail(array: Any, into: NDArray[Any]) -> None:
        nonlocal n_fetched
        n_fetched += 1
        if n_fetched == 2:
            raise KeyboardInterrupt
        fetch_into(array, into)

    monkeypatch.setattr(device, "fetch_into", fail)
    with pytest.raises(KeyboardInterrupt):
        scan(kernels)
    np.testing.assert_array_equal(kernels.dump().records, arrays.records)
    assert_indexed(kernels)


def test_a_store_scans_ranges_and_plans_of_any_size_in_turn(device: CountedDevice) -> None:
    """What is kept of a scan is no measure for the next."""
    kernels, arrays = opened(device, 1e-1)
    n_ready = int((arrays.records & LAYOUT.fmt.ready.mask != 0).sum())
    for hi in (512, N_PAGES, 40_960, N_PAGES - 512):
        first = scan(kernels, hi=hi)
        rest = kernels.scan(ScanRequest(0, N_PAGES, N_PAGES))
        assert first + len(rest.flat) == n_ready
        kernels.release(rest.flat, rest.words, NONE)
        kernels.load(arrays)


def ranked(kernels: Kernels, limit: int) -> Cutoffs:
    """Return the cut-offs of a budget of ``limit`` pages for every target, with ties that are cut."""
    n_targets = kernels.layout.n_targets
    return kernels.rank(Budget(np.full(n_targets, limit), np.full(n_targets, 3000), 0), 0, N_PAGES)


@pytest.mark.parametrize("n_targets", [8, 1024])
def test_cut_offs_stay_on_the_device(n_targets: int) -> None:
    """A ranking uploads its limits; scans with what it found, one after the other, upload nothing."""
    device = CountedDevice()
    kernels = CudaBackend(device).open(plain_layout(n_sections=2, n_targets=n_targets))
    kernels.load(random_store(kernels.layout, Filling(3e-2), np.random.default_rng(2)))
    ranked(kernels, 1)
    device.taken()
    cuts = ranked(kernels, 2)
    assert (cuts.cut_key < kernels.layout.fmt.n_keys).any(), "no budget is cut"
    assert device.taken() == {"launches": 6, "write": 1, "clear": 2, "fetch_into": 2}
    found = 0
    for lo, hi in ((0, 40_960), (40_960, N_PAGES)):
        plan = kernels.scan(ScanRequest(lo, hi, N_PAGES, "indexed", cuts=cuts))
        found += len(plan.flat)
        asked = device.taken()
        asked.pop("fetch_beside", None), asked.pop("allocations", None), asked.pop("pinned", None)
        assert asked == {"launches": 4, "fetch_into": 2}
    assert 0 < found <= 2 * n_targets


@pytest.mark.parametrize("ordered", [True, False])
def test_requests_come_in_one_copy_and_are_waited_for_once(ordered: bool) -> None:
    device = CountedDevice()
    kernels = CudaBackend(device, ordered=ordered).open(LAYOUT)
    pfns, nids = np.arange(0, 60_000, 60), np.zeros(1000, dtype=np.int32)
    kernels.set_eligible(pfns, True)
    kernels.request(pfns, nids, NONE)
    device.taken()
    kernels.request(pfns, nids, NONE)
    asked = {"write_from": 1, "clear": 1, "launches": 1 + ordered, "fetch_into": 1}
    assert device.taken() == asked
    kernels.request(pfns, nids, np.zeros(1000, dtype=np.uint8))
    assert device.taken() == {**asked, "fetch_into": 2}


def test_what_the_benchmark_measures_is_a_scan() -> None:
    found = {}
    for name, device in cuda_host.cases().items():
        kernels = CudaBackend(device).open(cuda_host.layout())
        plan = kernels.scan(ScanRequest(0, kernels.layout.n_pages, kernels.layout.n_pages))
        found[name] = len(plan.flat)
    assert found == {"nothing": 0, "27 pages": 27, "27,000 pages": 27_000}
