"""The ticks of a live session, in memory that does not grow with it: neighbours are put together."""

from __future__ import annotations

from dataclasses import fields

from gpuscan.engine.report import TickReport

N_ROWS_MAX = 1 << 13
"""From then on a row is two ticks, then four, and so on; some 2 KiB each."""
TICKS = "ticks"
"""The metric that says how many ticks a row is."""
_FIRST = ("tick", "now_ns")
_LAST = ("pending",)
_IDLE, _PUT_TOGETHER = "idle", "mixed"


class Series:
    """Takes ticks one after the other.

    Args:
        n_rows_max: rows to keep, at most; even.
    """

    def __init__(self, n_rows_max: int = N_ROWS_MAX) -> None:
        self._n_rows_max = n_rows_max
        self._n_each = 1
        self._rows: list[TickReport] = []
        self._n_in_last = 0

    def add(self, tick: TickReport) -> None:
        """Take the next tick."""
        one = _copy(tick)
        one.metrics[TICKS] = 1
        if self._rows and self._n_in_last < self._n_each:
            self._rows[-1] = _together(self._rows[-1], one)
            self._n_in_last += 1
            return
        if len(self._rows) == self._n_rows_max:
            pairs = zip(self._rows[::2], self._rows[1::2], strict=True)
            self._rows = [_together(one, other) for one, other in pairs]
            self._n_each *= 2
        self._rows.append(one)
        self._n_in_last = 1

    def rows(self) -> list[TickReport]:
        """Return the rows. A row of several ticks is the first one's in number and start, has what was READY
        after the last, and of everything else, metrics too, the sums."""
        return list(self._rows)


def _copy(tick: TickReport) -> TickReport:
    made = TickReport(**{each.name: getattr(tick, each.name) for each in fields(TickReport)})
    made.metrics = dict(tick.metrics)
    return made


def _together(one: TickReport, other: TickReport) -> TickReport:
    made = _copy(one)
    for each in fields(TickReport):
        name = each.name
        if name in _FIRST:
            continue
        if name in _LAST:
            made.pending = other.pending
        elif name == "path":
            paths = {one.path, other.path} - {_IDLE}
            made.path = paths.pop() if len(paths) == 1 else _PUT_TOGETHER if paths else _IDLE
        elif name == "metrics":
            names = one.metrics | other.metrics
            made.metrics = {name: one.metrics.get(name, 0) + other.metrics.get(name, 0) for name in names}
        else:
            setattr(made, name, getattr(one, name) + getattr(other, name))
    return made
