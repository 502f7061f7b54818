"""A store whose records are in a file: what it touches of it, what it refuses, how commands have it."""

from __future__ import annotations

import gc
import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuscan
from emulated import emulated_backend
from file_pages import forget, resident_pages
from gpuscan.base.errors import (
    ArgumentError,
    DeviceError,
    DeviceFailedError,
    InputError,
    RunFailedError,
)
from gpuscan.cli.main import main
from gpuscan.files.disk_memory import DiskMemory, disk_memory
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.kernels.failover import GuardedBackend
from gpuscan.store import residency
from gpuscan.store.single import Store
from machines import tiered


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[DiskMemory]:
    """Return the memory on a disk that stores make, as they make it."""
    memories: list[DiskMemory] = []

    def noted(*given: Any, **options: Any) -> DiskMemory:
        memories.append(disk_memory(*given, **options))
        return memories[-1]

    monkeypatch.setattr(residency, "disk_memory", noted)
    return memories


def test_a_sparse_scan_brings_in_the_candidates_pages_and_no_others(
    on_disk: Path, made: list[DiskMemory]
) -> None:
    machine = gpuscan.resolve_topology("two-socket-cxl", 16 << 30)
    near = next(node.nid for node in machine.nodes if node.cpus)
    far = next(node for node in machine.nodes if not node.cpus)
    with Store(machine, "rfc", CpuBackend(2), residency="index", records_dir=on_disk) as store:
        (memory,) = made
        store.load_pages(store.page_map.present_bits())
        first_pfn = far.zones[0].present[0][0]
        pfns = first_pfn + np.random.default_rng(1).choice(1 << 20, 200, replace=False)
        store.request(pfns, near)
        others = first_pfn + np.arange(0, 1 << 20, 4096)  # touched, and not READY any more
        store.request(others, near)
        store.release(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint32))
        store.forget(store.page_map.flat_of_pfn(others))
        forget(memory)
        if resident_pages(memory.array).any():
            pytest.skip("this file system keeps what it was told to forget")
        ready = np.setdiff1d(pfns, others)
        flats = store.page_map.flat_of_pfn(ready)
        assert store.count_ready() == len(ready), "it goes by the index, too"
        plans = [plan.flat for plan in store.drain()]
        np.testing.assert_array_equal(np.sort(np.concatenate(plans)), flats)
        wanted = np.zeros(len(memory.array) // mmap.PAGESIZE, dtype=np.bool_)
        for candidates in (ready, others):  # stale bits are candidates, too
            wanted[store.page_map.flat_of_pfn(candidates) * 4 // mmap.PAGESIZE] = True
        np.testing.assert_array_equal(resident_pages(memory.array), wanted)
        assert wanted.sum() < len(wanted) / 8
    assert list(on_disk.iterdir()) == []


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_a_round_is_that_of_a_store_in_memory(backend: str, tmp_path: Path) -> None:
    said: list[Any] = []
    elsewhere: dict[str, Any] = {"residency": "index", "records_dir": tmp_path}
    for options in ({}, elsewhere):
        rng = np.random.default_rng(3)
        device: Any = CpuBackend(1) if backend == "cpu" else emulated_backend()
        with Store(tiered(), "rfc", device, large_folios=True, **options) as store:
            heads = np.unique(rng.choice(store.n_pages, 400) >> 4 << 4)
            store.admit(heads, 4)
            pfns = store.page_map.pfn_of_flat(heads)
            came: list[Any] = [store.request(pfns, rng.integers(0, 4, len(pfns)))]
            plans = list(store.drain(budget_pages=500, now_jiffies=3))
            came += [[(plan.pfn.tolist(), plan.folio_pages.tolist()) for plan in plans]]
            came += [store.release(plans[0].flat[::2], plans[0].words[::2]), store.forget(heads[::3])]
            state = store.state()
            came += [state["parts"]["0"]["records"].tolist(), store.count_ready(), store.device_name]
            store.restore(state)
            came += [[plan.pfn.tolist() for plan in store.drain()], store.view().folio_order.tolist()]
        said.append(came)
    assert said[0] == said[1]


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_closing_gives_the_file_back_with_large_folios(backend: str, tmp_path: Path) -> None:
    device: Any = CpuBackend(1) if backend == "cpu" else emulated_backend()
    store = Store(tiered(), "rfc", device, large_folios=True, residency="index", records_dir=tmp_path)
    store.admit(np.arange(0, 1 << 12, 16), 4)
    assert f"{tmp_path}/" in Path("/proc/self/maps").read_text()
    store.close()
    gc.collect()
    assert f"{tmp_path}/" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("is_guarded", [False, True])
def test_who_reads_a_file_that_was_cut_is_told(
    is_guarded: bool, tmp_path: Path, made: list[DiskMemory]
) -> None:
    """To read what is not there would end the process."""
    backend: Any = GuardedBackend(CpuBackend(1)) if is_guarded else CpuBackend(1)
    with Store(tiered(), "rfc", backend, residency="index", records_dir=tmp_path) as store:
        view = store.view()
        os.truncate(f"/proc/self/fd/{made[0]._file.handle}", 4096)
        for read in (store.view, lambda: view.records, store.state, store.host_arrays, store.count_ready):
            with pytest.raises(RunFailedError, match=r"^the file in .* was cut to 4 KiB") as caught:
                read()
            assert not isinstance(caught.value, DeviceFailedError)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"residency": "host"}, ArgumentError, "residency is 'host'; give one of device, index"),
        ({"records_dir": "/tmp"}, ArgumentError, "give residency='index' too"),
        ({"residency": "index", "records_dir": 7}, ArgumentError, "records_dir is 7; give a path"),
        ({"residency": "index", "on_reserved": 7}, ArgumentError, "on_reserved is 7, which cannot be called"),
        ({"residency": "index"}, InputError, "say in which directory"),
        ({"residency": "index", "device": "reference"}, InputError, "keeps all of a store on its device"),
        (
            {"residency": "index", "records_dir": "/nowhere"},
            InputError,
            "no memory can be kept in /nowhere: No",
        ),
        ({"residency": "index", "records_dir": "/proc"}, (InputError, DeviceError), "/proc"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], kind: Any, says: str) -> None:
    with pytest.raises(kind, match=says):
        Store(tiered(), **{"device": "cpu", **options})


def test_a_machine_that_no_disk_holds(tmp_path: Path) -> None:
    """1 PiB: 64 GiB of index; where there is so much memory, 1 TiB of records."""
    machine = gpuscan.resolve_topology("two-socket-cxl", 1 << 50)
    with pytest.raises(DeviceError, match=r"the index of .* pages needs|are needed on the file system of"):
        Store(machine, device="cpu", residency="index", records_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


# Commands


def test_run_is_the_same_with_its_records_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for options in ([], ["--residency", "index", "--records-dir", str(tmp_path)]):
        arguments = ["run", "cxl-promote", "--memory", "2GiB", "--ticks", "3", "--device", "cpu", "--json"]
        assert main([*arguments, *options]) == 0
        told = capsys.readouterr()
        reports.append(json.loads(told.out))
    assert "reserving room for the records" in told.err
    assert reports[0]["ledger"] == reports[1]["ledger"]
    assert reports[0]["ledger"]["requested"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--records-dir", "/tmp"], "--records-dir is for records that are not on the device"),
        (["--residency", "index", "--device", "cpu"], "say in which directory"),
        (["--residency", "index", "--workers", "2"], "shards keep their records on their devices"),
        (["--residency", "index", "--fallback"], "keeps a copy of all records in memory"),
        (["--residency", "index", "--checkpoint", "/tmp/x"], "is read back into memory as a whole"),
        (["--residency", "index", "--design", "rfc-v1"], "a model runs on no device"),
        (["--residency", "index", "--set", "policy.scan_path=dense"], "a dense scan reads every record"),
    ],
)
def test_run_refuses_what_does_not_go_with_it(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "cxl-promote", "--memory", "2GiB", *options]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
