"""The CUDA backend on the emulator: the drivers and kernels of ``gpuscan.kernels.cuda``, NumPy for CuPy."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuda_signatures import Parameter, declared
from emulator.loader import Build, EmulatedModule
from emulator.presence import need
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.kernels.cuda.launches import NODE_FLAG_WORDS

_ALIGNED_BYTES = 256  # cudaMalloc's


class EmulatedDevice:
    """A device whose memory is host memory and whose work is done when a call returns."""

    def __init__(self, build: Build = "fast", seed: int = 0) -> None:
        self.build = build
        self.seed = seed
        self.waited_for: list[int] = []
        """Streams of arrays that were adopted."""
        self.no_reach = ""
        """Why kernels do not reach all of the process's memory, if they do not."""
        self._modules: dict[str, EmulatedModule] = {}
        self._of_host: list[weakref.ref[NDArray[Any]]] = []

    def describe(self) -> str:
        return f"the emulator ({self.build} build)"

    def free_bytes(self) -> int:
        return 1 << 50  # address space; only what is touched is ever there

    def compile(self, source: str) -> Callable[[str], Kernel]:
        need(self.build)
        if source not in self._modules:
            self._modules[source] = EmulatedModule(source, ("--std=c++17",), self.build, self.seed)
        module, signatures = self._modules[source], declared(source)
        return lambda name: _of_its_types(name, module.get_function(name), signatures[name])

    @contextmanager
    def working(self) -> Iterator[None]:
        yield

    def zeros(self, length: int, dtype: Any) -> Any:
        n_bytes = length * np.dtype(dtype).itemsize
        room = np.zeros(n_bytes + _ALIGNED_BYTES, dtype=np.uint8)
        start = -room.ctypes.data % _ALIGNED_BYTES
        return room[start : start + n_bytes].view(dtype)

    def empty(self, length: int, dtype: Any) -> Any:
        array = self.zeros(length, dtype)
        array.view(np.uint8)[: 1 << 20] = 0xA5  # whoever counts on zeros shows
        return array

    def clear(self, array: Any) -> None:
        self._refuse_hosts(array)
        array[:] = 0

    def upload(self, array: NDArray[Any]) -> Any:
        copy = self.zeros(len(array), array.dtype)
        copy[:] = array
        return copy

    def write(self, array: Any, content: NDArray[Any]) -> None:
        self._refuse_hosts(array)
        array[:] = content

    def adopt(self, array: Any) -> Any:
        told = array.__cuda_array_interface__
        if array.device_number != 0:
            raise ArgumentError(f"is on GPU {array.device_number}, the store on GPU 0")
        self.waited_for.append(told["stream"])
        return np.asarray(SimpleNamespace(__array_interface__=told, owner=array))

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)

    def write_from(self, array: Any, content: NDArray[Any]) -> None:
        self._refuse_hosts(array)
        array[:] = content

    def wait(self) -> None:
        pass

    def fetch(self, array: Any) -> NDArray[Any]:
        self._refuse_hosts(array)
        fetched: NDArray[Any] = array.copy()
        return fetched

    def fetch_into(self, array: Any, into: NDArray[Any]) -> None:
        self._refuse_hosts(array)
        into[:] = array

    def host_empty(self, length: int, dtype: Any) -> NDArray[Any]:
        return np.empty(length, dtype=dtype)

    def pinned_zeros(self, n_bytes: int) -> tuple[Any, NDArray[np.uint8]]:
        zeros = self.zeros(n_bytes, np.uint8)
        return self.reach(zeros), zeros

    def why_no_reach(self) -> str:
        return self.no_reach

    def reach(self, memory: NDArray[np.uint8]) -> Any:
        there = memory[:]
        self._of_host = [*(each for each in self._of_host if each() is not None), weakref.ref(there)]
        return there

    def _refuse_hosts(self, array: NDArray[Any]) -> None:
        """Refuse a copy by the driver of what kernels reach on the host: its direction is another one."""
        for each in self._of_host:
            there = each()
            assert there is None or not np.may_share_memory(there, array), "it is in memory of the host"

    def fetch_beside(self, copies: Sequence[tuple[Any, NDArray[Any]]]) -> Callable[[], None]:
        for array, _ in copies:
            self._refuse_hosts(array)

        def wait() -> None:
            for array, into in copies:
                into[:] = array

        return wait


def _of_its_types(name: str, kernel: Kernel, parameters: tuple[Parameter, ...]) -> Kernel:
    """Return a kernel that takes arrays of its signature's types only: at a launch a pointer has none."""

    def launch(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
        for parameter, arg in zip(parameters, args, strict=True):
            seen_as_words = parameter.name in NODE_FLAG_WORDS
            wanted = "uint8" if seen_as_words else parameter.dtype or arg.dtype.name
            assert arg.dtype.name == wanted, (
                f"{name} takes {parameter.dtype} as {parameter.name}, not {arg.dtype}"
            )
        kernel(grid, block, args)

    return launch


def of_files(source: str, files: Collection[str]) -> str:
    """Return a module's source with the kernels of some ``.cu`` files only, by name: less to compile."""
    parts = re.split(r'(?m)^(?=#line 1 ")', source)
    names = [match[1] if (match := re.match(r'#line 1 "(\w+)\.cu"', part)) else "" for part in parts]
    return "".join(part for part, name in zip(parts, names, strict=True) if not name or name in files)


class ForeignArray:
    """An array of another library "on a GPU": NumPy's, which is not seen to be NumPy's."""

    def __init__(self, array: NDArray[Any], device_number: int = 0, stream: int = 7) -> None:
        self.array = array
        self.device_number = device_number
        self.stream = stream

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise TypeError("no conversion to NumPy that nobody asked for")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        told = self.array.__array_interface__
        return {
            **{name: told[name] for name in ("shape", "typestr", "data")},
            **{"version": 3, "stream": self.stream, "strides": self.array.strides},
        }


class SlowBus(EmulatedDevice):
    """A device whose copies end when somebody waits for them, and not before; says what happened when."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.happened: list[str] = []
        """Copies: ``begin 0``, ``end 0``, ..."""
        self.log: list[str] = []
        """The same, with the kernels by name as they are launched."""
        self.error: BaseException | None = None
        """Raised by the next copy that is waited for."""
        self._n_copies = 0

    def compile(self, source: str) -> Callable[[str], Kernel]:
        find = super().compile(source)

        def find_logged(name: str) -> Kernel:
            kernel = find(name)

            def launch(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
                self.log.append(name)
                kernel(grid, block, args)

            return launch

        return find_logged

    def host_empty(self, length: int, dtype: Any) -> NDArray[Any]:
        empty = super().host_empty(length, dtype)
        empty.view(np.uint8)[:] = 0xA5  # whoever reads it too early shows
        return empty

    def fetch_beside(self, copies: Sequence[tuple[Any, NDArray[Any]]]) -> Callable[[], None]:
        number = self._n_copies
        self._n_copies += 1
        self._note(f"begin {number}")
        end = super().fetch_beside(copies)

        def wait() -> None:
            error, self.error = self.error, None
            if error is not None:
                raise error
            end()
            self._note(f"end {number}")

        return wait

    def _note(self, event: str) -> None:
        self.happened.append(event)
        self.log.append(event)


def emulated_backend(*, build: Build = "fast", seed: int = 0, **options: Any) -> CudaBackend:
    """Return a CUDA backend on the emulator; ``options`` as :class:`CudaBackend` takes them."""
    return CudaBackend(EmulatedDevice(build, seed), **options)
