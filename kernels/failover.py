"""A store that outlives its device: a last good state in host memory, and the operations since.

Nothing can be read back from a device that is lost. So while it works, :class:`GuardedBackend`
keeps on the host what it takes to make the store anew: a copy of its arrays (the *base*), and a
*journal* of the operations since, which is bounded: when it grows past a part of the store, the base is
copied anew. When an operation fails, a store is opened on the fallback, the base is loaded, the journal is
replayed, and the operation that failed is done there. An operation enters the journal only once it has
come back, so one that failed half-way is not in it, whatever it did to the device.

A scan is replayed over the range that it covered, since backends may cut a range at different places,
and what it claimed is set right by the plan that was handed out. Records, targets and eligibility come back
exactly, whatever the fallback; the index too where it clears bits as the device did.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import is_on_gpu
from gpuscan.base.errors import DeviceError, DeviceFailedError, InputError, RunFailedError
from gpuscan.kernels.api import (
    Backend,
    Budget,
    Cutoffs,
    Kernels,
    KeyCounts,
    RawPlan,
    RecordParams,
    ScanRequest,
    StoreArrays,
    StoreLayout,
)
from gpuscan.kernels.device_plan import DevicePlan
from gpuscan.kernels.residency import MakeRecordMemory, index_backend
from gpuscan.kernels.signatures import Door

_CALLERS_FAULT = (InputError, ValueError, TypeError)
"""What the contract raises over wrong arguments."""
_JOURNAL_BYTES_MIN = 64 << 20
_JOURNAL_SHARE = 4
"""The base is renewed when the journal is larger than this part (1/4) of the store and the minimum."""

_NO_OUTCOMES = np.empty(0, dtype=np.uint8)
_T = TypeVar("_T")


class GuardedBackend:
    """A device whose failure in the middle of the work is one sentence, or is survived.

    Args:
        primary: where stores are opened.
        fallback: opens the backend that takes over; None = nobody does. Then nothing is kept on the
            host either, operations may run side by side, and arrays and plans may be on the device; with
            one, they take turns, and are in host memory.
        on_failure: called with a sentence when the fallback has taken over.

    Attributes:
        name: the device's name; once it has failed, that of both.
        failures: those sentences.
    """

    def __init__(
        self,
        primary: Backend,
        fallback: Callable[[], Backend] | None = None,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.name = primary.name
        self.primary = primary
        self.fallback = fallback
        self.failures: list[str] = []
        self._on_failure = on_failure

    def describe(self) -> str:
        """Return one line saying what runs where."""
        return self.primary.describe()

    def open(self, layout: StoreLayout) -> GuardedKernels:
        """Allocate an empty store; see :meth:`gpuscan.kernels.api.Backend.open`."""
        return GuardedKernels(self, self.primary.open(layout))

    def open_index(self, layout: StoreLayout, make: MakeRecordMemory | None) -> GuardedKernels:
        """Do as :meth:`gpuscan.kernels.residency.IndexBackend.open_index`.

        Raises:
            InputError: the device never does, or a fallback may take over, for which all records are kept in
                memory a second time.
        """
        if self.fallback is not None:
            raise InputError(
                "a device that another takes over from has a second copy of its store in memory, and records "
                "that are elsewhere have none; leave out the fallback, or take residency device"
            )
        return GuardedKernels(self, index_backend(self.primary).open_index(layout, make))

    def note(self, sentence: str, fallback: str) -> None:
        """Remember, and tell, that the backend ``fallback`` has taken over."""
        self.name = f"{self.primary.name}, then {fallback}"
        self.failures.append(sentence)
        if self._on_failure is not None:
            self._on_failure(sentence)


class GuardedKernels:
    """The operations on one store; see :class:`gpuscan.kernels.api.Kernels`.

    Every operation raises, beside what the contract says, DeviceFailedError when the device failed and
    there is no fallback, or the fallback failed too.
    """

    def __init__(self, backend: GuardedBackend, kernels: Kernels) -> None:
        self.layout = kernels.layout
        self._backend = backend
        self._kernels = kernels
        self._name = backend.primary.name
        self._door = Door(kernels.layout)
        self._lock = threading.RLock()
        self._guards = backend.fallback is not None
        self._base: StoreArrays | None = None  # None: as opened
        self._journal: list[Callable[[Kernels], object]] = []
        self._journal_bytes = 0
        store_bytes = self.layout.n_pages * self.layout.fmt.n_bytes
        self._journal_bytes_max = max(_JOURNAL_BYTES_MIN, store_bytes // _JOURNAL_SHARE)

    @property
    def arrays(self) -> StoreArrays:
        """Those of the device that the store is on."""
        return self._kernels.arrays

    def request(
        self, pfns: NDArray[np.int64], nids: NDArray[np.int32], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """See :meth:`Kernels.request`."""
        pfns, nids, outcomes = self._arrays("request", pfns, nids, outcomes)
        return self._do(
            "request",
            lambda kernels: kernels.request(pfns, nids, outcomes),
            lambda pfns, nids: lambda kernels: kernels.request(pfns, nids, _NO_OUTCOMES),
            (pfns, nids),
        )

    def record(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        params: RecordParams,
        outcomes: NDArray[np.uint8],
    ) -> NDArray[np.int64]:
        """See :meth:`Kernels.record`."""
        pfns, nids, outcomes = self._arrays("record", pfns, nids, outcomes)
        return self._do(
            "record",
            lambda kernels: kernels.record(pfns, nids, params, outcomes),
            lambda pfns, nids: lambda kernels: kernels.record(pfns, nids, params, _NO_OUTCOMES),
            (pfns, nids),
        )

    def count_keys(
        self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None
    ) -> KeyCounts:
        """See :meth:`Kernels.count_keys`."""
        return _GuardedKeyCounts(self, lambda kernels: kernels.count_keys(budget, lo, hi, node_mask))

    def rank(self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None = None) -> Cutoffs:
        """See :meth:`Kernels.rank`."""
        return self._do("rank", lambda kernels: kernels.rank(budget, lo, hi, node_mask))

    def scan(self, request: ScanRequest) -> RawPlan:
        """See :meth:`Kernels.scan`. With a fallback the plan has arrived when this returns."""
        self._door.scan(request)
        if not self._guards:
            raw = self._do("scan", lambda kernels: kernels.scan(request))
            raw.tell_failures(lambda error: self._failed("the copy of a plan", error))
            return raw
        quotas = () if request.cuts is None else request.cuts.quotas
        before = [quota.copy() for quota in quotas]

        def scan(kernels: Kernels) -> RawPlan:
            for quota, value in zip(quotas, before, strict=True):
                quota[:] = value
            raw = kernels.scan(request)
            raw.wait()
            return raw

        with self._lock:
            raw = self._do("scan", scan)
            covered = replace(request, hi=raw.cursor, cuts=_with_quotas(request.cuts, before))
            self._log(lambda flats: lambda kernels: _claim_again(kernels, covered, flats), (raw.flat,))
            if raw.n_unknown_target or raw.n_superseded:  # claimed, and in no group: look rather than guess
                self._renew()
        return raw

    @property
    def scan_on_device(self) -> Callable[[ScanRequest], DevicePlan] | None:
        """As its kernels have it; None where these make plans in host memory, or a fallback may take over."""
        scan: Callable[[ScanRequest], DevicePlan] | None = getattr(self._kernels, "scan_on_device", None)
        if scan is None or self._guards:
            return None
        return lambda request: self._do("scan", lambda _: scan(request))

    def release(
        self, flats: NDArray[np.int64], words: NDArray[Any], outcomes: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """See :meth:`Kernels.release`."""
        flats, words, outcomes = self._arrays("release", flats, words, outcomes)
        return self._do(
            "release",
            lambda kernels: kernels.release(flats, words, outcomes),
            lambda flats, words: lambda kernels: kernels.release(flats, words, _NO_OUTCOMES),
            (flats, words),
        )

    def discard(self, flats: NDArray[np.int64]) -> int:
        """See :meth:`Kernels.discard`."""
        (flats,) = self._door.arrays("discard", flats)
        return self._do(
            "discard",
            lambda kernels: kernels.discard(flats),
            lambda flats: lambda kernels: kernels.discard(flats),
            (flats,),
        )

    def set_eligible(self, flats: NDArray[np.int64], eligible: bool) -> None:
        """See :meth:`Kernels.set_eligible`."""
        (flats,) = self._door.arrays("set_eligible", flats)
        self._do(
            "set_eligible",
            lambda kernels: kernels.set_eligible(flats, eligible),
            lambda flats: lambda kernels: kernels.set_eligible(flats, eligible),
            (flats,),
        )

    def set_order(self, flats: NDArray[np.int64], order: int) -> None:
        """See :meth:`Kernels.set_order`."""
        flats = self._door.order(flats, order)
        self._do(
            "set_order",
            lambda kernels: kernels.set_order(flats, order),
            lambda flats: lambda kernels: kernels.set_order(flats, order),
            (flats,),
        )

    def count_ready(self) -> int:
        """See :meth:`Kernels.count_ready`."""
        return self._do("count_ready", lambda kernels: kernels.count_ready())

    def count_index(self) -> tuple[int, int]:
        """See :meth:`Kernels.count_index`."""
        return self._do("count_index", lambda kernels: kernels.count_index())

    def take_active(self) -> NDArray[np.uint8]:
        """See :meth:`Kernels.take_active`."""
        return self._do(
            "take_active",
            lambda kernels: kernels.take_active(),
            lambda: lambda kernels: kernels.take_active(),
            (),
        )

    def dump(self) -> StoreArrays:
        """See :meth:`Kernels.dump`."""
        return self._do("dump", lambda kernels: kernels.dump())

    def load(self, arrays: StoreArrays) -> None:
        """See :meth:`Kernels.load`."""
        with self._lock:
            self._do("load", lambda kernels: kernels.load(arrays))
            self._log(lambda: lambda kernels: kernels.load(arrays), ())  # until the base has it
            self._renew()

    def close(self) -> None:
        """See :meth:`Kernels.close`."""
        self._kernels.close()
        self._base, self._journal = None, []

    def _arrays(self, operation: str, *given: Any) -> list[Any]:
        """Return the arrays of a call. Those on a device are its kernels' to check; no journal keeps them."""
        if not self._guards and any(is_on_gpu(array) for array in given):
            return list(given)
        return self._door.arrays(operation, *given)

    def _do(
        self,
        what: str,
        operation: Callable[[Kernels], _T],
        replay: Callable[..., Callable[[Kernels], object]] | None = None,
        arguments: tuple[NDArray[Any], ...] = (),
    ) -> _T:
        """Do one operation, on the fallback where the device fails, and enter it into the journal.

        Args:
            what: its name.
            operation: the operation.
            replay: makes, of copies of ``arguments``, what does it again; None where it changes nothing.
        """
        if not self._guards:
            try:
                return operation(self._kernels)
            except DeviceError:  # who begins a scan ahead does without it for lack of room
                raise
            except Exception as error:
                if not _is_devices_doing(error):
                    raise
                raise self._failed(what, error) from error
        with self._lock:
            try:
                result = operation(self._kernels)
            except Exception as error:
                if not _is_devices_doing(error):
                    raise
                self._take_over(what, error)
                try:
                    result = operation(self._kernels)
                except Exception as again:
                    if not _is_devices_doing(again):
                        raise
                    raise self._failed(what, again) from again
            if replay is not None:
                self._log(replay, arguments)
            return result

    def _log(
        self, replay: Callable[..., Callable[[Kernels], object]], arguments: tuple[NDArray[Any], ...]
    ) -> None:
        if not self._guards:
            return
        copies = tuple(array.copy() for array in arguments)
        self._journal.append(replay(*copies))
        self._journal_bytes += sum(array.nbytes for array in copies) + 256
        if self._journal_bytes > self._journal_bytes_max:
            self._renew()

    def _renew(self) -> None:
        """Copy the store to the host, and begin the journal anew."""
        if not self._guards:
            return
        try:
            self._base = self._kernels.dump()
        except Exception as error:
            self._take_over("dump", error)
        self._journal, self._journal_bytes = [], 0

    def _take_over(self, what: str, error: Exception) -> None:
        """Make the store anew on the fallback, which nobody guards."""
        failed = self._failed(what, error)
        if self._backend.fallback is None or not self._guards:
            raise failed from error
        try:
            fallback = self._backend.fallback()
            kernels = fallback.open(self.layout)
            if self._base is not None:
                kernels.load(self._base)
            for replay in self._journal:
                replay(kernels)
        except Exception as second:
            raise DeviceFailedError(f"{failed}, and nothing could take over ({_cause(second)})") from second
        lost, self._kernels, self._name = self._kernels, kernels, fallback.name
        self._guards = False
        n_replayed = len(self._journal)
        self._base, self._journal = None, []
        with suppress(Exception):  # it is lost
            lost.close()
        self._backend.note(
            f"{failed}: {fallback.name} went on from the last good state and {n_replayed:,} operations since",
            fallback.name,
        )

    def _failed(self, what: str, error: Exception) -> DeviceFailedError:
        return DeviceFailedError(f"the device {self._name} failed in {what} ({_cause(error)})")


class _GuardedKeyCounts:
    """What a store counted; see :class:`gpuscan.kernels.api.KeyCounts`. To cut it a device works again."""

    def __init__(self, guarded: GuardedKernels, count: Callable[[Kernels], KeyCounts]) -> None:
        self._guarded, self._count = guarded, count
        self._kernels, self._counted = guarded._do("count_keys", self._count_on)
        self.targets = self._counted.targets
        self.pages_of_key = self._counted.pages_of_key
        self.seen_pages = self._counted.seen_pages

    def cut(self, cut_key: NDArray[np.int32]) -> Cutoffs:
        """See :meth:`KeyCounts.cut`. Where another device has taken over, it counts anew."""
        return self._guarded._do("cut", lambda kernels: self._counted_on(kernels).cut(cut_key))

    def _count_on(self, kernels: Kernels) -> tuple[Kernels, KeyCounts]:
        return kernels, self._count(kernels)

    def _counted_on(self, kernels: Kernels) -> KeyCounts:
        return self._counted if kernels is self._kernels else self._count(kernels)


def _is_devices_doing(error: Exception) -> bool:
    """Say whether a device failed, where neither the caller is wrong nor what it gave is gone."""
    if isinstance(error, RunFailedError):
        return isinstance(error, DeviceFailedError)
    return not isinstance(error, _CALLERS_FAULT)


def _cause(error: BaseException) -> str:
    """Return the name of an error and the first line of what it says."""
    said = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _with_quotas(cuts: Cutoffs | None, quotas: list[NDArray[np.int64]]) -> Cutoffs | None:
    if cuts is None:
        return None
    above, ties_from, ties_below = quotas
    return replace(cuts, above_pages=above, tie_pages_from=ties_from, tie_pages_below=ties_below)


def _claim_again(kernels: Kernels, covered: ScanRequest, flats: NDArray[np.int64]) -> None:
    """Do a scan over a range again, and claim ``flats`` (int64[n]) of it, no others."""
    lo = covered.lo
    while lo < covered.hi:
        raw = kernels.scan(replace(covered, lo=lo))
        more = ~np.isin(raw.flat, flats)
        if more.any():
            kernels.release(raw.flat[more], raw.words[more], _NO_OUTCOMES)
        lo = raw.cursor
        raw.recycle()
    kernels.discard(flats)
