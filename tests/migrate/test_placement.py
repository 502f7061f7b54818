"""Policies that place folios on two tiers."""

from __future__ import annotations

import numpy as np
import pytest

from gpuscan.migrate.placement import BalanceLatency, Moves, PlacementPolicy, PromoteHot, Tiers

HEAT = np.array([9.0, 1.0, 8.0, 0.0, 7.0, 1.0, 6.0, 0.0])
FAST = np.array([0, 1, 0, 1, 0, 1, 0, 1], dtype=np.bool_)


def tiers(**changes: object) -> Tiers:
    given = {
        "heat": HEAT,
        "fast": FAST,
        "fast_free": 0,
        "n_move_max": 100,
        "fast_ns": 100.0,
        "slow_ns": 150.0,
    }
    return Tiers(**{**given, **changes})  # type: ignore[arg-type]


def settle(policy: PlacementPolicy, curve: float, steps: int = 60) -> Tiers:
    """Let a policy move what it likes; a tier's latency grows with the share that it serves."""
    fast = FAST.copy()
    now = tiers()
    for _ in range(steps):
        share = float(HEAT[fast].sum() / HEAT.sum())
        latency = {"fast_ns": 100.0 + curve * share, "slow_ns": 150.0 + 10.0 * (1 - share)}
        now = tiers(fast=fast.copy(), fast_free=int(4 - fast.sum()), **latency)
        moves = policy.decide(now)
        fast[moves.down] = False
        fast[moves.up] = True
        assert fast.sum() <= 4
    return now


def test_the_hottest_rise_and_colder_ones_make_room() -> None:
    moves = PromoteHot().decide(tiers())
    assert moves.up.tolist() == [0, 2, 4, 6]
    assert moves.down.tolist() == [3, 7, 1, 5]


def test_no_more_moves_than_are_allowed_and_free_room_comes_first() -> None:
    moves = PromoteHot().decide(tiers(fast_free=1, n_move_max=4))
    assert moves.up.tolist() == [0, 2]
    assert moves.down.tolist() == [3]


def test_what_differs_by_chance_stays() -> None:
    heat = np.array([5.0, 4.0, 5.0, 4.0, 5.0, 4.0, 5.0, 4.0])
    moves = PromoteHot().decide(tiers(heat=heat))
    assert (len(moves.up), len(moves.down)) == (0, 0)


def test_hot_is_packed_whatever_the_latency() -> None:
    assert settle(PromoteHot(), curve=1000.0).fast_share == pytest.approx(30 / 32)


@pytest.mark.parametrize("curve", [100.0, 200.0, 400.0])
def test_latencies_are_balanced_where_they_can_be(curve: float) -> None:
    end = settle(BalanceLatency(), curve)
    packed = settle(PromoteHot(), curve)
    assert abs(end.fast_ns - end.slow_ns) < abs(packed.fast_ns - packed.slow_ns)
    # A folio of 9/32 of all accesses is the smallest step, so it is not closer than that.
    assert abs(end.fast_ns - end.slow_ns) <= 9 / 32 * (curve + 10)


def test_an_idle_fast_tier_is_filled_and_a_hopeless_one_left() -> None:
    assert settle(BalanceLatency(), curve=0.0).fast_share == pytest.approx(30 / 32)
    nothing: Moves = BalanceLatency().decide(tiers(fast_ns=150.0))
    assert len(nothing.up) + len(nothing.down) == 0
    policy = BalanceLatency()
    fast = np.array([1, 0, 1, 0, 1, 0, 1, 0], dtype=np.bool_)
    for _ in range(40):
        moves = policy.decide(tiers(fast=fast.copy(), fast_ns=500.0))
        assert len(moves.up) == 0
        fast[moves.down] = False
    assert not HEAT[fast].any()


@pytest.mark.parametrize("start_fast", [False, True])
def test_the_search_ends_where_both_tiers_take_as_long(start_fast: bool) -> None:
    heat = np.random.default_rng(1).uniform(1.0, 3.0, 1000)
    fast = np.full(1000, start_fast)
    policy = BalanceLatency()
    for _ in range(40):
        share = float(heat[fast].sum() / heat.sum())
        latency = {"fast_ns": 80.0 + 200.0 * share, "slow_ns": 140.0 + 20.0 * (1 - share)}
        moves = policy.decide(tiers(heat=heat, fast=fast.copy(), fast_free=1000, n_move_max=100, **latency))
        assert len(moves.up) + len(moves.down) <= 100
        fast[moves.down], fast[moves.up] = False, True
    assert share == pytest.approx(80 / 220, abs=0.03)
    assert latency["fast_ns"] == pytest.approx(latency["slow_ns"], rel=0.03)
