"""Hot lists in what ``perf script -D`` prints; :mod:`gpuscan.traces.built_in.cxl_hmu` says what they are.

A dump says when a part of the AUX buffer was filled apart from what is in that part (``PERF_RECORD_AUX`` and
``PERF_RECORD_AUXTRACE``), before it or behind: so it is gone through twice, first for the times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.traces.text import lines_of

_NUMBER = rb"(0|0x[0-9a-f]{1,15})"
_EVENT = (
    rb"(?:(-1|[0-9]{1,18}) )?(?:(-1|[0-9]{1,18}) )?"
    rb"0x[0-9a-f]{1,16}(?:@[^\n]{0,4096}?)? \[0x[0-9a-f]{1,16}\]: PERF_RECORD_"
)
_AUX = re.compile(
    rb"^" + _EVENT + rb"AUX offset: " + _NUMBER + rb" size: " + _NUMBER + rb"(?![^\s])", re.MULTILINE
)
_AUXTRACE = re.compile(
    _EVENT
    + rb"AUXTRACE size: "
    + _NUMBER
    + rb" +offset: "
    + _NUMBER
    + rb" +ref: (?:0|0x[0-9a-f]{1,16}) +idx: ([0-9]{1,9}) +tid: -?[0-9]{1,9} +cpu: (-?[0-9]{1,9})\s*"
)
_DATA = re.compile(rb"\. \.\.\. CXL_HMU data: size ([0-9]{1,18}) bytes\s*")
_HEADER_0 = re.compile(rb"Header 0: units: ([0-9a-f]{1,4}) counter_width ([0-9a-f]{1,2})\s*")
_HEADER_1 = re.compile(rb"Header 1 : [0-9a-f]{1,16}\s*")
_WORD_BYTES, _ENTRY_DIGITS = 8, 16
_N_PARTS_MAX = 1 << 21
"""Of the AUX buffer whose times are kept: 100 MB."""
_REMEDY = "give what perf script -D prints, whole"


@dataclass(frozen=True, slots=True, eq=False)
class HotList:
    """What the driver copied at once.

    Attributes:
        line: of its first header, from 1.
        time_ns: when, on the clock of perf; -1 where the dump does not say.
        units, counts: int64[n], units of the device and how often they were accessed.
    """

    line: int
    time_ns: int
    units: NDArray[np.int64]
    counts: NDArray[np.int64]


def hot_lists(path: Path, on_read: Callable[[int], None]) -> Iterator[HotList]:
    """Yield the hot lists of a dump in its order.

    Raises:
        InputError: a list is cut short or foreign (names the line), there is none, or they are of several
            buffers.
        OSError: the file cannot be read.
    """
    reader = _Reader(path, _Times(path))
    for first, text in lines_of(path, on_read):
        yield from reader.lists(first, text.split(b"\n")[:-1])
    reader.end()


class _Times:
    """When each part of the AUX buffers was filled.

    Args:
        path: of the dump, which is gone through.
    """

    def __init__(self, path: Path) -> None:
        parts: list[tuple[int, int, int, int]] = []
        for first, text in lines_of(path, lambda _: None):
            for cpu, time, offset, size in _AUX.findall(text):
                # One number is the time: perf prints the CPU where it was recorded, too.
                cpu_or_none, time_or_none = (cpu, time) if time else (b"-1", cpu or b"-1")
                start = int(offset, 0)
                parts.append((int(cpu_or_none), start, start + int(size, 0), int(time_or_none)))
            if len(parts) > _N_PARTS_MAX:
                raise InputError(
                    f"{path}:{first}: the dump has more than {_N_PARTS_MAX:,} parts of AUX buffers; record "
                    "for a shorter time"
                )
        rows = np.array(parts, dtype=np.int64).reshape(-1, 4)
        self._rows = rows[np.argsort(rows[:, 1], kind="stable")]

    def at(self, cpu: int, offset: int) -> int:
        """Return when a byte of the buffer of a CPU was filled, -1 where nobody says."""
        rows = self._rows
        last = int(np.searchsorted(rows[:, 1], offset, side="right"))
        for row in rows[max(0, last - _N_LOOKED) : last][::-1].tolist():
            if row[0] in (cpu, -1) and row[1] <= offset < row[2]:
                return int(row[3])
        return -1


_N_LOOKED = 4096
"""Parts that begin before a byte and are looked at: other CPUs have buffers too."""


@dataclass(slots=True)
class _Reader:
    """Goes through lines, and gives the lists in them."""

    path: Path
    times: _Times
    idx: int = -1
    cpu: int = -1
    offset: int = -1
    n_words: int = 0
    """Of the part of the buffer that were seen."""
    of_idx: int | None = None
    n_left: int = -1
    """Entries of the list that are still to come; -1 outside one, -2 behind its first header."""
    n_listed: int = 0
    width: int = 0
    line: int = 0
    time_ns: int = -1
    n_lists: int = 0
    held: list[NDArray[np.uint64]] = field(default_factory=list)

    def lists(self, first: int, lines: list[bytes]) -> Iterator[HotList]:
        """Yield the lists that end in these lines, the first of which has a number."""
        at = 0
        while at < len(lines):
            if self.n_left >= 0:
                taken = lines[at : at + self.n_left]
                self._take(first + at, taken)
                at += len(taken)
            else:
                self._look(first + at, lines[at])
                at += 1
            if self.n_left == 0:
                yield self._done()

    def end(self) -> None:
        """Check that no list was under way, and that there was one.

        Raises:
            InputError: it is not so.
        """
        if self.n_left != -1:
            raise InputError(f"{self.path}:{self.line}: the list that begins here is cut short; {_REMEDY}")
        if not self.n_lists:
            raise InputError(
                f"{self.path} is a dump of perf without a hot list (CXL_HMU data); record the event "
                "cxl_hmu_memX.Y.Z, and dump it by a perf that knows it"
            )

    def _take(self, first: int, lines: list[bytes]) -> None:
        """Take entries, a line each."""
        words = [line.rstrip() for line in lines]
        try:
            if any(len(word) != _ENTRY_DIGITS for word in words):
                raise ValueError
            content = bytes.fromhex(b"".join(words).decode("ascii"))
        except ValueError:
            wrong = next(at for at, word in enumerate(words) if not re.fullmatch(rb"[0-9a-f]{16}", word))
            raise self._foreign(first + wrong, lines[wrong]) from None
        if len(content) != _WORD_BYTES * len(words):  # a blank among the digits
            wrong = next(at for at, word in enumerate(words) if not re.fullmatch(rb"[0-9a-fA-F]{16}", word))
            raise self._foreign(first + wrong, lines[wrong])
        self.held.append(np.frombuffer(content, dtype=">u8").astype(np.uint64))
        self.n_left -= len(words)
        self.n_words += len(words)

    def _look(self, number: int, line: bytes) -> None:
        """Look at a line that is no entry."""
        if self.n_left == -2:
            if not _HEADER_1.fullmatch(line):
                raise self._foreign(number, line)
            self.n_left = self.n_listed
            self.n_words += 1
        elif found := _HEADER_0.fullmatch(line):
            self._begin(number, int(found[1], 16), int(found[2], 16))
        elif _DATA.fullmatch(line):
            self.n_words = 0
            if self.of_idx not in (None, self.idx):
                raise InputError(
                    f"{self.path}:{number}: the dump has hot lists of several units, and does not say of "
                    "which device each is; record one cxl_hmu_memX.Y.Z at a time"
                )
            self.of_idx = self.idx
        elif found := _AUXTRACE.fullmatch(line):
            self.offset, self.idx, self.cpu = int(found[4], 0), int(found[5]), int(found[6])

    def _begin(self, number: int, n_listed: int, width: int) -> None:
        if not 0 < width < 64:
            raise InputError(f"{self.path}:{number}: counters have {width} of 64 bits; record it again")
        at = -1 if self.offset < 0 else self.offset + _WORD_BYTES * self.n_words
        self.time_ns = -1 if at < 0 else self.times.at(self.cpu, at)
        self.line, self.n_listed, self.width, self.n_left = number, n_listed, width, -2
        self.n_words += 1
        self.n_lists += 1

    def _done(self) -> HotList:
        words = np.concatenate([np.empty(0, dtype=np.uint64), *self.held])
        self.held, self.n_left = [], -1
        width = np.uint64(self.width)
        counts = words & ((np.uint64(1) << width) - np.uint64(1))
        return HotList(self.line, self.time_ns, (words >> width).astype(np.int64), counts.astype(np.int64))

    def _foreign(self, number: int, line: bytes) -> InputError:
        shown = line[:60].decode("utf-8", "replace")
        return InputError(
            f"{self.path}:{number}: the line is none of the hot list that begins in line {self.line} "
            f"({shown!r}); {_REMEDY}"
        )
