"""Recorded accesses, in any format that is read."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT, format_bytes, format_number, format_time
from gpuscan.inspection.contract import FileKind, Findings
from gpuscan.topology import Topology
from gpuscan.traces import UNKNOWN_CPU, open_trace
from gpuscan.traces.made_up import RULE
from gpuscan.traces.samples import LEFT_OUT
from gpuscan.traces.source import page_chunks
from gpuscan.traces.text import PID_SHIFT

_PIDS_SHOWN = 8


def _look(
    path: Path, machine: Topology | None, on_read: Callable[[int], None], given: Mapping[str, str]
) -> Findings:
    trace = open_trace(path, given)
    fmt = trace.format
    n_samples = n_pages = n_outside = 0
    first_ns = last_ns = low = high = -1
    cpus: set[int] = set()
    pids: set[int] = set()
    left_out: Counter[str] = Counter()
    by_node: Counter[int] = Counter()
    for samples in trace.blocks(on_read):
        left_out.update(samples.left_out())
        if not len(samples):
            continue
        first_ns = int(samples.time_ns[0]) if first_ns < 0 else first_ns
        last_ns = int(samples.time_ns[-1])
        n_samples += len(samples)
        n_pages += int(samples.n_pages.sum())
        page = samples.pfn
        if fmt.is_virtual:
            pids.update(np.unique(page >> PID_SHIFT).tolist())
            page = page & ((1 << PID_SHIFT) - 1)
        start, end = int(page.min()), int((page + samples.n_pages).max())
        low, high = start if low < 0 else min(low, start), max(high, end)
        cpus.update(np.unique(samples.cpu).tolist())
        if machine is not None and not fmt.is_virtual:
            n_inside = 0
            for _, flats in page_chunks(samples, machine.page_map):
                nids, counts = np.unique(machine.page_map.nid_of_flat(flats), return_counts=True)
                by_node.update(dict(zip(nids.tolist(), counts.tolist(), strict=True)))
                n_inside += len(flats)
            n_outside += int(samples.n_pages.sum()) - n_inside
    if not n_samples and not left_out.total():
        raise InputError(f"{path} has no samples; record it again")
    cpus.discard(UNKNOWN_CPU)
    pids.discard(0)
    reasons = ", ".join(f"{left_out[name]:,} {why}" for name, why in LEFT_OUT.items() if left_out[name])
    span_ns = max(0, last_ns - first_ns)
    virtual = "virtual" if fmt.is_virtual else "physical"
    rows = [
        ("format", f"{trace.kind} ({fmt.about})"),
        ("samples", f"{format_number(n_samples, fmt.noun)} of {format_number(n_pages, 'page')}"),
        ("left out", reasons or "none"),
        ("time", f"{format_time(span_ns)}, from {format_time(max(0, first_ns))} on the trace's clock"),
        (
            "addresses",
            f"{virtual}, {low << PAGE_SHIFT:#x} to {high << PAGE_SHIFT:#x}" if n_samples else "none",
        ),
        ("CPUs", f"{len(cpus):,}, {min(cpus)} to {max(cpus)}" if cpus else "not said"),
    ]
    if pids:
        shown_pids = ", ".join(map(str, sorted(pids)[:_PIDS_SHOWN]))
        rows.append(("processes", f"{len(pids):,}: {shown_pids}{', ...' if len(pids) > _PIDS_SHOWN else ''}"))
    n_all = sum(by_node.values()) + n_outside
    for nid, n in sorted(by_node.items()):
        rows.append((f"on node {nid}", f"{n / n_all:.1%} of its pages, {format_bytes(n << PAGE_SHIFT)}"))
    if n_outside:
        rows.append(
            ("outside", f"{n_outside / n_all:.1%}: not in the memory of {machine and machine.name!r}")
        )
    if fmt.assumes:
        rows.append(("assumed", fmt.assumes))
    shown = " ".join(
        (
            shlex.quote(str(path)),
            *(f"--given {shlex.quote(f'{key}={value}')}" for key, value in given.items()),
        )
    )
    place = "--topology cxl-pool" if fmt.is_virtual else "--machine SNAPSHOT"
    return Findings(
        what=f"a trace: {fmt.about.removeprefix('a ')}",
        rows=tuple(rows),
        facts={
            "format": trace.kind,
            "samples": n_samples,
            "pages": n_pages,
            **left_out,
            "first_ns": first_ns,
            "last_ns": last_ns,
            "is_virtual": fmt.is_virtual,
            "lowest_page": low,
            "end_page": high,
            "cpus": sorted(cpus),
            "pids": sorted(pids),
            "pages_on_node": {str(nid): n for nid, n in sorted(by_node.items())},
            "pages_outside": n_outside,
        },
        commands=(
            (f"gpuscan run --trace {shown} {place}", "replays it, and shows what would be promoted"),
            (f"gpuscan compare --trace {shown} {place}", "puts the designs side by side on it"),
            (f"gpuscan convert {shown} {shlex.quote(str(path.with_suffix('.parquet')))}", "makes it smaller"),
        ),
        notes=(f"its {RULE}",) if fmt.is_virtual else (),
    )


FILE_KIND = FileKind(
    about="traces (perf, damo and others: docs/traces.md)",
    order=90,
    is_one=lambda path: path.is_file(),  # what it lacks to be one is said when it is opened
    look=lambda path, machine, on_read: _look(path, machine, on_read, {}),
    look_with=_look,
)
