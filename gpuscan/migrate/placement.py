"""Which folios belong on which of two tiers: by how hot they are, or so that both tiers take equally long.

Two policies, after what tiering systems do. *Promote hot* fills the fast tier with the hottest folios, as
HeMem (SOSP'21) and TPP (ASPLOS'23) do, whatever the fast tier's latency is by then. *Balance* moves the share
of accesses that the fast tier serves until both latencies are equal, or nothing is left to move: the
principle of Colloid (Vuppalapati and Agarwal, "Tiered Memory Management: Access Latency is the Key!",
SOSP'24), with its search: the share for which the tiers are equal lies between two bounds, and the middle
is tried next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Tiers:
    """What a policy knows.

    Attributes:
        heat: float64[n], accesses of each folio of late.
        fast: bool[n], whether it is on the fast tier.
        fast_free: folios that still fit there.
        n_move_max: folios that may move now, up and down together.
        fast_ns, slow_ns: loaded latencies, as measured.
    """

    heat: NDArray[np.float64]
    fast: NDArray[np.bool_]
    fast_free: int
    n_move_max: int
    fast_ns: float
    slow_ns: float

    @property
    def fast_share(self) -> float:
        """Share of the accesses that the fast tier serves."""
        total = float(self.heat.sum())
        return float(self.heat[self.fast].sum()) / total if total else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """int64[k] each, folios to move down, and after that up."""

    down: NDArray[np.int64]
    up: NDArray[np.int64]


class PlacementPolicy(Protocol):
    """Decides, step by step."""

    def decide(self, tiers: Tiers) -> Moves:
        """Return what to move now."""
        ...


class PromoteHot:
    """Moves the hottest folios up, and for each that does not fit a colder one down."""

    def decide(self, tiers: Tiers) -> Moves:
        """See :class:`PlacementPolicy`."""
        return _up(tiers, np.inf)


class BalanceLatency:
    """Moves folios up while the fast tier is the faster one, and down while it is not.

    Args:
        equal: relative difference of the latencies at which nothing moves.
        narrow: distance of the bounds at which they open again, since loads change.
    """

    def __init__(self, equal: float = 0.02, narrow: float = 0.01) -> None:
        self._equal, self._narrow = equal, narrow
        self._low, self._high = 0.0, 1.0

    def decide(self, tiers: Tiers) -> Moves:
        """See :class:`PlacementPolicy`."""
        share = tiers.fast_share
        if abs(tiers.fast_ns - tiers.slow_ns) <= self._equal * tiers.slow_ns:
            return Moves(_NONE, _NONE)
        if tiers.fast_ns < tiers.slow_ns:
            self._low = share
            if self._high - self._low < self._narrow:
                self._high = 1.0
            return _up(tiers, (self._low + self._high) / 2 - share, int(self._high == 1.0))
        self._high = share
        if self._high - self._low < self._narrow:
            self._low = 0.0
        return _down(tiers, share - (self._low + self._high) / 2, int(self._low == 0.0))


_NONE = np.empty(0, dtype=np.int64)


def _up(tiers: Tiers, share: float, at_least: int = 0) -> Moves:
    """Move folios of up to ``share`` of the accesses up, hottest first, and colder ones down for them.

    ``at_least`` so many where there are: while no bound is known, a folio may be larger than the step.

    One that rises is hotter than half the mean, and one that it takes the place of not half as hot: what
    differs by the chance of a sample stays where it is.
    """
    heat, margin = tiers.heat, float(tiers.heat.mean()) / 2
    rising = _first(np.flatnonzero(~tiers.fast & (heat > margin)), -heat, tiers.n_move_max)
    n_free = min(tiers.fast_free, len(rising))
    # Beyond what is free, each takes the place of one that is colder; both moves count.
    n_swapped = min(len(rising) - n_free, (tiers.n_move_max - n_free) // 2)
    falling = _first(np.flatnonzero(tiers.fast), heat, n_swapped)
    swapped = rising[n_free : n_free + len(falling)]
    colder = 2 * heat[falling] + margin < heat[swapped]
    n_swapped = len(colder) if colder.all() else int(np.argmin(colder))
    up, down = rising[: n_free + n_swapped], falling[:n_swapped]
    gained = heat[up].copy()
    gained[n_free:] -= heat[down]
    n_wanted = int(np.searchsorted(np.cumsum(gained), share * heat.sum(), side="right"))
    n_wanted = max(n_wanted, min(at_least, len(up)))
    return Moves(down[: max(0, n_wanted - n_free)], up[:n_wanted])


def _down(tiers: Tiers, share: float, at_least: int) -> Moves:
    """Move folios of up to ``share`` of the accesses down, hottest first."""
    heat = tiers.heat
    falling = _first(np.flatnonzero(tiers.fast & (heat > 0)), -heat, tiers.n_move_max)
    n_wanted = int(np.searchsorted(np.cumsum(heat[falling]), share * heat.sum(), side="right"))
    return Moves(falling[: max(at_least, n_wanted)], _NONE)


def _first(which: NDArray[np.int64], keys: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Return the ``n`` of ``which`` with the least keys, ascending by key, then by number."""
    if 0 < n < len(which):
        edge = np.partition(keys[which], n - 1)[n - 1]
        which = which[keys[which] <= edge]
    order: NDArray[np.int64] = which[np.argsort(keys[which], kind="stable")][:n]
    return order
