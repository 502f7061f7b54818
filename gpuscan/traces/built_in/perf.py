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

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled
from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT
from gpuscan.files.reading import open_file
from gpuscan.traces.advice import DAMO
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.samples import Samples

SCRIPT = "-F cpu,time,weight,phys_addr"
"""Options of ``perf script`` for a trace that can be read."""

_DAMON = b" damon:damon_aggregated: "
_RECORDING = (b"PERFILE2", b"2ELIFREP", b"PERFFILE")
"""Magic of a perf.data file in either byte order (tools/perf/util/header.c, v6.12)."""
_BLOCK_BYTES = 1 << 22
_LINE_BYTES_MIN = 11
"""``[0] 0.000000: 1`` is longer; an upper bound of the samples in a block follows from it."""
_LINE_BYTES_MAX = 1 << 16
_SHOWN = 60

_N_LINES, _N_SAMPLES, _N_UNRESOLVED, _LAST_NS, _PROBLEM, _BAD_START, _BAD_END, _N_REPEATED = range(8)
_N_STATE = 8
"""Slots of the parser's state, int64."""
_N_OF_INSTANT = 64
"""Accesses of one instant that are remembered; every CPU may have one."""
_PERIOD_COLUMNS, _WEIGHT_COLUMNS = 11, 17
"""Of a number and the blank before it; one of more digits is longer, without padding."""

_NOT_AN_ADDRESS, _NOT_A_WEIGHT, _NO_TIME, _NO_CPU, _OUT_OF_ORDER = range(1, 6)
_PROBLEMS = {
    _NOT_AN_ADDRESS: "does not end in a physical address",
    _NOT_A_WEIGHT: "has something else than a weight before its physical address",
    _NO_TIME: "has no time where it belongs, or fields that are not read",
    _NO_CPU: "has no CPU in brackets before its time",
    _OUT_OF_ORDER: "is earlier than the line before",
}

_NEWLINE, _SPACE, _COLON, _DOT, _HASH = ord("\n"), ord(" "), ord(":"), ord("."), ord("#")
_OPEN, _CLOSE, _ZERO, _LOWER_A, _LOWER_F = ord("["), ord("]"), ord("0"), ord("a"), ord("f")
_ADDRESS_DIGITS_MAX = 14
"""56 bits; the architectures have 52 (x86-64: 4 PiB). A kernel address has 16 digits."""
_WEIGHT_DIGITS_MAX = 18
_SECONDS_DIGITS_MAX = 10
_SECONDS_MAX = 9_000_000_000
_CPU_DIGITS_MAX = 7


def read_perf(path: Path, on_read: Callable[[int], None]) -> Iterator[Samples]:
    """Yield the samples of a file, a few hundred thousand at a time.

    Blank lines and comments (``perf script --header``) are skipped.

    Raises:
        InputError: a line is cut short, foreign or earlier than the one before; names the line.
        OSError: the file cannot be read.
    """
    n_lines, last_ns, rest = 0, -1, b""
    instant = np.full((_N_OF_INSTANT, 2), -1, dtype=np.int64)
    with os.fdopen(open_file(path), "rb") as file:
        while True:
            read = file.read(_BLOCK_BYTES)
            on_read(len(read))
            text = rest + read
            whole = text.rfind(b"\n") + 1
            rest = text[whole:]
            state, samples = _parse(text[:whole], last_ns, instant)
            if state[_PROBLEM]:
                line = text[int(state[_BAD_START]) : int(state[_BAD_END])]
                _refuse(path, n_lines + int(state[_N_LINES]), _PROBLEMS[int(state[_PROBLEM])], line)
            n_lines, last_ns = n_lines + int(state[_N_LINES]), int(state[_LAST_NS])
            if len(samples) or samples.n_unresolved or samples.n_repeated:
                yield samples
            if len(rest) > _LINE_BYTES_MAX:
                _refuse(path, n_lines + 1, f"is longer than {_LINE_BYTES_MAX:,} bytes", rest)
            if not read:
                break
    if rest.strip():
        raise InputError(
            f"{path}:{n_lines + 1}: the trace ends in the middle of this line; copy it again whole"
        )


def _refuse(path: Path, line: int, problem: str, text: bytes) -> NoReturn:
    shown = text[:_SHOWN].decode("utf-8", "replace").strip()
    more = "..." if len(text) > _SHOWN else ""
    remedy = f"print the trace with perf script {SCRIPT}"
    if problem == _PROBLEMS[_OUT_OF_ORDER]:
        remedy = "traces are in the order of time, as perf script prints them"
    elif _DAMON in text:
        remedy = f"these are DAMON's regions; have damo turn them into JSON: {DAMO} {path}"
    raise InputError(f"{path}:{line}: the line {problem} ({shown!r}{more}); {remedy}")


def _parse(text: bytes, last_ns: int, instant: NDArray[np.int64]) -> tuple[NDArray[np.int64], Samples]:
    n_max = len(text) // _LINE_BYTES_MIN + 1
    time_ns, address, weight = (np.empty(n_max, dtype=np.int64) for _ in range(3))
    cpu = np.empty(n_max, dtype=np.int32)
    state = np.zeros(_N_STATE, dtype=np.int64)
    state[_LAST_NS] = last_ns
    parse_lines(np.frombuffer(text, dtype=np.uint8), time_ns, cpu, address, weight, instant, state)
    n = int(state[_N_SAMPLES])
    # Copies: the arrays are sized for the shortest lines there can be.
    samples = Samples(
        time_ns[:n].copy(),
        cpu[:n].copy(),
        address[:n] >> PAGE_SHIFT,
        np.ones(n, dtype=np.int64),
        weight[:n].copy(),
        n_unresolved=int(state[_N_UNRESOLVED]),
        n_repeated=int(state[_N_REPEATED]),
    )
    return state, samples


@compiled
def _is_blank(char: int) -> bool:
    return char == _SPACE or 9 <= char <= 13


@compiled
def _decimal(text: NDArray[np.uint8], start: int, end: int, n_max: int) -> Any:
    """Return the number in ``[start, end)``, -1 where that is none or has over ``n_max`` digits."""
    if start >= end or end - start > n_max:
        return -1
    value: Any = 0
    for i in range(start, end):
        digit = np.int64(text[i]) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@compiled
def _hexadecimal(text: NDArray[np.uint8], start: int, end: int, n_max: int) -> Any:
    """Return the number in ``[start, end)`` in lower-case hexadecimal, -1 as :func:`_decimal`."""
    if start >= end or end - start > n_max:
        return -1
    value: Any = 0
    for i in range(start, end):
        char = np.int64(text[i])
        if _LOWER_A <= char <= _LOWER_F:
            digit = char - _LOWER_A + 10
        else:
            digit = char - _ZERO
            if digit < 0 or digit > 9:
                return -1
        value = value * 16 + digit
    return value


@compiled
def _nanoseconds(text: NDArray[np.uint8], start: int, end: int) -> Any:
    """Return the time in ``[start, end)``, seconds with 6 or 9 decimals; -1 where that is none."""
    dot = start
    while dot < end and text[dot] != _DOT:
        dot += 1
    n_decimals = end - dot - 1
    seconds = _decimal(text, start, dot, _SECONDS_DIGITS_MAX)
    fraction = _decimal(text, dot + 1, end, 9)
    if seconds < 0 or seconds > _SECONDS_MAX or fraction < 0 or (n_decimals != 6 and n_decimals != 9):
        return -1
    return seconds * 1_000_000_000 + (fraction * 1000 if n_decimals == 6 else fraction)


@compiled
def _token_before(text: NDArray[np.uint8], start: int, end: int) -> tuple[int, int]:
    """Return where the last word of ``[start, end)`` begins and ends; both ``start`` without one."""
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    first = end
    while first > start and not _is_blank(text[first - 1]):
        first -= 1
    return first, end


@compiled
def _is_period(n_columns: int, n_digits: int) -> bool:
    """Whether a number that ends so many columns behind the time is one: padded to 10, or too long for it."""
    if n_columns == n_digits + 1:
        return _PERIOD_COLUMNS <= n_columns < _WEIGHT_COLUMNS
    return n_columns == _PERIOD_COLUMNS


@compiled
def _is_repeated(instant: NDArray[np.int64], cpu: int, address: int) -> bool:
    """Whether an access of this instant is there already; it is noted if not, while there is room."""
    for i in range(len(instant)):
        if instant[i, 0] < 0:
            instant[i, 0], instant[i, 1] = cpu, address
            if i + 1 < len(instant):
                instant[i + 1, 0] = -1
            return False
        if instant[i, 0] == cpu and instant[i, 1] == address:
            return True
    return False


@compiled
def parse_lines(
    text: NDArray[np.uint8],
    time_ns: NDArray[np.int64],
    cpu: NDArray[np.int32],
    address: NDArray[np.int64],
    weight: NDArray[np.int64],
    instant: NDArray[np.int64],
    state: NDArray[np.int64],
) -> None:
    """Parse whole lines up to the first that is wrong.

    Args:
        text: uint8[n_bytes], ends with a newline or is empty.
        time_ns, cpu, address, weight: filled, one element per sample.
        instant: int64[64, 2]: CPU and address of the accesses at the last time, -1 behind them; from block to
            block.
        state: int64[8]. In: the time of the last sample before this block. Out: lines, samples and
            samples at address 0 so far, the last time, what is wrong with the last line (0: nothing), where
            that line begins and ends, and lines that say an access once more.
    """
    n = n_lines = n_unresolved = n_repeated = problem = 0
    last_ns = state[_LAST_NS]
    position = bad_start = bad_end = 0
    while position < len(text) and problem == 0:
        start = position
        while text[position] != _NEWLINE:
            position += 1
        end = position
        position += 1
        n_lines += 1
        while start < end and _is_blank(text[start]):
            start += 1
        if start == end or text[start] == _HASH:
            continue
        bad_start, bad_end = start, end

        first, after = _token_before(text, start, end)
        where = _hexadecimal(text, first, after, _ADDRESS_DIGITS_MAX)
        if where < 0:
            problem = _NOT_AN_ADDRESS
            break
        first, after = _token_before(text, start, first)
        heavy = 1
        number_end = n_digits = 0
        if after > first and text[after - 1] != _COLON:
            heavy = _decimal(text, first, after, _WEIGHT_DIGITS_MAX)
            if heavy < 0:
                problem = _NOT_A_WEIGHT
                break
            number_end, n_digits = after, after - first
            first, after = _token_before(text, start, first)
            if _decimal(text, first, after, _WEIGHT_DIGITS_MAX) >= 0:  # a period, and no event
                before, behind = _token_before(text, start, first)
                if _is_period(after - behind, after - first):
                    number_end = n_digits = 0
                    first, after = before, behind
        if after == first or text[after - 1] != _COLON:
            problem = _NO_TIME
            break
        when = _nanoseconds(text, first, after - 1)
        if when >= 0 and _is_period(number_end - after, n_digits):
            heavy = 1
        if when < 0:  # an event's name, maybe after its period
            first, after = _token_before(text, start, first)
            if _decimal(text, first, after, _WEIGHT_DIGITS_MAX) >= 0:
                first, after = _token_before(text, start, first)
            if after > first and text[after - 1] == _COLON:
                when = _nanoseconds(text, first, after - 1)
        if when < 0:
            problem = _NO_TIME
            break
        first, after = _token_before(text, start, first)
        who = -1
        if after - first > 2 and text[first] == _OPEN and text[after - 1] == _CLOSE:
            who = _decimal(text, first + 1, after - 1, _CPU_DIGITS_MAX)
        if who < 0:
            problem = _NO_CPU
            break
        if when < last_ns:
            problem = _OUT_OF_ORDER
            break
        if when > last_ns:
            instant[0, 0] = -1
        last_ns = when
        if where == 0:
            n_unresolved += 1
            continue
        if _is_repeated(instant, who, where):
            n_repeated += 1
            continue
        time_ns[n], cpu[n], address[n], weight[n] = when, who, where, heavy
        n += 1
    state[_N_LINES], state[_N_SAMPLES], state[_N_UNRESOLVED] = n_lines, n, n_unresolved
    state[_LAST_NS], state[_PROBLEM] = last_ns, problem
    state[_BAD_START], state[_BAD_END], state[_N_REPEATED] = bad_start, bad_end, n_repeated


def _sniff(start: bytes) -> Sniff:
    """Any text may be one: its first line may be a comment, or begin with whatever a command is called."""
    return Sniff.NO if start.startswith(_RECORDING) else Sniff.MAY_BE


def _advice(path: Path, start: bytes) -> str:
    if not start.startswith(_RECORDING):
        return ""
    return (
        f"is perf's own recording; turn it into text: perf script -i {path} {SCRIPT} (one of damo's, "
        f"of DAMON's regions, into JSON: {DAMO} {path})"
    )


TRACE_FORMAT = TraceFormat(
    about="text of perf script",
    noun="sample",
    knows_cpus=True,
    sniff=_sniff,
    advice=_advice,
    outside_advice="",
    read=read_perf,
)
