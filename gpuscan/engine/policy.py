"""How the engine decides: intervals, thresholds, budgets, what happens to refused pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpuscan.base.arguments import INT64_MAX, flag, items, one_of, settle, shown, whole
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.api import SCAN_PATHS, ScanPath
from gpuscan.records.formats import N_NODES_MAX, STORE_FORMATS
from gpuscan.records.page_map import BLOCK_PAGES
from gpuscan.store.plan import BATCH_PAGES, BATCH_PAGES_MAX

_LEAST = {
    "hz": 1,
    "interval_ns": 1,
    "freq_threshold": 1,
    "window_ns": 0,
    "capacity_folios": 0,
    "rate_limit_bytes_per_s": 0,
    "budget_pages": 0,
    "backoff_ticks": 0,
    "max_attempts": 1,
}
"""Least values of settings that are whole numbers."""
_MOST = INT64_MAX >> 10
"""Room for sums: 104 days in nanoseconds, 8 PiB."""


_PAIRS = "give (nid, ns) for each node with an interval of its own"


def _interval(pair: tuple[object, ...]) -> tuple[int, int]:
    """Return a nid and its interval."""
    if len(pair) != 2:
        raise ArgumentError(f"policy: node_interval_ns has {shown(pair)} of {len(pair)} values; {_PAIRS}")
    nid, interval_ns = pair
    return (
        whole("policy: a nid of node_interval_ns", nid, 0, N_NODES_MAX - 1),
        whole("policy: an interval of node_interval_ns", interval_ns, 1, _MOST),
    )


_LONG_WINDOW_NS = 5_000_000_000
_WINDOW_NS = {"pghot-compact": 3_000_000_000}


@dataclass(frozen=True, slots=True)
class Policy:
    """The engine's settings.

    Attributes:
        record_format: one of ``gpuscan.records.formats.STORE_FORMATS``.
        hz: jiffies per second (CONFIG_HZ).
        batch_pages: base pages per batch.
        interval_ns: pause between two scans of a node (pghot: 100 ms, RFC v1: 1 s).
        node_interval_ns: other intervals by nid.
        freq_threshold: accesses after which a recorded page is READY (pghot: 2).
        window_ns: how far apart they may be; 0 = as :attr:`window_in_force_ns` says.
        drop_top_tier: recorded accesses to top-tier pages are ignored.
        scan_path: ``auto``, ``dense`` or ``indexed``.
        capacity_folios: folios per plan, at least 512; 0 = the store's choice.
        rate_limit_bytes_per_s: claims per target, as numa_balancing_promote_rate_limit_MBps (which
            counts MiB); 0 = none. See :mod:`gpuscan.engine.rate_limit`.
        budget_pages: base pages per target and tick; 0 = none. The tighter of the two holds. A
            folio that is larger than a budget is not moved.
        on_refused: ``retry`` puts refused folios back, ``drop`` ends their requests.
        one_thread: promotions and demotions by the same thread: kswapd demotes nothing, what it would
            demote is marked and migrated like everything else. The rate limit is one of promotions.
        backoff_ticks: ticks a refused folio waits before it is READY again.
        max_attempts: refusals after which the request ends.
    """

    record_format: str = "rfc"
    hz: int = 1000
    batch_pages: int = BATCH_PAGES
    interval_ns: int = 100_000_000
    node_interval_ns: tuple[tuple[int, int], ...] = ()
    freq_threshold: int = 2
    window_ns: int = 0
    drop_top_tier: bool = True
    scan_path: ScanPath = "auto"
    capacity_folios: int = 0
    rate_limit_bytes_per_s: int = 0
    budget_pages: int = 0
    on_refused: Literal["retry", "drop"] = "retry"
    one_thread: bool = False
    backoff_ticks: int = 4
    max_attempts: int = 4

    def __post_init__(self) -> None:
        one_of("policy: record_format", self.record_format, STORE_FORMATS)
        one_of("policy: scan_path", self.scan_path, SCAN_PATHS)
        one_of("policy: on_refused", self.on_refused, ("retry", "drop"))
        numbers = {
            name: whole(f"policy: {name}", getattr(self, name), least, _MOST)
            for name, least in _LEAST.items()
        }
        settle(
            self,
            **numbers,
            batch_pages=whole("policy: batch_pages", self.batch_pages, 1, BATCH_PAGES_MAX),
            drop_top_tier=flag("policy: drop_top_tier", self.drop_top_tier),
            one_thread=flag("policy: one_thread", self.one_thread),
            node_interval_ns=tuple(
                map(_interval, items("policy: node_interval_ns", self.node_interval_ns, tuple, _PAIRS))
            ),
        )
        if 0 < self.capacity_folios < BLOCK_PAGES:
            raise ArgumentError(
                f"policy: capacity_folios is {self.capacity_folios}, less than one block; "
                f"give {BLOCK_PAGES} or more, or 0 for the store's choice"
            )

    @property
    def window_in_force_ns(self) -> int:
        """The window; where none was set, PGHOT_FREQ_WINDOW_DEFAULT: 3 s compact, 5 s all other formats."""
        return self.window_ns or _WINDOW_NS.get(self.record_format, _LONG_WINDOW_NS)

    def jiffies(self, ns: int) -> int:
        """Return a time in jiffies, rounded down."""
        return whole("a time in ns", ns) * self.hz // 1_000_000_000
