"""What the CUDA drivers leave behind where something goes wrong: memory lacks, a call is cut short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulated import EmulatedDevice, ForeignArray
from gpuscan.base.errors import ArgumentError, DeviceError
from gpuscan.kernels.api import Budget, RecordParams, ScanRequest
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.kernels.reference import ReferenceBackend
from stores import NONE, assert_same_store, plain_layout

LAYOUT = plain_layout(n_sections=1)


class ShortDevice(EmulatedDevice):
    """A device that has no memory once."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_at = -1
        """The allocation that fails, counted down from now on; below 0 none does."""

    def _allocating(self) -> None:
        self.fails_at -= 1
        if self.fails_at == -1:
            raise DeviceError("no memory, once")

    def empty(self, length: int, dtype: Any) -> Any:
        self._allocating()
        return super().empty(length, dtype)

    def host_empty(self, length: int, dtype: Any) -> NDArray[Any]:
        self._allocating()
        return super().host_empty(length, dtype)


@pytest.mark.parametrize("name", ["request", "record"])
def test_a_call_that_finds_no_memory_can_be_made_again(name: str) -> None:
    """Whichever allocation of the longer call fails, the next call has room for all it says."""
    params = [RecordParams(1 << 20, 1 << 10, 1, drop_top_tier=False)] if name == "record" else []
    pfns = np.random.default_rng(1).integers(0, LAYOUT.n_pages, 3000)
    nids = np.zeros(len(pfns), dtype=np.int32)
    device = ShortDevice()
    outcomes, expected = (np.full(len(pfns), 99, dtype=np.uint8) for _ in range(2))
    reference = ReferenceBackend().open(LAYOUT)
    reference.set_eligible(np.arange(LAYOUT.n_pages), True)
    getattr(reference, name)(pfns, nids, *params, expected)
    for fails_at in range(6):
        kernels = CudaBackend(device).open(LAYOUT)
        kernels.set_eligible(np.arange(LAYOUT.n_pages), True)
        device.fails_at = fails_at
        with pytest.raises(DeviceError, match="no memory, once"):
            getattr(kernels, name)(pfns, nids, *params, outcomes)
        assert kernels.count_ready() == 0
        getattr(kernels, name)(pfns, nids, *params, outcomes)
        np.testing.assert_array_equal(outcomes, expected)
        assert_same_store(kernels, reference)


def test_a_store_is_closed_once_and_lets_go_of_all_it_had() -> None:
    kernels = CudaBackend(EmulatedDevice()).open(LAYOUT)
    limits = np.full(LAYOUT.n_targets, 9)
    counted = kernels.count_keys(Budget(limits, np.zeros_like(limits), 0), 0, LAYOUT.n_pages)
    kernels.scan_on_device(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages, "dense"))
    assert kernels.section_pfn() is not None
    kernels.close()
    kernels.close()
    with pytest.raises(ArgumentError, match="the store is closed"):
        counted.cut(np.zeros(LAYOUT.n_targets, dtype=np.int32))
    kept = {name for name, value in vars(kernels).items() if isinstance(value, np.ndarray)}
    assert kept == set(), "memory of the device"


class LateDevice(EmulatedDevice):
    """A device that knows whether something it was asked for may still be running; its fetches fail."""

    def __init__(self) -> None:
        super().__init__()
        self.is_running = False
        self.error: BaseException | None = None

    def compile(self, source: str) -> Callable[[str], Kernel]:
        find = super().compile(source)

        def find_late(name: str) -> Kernel:
            self.is_running = True
            return find(name)

        return find_late

    def write_from(self, array: Any, content: NDArray[Any]) -> None:
        self.is_running = True
        super().write_from(array, content)

    def wait(self) -> None:
        self.is_running = False

    def fetch(self, array: Any) -> NDArray[Any]:
        self._fail()
        return super().fetch(array)

    def fetch_into(self, array: Any, into: NDArray[Any]) -> None:
        self._fail()
        super().fetch_into(array, into)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error
        self.is_running = False


FLATS = np.arange(0, 300, 3)
NIDS = np.zeros(len(FLATS), dtype=np.int32)
WORDS = np.zeros(len(FLATS), dtype=LAYOUT.fmt.dtype)
CALLS: dict[str, Callable[[Any], object]] = {
    "request": lambda kernels: kernels.request(FLATS, NIDS, NONE),
    "request of the device's": lambda kernels: kernels.request(ForeignArray(FLATS), ForeignArray(NIDS), NONE),
    "record": lambda kernels: kernels.record(FLATS, NIDS, RecordParams(9, 9, 1), NONE),
    "release of the device's": lambda kernels: kernels.release(
        ForeignArray(FLATS), ForeignArray(WORDS), NONE
    ),
    "discard": lambda kernels: kernels.discard(FLATS),
    "count_ready": lambda kernels: kernels.count_ready(),
    "scan": lambda kernels: kernels.scan(ScanRequest(0, LAYOUT.n_pages, LAYOUT.n_pages)),
}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_is_cut_short_waits_for_what_it_began(call: str, error: type[BaseException]) -> None:
    """Its arrays are free again, as after any call."""
    device = LateDevice()
    kernels = CudaBackend(device).open(LAYOUT)
    device.error = error("on purpose")
    with pytest.raises(error, match="on purpose"):
        CALLS[call](kernels)
    assert not device.is_running


def test_a_broken_device_does_not_hide_what_went_wrong() -> None:
    device = LateDevice()
    kernels = CudaBackend(device).open(LAYOUT)
    device.error = KeyboardInterrupt("on purpose")

    def broken() -> None:
        raise RuntimeError("the device is lost")

    device.wait = broken  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt, match="on purpose"):
        kernels.count_ready()
