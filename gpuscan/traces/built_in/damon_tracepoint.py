"""DAMON's tracepoint as text: regions as each aggregation found them.

``perf script`` of ``damon:damon_aggregated`` prints ``comm pid [cpu] time: damon:damon_aggregated:`` and what
the event says of itself (tools/perf/builtin-script.c, v6.12), ``trace_pipe``, ``trace`` and
``trace-cmd report`` ``comm-pid [cpu] flags time: damon_aggregated:`` and the same. What that is,
:mod:`gpuscan.linux.damon_trace` has: the two read one text.

The event says in how many looks a region was accessed, and not how many there were: that may be given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT
from gpuscan.linux.damon_trace import AGGREGATED
from gpuscan.traces.advice import ONLY_PHYSICAL
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.given import PAGES, Given, check_one_target
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import Lines, accesses, first_line_of, lines_of, pages_between, whole_numbers

LOOKS = 20
"""Of an aggregation of 100 ms with a look each 5 ms: what DAMON and damo take where nobody says otherwise
(DAMON_LRU_SORT and DAMON_RECLAIM, mm/damon/modules-common.h, v6.12; damo's --sample and --aggr)."""
_LOOKS_MAX = 1 << 30
_TRACE_DAT = b"\x17\x08\x44tracing"
"""Magic of trace-cmd's trace.dat (trace-cmd.dat.v6(5))."""
_ADDRESS_MAX = 1 << 56
_PATTERN = re.compile(
    rb"^(?:(?=[^\n]*damon_aggregated: )[^\n]*? "
    rb"([0-9]{1,9})\.([0-9]{9}|[0-9]{6}): (?:damon:)?damon_aggregated: "
    + AGGREGATED
    + rb"|(?![^\n]*damon_aggregated: )(?:[ \t]*|#[^\n]*|CPU [0-9]+ is empty|cpus=[0-9]+)\r?)\n",
    re.MULTILINE,
)
_IS = re.compile(rb"^[^\n]* \[[0-9]+\][^\n]* [0-9]+\.[0-9]+: (?:damon:)?damon_aggregated: ")


def read_tracepoint(
    path: Path, on_read: Callable[[int], None], *, one_target: bool = False, n_looks: int = LOOKS
) -> Iterator[Samples]:
    """Yield the accessed regions, some thousand at a time.

    Args:
        path: of the file.
        on_read: called with the bytes of the file read since the last call.
        one_target: several are refused.
        n_looks: of an aggregation.

    Raises:
        InputError: a line is cut short, foreign or earlier than the one before; names the line. Or there are
            several targets, or more looks.
        OSError: the file cannot be read.
    """
    yield from samples_in(path, lines_of(path, on_read), one_target=one_target, n_looks=n_looks)


def samples_in(
    path: Path, blocks: Iterator[tuple[int, bytes]], *, one_target: bool = False, n_looks: int = LOOKS
) -> Iterator[Samples]:
    """Yield the accessed regions in lines; see :func:`read_tracepoint`."""
    targets: set[bytes] = set()
    lines = Lines(path, _PATTERN, "give what perf script prints of damon:damon_aggregated, and nothing else")
    for number, text in blocks:
        rows = [row for row in lines.rows(number, text) if row[0]]
        if not rows:
            continue
        seconds, fraction, target, _, start, end, n_accesses, _ = zip(*rows, strict=True)
        if one_target:
            targets.update(target)
            check_one_target(path, len(targets))
        scale = np.array([10 ** (9 - len(text)) for text in fraction], dtype=np.int64)
        time_ns = whole_numbers(seconds) * 1_000_000_000 + whole_numbers(fraction) * scale
        lines.in_order(number, time_ns)
        starts, ends, weight = whole_numbers(start), whole_numbers(end), whole_numbers(n_accesses)
        if bool((ends < starts).any()) or int(ends.max()) > _ADDRESS_MAX:
            raise InputError(
                f"{path}:{number}: in or after this line a region ends before it starts, or above 2**56; "
                "record it again"
            )
        if int(weight.max()) > n_looks:
            raise InputError(
                f"{path}:{number}: in or after this line a region was accessed in {int(weight.max()):,} of "
                f"{n_looks:,} looks, so an aggregation has more; give --given looks=N ({_GIVEN['looks']})"
            )
        is_accessed = (weight > 0) & (ends > starts)
        yield accesses(
            time_ns[is_accessed],
            starts[is_accessed] >> PAGE_SHIFT,
            weight[is_accessed],
            pages_between(starts, ends)[is_accessed],
            n_idle=int(np.count_nonzero(~is_accessed)),
            highest_pfn=int(starts.max()) >> PAGE_SHIFT,
            share=weight[is_accessed] / n_looks,
        )


_GIVEN = {"looks": f"looks of an aggregation: damo's --aggr by its --sample; {LOOKS}"}


def as_given(
    fmt: TraceFormat, read: Callable[..., Iterator[Samples]], given: Mapping[str, str]
) -> TraceFormat:
    """Return a format of such regions as it is for a file of which this was given.

    Args:
        fmt: the format.
        read: reads its files, as :func:`read_tracepoint`.
        given: by key.

    Raises:
        InputError: a value does not fit.
    """
    n_looks = Given(given).number("looks", LOOKS, 1, _LOOKS_MAX) or LOOKS
    said = "as given" if "looks" in given else "as DAMON makes them by default"
    return replace(
        fmt,
        is_virtual=PAGES in given,
        read=partial(read, one_target=PAGES in given, n_looks=n_looks),
        assumes=f"aggregations of {n_looks:,} looks, {said}",
    )


def _of_file(path: Path, start: bytes, given: Mapping[str, str]) -> TraceFormat:
    return as_given(TRACE_FORMAT, read_tracepoint, given)


def _advice(path: Path, start: bytes) -> str:
    if start.startswith(_TRACE_DAT):
        return f"is trace-cmd's own recording; turn it into text: trace-cmd report -i {path}"
    return ""


TRACE_FORMAT = TraceFormat(
    about="text of DAMON's tracepoint",
    noun="accessed region",
    knows_cpus=False,
    sniff=lambda start: Sniff.IS if _IS.match(first_line_of(start)) else Sniff.NO,
    advice=_advice,
    outside_advice=ONLY_PHYSICAL,
    read=read_tracepoint,
    assumes="",
    is_virtual=False,
    given=_GIVEN,
    of_file=_of_file,
)
