"""Measure the host's part of a scan on a GPU: all of its Python, with a device that does nothing.

    python benchmarks/cuda_host.py [SCANS]

Launches, copies and waits cost nothing here, and what CuPy adds to each is not seen: what is measured is
ours. The device answers as one would that finds nothing, or a few pages.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import NODE_HAS_MEMORY, ScanRequest, StoreLayout, empty_node_flags
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.kernels.cuda.source import Total
from gpuscan.records.formats import record_format
from gpuscan.records.page_map import SECTION_PAGES, Extent, PageMap

BAR_US = 60.0
N_TARGETS = 16
N_SECTIONS = 128
_N_TOTALS = len(Total)


class IdleDevice:
    """A device whose kernels do nothing, and whose answers are given.

    Attributes:
        totals: what a scan is told, by place.
        offsets: ends of the plan's groups.
    """

    def __init__(self) -> None:
        self.totals = np.zeros(len(Total), dtype=np.uint64)
        self.offsets = np.zeros(N_TARGETS + 1, dtype=np.uint64)

    def describe(self) -> str:
        """Return what it is."""
        return "a device that does nothing"

    def free_bytes(self) -> int:
        """Return a lot."""
        return 1 << 50

    def compile(self, source: str) -> Callable[[str], Kernel]:
        """Return kernels that do nothing."""

        def kernel(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
            pass

        return lambda name: kernel

    @contextmanager
    def working(self) -> Iterator[None]:
        """Do nothing."""
        yield

    def zeros(self, length: int, dtype: Any) -> Any:
        """Return host memory."""
        return np.zeros(length, dtype=dtype)

    def empty(self, length: int, dtype: Any) -> Any:
        """Return host memory."""
        return np.empty(length, dtype=dtype)

    def clear(self, array: Any) -> None:
        """Do it."""
        array[:] = 0

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a copy."""
        return array.copy()

    def write(self, array: Any, content: NDArray[Any]) -> None:
        """Copy."""
        array[:] = content

    def adopt(self, array: Any) -> Any:
        """Return it."""
        return array

    def address(self, array: Any) -> int:
        """Return its address."""
        return int(array.ctypes.data)

    def write_from(self, array: Any, content: NDArray[Any]) -> None:
        """Copy."""
        array[:] = content

    def wait(self) -> None:
        """Do nothing."""

    def fetch(self, array: Any) -> NDArray[Any]:
        """Return a copy."""
        fetched: NDArray[Any] = array.copy()
        return fetched

    def pinned_zeros(self, n_bytes: int) -> tuple[Any, NDArray[Any]]:
        """Return host memory, twice."""
        zeros = np.zeros(n_bytes, dtype=np.uint8)
        return zeros, zeros

    def why_no_reach(self) -> str:
        """Say nothing."""
        return ""

    def reach(self, memory: NDArray[Any]) -> Any:
        """Return it."""
        return memory

    def fetch_into(self, array: Any, into: NDArray[Any]) -> None:
        """Give the answers."""
        into[:_N_TOTALS] = self.totals
        if len(into) > _N_TOTALS:
            into[_N_TOTALS : _N_TOTALS + N_TARGETS + 1] = self.offsets

    def host_empty(self, length: int, dtype: Any) -> NDArray[Any]:
        """Return host memory."""
        return np.empty(length, dtype=dtype)

    def fetch_beside(self, copies: Sequence[tuple[Any, NDArray[Any]]]) -> Callable[[], None]:
        """Copy nothing."""
        return lambda: None


def layout() -> StoreLayout:
    """Return 16 GiB with 16 targets."""
    flags = empty_node_flags()
    flags[:N_TARGETS] = NODE_HAS_MEMORY
    pages = PageMap.from_extents([Extent(0, N_SECTIONS * SECTION_PAGES, 0, 0)])
    return StoreLayout(pages, record_format("rfc"), flags)


def scan_us(device: IdleDevice, n_scans: int) -> list[float]:
    """Return microseconds of scans, each with its plan read."""
    kernels = CudaBackend(device).open(layout())
    mask = np.ones(1024, dtype=np.uint8)
    times = []
    for _ in range(n_scans):
        started = time.thread_time_ns()
        plan = kernels.scan(ScanRequest(0, kernels.layout.n_pages, kernels.layout.n_pages, "auto", mask))
        plan.recycle()
        times.append((time.thread_time_ns() - started) / 1e3)
    return times


def cases() -> dict[str, IdleDevice]:
    """Return devices by what a scan finds there."""
    found = {}
    for name, n_pages in (("nothing", 0), ("27 pages", 27), ("27,000 pages", 27_000)):
        device = IdleDevice()
        device.totals[Total.CANDIDATES] = n_pages
        device.totals[Total.SET_BLOCKS] = min(n_pages, 4000)
        device.totals[Total.BLOCKS] = 64 * N_SECTIONS
        device.offsets[1:] = n_pages
        found[name] = device
    return found


def main(args: list[str]) -> int:
    """Measure, print, and return 1 where the host takes too long."""
    n_scans = int(args[0]) if args else 5000
    is_late = False
    for name, device in cases().items():
        times = scan_us(device, n_scans)[n_scans // 10 :]
        p10, *_, p90 = statistics.quantiles(times, n=10)
        median = statistics.median(times)
        print(f"a scan that finds {name:<13} {median:6.1f} us  ({p10:.1f} to {p90:.1f})")
        is_late = is_late or median > BAR_US
    return int(is_late)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
