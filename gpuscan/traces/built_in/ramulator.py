"""Traces that drive Ramulator's CPUs: ``<num-cpuinst> <addr-read> [<addr-writeback>]`` a line.

The first number is how many instructions come before, the others are decimal addresses of a read and of a
dirty line that goes back (README.md of CMU-SAFARI/ramulator, *CPU-Trace Driven*). They are taken for virtual:
the traces that are passed on come from Pin, and Ramulator may map their pages at random.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import Lines, accesses, begins_with_lines, lines_of, whole_numbers

_PATTERN = re.compile(rb"^([0-9]{1,9}) ([0-9]{1,17})(?: ([0-9]{1,17}))?[ \t]*\r?\n", re.MULTILINE)
_ADDRESS_MAX = 1 << 52


def read_ramulator(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the reads and what goes back, some thousand at a time, an instruction a nanosecond.

    Raises:
        InputError: a line is cut short or foreign; names the line.
        OSError: the file cannot be read.
    """
    lines = Lines(path, _PATTERN, "give a trace for Ramulator's CPUs: instructions, address, maybe another")
    before_ns = 0
    for number, text in lines_of(path, on_read):
        rows = lines.rows(number, text)
        now_ns = before_ns + np.cumsum(whole_numbers([row[0] for row in rows]) + 1)
        before_ns = int(now_ns[-1])
        has_other = np.array([bool(row[2]) for row in rows])
        read = whole_numbers([row[1] for row in rows])
        back = whole_numbers([row[2] or b"0" for row in rows])
        address = np.stack([read, back], axis=1).ravel()
        if int(address.max()) >= _ADDRESS_MAX:
            raise InputError(
                f"{path}:{number}: in or after this line an address is above 2**52; record it again"
            )
        counts = np.stack([np.ones(len(rows), dtype=np.bool_), has_other], axis=1).ravel()
        yield accesses(np.repeat(now_ns, 2)[counts], address[counts] >> PAGE_SHIFT)


TRACE_FORMAT = TraceFormat(
    about="a CPU trace of Ramulator",
    noun="access",
    knows_cpus=False,
    sniff=lambda start: Sniff.IS if begins_with_lines(start, _PATTERN) else Sniff.NO,
    advice=lambda path, start: "",
    outside_advice="",
    read=read_ramulator,
    is_virtual=True,
    assumes="an instruction takes 1 ns",
    given={},
    of_file=None,
)
