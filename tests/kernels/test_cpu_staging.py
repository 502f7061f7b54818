"""Claims staged by target: one by one and, of few targets, 128 at a time in vector registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from gpuscan.kernels.cpu import staging_vectors
from gpuscan.kernels.cpu.arguments import Segment, fields_of
from gpuscan.kernels.cpu.atomics import has_features
from gpuscan.kernels.cpu.compile import helper
from gpuscan.kernels.cpu.staging import (
    N_STRIPS,
    STRIP_CLAIMS,
    empty_segment,
    stage,
    strips_for,
)
from gpuscan.kernels.cpu.staging_vectors import FEW_TARGETS, stage_128
from gpuscan.records.formats import Field, RecordFormat, record_format

RFC = record_format("rfc")
NARROW = RecordFormat("narrow", 32, ready=Field(0, 1), nid=Field(1, 3), freq=Field(4, 3), time=Field(7, 18))
"""Fewer targets than are staged at once: a NID has 3 bits."""


needs_vbmi = pytest.mark.skipif(
    not has_features(cpu_target.target_context, staging_vectors._FEATURES),
    reason="the machine has no AVX-512 with VBMI",
)


def without_instructions(patch: pytest.MonkeyPatch) -> None:
    """Have what is compiled under the patch be for a machine without the instructions."""
    patch.setattr(staging_vectors, "_FEATURES", {"+of no machine"})


@cache
def compiled_stage(has_instructions: bool) -> Callable[..., None]:
    """Return ``stage``, compiled anew, with the instructions or without: ``stage`` itself stays as it is."""
    stage_anew = helper(cast(Any, stage).py_func)

    def stage_claims(
        fields: Any, waiting: Any, claims: Any, owners: Any, places: Any, n_of: Any, state: Any
    ) -> None:
        stage_anew(fields, waiting, len(waiting), Segment(claims, owners, places, n_of, state))

    compiled = njit(nogil=True)(stage_claims)
    with pytest.MonkeyPatch.context() as patch:
        if not has_instructions:
            without_instructions(patch)
        compiled(fields_of(RFC, -1), np.zeros(0, dtype=np.int64), *empty_segment(64, 1, RFC.nid.max))
    return cast(Callable[..., None], compiled)


@cache
def compiled_stage_128() -> Callable[..., int]:
    """Return ``stage_128``, compiled."""
    shift, mask = RFC.nid.shift, RFC.nid.max

    def stage_claims(
        waiting: Any, n_targets: int, n_strips: int, claims: Any, owners: Any, places: Any
    ) -> int:
        return stage_128(waiting, 0, shift, mask, n_targets, n_strips, claims, owners, places)

    compiled: Callable[..., int] = njit(nogil=True)(stage_claims)
    return compiled


def claims_to(
    targets: NDArray[np.int64], rng: np.random.Generator, fmt: RecordFormat = RFC
) -> NDArray[np.int64]:
    """Return a claim to each target, of pages that are not all neighbours; what else is in it is drawn."""
    offsets = np.cumsum(rng.integers(1, 3, len(targets)))
    other = rng.integers(0, 1 << 32, len(targets)) & ~fmt.nid.mask
    claims: NDArray[np.int64] = offsets << 32 | other | targets << fmt.nid.shift
    return claims


def staged(segment: Segment) -> list[list[int]]:
    """Return the claims of each target, as its strips have them."""
    found: list[list[int]] = [[] for _ in segment.n_of_target]
    for strip, target in enumerate(segment.owners[: segment.state[N_STRIPS]].tolist()):
        first = strip * STRIP_CLAIMS
        is_last = segment.places[target] in range(first + 1, first + STRIP_CLAIMS)
        length = int(segment.places[target]) - first if is_last else STRIP_CLAIMS
        found[target] += segment.claims[first : first + length].tolist()
    return found


def assert_staged(segment: Segment, claims: NDArray[np.int64], fmt: RecordFormat = RFC) -> None:
    """Check that each target has its claims in their order, the last one those of unknown ones."""
    n_targets = len(segment.n_of_target) - 1
    targets = np.minimum(claims >> fmt.nid.shift & fmt.nid.max, n_targets)
    assert staged(segment) == [claims[targets == target].tolist() for target in range(n_targets + 1)]


@pytest.mark.parametrize("has_instructions", [pytest.param(True, marks=needs_vbmi), False])
def test_what_is_compiled_has_the_instructions_or_not(has_instructions: bool) -> None:
    (assembly,) = cast(Any, compiled_stage(has_instructions)).inspect_asm().values()
    assert ("vpmultishiftqb" in assembly) == has_instructions


@pytest.mark.parametrize("has_instructions", [pytest.param(True, marks=needs_vbmi), False])
@settings(deadline=None)  # the first call compiles
@given(
    n_targets=st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 40]),
    n_used=st.integers(1, 20),
    unknown=st.sampled_from([0.0, 0.0, 0.002, 0.5]),
    n_alike=st.sampled_from([1, 1, 3, 70, 200]),
    lengths=st.lists(st.integers(0, 900), max_size=6),
    seed=st.integers(0, 1 << 20),
)
def test_each_target_has_its_claims_in_their_order(
    has_instructions: bool,
    n_targets: int,
    n_used: int,
    unknown: float,
    n_alike: int,
    lengths: list[int],
    seed: int,
) -> None:
    stage_claims = compiled_stage(has_instructions)
    rng = np.random.default_rng(seed)
    segment = empty_segment(strips_for(n_targets), n_targets, RFC.nid.max)
    claims = []
    for length in lengths:
        targets = np.repeat(rng.integers(0, min(n_used, n_targets), length // n_alike + 1), n_alike)[:length]
        strange = rng.integers(n_targets, RFC.nid.max + 1, length)
        claims.append(claims_to(np.where(rng.random(length) < unknown, strange, targets), rng))
        stage_claims(fields_of(RFC, -1), claims[-1], *segment)
    assert_staged(segment, np.concatenate([np.zeros(0, dtype=np.int64), *claims]))


@needs_vbmi
@pytest.mark.parametrize("n_targets", [4, 8])
def test_a_nid_of_few_bits_has_a_place_for_all_that_are_staged_at_once(n_targets: int) -> None:
    rng = np.random.default_rng(n_targets)
    segment = empty_segment(strips_for(n_targets), n_targets, NARROW.nid.max)
    n_places, behind = len(segment.places), 1 << 40
    room = np.full(n_places + 2 * FEW_TARGETS, behind)
    room[:n_places] = 0
    segment = segment._replace(places=room[:n_places])
    claims = claims_to(rng.integers(0, n_targets, 512), rng, NARROW)
    compiled_stage(True)(fields_of(NARROW, -1), claims, *segment)
    assert_staged(segment, claims, NARROW)
    assert (room[n_places:] == behind).all()


@needs_vbmi
@pytest.mark.parametrize("n_targets", [1, 5, 16])
def test_128_claims_of_known_targets_are_staged_at_once(n_targets: int) -> None:
    rng = np.random.default_rng(n_targets)
    segment = empty_segment(64, n_targets, RFC.nid.max)
    before = segment.claims.copy()
    claims = claims_to(rng.integers(0, n_targets, 128), rng)
    n_strips = compiled_stage_128()(claims, n_targets, 0, segment.claims, segment.owners, segment.places)
    segment.state[N_STRIPS] = n_strips
    assert_staged(segment, claims)
    used = np.concatenate([segment.claims != before, [False]])[: len(before)]
    assert used.sum() <= 128


def test_nothing_is_staged_at_once_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    without_instructions(monkeypatch)
    rng = np.random.default_rng(0)
    segment = empty_segment(64, 5, RFC.nid.max)
    stage_claims = compiled_stage_128.__wrapped__()  # anew
    claims = claims_to(rng.integers(0, 5, 128), rng)
    assert stage_claims(claims, 5, 0, segment.claims, segment.owners, segment.places) == -1
    assert not segment.places.any()


@needs_vbmi
@pytest.mark.parametrize("strange", [5, 15, 16, 255, 256 + 3, RFC.nid.max])
@pytest.mark.parametrize("where", [0, 63, 64, 127])
def test_nothing_is_done_where_a_target_is_unknown(strange: int, where: int) -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 5, 128)
    targets[where] = strange
    segment = empty_segment(64, 5, RFC.nid.max)
    before = [array.copy() for array in segment]
    stage_claims = compiled_stage_128()
    assert stage_claims(claims_to(targets, rng), 5, 0, segment.claims, segment.owners, segment.places) == -1
    for array, was in zip(segment, before, strict=True):
        np.testing.assert_array_equal(array, was)


@needs_vbmi
def test_more_targets_than_there_are_counters() -> None:
    n_targets = FEW_TARGETS + 1
    segment = empty_segment(64, n_targets, RFC.nid.max)
    claims = claims_to(np.zeros(128, dtype=np.int64), np.random.default_rng(0))
    stage_claims = compiled_stage_128()
    assert stage_claims(claims, n_targets, 0, segment.claims, segment.owners, segment.places) == -1
