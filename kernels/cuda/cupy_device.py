"""An NVIDIA GPU through CuPy. The only module that imports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.errors import DeviceError
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.units import format_bytes

_MIN_COMPUTE_CAPABILITY = 75
"""What CUDA 13 still compiles for; the kernels are checked from here on."""


class CupyDevice:
    """The current GPU of CuPy (CUDA_VISIBLE_DEVICES picks it), a stream for kernels, one to fetch plans.

    Raises:
        DeviceError: CuPy, the driver or a suitable GPU is missing; says which, and what to do.
    """

    def __init__(self) -> None:
        self._cupy = _usable_cupy()
        self._device = self._cupy.cuda.Device()
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
        """Return what the driver and CuPy's pool have free."""
        return int(self._device.mem_info[0]) + int(self._cupy.get_default_memory_pool().free_bytes())

    def compile(self, source: str) -> Callable[[str], Kernel]:
        """Compile with NVRTC, at the first kernel asked for, for this GPU."""
        module = self._cupy.RawModule(code=source, options=("--std=c++17",))
        get_function: Callable[[str], Kernel] = module.get_function
        return get_function

    @contextmanager
    def working(self) -> Iterator[None]:
        """Make the GPU and its kernel stream current."""
        with self._device, self._stream:
            yield

    def zeros(self, length: int, dtype: Any) -> Any:
        """Allocate zeros."""
        array = self.empty(length, dtype)
        array.fill(0)
        return array

    def empty(self, length: int, dtype: Any) -> Any:
        """Allocate without initialising."""
        try:
            return self._cupy.empty(length, dtype=dtype)
        except self._cupy.cuda.memory.OutOfMemoryError:
            free, needed = self.free_bytes(), length * np.dtype(dtype).itemsize
            raise DeviceError(
                f"the GPU has {format_bytes(free)} free, {format_bytes(needed)} more are needed; "
                "close what else uses it, scan with a smaller plan, or use --device cpu"
            ) from None

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a copy on the GPU. The host array may change as soon as this returns."""
        copy = self.empty(len(array), array.dtype)
        self.write(copy, array)
        return copy

    def write(self, array: Any, content: NDArray[Any]) -> None:
        """Overwrite a device array."""
        array.set(np.ascontiguousarray(content), stream=self._stream)
        self._stream.synchronize()

    def fetch(self, array: Any) -> NDArray[Any]:
        """Return a copy in host memory."""
        fetched: NDArray[Any] = array.get(stream=self._stream)
        return fetched

    def host_empty(self, length: int, dtype: Any) -> NDArray[Any]:
        """Allocate pinned memory."""
        dtype = np.dtype(dtype)
        memory = self._cupy.cuda.alloc_pinned_memory(max(1, length * dtype.itemsize))
        return np.frombuffer(memory, dtype=dtype, count=length)

    def fetch_beside(self, copies: Sequence[tuple[Any, NDArray[Any]]]) -> Callable[[], None]:
        """Copy on a stream of its own, after what the kernel stream has been given so far."""
        self._copies.wait_event(self._stream.record())
        for array, into in copies:
            array.get(stream=self._copies, out=into, blocking=False)
        done = self._copies.record()

        def wait() -> None:
            done.synchronize()
            # Only now may the pools give this memory to kernels of the other stream, or to other copies.
            kept.clear()

        kept = list(copies)
        return wait

    def running_sum(self, array: Any) -> Any:
        """Return the inclusive prefix sum."""
        return self._cupy.cumsum(array, dtype=np.int64)

    def stable_order(self, keys: Any) -> Any:
        """Return the permutation that sorts; CuPy's argsort is a stable radix sort."""
        return self._cupy.argsort(keys, kind="stable")


def _usable_cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"CuPy cannot be imported ({error}); pip install 'gpuscan[cuda13]', or [cuda12] for a driver "
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
            f"update the driver, or pip install 'gpuscan[cuda{driver // 1000}]' instead"
        )
    if not cupy.is_available():
        raise DeviceError("the NVIDIA driver finds no GPU; check nvidia-smi, or use --device cpu")
    capability = cupy.cuda.Device().compute_capability
    if int(capability) < _MIN_COMPUTE_CAPABILITY:
        raise DeviceError(
            f"the GPU has compute capability {int(capability) / 10:.1f}, the kernels need "
            f"{_MIN_COMPUTE_CAPABILITY / 10:.1f} (Turing) or newer; use --device cpu"
        )
    return cupy


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
