"""The cut-offs of a budget as a store's kernels have them: of one ranking at a time, and kept until the next.

A scan that is given the cut-offs of the last ranking, as the last scan left them, uploads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Cutoffs
from gpuscan.kernels.cuda.device import Device
from gpuscan.kernels.cuda.launches import QUOTAS
from gpuscan.kernels.cuda.workspace import Report
from gpuscan.kernels.layout import StoreLayout


@dataclass(eq=False)
class _Known:
    """What the device has: whose, and their fields as they were; quotas as int64[3, n_targets]."""

    cuts: Cutoffs
    now: int
    cut_key: NDArray[np.int32]
    resume_flat: NDArray[np.int64]
    quotas: NDArray[np.int64]


class DeviceCuts:
    """Cut-offs on a device.

    Args:
        device: where kernels run.
        layout: of the store.
        report: has the quotas, the keys and what was seen, which come to the host in one copy.

    Attributes:
        given: what launches are given of them, by name.
        pages_of_key: device uint64[n_targets * n_keys], for counting.
    """

    def __init__(self, device: Device, layout: StoreLayout, report: Report) -> None:
        self._device = device
        self._n_targets = n_targets = layout.n_targets
        self._n_keys = layout.fmt.n_keys
        self._quotas = report.left
        self._limits = device.empty(2 * n_targets, np.int64)
        self.given: dict[str, Any] = {
            "cut_key": report.cut_key[:n_targets],
            "resume_flat": self._limits[n_targets:],
            "stop_from": device.empty(n_targets, np.int64),
            "stop_below": device.empty(n_targets, np.int64),
            **{
                name: report.left[place * n_targets : (place + 1) * n_targets]
                for place, name in enumerate(QUOTAS)
            },
        }
        self.limit_pages = self._limits[:n_targets]
        self.pages_of_key = device.empty(0, np.uint64)
        self._ties = device.empty(0, np.uint32)
        self._known: _Known | None = None

    def some(self, *names: str) -> dict[str, Any]:
        """Return some of what is given."""
        return {name: self.given[name] for name in names}

    def put_budget(self, budget: Budget) -> None:
        """Upload limits and where ties begin; nothing is known of cut-offs until :meth:`know`."""
        self._known = None
        self._device.write(self._limits, np.concatenate((budget.limit_pages, budget.resume_flat)))

    def put(self, cut_key: NDArray[np.int32], resume_flat: NDArray[np.int64], quotas: Any) -> None:
        """Upload cut-offs, quotas int64[3, n_targets] being what ties may take; as :meth:`put_budget`."""
        self._known = None
        self._device.write(self.given["cut_key"], cut_key)
        self._device.write(self.given["resume_flat"], resume_flat)
        self._device.write(self._quotas, np.ravel(quotas).view(np.uint64))

    def clear_keys(self) -> None:
        """Make :attr:`pages_of_key` zeros."""
        if len(self.pages_of_key) == 0:
            self.pages_of_key = self._device.empty(self._n_targets * self._n_keys, np.uint64)
        self._device.clear(self.pages_of_key)

    def clear_ties(self, n_stretches: int) -> dict[str, Any]:
        """Return zeros to count ties of so many stretches in, as launches are given them."""
        n_counters = (n_stretches + 1) * self._n_targets
        if len(self._ties) < n_counters:
            self._ties = self._device.empty(n_counters, np.uint32)
        self._device.clear(self._ties[:n_counters])
        return {
            "wrapped_ties": self._ties[: self._n_targets],
            "ties": self._ties[self._n_targets : n_counters],
        }

    def know(self, cuts: Cutoffs) -> None:
        """Remember that the device has just these cut-offs."""
        self._known = _Known(
            cuts, cuts.now, cuts.cut_key.copy(), cuts.resume_flat.copy(), np.vstack(cuts.quotas)
        )

    def forget(self) -> None:
        """Know of none: a scan is about to count them down."""
        self._known = None

    def has(self, cuts: Cutoffs) -> bool:
        """Return whether the device has these cut-offs, with what is left of them.

        Numbers alone do not tell: up to where ties go is of the range and the nodes that were ranked.
        """
        known = self._known
        return (
            known is not None
            and known.cuts is cuts
            and known.now == cuts.now
            and np.array_equal(known.cut_key, cuts.cut_key)
            and np.array_equal(known.resume_flat, cuts.resume_flat)
            and np.array_equal(known.quotas, np.vstack(cuts.quotas))
        )
