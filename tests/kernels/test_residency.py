"""Stores whose index alone is on the device do what those do that are on it, and refuse what they cannot."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import backend_named
from emulated import EmulatedDevice, emulated_backend
from failing import FailingBackend
from gpuscan.base.errors import DeviceError, InputError, RunFailedError
from gpuscan.files.disk_memory import DiskMemory, disk_memory
from gpuscan.kernels.api import Budget, Kernels, RecordParams, ScanRequest, StoreArrays, StoreLayout
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.kernels.cpu import backend as cpu_backend
from gpuscan.kernels.cuda import CudaBackend, record_memory
from gpuscan.kernels.cuda import backend as cuda_backend
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.kernels.reference import ReferenceBackend
from gpuscan.kernels.residency import index_backend
from gpuscan.records.formats import STORE_FORMATS
from gpuscan.records.page_map import Extent
from stores import (
    EXAMPLES,
    NONE,
    Filling,
    always_parallel,
    assert_indexed,
    assert_same_plan,
    assert_same_store,
    drained,
    fillings,
    layout_of,
    layouts,
    plain_layout,
    random_store,
    seeds,
)

EMULATED = ("emulated in pinned memory", "emulated-exclusive in a file")
PLACES: list[Any] = [
    "cpu-2 in a file",
    *EMULATED,
    pytest.param("cuda in pinned memory", marks=pytest.mark.gpu),
]
LAYOUT = plain_layout(n_sections=1)
ALL = ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages)


@pytest.fixture(scope="module", autouse=True)
def _parallel() -> Iterator[None]:
    with always_parallel():
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


def opened(place: str, layout: StoreLayout, directory: Path) -> Kernels:
    """Return a store of a backend, its records where the name says."""
    name, _, where = place.partition(" in ")
    make = partial(disk_memory, directory) if where == "a file" else None
    return index_backend(backend_named(name)).open_index(layout, make)


@pytest.mark.parametrize("path", ["indexed", "auto"])
@pytest.mark.parametrize("format_name", STORE_FORMATS)
def test_all_operations(format_name: str, path: Any, directory: Path) -> None:
    """Every format, on a store with all there is; what is drawn first is empty, and more of them is slow."""
    layout = layout_of([Extent(0, 700, 0, 0), Extent(700, 40_701, 3, 1)], format_name, 8, large_folios=True)
    filling = Filling(ready=3e-2, counted=1e-2, stale=1e-3, full_blocks=2, unknown_targets=True)
    agree(("cpu-2 in a file", "emulated in pinned memory"), layout, filling, 7, path, directory)


@pytest.mark.slow
@pytest.mark.timeout(900)
@given(layout=layouts(), filling=fillings, seed=seeds, path=st.sampled_from(["indexed", "auto"]))
@settings(EXAMPLES, max_examples=40)
def test_all_operations_on_many_stores(
    layout: StoreLayout, filling: Filling, seed: int, path: Any, directory: Path
) -> None:
    agree(("cpu-2 in a file", *EMULATED), layout, filling, seed, path, directory)


@pytest.mark.gpu
@given(layout=layouts(), filling=fillings, seed=seeds, path=st.sampled_from(["indexed", "auto"]))
@EXAMPLES
def test_all_operations_on_a_gpu(
    layout: StoreLayout, filling: Filling, seed: int, path: Any, directory: Path
) -> None:
    agree(("cuda in pinned memory",), layout, filling, seed, path, directory)


def agree(
    places: tuple[str, ...], layout: StoreLayout, filling: Filling, seed: int, path: Any, directory: Path
) -> None:
    """Do the same with the reference, with a store in memory and with those of ``places``, and compare."""
    arrays = random_store(layout, filling, np.random.default_rng(seed))
    reference = ReferenceBackend().open(layout)
    said = everything_done(reference, arrays, seed, path)
    for place in ("cpu-1", *places):
        elsewhere = " in " in place
        kernels = opened(place, layout, directory) if elsewhere else backend_named(place).open(layout)
        for mine, theirs in zip(everything_done(kernels, arrays, seed, path), said, strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=place)
        assert_same_store(kernels, reference)
        assert_indexed(kernels)
        if elsewhere:
            last = kernels.scan(ScanRequest(0, layout.n_pages, 512, path))
            assert (last.path, "the records are elsewhere" in last.why) == ("indexed", path == "auto")
        kernels.close()


def everything_done(kernels: Kernels, arrays: StoreArrays, seed: int, path: Any) -> list[Any]:
    """Use every operation of a store that is filled first; return what came of it."""
    layout, rng = kernels.layout, np.random.default_rng(seed + 1)
    pfns = rng.integers(0, int(layout.page_map.extent_pfn_end[-1]) + 100, 300)
    nids = rng.integers(-2, layout.n_targets + 2, 300).astype(np.int32)
    flats = rng.choice(layout.n_pages, 100, replace=False)
    limits = rng.choice(np.array([-1, 0, 7, 700, 10**9]), layout.n_targets).astype(np.int64)
    budget = Budget(limits, rng.integers(0, layout.n_pages, layout.n_targets), 5)
    kernels.load(arrays)
    came: list[Any] = [kernels.count_ready(), kernels.request(pfns, nids, NONE)]
    came.append(kernels.record(pfns, nids, RecordParams(1 << 20, 100, 2, drop_top_tier=False), NONE))
    kernels.set_eligible(flats[:50], eligible=False)
    if layout.has_large_folios:
        kernels.set_order(flats[50:53] >> 4 << 4, 4)
    came += [kernels.discard(flats[53:]), kernels.count_ready(), kernels.count_index()]
    cuts = kernels.rank(budget, 0, layout.n_pages)
    paid = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path, cuts=cuts))
    came += [paid.offsets, paid.flat.copy(), paid.words.copy()]
    half = layout.n_pages // 2 // 512 * 512
    bounded = drained(kernels, lambda cursor: ScanRequest(cursor or 0, half, 700, path))
    came.append([(flat, *claim) for flat, claim in sorted(bounded.items())])
    came.append(kernels.release(paid.flat[::2], paid.words[::2], NONE))
    rest = kernels.scan(ScanRequest(0, layout.n_pages, layout.n_pages, path))
    came += [rest.offsets, rest.flat.copy(), rest.words.copy()]
    kernels.release(rest.flat, rest.words, NONE)
    return [*came, kernels.take_active(), kernels.count_ready()]


def test_a_plan_that_stays_on_the_device(directory: Path) -> None:
    kernels = opened("emulated in pinned memory", LAYOUT, directory)
    kernels.load(random_store(LAYOUT, Filling(0.01), np.random.default_rng(1)))
    n_ready = kernels.count_ready()
    plan = kernels.scan_on_device(ALL)  # type: ignore[attr-defined]
    assert (len(plan), plan.path) == (n_ready, "indexed")
    assert plan.why.startswith("the records are elsewhere")


@pytest.mark.parametrize("place", PLACES)
def test_closing_gives_the_memory_back(place: str, directory: Path) -> None:
    kernels = opened(place, LAYOUT, directory)
    kernels.load(random_store(LAYOUT, Filling(0.01), np.random.default_rng(1)))
    assert len(kernels.scan(ALL).flat)
    host = getattr(kernels, "_host_records", None)
    memory = kernels.arrays.records if host is None else host.records
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    gone = weakref.ref(memory)
    del memory
    kernels.close()
    gc.collect()
    assert gone() is None
    assert f"{directory}/" not in Path("/proc/self/maps").read_text()


class LoggedDevice(EmulatedDevice):
    """A device that logs its kernels by name and when somebody waits for them, and is broken by then."""

    def __init__(self, happened: list[str]) -> None:
        super().__init__()
        self.happened = happened

    def compile(self, source: str) -> Callable[[str], Any]:
        find = super().compile(source)

        def launched(name: str, *given: Any) -> None:
            self.happened.append(name)
            find(name)(*given)

        return lambda name: partial(launched, name)

    def wait(self) -> None:
        self.happened.append("wait")
        raise RuntimeError("broken")  # nobody who lets go of something minds


class LoggedMemory:
    """Memory of a process, which says when it is let go of."""

    def __init__(self, happened: list[str], n_bytes: int) -> None:
        self.array = np.zeros(n_bytes, dtype=np.uint8)
        self._happened = happened

    def check(self) -> None:
        pass

    def close(self) -> None:
        self._happened.append("let go")


def test_memory_that_kernels_write_to_goes_when_they_have_ended() -> None:
    happened: list[str] = []
    backend = CudaBackend(LoggedDevice(happened))
    kernels = backend.open_index(LAYOUT, partial(LoggedMemory, happened))
    kernels.set_eligible(np.arange(5), eligible=True)  # nothing is fetched of it, so nobody waits
    kernels.close()
    kernels.close()
    assert happened == ["set_eligible", "wait", "let go"]


def test_memory_goes_when_kernels_have_ended_where_none_comes_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    happened: list[str] = []
    backend = CudaBackend(LoggedDevice(happened))
    monkeypatch.setattr(cuda_backend, "Producing", interrupt)
    with pytest.raises(KeyboardInterrupt):
        backend.open_index(LAYOUT, partial(LoggedMemory, happened))
    assert happened == ["wait", "let go"]


# What is refused, and that nothing is there then


@pytest.mark.parametrize("place", EMULATED)
def test_records_on_the_host_are_no_device_arrays(place: str, directory: Path) -> None:
    """So a driver that copied them as such shows in all tests on the emulator."""
    kernels: Any = opened(place, LAYOUT, directory)
    for copy in (kernels.device.fetch, lambda array: kernels.device.write(array, array.copy())):
        copy(kernels.arrays.ready_bits)
        with pytest.raises(AssertionError, match="in memory of the host"):
            copy(kernels.arrays.records)


@pytest.mark.parametrize("place", PLACES)
def test_a_dense_scan_is_refused(place: str, directory: Path) -> None:
    kernels = opened(place, LAYOUT, directory)
    arrays = random_store(LAYOUT, Filling(0.01), np.random.default_rng(1))
    kernels.load(arrays)
    with pytest.raises(InputError, match=r"a dense scan reads every record.*take the path auto or indexed"):
        kernels.scan(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, "dense"))
    np.testing.assert_array_equal(kernels.dump().records, arrays.records)
    np.testing.assert_array_equal(kernels.dump().ready_bits, arrays.ready_bits)


def test_full_blocks_are_scanned_by_the_index(directory: Path) -> None:
    """Where records are on the device, so many candidates have all of them read."""
    for place in ("cpu-2 in a file", "emulated in pinned memory"):
        kernels, reference = opened(place, LAYOUT, directory), ReferenceBackend().open(LAYOUT)
        for each in (kernels, reference):
            each.load(random_store(LAYOUT, Filling(ready=2.0), np.random.default_rng(5)))
        plan = kernels.scan(ALL)
        assert plan.path == "indexed"
        assert_same_plan(plan, reference.scan(ALL))


def test_a_backend_that_keeps_all_on_its_device_says_so() -> None:
    for backend in (ReferenceBackend(), GuardedBackend(FailingBackend(CpuBackend(1)))):
        with pytest.raises(InputError, match="keeps all of a store on its device; take residency device"):
            index_backend(backend).open_index(LAYOUT, None)


def test_the_cpu_wants_a_directory() -> None:
    with pytest.raises(InputError, match=r"say in which directory .*--records-dir"):
        CpuBackend(1).open_index(LAYOUT, None)


def test_a_device_that_another_takes_over_from_keeps_its_records(directory: Path) -> None:
    guarded = GuardedBackend(CpuBackend(1), lambda: CpuBackend(1))
    with pytest.raises(InputError, match="leave out the fallback"):
        guarded.open_index(LAYOUT, partial(disk_memory, directory))
    alone = GuardedBackend(CpuBackend(1)).open_index(LAYOUT, partial(disk_memory, directory))
    assert alone.scan(ALL).path == "indexed"
    assert alone.scan_on_device is None


class CountedDevice(EmulatedDevice):
    """A device that notes that something was allocated on it."""

    def __init__(self, free_bytes: int) -> None:
        super().__init__()
        self._free_bytes = free_bytes
        self.allocated = 0

    def free_bytes(self) -> int:
        return self._free_bytes

    def zeros(self, length: int, dtype: Any) -> Any:
        self.allocated += 1
        return super().zeros(length, dtype)


def never(n_bytes: int) -> DiskMemory:
    raise AssertionError(f"{n_bytes} were made, and nothing fits")


def test_an_index_that_does_not_fit_is_refused_before_anything_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_backend, "available_bytes", lambda: 10_000)
    with pytest.raises(DeviceError, match=r"the index of 65536 pages needs 16 KiB, 9\.77 KiB of memory"):
        CpuBackend(1).open_index(LAYOUT, never)
    device = CountedDevice(10_000)
    with pytest.raises(
        DeviceError, match=r"the index of 65536 pages needs 128 MiB .* at most 9\.77 KiB are free"
    ):
        CudaBackend(device).open_index(LAYOUT, never)
    assert device.allocated == 0


def test_an_index_fits_where_a_store_does_not() -> None:
    device = CountedDevice(LAYOUT.index_bytes + (129 << 20))
    with pytest.raises(DeviceError, match=r"have the index alone there \(residency index\)"):
        CudaBackend(device).open(plain_layout(n_sections=16))
    assert CudaBackend(device).open_index(LAYOUT, None).count_ready() == 0


def test_a_gpu_of_80_gb_has_room_for_the_index_of_a_pebibyte() -> None:
    class MadeError(Exception):
        """The records are made last."""

    def make(n_bytes: int) -> DiskMemory:
        assert n_bytes == 1 << 40
        raise MadeError

    layout = layout_of([Extent(0, 1 << 38, 1, 0)])
    with pytest.raises(MadeError):
        CudaBackend(CountedDevice(71 * 10**9)).open_index(layout, make)
    with pytest.raises(DeviceError, match="the index of 274877906944 pages needs"):
        CudaBackend(CountedDevice(69 * 10**9)).open_index(layout, make)


def test_records_that_do_not_fit_the_host_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_memory, "available_bytes", lambda: 10_000)
    device = CountedDevice(1 << 40)
    with pytest.raises(DeviceError, match=r"need 256 KiB of pinned host memory, 9\.77 KiB are available"):
        CudaBackend(device).open_index(LAYOUT, None)
    assert device.allocated == 0


def test_a_copy_of_folio_orders_needs_room_beside_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = replace(LAYOUT, has_large_folios=True)
    monkeypatch.setattr(record_memory, "available_bytes", lambda: layout.record_bytes + layout.n_pages - 1)
    with pytest.raises(DeviceError, match="320 KiB of pinned host memory, and 64 KiB beside it, 384 KiB"):
        CudaBackend(CountedDevice(1 << 40)).open_index(layout, None)
    monkeypatch.setattr(record_memory, "available_bytes", lambda: layout.record_bytes + layout.n_pages)
    CudaBackend(CountedDevice(1 << 40)).open_index(layout, None).close()


def test_a_gpu_without_atomics_on_a_file_is_refused_one() -> None:
    device = CountedDevice(1 << 40)
    device.no_reach = "this GPU has none"
    with pytest.raises(DeviceError, match=r"cannot be in a file: this GPU has none; leave out records_dir"):
        CudaBackend(device).open_index(LAYOUT, never)
    assert device.allocated == 0


@pytest.mark.parametrize("open_backend", [lambda: CpuBackend(1), emulated_backend])
def test_a_file_that_was_cut_is_said_and_not_touched(
    open_backend: Callable[[], Any], directory: Path
) -> None:
    made: list[DiskMemory] = []

    def make(n_bytes: int) -> DiskMemory:
        made.append(disk_memory(directory, n_bytes))
        return made[0]

    kernels = open_backend().open_index(LAYOUT, make)
    kernels.load(random_store(LAYOUT, Filling(0.01), np.random.default_rng(1)))
    os.truncate(f"/proc/self/fd/{made[0]._file.handle}", 4096)
    for use in (kernels.count_ready, lambda: kernels.scan(ALL), kernels.dump):
        with pytest.raises(RunFailedError, match=r"was cut to 4 KiB, so what was in it is lost"):
            use()
    kernels.close()
    with pytest.raises(ValueError, match="closed"):
        kernels.count_ready()


def test_what_fails_behind_the_file_leaves_none(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("broken")

    memory = disk_memory(directory, LAYOUT.record_bytes)
    monkeypatch.setattr(cpu_backend, "load_scan_kernels", broken)
    with pytest.raises(KeyError, match="broken"):
        CpuBackend(1).open_index(LAYOUT, lambda _: memory)
    assert len(memory.array) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        memory.check()
