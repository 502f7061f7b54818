"""Measure stores whose records are in a file: what scans touch of it, and take beside those in memory.

    python benchmarks/residency.py DIRECTORY [MEMORY] [LIMIT]

First a machine of MEMORY (4TiB) in a process that may have LIMIT (1.5GiB) of private memory: a store in
memory is refused there. Its file takes a GiB a TiB in DIRECTORY, all of it reserved. Requests are made, the
kernel is told to forget the file, and a scan brings back what it reads; pages of the file in memory are
counted before and after (mincore(2)), page faults by getrusage(2). Then scans of 64 GiB, in memory and in a
file in turns: CPU time on one thread, medians of 21, while the file is in memory, too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpuscan.base.errors import DeviceError
from gpuscan.base.units import format_bytes, parse_bytes
from gpuscan.files.disk_memory import DiskMemory, disk_memory
from gpuscan.kernels.api import Outcome
from gpuscan.kernels.cpu import CpuBackend
from gpuscan.store import residency
from gpuscan.store.single import Store
from gpuscan.topology.resolve import resolve_topology

DENSITIES = (1e-6, 1e-5)
TIMED = (1e-5, 1e-4, 1e-3)
N_ROUNDS = 21
_LIBC = ctypes.CDLL(None)
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
MADE: list[DiskMemory] = []


def n_resident(memory: DiskMemory) -> int:
    """Return how many pages of a file are in memory."""
    found = np.zeros(len(memory.array) // mmap.PAGESIZE, dtype=np.uint8)
    assert _LIBC.mincore(memory.array.ctypes.data, memory.array.nbytes, found.ctypes.data) == 0
    return int((found & 1).sum())


def forget(memory: DiskMemory) -> None:
    """Have the kernel write a file out and take its pages from memory."""
    os.fdatasync(memory._file.handle)
    _LIBC.madvise(memory.array.ctypes.data, memory.array.nbytes, mmap.MADV_DONTNEED)
    os.posix_fadvise(memory._file.handle, 0, 0, os.POSIX_FADV_DONTNEED)


def n_faults() -> int:
    """Return the page faults of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt + used.ru_majflt


def resident_bytes(what: str) -> int:
    """Return a line of /proc/self/status."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) << 10


def opened(memory_bytes: int, directory: Path | None) -> Store:
    """Return a store of a machine, all pages eligible, its records in a file where there is a directory."""
    options: dict[str, Any] = {} if directory is None else {"residency": "index", "records_dir": directory}
    store = Store(resolve_topology("two-socket-cxl", memory_bytes), "rfc", CpuBackend(1), **options)
    store.load_pages(store.page_map.present_bits())
    return store


def mark(store: Store, density: float) -> int:
    """Make a share of the pages READY, at random; return how many."""
    near = next(node.nid for node in store.topology.nodes if node.cpus)
    rng = np.random.default_rng(1)
    flats = np.unique(rng.integers(0, store.n_pages, int(store.n_pages * density)))
    return store.request(store.page_map.pfn_of_flat(flats), near)[Outcome.ACCEPTED]


def touched(directory: Path, memory_bytes: int, limit_bytes: int) -> None:
    """Print what scans bring in of a file that is larger than this process may be."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    print(f"{format_bytes(memory_bytes)} in a process of {format_bytes(limit_bytes)} of private memory")
    try:
        opened(memory_bytes, None)
    except DeviceError as error:
        print(f"in memory: {error}")
    began = time.monotonic()
    with opened(memory_bytes, directory) as store:
        (file,) = MADE
        print(f"in a file of {format_bytes(len(file.array))}: made in {time.monotonic() - began:.1f} s")
        for density in DENSITIES:
            n_ready = mark(store, density)
            forget(file)
            before, faults, began_s = n_resident(file), n_faults(), time.process_time()
            n_claimed = sum(len(plan.flat) for plan in store.drain())
            cpu_s, faults = time.process_time() - began_s, n_faults() - faults
            print(
                f"density {density:g}: {n_ready:,} READY, {n_claimed:,} claimed, pages of the file in "
                f"memory {before:,} -> {n_resident(file):,} of {len(file.array) // mmap.PAGESIZE:,}, "
                f"{faults:,} faults, {cpu_s * 1e3:.1f} ms of CPU time"
            )
        private, most = (format_bytes(resident_bytes(what)) for what in ("RssAnon", "VmHWM"))
        print(f"private memory {private}; at most {most} of this process were in memory")
    MADE.clear()


def in_turns(directory: Path) -> None:
    """Print CPU times of scans in memory and in a file that is in memory, too."""
    stores = opened(64 << 30, None), opened(64 << 30, directory)
    for density in TIMED:
        times_s: tuple[list[float], list[float]] = ([], [])
        for _ in range(N_ROUNDS):
            for store, taken in zip(stores, times_s, strict=True):
                mark(store, density)
                began_s = time.process_time()
                plan = store.scan(path="indexed")
                taken.append(time.process_time() - began_s)
                assert len(plan.flat)
        in_memory, in_file = (statistics.median(taken) for taken in times_s)
        print(f"64 GiB, density {density:g}: {in_file / in_memory:.2f} of {in_memory * 1e3:.2f} ms in memory")


def main() -> None:
    """Do both."""

    def noted(*given: Any, **options: Any) -> DiskMemory:
        MADE.append(disk_memory(*given, **options))
        return MADE[-1]

    residency.disk_memory = noted
    directory, *sizes = sys.argv[1:]
    memory_bytes, limit_bytes = (parse_bytes(size) for size in (*sizes, *("4TiB", "1.5GiB")[len(sizes) :]))
    touched(Path(directory), memory_bytes, limit_bytes)
    in_turns(Path(directory))


if __name__ == "__main__":
    main()
