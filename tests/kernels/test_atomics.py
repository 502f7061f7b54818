"""The intrinsics that everything else rests on, for every element width."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numba import njit

from gpuscan.kernels.cpu.atomics import (
    atomic_and,
    atomic_compare_exchange,
    atomic_exchange,
    atomic_load,
    atomic_or,
    copy_64,
    count_ones,
    count_trailing_zeros,
    differ_64,
    element_bits,
    match_64,
    or_256_bytes,
    plain_load,
    plain_store,
    prefetch,
    store_ascending_64,
    store_group,
)

DTYPES = [np.uint8, np.uint32, np.uint64]


@njit(nogil=True)
def every_operation(words: Any) -> Any:
    before_or = atomic_or(words, 1, 0x81)
    before_and = atomic_and(words, 1, ~1)
    before_exchange = atomic_exchange(words, 1, -1)
    missed = atomic_compare_exchange(words, 1, 5, 6)
    loaded = atomic_load(words, 1)
    hit = atomic_compare_exchange(words, 1, loaded, 6)
    prefetch(words, 1)
    return before_or, before_and, before_exchange, missed, loaded, hit, plain_load(words, 1)


@njit(nogil=True)
def add_flip_and_move(words: Any, n_times: int, bit: int) -> int:
    """Add 1 by compare-exchange, flip a bit, put and take a token; return tokens put less tokens taken."""
    n_tokens = 0
    for _ in range(n_times):
        word = atomic_load(words, 1)
        while True:
            seen = atomic_compare_exchange(words, 1, word, (word + 1) & 0x7F)
            if seen == word:
                break
            word = seen
        atomic_or(words, 2, 1 << bit)
        atomic_and(words, 2, ~(1 << bit))
        n_tokens += atomic_exchange(words, 3, 1) == 0
        n_tokens -= atomic_exchange(words, 3, 0) == 1
    return n_tokens


@njit(nogil=True)
def bit_counts(word: int) -> Any:
    return count_trailing_zeros(word), count_ones(word)


@njit(nogil=True)
def wide(words: Any, wide_words: Any, index: int, mask: int) -> Any:
    return match_64(words, index, mask), or_256_bytes(wide_words, 0)


@njit(nogil=True)
def plain_steps(words: Any, longs: Any, at: int, mask: int) -> Any:
    """Store one word, 64 bits of words, and 64 ascending ones; copy those to longs; compare."""
    plain_store(words, at, 7)
    store_group(words, at + 1, 0x0807_0605_0403_0201)
    differ = differ_64(words, at + 8, mask)
    store_ascending_64(words, at + 80, 5)
    copy_64(longs, at, words, at + 80, 1 << 40)
    return element_bits(words), differ


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_plain_steps_at_any_place(dtype: Any, at: int) -> None:
    words = np.zeros(200, dtype=dtype)
    longs = np.zeros(200, dtype=np.int64)
    words[at + 20], bits = 0x42, dtype().itemsize * 8
    assert plain_steps(words, longs, at, 0x40)[0] == bits
    group = np.array([0x0807_0605_0403_0201], dtype=np.uint64).view(dtype)
    assert words[at : at + 1 + len(group)].tolist() == [7, *group.tolist()]
    assert words[at + 80 : at + 145].tolist() == [*range(5, 69), 0]
    assert longs[at : at + 65].tolist() == [*range((1 << 40) + 5, (1 << 40) + 69), 0]
    assert not longs[:at].any()
    assert plain_steps(words, longs, at, 0x40)[1] != 0
    assert plain_steps(words, longs, at, 0x80)[1] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_and_neighbours(dtype: Any) -> None:
    ones = int(np.iinfo(dtype).max)
    signed = -1 if dtype is np.uint64 else ones
    words = np.array([ones, 0x18, 0], dtype=dtype)
    assert every_operation(words) == (0x18, 0x99, 0x98, signed, signed, signed, 6)
    assert words.tolist() == [ones, 6, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_lost_between_threads(dtype: Any) -> None:
    words = np.zeros(5, dtype=dtype)
    add_flip_and_move(words, 0, 0)
    n_times, n_threads = 100_003, 4
    barrier, tokens = threading.Barrier(n_threads), [0] * n_threads

    def work(bit: int) -> None:
        barrier.wait()
        tokens[bit] = add_flip_and_move(words, n_times, bit)

    threads = [threading.Thread(target=work, args=(bit,)) for bit in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Tokens put in and taken out balance with what is left.
    assert words.tolist() == [0, n_times * n_threads & 0x7F, 0, sum(tokens), 0]


def test_bit_counts() -> None:
    for word in (1, 2, 1 << 40, -1, -(1 << 63), 0x0F0F_0000):
        bits = word & 0xFFFF_FFFF_FFFF_FFFF
        assert bit_counts(word) == ((bits & -bits).bit_length() - 1, bits.bit_count())
    assert bit_counts(0) == (64, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
@pytest.mark.parametrize("mask", [1, 0x80])
def test_wide_loads(dtype: Any, mask: int) -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(0, 256, 320).astype(dtype)
    for index in (0, 3, 64, 255):
        matched, ored = wide(words, words[:256].view(np.int64), index, mask)
        expected = sum(1 << i for i, word in enumerate(words[index : index + 64].tolist()) if word & mask)
        assert matched & 0xFFFF_FFFF_FFFF_FFFF == expected
    assert ored == np.bitwise_or.reduce(words[: 256 // dtype().itemsize].view(np.int64))


def test_words_that_are_not_zero() -> None:
    words = np.zeros(130, dtype=np.uint64)
    words[[3, 66, 129]] = [1 << 63, 1, 2]
    for index, expected in ((0, [3]), (3, [0, 63]), (4, [62]), (66, [0, 63])):
        matched, _ = wide(words, words.view(np.int64), index, -1)
        assert matched & 0xFFFF_FFFF_FFFF_FFFF == sum(1 << bit for bit in expected)


@pytest.mark.parametrize("at", [0, 100, 255])
def test_one_bit_anywhere_shows_in_a_wide_load(at: int) -> None:
    words = np.zeros(256, dtype=np.uint8)
    words[at] = 4
    assert wide(words, words.view(np.int64), 0, 4)[1] != 0
