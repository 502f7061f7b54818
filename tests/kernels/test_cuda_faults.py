"""What the CUDA drivers leave behind where something goes wrong: memory lacks, a call is cut short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulated import EmulatedDevice
from gpuscan.base.errors import DeviceError
from gpuscan.kernels.api import RecordParams
from gpuscan.kernels.cuda import CudaBackend
from gpuscan.kernels.reference import ReferenceBackend
from stores import assert_same_store, plain_layout

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
