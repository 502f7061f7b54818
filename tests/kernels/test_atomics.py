"""The intrinsics that everything else rests on, for every element width."""

from __future__ import annotations

import threading
from typing import Any, cast

import numpy as np
import pytest
from llvmlite import ir
from numba import njit
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from gpuscan.kernels.cpu import atomics
from gpuscan.kernels.cpu.arguments import Store, fields_of
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
    store_numbered,
    take_pairs,
)
from gpuscan.kernels.cpu.claim import claim_many
from gpuscan.kernels.cpu.compile import helper
from gpuscan.records.formats import Field, RecordFormat

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
    """Store a word, 64 bits of words with numbers, and 64 elements; compare 64 words."""
    plain_store(words, at, 7)
    store_numbered(longs, at, 0x0807_0605_8483_8281, 0xFFFF_FF00, words)
    copy_64(longs, at + 80, longs, at)
    return element_bits(words), differ_64(words, at + 8, mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_plain_steps_at_any_place(dtype: Any, at: int) -> None:
    words = np.zeros(200, dtype=dtype)
    longs = np.zeros(200, dtype=np.int64)
    words[at + 20], bits = 0x42, dtype().itemsize * 8
    assert plain_steps(words, longs, at, 0x40)[0] == bits
    assert words[at] == 7
    assert np.count_nonzero(words) == 2
    parts = np.array([0x0807_0605_8483_8281], dtype=np.uint64).view(dtype)
    stored = longs[at : at + 1 + len(parts)].view(np.uint64).tolist()
    numbers = [0xFFFF_FF00 + part for part in range(len(parts))]
    assert stored == [
        *(number << bits | part for number, part in zip(numbers, parts.tolist(), strict=True)),
        0,
    ]
    assert longs[at + 80 : at + 144].tolist() == longs[at : at + 64].tolist()
    assert not longs[:at].any()
    assert not longs[at + 144 :].any()
    assert plain_steps(words, longs, at, 0x40)[1] != 0
    assert plain_steps(words, longs, at, 0x80)[1] == 0


def pairs(count: int) -> Any:
    """Return int64[count] of zeros that begin a cache line."""
    room = np.zeros(count + 8, dtype=np.int64)
    start = -room.ctypes.data % 64 // 8
    return room[start : start + count]


def compiled_take_pairs() -> Any:
    """Return the exchange of 16 bytes at a time, compiled anew."""

    def take(longs: Any, ready: int, wanted: int, claims: Any, words: Any) -> int:
        return take_pairs(longs, 2, ready, wanted, claims, 3, 0x1000, words)

    return njit(nogil=True)(take)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_what_is_wanted_and_ready_is_taken_16_bytes_at_a_time(dtype: Any) -> None:
    take, has = compiled_take_pairs(), atomics._has_pair_exchange(cpu_target.target_context)
    bits = dtype().itemsize * 8
    n_lanes = 128 // bits
    longs = pairs(2 + bits)
    words = longs.view(dtype)
    first = 16 * 8 // bits
    words[:] = np.arange(1, len(words) + 1) % 100 | 0x80
    words[first + 1] &= 0x7F  # of the first 16 bytes one is not READY
    before = words.copy()
    wanted = (-1 << n_lanes) & ((1 << 63) - 1)  # not the first, and not all of the last
    claims = np.full(80, 5, dtype=np.int64)
    ready = int(np.full(64 // bits, 0x80, dtype=dtype).view(np.int64)[0])
    n_pairs = bits // 2
    whole = ((1 << n_pairs) - 1) & ~1 & ~(1 << (n_pairs - 1)) if has else 0
    assert take(longs, ready, wanted, claims, words) == whole
    assert take(longs, ready, (1 << 63) - 1, claims.copy(), words) == 0  # what is left is not READY
    elements = [each for each in range(64) if whole >> (each // n_lanes) & 1]
    expected = before.copy()
    expected[[first + each for each in elements]] = 0
    assert words.tolist() == expected.tolist()
    for each in elements:
        assert claims[3 + each] == (0x1000 + each) << bits | int(before[first + each])
    assert claims[:3].tolist() == [5] * 3
    assert claims[67:].tolist() == [5] * 13


has_pair_exchange = pytest.mark.skipif(
    not atomics._has_pair_exchange(cpu_target.target_context), reason="no instruction exchanges 16 bytes here"
)
CHANGED_PAIR = 2


def change_before_exchange(monkeypatch: pytest.MonkeyPatch, flipped: int) -> None:
    """Have what is compiled flip bits in the last 8 of 16 bytes, between look and exchange."""
    exchanged = atomics._Pairs.exchanged

    def change(pairs: Any, pair: int, low: Any, high: Any) -> Any:
        if pair == CHANGED_PAIR:
            builder, i64 = pairs.builder, ir.IntType(64)
            there = builder.gep(pairs.halves, [i64(2 * pair + 1)], inbounds=True)
            builder.atomic_rmw("xor", there, i64(flipped), "seq_cst")
        return exchanged(pairs, pair, low, high)

    monkeypatch.setattr(atomics._Pairs, "exchanged", change)


def ready_words(dtype: Any) -> tuple[NDArray[np.int64], Any, int]:
    """Return 64 different READY elements, behind 16 bytes: as int64, as they are, and READY in 8 bytes."""
    bits = dtype().itemsize * 8
    longs = pairs(2 + bits)
    words = longs.view(dtype)
    words[:] = np.arange(len(words)) % 127 | 0x80
    return longs, words, int(np.full(64 // bits, 0x80, dtype=dtype).view(np.int64)[0])


def assert_pairs_taken(
    before: Any, words: Any, claims: NDArray[np.int64], taken: int, expected: list[int]
) -> None:
    """Check which 16 bytes were exchanged for 0, and that their elements were stored as they were."""
    bits = before.dtype.itemsize * 8
    n_lanes = 128 // bits
    assert taken == sum(1 << pair for pair in expected)
    elements = [pair * n_lanes + lane for pair in expected for lane in range(n_lanes)]
    after = before.copy()
    after[[n_lanes + each for each in elements]] = 0
    assert words.tolist() == after.tolist()
    for each in elements:
        assert claims[3 + each] == (0x1000 + each) << bits | int(before[n_lanes + each])


@has_pair_exchange
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
@pytest.mark.parametrize("not_ready", [None, 0, 37, 63])
def test_all_64_are_wanted(dtype: Any, not_ready: int | None) -> None:
    longs, words, ready = ready_words(dtype)
    bits = dtype().itemsize * 8
    n_pairs, n_lanes = bits // 2, 128 // bits
    if not_ready is not None:
        words[n_lanes + not_ready] &= 0x7F
    before, claims = words.copy(), np.zeros(80, dtype=np.int64)
    taken = compiled_take_pairs()(longs, ready, -1, claims, words)
    whole = [pair for pair in range(n_pairs) if not_ready is None or pair != not_ready // n_lanes]
    assert_pairs_taken(before, words, claims, taken, whole)


@has_pair_exchange
@pytest.mark.parametrize(("dtype", "n_vectors"), [(np.uint8, 2), (np.uint32, 8)])
def test_what_is_checked_is_loaded_once(dtype: Any, n_vectors: int) -> None:
    longs, words, ready = ready_words(dtype)
    take = compiled_take_pairs()
    take(longs, ready, -1, np.zeros(80, dtype=np.int64), words)
    (text,) = take.inspect_llvm().values()
    assert text.count("load volatile <4 x i64>") == n_vectors


@has_pair_exchange
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
@pytest.mark.parametrize("are_all_wanted", [True, False])
def test_what_changed_since_it_was_looked_at_is_not_taken(
    dtype: Any, are_all_wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    longs, words, ready = ready_words(dtype)
    bits = dtype().itemsize * 8
    n_pairs, n_lanes = bits // 2, 128 // bits
    change_before_exchange(monkeypatch, 1 << 64 - bits)
    before, claims = words.copy(), np.zeros(80, dtype=np.int64)
    before[(CHANGED_PAIR + 2) * n_lanes - 1] ^= 1
    wanted = -1 if are_all_wanted else -1 << n_lanes
    taken = compiled_take_pairs()(longs, ready, wanted, claims, words)
    left = [CHANGED_PAIR] if are_all_wanted else [0, CHANGED_PAIR]
    assert_pairs_taken(before, words, claims, taken, [pair for pair in range(n_pairs) if pair not in left])


@has_pair_exchange
@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("flipped", [1, 0x80], ids=["still READY", "READY no more"])
@pytest.mark.parametrize("are_all_candidates", [True, False])
def test_claims_of_64_are_in_order_whatever_changed_meanwhile(
    bits: int, flipped: int, are_all_candidates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_before_exchange(monkeypatch, flipped << 64 - bits)
    fmt = RecordFormat("any", bits, ready=Field(7, 1), nid=Field(0, 0), freq=Field(0, 2), time=Field(2, 5))
    longs = pairs(2 * bits)
    words = longs.view(fmt.dtype)
    words[:] = np.arange(128) % 127 | 0x80
    before = words.copy()
    n_lanes = 128 // bits
    before[64 + (CHANGED_PAIR + 1) * n_lanes - 1] ^= flipped
    none, no_bits = np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.uint64)
    wide_ready = int(np.full(64 // bits, 0x80, dtype=fmt.dtype).view(np.int64)[0])
    store = Store(
        fields_of(fmt, 0),
        words,
        longs,
        wide_ready,
        no_bits,
        no_bits,
        no_bits,
        none,
        none,
        np.zeros(0, dtype=np.int32),
    )
    candidates = -1 if are_all_candidates else ~(1 << 5)
    waiting = np.zeros(80, dtype=np.int64)
    compiled: Any = helper(cast(Any, claim_many).py_func)
    end = compiled(store, 64, 1000, candidates, waiting, 3)
    taken = [page for page in range(64) if candidates >> page & 1 and before[64 + page] & 0x80]
    assert waiting[3:end].tolist() == [(1000 + page) << bits | int(before[64 + page]) for page in taken]
    after = before.copy()
    after[[64 + page for page in taken]] = 0
    assert words.tolist() == after.tolist()


def test_a_machine_without_the_instruction_takes_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomics, "_has_pair_exchange", lambda context: False)
    longs = pairs(40)
    longs[:] = -1
    assert compiled_take_pairs()(longs, -1, -1, np.zeros(80, dtype=np.int64), longs.view(np.uint32)) == 0
    assert (longs == -1).all()


@pytest.mark.parametrize(
    ("triple", "features", "has"),
    [
        ("x86_64-unknown-linux-gnu", "+64bit,+cx16,+cx8", True),
        ("x86_64-unknown-linux-gnu", "+cx8,-cx16", False),
        ("x86_64-unknown-linux-gnu", "", False),
        ("aarch64-unknown-linux-gnu", "", True),
        ("powerpc64le-unknown-linux-gnu", "+cx16", False),
    ],
)
def test_which_machines_have_the_instruction(triple: str, features: str, has: bool) -> None:
    class Told:
        def codegen(self) -> Any:
            return self

        def magic_tuple(self) -> tuple[str, str, str]:
            return triple, "a cpu", features

    assert atomics._has_pair_exchange(Told()) == has


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


@pytest.mark.parametrize(("lacking", "n_lanes"), [("", 64), ("+avx512vbmi", 32)])
def test_registers_of_512_bits_are_for_machines_with_vbmi(
    lacking: str, n_lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomics, "has_features", lambda context, needed: lacking not in needed)

    def match(words: Any) -> int:
        return match_64(words, 0, 1)

    compiled = njit(nogil=True)(match)
    compiled(np.zeros(64, dtype=np.uint8))
    (text,) = (
        compiled.inspect_llvm().values()
    )  # LLVM may join what it was asked for, where it thinks that pays
    assert f"load <{n_lanes} x i8>" in text


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
