"""Text of ``perf script`` with physical addresses, read in blocks.

One line is one sample. Whatever the order after ``-F``, perf prints the fields in its own
(process_event() and perf_sample__fprintf_start() in tools/perf/builtin-script.c, v6.12)::

    [comm] [pid/tid] [CPU] seconds.fraction: [period] [event:] [weight] phys_addr

CPU is ``[%03d]``, the fraction has 6 digits or 9 (``--ns``), weight is decimal and ``phys_addr``
hexadecimal without a prefix, both right-aligned in 16 columns, a period in 10: where there is no
event between them, a number that ends 11 columns behind the time is a period, not a weight. The
command name may contain anything, so a line is read from its end. Other fields between time and
address have no mark by which to tell them apart, so a line that has them is refused.

Arm SPE records one access as several events, a line each: ``l1d-access``, ``tlb-access``, ``memory``
(arm_spe_sample() in tools/perf/util/arm-spe.c, v6.12). What has the time, CPU and address of a line
before is the same access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.traces import perf_lines as lines
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.perf_lines import parse_lines
from gpuscan.traces.pieces import PackedError, Readable, open_pieces
from gpuscan.traces.samples import Samples

SCRIPT = "-F cpu,time,weight,phys_addr"
"""Options of ``perf script`` for a trace that can be read."""

RECORDING = (b"PERFILE2", b"2ELIFREP", b"PERFFILE")
"""Magic of a perf.data file in either byte order (tools/perf/util/header.c, v6.12)."""
_BLOCK_BYTES = 1 << 20
"""Small enough for the cache of a core."""
_LINE_BYTES_MAX = 1 << 16
_SHOWN = 60
_PROBLEMS = {
    lines.NOT_AN_ADDRESS: "does not end in a physical address",
    lines.NOT_A_WEIGHT: "has something else than a weight before its physical address",
    lines.NO_TIME: "has no time where it belongs, or fields that are not read",
    lines.NO_CPU: "has no CPU in brackets before its time",
    lines.OUT_OF_ORDER: "is earlier than the line before",
}


def read_perf(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the samples of a file, some ten thousand at a time.

    Blank lines and comments (``perf script --header``) are skipped.

    Raises:
        InputError: a line is cut short, foreign or earlier than the one before; names the line.
        OSError: the file cannot be read.
    """
    with open_pieces(path, on_read) as pieces:
        yield from samples_in(path, pieces)


def samples_in(path: Path, pieces: Readable) -> Iterator[Samples]:
    """Yield the samples of text of which ``path`` is the file; see :func:`read_perf`."""
    block = _Block(_BLOCK_BYTES + _LINE_BYTES_MAX)
    n_lines = n_left = 0
    text = block.text.data
    while True:
        try:
            n_read = pieces.readinto(text[n_left : n_left + _BLOCK_BYTES])
        except PackedError as error:
            raise InputError(f"{path}:{n_lines + 1}: {error}") from None
        n_bytes = n_left + n_read
        whole = block.last_newline(n_left, n_bytes) + 1
        state, samples = block.parse(whole)
        if state[lines.PROBLEM]:
            line = bytes(text[int(state[lines.BAD_START]) : int(state[lines.BAD_END])])
            _refuse(path, n_lines + int(state[lines.N_LINES]), _PROBLEMS[int(state[lines.PROBLEM])], line)
        n_lines += int(state[lines.N_LINES])
        if len(samples) or samples.n_unresolved or samples.n_repeated:
            yield samples
        n_left = n_bytes - whole
        text[:n_left] = bytes(text[whole:n_bytes])
        if n_left > _LINE_BYTES_MAX:
            _refuse(path, n_lines + 1, f"is longer than {_LINE_BYTES_MAX:,} bytes", bytes(text[:n_left]))
        if not n_read:
            break
    if bytes(text[:n_left]).strip():
        raise InputError(
            f"{path}:{n_lines + 1}: the trace ends in the middle of this line; copy it again whole"
        )


class _Block:
    """A piece of text, and room for what is in it; both are used again for the next.

    Args:
        n_bytes: of text.
    """

    def __init__(self, n_bytes: int) -> None:
        self.text = np.zeros(n_bytes + lines.PAD_BYTES, dtype=np.uint8)
        n_max = n_bytes // lines.LINE_BYTES_MIN + 1
        self._time_ns, self._pfn, self._weight = (np.empty(n_max, dtype=np.int64) for _ in range(3))
        self._cpu = np.empty(n_max, dtype=np.int32)
        self._ones = np.ones(n_max, dtype=np.int64)
        self._ones.flags.writeable = False
        self._instant = np.full((lines.N_OF_INSTANT, 2), -1, dtype=np.int64)
        self._last_ns = -1

    def last_newline(self, start: int, end: int) -> int:
        """Return where the last newline of ``text[start:end]`` is, -1 where there is none."""
        step = 4096
        for low in range(max(start, end - step), start - step, -step):
            low = max(low, start)
            found = bytes(self.text[low : min(low + step, end)]).rfind(b"\n")
            if found >= 0:
                return low + found
        return -1

    def parse(self, n_bytes: int) -> tuple[NDArray[np.int64], Samples]:
        """Return the parser's state after the lines in the first bytes, and the samples that they are."""
        state = np.zeros(lines.N_STATE, dtype=np.int64)
        state[lines.LAST_NS] = self._last_ns
        columns = (self._time_ns, self._cpu, self._pfn, self._weight)
        parse_lines(self.text, n_bytes, *columns, self._instant, state)
        self._last_ns = int(state[lines.LAST_NS])
        n = int(state[lines.N_SAMPLES])
        samples = Samples(
            self._time_ns[:n].copy(),
            self._cpu[:n].copy(),
            self._pfn[:n].copy(),
            self._ones[:n],
            self._weight[:n].copy(),
            n_unresolved=int(state[lines.N_UNRESOLVED]),
            n_repeated=int(state[lines.N_REPEATED]),
        )
        return state, samples


def _refuse(path: Path, line: int, problem: str, text: bytes) -> NoReturn:
    shown = text[:_SHOWN].decode("utf-8", "replace").strip()
    more = "..." if len(text) > _SHOWN else ""
    remedy = f"print the trace with perf script {SCRIPT}"
    if problem == _PROBLEMS[lines.OUT_OF_ORDER]:
        remedy = "traces are in the order of time, as perf script prints them"
    raise InputError(f"{path}:{line}: the line {problem} ({shown!r}{more}); {remedy}")


TRACE_FORMAT = TraceFormat(
    about="text of perf script",
    noun="sample",
    knows_cpus=True,
    # Any text may be one: its first line may be a comment, or begin with whatever a command is called.
    sniff=lambda start: Sniff.NO if start.startswith(RECORDING) else Sniff.MAY_BE,
    advice=lambda path, start: "",
    outside_advice="",
    read=read_perf,
    is_virtual=False,
    assumes="",
    given={},
    of_file=None,
)
