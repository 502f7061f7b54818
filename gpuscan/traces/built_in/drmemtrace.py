"""What DynamoRIO's ``drmemtrace`` has traced, as its view tool prints it.

A line is ``<record> <instruction>: <thread> read 8 byte(s) @ 0x... by PC 0x...``, or ``write``, ``ifetch``,
``pref-...`` and so on (clients/drcachesim/tools/view.cpp, DynamoRIO 10). ``<marker: timestamp N>`` says the
time, in us. Addresses are virtual, of one process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import Lines, accesses, lines_of

_PREFIX = rb" *[0-9]+ +[0-9]+: +(?:W[0-9]+\.)?T?[0-9]+ +"
_OLD_PREFIX = rb"T[0-9]+ +"
_PATTERN = re.compile(
    rb"^(?:(?:"
    + _PREFIX
    + rb"|"
    + _OLD_PREFIX
    + rb")(?:(?:read|write) +[0-9]+ byte\(s\) @ 0x([0-9a-f]{1,16})[^\n]*"
    rb"|<marker: timestamp ([0-9]{1,18})>|(?!read |write |<marker: timestamp )[^\n]*)"
    rb"|(?! *[0-9]+ +[0-9]+: |T[0-9]+ )[^\n]*)\n",
    re.MULTILINE,
)
_IS = re.compile(
    rb"^(?:"
    + _PREFIX
    + rb"|"
    + _OLD_PREFIX
    + rb")(?:<marker: |(?:read|write|ifetch) +[0-9]+ byte\(s\) @ 0x)",
    re.MULTILINE,
)
_PAGES = (1 << 40) - 1
_TIME_US_MAX = 1 << 52


def read_view(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the reads and writes, some thousand at a time, each at the last time that was said.

    Raises:
        InputError: a line is cut short or foreign; names the line.
        OSError: the file cannot be read.
    """
    lines = Lines(path, _PATTERN, "give what drmemtrace's view tool prints")
    first_us, now_us = -1, 0
    for number, text in lines_of(path, on_read):
        times, addresses = [], []
        for address, timestamp in lines.rows(number, text):
            if timestamp:
                # Threads come in turn, and what one says may be earlier than what the one before said.
                first_us = int(timestamp) if first_us < 0 else first_us
                now_us = max(now_us, min(int(timestamp) - first_us, _TIME_US_MAX))
            elif address:
                times.append(now_us)
                addresses.append((int(address, 16) >> PAGE_SHIFT) & _PAGES)
        yield accesses(np.array(times, dtype=np.int64) * 1000, np.array(addresses, dtype=np.int64))


TRACE_FORMAT = TraceFormat(
    about="text of drmemtrace's view tool",
    noun="access",
    knows_cpus=False,
    sniff=lambda start: Sniff.IS if _IS.search(start) else Sniff.NO,
    advice=lambda path, start: "",
    outside_advice="",
    read=read_view,
    is_virtual=True,
    assumes="accesses are at the last timestamp before them",
    given={},
    of_file=None,
)
