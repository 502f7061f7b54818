"""Microbenchmarks: what the model of times assumes, and choices of the kernels that only a GPU can settle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from accept.figures import WrongAnswerError, on_device, spread
from accept.model import add_modelled_micro
from accept.rig import Rig, own_source
from gpuscan.kernels.cuda.device import Kernel
from gpuscan.kernels.cuda.source import THREADS
from gpuscan.kernels.cuda.stretches import STRETCHES
from gpuscan.records.formats import record_format

_LANES = 32
_TILE_BYTES = 2048
_CHAINS = {
    "fence after a store": "fence_after_store",
    "fence after an exchange": "fence_after_exchange",
    "compare-exchange": "exchange_chain",
}
_WIDTHS = {4: "exchange_4_bytes", 8: "exchange_8_bytes", 16: "exchange_16_bytes"}
_NEIGHBOURS = 1 << 22
"""Words whose exchanges are measured by width, at most: 16 MiB, which any second-level cache has."""
_ROUNDS_OF_NEIGHBOURS = 8
_ORDERS = {
    "a warp's tiles in a row, 4 loads at once": "read_in_a_row",
    "a block's warps in turns, 4 loads at once": "read_in_turns",
    "a warp's tiles in a row, 3 loads and 1": "read_three_and_one",
    "a warp's tiles in a row, 64 bytes a lane": "read_line_a_lane",
}


def micro_case(rig: Rig, n_bytes: int, n_rounds: int, rounds: int) -> dict[str, Any]:
    """Measure matches, fences and exchanges of one warp and of a full GPU, and ways to read ``n_bytes``.

    Exchanges of neighbouring words are measured by their width: whether several records are claimed sooner
    by one.

    Args:
        rig: the machine.
        n_bytes: a multiple of 2 KiB for each warp of a scan, or of fewer warps.
        n_rounds: operations of a chain.
        rounds: runs, after one that is not counted.

    Raises:
        WrongAnswerError: a chain was not walked to its end, or a word not exchanged.
    """
    find = rig.device.compile(own_source(record_format("rfc"), "micro"))
    n_tiles = n_bytes // _TILE_BYTES
    n_blocks = max(1, min(STRETCHES, n_tiles) * _LANES // THREADS)
    with rig.device.working():
        wide = rig.device.zeros(n_bytes // 8, np.uint64)
        words = {name: rig.device.zeros(n_blocks * THREADS, np.uint32) for name in _CHAINS}
        sink = rig.device.zeros(1, np.uint32)
        keys = {n: rig.device.upload(np.arange(_LANES, dtype=np.uint32) % n) for n in (1, 4, _LANES)}
    count, size = np.uint32(n_rounds), np.int64(n_tiles)
    runs: dict[str, tuple[Any, ...]] = {
        f"match, {n} different": ("match_chain", 1, _LANES, (lanes, count, sink)) for n, lanes in keys.items()
    }
    n_warps = n_blocks * THREADS // _LANES
    for name, kernel in _CHAINS.items():
        runs[f"{name}, one warp"] = kernel, 1, _LANES, (words[name], count)
        runs[f"{name}, {n_warps} warps"] = kernel, n_blocks, THREADS, (words[name], count)
    for name, kernel in _ORDERS.items():
        runs[name] = kernel, n_blocks, THREADS, (wide, size, sink)
    rows = []
    for name, (kernel, blocks, threads, args) in runs.items():
        run = partial(find(kernel), (blocks,), (threads,), args)
        taken = [on_device(rig, run) for _ in range(rounds + 1)]
        row: dict[str, Any] = {"name": name, "kernel": spread(taken[1:])}
        if args[0] is wide:
            row["bytes"] = n_bytes
            row["bytes_per_s"] = n_bytes / max(1, row["kernel"]["median_ns"]) * 1e9
        else:
            row["n_rounds"], row["n_warps"] = n_rounds, blocks * threads // _LANES
            row["each_ns"] = row["kernel"]["median_ns"] / n_rounds
        rows.append(row)
    with rig.device.working():
        exchanged, seen = rig.device.fetch(words["compare-exchange"]), rig.device.fetch(sink)
    expected = np.full(len(exchanged), (rounds + 1) * n_rounds)
    expected[:_LANES] *= 2  # of one warp, then of all
    if seen[0] or not np.array_equal(exchanged, expected):
        raise WrongAnswerError("a chain was not walked to its end")
    rows += _neighbours(rig, find, min(_NEIGHBOURS, n_bytes // 4), n_blocks, rounds)
    add_modelled_micro(rig, rows)
    return {"buffer_bytes": n_bytes, "results": rows}


def _neighbours(
    rig: Rig, find: Callable[[str], Kernel], n_words: int, n_blocks: int, rounds: int
) -> list[dict[str, Any]]:
    """Return a row for each width, taken in turn on the same words, each of which counts its exchanges."""
    taken: dict[int, list[int]] = {width: [] for width in _WIDTHS}
    with rig.device.working():
        words = rig.device.zeros(n_words, np.uint32)
    n_done = 0
    for _ in range(rounds + 1):
        for width, kernel in _WIDTHS.items():
            args = (words, np.int64(n_words), np.uint32(n_done), np.uint32(_ROUNDS_OF_NEIGHBOURS))
            taken[width].append(on_device(rig, partial(find(kernel), (n_blocks,), (THREADS,), args)))
            n_done += _ROUNDS_OF_NEIGHBOURS
    with rig.device.working():
        if np.any(rig.device.fetch(words) != n_done):
            raise WrongAnswerError("neighbouring words were not all exchanged")
    n_records = n_words * _ROUNDS_OF_NEIGHBOURS
    rows = []
    for width, runs in taken.items():
        times = spread(runs[1:])
        rows.append(
            {
                "name": f"neighbouring records of 4 bytes, {width} bytes an exchange",
                "kernel": times,
                "n_exchanges": n_records * 4 // width,
                "records_per_s": n_records / max(1, times["median_ns"]) * 1e9,
            }
        )
    return rows
