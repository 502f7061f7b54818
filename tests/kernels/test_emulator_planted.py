"""Well-known GPU bugs, planted: each is caught by the build of the emulator that is there for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.address_space import untouched
from emulator.loader import Build, EmulatedKernel, EmulatedModule, EmulatorError
from emulator.presence import need

SOURCE = (Path(__file__).parents[1] / "emulator" / "planted.cu").read_text()
BUGS = {name: np.int32(number) for name, number in re.findall(r"^    (\w+) = (\d+),$", SOURCE, re.MULTILINE)}
N_ITEMS = 100


def kernel(name: str, build: Build = "fast", seed: int = 3) -> EmulatedKernel:
    need(build)
    return EmulatedModule(SOURCE, (), build, seed, name="planted.cu").get_function(name)


def run(name: str, build: Build, bug: str = "SOUND", seed: int = 3) -> None:
    """Run one of the kernels and check what it did; among the items are zeros, where a condition diverges."""
    items = (np.arange(N_ITEMS) % 65).astype(np.uint32)
    out = np.zeros(64, np.uint32)

    def launch(n_blocks: int, n_threads: int, *args: Any) -> None:
        kernel(name, build, seed)((n_blocks,), (n_threads,), (BUGS[bug], *args))

    if name == "histogram":
        launch(2, 64, items % 64, np.int32(N_ITEMS), out)
        np.testing.assert_array_equal(out, np.bincount(items % 64, minlength=64))
    elif name == "claim":
        records = np.arange(32, dtype=np.uint32)
        launch(3, 32, records, out)
        assert out[0] == 16
        np.testing.assert_array_equal(records, np.where(np.arange(32) % 2, 0, np.arange(32)))
    elif name == "neighbours":
        launch(1, 32, items, out)
        np.testing.assert_array_equal(out[:32], np.roll(items[:32], -1))
    elif name == "rounds":
        launch(1, 64, items, out)
        in_block = np.roll(items[:64], -3).reshape(2, 32)
        np.testing.assert_array_equal(out, np.roll(in_block, -3, axis=1).ravel())
    elif name == "quads":
        launch(1, 1, items, np.int32(1), out)
        assert out[:2].tolist() == [items[0], 2]
    elif name == "sum_of_warp":
        launch(1, 64, items, out)
        np.testing.assert_array_equal(out, items[:64].reshape(2, 32).sum(axis=1).repeat(32))
    else:
        launch(1, 64, items, out)
        np.testing.assert_array_equal(out, items[:64].sum())


@pytest.mark.parametrize("build", ["fast", "asan", "tsan"])
def test_nothing_is_reported_without_a_bug(build: Build) -> None:
    for name in ("histogram", "claim", "neighbours", "rounds", "quads", "sum_of_warp", "sum_of_block"):
        run(name, build)


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        ("SHORT_SHARED", r"index 6[0-3] out of bounds for type 'unsigned int \[60\]'|global-buffer-overflow"),
        ("SHORT_SHARED_BEHIND_POINTER", r"global-buffer-overflow(.|\n)* in .*bump"),
        ("READ_PAST_END", r"heap-buffer-overflow(.|\n)*0 bytes (to the right of|after) 400-byte region"),
    ],
)
def test_asan_sees_accesses_outside_an_array(bug: str, report: str) -> None:
    with pytest.raises(EmulatorError, match=report) as caught:
        run("histogram", "asan", bug)
    assert "planted.cu:" in str(caught.value)


@pytest.mark.parametrize(
    ("bug", "report"),
    [
        ("MISALIGNED_QUAD", r"misaligned address .* for type 'const struct uint4', which requires 16 byte"),
        ("WIDE_SHIFT", r"shift exponent 32 is too large for 32-bit type"),
    ],
)
def test_ubsan_sees_what_a_gpu_does_otherwise(bug: str, report: str) -> None:
    with pytest.raises(EmulatorError, match=report):
        run("quads", "asan", bug)


@pytest.mark.parametrize("build", ["fast", "asan"])
def test_cached_loads_must_be_aligned_too(build: Build) -> None:
    with pytest.raises(EmulatorError, match=r"kernel quads, .*planted.cu:\d+: __ldcg .* not aligned to 16"):
        run("quads", build, "MISALIGNED_CACHED_QUAD")


@pytest.mark.parametrize(
    ("bug", "name"),
    [
        ("MISSING_BARRIER", "histogram"),
        ("FENCE_AS_BARRIER", "histogram"),
        ("PLAIN_HISTOGRAM", "histogram"),
        ("PLAIN_CLAIM", "claim"),
        ("READ_ONLY_CACHE", "claim"),
        ("MISSING_SYNCWARP", "neighbours"),
        ("BALLOT_AS_BARRIER", "neighbours"),
        ("ONE_BARRIER_A_ROUND", "rounds"),
        ("ONE_SYNCWARP_A_ROUND", "rounds"),
    ],
)
def test_tsan_sees_races(bug: str, name: str) -> None:
    with pytest.raises(EmulatorError, match=rf"ThreadSanitizer: data race(.|\n)*{name}.*planted.cu:\d+"):
        run(name, "tsan", bug)


LANE = r"kernel \w+, block \(0, 0, 0\), warp [01], lane \d+, planted.cu:\d+: "


@pytest.mark.parametrize(
    ("bug", "name", "report"),
    [
        (
            "DIVERGENT_SHUFFLE",
            "sum_of_warp",
            r"__shfl_xor_sync diverges: .*0xffffffff.*lane \d+ has returned",
        ),
        ("EARLY_RETURN", "sum_of_warp", r"__shfl_xor_sync diverges: .*0xffffffff.*lane \d+ has returned"),
        (
            "OTHER_COLLECTIVE",
            "sum_of_warp",
            r"__a\w+_sync diverges: .* waits in __a\w+_sync at planted.cu:\d+",
        ),
        ("CALLER_NOT_IN_MASK", "sum_of_warp", r"__any_sync .*0x0fffffff, which does not name the call"),
        ("SOURCE_NOT_IN_MASK", "sum_of_warp", r"__shfl_sync reads lane 16, which mask 0x0000ffff"),
        (
            "OTHER_BARRIER",
            "sum_of_block",
            r"__sync\w+ diverges: other threads .* wait in __sync\w+ at planted",
        ),
        ("DIVERGENT_BARRIER", "sum_of_block", r"__syncthreads diverges: .* all 64 threads, .* has returned"),
    ],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_divergence_is_reported_with_its_place(bug: str, name: str, report: str, seed: int) -> None:
    with pytest.raises(EmulatorError, match=LANE + report) as caught:
        run(name, "fast", bug, seed)
    place = re.search(r"planted\.cu:(\d+): (\w+)", str(caught.value))
    assert place is not None
    assert place[2] in SOURCE.splitlines()[int(place[1]) - 1]
    run(name, "fast", seed=seed)  # the module still works


@pytest.mark.parametrize("build", ["asan", "tsan"])
def test_divergence_is_reported_by_the_other_builds_too(build: Build) -> None:
    with pytest.raises(EmulatorError, match=LANE):
        run("sum_of_warp", build, "DIVERGENT_SHUFFLE")


@pytest.mark.parametrize(("bug", "differ"), [("SOUND", False), ("BLOCK_ORDER", True)])
def test_the_order_of_blocks_shows_in_the_result(bug: str, differ: bool) -> None:
    def place(seed: int) -> list[int]:
        out = np.zeros(6, np.uint32)
        arguments = (BUGS[bug], np.arange(6, dtype=np.uint32), np.zeros(1, np.uint32), out)
        kernel("place", seed=seed)((6,), (32,), arguments)
        return out.tolist()

    assert place(0) == list(range(6))  # what a GPU does most of the time
    assert (place(1) != place(0)) is differ


@pytest.mark.parametrize(("bug", "is_right"), [("SOUND", True), ("NARROW_INDEX", False)])
def test_the_last_blocks_of_six_billion_pages(bug: str, is_right: bool) -> None:
    n_pages = 6 << 30
    n_blocks = n_pages // 2048
    records = untouched(n_pages, np.uint32)
    last = range(n_blocks - 3, n_blocks)
    kernel("mark_last")((n_blocks,), (32,), (BUGS[bug], records), blocks=last)
    ends = [(block + 1) * 2048 - 1 for block in last]
    assert (records[ends] == 1).all() == is_right


ONE = (
    'extern "C" __global__ void one(unsigned* out, long long n, float x) { *out = unsigned(n + SHIFT * x); }'
)


def one(*args: Any, launch: dict[str, Any] | None = None) -> None:
    need("fast")
    module = EmulatedModule(ONE, ("-DSHIFT=2", "--gpu-architecture=sm_90", "--std=c++17"), name="one.cu")
    module.get_function("one")((1,), (1,), args, **(launch or {}))


def test_arguments_have_the_kind_and_size_of_their_parameters() -> None:
    out = np.zeros(2, np.uint32)
    one(out, np.int64(40), np.float32(1))
    assert out.tolist() == [42, 0]
    frozen = np.zeros(1, np.uint32)
    frozen.flags.writeable = False
    for args, problem in [
        ((out, 40, np.float32(1)), "argument 2 of one must be a NumPy array or scalar, not int"),
        ((out, np.int32(40), np.float32(1)), "argument 2 of one must be int64, not int32"),
        ((out, np.uint64(40), np.float32(1)), "argument 2 of one must be int64, not uint64"),
        ((out, np.int64(40), np.float64(1)), "argument 3 of one must be float32, not float64"),
        ((np.uint32(1), np.int64(40), np.float32(1)), "argument 1 of one must be an array, not uint32"),
        ((out, out, np.float32(1)), "argument 2 of one must be a 8-byte number, not an array"),
        ((np.zeros(4, np.uint32)[::2], np.int64(1), np.float32(1)), "argument 1 of one is not C-contiguous"),
        ((frozen, np.int64(1), np.float32(1)), "argument 1 of one is read-only"),
        ((out, np.int64(40)), "one takes 3 arguments, not 2"),
    ]:
        with pytest.raises(EmulatorError, match=problem):
            one(*args)


def test_what_cannot_be_launched_is_refused() -> None:
    sound = np.zeros(1, np.uint32), np.int64(1), np.float32(1)
    with pytest.raises(EmulatorError, match="dynamic shared memory and streams"):
        one(*sound, launch={"shared_mem": 64})
    need("fast")
    module = EmulatedModule(ONE, ("-DSHIFT=2",))
    with pytest.raises(EmulatorError, match="there is no kernel two; there are one"):
        module.get_function("two")
    with pytest.raises(EmulatorError, match="2048 threads a block are over 1024"):
        module.get_function("one")((1,), (2048,), sound)
    with pytest.raises(EmulatorError, match=r"grid .* has a side below 1"):
        module.get_function("one")((0,), (1,), sound)


def test_sources_that_do_not_compile_say_where() -> None:
    need("fast")
    with pytest.raises(EmulatorError, match=r"broken\.cu:2:\d+: error"):
        EmulatedModule('\nextern "C" __global__ void f() { g(); }', name="broken.cu")
    with pytest.raises(EmulatorError, match="defines no kernel"):
        EmulatedModule("__device__ void f() {}")
    with pytest.raises(EmulatorError, match="does not know the compiler option --ptxas"):
        EmulatedModule(ONE, ("--ptxas",))
    with pytest.raises(EmulatorError, match="does not compile"):  # CUDA has no atomics for (unsigned) long
        EmulatedModule('extern "C" __global__ void f(unsigned long* x) { atomicAdd(x, 1ul); }')


def test_missing_compilers_fail_in_ci_and_skip_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.presence.unavailable", lambda build: f"no {build}")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no tsan"):
        need("tsan")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="must be executed in CI, but no tsan"):
        need("tsan")
