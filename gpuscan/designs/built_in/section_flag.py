"""``section-flag``: pghot as posted in its seventh version: :mod:`gpuscan.designs.pghot`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from gpuscan.designs.contract import Charge, Design, Modelled, PlotStyle
from gpuscan.designs.machine import Machine
from gpuscan.designs.pghot import SectionFlag
from gpuscan.designs.pghot_marks import PghotTunables
from gpuscan.designs.tunables import MIB, NS_PER_MS, Bound, Divisor, Tuning, rate_limit_bounds, whole_ms
from gpuscan.records.formats import record_format
from gpuscan.records.page_map import SECTION_PAGES

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine

_HOT_MAP_BYTES = 8
"""A pointer in each ``struct mem_section``."""


def _format_of(policy: Policy) -> Literal["pghot", "pghot-compact"]:
    """Return the record format: precise for ``pghot``, compact for anything else."""
    return "pghot" if policy.record_format == "pghot" else "pghot-compact"


def _made(machine: Machine, policy: Policy) -> SectionFlag:
    defaults = PghotTunables()
    tunables = PghotTunables(
        _format_of(policy),
        target_nid=min(nid for nid in machine.nids if machine.is_top_tier(nid)),
        freq_threshold=policy.freq_threshold,
        freq_window_ms=policy.window_ns // NS_PER_MS or None,
        rate_limit_mbps=policy.rate_limit_bytes_per_s // MIB or defaults.rate_limit_mbps,
        hz=policy.hz,
    )
    return SectionFlag(machine, tunables)


def _bounds(tuning: Tuning) -> Iterator[Bound | Divisor]:
    policy = tuning.policy
    yield whole_ms(policy)
    yield from rate_limit_bounds(policy)
    fmt = record_format(_format_of(policy))
    mode = "precise mode" if fmt.has_nid else "compact mode"
    most = f"PGHOT_FREQ_MAX, {mode}"
    yield Bound("policy.freq_threshold", policy.freq_threshold, 1, fmt.freq.max, "", most)
    window_ms = policy.window_ns / NS_PER_MS
    if window_ms:
        most_ms = fmt.time.max << fmt.jiffies_shift
        yield Bound("policy.window", window_ms, 1000, most_ms, " ms", f"PGHOT_FREQ_WINDOW_MAX, {mode}")
    if tuning.sleep_ns is not None:
        sleep_ms = tuning.sleep_ns / NS_PER_MS
        yield Bound("interval", sleep_ms, 50, 1000, " ms", "KMIGRATED_SLEEP_MS_MIN and _MAX")
    if tuning.batch_folios is not None:
        yield Bound("batch", tuning.batch_folios, 64, 1024, " folios", "KMIGRATED_BATCH_NR_MIN and _MAX")


def _metadata_bytes(machine: SimulatedMachine, policy: Policy, _: int) -> int:
    nodes = machine.topology.nodes
    tracked = sum(node.present_pages for node in nodes if not machine.top_tier[node.nid])
    n_sections = machine.page_map.n_present_pages // SECTION_PAGES
    return tracked * record_format(_format_of(policy)).n_bytes + n_sections * _HOT_MAP_BYTES


DESIGN = Design(
    name="section-flag",
    line='pghot, "[PATCH v7 0/7] mm: Hot page tracking and promotion infrastructure", B. Rao, linux-mm, '
    "2026-05-04; `policy.record_format` `pghot` is the precise mode, anything else the compact one",
    kind="as posted",
    order=30,
    looks_at="pages",
    counts_accesses="always",
    asks_time=True,
    threshold=True,
    bounds=_bounds,
    metadata_bytes=_metadata_bytes,
    record_bytes=lambda policy: record_format(_format_of(policy)).n_bytes,
    look="section walk",
    scan=(
        Charge("section check"),
        Charge("section walk", lambda size: size.marked_sections),
    ),
    mark="record",
    beside="section walk",
    plot=PlotStyle(order=50, line={"color": "#CC79A7", "linewidth": 2.0}),
    model=Modelled(
        make=_made,
        needs_flag=True,
        bypasses_thp=False,
        locks_records=False,
        two_atomics=False,
    ),
)
