"""What each policy may move now: a rate of its own, and its fair part of one that all share.

Allowances grow with time and are kept for a second, or from one look to the next
(:mod:`gpuscan.engine.rate_limit`). A folio may go where any allowance is left, and what it takes beyond is
owed: a huge page passes under a small rate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES
from gpuscan.engine.rate_limit import RateLimit

_ALL = 0
_BACKLOG_NS = 2_000_000_000
_LEAST_BACKLOG_PAGES = 1024
"""Candidates that a policy may have at any rate: two batches."""
_NS_PER_S = 1_000_000_000


def fair_shares(total: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return whole parts of a total by max-min fairness.

    Nobody gets more than wanted, and who gets less than that gets as much as anybody, but for one.

    Args:
        total: to be shared; below 0 as 0.
        wanted: by name.
    """
    left, shares = max(0, total), {}
    names = sorted(wanted, key=lambda name: (wanted[name], name))
    for place, name in enumerate(names):
        shares[name] = min(wanted[name], left // (len(names) - place))
        left -= shares[name]
    return shares


class Budgets:
    """Allowances of all policies, and one that they share.

    Args:
        rate_bytes_per_s: of all together; None without limit.
        rates: of each policy in bytes per second, None without limit, by name.
        before: those that were in force: where a rate stays, what is left or owed does, too.
    """

    def __init__(
        self,
        rate_bytes_per_s: int | None,
        rates: Mapping[str, int | None],
        before: Budgets | None = None,
    ) -> None:
        self._rate = rate_bytes_per_s
        self._rates = dict(rates)
        self._shared = None if rate_bytes_per_s is None else RateLimit(rate_bytes_per_s, [_ALL], 0)
        self._own = {
            name: RateLimit(rate, [_ALL], 0) for name, rate in self._rates.items() if rate is not None
        }
        if before is not None:
            if before._rate == rate_bytes_per_s:
                self._shared = before._shared
            kept = {name for name in self._own if before._rates.get(name) == self._rates[name]}
            self._own |= {name: before._own[name] for name in kept}
        self._asked: dict[str, int] = {}
        self._parts: dict[str, int] = {}
        self._asking: dict[str, int] = dict.fromkeys(self._rates, 0)

    def begin(self, elapsed_ns: int) -> None:
        """Let time pass; what was asked for since the last call tells who is to be thought of in this one."""
        for each in self._own.values():
            each.pass_time(elapsed_ns)
        self._asked, self._asking = self._asking, dict.fromkeys(self._rates, 0)
        if self._shared is not None:
            self._shared.pass_time(elapsed_ns)
            capped = {name: min(n, self._left_of(name, n)) for name, n in self._asked.items()}
            self._parts = fair_shares(self._shared.pages()[_ALL], capped)

    def _left_of(self, name: str, otherwise: int) -> int:
        return max(0, self._own[name].pages()[_ALL]) if name in self._own else otherwise

    def grant(self, name: str, n_pages: NDArray[np.int64]) -> int:
        """Return how many folios of a policy may move now, from the front, and take them off.

        Args:
            name: of the policy.
            n_pages: int64[n], base pages of each.
        """
        total = int(n_pages.sum())
        self._asking[name] += total
        left = self._left_of(name, total)
        if self._shared is not None:
            kept_for_others = sum(part for other, part in self._parts.items() if other != name)
            left = min(left, self._shared.pages()[_ALL] - kept_for_others)
        before = np.cumsum(n_pages) - n_pages
        n = int(np.searchsorted(before, max(0, left), side="left"))
        self._spend(name, int(n_pages[:n].sum()))
        return n

    def give_back(self, name: str, n_pages: int) -> None:
        """Give back base pages that were granted and did not move."""
        self._spend(name, -n_pages)

    def _spend(self, name: str, n_pages: int) -> None:
        if name in self._own:
            self._own[name].spend(_ALL, n_pages)
        if self._shared is not None:
            self._shared.spend(_ALL, n_pages)
            self._parts[name] = max(0, self._parts.get(name, 0) - max(0, n_pages))

    def backlog_pages(self, name: str, pause_ns: int) -> int | None:
        """Return how many candidates a policy may have: what it can move in two seconds, or in two pauses.

        More would be claimed and put back at each look. None without limit.
        """
        rates = [rate for rate in (self._rate, self._rates[name]) if rate is not None]
        if not rates:
            return None
        within_ns = max(_BACKLOG_NS, 2 * pause_ns)
        return max(_LEAST_BACKLOG_PAGES, min(rates) * within_ns // (PAGE_BYTES * _NS_PER_S))

    def left_pages(self, name: str) -> int | None:
        """Return what a policy may move now, others left aside; None without limit."""
        lefts = [self._own[name].pages()[_ALL]] if name in self._own else []
        lefts += [] if self._shared is None else [self._shared.pages()[_ALL]]
        return max(0, min(lefts)) if lefts else None
