"""Raw samples of ``perf mem report -D --phys-data``: physical addresses and latencies, without times.

The heading says which columns there are: ``# PID, TID, IP, ADDR, PHYS ADDR, [DATA PAGE SIZE,] LOCAL WEIGHT,
DSRC, SYMBOL``. Between them are blanks, or what ``-x`` said (dump_raw_samples() and report_raw_events() in
tools/perf/builtin-mem.c, v6.12). ``perf script`` has times and CPUs of the same recording.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import Lines, accesses, lines_of, whole_numbers

_HEADING = re.compile(rb"# PID, TID, IP, ADDR, ")
_PHYSICAL = re.compile(rb"# PID, TID, IP, ADDR, PHYS ADDR, ")
_BETWEEN = rb"[ \t,;|]{1,9}"
_HEX = rb"0x[0-9a-f]{1,20}"
_PATTERN = re.compile(
    rb"^(?: *-?[0-9]{1,9}"
    + _BETWEEN
    + rb"-?[0-9]{1,9}"
    + _BETWEEN
    + _HEX
    + _BETWEEN
    + _HEX
    + _BETWEEN
    + rb"0x0{0,6}([0-9a-f]{1,14})"
    + _BETWEEN
    + rb"(?:[0-9A-Z/?]{1,5}[A-Z?]"
    + _BETWEEN
    + rb")?([0-9]{1,18})"
    + _BETWEEN
    + rb"0x[^\n]*|#[^\n]*|[ \t]*)\n",
    re.MULTILINE,
)
_EVERY_NS = 1000


def read_samples(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the samples, some thousand at a time, a microsecond from one to the next.

    Raises:
        InputError: a line is cut short or foreign; names the line.
        OSError: the file cannot be read.
    """
    lines = Lines(path, _PATTERN, "give what perf mem report -D --phys-data prints")
    n_before = 0
    for number, text in lines_of(path, on_read):
        rows = [row for row in lines.rows(number, text) if row[0]]
        address = whole_numbers([row[0] for row in rows], 16)
        weight = whole_numbers([row[1] for row in rows])
        time_ns = (n_before + np.arange(len(rows), dtype=np.int64)) * _EVERY_NS
        n_before += len(rows)
        is_known = address > 0
        yield accesses(
            time_ns[is_known],
            address[is_known] >> PAGE_SHIFT,
            weight[is_known],
            n_unresolved=int(np.count_nonzero(~is_known)),
        )


def _advice(path: Path, start: bytes) -> str:
    if _HEADING.match(start) and not _PHYSICAL.match(start):
        return (
            "has no physical addresses; record and report them: perf mem --phys-data record, then report -D"
        )
    return ""


TRACE_FORMAT = TraceFormat(
    about="samples of perf mem report -D",
    noun="sample",
    knows_cpus=False,
    sniff=lambda start: Sniff.IS if _PHYSICAL.match(start) else Sniff.NO,
    advice=_advice,
    outside_advice="",
    read=read_samples,
    assumes="a sample each microsecond",
    is_virtual=False,
    given={},
    of_file=None,
)
