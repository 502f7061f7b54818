"""The whole service on a simulated kernel (docs/simulation.md): seeds, and planted faults that they find."""

from __future__ import annotations

import os

import numpy as np
import pytest

from gpuscan.engine.tick import Engine
from gpuscan.linux import damon_state
from gpuscan.linux.damon_schemes import MigratingDamon
from gpuscan.linux.kernel_settings import KernelSettings
from gpuscan.linux.process import Process
from gpuscan.linux.sharing import Sharing
from gpuscan.live.members import Roster
from gpuscan.service.budgets import Budgets
from gpuscan.service.helpers.built_in.damon_schemes import DamonSchemes
from gpuscan.service.orders import Orders
from gpuscan.service.selection import RuleSelection
from gpuscan.service.since import Since
from livesim.scenario import HELPING_FROM, HOTPLUG_FROM, SHARING_FROM
from livesim.service import run_service

N_SLOW = int(os.environ.get("GPUSCAN_SERVICESIM_SEEDS", "300"))


FOUND = {
    227: "a monitor that a reload opened anew watched whom no rule was for any more",
    HELPING_FROM + 158: "a file that failed while it was asked what the kernel had moved ended the service",
    HELPING_FROM + 3098: "a kdamond whose CPU time could not be read ended the service",
    HELPING_FROM + 6654: "DAMON's state file named what nobody gave back once no rule asked for DAMON",
    HELPING_FROM + 6006: "what NUMA balancing moved while it was being set up was not counted",
    HELPING_FROM + 1702: "a helper that could not be opened kept its state file open",
    HOTPLUG_FROM + 100: "a reload was refused because memory was away that was there at the start",
    HELPING_FROM + 244: "what the kernel had moved for a rule that a reload took away was not noted",
}


@pytest.mark.parametrize("seed", FOUND)
def test_what_a_seed_found_stays_mended(seed):
    assert run_service(seed).broken == []


def _broken(first: int, last: int) -> list[tuple[int, list[str]]]:
    return [(seed, broken) for seed in range(first, last) if (broken := run_service(seed).broken)]


@pytest.mark.parametrize("first", [0, SHARING_FROM, HELPING_FROM])
def test_a_few_seeds(first):
    assert _broken(first, first + 8) == []


def test_pages_move_and_a_seed_replays_exactly():
    results = [run_service(seed, is_logging=True) for seed in (2, 9)]
    assert sum(result.moved_pages for result in results) > 0
    assert results == [run_service(seed, is_logging=True) for seed in (2, 9)]


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, SHARING_FROM, HELPING_FROM, HOTPLUG_FROM])
def test_many_seeds(first):
    assert _broken(first + 8, first + N_SLOW) == []


def _nothing(*_, **__):
    return None


def _grants_all(self, name, n_pages):
    return len(n_pages)


def _drops_held(self, flats, words):
    """Lose what a budget held back."""


def _answers_not(self):
    self._waiting.clear()


def _chooses_all(self):
    return [int(name) for name in self._system.names_in(self._system.root / "proc") if name.isdigit()]


def _forgets(self, policies):
    return {}


PLANTED = {
    "budgets hold nothing back": (Budgets, "grant", _grants_all),
    "what is held back is lost": (Engine, "_release", _drops_held),
    "orders are not answered": (Orders, "carry_out", _answers_not),
    "rules choose everybody": (RuleSelection, "pids", _chooses_all),
    "the history forgets": (Since, "changes", _forgets),
    "those that are let go of stay open": (Roster, "let_go", _nothing),
    "a process is not let go of": (Process, "close", _nothing),
    "DAMON is not switched off": (damon_state, "switch_off", _nothing),
}


def _zeros(self, n_schemes):
    return [[0] * n for n in n_schemes]


def _all(self, heads, orders, is_hugetlb=False):
    return np.ones(len(heads), dtype=np.bool_)


SHARED = {
    "who maps a page is not asked again before it moves": (Sharing, "are_still", _all),
}


HELPED = {
    "settings are not put back": (KernelSettings, "_put_back", _nothing),
    "what DAMON moved is not asked for": (DamonSchemes, "_ask", _nothing),
    "what is counted for the last time moves on": (MigratingDamon, "commit", _nothing),
    "a cgroup's place goes to another before it is counted": (MigratingDamon, "moved_bytes", _zeros),
}


@pytest.mark.slow
@pytest.mark.parametrize("planted", HELPED)
def test_a_planted_fault_where_the_kernel_moves_is_found(monkeypatch, planted):
    monkeypatch.setattr(*HELPED[planted])
    assert any(run_service(seed).broken for seed in range(HELPING_FROM, HELPING_FROM + 150))


@pytest.mark.slow
@pytest.mark.parametrize("planted", SHARED)
def test_a_planted_fault_with_shared_pages_is_found(monkeypatch, planted):
    monkeypatch.setattr(*SHARED[planted])
    assert any(run_service(seed).broken for seed in range(SHARING_FROM, SHARING_FROM + 600))


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found(monkeypatch, planted):
    monkeypatch.setattr(*PLANTED[planted])
    assert any(run_service(seed).broken for seed in range(150))
