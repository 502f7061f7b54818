"""What a batch costs and gains, and what fits published figures."""

from __future__ import annotations

import pytest

from gpuscan.base.errors import InputError
from gpuscan.reproduce.batches import SIZES, Steps, routes
from gpuscan.reproduce.fitted import FITTED_ORDERS, FOLIO_GB_PER_S, cost_by_folio, flush_ns, steps_of_a_page
from gpuscan.reproduce.moves import move
from gpuscan.sim.spec import MigrationCostSpec
from gpuscan.topology.presets import preset
from gpuscan.topology.toml import parse_toml

STEPS = Steps(unmap_ns=400.0, flush_ns=3000.0, copy_ns=400.0, map_ns=400.0)


def slow_round(n_pages: int) -> tuple[float, list[float]]:
    """Step through a round: return how long it takes, and how long each folio is away."""
    now, unmapped, away = 0.0, [], []
    for _ in range(n_pages):
        unmapped.append(now)
        now += STEPS.unmap_ns
    now += STEPS.flush_ns
    for gone in unmapped:
        now += STEPS.copy_ns + STEPS.map_ns
        away.append(now - gone)
    return now, away


@pytest.mark.parametrize("n_pages", [1, 2, 7, 512])
def test_a_round_is_what_its_steps_are(n_pages: int) -> None:
    total, away = slow_round(n_pages)
    assert STEPS.batch_ns(n_pages) == pytest.approx(total)
    assert STEPS.first_ns(n_pages) == pytest.approx(away[0])
    assert STEPS.mean_away_ns(n_pages) == pytest.approx(sum(away) / n_pages)


def test_the_hotter_a_page_the_smaller_the_best_batch() -> None:
    best = [STEPS.best(touches) for touches in (0.0, 1.0, 100.0, 10_000.0)]
    assert best[0] == SIZES[-1]
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[1] < best[0]
    assert STEPS.gb_per_s(STEPS.enough(0.95)) >= 0.95 * STEPS.gb_per_s(512)
    assert STEPS.gb_per_s(STEPS.enough(0.95) - 1) < 0.95 * STEPS.gb_per_s(512)


def test_the_fit_gives_what_it_was_fitted_on() -> None:
    cost = cost_by_folio()
    for order in FITTED_ORDERS:
        assert move(16 << 20, order, cost, 4096).gb_per_s == pytest.approx(FOLIO_GB_PER_S[order])
    page_ns, flush = 1000.0, flush_ns(1000.0)
    gain = (page_ns + flush) / (page_ns + flush / 512) - 1
    assert gain == pytest.approx(2.917)


def test_rounds_are_closed_by_what_the_cost_says() -> None:
    one = move(4 << 20, 0, MigrationCostSpec(round_pages=1), 1024)
    many = move(4 << 20, 0, MigrationCostSpec(), 1024)
    assert (one.n_rounds, many.n_rounds) == (1024, 2)
    assert one.busy_ns - many.busy_ns == pytest.approx(1022 * MigrationCostSpec().round_ns)


def test_another_machine_has_other_steps() -> None:
    reference = steps_of_a_page()
    machine = preset("two-socket-cxl")
    near, far = reference.on(machine, 0, 2), reference.on(machine, 2, 0)
    assert far.copy_ns > near.copy_ns
    assert near.flush_ns == far.flush_ns == reference.steps.flush_ns  # 64 CPUs, too
    assert len(routes(machine)) == len(set(routes(machine)))
    bare = parse_toml(
        '[[nodes]]\nnid = 0\ncpus = "0"\nmemory = "1GiB"\n[[nodes]]\nnid = 1\nmemory = "1GiB"', "x"
    )
    with pytest.raises(InputError, match=r"no link from node 1|no link from node 0"):
        reference.on(bare, 1, 0)
