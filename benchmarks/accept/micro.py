"""Microbenchmarks: what the model of times assumes, and choices of the kernels that only a GPU can settle."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from accept.figures import WrongAnswerError, on_device, spread
from accept.model import add_modelled_micro
from accept.rig import Rig, own_source
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
_ORDERS = {
    "a warp's tiles in a row, 4 loads at once": "read_in_a_row",
    "a block's warps in turns, 4 loads at once": "read_in_turns",
    "a warp's tiles in a row, 3 loads and 1": "read_three_and_one",
    "a warp's tiles in a row, 64 bytes a lane": "read_line_a_lane",
}


def micro_case(rig: Rig, n_bytes: int, n_rounds: int, rounds: int) -> dict[str, Any]:
    """Measure matches, fences and exchanges of one warp and of a full GPU, and ways to read ``n_bytes``.

    Args:
        rig: the machine.
        n_bytes: a multiple of 2 KiB for each warp of a scan, or of fewer warps.
        n_rounds: operations of a chain.
        rounds: runs, after one that is not counted.

    Raises:
        WrongAnswerError: a chain was not walked to its end.
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
    add_modelled_micro(rig, rows)
    return {"buffer_bytes": n_bytes, "results": rows}
