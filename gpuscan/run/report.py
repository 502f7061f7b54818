"""What a run comes to: a summary, a series, one JSON document, and a directory that keeps it all.

Everything here is a pure function of a :class:`gpuscan.engine.tick.RunReport`, except
:func:`open_out`, which writes. Nothing here draws; ``gpuscan.cli`` does.

A ``--out`` directory holds::

    plan.parquet    every claimed folio with its batch, see gpuscan.store.plan_file
    series.parquet  one row per tick: the fields of gpuscan.engine.tick.TickReport, then the
                    source's metrics as ``metric.<name>`` (null where a tick has none)
    ledger.json     where every request went, and refusals by reason
    report.json     the document that ``gpuscan run --json`` prints
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number, format_time
from gpuscan.engine.ledger import Ledger
from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import PlanSink, RunReport, TickReport, Walks
from gpuscan.files.writing import Contents, create_json, new_directory
from gpuscan.producers.contract import Told

if TYPE_CHECKING:
    import pyarrow as pa

    from gpuscan.store.plan_file import PatientPlanWriter

OUT_FILES = ("plan.parquet", "series.parquet", "ledger.json", "report.json")
_CONTENTS = Contents(OUT_FILES[-1], OUT_FILES[:-1])
"""Files of a ``--out`` directory."""

_AFTER_SHARE = 1 / 10
"""Part of the ticks that "after" is averaged over, at least one tick. "Before" is the first tick
alone: nothing has moved yet while it is sampled."""
_BACK_SHARE = 0.95
"""Part of "after" at which a dip counts as over."""
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class FastShare:
    """Share of accesses served by fast memory, 0 to 1.

    Attributes:
        before, after: in the first tick that had accesses, before anything moved, and over the last tenth of
            the ticks, or where that had none in the last tick that had some.
        lowest: of any tick.
        series: per tick; NaN where nothing was accessed.
    """

    before: float
    after: float
    lowest: float
    series: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in numbers.

    Attributes:
        fast: None where the source counts no accesses.
        n_ticks, simulated_ns: rounds, and the time that passed in them.
        n_scans: ticks in which something was scanned; of another design, walks (or turns).
        scan_ns_p50, scan_ns_p99, scan_ns_total: wall time of those scans; of walks, modelled.
        paths: scans by path, ``{"dense": 3, "indexed": 97}``; of another design ``{"walk": 8107}``.
        examined_bytes: what the scans read.
        n_plans, n_batches: plans (of another design: walks) and batches.
        batch_fill: what the batches held over what they could hold; NaN without batches.
        batch_limit, batch_unit: what one could hold: base pages; of another design, folios.
        migrated_pages: base pages moved.
        migrate_busy_ns: time of the busiest migrator of each tick, summed.
        network_calls, network_bytes: what went to shards elsewhere and back, summed.
        network_bytes_p50: of a tick.
        metrics: what the source counted, summed over the ticks.
    """

    fast: FastShare | None
    n_ticks: int
    simulated_ns: int
    n_scans: int
    scan_ns_p50: float
    scan_ns_p99: float
    scan_ns_total: int
    paths: dict[str, int]
    examined_bytes: int
    n_plans: int
    n_batches: int
    batch_fill: float
    batch_limit: int
    batch_unit: str
    migrated_pages: int
    migrate_busy_ns: float
    network_calls: int
    network_bytes: int
    network_bytes_p50: float
    metrics: dict[str, float]

    @property
    def migrated_bytes(self) -> int:
        """Bytes moved."""
        return self.migrated_pages * PAGE_BYTES


def summarize(report: RunReport) -> RunSummary:
    """Return the summary of a run (one without a tick has zeros and NaN)."""
    ticks = report.ticks
    n_batches, walks = sum(tick.n_batches for tick in ticks), report.walks
    if walks is None:
        scans = [tick for tick in ticks if tick.n_plans]
        scan_ns = np.array([tick.scan_ns for tick in scans], dtype=np.float64)
        paths = dict(Counter(tick.path for tick in scans))
        in_batches, limit, unit = sum(tick.batch_pages for tick in ticks), report.policy.batch_pages, "pages"
    else:
        scan_ns = walks.times_ns
        paths = {walks.kind: len(scan_ns)} if len(scan_ns) else {}
        in_batches, limit, unit = walks.n_batch_folios, walks.batch_limit, "folios"
    return RunSummary(
        fast=_fast_share(ticks),
        n_ticks=len(ticks),
        simulated_ns=sum(tick.duration_ns for tick in ticks),
        n_scans=len(scan_ns),
        scan_ns_p50=float(np.percentile(scan_ns, 50)) if len(scan_ns) else float("nan"),
        scan_ns_p99=float(np.percentile(scan_ns, 99)) if len(scan_ns) else float("nan"),
        scan_ns_total=int(scan_ns.sum()),
        paths=paths,
        examined_bytes=sum(tick.examined_bytes for tick in ticks),
        n_plans=sum(tick.n_plans for tick in ticks),
        n_batches=n_batches,
        batch_fill=in_batches / (n_batches * limit) if n_batches else float("nan"),
        batch_limit=limit,
        batch_unit=unit,
        migrated_pages=sum(tick.migrated_pages for tick in ticks),
        migrate_busy_ns=sum(tick.migrate_busy_ns for tick in ticks),
        network_calls=sum(tick.network_calls for tick in ticks),
        network_bytes=sum(tick.network_bytes for tick in ticks),
        network_bytes_p50=float(np.median([tick.network_bytes for tick in ticks])) if ticks else 0.0,
        metrics=_summed_metrics(ticks),
    )


def fast_share(tick: TickReport) -> float | None:
    """Return the share of a tick's accesses that fast memory served; None where the source tells of none."""
    accesses = tick.metrics.get("accesses", 0.0)
    return tick.metrics["accesses_fast"] / accesses if accesses and "accesses_fast" in tick.metrics else None


def _fast_share(ticks: Sequence[TickReport]) -> FastShare | None:
    told = [tick.metrics if fast_share(tick) is not None else {} for tick in ticks]
    accesses = np.array([metrics.get("accesses", 0.0) for metrics in told])
    fast = np.array([metrics.get("accesses_fast", 0.0) for metrics in told])
    if not accesses.sum():
        return None
    series = np.divide(fast, accesses, out=np.full(len(ticks), np.nan), where=accesses > 0)

    known = series[accesses > 0]
    n_after = max(1, round(len(ticks) * _AFTER_SHARE))
    n_at_end = accesses[-n_after:].sum()
    return FastShare(
        before=float(known[0]),
        after=float(fast[-n_after:].sum() / n_at_end if n_at_end else known[-1]),
        lowest=float(np.nanmin(series)),
        series=tuple(series.tolist()),
    )


def _summed_metrics(ticks: Sequence[TickReport]) -> dict[str, float]:
    """Sum counts over the ticks; a mean (``mean_...``) is averaged over the ticks that have it."""
    values: dict[str, list[float]] = {}
    for tick in ticks:
        for name, value in tick.metrics.items():
            values.setdefault(name, []).append(value)
    return {
        name: sum(of_name) / len(of_name) if name.startswith("mean_") else sum(of_name)
        for name, of_name in values.items()
    }


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
    if said := _producer(told, summary.metrics):
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


def _producer(told: Sequence[Told], metrics: Mapping[str, float]) -> str:
    """Say what a producer saw, what became of it, and what it cost; empty where it counted none of it."""
    said = []
    for one in told:
        whole = sum(metrics.get(name, 0.0) for name in one.share_of)
        if one.metric not in metrics or (one.share_of and not whole):
            continue
        value = metrics[one.metric]
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
    dip = f"lowest {fast.lowest:.1%} at {_clock(ticks[lowest].now_ns)}"
    back = np.flatnonzero(shares[lowest:] >= _BACK_SHARE * fast.after)
    if not len(back):
        return dip
    return f"{dip}, back at {shares[lowest + back[0]]:.1%} by {_clock(ticks[lowest + back[0]].now_ns)}"


def _clock(now_ns: int) -> str:
    return f"{now_ns / 1e9:.1f} s"


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


def series_columns(ticks: Sequence[TickReport]) -> dict[str, list[Any]]:
    """Return one column per number of a tick, then one per metric of the source, in order of appearance."""
    columns = {
        column.name: [getattr(tick, column.name) for tick in ticks]
        for column in fields(TickReport)
        if column.name != "metrics"
    }
    names = dict.fromkeys(name for tick in ticks for name in tick.metrics)
    return columns | {f"metric.{name}": [tick.metrics.get(name) for tick in ticks] for name in names}


class OutDirectory:
    """A ``--out`` directory under way, see :func:`open_out`."""

    def __init__(self, directory: Path, plans: PatientPlanWriter) -> None:
        self._directory = directory
        self._plans = plans
        self.plan_sink: PlanSink = plans.append

    def finish(
        self, report: RunReport, document: Mapping[str, Any], plans: Iterable[pa.RecordBatch] = ()
    ) -> None:
        """Write what is known only after the run.

        Args:
            report, document: of it.
            plans: rows of plans that did not go through :attr:`plan_sink` but were kept elsewhere.

        Raises:
            RunFailedError, OSError: it cannot be written, or a plan could not be.
        """
        import pyarrow as pa

        from gpuscan.files.parquet import create_table

        for rows in plans:
            self._plans.write(rows)
        self._plans.check()
        series = pa.table(series_columns(report.ticks))
        create_table(self._directory / "series.parquet", series)
        create_json(self._directory / "ledger.json", ledger_document(report))
        create_json(self._directory / "report.json", document)


@contextmanager
def open_out(path: Path, policy: Policy, *, force: bool = False) -> Iterator[OutDirectory]:
    """Yield a directory to be filled during a run; it appears as ``path`` when the block ends well.

    Args:
        path: where; its parent must be there.
        policy: of the run; its record format and batch size go into the plan file.
        force: replace an earlier run's directory.

    Raises:
        InputError: ``path`` holds an earlier run and ``force`` is not set, or something that
            gpuscan did not write; nothing was touched.
        RunFailedError: a disk filled, for example; nothing was left there.
    """
    from gpuscan.store.plan_file import PatientPlanWriter, PlanWriter

    with (
        new_directory(path, _CONTENTS, force=force) as directory,
        PlanWriter(directory / OUT_FILES[0], policy.record_format, policy.batch_pages) as plans,
    ):
        yield OutDirectory(directory, PatientPlanWriter(plans))
