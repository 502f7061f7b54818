"""Traces of any format, written as a table: Parquet or CSV, as :mod:`gpuscan.traces.columns` reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.files.writing import new_file
from gpuscan.traces.columns import FACTS, facts_text
from gpuscan.traces.files import Trace
from gpuscan.traces.samples import LEFT_OUT, Samples
from gpuscan.traces.table_file import check_suffix, table_writer


def convert(trace: Trace, out: Path, on_read: Callable[[int], None] | None = None) -> Counter[str]:
    """Write a trace as a table, and return how many samples that are and what was left out before.

    Args:
        trace: the file.
        out: where to; its suffix says what: ``.parquet`` or ``.csv``. A file that is there is replaced.
        on_read: see :meth:`gpuscan.traces.Trace.blocks`.

    Raises:
        InputError: the trace is broken, or ``out`` has another suffix.
        RunFailedError: it cannot be written; nothing is left there.
    """
    check_suffix(out)
    counts: Counter[str] = Counter(dict.fromkeys(("samples", *LEFT_OUT), 0))
    highest = -1
    with new_file(out) as file, closing(table_writer(out, file)) as writer:
        n_blocks = 0
        for samples in trace.blocks(on_read):
            writer.rows(_table(trace, samples))
            n_blocks += 1
            counts["samples"] += len(samples)
            counts.update(samples.left_out())
            highest = max(highest, samples.highest_pfn)
        if not n_blocks:
            raise InputError(f"{trace.path} has no samples; record it again")
        left_out = {name: n for name, n in counts.items() if name != "samples"}
        writer.end(FACTS.decode(), facts_text({**left_out, "highest_pfn": highest}))
    return counts


def _table(trace: Trace, samples: Samples) -> dict[str, Any]:
    place = "virtual_page" if trace.format.is_virtual else "pfn"
    table: dict[str, Any] = {"time_ns": samples.time_ns, place: samples.pfn}
    if trace.format.knows_cpus:
        table["cpu"] = samples.cpu
    table |= {"n_pages": samples.n_pages, "weight": samples.weight}
    return table if samples.share is None else table | {"share": samples.share}
