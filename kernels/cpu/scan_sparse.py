"""The scan of few blocks: survey and claims in one call.

A scan that finds some hundred pages spends its time on calls, not on memory: at 1e-6 of 1 TiB
four kernels, each called from Python, took twice as long as one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Segment, Store
from gpuscan.kernels.cpu.bitmaps import blocks_of_all_nodes, blocks_of_nodes
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.scan_indexed import claim_indexed
from gpuscan.kernels.cpu.staging import N_STAGED, POSITION, begin
from gpuscan.kernels.cpu.unpack import unpack_whole


@kernel
def scan_sparse(
    store: Store,
    cuts: Cuts,
    node_mask: NDArray[np.uint8],
    all_nodes: bool,
    lo: int,
    hi: int,
    n_blocks_max: int,
    share_max: float,
    gathered: NDArray[np.int64],
    waiting: NDArray[np.int64],
    offsets: NDArray[np.int64],
    flats: NDArray[np.int64],
    words: NDArray[Any],
    claims: NDArray[np.int64],
    owners: NDArray[np.int32],
    places: NDArray[np.int64],
    n_of_target: NDArray[np.int64],
    state: NDArray[np.int64],
) -> tuple[int, int]:
    """Claim in ``[lo, hi)``, not empty, if few of its blocks are set.

    Args:
        store, gathered, waiting: as for :func:`claim_indexed`.
        cuts: none.
        node_mask, all_nodes: the nodes asked for, and whether they are all there are.
        n_blocks_max, share_max: set blocks, and their share of all, up to which they are few.
        offsets, flats, words: the plan to fill if they have room for the claims: :func:`unpack_whole`.
        claims, owners, places, n_of_target, state: the segment.

    Returns:
        Set blocks and blocks in all. If they are too many nothing was claimed. If the segment was
        full before the end, ``state[POSITION]`` is below ``hi``, and the plan is not filled.
    """
    segment = Segment(claims, owners, places, n_of_target, state)
    if all_nodes:
        n_set, n_blocks = blocks_of_all_nodes(store.block_bits, lo, hi), (hi - lo) >> 9
    else:
        n_set, n_blocks = blocks_of_nodes(store, node_mask, lo, hi)
    if n_set > n_blocks_max or n_set > share_max * n_blocks:
        begin(segment)
        state[POSITION] = lo
        return n_set, n_blocks
    claim_indexed(store, cuts, node_mask, 0, lo, lo, hi, gathered, waiting, segment)
    if state[POSITION] == hi and state[N_STAGED] <= len(flats):
        unpack_whole(segment, lo, offsets, flats, words)
    return n_set, n_blocks
