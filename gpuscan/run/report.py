"""What a run comes to, for a reader: texts, and one JSON document.

Everything here is a pure function of a :class:`gpuscan.engine.tick.RunReport` and its
:mod:`gpuscan.run.summary`. Nothing here draws; ``gpuscan.cli`` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number, format_time
from gpuscan.engine.ledger import Ledger
from gpuscan.engine.tick import RunReport, TickReport, Walks
from gpuscan.producers.contract import Told
from gpuscan.run.summary import FastShare, RunSummary

_BACK_SHARE = 0.95
"""Part of "after" at which a dip counts as over."""
_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 60, axis: tuple[float, float] = (0.0, 1.0)) -> str:
    """Return a one-line plot in at most ``width`` bars; NaN is blank.

    Args:
        values: to plot.
        width: bars.
        axis: values of the lowest and the highest bar.
    """
    if not values:
        return ""
    lo, hi = axis
    bars = []
    for part in np.array_split(np.asarray(values, dtype=np.float64), min(width, len(values))):
        known = part[~np.isnan(part)]
        level = (float(known.mean()) - lo) / (hi - lo) * len(_BARS) if len(known) else float("nan")
        bars.append(" " if np.isnan(level) else _BARS[min(max(int(level), 0), len(_BARS) - 1)])
    return "".join(bars)


def share_axis(shares: Sequence[float]) -> tuple[float, float]:
    """Return the tens of percent below and above all shares that are no NaN, at least ten apart."""
    known = np.asarray(shares)[~np.isnan(shares)] if len(shares) else np.zeros(1)
    # Rounded first: 0.3 * 10 is a little less, or more, than 3.
    lo = int(np.floor(round(float(known.min()) * 10, 6)))
    hi = int(np.ceil(round(float(known.max()) * 10, 6)))
    if hi == lo:
        lo, hi = (lo - 1, hi) if lo else (lo, hi + 1)
    return lo / 10, hi / 10


def summary_rows(
    report: RunReport,
    summary: RunSummary,
    fast_means: str,
    *,
    device: str = "",
    producer: str = "",
    told: Sequence[Told] = (),
    plot_width: int = 60,
) -> list[tuple[str, str]]:
    """Return what a reader wants first, as (what, value) texts.

    Args:
        report: the run.
        summary: of the same run.
        fast_means: what counts as fast.
        device: what to call the device; the report's name for it by default.
        producer: what to call the producer.
        told: which of its metrics to tell.
        plot_width: bars of the plot over time.
    """
    rows = [("device", device or report.device)]
    if summary.fast is not None:
        axis = share_axis(summary.fast.series)
        served = f"{summary.fast.before:.1%} -> {summary.fast.after:.1%}"
        if _dips(summary.fast):
            served += f", {_dip(report.ticks, summary.fast)}"
        rows += [
            (f"accesses served by fast memory ({fast_means})", served),
            (
                f"over time, from {axis[0]:.0%} ({_BARS[0]}) to {axis[1]:.0%} ({_BARS[-1]})",
                sparkline(summary.fast.series, plot_width, axis),
            ),
        ]
    if "demoted_pages" in summary.metrics:
        who = "by the same thread" if report.policy.one_thread else "by kswapd"
        demoted = [(f"demoted {who}", format_bytes(summary.metrics["demoted_pages"] * PAGE_BYTES))]
    else:
        demoted = []
    if said := producer_said(told, summary.metrics):
        rows.append(("producer", f"{producer}: {said}" if producer else said))
    network = []
    if summary.network_calls:
        per_tick = f"p50 {format_bytes(summary.network_bytes_p50)} a tick"
        total = f"{format_bytes(summary.network_bytes)} in {summary.network_calls:,} calls"
        network.append(("network traffic of the shards", f"{per_tick}, {total}"))
    if report.recovery_s:
        took = ", ".join(f"{seconds:.2g} s" for seconds in report.recovery_s)
        network.append(("workers lost", f"{len(report.recovery_s)}; shards made anew in {took}"))
    return [
        *rows,
        ("ticks", f"{summary.n_ticks:,}, {format_time(summary.simulated_ns)} of the machine's time"),
        ("scan", _scan(report.walks, summary)),
        ("batches", _batches(report.walks, summary)),
        ("moved", _moved(report.walks, summary)),
        *demoted,
        *network,
    ]


def _scan(walks: Walks | None, summary: RunSummary) -> str:
    """Say how long a scan (or walk, or turn) took, how many there were, and what they read."""
    if not summary.n_scans:
        return "nothing was ready" if walks is None else f"no {walks.kind}"
    times = f"p50 {format_time(summary.scan_ns_p50)}, p99 {format_time(summary.scan_ns_p99)}"
    read = f"{format_bytes(summary.examined_bytes)} read"
    if walks is None:
        return f"{times}, {_counted(summary.paths)}, {read}"
    n_walks = format_number(summary.n_scans, walks.kind)
    if walks.unit == "page":
        return f"{times}, {n_walks}, {read} (modelled)"
    entries = "1 entry" if walks.n_examined == 1 else f"{walks.n_examined:,} entries"
    return f"no walk; {times}, {n_walks}, {entries}, {read} (modelled)"


def _batches(walks: Walks | None, summary: RunSummary) -> str:
    """Say how many batches there were and how full they were."""
    if not summary.n_batches:
        return "none"
    found_in = format_number(summary.n_plans, "plan" if walks is None else walks.kind)
    full = f"{summary.batch_fill:.0%} of {summary.batch_limit} {summary.batch_unit}"
    return f"{summary.n_batches:,} in {found_in}, filled to {full}"


def _moved(walks: Walks | None, summary: RunSummary) -> str:
    """Say what moved and how long it took whoever moved most."""
    at_fault_bytes = 0 if walks is None else walks.moved_at_fault_pages * PAGE_BYTES
    parts = []
    if summary.migrated_bytes > at_fault_bytes:
        who, busy = "migrator" if walks is None else "thread", format_time(summary.migrate_busy_ns)
        parts.append(
            f"{format_bytes(summary.migrated_bytes - at_fault_bytes)} in {busy} (busiest {who}, modelled)"
        )
    if walks is not None and at_fault_bytes:
        parts.append(
            f"{format_bytes(at_fault_bytes)} at the fault in {format_time(walks.at_fault_ns)} (modelled)"
        )
    return ", ".join(parts) or "nothing"


def producer_said(told: Sequence[Told], metrics: Mapping[str, float]) -> str:
    """Say what a producer saw, what became of it, and what it cost; empty where it counted none of it."""
    said = []
    for one in told:
        whole = sum(metrics.get(name, 0.0) for name in one.share_of)
        value = metrics.get(one.metric)
        if value is None or (one.share_of and not whole) or (one.if_any and not value):
            continue
        said.append(f"{value / whole:.1%} {one.noun}" if one.share_of else f"{value:,.0f} {one.noun}")
    if "producer_cost_ns" in metrics:
        said.append(f"{format_time(metrics['producer_cost_ns'])} of CPU time (modelled)")
    return ", ".join(said)


def _dips(fast: FastShare) -> bool:
    """Whether the lowest share says something that before and after do not."""
    return fast.lowest < min(fast.before, fast.after) - 0.02


def _dip(ticks: Sequence[TickReport], fast: FastShare) -> str:
    """Say when the share was lowest and when it was back where it ended, or nearly."""
    shares = np.asarray(fast.series)
    lowest = int(np.nanargmin(shares))
    dip = f"lowest {fast.lowest:.1%} at {_end(ticks[lowest])}"
    back = np.flatnonzero(shares[lowest:] >= _BACK_SHARE * fast.after)
    if not len(back):
        return dip
    return f"{dip}, back at {shares[lowest + back[0]]:.1%} by {_end(ticks[lowest + back[0]])}"


def _end(tick: TickReport) -> str:
    """Return when a tick was over, where pages have it, too."""
    return f"{(tick.now_ns + tick.duration_ns) / 1e9:.1f} s"


def ledger_rows(ledger: Ledger) -> list[tuple[str, int]]:
    """Return the ledger as (what, folios): requested first, then its parts, which add up to it."""
    return [
        ("requested", ledger.requested),
        ("= migrated", ledger.migrated),
        *((f"+ dropped, {reason}", count) for reason, count in ledger.dropped.most_common()),
        ("+ superseded", ledger.superseded),
        ("+ in flight", ledger.in_flight),
        ("+ pending", ledger.pending),
    ]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def run_document(report: RunReport, summary: RunSummary, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a run.

    Args:
        report: the run.
        summary: of the same run.
        facts: what the run was asked to be (the workload, the machine), put in as it is.
    """
    return {
        "kind": "run",
        **facts,
        "design": report.design,
        "device": {"name": report.device, "reason": report.device_reason},
        "recovery_s": report.recovery_s,
        "topology": report.topology,
        "store_pages": report.n_pages,
        "policy": asdict(report.policy),
        "summary": {**asdict(summary), "migrated_bytes": summary.migrated_bytes},
        "ledger": ledger_document(report),
        "counters": dict(sorted(report.counters.items())),
    }


def ledger_document(report: RunReport) -> dict[str, Any]:
    """Return the ledger and the refusals of a run for JSON."""
    return {**report.ledger.as_dict(), "refusals": dict(report.refusals.most_common())}
