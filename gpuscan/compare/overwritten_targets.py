"""Targets that a newer request overwrote, counted beside gpuscan's store, as the models' ledgers count them.

A store calls a mark on a READY page refreshed, whatever node it names: nobody is worse off, the page goes
where the last one asked. Models lose the older request there, so a comparison has to count the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Outcome, RecordParams
from gpuscan.records.formats import unpack
from gpuscan.store.single import Store

_NOT_READY = -1


class WatchedStore(Store):
    """A :class:`gpuscan.store.single.Store` on the CPU that counts overwritten targets.

    What a page was marked for is read from its record, before the call that marks it anew, so only one thread
    may call it.

    Attributes:
        n_overwritten: requests whose page a newer one asked to another node while it was READY; 0 where
            records keep no node.
    """

    n_overwritten = 0

    def _request(
        self, pfn: NDArray[np.int64], nid: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        if not self.fmt.has_nid:
            return super()._request(pfn, nid, outcomes)
        heads, before = self._targets(pfn)
        outcomes = outcomes if len(outcomes) else np.empty(len(pfn), dtype=np.uint8)
        counts = super()._request(pfn, nid, outcomes)
        self._count(heads, nid, before, outcomes)
        return counts

    def _record(
        self, pfn: NDArray[np.int64], nid: NDArray[np.int32], params: RecordParams
    ) -> NDArray[np.int64]:
        if not self.fmt.has_nid:
            return super()._record(pfn, nid, params)
        heads, before = self._targets(pfn)
        outcomes = np.empty(len(pfn), dtype=np.uint8)
        counts = self.kernels.record(pfn, nid, params, outcomes)
        self._count(heads, nid, before, outcomes)
        return counts

    def _targets(self, pfn: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the heads (flat) of pages, -1 where there is none, and the target of each that is READY."""
        flats = self.page_map.flat_of_pfn(pfn)
        if self.layout.has_large_folios:
            flats = np.where(flats < 0, flats, flats >> self._order[flats] << self._order[flats])
        records = self.kernels.arrays.records
        assert isinstance(records, np.ndarray)
        fields = unpack(self.fmt, records[flats])
        return flats, np.where((flats >= 0) & fields.ready, fields.nid, _NOT_READY)

    def _count(
        self,
        heads: NDArray[np.int64],
        nids: NDArray[np.int32],
        before: NDArray[np.int64],
        outcomes: NDArray[np.uint8],
    ) -> None:
        taken = np.flatnonzero((outcomes == Outcome.ACCEPTED) | (outcomes == Outcome.REFRESHED))
        taken = taken[np.argsort(heads[taken], kind="stable")]
        page, nid = heads[taken], nids[taken]
        again = np.zeros(len(taken), dtype=np.bool_)
        again[1:] = page[1:] == page[:-1]
        older = before[taken]
        older[again] = nid[np.flatnonzero(again) - 1]
        self.n_overwritten += int(np.count_nonzero((older != _NOT_READY) & (older != nid)))
