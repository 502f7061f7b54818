"""What memtierd's trackers saw: the output of its command ``tracker -dump raw new``.

Under a heading a line is a time in ns, a PID, an address in hexadecimal, pages, and how often they were
accessed and written (raeDataToString() in pkg/memtier/tracker.go, intel/memtierd 1982de7). Addresses are
virtual.

A ``.vab`` file of memtierd lists ranges to be demoted (readPOIDir() in policy_demoteidle.go), which says
nothing of accesses: it is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpuscan.base.units import PAGE_BYTES
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import Lines, accesses, lines_of, page_of, whole_numbers

_HEADING = re.compile(rb"\s*timestamp\s+pid\s+addr\s+pages\s+accs\s+writes\s")
_PATTERN = re.compile(
    rb"^(?: *([0-9]{1,18}) +([0-9]{1,7}) +([0-9a-f]{1,13}) +([0-9]{1,9}) +([0-9]{1,9}) +([0-9]{1,9})"
    rb"|[ \t]*timestamp[^\n]*|[ \t]*|memtierd>[^\n]*)\r?\n",
    re.MULTILINE,
)
_RANGE = struct.Struct("<QQ")
_USER_ADDRESS_MAX = 1 << 47


def read_dump(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the ranges that were accessed, some thousand at a time.

    Raises:
        InputError: a line is cut short, foreign or earlier than the one before; names the line.
        OSError: the file cannot be read.
    """
    lines = Lines(path, _PATTERN, "give what memtierd's command tracker -dump raw new prints")
    for number, text in lines_of(path, on_read):
        rows = [row for row in lines.rows(number, text) if row[0]]
        if not rows:
            continue
        time_ns, pages, n_read, n_written = (whole_numbers([row[i] for row in rows]) for i in (0, 3, 4, 5))
        lines.in_order(number, time_ns)
        page = np.array([page_of(int(row[1]), int(row[2], 16)) for row in rows], dtype=np.int64)
        weight = n_read + n_written
        is_accessed = (weight > 0) & (pages > 0)
        yield accesses(
            time_ns[is_accessed],
            page[is_accessed],
            weight[is_accessed],
            pages[is_accessed],
            n_idle=int(np.count_nonzero(~is_accessed)),
        )


def _advice(path: Path, start: bytes) -> str:
    pairs = list(_RANGE.iter_unpack(start[: len(start) // 16 * 16]))
    if not pairs or (len(start) % 16 and len(start) < PAGE_BYTES):
        return ""
    if all(low < high <= _USER_ADDRESS_MAX and not (low | high) % PAGE_BYTES for low, high in pairs):
        return (
            "is memtierd's list of what to demote (.vab), which says nothing of accesses; give what its "
            "command tracker -dump raw new prints"
        )
    return ""


TRACE_FORMAT = TraceFormat(
    about="a dump of memtierd's tracker",
    noun="accessed range",
    knows_cpus=False,
    sniff=lambda start: Sniff.IS if _HEADING.match(start) else Sniff.NO,
    advice=_advice,
    outside_advice="",
    read=read_dump,
    is_virtual=True,
    assumes="",
    given={},
    of_file=None,
)
