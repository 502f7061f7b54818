"""The one seam to the machine: arrays, a clock and peers of a GPU through CuPy, or of the tests' emulator."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.device import Device, Kernel
from gpuscan.kernels.cuda.source import THREADS
from gpuscan.records.formats import RecordFormat, c_prelude

_FOLDER = Path(__file__).parent
_BLOCKS = 4096
"""Thread blocks of the bench's own kernels, which stride: 31 for each of an H100's SMs."""
_SPIN_CYCLES = np.int64(120_000)
"""60 us at 2 GHz: an event, a launch and an event are begun in a third of that."""
_CUB_TILE_RECORDS = 128 * 16  # TILE_THREADS * TILE_ITEMS of cub_select.cu

Pairs = tuple[Any, Any]
"""Targets uint16[n] and flat pages uint32[n] of READY records, both on the device."""


class Clock(Protocol):
    """Marks moments in the device's order of work."""

    def mark(self) -> Any:
        """Return a moment after all that was begun so far."""
        ...

    def elapsed_ns(self, begin: Any, end: Any) -> int:
        """Wait for ``end`` and return the time between two marks."""
        ...

    def spin(self) -> None:
        """Keep the device busy until the host has begun what follows, so that no mark waits for the host."""
        ...


class Rig(Clock, Protocol):
    """What the acceptance run needs of a machine.

    Attributes:
        name: ``cuda``, or ``emulated``: then every figure only shows that the code runs.
        xp: the array module, CuPy or NumPy.
        device: what the backend runs on.
    """

    name: str
    xp: Any
    device: Device

    def facts(self) -> dict[str, Any]:
        """Return device, driver and versions."""
        ...

    def trim(self) -> None:
        """Give memory that nobody uses back to the driver: what comes next may be another process."""
        ...

    def capture(self, run: Callable[[], object]) -> Callable[[], None]:
        """Return what does, as one CUDA graph, all that ``run`` begins on the current stream.

        Raises:
            Whatever may not be captured.
        """
        ...

    def cub_select(self, fmt: RecordFormat) -> Callable[[Any], Pairs]:
        """Return CUB's select: device records in, targets and flat pages of the READY ones out.

        Raises:
            Whatever the compiler says.
        """
        ...


class CupyRig:
    """The current GPU of CuPy.

    Raises:
        DeviceError: there is none.
    """

    name = "cuda"

    def __init__(self, *, pooled: bool = True) -> None:
        from gpuscan.kernels.cuda.cupy_device import CupyDevice

        self.device: Device = CupyDevice()
        import cupy

        self.xp: Any = cupy
        self._spin: Any = None
        if not pooled:
            # One allocation per array: a checker of memory sees where each ends.
            cupy.cuda.set_allocator(None)

    def facts(self) -> dict[str, Any]:
        """Return device, driver and versions."""
        cupy, runtime = self.xp, self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
        return {
            "device": properties["name"].decode(),
            "describe": self.device.describe(),
            "compute_capability": str(cupy.cuda.Device().compute_capability),
            "n_sms": int(properties["multiProcessorCount"]),
            "memory_bytes": int(properties["totalGlobalMem"]),
            "l2_bytes": int(properties["l2CacheSize"]),
            "driver": _nvidia_driver(),
            "cuda_of_driver": int(runtime.driverGetVersion()),
            "cuda_runtime": int(runtime.runtimeGetVersion()),
            "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
            "cupy": cupy.__version__,
        }

    def mark(self) -> Any:
        """Record an event on the current stream."""
        return self.xp.cuda.get_current_stream().record()

    def elapsed_ns(self, begin: Any, end: Any) -> int:
        """Return the time between two events, which resolves 0.5 us."""
        end.synchronize()
        elapsed_ns: int = round(self.xp.cuda.get_elapsed_time(begin, end) * 1e6)
        return elapsed_ns

    def spin(self) -> None:
        """Launch a kernel that waits, one thread."""
        if self._spin is None:
            code = (_FOLDER / "spin.cu").read_text(encoding="utf-8")
            self._spin = self.xp.RawModule(code=code).get_function("spin")
        self._spin((1,), (1,), (_SPIN_CYCLES,))

    def trim(self) -> None:
        """Empty CuPy's pools; after the largest store they have all of the device."""
        gc.collect()
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def capture(self, run: Callable[[], object]) -> Callable[[], None]:
        """Capture the current stream; what ``run`` returns lives as long as the graph, which writes to it."""
        stream = self.xp.cuda.get_current_stream()
        stream.begin_capture()
        try:
            kept = run()
        finally:
            graph = stream.end_capture()

        def launch_graph(_kept: object = kept) -> None:
            graph.launch(stream)

        return launch_graph

    def cub_select(self, fmt: RecordFormat) -> Callable[[Any], Pairs]:
        """Compile ``cub_select.cu`` against the CCCL headers that CuPy brings."""
        cupy = self.xp
        headers = Path(cupy.__file__).parent / "_core/include/cupy/_cccl"
        options = ("--std=c++17", *(f"-I{headers / part}" for part in ("cub", "libcudacxx", "thrust")))
        module = cupy.RawModule(code=own_source(fmt, "cub_select"), options=options)
        begin, select = module.get_function("cub_begin"), module.get_function("cub_select")

        def run(records: Any) -> Pairs:
            n_tiles = len(records) // _CUB_TILE_RECORDS
            states = cupy.empty(n_tiles + 32, dtype=np.uint64)
            targets = cupy.empty(len(records), dtype=np.uint16)
            flats = cupy.empty(len(records), dtype=np.uint32)
            n_selected = cupy.empty(1, dtype=np.uint32)
            begin((-(-max(n_tiles, 32) // THREADS),), (THREADS,), (states, np.int32(n_tiles)))
            args = (records, states, np.int32(n_tiles), targets, flats, n_selected)
            select((n_tiles,), (_CUB_TILE_RECORDS // 16,), args)
            n_ready = int(n_selected.get()[0])
            return targets[:n_ready], flats[:n_ready]

        return run


@dataclass(slots=True)
class Laps:
    """What the device did.

    Attributes:
        by_kernel: nanoseconds by kernel.
        span_ns: from the begin of the first to the end of the last, with the gaps between.
    """

    by_kernel: dict[str, int] = field(default_factory=dict)
    span_ns: int = 0

    @property
    def kernel_ns(self) -> int:
        """All kernels together, without the gaps."""
        return sum(self.by_kernel.values())


class TimedDevice:
    """A device that says what each kernel took, while it is :meth:`watched`."""

    def __init__(self, device: Device, clock: Clock) -> None:
        self._device = device
        self._clock = clock
        self._laps: list[tuple[str, Any, Any]] | None = None
        self._spins = False
        self._begun: list[Callable[[], Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def compile(self, source: str) -> Callable[[str], Kernel]:
        """Compile; the kernels that are found are timed."""
        find = self._device.compile(source)

        def find_timed(name: str) -> Kernel:
            kernel = find(name)
            return lambda grid, block, args: self._lap(name, lambda: kernel(grid, block, args))

        return find_timed

    def _lap(self, name: str, run: Callable[[], Any]) -> Any:
        if self._begun is not None:
            self._begun.append(run)
        if self._laps is None:
            return run()
        if self._spins:
            self._clock.spin()
        begin = self._clock.mark()
        result = run()
        self._laps.append((name, begin, self._clock.mark()))
        return result

    @contextmanager
    def recorded(self) -> Iterator[list[Callable[[], Any]]]:
        """Yield what is filled with all that is begun in the block, to be begun again on the same arrays."""
        begun: list[Callable[[], Any]] = []
        self._begun = begun
        try:
            yield begun
        finally:
            self._begun = None

    @contextmanager
    def watched(self, *, spins: bool = False) -> Iterator[Laps]:
        """Yield what is filled at the end of the block.

        Args:
            spins: the device is kept busy before each kernel, so that laps have nothing of the host in them.
                Then the span says nothing.
        """
        laps = Laps()
        self._laps, self._spins = [], spins
        try:
            yield laps
            for name, begin, end in self._laps:
                laps.by_kernel[name] = laps.by_kernel.get(name, 0) + self._clock.elapsed_ns(begin, end)
            if self._laps:
                laps.span_ns = self._clock.elapsed_ns(self._laps[0][1], self._laps[-1][2])
        finally:
            self._laps = None


def timed_backend(rig: Rig, **options: bool) -> tuple[CudaBackend, TimedDevice]:
    """Return a CUDA backend whose kernels can be timed; ``options`` as :class:`CudaBackend` takes them."""
    device = TimedDevice(rig.device, rig)
    # A Device in all but its signature: what it does not time it passes on.
    return CudaBackend(cast(Device, device), **options), device


def own_source(fmt: RecordFormat, name: str, *, prelude: bool = True) -> str:
    """Return one of this folder's CUDA sources for a record format, behind the format's constants."""
    return (c_prelude(fmt) if prelude else "") + (_FOLDER / f"{name}.cu").read_text(encoding="utf-8")


def own_hash() -> str:
    """Return a hash of this folder's sources: what measured and checked."""
    digest = hashlib.sha256()
    for path in sorted([*_FOLDER.glob("*.cu"), *_FOLDER.glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def launch(kernel: Kernel, n_items: int, *args: Any) -> None:
    """Launch a kernel that strides over ``n_items``."""
    kernel((max(1, min(_BLOCKS, -(-n_items // THREADS))),), (THREADS,), args)


def _nvidia_driver() -> str:
    """Return the driver's version as the kernel module tells it."""
    try:
        return Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
