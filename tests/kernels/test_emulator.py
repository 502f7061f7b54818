"""What the CUDA emulator's operations do, against hand-computed answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator.loader import Build, EmulatedModule, EmulatorError
from emulator.presence import need

SOURCE = (Path(__file__).parents[1] / "emulator" / "semantics.cu").read_text()
FULL = 0xFFFFFFFF
LANES = np.arange(32)


def module(build: Build = "fast", seed: int = 0, n_resident: int | None = None) -> EmulatedModule:
    need(build)
    return EmulatedModule(SOURCE, (), build, seed, n_resident, name="semantics.cu")


def zeros(n: int, dtype: Any) -> NDArray[Any]:
    return np.zeros(n, dtype=dtype)


@pytest.fixture(
    params=[("fast", 0), ("fast", 7), ("asan", 7), ("tsan", 7)], ids=lambda p: f"{p[0]}-seed{p[1]}"
)
def emulated(request: pytest.FixtureRequest) -> EmulatedModule:
    build, seed = request.param
    return module(build, seed)


@pytest.fixture(params=[0, 1, 2, 3])
def fast(request: pytest.FixtureRequest) -> EmulatedModule:
    return module(seed=request.param)


def test_votes_see_every_lane_of_their_warp(emulated: EmulatedModule) -> None:
    predicate = zeros(128, np.int32)
    predicate[[3, 31]] = 2, -1  # any non-zero counts
    predicate[32:64] = 1
    predicate[64:96] = 1
    predicate[70] = 0
    ballot, votes_any, votes_all = zeros(128, np.uint32), zeros(128, np.int32), zeros(128, np.int32)
    emulated.get_function("votes")((2,), (64,), (predicate, ballot, votes_any, votes_all))
    np.testing.assert_array_equal(ballot, np.repeat([1 << 3 | 1 << 31, FULL, FULL & ~(1 << 6), 0], 32))
    np.testing.assert_array_equal(votes_any, np.repeat([1, 1, 1, 0], 32))
    np.testing.assert_array_equal(votes_all, np.repeat([0, 1, 0, 0], 32))


def test_halves_of_a_warp_vote_apart(fast: EmulatedModule) -> None:
    predicate = np.zeros(32, np.int32)
    predicate[[1, 2, 4, 5, 30]] = 1
    ballot = zeros(32, np.uint32)
    fast.get_function("half_votes")((1,), (32,), (predicate, ballot))
    np.testing.assert_array_equal(ballot, np.where(LANES % 2, 1 << 1 | 1 << 5, 3 * (1 << 2 | 1 << 4)))


def test_lanes_leave_a_loop_one_after_the_other(fast: EmulatedModule) -> None:
    rounds = (LANES // 8).astype(np.int32)
    last_mask = zeros(32, np.uint32)
    fast.get_function("shrinking")((1,), (32,), (rounds, last_mask))
    np.testing.assert_array_equal(last_mask, np.repeat([FULL, 0xFFFFFF00, 0xFFFF0000, 0xFF000000], 8))


# Segments of `width` lanes; each row is the lane that lane 0, 1, 2, ... of a warp reads.
SHUFFLES = [
    # width, operand, shfl, up, down, xor
    (
        32,
        5,
        [5] * 32,
        [*range(5), *range(27)],
        [*range(5, 32), *range(27, 32)],
        [lane ^ 5 for lane in range(32)],
    ),
    (
        8,
        3,
        [first + 3 for first in (0, 8, 16, 24) for _ in range(8)],
        [first + lane for first in (0, 8, 16, 24) for lane in (0, 1, 2, 0, 1, 2, 3, 4)],
        [first + lane for first in (0, 8, 16, 24) for lane in (3, 4, 5, 6, 7, 5, 6, 7)],
        [lane ^ 3 for lane in range(32)],
    ),
    # A source at or above the width wraps; xor may read a lower segment, not a higher one.
    (
        8,
        9,
        [first + 1 for first in (0, 8, 16, 24) for _ in range(8)],
        [*range(32)],
        [*range(32)],
        [
            *range(8),
            *(lane ^ 9 for lane in range(8, 16)),
            *range(16, 24),
            *(lane ^ 9 for lane in range(24, 32)),
        ],
    ),
    (1, 0, [*range(32)], [*range(32)], [*range(32)], [*range(32)]),
    # The operand counts modulo 32.
    (32, 33, [1] * 32, [0, *range(31)], [*range(1, 32), 31], [lane ^ 1 for lane in range(32)]),
]


@pytest.mark.parametrize(("width", "operand", "read", "up", "down", "crossed"), SHUFFLES)
@pytest.mark.parametrize("seed", [0, 7])
def test_shuffles_read_the_lane_they_name(
    width: int, operand: int, read: list[int], up: list[int], down: list[int], crossed: list[int], seed: int
) -> None:
    value = (LANES * 100 + 7).astype(np.int32)
    got = [zeros(32, np.int32) for _ in range(4)]
    shuffles = module(seed=seed).get_function("shuffles")
    shuffles((1,), (32,), (value, np.int32(operand), np.int32(width), *got))
    for result, lanes in zip(got, (read, up, down, crossed), strict=True):
        np.testing.assert_array_equal(result, value[lanes])


def test_shuffles_of_64_bits_and_of_reals(fast: EmulatedModule) -> None:
    value = (np.uint64(1) << np.arange(32, 64, dtype=np.uint64)).astype(np.uint64)
    real = np.linspace(0.1, 3.2, 32)
    total, first = zeros(32, np.uint64), zeros(32, np.float64)
    fast.get_function("wide_shuffles")((1,), (32,), (value, real, total, first))
    np.testing.assert_array_equal(total, np.uint64(FULL << 32))
    np.testing.assert_array_equal(first, real[0])


def test_match_finds_equal_lanes(emulated: EmulatedModule) -> None:
    narrow = (LANES % 3).astype(np.uint32)
    wide = narrow.astype(np.uint64) << np.uint64(40)  # the low halves are all equal
    wide[31] = 99
    got = [zeros(32, np.uint32) for _ in range(3)]
    emulated.get_function("matches")((1,), (32,), (narrow, wide, *got))
    thirds = [0o11111111111, 0o22222222222, 0o4444444444]  # lanes 0, 3, ...; 1, 4, ...; 2, 5, ...
    np.testing.assert_array_equal(got[0], np.array(thirds)[LANES % 3])
    thirds[1] &= ~(1 << 31)  # lane 31 left its group
    np.testing.assert_array_equal(got[1], [*np.array(thirds)[LANES[:31] % 3], 1 << 31])
    np.testing.assert_array_equal(got[2], [0x9249, 0x2492, 0x4924] * 5 + [0x9249] + [0] * 16)


@pytest.mark.parametrize("n_threads", [32, 96, 1024])
def test_a_barrier_separates_writes_from_reads(fast: EmulatedModule, n_threads: int) -> None:
    given = np.arange(3 * n_threads, dtype=np.int32)
    got = np.zeros_like(given)
    fast.get_function("reverse_block")((3,), (n_threads,), (given, got))
    np.testing.assert_array_equal(got, given.reshape(3, -1)[:, ::-1].ravel())


def test_sound_exchanges_through_shared_memory_are_not_reported(emulated: EmulatedModule) -> None:
    given = np.arange(128, dtype=np.int32)
    got = np.zeros_like(given)
    emulated.get_function("reverse_block")((2,), (64,), (given, got))
    np.testing.assert_array_equal(got, given.reshape(2, 64)[:, ::-1].ravel())
    emulated.get_function("reverse_warp")((1,), (128,), (given, got))
    np.testing.assert_array_equal(got, given.reshape(4, 32)[:, ::-1].ravel())


def test_block_votes(fast: EmulatedModule) -> None:
    predicate = zeros(3 * 96, np.int32)
    predicate[[0, 40, 95]] = 1, -5, 1 << 20
    predicate[96:192] = 1
    got = [zeros(3 * 96, np.int32) for _ in range(3)]
    fast.get_function("block_votes")((3,), (96,), (predicate, *got))
    for result, answer in zip(got, ([3, 96, 0], [0, 1, 0], [1, 1, 0]), strict=True):
        np.testing.assert_array_equal(result, np.repeat(answer, 96))


@pytest.mark.parametrize(("suffix", "dtype"), [("i32", np.int32), ("u32", np.uint32), ("u64", np.uint64)])
def test_atomics_return_what_was_there(suffix: str, dtype: Any) -> None:
    word, old = np.array([7], dtype=dtype), zeros(13, dtype)
    module().get_function(f"atomics_{suffix}")((1,), (1,), (word, old))
    minus_one = np.array([-1]).astype(dtype)[0]  # the largest value of an unsigned type
    assert old.tolist() == [7, 12, 12, 15, 14, 8, 8, 100, 100, 50, 50, 2, minus_one]
    assert word[0] == (1 if dtype is np.int32 else minus_one)


def test_atomics_lose_no_update(emulated: EmulatedModule) -> None:
    total, wide, difference = zeros(1, np.uint32), zeros(1, np.uint64), zeros(1, np.int32)
    emulated.get_function("count_up")((3,), (64,), (total, wide, difference))
    assert (total[0], wide[0], difference[0]) == (192, 192 << 32, -192)


def test_integer_functions() -> None:
    got = zeros(20, np.int32)
    module().get_function("integers")((1,), (1,), (got,))
    assert got.tolist() == [8, 8, 0, 32, 0, 41, 32, 31, 0, 64, 23, 1, 12, 8, 3, 3, 1, 1, 1, 32]


def test_cached_loads_and_stores(emulated: EmulatedModule) -> None:
    quads = np.arange(128, dtype=np.uint32)
    pairs = np.arange(64, dtype=np.uint64) << np.uint64(33)
    words = np.arange(32, dtype=np.uint32)
    got = zeros(128, np.uint32), zeros(64, np.uint64), zeros(32, np.uint32)
    emulated.get_function("loads_and_stores")((1,), (32,), (quads, pairs, words, *got))
    np.testing.assert_array_equal(got[0], quads.reshape(32, 4)[:, ::-1].ravel())
    np.testing.assert_array_equal(got[1], pairs.reshape(32, 2)[:, ::-1].ravel())
    np.testing.assert_array_equal(got[2], 3 * words)


def test_places_in_three_dimensions(fast: EmulatedModule) -> None:
    thread, block = zeros(4 * 2 * 3 * 5 * 24, np.uint32), zeros(4 * 2 * 3 * 5 * 24, np.uint32)
    fast.get_function("places")((2, 3, 5), (4, 3, 2), (thread, block))
    threads, blocks = thread.reshape(5, 3, 2, 2, 3, 4, 4), block.reshape(5, 3, 2, 2, 3, 4, 4)
    for axis, size in ((0, 4), (1, 3), (2, 2)):
        varying = np.arange(size).reshape([-1 if 5 - axis == d else 1 for d in range(6)])
        np.testing.assert_array_equal(threads[..., axis], np.broadcast_to(varying, threads.shape[:-1]))
    for axis, size in ((0, 2), (1, 3), (2, 5)):
        varying = np.arange(size).reshape([-1 if 2 - axis == d else 1 for d in range(6)])
        np.testing.assert_array_equal(blocks[..., axis], np.broadcast_to(varying, blocks.shape[:-1]))
    assert (threads[..., 3] == 3).all()
    assert (blocks[..., 3] == 5).all()


def tickets(seed: int, blocks: list[int] | None = None) -> NDArray[np.uint32]:
    got = np.full(5 * 64, FULL, np.uint32)
    module(seed=seed).get_function("tickets")((5,), (64,), (zeros(1, np.uint32), got), blocks=blocks)
    return got.reshape(5, 2, 32)


def test_the_seed_orders_blocks_warps_and_lanes() -> None:
    def order_of_blocks(seed: int) -> list[int]:
        return [int(block) for block in tickets(seed).min(axis=(1, 2)).argsort()]

    assert order_of_blocks(0) == [0, 1, 2, 3, 4]
    assert order_of_blocks(1) == [4, 3, 2, 1, 0]
    assert len({tuple(order_of_blocks(seed)) for seed in range(2, 12)}) > 5
    lanes = {tuple(order) for seed in range(4) for order in tickets(seed).reshape(-1, 32).argsort().tolist()}
    assert len(lanes) == 4 * 5 * 2
    first_warps = {int(tickets(seed)[0].min(axis=1).argmin()) for seed in range(12)}
    assert first_warps == {0, 1}
    np.testing.assert_array_equal(tickets(3), tickets(3))


def test_chosen_blocks_run_in_the_order_given() -> None:
    got = tickets(0, blocks=[4, 1])
    assert got[4].max() < 64 <= got[1].min()
    assert (got[[0, 2, 3]] == FULL).all()
    with pytest.raises(EmulatorError, match=r"blocks must be in \[0, 5\)"):
        tickets(0, blocks=[5])


def test_shared_memory_is_not_zero_at_first() -> None:
    got = zeros(4 * 256, np.uint32)
    module(seed=2).get_function("shared_at_start")((4,), (256,), (got,))
    assert np.unique(got).size > 1000


def test_resident_blocks_run_at_once() -> None:
    here, seen = zeros(1, np.uint32), zeros(4, np.uint32)
    module(n_resident=4).get_function("two_blocks_meet")((4,), (32,), (here, seen))
    assert seen.tolist() == [4] * 4


def test_the_portable_switch() -> None:
    need("fast")
    plain = EmulatedModule(SOURCE, ("-DEMULATOR_UCONTEXT",), seed=5)
    given = np.arange(96, dtype=np.int32)
    got = np.zeros_like(given)
    plain.get_function("reverse_block")((1,), (96,), (given, got))
    np.testing.assert_array_equal(got, given[::-1])


@pytest.mark.parametrize("build", ["fast", "asan"])
def test_overlapping_arrays_share_their_memory(build: Build) -> None:
    memory, seen = zeros(64, np.int32), zeros(32, np.int32)
    kernel = module(build, seed=3).get_function("write_one_read_other")
    kernel((1,), (32,), (memory[16:48], memory[24:56], seen))
    np.testing.assert_array_equal(seen, [*range(9, 33), *[0] * 8])
    np.testing.assert_array_equal(memory, [*[0] * 16, *range(1, 33), *[0] * 16])
