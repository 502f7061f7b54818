"""A plan that stays on the device it was made on, for whoever migrates, or looks at it, there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class DevicePlan:
    """Claimed folios grouped by target: CSR, as :class:`gpuscan.kernels.api.RawPlan`.

    Its arrays are the device's (CuPy's, which others take by DLPack or ``__cuda_array_interface__``), whole
    when the scan returns, and the caller's: any stream may read and write them. Who lets go of them does so
    when that stream is done with them, since their memory is given away then.

    Attributes:
        offsets: int64[n_targets + 1] in host memory; target t has folios ``offsets[t]:offsets[t + 1]``.
        device_offsets: the same on the device.
        pfn, flat: device int64[n], first page of each folio, ascending inside a target.
        words: device records[n], the words that were claimed; with ``flat`` what ``release`` takes.
        cursor: first flat page not covered.
        path, why: how the scan went and why that way.
        examined_pages, examined_bytes: what the scan read.
        n_unknown_target: claimed pages whose target is no node of this machine; in no group.
    """

    offsets: NDArray[np.int64]
    device_offsets: Any
    pfn: Any
    flat: Any
    words: Any
    cursor: int
    path: Literal["dense", "indexed"]
    why: str
    examined_pages: int
    examined_bytes: int
    n_unknown_target: int

    def __len__(self) -> int:
        """Return how many folios there are."""
        return int(self.offsets[-1])

    def because(self, why: str) -> DevicePlan:
        """Return it with another reason for its path."""
        return replace(self, why=why)
