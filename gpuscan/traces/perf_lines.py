"""Lines of ``perf script`` as numbers: the compiled part of :mod:`gpuscan.traces.built_in.perf`.

A line as perf pads it is parsed eight characters at a time: its newline is looked for where the last line had
it, and every character in between is checked on the way back to the bracket of its CPU. What is not laid out
like that goes word by word, from the end of the line. Both give the same for whatever the first takes
(``tests/traces/test_traces_perf.py``). ``text`` is the address of a block's first character
(:func:`gpuscan.traces.words.base_of`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled, inlined
from gpuscan.base.units import PAGE_SHIFT
from gpuscan.traces.words import base_of, byte_from, eight_from, high_zeros, low_zeros

PAD_BYTES = 16
"""Behind the text, which are looked at and do not count."""
LINE_BYTES_MIN = 11
"""``[0] 0.000000: 1`` is longer; an upper bound of the samples in a block follows from it."""

N_LINES, N_SAMPLES, N_UNRESOLVED, LAST_NS, PROBLEM, BAD_START, BAD_END, N_REPEATED = range(8)
N_STATE = 8
"""Slots of the parser's state, int64."""
N_OF_INSTANT = 64
"""Accesses of one instant that are remembered; every CPU may have one."""
_PERIOD_COLUMNS, _WEIGHT_COLUMNS = 11, 17
"""Of a number and the blank before it; one of more digits is longer, without padding."""

NOT_AN_ADDRESS, NOT_A_WEIGHT, NO_TIME, NO_CPU, OUT_OF_ORDER = range(1, 6)

_NEWLINE, _SPACE, _COLON, _DOT, _HASH = ord("\n"), ord(" "), ord(":"), ord("."), ord("#")
_OPEN, _CLOSE, _ZERO, _NINE, _LOWER_A, _LOWER_F = map(ord, "[]09af")
_ADDRESS_DIGITS_MAX = 14
"""56 bits; the architectures have 52 (x86-64: 4 PiB). A kernel address has 16 digits."""
_WEIGHT_DIGITS_MAX = 18
_SECONDS_DIGITS_MAX = 10
_SECONDS_MAX = 9_000_000_000
_CPU_DIGITS_MAX = 7
_SHIFT = PAGE_SHIFT

_FIELD, _COLUMNS = 16, 33
"""Columns of an address; of a weight with a blank before it and an address."""
_BEFORE_TIME = 18
"""Columns up to the end of a line's time, at least: what is read eight at a time lies in the line."""
_ONES = np.uint64(0x0101010101010101)
_SPACES = np.uint64(0x2020202020202020)
_ZEROS = np.uint64(0x3030303030303030)
_NEWLINES = np.uint64(0x0A0A0A0A0A0A0A0A)
_HIGH = np.uint64(0x8080808080808080)
_LOW7 = np.uint64(0x7F7F7F7F7F7F7F7F)
_ABOVE_9 = np.uint64(0x7676767676767676)
_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)
_UPPER = np.uint64(0xF0F0F0F0F0F0F0F0)
_BIT4 = np.uint64(0x1010101010101010)
_SIXES = np.uint64(0x0606060606060606)
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_EVEN_PAIRS = np.uint64(0x0000FFFF0000FFFF)
_NONE = np.int64(-1)


@inlined
def _eight_decimal(word: Any) -> Any:
    """Return the number that eight digits are, each as its value (0 to 9)."""
    pairs = (word * np.uint64(10) + (word >> np.uint64(8))) & _EVEN_BYTES
    fours = (pairs * np.uint64(100) + (pairs >> np.uint64(16))) & _EVEN_PAIRS
    return np.int64((fours * np.uint64(10_000) + (fours >> np.uint64(32))) & np.uint64(0xFFFFFFFF))


@inlined
def _no_digits(digits: Any) -> Any:
    """Return the high bit of each byte that is above 9."""
    return (((digits & _LOW7) + _ABOVE_9) | digits) & _HIGH


@inlined
def _blank_bytes(word: Any) -> Any:
    """Return how many of eight characters are blanks before the first that is none, and the mask of those."""
    other = word ^ _SPACES
    if other == 0:
        return np.uint64(8), np.uint64(0xFFFFFFFFFFFFFFFF)
    n = low_zeros(other) >> np.uint64(3)
    return n, (np.uint64(1) << (n << np.uint64(3))) - np.uint64(1)


@inlined
def _padded_decimal(text: int, at: int) -> Any:
    """Return the decimal number that is right-aligned in 16 columns; -1 for anything else."""
    high, low = eight_from(text, at), eight_from(text, at + 8)
    n, blank = _blank_bytes(low)
    value = np.int64(0)
    if high != _SPACES:
        if n:
            return _NONE
        _, above = _blank_bytes(high)
        digits = (high ^ _ZEROS) & ~above
        if _no_digits(digits):
            return _NONE
        value = _eight_decimal(digits) * 100_000_000
    elif n == 8:
        return _NONE
    digits = (low ^ _ZEROS) & ~blank
    if _no_digits(digits):
        return _NONE
    return value + _eight_decimal(digits)


@inlined
def _eight_hexadecimal(word: Any, blank: Any) -> Any:
    """Return the number that eight lower-case hexadecimal digits are, blanks for 0; -1 for anything else."""
    word = (word & ~blank) | (_ZEROS & blank)
    letters = (word >> np.uint64(6)) & _ONES
    low = word & _NIBBLES
    is_other = (word & _UPPER) ^ (_ZEROS + letters * np.uint64(0x30))
    is_other |= (low + _SIXES + letters * np.uint64(3)) & _BIT4
    is_other |= (letters << np.uint64(4)) & ~(low + _NIBBLES)
    if is_other:
        return _NONE
    values = low + letters * np.uint64(9)
    pairs = ((values << np.uint64(4)) | (values >> np.uint64(8))) & _EVEN_BYTES
    fours = ((pairs << np.uint64(8)) | (pairs >> np.uint64(16))) & _EVEN_PAIRS
    return np.int64(((fours << np.uint64(16)) | (fours >> np.uint64(32))) & np.uint64(0xFFFFFFFF))


@inlined
def _padded_address(text: int, at: int) -> Any:
    """Return the hexadecimal number of up to 14 digits that is right-aligned in 16 columns; -1 for others."""
    high, low = eight_from(text, at), eight_from(text, at + 8)
    n, blank = _blank_bytes(low)
    if n == 8:
        return _NONE
    if high == _SPACES:
        return _eight_hexadecimal(low, blank)
    n_above, above = _blank_bytes(high)
    if n or n_above < 2:
        return _NONE
    upper, lower = _eight_hexadecimal(high, above), _eight_hexadecimal(low, np.uint64(0))
    return _NONE if upper < 0 or lower < 0 else (upper << 32) | lower


@inlined
def _padded_time(text: int, colon: int) -> Any:
    """Return the time that ends before ``colon`` and where it begins; (-1, 0) where that is none."""
    if byte_from(text, colon - 7) == _DOT:
        dot = colon - 7
        digits = (eight_from(text, colon - 8) ^ _ZEROS) & np.uint64(0xFFFFFFFFFFFF0000)
        if _no_digits(digits):
            return _NONE, 0
        fraction = _eight_decimal(digits) * 1000
    elif byte_from(text, colon - 10) == _DOT:
        dot = colon - 10
        digits = eight_from(text, colon - 9) ^ _ZEROS
        last = np.int64(byte_from(text, colon - 1)) - _ZERO
        if _no_digits(digits) or last < 0 or last > 9:
            return _NONE, 0
        fraction = _eight_decimal(digits) * 10 + last
    else:
        return _NONE, 0
    digits = eight_from(text, dot - 8) ^ _ZEROS
    others = _no_digits(digits)
    if others == 0:
        return _NONE, 0
    n = np.int64(high_zeros(others) >> np.uint64(3))
    if n == 0:
        return _NONE, 0
    digits &= ~np.uint64(0) << np.uint64(64 - 8 * n)
    return _eight_decimal(digits) * 1_000_000_000 + fraction, dot - n


@compiled
def _colon_before_event(text: int, start: int, colon: int) -> int:
    """Return where the time ends that is before an event and maybe a period; ``start`` where that is none."""
    at = colon - 1
    while at > start and byte_from(text, at) > _SPACE:
        at -= 1
    while at > start and byte_from(text, at) == _SPACE:
        at -= 1
    n_digits = 0
    while at > start and _ZERO <= byte_from(text, at) <= _NINE:
        at -= 1
        n_digits += 1
    if n_digits > _WEIGHT_DIGITS_MAX:
        return start
    if n_digits:
        if byte_from(text, at) != _SPACE:
            return start
        while at > start and byte_from(text, at) == _SPACE:
            at -= 1
    return at if byte_from(text, at) == _COLON else start


@inlined
def _padded_line(text: int, start: int, end: int) -> Any:
    """Return time, CPU, address, weight and where the CPU begins of a line as perf pads it; for others -1.

    Nothing between bracket and ``end`` is a newline.
    """
    nothing = (_NONE, _NONE, _NONE, _NONE, start)
    if end - start < _FIELD + 2 + _BEFORE_TIME:
        return nothing
    heavy = np.int64(1)
    colon = end - _COLUMNS - 1
    if colon - start >= _BEFORE_TIME and byte_from(text, colon) == _COLON:
        if byte_from(text, colon + 1) != _SPACE:
            return nothing
        heavy = _padded_decimal(text, colon + 2)
        if heavy < 0:
            return nothing
    else:
        colon = end - _FIELD - 2
        if byte_from(text, colon) != _COLON or byte_from(text, colon + 1) != _SPACE:
            return nothing
    where = _padded_address(text, end - _FIELD)
    if where < 0:
        return nothing
    if byte_from(text, colon - 7) != _DOT and byte_from(text, colon - 10) != _DOT:
        colon = _colon_before_event(text, start, colon)
        if colon - start < _BEFORE_TIME:
            return nothing
    when, first = _padded_time(text, colon)
    if when < 0:
        return nothing
    close = first - 1
    if byte_from(text, close) != _SPACE:
        return nothing
    while close > start and byte_from(text, close) == _SPACE:
        close -= 1
    opening = close - 4
    if byte_from(text, close) != _CLOSE or opening < start or byte_from(text, opening) != _OPEN:
        return nothing
    hundreds, tens = (
        np.int64(byte_from(text, close - 3)) - _ZERO,
        np.int64(byte_from(text, close - 2)) - _ZERO,
    )
    ones = np.int64(byte_from(text, close - 1)) - _ZERO
    if not (0 <= hundreds <= 9 and 0 <= tens <= 9 and 0 <= ones <= 9):
        return nothing
    if opening > start and byte_from(text, opening - 1) != _SPACE:
        return nothing
    return when, hundreds * 100 + tens * 10 + ones, where, heavy, opening


@compiled
def _is_blank(char: int) -> bool:
    return char == _SPACE or 9 <= char <= 13


@compiled
def _decimal(text: int, start: int, end: int, n_max: int) -> Any:
    """Return the number in ``[start, end)``, -1 where that is none or has over ``n_max`` digits."""
    if start >= end or end - start > n_max:
        return -1
    value: Any = 0
    for i in range(start, end):
        digit = np.int64(byte_from(text, i)) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@compiled
def _hexadecimal(text: int, start: int, end: int, n_max: int) -> Any:
    """Return the number in ``[start, end)`` in lower-case hexadecimal, -1 as :func:`_decimal`."""
    if start >= end or end - start > n_max:
        return -1
    value: Any = 0
    for i in range(start, end):
        char = np.int64(byte_from(text, i))
        if _LOWER_A <= char <= _LOWER_F:
            digit = char - _LOWER_A + 10
        else:
            digit = char - _ZERO
            if digit < 0 or digit > 9:
                return -1
        value = value * 16 + digit
    return value


@compiled
def _nanoseconds(text: int, start: int, end: int) -> Any:
    """Return the time in ``[start, end)``, seconds with 6 or 9 decimals; -1 where that is none."""
    dot = start
    while dot < end and byte_from(text, dot) != _DOT:
        dot += 1
    n_decimals = end - dot - 1
    seconds = _decimal(text, start, dot, _SECONDS_DIGITS_MAX)
    fraction = _decimal(text, dot + 1, end, 9)
    if seconds < 0 or seconds > _SECONDS_MAX or fraction < 0 or (n_decimals != 6 and n_decimals != 9):
        return -1
    return seconds * 1_000_000_000 + (fraction * 1000 if n_decimals == 6 else fraction)


@compiled
def _token_before(text: int, start: int, end: int) -> tuple[int, int]:
    """Return where the last word of ``[start, end)`` begins and ends; both ``start`` without one."""
    while end > start and _is_blank(byte_from(text, end - 1)):
        end -= 1
    first = end
    while first > start and not _is_blank(byte_from(text, first - 1)):
        first -= 1
    return first, end


@compiled
def _is_period(n_columns: int, n_digits: int) -> bool:
    """Whether a number that ends so many columns behind the time is one: padded to 10, or too long for it."""
    if n_columns == n_digits + 1:
        return _PERIOD_COLUMNS <= n_columns < _WEIGHT_COLUMNS
    return n_columns == _PERIOD_COLUMNS


@compiled
def _line_by_words(text: int, start: int, end: int) -> Any:
    """Return what is wrong with a line (0: nothing), its time, CPU, address and weight.

    It begins with something else than a blank.
    """
    first, after = _token_before(text, start, end)
    where = _hexadecimal(text, first, after, _ADDRESS_DIGITS_MAX)
    if where < 0:
        return NOT_AN_ADDRESS, -1, -1, -1, -1
    first, after = _token_before(text, start, first)
    heavy: Any = 1
    number_end = n_digits = 0
    if after > first and byte_from(text, after - 1) != _COLON:
        heavy = _decimal(text, first, after, _WEIGHT_DIGITS_MAX)
        if heavy < 0:
            return NOT_A_WEIGHT, -1, -1, -1, -1
        number_end, n_digits = after, after - first
        first, after = _token_before(text, start, first)
        if _decimal(text, first, after, _WEIGHT_DIGITS_MAX) >= 0:  # a period, and no event
            before, behind = _token_before(text, start, first)
            if _is_period(after - behind, after - first):
                number_end = n_digits = 0
                first, after = before, behind
    if after == first or byte_from(text, after - 1) != _COLON:
        return NO_TIME, -1, -1, -1, -1
    when = _nanoseconds(text, first, after - 1)
    if when >= 0 and _is_period(number_end - after, n_digits):
        heavy = 1
    if when < 0:  # an event's name, maybe after its period
        first, after = _token_before(text, start, first)
        if _decimal(text, first, after, _WEIGHT_DIGITS_MAX) >= 0:
            first, after = _token_before(text, start, first)
        if after > first and byte_from(text, after - 1) == _COLON:
            when = _nanoseconds(text, first, after - 1)
    if when < 0:
        return NO_TIME, -1, -1, -1, -1
    first, after = _token_before(text, start, first)
    who: Any = -1
    if after - first > 2 and byte_from(text, first) == _OPEN and byte_from(text, after - 1) == _CLOSE:
        who = _decimal(text, first + 1, after - 1, _CPU_DIGITS_MAX)
    if who < 0:
        return NO_CPU, -1, -1, -1, -1
    return 0, when, who, where, heavy


@compiled
def _newline_from(text: int, at: int) -> Any:
    """Return where the next newline is, from ``at`` on; there is one."""
    while True:
        other = eight_from(text, at) ^ _NEWLINES
        found = (other - _ONES) & ~other & _HIGH  # the lowest bit is a newline's; those above may not be
        if found:
            return at + np.int64(low_zeros(found) >> np.uint64(3))
        at += 8


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
    block: NDArray[np.uint8],
    n_bytes: int,
    time_ns: NDArray[np.int64],
    cpu: NDArray[np.int32],
    pfn: NDArray[np.int64],
    weight: NDArray[np.int64],
    instant: NDArray[np.int64],
    state: NDArray[np.int64],
    is_slow: bool = False,
) -> None:
    """Parse whole lines up to the first that is wrong.

    Args:
        block: uint8[n], of which ``n_bytes`` count, and at least :data:`PAD_BYTES` follow.
        n_bytes: whole lines: 0, or the last of them is a newline.
        time_ns, cpu, pfn, weight: filled, one element per sample.
        instant: int64[64, 2]: CPU and address of the accesses at the last time, -1 behind them; from block to
            block.
        state: int64[8]. In: the time of the last sample before this block. Out: lines, samples and
            samples at address 0 so far, the last time, what is wrong with the last line (0: nothing), where
            that line begins and ends, and lines that say an access once more.
        is_slow: every line goes word by word.
    """
    text = base_of(block)
    n = n_lines = n_unresolved = n_repeated = problem = 0
    last_ns = state[LAST_NS]
    position = bad_start = bad_end = length = 0
    while position < n_bytes and problem == 0:
        start = position
        end = start + length
        # As long as the line before: nothing in it is a newline where its CPU begins it.
        is_guess = end < n_bytes and byte_from(text, end) == _NEWLINE and byte_from(text, start) == _OPEN
        if not is_guess:
            end = _newline_from(text, start)
            length = end - start
            while start < end and _is_blank(byte_from(text, start)):
                start += 1
            if start == end or byte_from(text, start) == _HASH:
                n_lines += 1
                position = end + 1
                continue
        when, who, where, heavy, opening = _padded_line(text, start, start if is_slow else end)
        if when < 0 or (is_guess and opening != start):
            end = _newline_from(text, start)
            problem, when, who, where, heavy = _line_by_words(text, start, end)
        position = end + 1
        n_lines += 1
        if problem:
            bad_start, bad_end = start, end
            break
        if when < last_ns:
            problem, bad_start, bad_end = OUT_OF_ORDER, start, end
            break
        if where == 0:
            n_unresolved += 1
            if when > last_ns:
                instant[0, 0] = -1
            last_ns = when
            continue
        if when > last_ns:
            instant[0, 0], instant[0, 1], instant[1, 0] = who, where, -1
            last_ns = when
        elif _is_repeated(instant, who, where):
            n_repeated += 1
            continue
        time_ns[n], cpu[n], pfn[n], weight[n] = when, who, where >> _SHIFT, heavy
        n += 1
    state[N_LINES], state[N_SAMPLES], state[N_UNRESOLVED] = n_lines, n, n_unresolved
    state[LAST_NS], state[PROBLEM] = last_ns, problem
    state[BAD_START], state[BAD_END], state[N_REPEATED] = bad_start, bad_end, n_repeated
