"""JSON of damo as regions, a piece of text at a time: compiled, for :mod:`gpuscan.traces.built_in.damo`.

What is read here is what damo writes: a list of records, each with its intervals before its snapshots, each
of those with its end before its regions; keys between them in any order, unknown values of any kind.
Everything is checked as a parser of JSON would: keys said twice, numbers, strings. What is laid out in
another way, has escapes or characters beyond ASCII, or is wrong is :data:`ODD`: the file is read as a whole
then, which says what is wrong with it.

Regions are alike but for their numbers. What is between the numbers of the last one is compared eight
characters at a time, and only what differs is parsed. ``text`` is the address of a piece's first character
(:func:`gpuscan.traces.words.base_of`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled, inlined
from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT
from gpuscan.traces.words import base_of, byte_from, eight_from, low_zeros

PAD_BYTES = 16
"""Behind the text, which are looked at and do not count; 0 each."""

MORE, FULL, ODD, RECORD, DONE = range(1, 6)
"""Why a scan ended: more text is needed, or more room; the text is odd; a record begins; the list is over."""

MODE, FIRST, POSITION, N_ROWS, N_IDLE, HIGHEST, END_NS, N_LOOKS = range(8)
SAMPLE_NS, SEEN, N_KEYS, N_SNAPSHOT_KEYS, N_SLOTS, N_TEMPLATE, HAS_END, LAST_NS = range(8, 16)
N_STATE = 16
"""Slots of the scanner's state, int64; all 0 at first but ``N_LOOKS`` and ``HIGHEST`` (-1)."""

_DOCUMENT, _RECORDS, IN_RECORD, _SNAPSHOTS, _IN_SNAPSHOT, _REGIONS, BEHIND = range(7)
"""Where it is, in :data:`MODE`; :data:`FIRST` is 1 where nothing of the list or table was seen."""

_ADDRESS_MAX, _COUNT_MAX = 1 << 56, 1 << 62
_DIGITS_MAX, _EXACT_DIGITS_MAX = 18, 15
"""Of an int64, and of an integer that is exact as a float."""
_N_KEYS_MAX = 64
"""Of a table: they are compared with one another."""
_DEPTH_MAX = 12
TEMPLATE_BYTES, N_SLOTS_MAX = 2048, 16
N_HASHES = (4 + _DEPTH_MAX) * _N_KEYS_MAX
"""Of the keys of a record, a snapshot, a region, a table in that, and of all else inside one another."""
_OF_SNAPSHOT, _OF_REGION, _OF_INSIDE, _OF_OTHERS = (n * _N_KEYS_MAX for n in range(1, 5))

_BYTES, _NANOSECONDS, _MICROSECONDS, _COUNT = range(4)
"""What a quantity is in."""
_START, _END, _SAMPLES, _OTHER = range(4)
"""What a slot of the template is."""
_IN_STRING = 4
"""Added where it is one."""

_NEED, _WRONG = -1, -2
"""For a position: more text is needed; the text is odd."""
_QUOTE, _BACKSLASH, _COMMA, _COLON, _DOT, _MINUS = map(ord, '"\\,:.-')
_OPEN, _CLOSE, _BRACE, _END_BRACE = map(ord, "[]{}")
_ZERO, _NINE, _SPACE, _NEWLINE, _TAB, _RETURN = map(ord, "09 \n\t\r")
_LOWER_E, _LOWER_I, _LOWER_S, _LOWER_M, _LOWER_H, _LOWER_D, _LOWER_N, _LOWER_U, _LOWER_A, _LOWER_Z = map(
    ord, "eismhdnuaz"
)
_UPPER_E, _UPPER_B, _UPPER_K, _UPPER_M, _UPPER_G, _UPPER_T, _UPPER_P = map(ord, "EBKMGTP")
_PLUS, _PER_CENT = map(ord, "+%")
_POWERS = tuple(map(ord, "KMGTPE"))
_SPACES = np.uint64(0x2020202020202020)
_PAGE, _SHIFT = PAGE_BYTES, PAGE_SHIFT


def _word(text: str) -> tuple[np.uint64, np.uint64, int]:
    """Return a key as the two words and the length that :func:`_string` returns."""
    padded = text.encode().ljust(16, b"\0")
    first, second = (np.uint64(int.from_bytes(padded[at : at + 8], "little")) for at in (0, 8))
    return first, second, len(text)


_K_SNAPSHOTS, _K_INTERVALS, _K_SOURCE = map(_word, ("snapshots", "intervals", "data_source"))
_K_SAMPLE, _K_AGGREGATION = map(_word, ("sample_us", "aggr_us"))
_K_END_TIME, _K_REGIONS = map(_word, ("end_time", "regions"))
_K_START, _K_END, _K_ACCESSES = map(_word, ("start", "end", "nr_accesses"))
_K_SAMPLES, _K_PERCENT = map(_word, ("samples", "percent"))
_S_STAT, _S_VADDR, _S_FVADDR = map(_word, ("damon_stat", "vaddr", "fvaddr"))


@inlined
def _space(text: int, at: Any) -> Any:
    """Return where something else than white space follows; what is behind the text is something else."""
    while True:
        char = byte_from(text, at)
        if char == _SPACE:
            other = eight_from(text, at) ^ _SPACES
            at += 8 if other == 0 else np.int64(low_zeros(other) >> np.uint64(3))
        elif char in (_NEWLINE, _RETURN, _TAB):
            at += 1
        else:
            return at


@compiled
def _string(text: int, at: int, n: int) -> tuple[int, int, Any, Any, Any]:
    """Return what is behind the string at ``at``, its length, its first 16 characters, and its hash.

    One that names virtual addresses is odd.
    """
    nothing = np.uint64(0)
    if at >= n:
        return _NEED, 0, nothing, nothing, nothing
    if byte_from(text, at) != _QUOTE:
        return _WRONG, 0, nothing, nothing, nothing
    at += 1
    first = at
    words = np.uint64(0), np.uint64(0)
    low, high, hashed = words[0], words[1], np.uint64(14695981039346656037)
    while True:
        if at >= n:
            return _NEED, 0, nothing, nothing, nothing
        char = byte_from(text, at)
        if char == _QUOTE:
            break
        if char < 32 or char > 126 or char == _BACKSLASH:
            return _WRONG, 0, nothing, nothing, nothing
        place = np.uint64(at - first)
        if place < np.uint64(8):
            low |= np.uint64(char) << (place << np.uint64(3))
        elif place < np.uint64(16):
            high |= np.uint64(char) << ((place - np.uint64(8)) << np.uint64(3))
        hashed = (hashed ^ np.uint64(char)) * np.uint64(1099511628211)
        at += 1
    length = at - first
    is_vaddr = length == _S_VADDR[2] and low == _S_VADDR[0]
    if is_vaddr or (length == _S_FVADDR[2] and low == _S_FVADDR[0]):
        return _WRONG, 0, nothing, nothing, nothing
    return at + 1, length, low, high, hashed


@compiled
def _key(
    text: int, at: int, n: int, hashes: NDArray[np.uint64], first: int, n_keys: int
) -> tuple[int, int, Any, Any, Any]:
    """Return where the value begins of the key at ``at``, and the key as :func:`_string` does.

    It is the ``n_keys``-th of a table whose keys are noted from ``hashes[first]`` on; one that may be there
    twice is odd.
    """
    end, length, low, high, hashed = _string(text, at, n)
    if end < 0:
        return end, 0, low, high, hashed
    if n_keys >= _N_KEYS_MAX:
        return _WRONG, 0, low, high, hashed
    for i in range(first, first + n_keys):
        if hashes[i] == hashed:
            return _WRONG, 0, low, high, hashed
    at = _space(text, end)
    if at >= n:
        return _NEED, 0, low, high, hashed
    if byte_from(text, at) != _COLON:
        return _WRONG, 0, low, high, hashed
    at = _space(text, at + 1)
    if at >= n:
        return _NEED, 0, low, high, hashed
    hashes[first + n_keys] = hashed
    return at, length, low, high, hashed


@compiled
def _behind_value(text: int, at: int, n: int) -> tuple[int, bool]:
    """Return where the next key of a table begins behind a value, or what is behind the table: it is over."""
    at = _space(text, at)
    if at >= n:
        return _NEED, False
    if byte_from(text, at) == _END_BRACE:
        return at + 1, True
    if byte_from(text, at) != _COMMA:
        return _WRONG, False
    return _space(text, at + 1), False


@compiled
def _is_key(key: tuple[Any, Any, int], length: int, low: Any, high: Any) -> bool:
    return length == key[2] and low == key[0] and high == key[1]


@compiled
def _bare_number(text: int, at: int, n: int) -> int:
    """Return what is behind a number of JSON that begins at ``at``."""
    if byte_from(text, at) == _MINUS:
        at += 1
    first = at
    while _ZERO <= byte_from(text, at) <= _NINE:
        at += 1
    if at >= n:
        return _NEED
    if at == first or (byte_from(text, first) == _ZERO and at - first > 1) or at - first > _DIGITS_MAX:
        return _WRONG
    if byte_from(text, at) == _DOT:
        first = at + 1
        at = first
        while _ZERO <= byte_from(text, at) <= _NINE:
            at += 1
        if at >= n:
            return _NEED
        if at == first:
            return _WRONG
    if byte_from(text, at) == _LOWER_E or byte_from(text, at) == _UPPER_E:
        at += 1
        if byte_from(text, at) == _MINUS or byte_from(text, at) == _PLUS:
            at += 1
        first = at
        while _ZERO <= byte_from(text, at) <= _NINE:
            at += 1
        if at >= n:
            return _NEED
        if at == first or at - first > 2:
            return _WRONG
    return at


@compiled
def _word_of(text: int, at: int, n: int) -> int:
    """Return what is behind ``null``, ``true`` or ``false``."""
    if at + 5 >= n:
        return _NEED
    word = eight_from(text, at) & np.uint64(0xFFFFFFFF)
    if word == np.uint64(0x6C6C756E) or word == np.uint64(0x65757274):  # null, true
        return at + 4
    if word == np.uint64(0x736C6166) and byte_from(text, at + 4) == _LOWER_E:
        return at + 5
    return _WRONG


@compiled
def _scalar(text: int, at: int, n: int) -> int:
    """Return what is behind a string, number or word that begins at ``at``."""
    char = byte_from(text, at)
    if char == _QUOTE:
        return _string(text, at, n)[0]
    if char == _MINUS or _ZERO <= char <= _NINE:
        return _bare_number(text, at, n)
    return _word_of(text, at, n)


@compiled
def _value(text: int, at: int, n: int, hashes: NDArray[np.uint64]) -> int:
    """Return what is behind any value that begins at ``at``."""
    if at < n and byte_from(text, at) != _BRACE and byte_from(text, at) != _OPEN:
        return _scalar(text, at, n)
    depth = 0
    is_table, n_keys = np.zeros(_DEPTH_MAX, dtype=np.bool_), np.zeros(_DEPTH_MAX, dtype=np.int64)
    while True:
        if at >= n:
            return _NEED
        char = byte_from(text, at)
        if char in (_BRACE, _OPEN):
            if depth == _DEPTH_MAX:
                return _WRONG
            is_table[depth], n_keys[depth] = char == _BRACE, 0
            depth += 1
            at = _space(text, at + 1)
            if at >= n:
                return _NEED
            if byte_from(text, at) == (_END_BRACE if is_table[depth - 1] else _CLOSE):
                at += 1
                depth -= 1
            elif is_table[depth - 1]:
                at = _key(text, at, n, hashes, _OF_OTHERS + (depth - 1) * _N_KEYS_MAX, 0)[0]
                n_keys[depth - 1] = 1
                if at < 0:
                    return at
                continue
            else:
                continue
        else:
            at = _scalar(text, at, n)
            if at < 0:
                return at
        while depth:  # a value of a list or table has ended
            at = _space(text, at)
            if at >= n:
                return _NEED
            if byte_from(text, at) == _COMMA:
                at = _space(text, at + 1)
                if at >= n:
                    return _NEED
                if is_table[depth - 1]:
                    first = _OF_OTHERS + (depth - 1) * _N_KEYS_MAX
                    at = _key(text, at, n, hashes, first, n_keys[depth - 1])[0]
                    n_keys[depth - 1] += 1
                    if at < 0:
                        return at
                break
            if byte_from(text, at) != (_END_BRACE if is_table[depth - 1] else _CLOSE):
                return _WRONG
            at += 1
            depth -= 1
        if depth == 0:
            return at


@compiled
def _scale(text: int, first: int, end: int, unit: int) -> Any:
    """Return by what a number is multiplied whose unit is ``text[first:end]``, 0 where that is unknown."""
    length = end - first
    none, thousand = np.int64(0), np.int64(1000)
    if length == 0:
        return thousand if unit == _MICROSECONDS else np.int64(1)
    a, b, c = byte_from(text, first), byte_from(text, first + 1), byte_from(text, first + 2)
    if unit == _BYTES:
        if length == 1 and a == _UPPER_B:
            return np.int64(1)
        power = none
        for letter in _POWERS:
            power += 10
            if a == letter:
                is_known = length == 1 or (length == 2 and b == _UPPER_B)
                is_known = is_known or (length == 3 and b == _LOWER_I and c == _UPPER_B)
                return np.int64(1) << power if is_known else none
        return none
    if unit == _COUNT:
        if (
            length == 7
            and a == _LOWER_S
            and (eight_from(text, first) << np.uint64(8)) == (_K_SAMPLES[0] << np.uint64(8))
        ):
            return np.int64(1)
        return none
    if length == 1:
        if a == _LOWER_S:
            return thousand * 1_000_000
        if a == _LOWER_M:
            return thousand * 60_000_000
        if a == _LOWER_H:
            return thousand * 3_600_000_000
        if a == _LOWER_D:
            return thousand * 86_400_000_000
    elif length == 2 and b == _LOWER_S:
        if a == _LOWER_N:
            return np.int64(1)
        if a == _LOWER_U:
            return thousand
        if a == _LOWER_M:
            return thousand * 1000
    return none


@compiled
def _quantity(text: int, at: int, n: int, unit: int, lowest: int, limit: int) -> tuple[int, Any]:
    """Return what is behind a quantity that begins at ``at``, in a string or bare, and its value."""
    nothing = np.int64(0)
    is_text = byte_from(text, at) == _QUOTE
    at += is_text
    total, total_float, is_float = nothing, 0.0, False
    n_parts = 0
    while True:
        while is_text and byte_from(text, at) == _SPACE:
            at += 1
        is_negative = byte_from(text, at) == _MINUS
        if is_negative and (lowest == 0 or n_parts):
            return _WRONG, nothing
        at += is_negative
        first, n_digits, value = at, 0, nothing
        while True:
            char = byte_from(text, at)
            if _ZERO <= char <= _NINE:
                value = value * 10 + (np.int64(char) - _ZERO)
                n_digits += 1
                if n_digits > _DIGITS_MAX:
                    return _WRONG, nothing
            elif char != _COMMA or not is_text or at == first or at - first > 30:
                break
            at += 1
        if at >= n:
            return _NEED, nothing
        if n_digits == 0:
            return _WRONG, nothing
        if not is_text:
            if (
                (byte_from(text, first) == _ZERO and n_digits > 1)
                or byte_from(text, at) == _DOT
                or (byte_from(text, at) | 32) == _LOWER_E
            ):
                return _WRONG, nothing
            if unit == _MICROSECONDS:
                if value > limit // 1000:
                    return _WRONG, nothing
                value *= 1000
            value = -value if is_negative else value
            return (at, value) if lowest <= value <= limit else (_WRONG, nothing)
        power = 1.0
        if byte_from(text, at) == _DOT:
            at += 1
            first = at
            while _ZERO <= byte_from(text, at) <= _NINE:
                value = value * 10 + (np.int64(byte_from(text, at)) - _ZERO)
                power *= 10.0
                n_digits += 1
                if n_digits > _EXACT_DIGITS_MAX:
                    return _WRONG, nothing
                at += 1
            if at >= n:
                return _NEED, nothing
            if at == first or is_negative:
                return _WRONG, nothing
        while byte_from(text, at) == _SPACE:
            at += 1
        first = at
        while _LOWER_A <= (byte_from(text, at) | 32) <= _LOWER_Z and at - first < 9:
            at += 1
        if at >= n:
            return _NEED, nothing
        scale = _scale(text, first, at, unit)
        if scale == 0 or at - first > 8:
            return _WRONG, nothing
        if power > 1.0:
            if not is_float:
                total_float, is_float = float(total), True
            total_float += value / power * float(scale)
        elif value > limit // scale:
            return _WRONG, nothing
        elif is_float:
            total_float += float(value * scale)
        else:
            total += -value * scale if is_negative else value * scale
            if total > limit:
                return _WRONG, nothing
        n_parts += 1
        if byte_from(text, at) == _QUOTE:
            break
        if n_parts > 8 or is_negative:
            return _WRONG, nothing
    if is_float:
        if not 0.0 <= total_float <= float(limit):
            return _WRONG, nothing
        total = np.int64(np.ceil(total_float))
    return (at + 1, total) if lowest <= total <= limit else (_WRONG, nothing)


@compiled
def _percent(text: int, at: int, n: int) -> tuple[int, Any]:
    """Return what is behind a percentage at ``at``, and its value: ``65``, ``"65"``, ``"65 %"``."""
    is_text = byte_from(text, at) == _QUOTE
    at += is_text
    value, first = np.int64(0), at
    while _ZERO <= byte_from(text, at) <= _NINE and at - first < 4:
        value = value * 10 + (np.int64(byte_from(text, at)) - _ZERO)
        at += 1
    if at >= n:
        return _NEED, value
    if at == first or value > 100 or (byte_from(text, first) == _ZERO and at - first > 1):
        return _WRONG, value
    if not is_text:
        ends = byte_from(text, at) == _DOT or (byte_from(text, at) | 32) == _LOWER_E
        return (_WRONG if ends else at), value
    while byte_from(text, at) == _SPACE:
        at += 1
    at += byte_from(text, at) == _PER_CENT
    if at >= n:
        return _NEED, value
    return (at + 1 if byte_from(text, at) == _QUOTE else _WRONG), value


@compiled
def _note_slot(
    text: int,
    region: int,
    first: int,
    end: int,
    kind: int,
    slots: NDArray[np.int64],
    n_slots: int,
) -> int:
    """Note a number of a region, if it is one; return how many are noted, -1 where it is not like others."""
    if n_slots < 0:
        return n_slots
    is_text = byte_from(text, first) == _QUOTE
    first += is_text
    end -= is_text
    if not _ZERO <= byte_from(text, first) <= _NINE:
        return n_slots if kind == _OTHER else -1  # a word stays what it is
    for i in range(first, end):
        if not is_text and not _ZERO <= byte_from(text, i) <= _NINE:
            return -1
    if n_slots == N_SLOTS_MAX:
        return -1
    slots[n_slots, 0], slots[n_slots, 1] = first - region, end - region
    slots[n_slots, 2] = kind + (_IN_STRING if is_text else 0)
    return n_slots + 1


@compiled
def _region(
    text: int,
    region: int,
    n: int,
    hashes: NDArray[np.uint64],
    slots: NDArray[np.int64],
    found: NDArray[np.int64],
) -> tuple[int, int]:
    """Return what is behind the region that begins at ``region``, and how many numbers of it are noted.

    ``found``: filled, its start, end, accesses, and of how many that is, 0 where the record says.
    """
    has_start = has_end = has_accesses = False
    n_keys = n_slots = 0
    at = _space(text, region + 1)
    while True:
        at, length, low, high, _ = _key(text, at, n, hashes, _OF_REGION, n_keys)
        if at < 0:
            return at, 0
        n_keys += 1
        first = at
        if _is_key(_K_START, length, low, high) or _is_key(_K_END, length, low, high):
            is_start = length == _K_START[2]
            kind = _START if is_start else _END
            at, found[kind] = _quantity(text, at, n, _BYTES, 0, _ADDRESS_MAX)
            has_start, has_end = has_start or is_start, has_end or not is_start
            if at >= 0:
                n_slots = _note_slot(text, region, first, at, kind, slots, n_slots)
        elif _is_key(_K_ACCESSES, length, low, high):
            at, n_slots = _accesses(text, at, n, hashes, region, slots, n_slots, found)
            has_accesses = True
        elif byte_from(text, at) == _BRACE:
            at, n_slots = _others(text, at, n, hashes, region, slots, n_slots)
        else:
            at = _value(text, at, n, hashes)
            if at >= 0:
                is_list = byte_from(text, first) == _OPEN
                n_slots = -1 if is_list else _note_slot(text, region, first, at, _OTHER, slots, n_slots)
        if at < 0:
            return at, 0
        at, is_over = _behind_value(text, at, n)
        if at < 0:
            return at, 0
        if is_over:
            break
    if not (has_start and has_end and has_accesses) or found[_END] < found[_START]:
        return _WRONG, 0
    return at, n_slots


@compiled
def _accesses(
    text: int,
    at: int,
    n: int,
    hashes: NDArray[np.uint64],
    region: int,
    slots: NDArray[np.int64],
    n_slots: int,
    found: NDArray[np.int64],
) -> tuple[int, int]:
    """Return what is behind ``nr_accesses``, and how many numbers are noted; see :func:`_region`."""
    if byte_from(text, at) != _BRACE:
        return _WRONG, 0
    n_keys, samples_at, percent_at = 0, -1, -1
    at = _space(text, at + 1)
    while True:
        at, length, low, high, _ = _key(text, at, n, hashes, _OF_INSIDE, n_keys)
        if at < 0:
            return at, 0
        n_keys += 1
        first = at
        if byte_from(text, at) == _LOWER_N:
            at = _word_of(text, at, n)
        elif _is_key(_K_SAMPLES, length, low, high):
            samples_at = at
            at, found[_SAMPLES] = _quantity(text, at, n, _COUNT, -1, _COUNT_MAX)
            if at >= 0:
                n_slots = _note_slot(text, region, first, at, _SAMPLES, slots, n_slots)
        elif byte_from(text, at) == _BRACE or byte_from(text, at) == _OPEN:
            return _WRONG, 0
        else:
            if _is_key(_K_PERCENT, length, low, high):
                percent_at = at
            at = _scalar(text, at, n)
            if at >= 0:
                n_slots = _note_slot(text, region, first, at, _OTHER, slots, n_slots)
        if at < 0:
            return at, 0
        at, is_over = _behind_value(text, at, n)
        if at < 0:
            return at, 0
        if is_over:
            break
    found[_SAMPLES + 1] = 0
    if samples_at < 0:
        if percent_at < 0:
            return _WRONG, 0
        end, found[_SAMPLES] = _percent(text, percent_at, n)
        if end < 0:
            return _WRONG, 0
        found[_SAMPLES + 1] = 100
        n_slots = -1
    return at, n_slots


@compiled
def _others(
    text: int,
    at: int,
    n: int,
    hashes: NDArray[np.uint64],
    region: int,
    slots: NDArray[np.int64],
    n_slots: int,
) -> tuple[int, int]:
    """Return what is behind a table of a region that is not read, and how many numbers are noted."""
    n_keys = 0
    at = _space(text, at + 1)
    if at < n and byte_from(text, at) == _END_BRACE:
        return at + 1, n_slots
    while True:
        at = _key(text, at, n, hashes, _OF_INSIDE, n_keys)[0]
        if at < 0:
            return at, 0
        n_keys += 1
        first = at
        is_scalar = byte_from(text, at) != _BRACE and byte_from(text, at) != _OPEN
        at = _value(text, at, n, hashes)
        if at < 0:
            return at, 0
        n_slots = _note_slot(text, region, first, at, _OTHER, slots, n_slots) if is_scalar else -1
        at, is_over = _behind_value(text, at, n)
        if at < 0:
            return at, 0
        if is_over:
            return at, n_slots


@inlined
def _is_same(text: int, at: int, template: int, first: int, n_bytes: int) -> bool:
    """Whether the next characters are those of the template."""
    done = 0
    while done + 8 <= n_bytes:
        if eight_from(text, at + done) != eight_from(template, first + done):
            return False
        done += 8
    left = np.uint64(8 * (n_bytes - done))
    if left == 0:
        return True
    mask = (np.uint64(1) << left) - np.uint64(1)
    return bool(((eight_from(text, at + done) ^ eight_from(template, first + done)) & mask) == 0)


@inlined
def _like_template(
    text: int,
    at: int,
    n: int,
    template: NDArray[np.uint8],
    n_template: int,
    slots: NDArray[np.int64],
    n_slots: int,
    found: NDArray[np.int64],
) -> int:
    """Return what is behind the region that begins at ``at``, -1 where it is not like the last one."""
    behind = 0
    for slot in range(n_slots):
        n_same = slots[slot, 0] - behind
        if at + n_same + 32 > n or not _is_same(text, at, base_of(template), behind, n_same):
            return -1
        at += n_same
        kind = slots[slot, 2]
        is_text = kind >= _IN_STRING
        first, n_digits, value = at, 0, np.int64(0)
        while True:
            char = byte_from(text, at)
            digit = np.int64(char) - _ZERO
            if 0 <= digit <= 9:
                value = value * 10 + digit
                n_digits += 1
            elif char != _COMMA or not is_text or at == first:
                break
            at += 1
        if n_digits == 0 or n_digits > _DIGITS_MAX or at - first > 24:
            return -1
        if is_text:
            kind -= _IN_STRING
            if byte_from(text, at) != _QUOTE:
                if kind == _OTHER:
                    char = byte_from(text, at)
                    while char > 31 and char < 127 and char != _QUOTE and char != _BACKSLASH:
                        at += 1
                        char = byte_from(text, at)
                    if char != _QUOTE:
                        return -1
                else:
                    limit = _COUNT_MAX if kind == _SAMPLES else _ADDRESS_MAX
                    unit = _COUNT if kind == _SAMPLES else _BYTES
                    at, value = _quantity(text, first - 1, n, unit, 0, limit)
                    if at < 0:
                        return -1
                    at -= 1
        elif byte_from(text, first) == _ZERO and n_digits > 1:
            return -1
        if kind != _OTHER:
            found[kind] = value
        behind = slots[slot, 1]
    n_same = n_template - behind
    if at + n_same >= n or not _is_same(text, at, base_of(template), behind, n_same):
        return -1
    if found[_START] > _ADDRESS_MAX or found[_END] > _ADDRESS_MAX or found[_END] < found[_START]:
        return -1
    found[_SAMPLES + 1] = 0
    return at + n_same


@compiled
def _intervals(text: int, at: int, n: int, hashes: NDArray[np.uint64], state: NDArray[np.int64]) -> int:
    """Return what is behind the value of ``intervals``; note how many looks an aggregation has."""
    if byte_from(text, at) == _LOWER_N:
        return _word_of(text, at, n)
    if byte_from(text, at) != _BRACE:
        return _WRONG
    sample_ns = aggregation_ns = np.int64(-1)
    n_keys = 0
    at = _space(text, at + 1)
    while True:
        at, length, low, high, _ = _key(text, at, n, hashes, _OF_REGION, n_keys)
        if at < 0:
            return at
        n_keys += 1
        if _is_key(_K_SAMPLE, length, low, high):
            at, sample_ns = _quantity(text, at, n, _MICROSECONDS, 0, _COUNT_MAX)
        elif _is_key(_K_AGGREGATION, length, low, high):
            at, aggregation_ns = _quantity(text, at, n, _MICROSECONDS, 0, _COUNT_MAX)
        else:
            at = _value(text, at, n, hashes)
        if at < 0:
            return at
        at, is_over = _behind_value(text, at, n)
        if at < 0:
            return at
        if is_over:
            break
    if sample_ns < 0 or aggregation_ns < 0:
        return _WRONG
    if sample_ns > 0:
        state[N_LOOKS] = max(np.int64(1), aggregation_ns // sample_ns)
    return at


@compiled
def scan(
    piece: NDArray[np.uint8],
    n: int,
    state: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    template: NDArray[np.uint8],
    slots: NDArray[np.int64],
    time_ns: NDArray[np.int64],
    pfn: NDArray[np.int64],
    n_pages: NDArray[np.int64],
    weight: NDArray[np.int64],
    share: NDArray[np.float64],
) -> int:
    """Go on from ``state[POSITION]``, to the end of the text or of the room; return why it ended.

    Args:
        piece: uint8[n + 16], of text, of which ``n`` count; 0 from there on.
        n: bytes of text.
        state: int64[16], from call to call; ``POSITION`` is where it has come to.
        hashes: uint64[N_HASHES], from call to call.
        template: uint8[TEMPLATE_BYTES + 16], from call to call: the last region.
        slots: int64[16, 3], from call to call: begin and end of a number in it, and what that is.
        time_ns, pfn, n_pages, weight, share: filled from ``state[N_ROWS]`` on, one per accessed region.
    """
    text = base_of(piece)
    found = np.zeros(4, dtype=np.int64)
    at = state[POSITION]
    while True:
        at = _space(text, at)
        state[POSITION] = at
        if at >= n:
            return MORE
        mode, is_first = state[MODE], state[FIRST]
        char = byte_from(text, at)
        if mode == _DOCUMENT:
            if char != _OPEN:
                return ODD
            at += 1
            state[MODE], state[FIRST] = _RECORDS, 1
            continue
        if mode == BEHIND:
            return ODD
        if mode in (_REGIONS, _SNAPSHOTS, _RECORDS):
            if char == _CLOSE:
                at += 1
                state[MODE] = BEHIND if mode == _RECORDS else mode - 1
                state[FIRST] = 0
                if mode == _RECORDS:
                    at = _space(text, at)
                    state[POSITION] = at
                    return DONE
                continue
            if not is_first:
                if char != _COMMA:
                    return ODD
                at = _space(text, at + 1)
                if at >= n:
                    return MORE
            if byte_from(text, at) != _BRACE:
                return ODD
            if mode == _REGIONS:
                if state[N_ROWS] == len(time_ns):
                    return FULL
                end = -1
                if state[N_SLOTS] > 0:
                    n_template, n_slots = state[N_TEMPLATE], state[N_SLOTS]
                    end = _like_template(text, at, n, template, n_template, slots, n_slots, found)
                if end < 0:
                    end, n_slots = _region(text, at, n, hashes, slots, found)
                    state[N_SLOTS] = 0
                    if end == _NEED:
                        return MORE
                    if end < 0:
                        return ODD
                    if end - at <= TEMPLATE_BYTES and n_slots > 0:
                        template[: end - at] = piece[at:end]
                        state[N_SLOTS], state[N_TEMPLATE] = n_slots, end - at
                at = end
                state[FIRST] = 0
                state[HIGHEST] = max(state[HIGHEST], found[_START])
                if found[_START] < found[_END] and found[_SAMPLES] > 0:
                    row = state[N_ROWS]
                    first = found[_START] >> _SHIFT
                    time_ns[row], pfn[row] = state[END_NS], first
                    n_pages[row] = ((found[_END] + _PAGE - 1) >> _SHIFT) - first
                    weight[row] = found[_SAMPLES]
                    n_most = found[_SAMPLES + 1] if found[_SAMPLES + 1] > 0 else state[N_LOOKS]
                    share[row] = float(found[_SAMPLES]) / float(n_most) if n_most > 0 else np.nan
                    state[N_ROWS] = row + 1
                else:
                    state[N_IDLE] += 1
                continue
            state[POSITION] = at
            at += 1
            state[MODE], state[FIRST] = mode + 1, 1
            if mode == _RECORDS:
                state[N_KEYS] = state[SEEN] = state[LAST_NS] = 0
                state[N_LOOKS] = -1
                state[POSITION] = at
                return RECORD
            state[N_SNAPSHOT_KEYS] = state[HAS_END] = 0
            continue
        # Inside a record or a snapshot: the next key with its value.
        is_record = mode == IN_RECORD
        if char == _END_BRACE:
            if not (state[SEEN] if is_record else state[HAS_END] > 1):
                return ODD
            at += 1
            state[MODE], state[FIRST] = mode - 1, 0
            continue
        if not is_first:
            if char != _COMMA:
                return ODD
            at = _space(text, at + 1)
            if at >= n:
                return MORE
        noted = 0 if is_record else _OF_SNAPSHOT
        n_keys = state[N_KEYS if is_record else N_SNAPSHOT_KEYS]
        at, length, low, high, _ = _key(text, at, n, hashes, noted, n_keys)
        if at == _NEED:
            return MORE
        if at < 0:
            return ODD
        end = at
        is_list = False
        if is_record:
            if _is_key(_K_SNAPSHOTS, length, low, high):
                is_list = True
                state[SEEN] = 1
            elif _is_key(_K_INTERVALS, length, low, high):
                end = _WRONG if state[SEEN] else _intervals(text, at, n, hashes, state)
            elif _is_key(_K_SOURCE, length, low, high) and byte_from(text, at) == _QUOTE:
                end, length, low, high, _ = _string(text, at, n)
                if end >= 0 and _is_key(_S_STAT, length, low, high):
                    end = _WRONG
            else:
                end = _value(text, at, n, hashes)
        elif _is_key(_K_REGIONS, length, low, high):
            is_list = True
            if state[HAS_END] != 1:
                return ODD
            state[HAS_END] = 2
        elif _is_key(_K_END_TIME, length, low, high):
            end, state[END_NS] = _quantity(text, at, n, _NANOSECONDS, 0, _COUNT_MAX)
            if end >= 0:
                if state[END_NS] < state[LAST_NS]:
                    return ODD
                state[LAST_NS], state[HAS_END] = state[END_NS], 1
        else:
            end = _value(text, at, n, hashes)
        if end == _NEED:
            return MORE
        if end < 0:
            return ODD
        if is_list:
            if byte_from(text, at) != _OPEN:
                return ODD
            end = at + 1
            state[MODE] = mode + 1
        state[FIRST] = 1 if is_list else 0
        state[N_KEYS if is_record else N_SNAPSHOT_KEYS] = n_keys + 1
        at = end
