"""Regions of damo's JSON, read piece by piece: memory is bounded, however long the record.

Targets are recorded one behind the other in the file and side by side in time. So the file is gone through
once: whether all of it is laid out as :mod:`gpuscan.traces.damo_regions` reads it, and where each target
begins. Of a small one the regions are kept; a large one is gone through again, from all those places at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.traces import damo_regions as regions
from gpuscan.traces.pieces import PackedError, Pieces, open_pieces
from gpuscan.traces.samples import UNKNOWN_CPU, Samples

_PIECE_BYTES = 1 << 20
_PIECE_BYTES_MAX = 8 << 20
"""What is not whole in so much is not damo's: a region has 300 bytes."""
_N_ROWS = 1 << 16
_N_KEPT = 1 << 21
"""Regions that are kept rather than read twice: 100 MB."""
_N_RECORDS_MAX = 64
"""Targets that are read side by side; each takes 6 MB."""


@dataclass(frozen=True)
class Streamed:
    """The regions of a file, and what was learnt when it was gone through.

    Attributes:
        n_targets: how many targets it has.
        most_accesses: in how many looks the most accessed region was accessed, of those whose looks nobody
            says; at least 1.
        blocks: the accessed regions, in the order of time; NaN is a share that nobody says.
    """

    n_targets: int
    most_accesses: int
    blocks: Iterator[Samples]


def share_of(samples: Samples) -> NDArray[np.float64]:
    """Return in which share of the looks each region was accessed, NaN where nobody says."""
    assert samples.share is not None  # regions have shares
    return samples.share


def most_accesses(samples: Samples) -> int:
    """Return in how many looks the most accessed region was accessed, of those with no share; at least 1."""
    return int(samples.weight[np.isnan(share_of(samples))].max(initial=1))


def stream(path: Path, on_read: Callable[[int], None]) -> Streamed | None:
    """Go through a file and return its regions, None where it has to be read as a whole.

    Args:
        path: of the file.
        on_read: called with the bytes of the file read since the last call, by this function.

    Raises:
        OSError: the file cannot be read.
    """
    targets: list[int] = []
    kept: list[Samples] | None = []
    n_kept, most = 0, 1
    try:
        with open_pieces(path, on_read) as pieces:
            for samples in _Scan(pieces).blocks(targets.append):
                n_kept += len(samples)
                most = max(most, most_accesses(samples))
                if n_kept > _N_KEPT:
                    kept = None
                elif kept is not None:
                    kept.append(samples)
    except (PackedError, _OddError):
        return None
    if kept is not None:
        joined = iter(kept) if len(targets) < 2 or not kept else iter([Samples.joined(kept)])
        return Streamed(len(targets), most, joined)
    if len(targets) > _N_RECORDS_MAX:
        return None
    return Streamed(len(targets), most, _merged([_target(path, offset) for offset in targets]))


class _OddError(Exception):
    """The text is not laid out as damo does it."""


class _Scan:
    """Goes through the text of a file, or through one target's part of it.

    Args:
        pieces: of the file.
        offset: of the text behind a target's brace; 0 for all of them.
    """

    def __init__(self, pieces: Pieces, offset: int = 0) -> None:
        self._pieces, self._offset = pieces, offset
        self._text = np.zeros(_PIECE_BYTES + regions.PAD_BYTES, dtype=np.uint8)
        self._n_bytes = self._n_gone = 0
        self._state = np.zeros(regions.N_STATE, dtype=np.int64)
        self._state[regions.N_LOOKS] = self._state[regions.HIGHEST] = -1
        self._hashes = np.zeros(regions.N_HASHES, dtype=np.uint64)
        self._template = np.zeros(regions.TEMPLATE_BYTES + regions.PAD_BYTES, dtype=np.uint8)
        self._slots = np.zeros((regions.N_SLOTS_MAX, 3), dtype=np.int64)
        self._make_room()

    def blocks(self, on_target: Callable[[int], None]) -> Iterator[Samples]:
        """Yield the regions; say where each target begins.

        Raises:
            PackedError: the compressed file breaks here.
            _OddError: the text is odd here.
        """
        if self._offset:
            self._go_to(self._offset)
        state = self._state
        while True:
            why = regions.scan(
                self._text,
                self._n_bytes,
                state,
                self._hashes,
                self._template,
                self._slots,
                self._time_ns,
                self._pfn,
                self._n_pages,
                self._weight,
                self._share,
            )
            if why == regions.ODD:
                raise _OddError
            if why == regions.RECORD and not self._offset:
                on_target(self._n_gone + int(state[regions.POSITION]))
                continue
            is_over = why == regions.RECORD or (why == regions.DONE and self._offset > 0)
            is_over = is_over or (why == regions.MORE and not self._read_more())
            if (is_over or why == regions.FULL) and (state[regions.N_ROWS] or state[regions.N_IDLE]):
                yield self._taken()
            if is_over:
                break
        if not self._offset and state[regions.MODE] != regions.BEHIND:
            raise _OddError

    def _read_more(self) -> bool:
        """Let go of what was scanned and read on; return whether there was more."""
        done = int(self._state[regions.POSITION])
        left = self._n_bytes - done
        text = self._text
        if done:
            text[:left] = text[done : self._n_bytes].copy()
            self._n_gone += done
            self._state[regions.POSITION] = 0
        if left + regions.PAD_BYTES >= len(text):
            if len(text) >= _PIECE_BYTES_MAX:
                raise _OddError
            text = np.zeros(2 * len(text), dtype=np.uint8)
            text[:left] = self._text[:left]
            self._text = text
        end = len(text) - regions.PAD_BYTES
        n_more = self._pieces.readinto(text.data[left:end])
        self._n_bytes = left + n_more
        text[self._n_bytes : self._n_bytes + regions.PAD_BYTES] = 0
        return n_more > 0

    def _go_to(self, offset: int) -> None:
        """Begin behind the brace of a target."""
        place = self._text.data[:_PIECE_BYTES]
        while offset:
            offset -= self._pieces.readinto(place[: min(offset, _PIECE_BYTES)])
        self._text[: regions.PAD_BYTES] = 0  # there is no text yet
        self._state[regions.MODE], self._state[regions.FIRST] = regions.IN_RECORD, 1

    def _taken(self) -> Samples:
        """Return the regions that were found; full columns are given away, not copied."""
        state = self._state
        n = int(state[regions.N_ROWS])
        is_full = n == len(self._time_ns)
        columns = (self._time_ns, self._pfn, self._n_pages, self._weight)
        time_ns, pfn, n_pages, weight = (column if is_full else column[:n].copy() for column in columns)
        share = self._share if is_full else self._share[:n].copy()
        if is_full:
            self._make_room()
        state[regions.N_ROWS], n_idle = 0, int(state[regions.N_IDLE])
        state[regions.N_IDLE] = 0
        return Samples(
            time_ns,
            np.full(n, UNKNOWN_CPU, dtype=np.int32),
            pfn,
            n_pages,
            weight,
            n_idle=n_idle,
            highest_pfn=int(state[regions.HIGHEST]) >> PAGE_SHIFT,
            share=share,
        )

    def _make_room(self) -> None:
        self._time_ns, self._pfn, self._n_pages, self._weight = (
            np.empty(_N_ROWS, dtype=np.int64) for _ in range(4)
        )
        self._share = np.empty(_N_ROWS)


def _target(path: Path, offset: int) -> Iterator[Samples]:
    with open_pieces(path, lambda _: None) as pieces:
        yield from _Scan(pieces, offset).blocks(lambda _: None)


def _merged(targets: list[Iterator[Samples]]) -> Iterator[Samples]:
    """Yield the regions of several targets, each of which is in the order of time, in that order."""
    if len(targets) == 1:
        yield from targets[0]
        return
    waiting: dict[int, Samples] = {}
    while True:
        left_out: list[Samples] = []
        for number, target in enumerate(targets):
            while number not in waiting and (found := next(target, None)) is not None:
                left_out.append(found[:0].with_counts_of(found))
                if len(found):
                    waiting[number] = found
        if not waiting:
            yield from left_out
            return
        until_ns = min(int(samples.time_ns[-1]) for samples in waiting.values())
        parts = left_out
        for number, samples in list(waiting.items()):
            n = int(np.searchsorted(samples.time_ns, until_ns, side="right"))
            parts.append(samples[:n])
            if n == len(samples):
                del waiting[number]
            else:
                waiting[number] = samples[n:]
        yield Samples.joined(parts)
