"""An NVIDIA GPU through CuPy. The only module that imports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import ArgumentError, DeviceError
from gpuscan.base.installing import install_command
from gpuscan.base.units import format_bytes
from gpuscan.kernels.cuda.device import Kernel

_MIN_COMPUTE_CAPABILITY = 75
"""What CUDA 13 still compiles for; the kernels are checked from here on."""
_PIECE_BYTES = 2 << 20
"""Plans are fetched in pieces of this size, 40 to 80 us each on PCIe 5 and 4. One engine copies to the host
and serves the streams in turn: the next scan's looks at its counters are not to wait for a whole plan.
Derived from the bus, to be measured (``overlap`` of benchmarks/gpu_accept.py)."""
_MAPPED = 2
"""``cudaHostAllocMapped`` (driver_types.h, CUDA 13.0)."""
_HOST_NATIVE_ATOMIC, _PAGEABLE_ACCESS = 86, 88
"""``cudaDevAttrHostNativeAtomicSupported`` and ``cudaDevAttrPageableMemoryAccess``, there too."""
_LEGACY_STREAM = 1
"""CUDA's ``cudaStreamLegacy``: comes after all that blocking streams were given. It is waited for where an
array names no stream, as Numba's of the default one (None) and interfaces before version 3; this device's
streams are non-blocking, and would not wait by themselves."""


class CupyDevice:
    """A GPU through CuPy, a stream for kernels, one to fetch plans; memory of CuPy's current allocator.

    Args:
        number: of the GPU, as CuPy counts them; None = its current one. So stores of one process may be
            on several GPUs.

    Raises:
        DeviceError: CuPy, the driver or a suitable GPU is missing; says which, and what to do.
    """

    def __init__(self, number: int | None = None) -> None:
        self._cupy = _usable_cupy(number)
        self._device = self._cupy.cuda.Device(number)
        with self._device:
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
            self._copies = self._cupy.cuda.Stream(non_blocking=True)

    def describe(self) -> str:
        """Return the GPU's name, compute capability, memory, and the CUDA versions."""
        runtime = self._cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self._device.id)
        return (
            f"{properties['name'].decode()} (sm_{self._device.compute_capability}, "
            f"{format_bytes(self._device.mem_info[1])}), CUDA {_version(runtime.runtimeGetVersion())}, "
            f"driver for CUDA {_version(runtime.driverGetVersion())}"
        )

    def free_bytes(self) -> int:
        """Return what the driver and CuPy's pool have free; with another allocator all there is."""
        known = self._known_free_bytes()
        return int(self._device.mem_info[1]) if known is None else known

    def _known_free_bytes(self) -> int | None:
        """Return what is free, or None: only another allocator knows what it has."""
        pool = self._cupy.get_default_memory_pool()
        owner: Any = getattr(self._cupy.cuda.get_allocator(), "__self__", None)
        if owner is not pool:
            return None
        return int(self._device.mem_info[0]) + int(pool.free_bytes())

    def compile(self, source: str) -> Callable[[str], Kernel]:
        """Compile with NVRTC, at the first kernel asked for, for this GPU."""
        module = self._cupy.RawModule(code=source, options=("--std=c++17",))

        @cache  # get_function() builds a kernel object each time
        def find(name: str) -> Kernel:
            try:
                kernel: Kernel = module.get_function(name)
            except (RuntimeError, self._cupy.cuda.compiler.CompileException) as error:
                raise DeviceError(
                    f"the CUDA kernels cannot be compiled or loaded ({_first_line(error)}); "
                    f"{_get_toolkit(self._cupy)}, or use --device cpu"
                ) from error
            return kernel

        return find

    @contextmanager
    def working(self) -> Iterator[None]:
        """Make the GPU and its kernel stream current."""
        with self._device, self._stream:
            yield

    def zeros(self, length: int, dtype: Any) -> Any:
        """Allocate zeros."""
        array = self.empty(length, dtype)
        self.clear(array)
        return array

    def empty(self, length: int, dtype: Any) -> Any:
        """Allocate without initialising."""
        with self._allocating(length * np.dtype(dtype).itemsize):
            return self._cupy.empty(length, dtype=dtype)

    @contextmanager
    def _allocating(self, needed_bytes: int) -> Iterator[None]:
        try:
            yield
        except MemoryError:  # CuPy's own is one, and that of another allocator
            known = self._known_free_bytes()
            free = "the GPU has an unknown amount" if known is None else f"the GPU has {format_bytes(known)}"
            raise DeviceError(
                f"{free} free, {format_bytes(needed_bytes)} more are needed; close what else uses it, scan "
                "with a smaller plan, or use --device cpu"
            ) from None

    def clear(self, array: Any) -> None:
        """Set memory, on the kernel stream."""
        array.fill(0)

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a copy on the GPU. The host array may change as soon as this returns."""
        copy = self.empty(len(array), array.dtype)
        self.write(copy, array)
        return copy

    def write(self, array: Any, content: NDArray[Any]) -> None:
        """Overwrite a device array."""
        array.set(np.ascontiguousarray(content), stream=self._stream)
        self._stream.synchronize()

    def adopt(self, array: Any) -> Any:
        """Return a view; the kernel stream waits for the caller's."""
        told = getattr(array, "__cuda_array_interface__", None)  # of CuPy with the caller's current stream
        stream = None if told is None else told.get("stream")
        if told is None or (stream is None and hasattr(array, "__dlpack__")):
            self._refuse_other(int(array.__dlpack_device__()[1]))
            with self._device, self._stream:  # DLPack: the array's library makes this stream wait
                return self._cupy.from_dlpack(array)
        shape, dtype = tuple(told["shape"]), np.dtype(told["typestr"])
        address, n_items = int(told["data"][0]), int(np.prod(shape))
        with self._device:
            if n_items == 0:
                return self._cupy.empty(shape, dtype=dtype)
            self._refuse_other(int(self._cupy.cuda.runtime.pointerGetAttributes(address).device))
            caller = self._cupy.cuda.ExternalStream(_LEGACY_STREAM if stream is None else int(stream))
            self._stream.wait_event(caller.record())
            memory = self._cupy.cuda.UnownedMemory(address, n_items * dtype.itemsize, array)
            pointer = self._cupy.cuda.MemoryPointer(memory, 0)
            return self._cupy.ndarray(shape, dtype, pointer, strides=told.get("strides"))

    def _refuse_other(self, device_id: int) -> None:
        if device_id != self._device.id:
            raise ArgumentError(f"is on GPU {device_id}, the store on GPU {self._device.id}")

    def address(self, array: Any) -> int:
        """Return the device pointer."""
        return int(array.data.ptr)

    def write_from(self, array: Any, content: NDArray[Any]) -> None:
        """Copy from pinned memory, which waits for nothing."""
        array.set(content, stream=self._stream)

    def wait(self) -> None:
        """Wait for the kernel stream."""
        self._stream.synchronize()

    def fetch(self, array: Any) -> NDArray[Any]:
        """Return a copy in host memory."""
        fetched: NDArray[Any] = array.get(stream=self._stream)
        return fetched

    def fetch_into(self, array: Any, into: NDArray[Any]) -> None:
        """Copy into pinned memory, and wait once."""
        array.get(stream=self._stream, out=into)

    def host_empty(self, length: int, dtype: Any) -> NDArray[Any]:
        """Allocate pinned memory."""
        dtype = np.dtype(dtype)
        n_bytes = max(1, length * dtype.itemsize)
        try:
            memory = self._cupy.cuda.alloc_pinned_memory(n_bytes)
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(
                f"{format_bytes(n_bytes)} of pinned host memory cannot be had ({error}); scan with a smaller "
                "plan, raise the limit of locked memory (ulimit -l, or the container's), or use --device cpu"
            ) from None
        return np.frombuffer(memory, dtype=dtype, count=length)

    def pinned_zeros(self, n_bytes: int) -> tuple[Any, NDArray[np.uint8]]:
        """Allocate past CuPy's pool, which would keep it.

        Kernels take the host's pointer of what CUDA allocated (CUDA Programming Guide, *Mapped Memory*).
        """
        cuda = self._cupy.cuda
        with self._device:
            try:
                memory = cuda.PinnedMemory(n_bytes, _MAPPED)
            except cuda.runtime.CUDARuntimeError as error:
                raise DeviceError(
                    f"{format_bytes(n_bytes)} of pinned host memory for the records cannot be had ({error}); "
                    "raise the limit of locked memory (ulimit -l, or the container's), simulate less, or use "
                    "--device cpu"
                ) from None
        here = np.frombuffer(cuda.PinnedMemoryPointer(memory, 0), dtype=np.uint8, count=n_bytes)
        here[:] = 0
        return self._seen(here), here

    def why_no_reach(self) -> str:
        """Ask for both attributes."""
        ask = self._cupy.cuda.runtime.deviceGetAttribute
        if ask(_PAGEABLE_ACCESS, self._device.id) and ask(_HOST_NATIVE_ATOMIC, self._device.id):
            return ""
        return (
            "this GPU has no atomics on a mapped file (hostNativeAtomicSupported and pageableMemoryAccess, "
            "as a GH200 has them)"
        )

    def reach(self, memory: NDArray[np.uint8]) -> Any:
        """Return the same pages: the GPU goes by the host's page tables."""
        return self._seen(memory)

    def _seen(self, here: NDArray[np.uint8]) -> Any:
        """Return memory of the host, at the same addresses, as an array of this GPU; it keeps ``here``."""
        cuda = self._cupy.cuda
        memory = cuda.UnownedMemory(here.ctypes.data, here.nbytes, here, self._device.id)
        with self._device:
            return self._cupy.ndarray(here.shape, here.dtype, cuda.MemoryPointer(memory, 0))

    def fetch_beside(self, copies: Sequence[tuple[Any, NDArray[Any]]]) -> Callable[[], None]:
        """Copy on a stream of its own, after what the kernel stream has been given so far."""
        self._copies.wait_event(self._stream.record())
        for array, into in copies:
            step = _PIECE_BYTES // array.itemsize
            for lo in range(0, len(array), step):
                part = slice(lo, lo + step)
                array[part].get(stream=self._copies, out=into[part], blocking=False)
        done = self._copies.record()

        def wait() -> None:
            done.synchronize()
            # Only now may the pools give this memory to kernels of the other stream, or to other copies.
            kept.clear()

        kept = list(copies)
        return wait


def _usable_cupy(number: int | None) -> Any:
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"CuPy cannot be imported ({error}); {install_command('cuda13')}, or cuda12 for a driver "
            "that is older than CUDA 13, or use --device cpu"
        ) from None
    runtime = cupy.cuda.runtime
    try:
        driver, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    except runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"the CUDA runtime does not start ({error}); install the NVIDIA driver, or use --device cpu"
        ) from None
    if driver == 0:
        raise DeviceError("there is no NVIDIA driver; install one, or use --device cpu")
    if driver // 1000 < built_for // 1000:
        raise DeviceError(
            f"the NVIDIA driver supports CUDA {_version(driver)}, this CuPy needs {_version(built_for)}; "
            f"update the driver, or {install_command(f'cuda{driver // 1000}')} instead"
        )
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # whatever finds it, which differs between versions of CuPy
        raise DeviceError(
            f"CuPy finds no NVRTC, which compiles the kernels ({_first_line(error)}); {_get_toolkit(cupy)}, "
            "or use --device cpu"
        ) from None
    if not cupy.is_available():
        raise DeviceError("the NVIDIA driver finds no GPU; check nvidia-smi, or use --device cpu")
    n_devices = runtime.getDeviceCount()
    if number is not None and not 0 <= number < n_devices:
        raise DeviceError(f"there is no GPU {number}; give 0 to {n_devices - 1}, or use --device cpu")
    capability = cupy.cuda.Device(number).compute_capability
    if int(capability) < _MIN_COMPUTE_CAPABILITY:
        raise DeviceError(
            f"the GPU has compute capability {int(capability) / 10:.1f}, the kernels need "
            f"{_MIN_COMPUTE_CAPABILITY / 10:.1f} (Turing) or newer; use --device cpu"
        )
    return cupy


def _get_toolkit(cupy: Any) -> str:
    """Return what to do where NVRTC or the headers that CuPy hands it are missing: its wheel has neither."""
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    return f"{install_command(f'cuda{major}')}, or install the CUDA {major} toolkit"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
