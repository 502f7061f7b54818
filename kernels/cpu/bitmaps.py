"""Counting and changing bits: what the scan's driver and the engine ask of the bitmaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Store
from gpuscan.kernels.cpu.atomics import (
    atomic_and,
    atomic_exchange,
    atomic_load,
    atomic_or,
    count_ones,
    count_trailing_zeros,
    match_64,
)
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.pages import blocks_between


@kernel
def count_set_bits(words: NDArray[np.uint64]) -> int:
    """Return how many bits of a bitmap are set."""
    total = 0
    for index in range(len(words)):
        total += count_ones(np.int64(words[index]))
    return total


@kernel
def count_ready(store: Store, lo: int, hi: int) -> int:
    """Return how many records of ``[lo, hi)`` (multiples of 64) are READY."""
    total = 0
    for first in range(lo, hi, 64):
        total += count_ones(match_64(store.records, first, store.fields.ready))
    return total


@kernel
def count_ready_by_index(store: Store, lo: int, hi: int) -> int:
    """Return how many records of ``[lo, hi)`` (multiples of 64) are READY, of those that the bits name."""
    total = 0
    ready_mask = store.fields.ready
    for section in range(lo >> 15, (hi + 32767) >> 15):
        blocks = atomic_load(store.block_bits, section)
        while blocks != 0:
            first_word = (section << 9) + (count_trailing_zeros(blocks) << 3)
            blocks &= blocks - 1
            for word_index in range(max(first_word, lo >> 6), min(first_word + 8, hi >> 6)):
                ready = atomic_load(store.ready_bits, word_index)
                while ready != 0:
                    flat = (word_index << 6) + count_trailing_zeros(ready)
                    ready &= ready - 1
                    if atomic_load(store.records, flat) & ready_mask != 0:
                        total += 1
    return total


@helper
def blocks_of_nodes(store: Store, node_mask: NDArray[np.uint8], lo: int, hi: int) -> tuple[int, int]:
    """Return how many set blocks there are in ``[lo, hi)`` on the nodes asked for, and blocks in all."""
    n_set = 0
    n_blocks = 0
    position = lo
    while position < hi:
        section = position >> 15
        end = min(hi, (section + 1) << 15)
        if node_mask[store.section_nid[section]] != 0:
            n_set += count_ones(atomic_load(store.block_bits, section) & blocks_between(position, end))
            n_blocks += (end - position) >> 9
        position = end
    return n_set, n_blocks


@helper
def blocks_of_all_nodes(block_bits: NDArray[np.uint64], lo: int, hi: int) -> int:
    """Return how many set blocks there are in ``[lo, hi)``, a range that is not empty."""
    first = lo >> 15
    last = (hi - 1) >> 15
    n_set: int = count_ones(atomic_load(block_bits, first) & blocks_between(lo, min(hi, (first + 1) << 15)))
    if first < last:
        n_set += count_ones(atomic_load(block_bits, last) & blocks_between(last << 15, hi))
    for section in range(first + 1, last):
        n_set += count_ones(atomic_load(block_bits, section))
    return n_set


@kernel
def count_blocks(store: Store, node_mask: NDArray[np.uint8], lo: int, hi: int) -> tuple[int, int]:
    """Do :func:`blocks_of_nodes`."""
    return blocks_of_nodes(store, node_mask, lo, hi)


@kernel
def count_blocks_of_all_nodes(block_bits: NDArray[np.uint64], lo: int, hi: int) -> int:
    """Do :func:`blocks_of_all_nodes`."""
    return blocks_of_all_nodes(block_bits, lo, hi)


@kernel
def sample_blocks(
    store: Store, node_mask: NDArray[np.uint8], lo: int, hi: int, every: int
) -> tuple[int, int]:
    """Look at one of ``every`` set blocks of ``[lo, hi)``; return their ready bits and how many they are."""
    n_candidates = 0
    n_sampled = 0
    to_skip = 0
    position = lo
    while position < hi:
        section = position >> 15
        end = min(hi, (section + 1) << 15)
        blocks = atomic_load(store.block_bits, section) & blocks_between(position, end)
        position = end
        if blocks == 0 or node_mask[store.section_nid[section]] == 0:
            continue
        n_set = count_ones(blocks)
        while n_set > to_skip:
            n_set -= to_skip + 1
            for _ in range(to_skip):
                blocks &= blocks - 1
            first_word = (section << 9) + (count_trailing_zeros(blocks) << 3)
            blocks &= blocks - 1
            for word_index in range(first_word, first_word + 8):
                n_candidates += count_ones(atomic_load(store.ready_bits, word_index))
            n_sampled += 1
            to_skip = every - 1
        to_skip -= n_set
    return n_candidates, n_sampled


@kernel
def count_candidates(
    store: Store, node_mask: NDArray[np.uint8], lo: int, hi: int, at_most: int
) -> tuple[int, int]:
    """Count ready bits under set block bits from ``lo`` on, block by block, while they are ``at_most``.

    Returns:
        The count, and the flat page before which it ended: ``hi``, or the first block
        that is too much.
    """
    total = 0
    position = lo
    while position < hi:
        section = position >> 15
        end = min(hi, (section + 1) << 15)
        if node_mask[store.section_nid[section]] != 0:
            blocks = atomic_load(store.block_bits, section) & blocks_between(position, end)
            while blocks != 0:
                block = count_trailing_zeros(blocks)
                blocks &= blocks - 1
                first_word = (section << 9) + (block << 3)
                n_set = 0
                for word_index in range(first_word, first_word + 8):
                    n_set += count_ones(atomic_load(store.ready_bits, word_index))
                if total + n_set > at_most:
                    return total, first_word << 6
                total += n_set
        position = end
    return total, hi


@kernel
def set_eligible(eligible_bits: NDArray[np.uint64], flats: NDArray[np.int64], eligible: bool) -> None:
    """Set or clear the bit of every page given."""
    for index in range(len(flats)):
        flat = flats[index]
        bit = 1 << (flat & 63)
        if eligible:
            atomic_or(eligible_bits, flat >> 6, bit)
        else:
            atomic_and(eligible_bits, flat >> 6, ~bit)


@kernel
def discard(store: Store, flats: NDArray[np.int64]) -> int:
    """Zero records; return how many were READY."""
    n_ready = 0
    for index in range(len(flats)):
        if atomic_exchange(store.records, flats[index], 0) & store.fields.ready != 0:
            n_ready += 1
    return n_ready


@kernel
def take_active(node_active: NDArray[np.uint8], taken: NDArray[np.uint8]) -> None:
    """Move the flags of activated nodes into ``taken``, uint8[1024] of zeros."""
    for nid in range(len(node_active)):
        if atomic_load(node_active, nid) != 0:
            taken[nid] = atomic_exchange(node_active, nid, 0)
