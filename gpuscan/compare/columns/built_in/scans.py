"""What the open loop's walks, turns and scans look at, and how long that takes."""

from __future__ import annotations

from gpuscan.base.units import format_count
from gpuscan.compare.columns.contract import Column, Columns, Figures, Value


def _examined(figures: Figures) -> Value:
    if figures.opened.unit == "entries":
        return Value(why_not=f"no walk, {format_count(figures.opened.examined)} entries")
    return Value(float(figures.opened.examined))


def _examined_bytes(figures: Figures) -> Value:
    return Value(float(figures.opened.examined_bytes))


def _busy(figures: Figures) -> Value:
    # Wall time of a scan on several threads: none of them can have used more of its core.
    n_threads = figures.n_threads
    remark = f"(at most, {n_threads} threads)" if n_threads > 1 else ""
    return Value(n_threads * figures.opened.scan_ns / figures.list_end_ns, remark=remark)


COLUMNS = Columns(
    10,
    (
        Column(
            key="pages_examined",
            title="pages examined",
            explain="How many pages the design looked at, time and again, to find those that were asked for.",
            loop="open",
            how="modelled",
            unit="count",
            better="smaller",
            value=_examined,
            how_on_a_store="counted",
        ),
        Column(
            key="bytes_examined",
            title="bytes examined",
            explain="How much memory it read for that: for each page 64 bytes of struct page and the "
            "design's own record, or what gpuscan's scan counted.",
            loop="open",
            how="modelled",
            unit="bytes",
            better="smaller",
            value=_examined_bytes,
            how_on_a_store="counted",
        ),
        Column(
            key="scan_time",
            title="scan time",
            explain="How long all its walks, turns or scans took together, looking only, without moving "
            "anything.",
            loop="open",
            how="modelled",
            unit="ns",
            better="smaller",
            value=lambda f: Value(f.opened.scan_ns),
            how_on_a_store="measured",
        ),
        Column(
            key="busy",
            title="of one core's time",
            explain="Scan time as a share of the time that passed: at 100% a core does nothing else.",
            loop="open",
            how="modelled",
            unit="share",
            better="smaller",
            value=_busy,
            how_on_a_store="measured",
        ),
    ),
)
