"""What the models of other designs charge for, measured on this machine: a walk, a cold line, an atomic.

``gpuscan bench costs`` prints them under the keys of a workload's ``[kernel]`` table. All are of
one thread; every line is cold, since no structure fits the caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.bench.host import llc_bytes
from gpuscan.bench.struct_pages import PG_LRU, walk
from gpuscan.kernels.cpu.atomics import atomic_and, atomic_or
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.records.formats import FORMATS

_LLCS = 4
"""Last-level caches' worth of lines that a chase goes through."""
_N_ATOMICS = 1 << 22
_LINE_WORDS = 8


@kernel
def chase(lines: NDArray[np.int64], n: int) -> int:
    """Follow ``n`` pointers, each in a line of its own: ``lines`` int64[n, 8], word 0 is the next line."""
    at = 0
    for _ in range(n):
        at = lines[at, 0]
    return at


@kernel
def walk_locked(pages: NDArray[np.int64], ext_words: NDArray[np.int64], ready: int) -> int:
    """Test and clear READY of every page on an LRU list, locked: ``pages`` int64[n, 8], ``ext_words``
    int64[2 n], the flags at even places. Return how many were READY."""
    n_found = 0
    for pfn in range(len(pages)):
        head = pages[pfn, 1]
        folio = head - 1 if head & 1 else pfn
        if pages[folio, 0] & (1 << PG_LRU) == 0:
            continue
        if atomic_and(ext_words, 2 * pfn, ~ready) & ready != 0:
            n_found += 1
    return n_found


@kernel
def set_bits(words: NDArray[np.int64], n: int) -> int:
    """Set a bit of one word ``n`` times, locked."""
    seen = 0
    for _ in range(n):
        seen |= atomic_or(words, 0, 1)
    return seen


def measure_costs(
    walk_pages: int, rounds: int, seed: int = 1, on_round: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float]]:
    """Measure each cost ``rounds`` times, in turn.

    Args:
        walk_pages: pages that the walk looks at, 80 bytes each.
        rounds: timed runs of each.
        seed: of the order of the lines.
        on_round: called after each round, and after the one before them that is not timed.

    Returns:
        By key: ``median_ns``, ``min_ns`` and ``max_ns`` of one step.
    """
    walk_bare, walk_and_clear = _walks(walk_pages)
    measures = {
        "walk_pfn": (walk_bare, walk_pages),
        "walk_pfn_locked": (walk_and_clear, walk_pages),
        "cold_line": _chase(seed),
        "atomic": (_atomics(), _N_ATOMICS),
    }
    for run, _ in measures.values():
        run()
    on_round()
    runs: dict[str, list[float]] = {key: [] for key in measures}
    for _ in range(rounds):
        for key, (run, n_steps) in measures.items():
            started = time.perf_counter_ns()
            run()
            runs[key].append((time.perf_counter_ns() - started) / n_steps)
        on_round()
    return {
        key: {"median_ns": float(np.median(ns)), "min_ns": min(ns), "max_ns": max(ns)}
        for key, ns in runs.items()
    }


def _walks(n_pages: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return two walks that find nothing: one that reads what RFC v1's thread reads of every page
    (struct_pages.py), and one that clears each READY bit as the thread does."""
    pages = np.zeros((n_pages, 8), dtype=np.int64)
    pages[:, 0] = 1 << PG_LRU
    exts = np.empty((n_pages, 2), dtype=np.int64)
    exts.fill(0)  # np.zeros() alone would leave all of them in one page of zeros
    fmt = FORMATS["rfc-page-ext"]
    no_pfn, no_nid = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int32)
    bare, locked = walk.for_bits(64), walk_locked.for_bits(64)
    ready, words = fmt.ready.mask, exts.reshape(-1)
    return (
        lambda: bare(pages, exts, ready, fmt.nid.shift, fmt.nid.max, no_pfn, no_nid),
        lambda: locked(pages, words, ready),
    )


def _chase(seed: int) -> tuple[Callable[[], Any], int]:
    """Return a walk along one ring through all lines, in random order."""
    n_lines = _LLCS * llc_bytes() // (8 * _LINE_WORDS)
    order = np.random.default_rng(seed).permutation(n_lines)
    lines = np.zeros((n_lines, _LINE_WORDS), dtype=np.int64)
    lines[order, 0] = np.roll(order, -1)
    follow = chase.for_bits(64)
    return (lambda: follow(lines, n_lines)), n_lines


def _atomics() -> Callable[[], Any]:
    words = np.zeros(1, dtype=np.int64)
    step = set_bits.for_bits(64)
    return lambda: step(words, _N_ATOMICS)
