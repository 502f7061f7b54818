"""The machine's own ceilings: read-only, copy and random writes, by all threads, in the same process.

A scan that claims nothing still has to read the records, so the time of
:meth:`Floors.read` over the records themselves is the floor of a dense scan; a
request has to write one word somewhere, so :meth:`Floors.write_at` is that of requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.bench.host import llc_bytes
from gpuscan.kernels.cpu.atomics import or_256_bytes, prefetch
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.workers import Workers

_PIECES_PER_THREAD = 8
_CEILING_RUNS = 7
_FLUSH_LLCS = 4
"""Last-level caches' worth of lines that are read to flush one."""


_TILE_WORDS = 32
"""64-bit words that one step of a read takes: 256 bytes, 4 cache lines."""
_AHEAD_WORDS = 512
"""How far ahead of the read lines are asked for; the fastest of several distances tried."""


@kernel
def or_words(words: NDArray[np.int64]) -> int:
    """Read every word once (a multiple of ``_TILE_WORDS``), as fast as the scan itself could at best."""
    seen = 0
    last = len(words) - _TILE_WORDS
    for index in range(0, len(words), _TILE_WORDS):
        ahead = min(index + _AHEAD_WORDS, last)
        for line in range(ahead, ahead + _TILE_WORDS, 8):
            prefetch(words, line)
        seen |= or_256_bytes(words, index)
    return seen


@kernel
def store_at(records: NDArray[Any], flats: NDArray[np.int64]) -> None:
    """Store 0 at every position, in the order given."""
    for flat in flats:
        records[flat] = 0


class Floors:
    """Runs the ceilings.

    Args:
        n_threads: as many as the scan may use.
        scratch_bytes: what the copy and flushing buffers hold, at least 4 last-level caches.
    """

    def __init__(self, n_threads: int, scratch_bytes: int) -> None:
        self.workers = Workers(n_threads)
        self._n_flush_words = _FLUSH_LLCS * llc_bytes() // 8 // _TILE_WORDS * _TILE_WORDS
        n_words = max(scratch_bytes // 8, self._n_flush_words) // _TILE_WORDS * _TILE_WORDS
        self._scratch = np.ones(n_words, dtype=np.int64)

    def _split(self, length: int, piece: Callable[[int, int], object]) -> None:
        n_pieces = self.workers.n_threads * _PIECES_PER_THREAD
        n_tiles = length // _TILE_WORDS
        edges = [n_tiles * index // n_pieces * _TILE_WORDS for index in range(n_pieces)] + [length]

        def run(index: int) -> None:
            piece(edges[index], edges[index + 1])

        self.workers.run(n_pieces, run)

    def read(self, array: NDArray[Any]) -> None:
        """Read an array (C-contiguous, a multiple of 256 bytes) once."""
        words, read_all = array.view(np.int64), or_words.for_bits(64)
        self._split(len(words), lambda lo, hi: read_all(words[lo:hi]))

    @property
    def copy_bytes(self) -> int:
        """Bytes that :meth:`copy` moves, read and written."""
        return len(self._scratch) // 2 * 16

    def copy(self) -> None:
        """Copy half of the scratch buffer to the other half."""
        half = len(self._scratch) // 2
        to, words = self._scratch[:half], self._scratch[half : 2 * half]
        # memcpy, without the GIL: libc goes past the cache where a loop would not.
        self._split(half, lambda lo, hi: np.copyto(to[lo:hi], words[lo:hi]))

    def write_at(self, records: NDArray[Any], flats: NDArray[np.int64]) -> None:
        """Store 0 into ``records`` at ``flats``, in that order."""
        store = store_at.for_bits(8 * records.itemsize)
        self._split(len(flats), lambda lo, hi: store(records, flats[lo:hi]))

    def flush_caches(self) -> None:
        """Evict what the caches of all threads hold, by reading more than they can."""
        words, read_all = self._scratch[: self._n_flush_words], or_words.for_bits(64)
        self.workers.run(self.workers.n_threads, lambda _: read_all(words))

    def ceilings(self) -> dict[str, float]:
        """Measure the scratch buffer: bytes per second read, and bytes per second moved by a copy."""
        read_ns = _median_ns(lambda: self.read(self._scratch))
        copy_ns = _median_ns(self.copy)
        return {
            "buffer_bytes": self._scratch.nbytes,
            "read_bytes_per_s": self._scratch.nbytes / read_ns * 1e9,
            "copy_bytes_per_s": self.copy_bytes / copy_ns * 1e9,
        }


def _median_ns(run: Callable[[], object]) -> float:
    times = []
    for _ in range(_CEILING_RUNS + 1):
        started = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - started)
    return median(times[1:])
