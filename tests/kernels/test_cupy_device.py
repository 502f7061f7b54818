"""What ``CupyDevice`` asks of CuPy, with as much of CuPy as that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import ArgumentError, DeviceError
from gpuscan.kernels.cuda import cupy_device
from gpuscan.kernels.cuda.cupy_device import CupyDevice


class FakeStream:
    """A stream; says which others it waited for."""

    def __init__(self, cupy: FakeCupy, name: object) -> None:
        self.cupy, self.name = cupy, name
        self.waited_for: list[object] = []

    def record(self) -> object:
        return self.name  # an event, for who waits for it

    def wait_event(self, event: object) -> None:
        self.waited_for.append(event)

    def __enter__(self) -> None:
        self.cupy.current = self

    def __exit__(self, *_: object) -> None:
        self.cupy.current = None


class FakeGpu:
    """A GPU, which can be made the current one."""

    def __init__(self, number: int | None) -> None:
        self.id = number or 0
        self.mem_info = (3 << 20, 80 << 20)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class FakePool:
    """CuPy's own memory."""

    def malloc(self, n_bytes: int) -> None:
        raise AssertionError("nobody asks for it here")

    def free_bytes(self) -> int:
        return 1 << 20


class CudaRuntimeError(RuntimeError):
    """CuPy's."""


class FakeCupy:
    """CuPy with GPU 0 current; arrays are where they say they are."""

    def __init__(self) -> None:
        self.current: FakeStream | None = None
        self.pool = FakePool()
        self.allocator: Any = self.pool.malloc
        self.get_default_memory_pool = lambda: self.pool
        self.cuda = SimpleNamespace(
            Device=FakeGpu,
            get_allocator=lambda: self.allocator,
            Stream=lambda non_blocking: FakeStream(self, "store's"),
            ExternalStream=lambda pointer: FakeStream(self, pointer),
            UnownedMemory=lambda address, n_bytes, owner, *gpu: (address, n_bytes, owner, *gpu),
            MemoryPointer=lambda memory, offset: memory,
            PinnedMemory=self.pin,
            PinnedMemoryPointer=lambda memory, offset: memoryview(memory)[offset:],
            runtime=SimpleNamespace(
                pointerGetAttributes=lambda address: SimpleNamespace(device=address >> 32),
                deviceGetAttribute=lambda attribute, gpu: int((attribute, gpu) in self.attributes),
                CUDARuntimeError=CudaRuntimeError,
            ),
        )

        self.attributes: set[tuple[int, int]] = set()
        self.pinned: list[tuple[int, int]] = []
        self.may_pin = True

    def pin(self, n_bytes: int, flags: int) -> bytearray:
        if not self.may_pin:
            raise CudaRuntimeError("cudaErrorMemoryAllocation: out of memory")
        self.pinned.append((n_bytes, flags))
        return bytearray(b"\xa5" * n_bytes)

    def ndarray(self, shape: Any, dtype: Any, pointer: Any, strides: Any = None) -> Any:
        return SimpleNamespace(shape=shape, dtype=dtype, memory=pointer, strides=strides)

    def empty(self, length: int, dtype: Any) -> Any:
        raise MemoryError

    def from_dlpack(self, array: Any) -> Any:
        return array.__dlpack__(stream=self.current)


class Told:
    """An array with the interface; ``told`` is what it has of a stream."""

    def __init__(self, address: int = 4096, **told: Any) -> None:
        self.__cuda_array_interface__ = {
            **{"shape": (3,), "typestr": "<i8", "data": (address, False), "strides": None},
            **told,
        }


class Exported:
    """An array with DLPack; says for which streams it was asked for."""

    def __init__(self, gpu: int = 0) -> None:
        self.gpu = gpu
        self.asked_for: list[object] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.gpu

    def __dlpack__(self, stream: Any) -> Any:
        self.asked_for.append(stream.name)
        return SimpleNamespace(shape=(3,))


class Both(Told, Exported):
    """One with the interface and DLPack, as PyTorch's and CuPy's."""

    def __init__(self, gpu: int = 0, **told: Any) -> None:
        Told.__init__(self, gpu << 32 | 4096, **told)
        Exported.__init__(self, gpu)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cupy_device, "_usable_cupy", lambda number: FakeCupy())
    return CupyDevice()


NAMED, UNNAMED, OLD = {"version": 3, "stream": 7}, {"version": 3, "stream": None}, {"version": 2}


@pytest.mark.parametrize("array", [Told(**NAMED), Both(**NAMED)])
def test_a_stream_that_is_named_is_waited_for(device: Any, array: Any) -> None:
    mine = device.adopt(array)
    assert device._stream.waited_for == [7]
    assert mine.memory == (4096, 24, array), "a copy, or nobody keeps the memory"


@pytest.mark.parametrize("told", [UNNAMED, OLD])
def test_a_library_that_names_no_stream_is_asked_by_dlpack(device: Any, told: dict[str, Any]) -> None:
    """PyTorch's interface is of version 2."""
    array = Both(**told)
    device.adopt(array)
    assert array.asked_for == ["store's"]
    assert device._stream.waited_for == [], "the library makes it wait"


@pytest.mark.parametrize("told", [UNNAMED, OLD])
def test_what_names_no_stream_and_has_no_dlpack_comes_after_the_legacy_stream(
    device: Any, told: dict[str, Any]
) -> None:
    """Numba says None of its default stream."""
    device.adopt(Told(**told))
    assert device._stream.waited_for == [1]


def test_an_array_of_dlpack_only_is_asked_for(device: Any) -> None:
    array = Exported()
    device.adopt(array)
    assert array.asked_for == ["store's"]


@pytest.mark.parametrize("array", [Told(1 << 32 | 4096, **NAMED), Both(1, **OLD), Exported(1)])
def test_an_array_of_another_gpu_is_refused(device: Any, array: Any) -> None:
    with pytest.raises(ArgumentError, match="is on GPU 1, the store on GPU 0"):
        device.adopt(array)
    assert device._stream.waited_for == []


@pytest.mark.parametrize(
    ("is_others", "free_bytes", "says"),
    [(False, 4 << 20, "the GPU has 4 MiB free"), (True, 80 << 20, "the GPU has an unknown amount free")],
)
def test_what_is_free_is_said_where_it_is_known(
    device: Any, is_others: bool, free_bytes: int, says: str
) -> None:
    """Another allocator alone knows; a store is opened unless the GPU as a whole is too small."""
    if is_others:
        device._cupy.allocator = lambda n_bytes: None
    assert device.free_bytes() == free_bytes
    with pytest.raises(DeviceError, match=f"{says}, 8 MiB more are needed; close"):
        device.empty(1 << 20, "int64")


def test_stores_of_one_process_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []

    class Gpu(FakeGpu):
        def __enter__(self) -> None:
            current.append(self.id)

        def __exit__(self, *_: object) -> None:
            current.pop()

    cupy = FakeCupy()
    cupy.cuda.Device = Gpu
    cupy.cuda.Stream = lambda non_blocking: FakeStream(cupy, f"of GPU {current[-1]}")
    monkeypatch.setattr(cupy_device, "_usable_cupy", lambda number: cupy)
    devices = [CupyDevice(number) for number in (0, 1)]
    for number, device in enumerate(devices):
        with device.working():
            assert current == [number]
            assert cupy.current is not None
            assert cupy.current.name == f"of GPU {number}"
        assert device.adopt(Both(gpu=number, **NAMED)).shape == (3,)
        with pytest.raises(ArgumentError):
            device.adopt(Both(gpu=1 - number, **NAMED))
    assert current == []


def test_pinned_memory_is_zeros_at_one_address_for_both(device: Any) -> None:
    there, here = device.pinned_zeros(5000)
    cuda_host_alloc_mapped = 2
    assert device._cupy.pinned == [(5000, cuda_host_alloc_mapped)]
    assert (here.dtype, len(here), here.any()) == (np.uint8, 5000, False)
    assert there.memory == (here.ctypes.data, 5000, here, 0), "another place, or nobody keeps the memory"
    here[7] = 1  # whoever loads a store writes to it


def test_pinned_memory_may_be_short(device: Any) -> None:
    device._cupy.may_pin = False
    with pytest.raises(DeviceError, match=r"8 MiB of pinned host memory .* cannot be had .*ulimit -l"):
        device.pinned_zeros(8 << 20)


@pytest.mark.parametrize("has", [(), (86,), (88,), (86, 88)])
def test_memory_of_the_process_is_reached_where_its_atomics_are_the_links_own(
    device: Any, has: tuple[int, ...]
) -> None:
    device._cupy.attributes = {(attribute, 0) for attribute in has}
    why = device.why_no_reach()
    assert (why == "") == (has == (86, 88))
    assert why == "" or "hostNativeAtomicSupported and pageableMemoryAccess" in why
    memory = np.zeros(4096, dtype=np.uint8)
    assert device.reach(memory).memory == (memory.ctypes.data, 4096, memory, 0)
