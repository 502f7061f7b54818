"""Traces in lines of text that are read by a pattern: some hundred thousand lines a second."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT
from gpuscan.traces.pieces import PackedError, Readable, open_pieces
from gpuscan.traces.samples import UNKNOWN_CPU, Samples

BLOCK_BYTES = 1 << 20
LINE_BYTES_MAX = 1 << 16
_SHOWN = 60
_N_SNIFFED = 8
PID_SHIFT = 40
"""Below: virtual pages of one process; 52 bits of address. Above: its PID, of 22 bits (PID_MAX_LIMIT)."""


def page_of(pid: int, address: int) -> int:
    """Return one number for a virtual page of a process, of those below 2**52."""
    return pid << PID_SHIFT | (address >> PAGE_SHIFT) & ((1 << PID_SHIFT) - 1)


def lines_of(path: Path, on_read: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, some thousand at a time, with the number of their first, from 1.

    Raises:
        InputError: a line is too long, or the last one does not end.
        OSError: the file cannot be read.
    """
    with open_pieces(path, on_read) as pieces:
        yield from lines_in(path, pieces)


def lines_in(path: Path, pieces: Readable) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines of what ``path`` has as :func:`lines_of` does."""
    place = memoryview(bytearray(BLOCK_BYTES))
    number, left = 1, b""
    while True:
        try:
            n_bytes = pieces.readinto(place)
        except PackedError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        text = left + place[:n_bytes]
        if not n_bytes:
            break
        _check_lines(path, number, text)
        whole = text.rfind(b"\n") + 1
        left = text[whole:]
        if whole:
            yield number, text[:whole]
            number += text.count(b"\n", 0, whole)
    if left.strip():
        raise InputError(f"{path}:{number}: the trace ends in the middle of this line; copy it again whole")


def _check_lines(path: Path, number: int, text: bytes) -> None:
    """Refuse a line that is too long, the last one, which does not end yet, too."""
    start = 0
    while len(text) - start > LINE_BYTES_MAX:
        end = text.rfind(b"\n", start, start + LINE_BYTES_MAX + 1)
        if end < 0:
            number += text.count(b"\n", 0, start)
            raise InputError(
                f"{path}:{number}: the line is longer than {LINE_BYTES_MAX:,} bytes; give a trace"
            )
        start = end + 1


class Lines:
    """What is in lines of which each matches a pattern.

    Args:
        path: for what is said of a line.
        pattern: of any line that may be there, with its newline; groups are empty where they do not apply.
        remedy: what to do about another line.
    """

    def __init__(self, path: Path, pattern: re.Pattern[bytes], remedy: str) -> None:
        self._path, self._pattern, self._remedy = path, pattern, remedy
        self._last_ns = -1

    def rows(self, number: int, text: bytes) -> list[tuple[bytes, ...]]:
        """Return the groups of each of some whole lines, the first of which has a number.

        Raises:
            InputError: a line does not match.
        """
        rows: list[tuple[bytes, ...]] = self._pattern.findall(text)
        if len(rows) != text.count(b"\n"):
            for at, line in enumerate(text.splitlines(keepends=True)):
                if not self._pattern.fullmatch(line):
                    self.refuse(number + at, line, "is not one of such a trace")
            self.refuse(number, text, "is not one of such a trace")  # an odd line end
        return rows

    def in_order(self, number: int, time_ns: NDArray[np.int64]) -> None:
        """Check that times ascend, from the last ones on; ``number`` is about where they are."""
        if len(time_ns):
            if time_ns[0] < self._last_ns or bool((np.diff(time_ns) < 0).any()):
                raise InputError(
                    f"{self._path}:{number}: in or after this line a time is earlier than the one before; "
                    "traces are in the order of time"
                )
            self._last_ns = int(time_ns[-1])

    def refuse(self, number: int, line: bytes, problem: str) -> None:
        """Raise an :class:`InputError` about a line."""
        shown = line[:_SHOWN].decode("utf-8", "replace").strip()
        raise InputError(f"{self._path}:{number}: the line {problem} ({shown!r}); {self._remedy}")


def whole_numbers(texts: Sequence[bytes], base: int = 10) -> NDArray[np.int64]:
    """Return numbers that a pattern has found; of up to 18 decimal or 15 hexadecimal digits."""
    return np.array([int(text, base) for text in texts], dtype=np.int64)


def accesses(
    time_ns: NDArray[np.int64],
    page: NDArray[np.int64],
    weight: NDArray[np.int64] | None = None,
    n_pages: NDArray[np.int64] | None = None,
    **counts: Any,
) -> Samples:
    """Return samples of which nobody says the CPU; weight 1 and one page where nothing else is given."""
    ones = np.ones(len(page), dtype=np.int64)
    return Samples(
        time_ns,
        np.full(len(page), UNKNOWN_CPU, dtype=np.int32),
        page,
        ones if n_pages is None else n_pages,
        ones if weight is None else weight,
        **counts,
    )


def pages_between(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many pages have a byte in [start, end) each."""
    return ((end + (PAGE_BYTES - 1)) >> PAGE_SHIFT) - (start >> PAGE_SHIFT)


def begins_with_lines(start: bytes, pattern: re.Pattern[bytes], n_least: int = 1) -> bool:
    """Whether each of the first whole lines of a file matches, and there are as many at least."""
    lines = start[: start.rfind(b"\n") + 1].splitlines(keepends=True)[:_N_SNIFFED]
    return len(lines) >= n_least and all(pattern.fullmatch(line) for line in lines)


def first_line_of(start: bytes) -> bytes:
    """Return the first line of a file that is not blank and no comment, empty without one."""
    return next((line for line in start.splitlines() if line.strip() and not line.startswith(b"#")), b"")
