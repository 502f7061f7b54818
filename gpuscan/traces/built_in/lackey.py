"""Memory accesses of a program under valgrind: ``--tool=lackey --trace-mem=yes --log-file=FILE``.

A line is an instruction (``I 04016a80,3``), a load (`` L ``), a store (`` S ``) or both (`` M ``), with an
address in hexadecimal and a size (lackey/lk_main.c, trace_instr() and its neighbours, valgrind 3.22). What
valgrind says itself stands behind its PID in equals signs. Addresses are virtual, of one process; there are
no times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import Lines, accesses, begins_with_lines, lines_of, whole_numbers

_PATTERN = re.compile(
    rb"^(?: ([LSM]) ([0-9a-f]{1,13}),[0-9]{1,5}|(I)  [0-9a-f]{1,13},[0-9]{1,5}|==[0-9]+==[^\n]*|[ \t]*)\r?\n",
    re.MULTILINE,
)
_IS = re.compile(rb"^(?: [LSM] [0-9a-f]+,|I  [0-9a-f]+,|==[0-9]+== Lackey)", re.MULTILINE)


def read_lackey(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the loads and stores, some thousand at a time, an instruction a nanosecond.

    Raises:
        InputError: a line is cut short or foreign; names the line.
        OSError: the file cannot be read.
    """
    lines = Lines(path, _PATTERN, "give what valgrind --tool=lackey --trace-mem=yes writes to --log-file")
    n_before = 0
    for number, text in lines_of(path, on_read):
        rows = lines.rows(number, text)
        now_ns = n_before + np.cumsum([bool(row[2]) for row in rows], dtype=np.int64)
        n_before = int(now_ns[-1])
        is_access = np.array([bool(row[0]) for row in rows])
        page = whole_numbers([row[1] for row in rows if row[0]], 16) >> PAGE_SHIFT
        yield accesses(now_ns[is_access], page)


TRACE_FORMAT = TraceFormat(
    about="text of valgrind's lackey",
    noun="access",
    knows_cpus=False,
    sniff=lambda start: Sniff.IS if begins_with_lines(start, _PATTERN, 2) and _IS.search(start) else Sniff.NO,
    advice=lambda path, start: "",
    outside_advice="",
    read=read_lackey,
    is_virtual=True,
    assumes="an instruction takes 1 ns",
    given={},
    of_file=None,
)
