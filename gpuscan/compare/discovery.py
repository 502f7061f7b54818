"""When a design found what it was asked for: a ledger that knows the time, and the walk's place in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import RunFailedError
from gpuscan.designs.machine import ZoneSpan
from gpuscan.designs.model import Model
from gpuscan.designs.requests import RequestLedger

_WAITS_MAX = (1 << 31) - 1
"""Places that 32 bits hold."""


class TimedLedger(RequestLedger):
    """A :class:`RequestLedger` that notes how long each request waited until it was found.

    The wait of a request that took the place of another begins with the first of them: the page
    was marked all that time.

    Attributes:
        now_ns: time of the mark that is being made, where marks are made one by one.
        place: of the walk that is under way.
    """

    def __init__(self, place: WalkPlace, n_positions: int = 0) -> None:
        super().__init__(n_positions)
        self.now_ns = 0
        self.place = place
        self._heads, self._times_ns = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self._sorted = True
        self._waits = np.zeros(n_positions, dtype=np.int32)
        """By position, the place of its beginning; of pages without a pending request it is of old."""
        self._begun_ns, self._n_begun = np.empty(1024, dtype=np.int64), 0
        self._delays_ns: list[NDArray[np.int64]] = []
        self._positions: list[NDArray[np.int64]] = []

    @property
    def delays_ns(self) -> NDArray[np.int64]:
        """int64[found], how long each request that was found was pending, in the order they were."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._delays_ns])

    @property
    def positions(self) -> NDArray[np.int64]:
        """int64[found], the page of each."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._positions])

    def coming(self, heads: NDArray[np.int64], times_ns: NDArray[np.int64]) -> None:
        """Say when marks are made that come together.

        Args:
            heads: int64[n], of their folios, all different.
            times_ns: int64[n].
        """
        self._heads, self._times_ns, self._sorted = heads, times_ns, False

    def ask(self, position: int, nid: int, *, keeps_nid: bool = True, time_ns: int | None = None) -> None:
        """See :class:`RequestLedger`."""
        fresh = self.wanted(position) is None
        super().ask(position, nid, keeps_nid=keeps_nid)
        if not fresh:
            return
        if time_ns is None:
            time_ns = self.now_ns
            if len(self._heads):
                time_ns = int(self._marked_ns(np.array([position], dtype=np.int64))[0])
        self._begin(np.array([position]), np.array([time_ns]))

    def ask_many(
        self,
        positions: NDArray[np.int64],
        nids: NDArray[np.int32],
        *,
        keeps_nid: bool = True,
        times_ns: NDArray[np.int64] | None = None,
    ) -> None:
        """See :class:`RequestLedger`; without times all pages are different, as :meth:`coming` has them."""
        if len(positions):
            self._make_room(int(positions.max()))
            free = self._is_free(positions)
            fresh = positions[free]
            if times_ns is None and np.array_equal(positions, self._heads):
                self._begin(fresh, self._times_ns[free])
            elif times_ns is None:
                self._begin(fresh, self._marked_ns(fresh))
            else:  # of several requests for a page the first begins the wait
                fresh, firsts = np.unique(fresh, return_index=True)
                self._begin(fresh, times_ns[free][firsts])
        super().ask_many(positions, nids, keeps_nid=keeps_nid)

    def claim(self, position: int) -> int | None:
        """See :class:`RequestLedger`.

        Raises:
            RunFailedError: the walk was at the page before the page was marked.
        """
        self._note_found(np.array([position], dtype=np.int64))
        return super().claim(position)

    def claim_many(
        self,
        positions: NDArray[np.int64],
        n_to_come: NDArray[np.int64] | None = None,
        stops: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.int32]:
        """See :class:`RequestLedger`.

        Raises:
            RunFailedError: the walk was at a page before the page was marked.
        """
        if len(positions):
            self._note_found(positions, n_to_come, stops)
        return super().claim_many(positions, n_to_come, stops)

    def _note_found(
        self,
        positions: NDArray[np.int64],
        n_to_come: NDArray[np.int64] | None = None,
        stops: NDArray[np.uint8] | None = None,
    ) -> None:
        found_ns = self.place.reached(positions, n_to_come, stops)
        self._make_room(int(positions.max()))
        pending = ~self._is_free(positions)
        positions, found_ns = positions[pending], found_ns[pending]
        delays_ns = found_ns - self._begun_ns[self._waits[positions]]
        if len(delays_ns) and delays_ns.min() < 0:
            early = int(delays_ns.argmin())
            raise RunFailedError(
                f"a page was found at {found_ns[early]} ns, {-delays_ns[early]} ns before it was marked"
                "; this is a bug in gpuscan, report it with the workload and the seed"
            )
        self._delays_ns.append(delays_ns)
        self._positions.append(positions)

    def _begin(self, positions: NDArray[np.int64], times_ns: NDArray[np.int64]) -> None:
        """Let the waits of pages begin: a time for each wait takes less than one for each page of a machine.

        Raises:
            RunFailedError: there are more waits than can be told apart.
        """
        first, end = self._n_begun, self._n_begun + len(positions)
        if end > _WAITS_MAX:
            raise RunFailedError(
                f"over {_WAITS_MAX:,} requests are more than the open loop can time; give fewer --requests"
            )
        if end > len(self._begun_ns):
            grown = np.empty(2 * end, dtype=np.int64)
            grown[:first] = self._begun_ns[:first]
            self._begun_ns = grown
        self._begun_ns[first:end] = times_ns
        self._waits[positions] = np.arange(first, end)
        self._n_begun = end

    def _marked_ns(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return when the marks that come together ask for pages, which are heads of their folios or not."""
        if not self._sorted:
            order = np.argsort(self._heads)
            self._heads, self._times_ns, self._sorted = self._heads[order], self._times_ns[order], True
        heads = self.place.heads(positions)
        return self._times_ns[np.searchsorted(self._heads, heads)]

    def _make_room(self, position: int) -> None:
        super()._make_room(position)
        if len(self._waits) < len(self._open):
            more = np.zeros(len(self._open) - len(self._waits), dtype=np.int32)
            self._waits = np.concatenate((self._waits, more))


class WalkPlace:
    """Where a walk is in time: a :class:`gpuscan.designs.threads.Pace` that knows where it found what.

    A model counts a zone (or section) as examined when it enters it, so a page is placed by what comes before
    it there: a folio that the walk steps over is one page of it. Also finds the longest stretch without a
    ``cond_resched()``.

    Args:
        model: whose walks.
        counter: of its looks, ``pfns_examined`` or ``entries_examined``.
        look_ns: what one of them takes.
    """

    def __init__(self, model: Model, counter: str, look_ns: float) -> None:
        self._model = model
        self._counter, self.look_ns = counter, look_ns
        self._start_ns = self._looks_before = self._rescheds = 0
        self._span: ZoneSpan | None = None
        self._before_span = 0
        self._at_ns = self._rescheduled_ns = 0
        self.longest_ns = 0.0

    def begin(self, start_ns: int) -> None:
        """Begin a walk."""
        counters = self._model.counters
        self._start_ns = self._at_ns = self._rescheduled_ns = start_ns
        self._looks_before = counters[self._counter]
        self._rescheds = counters["cond_resched"]
        self._model.span = self._span = None

    def end(self) -> float:
        """End the walk and return how long it took."""
        walk_ns = self._n_looks() * self.look_ns
        self._note_resched()
        self.longest_ns = max(self.longest_ns, self._start_ns + walk_ns - self._rescheduled_ns)
        return walk_ns

    def reached(
        self,
        positions: NDArray[np.int64],
        n_to_come: NDArray[np.int64] | None = None,
        stops: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.int64]:
        """Return int64[n], when the walk that is under way reached pages; it is at the last one.

        Args:
            positions: of one span, or with ``n_to_come`` of several.
            n_to_come, stops: see :class:`gpuscan.designs.taking.Window`; the model counts these stops after
                this.
        """
        self._note_resched()
        span, model = self._model.span, self._model
        if span is None:
            n_looks = np.full(len(positions), self._n_looks(), dtype=np.int64)
            if n_to_come is not None:
                n_looks -= n_to_come
        else:
            if span is not self._span:
                self._span, self._before_span = span, self._n_looks() - model.n_examined(span)
            n_looks = self._before_span + model.n_before(span, model.machine.pfns(positions))
        reached_ns: NDArray[np.int64] = (self._start_ns + n_looks * self.look_ns).astype(np.int64)
        if stops is not None:
            for stop_ns in np.repeat(reached_ns, stops).tolist():
                self._reschedule(stop_ns)
                self._rescheds += 1
        self._at_ns = int(reached_ns[-1])
        return reached_ns

    def heads(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n], the heads of the folios of pages."""
        return self._model.machine.pages(positions).head

    def _n_looks(self) -> int:
        return self._model.counters[self._counter] - self._looks_before

    def _note_resched(self) -> None:
        """Notice a ``cond_resched()`` since the last page that was found; it came at that page."""
        n_rescheds = self._model.counters["cond_resched"]
        if n_rescheds > self._rescheds:
            self._rescheds = n_rescheds
            self._reschedule(self._at_ns)

    def _reschedule(self, at_ns: int) -> None:
        self.longest_ns = max(self.longest_ns, float(at_ns - self._rescheduled_ns))
        self._rescheduled_ns = at_ns
