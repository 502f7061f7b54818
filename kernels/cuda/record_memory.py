"""Records in memory of the host, where the index alone is on the device.

Kernels reach them over the bus, in one of two ways (CUDA Programming Guide, *Mapped Memory* and *Unified
Memory*, of CUDA 13):

- *pinned* memory, which every GPU reaches. Its atomics there are atomic for the kernels of that GPU, and not
  for the host or other GPUs. So the host leaves it alone while kernels run, and one GPU has it.
- memory of the process, such as a mapped file, where the GPU has native atomics on what the host has
  (``hostNativeAtomicSupported``, with ``pageableMemoryAccess``: a GH200). Elsewhere atomics on a file are not
  supported, so it is refused.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import DeviceError
from gpuscan.base.memory import available_bytes
from gpuscan.base.units import format_bytes
from gpuscan.kernels.api import StoreLayout
from gpuscan.kernels.cuda.device import Device
from gpuscan.kernels.layout import records_in
from gpuscan.kernels.residency import MakeRecordMemory, RecordMemory


class HostRecords:
    """Records and folio orders of a store in memory of the host.

    Args:
        layout: of the store.
        device: whose kernels reach them.
        make: makes memory of this process for them; None: pinned memory.

    Raises:
        DeviceError: kernels do not reach it, or there is not enough; nothing was allocated.

    Attributes:
        there: uint8[layout.record_bytes], as kernels see them.
        records, folio_order: as the host has them, for when no kernel runs.
    """

    def __init__(self, layout: StoreLayout, device: Device, make: MakeRecordMemory | None) -> None:
        self._device = device
        self._memory: RecordMemory | None = None
        n_bytes = layout.record_bytes
        here: NDArray[np.uint8]
        if make is None:
            available = available_bytes()
            copied_bytes = layout.n_pages if layout.has_large_folios else 0  # orders, where plans are made
            if n_bytes + copied_bytes > available:
                beside = f", and {format_bytes(copied_bytes)} beside it" if copied_bytes else ""
                raise DeviceError(
                    f"the records of {layout.n_pages} pages need {format_bytes(n_bytes)} of pinned host "
                    f"memory{beside}, {format_bytes(available)} are available; simulate less, or use the "
                    "format pghot-compact"
                )
            self.there, here = device.pinned_zeros(n_bytes)
        else:
            why = device.why_no_reach()
            if why:
                raise DeviceError(
                    f"the records cannot be in a file: {why}; leave out records_dir (--records-dir), and "
                    "they are in pinned memory of the host, or use --device cpu"
                )
            self._memory = make(n_bytes)
            here = self._memory.array
            self.there = device.reach(here)
        self.records: NDArray[Any]
        self.folio_order: NDArray[Any]
        self.records, self.folio_order = records_in(here, layout)

    def check(self) -> None:
        """Refuse to work on memory that is no longer there; see :class:`RecordMemory`."""
        if self._memory is not None:
            self._memory.check()

    def close(self) -> None:
        """Let go of it, once no kernel may write there any more. Idempotent.

        Calls that nothing is fetched of return before their kernels have run.
        """
        with suppress(Exception), self._device.working():  # a broken device writes nothing
            self._device.wait()
        self.there = None
        self.records, self.folio_order = np.empty(0, self.records.dtype), np.empty(0, np.uint8)
        if self._memory is not None:
            self._memory.close()
