"""Which folios a process touches: :class:`PatternSpec` made into numbers that the loops draw from.

Patterns are over *folios*: with huge pages a hot set is a set of huge pages.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpuscan.sim.address_space import Mapping
from gpuscan.sim.loops import draw_listed, draw_scan, draw_zipf, mix
from gpuscan.sim.spec import PatternSpec

_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0
_PRODUCT_LIMIT = 1 << 62


def stream_key(seed: int, *path: int) -> np.uint64:
    """Return the key of a random stream, distinct for each seed and path of small integers."""
    key = seed & 0xFFFF_FFFF_FFFF_FFFF
    for step in path:
        key = int(mix(np.uint64(key ^ ((step + 1) * 0x9E37_79B9_7F4A_7C15 & 0xFFFF_FFFF_FFFF_FFFF))))
    return np.uint64(mix(np.uint64(key)))


class Pattern(Protocol):
    """Draws the accesses of a process."""

    def draw(self, out: NDArray[np.int64], first_access: int, now_ns: int) -> None:
        """Fill ``out`` with the folios, from 0 in the process, of accesses ``first_access``... made now."""
        ...


class SyntheticPattern:
    """A :class:`PatternSpec` over ``n_folios`` folios."""

    def __init__(self, spec: PatternSpec, n_folios: int, key: np.uint64) -> None:
        self._spec = spec
        self._n_folios = n_folios
        self._key = key
        self._n_hot = hot_count(spec, n_folios)
        self._multiplier = coprime_multiplier(n_folios) if spec.scattered else 1
        self._offset = int(mix(key) % np.uint64(n_folios))

    def draw(self, out: NDArray[np.int64], first_access: int, now_ns: int) -> None:
        """See :class:`Pattern`."""
        spec = self._spec
        if spec.kind == "scan":
            draw_scan(out, first_access, self._n_folios)
            return
        draw_zipf(
            out,
            first_access,
            self._key,
            self._n_folios,
            self._n_hot,
            float(spec.hot_access_share) if spec.kind == "zipf" else 0.0,
            float(spec.skew),
            self._multiplier,
            self._hot_offset(now_ns),
        )

    def hot_folios(self, now_ns: int) -> NDArray[np.int64]:
        """Return int64[n_hot], the hot set at a moment, hottest first."""
        ranks = np.arange(self._n_hot, dtype=np.int64)
        return (ranks * self._multiplier + self._hot_offset(now_ns)) % self._n_folios

    def _hot_offset(self, now_ns: int) -> int:
        # The next hot set starts where this one ends, so the two share no page.
        phase = now_ns // self._spec.shift_every_ns if self._spec.shift_every_ns else 0
        return (phase * self._n_hot * self._multiplier + self._offset) % self._n_folios


class ListedPattern:
    """Accesses to a list of hot folios, the rest uniform over all pages of some mappings.

    Args:
        spec: ``kind`` (``zipf``, else uniform), ``hot_access_share`` and ``skew`` count.
        hot: int64[n], hot folios, ascending, from 0 in the process.
        mappings: of the process, the first one's first folio is its folio 0.
        key: of the random stream.
    """

    def __init__(
        self, spec: PatternSpec, hot: NDArray[np.int64], mappings: tuple[Mapping, ...], key: np.uint64
    ) -> None:
        self._spec = spec
        self._hot = hot
        self._key = key
        self._multiplier = coprime_multiplier(max(1, len(hot)))
        self._page_edges = np.cumsum([0, *(mapping.n_pages for mapping in mappings)], dtype=np.int64)
        self._folio_edges = np.cumsum([0, *(mapping.n_folios for mapping in mappings)], dtype=np.int64)
        self._orders = np.array([mapping.order for mapping in mappings], dtype=np.int64)

    def draw(self, out: NDArray[np.int64], first_access: int, now_ns: int) -> None:
        """See :class:`Pattern`."""
        draw_listed(
            out,
            first_access,
            self._key,
            self._hot,
            float(self._spec.hot_access_share) if self._spec.kind == "zipf" else 0.0,
            float(self._spec.skew),
            self._multiplier,
            self._page_edges,
            self._folio_edges,
            self._orders,
        )


def hot_count(spec: PatternSpec, n_folios: int) -> int:
    """Return how many folios are hot, at least one."""
    return max(1, round(spec.hot_share * n_folios))


def coprime_multiplier(n: int) -> int:
    """Return A with gcd(A, n) = 1, so that ``rank -> (rank * A + B) % n`` is a bijection that scatters ranks.

    Near the golden section of ``n``, where neighbours end up far apart, and small
    enough that ``rank * A`` fits 63 bits.
    """
    multiplier = max(1, min(int(n * _GOLDEN_RATIO), _PRODUCT_LIMIT // n))
    while math.gcd(multiplier, n) != 1:
        multiplier += 1
    return multiplier
