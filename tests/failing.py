"""A device that fails: a backend behind the contract that works for so many calls and is lost then."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuscan.kernels.api import Backend, Kernels, RawPlan, StoreLayout

OPERATIONS = [
    "request",
    "record",
    "count_keys",
    "cut",
    "rank",
    "scan",
    "release",
    "discard",
    "set_eligible",
    "set_order",
    "count_ready",
    "count_index",
    "take_active",
    "dump",
    "load",
]


class DriverLostError(RuntimeError):
    """What CuPy's CUDADriverError stands for."""


class FailingBackend:
    """Opens stores that are lost at a call; whatever was on them is gone.

    Args:
        inner: what does the work until then.
        name: what it calls itself.
        error: raised by the call, and by every one after it.
        at_plan: the scan returns, and its plan does not arrive.
        at_first: name of an operation; its first call fails.

    Attributes:
        calls: names of the operations called so far, on all stores.
        fails_at: number of the call that fails, from 0; None = none does.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        name: str = "cuda",
        error: Exception | None = None,
        at_plan: bool = False,
        fails_at: int | None = None,
        at_first: str | None = None,
    ) -> None:
        self.inner = inner
        self.name = name
        self.error = error or DriverLostError("the driver is gone")
        self.at_plan = at_plan
        self.fails_at = fails_at
        self.at_first = at_first
        self.calls: list[str] = []

    def describe(self) -> str:
        return "a device that fails"

    def open(self, layout: StoreLayout) -> Kernels:
        failing: Any = FailingKernels(self, self.inner.open(layout))
        return failing


class FailingKernels:
    def __init__(self, backend: FailingBackend, inner: Kernels) -> None:
        self.layout = inner.layout
        self.inner = inner
        self._backend = backend

    @property
    def arrays(self) -> Any:
        return self.inner.arrays

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS:
            raise AttributeError(name)
        return lambda *args, **kwargs: self._call(name, *args, **kwargs)

    def count_keys(self, *args: Any) -> FailingKeyCounts:
        return FailingKeyCounts(self, self._call("count_keys", *args))

    def _call(self, name: str, *args: Any, on: Any = None, **kwargs: Any) -> Any:
        backend = self._backend
        backend.calls.append(name)
        number = len(backend.calls) - 1
        if name == backend.at_first and backend.fails_at is None:
            backend.fails_at = number
        if backend.fails_at is None or number < backend.fails_at:
            return getattr(on or self.inner, name)(*args, **kwargs)
        if number == backend.fails_at and name in ("request", "record", "scan", "discard", "release"):
            self._half(name, *args, **kwargs)
        if backend.at_plan and name == "scan" and number == backend.fails_at:
            return self._plan_that_is_lost(*args)
        raise backend.error

    def _half(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Do the operation, then lose everything: nothing that happened on the device may be trusted."""
        getattr(self.inner, name)(*args, **kwargs)
        self._scribble()

    def _scribble(self) -> None:
        rng = np.random.default_rng(0)
        for array in (self.inner.arrays.records, self.inner.arrays.eligible_bits):
            array[:] = rng.integers(0, np.iinfo(array.dtype).max, len(array), dtype=array.dtype)

    def _plan_that_is_lost(self, request: Any) -> RawPlan:
        none = np.empty(0, dtype=np.int64)

        def arrive() -> None:
            raise self._backend.error

        return RawPlan(
            offsets=np.zeros(self.layout.n_targets + 1, dtype=np.int64),
            flat=none,
            words=none.astype(self.layout.fmt.dtype),
            cursor=request.hi,
            path="dense",
            why="lost",
            examined_pages=0,
            examined_bytes=0,
            arrive=arrive,
        )

    def close(self) -> None:
        if self._backend.fails_at is not None and len(self._backend.calls) > self._backend.fails_at:
            raise self._backend.error
        self.inner.close()


class FailingKeyCounts:
    """Counts of a device that is asked again to cut them."""

    def __init__(self, kernels: FailingKernels, counted: Any) -> None:
        self._kernels, self._counted = kernels, counted
        self.targets, self.pages_of_key = counted.targets, counted.pages_of_key
        self.seen_pages = counted.seen_pages

    def cut(self, cut_key: Any) -> Any:
        return self._kernels._call("cut", cut_key, on=self._counted)
