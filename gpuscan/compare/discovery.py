"""When a design found what it was asked for: a ledger that knows the time, and the walk's place in it."""

from __future__ import annotations

import numpy as np

from gpuscan.base.errors import RunFailedError
from gpuscan.designs.machine import ZoneSpan
from gpuscan.designs.model import Model
from gpuscan.designs.requests import RequestLedger


class TimedLedger(RequestLedger):
    """A :class:`RequestLedger` that notes how long each request waited until it was found.

    The wait of a request that took the place of another begins with the first of them: the page
    was marked all that time.

    Attributes:
        now_ns: time of the mark that is being made.
        place: of the walk that is under way.
        delays_ns, positions: of each request found, in the order they were: how long it was pending,
            and the page.
    """

    def __init__(self, place: WalkPlace) -> None:
        super().__init__()
        self.now_ns = 0
        self.place = place
        self.delays_ns: list[int] = []
        self.positions: list[int] = []
        self._since_ns: dict[int, int] = {}

    def ask(self, position: int, nid: int, *, keeps_nid: bool = True) -> None:
        """See :class:`RequestLedger`."""
        self._since_ns.setdefault(position, self.now_ns)
        super().ask(position, nid, keeps_nid=keeps_nid)

    def claim(self, position: int) -> int | None:
        """See :class:`RequestLedger`.

        Raises:
            RunFailedError: the walk was at the page before the page was marked.
        """
        found_ns = self.place.reached(position)
        since_ns = self._since_ns.pop(position, None)
        if since_ns is not None:
            if found_ns < since_ns:
                raise RunFailedError(
                    f"a page was found at {found_ns} ns and marked at {since_ns} ns; this is a bug in "
                    "gpuscan, report it with the workload and the seed"
                )
            self.delays_ns.append(found_ns - since_ns)
            self.positions.append(position)
        return super().claim(position)

    def end_pending(self, position: int, reason: str) -> bool:
        """See :class:`RequestLedger`."""
        self._since_ns.pop(position, None)
        return super().end_pending(position, reason)


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

    def reached(self, position: int) -> int:
        """Return when the walk that is under way reached a page."""
        self._note_resched()
        span = self._model.span
        if span is None:
            self._at_ns = int(self._start_ns + self._n_looks() * self.look_ns)
            return self._at_ns
        if span is not self._span:
            self._span, self._before_span = span, self._n_looks() - self._model.n_examined(span)
        pfn = np.array([self._model.machine.pfn(position)])
        n_pages = self._before_span + self._model.n_before(span, pfn)
        self._at_ns = int(self._start_ns + float(n_pages[0]) * self.look_ns)
        return self._at_ns

    def _n_looks(self) -> int:
        return self._model.counters[self._counter] - self._looks_before

    def _note_resched(self) -> None:
        """Notice a ``cond_resched()`` since the last page that was found; it came at that page."""
        n_rescheds = self._model.counters["cond_resched"]
        if n_rescheds > self._rescheds:
            self._rescheds = n_rescheds
            self.longest_ns = max(self.longest_ns, float(self._at_ns - self._rescheduled_ns))
            self._rescheduled_ns = self._at_ns
