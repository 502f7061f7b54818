"""What is done with whose pages: the rules' policies, budgets and thresholds, and what became of it.

The source asks it how to treat each process (:class:`gpuscan.monitors.treatment.Keeper`), the migrator what
may move now (:class:`gpuscan.migrate.steward.Steward`). It knows numbers, and no kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuscan.migrate.reasons import NO_FREE_PAGE, NOT_BALANCED
from gpuscan.monitors.treatment import Treatment, Way
from gpuscan.service.budgets import Budgets
from gpuscan.service.config import COLD_AUTO_NS, MOST_LOOKS, Config, Rule
from gpuscan.service.hold_ups import HoldUps
from gpuscan.service.thresholds import ColdAfter, HotLooks

_LEAST_LOOKS = 2
_NO_ROOM = (NOT_BALANCED, NO_FREE_PAGE)
_NOTHING = Treatment(promotes=False)
LOOK_MOVES_NS = 1_000_000_000
"""Moves of one look take so long, and one call; what is left waits for the next look."""


@dataclass(slots=True)
class PolicyState:
    """A rule's policy, and what was done under it since the service started.

    Attributes:
        rule: as the configuration has it now.
        looks, cold: thresholds that find themselves; used where the rule says ``auto``.
        moved_to: base pages moved, by target nid.
        demoted_pages: of these, to a lower tier.
        refused: folios not moved, by reason; one may be refused several times.
        pending_pages, pending_down_pages: candidates that it has now, to go up (or out), and down.
    """

    rule: Rule
    looks: HotLooks = field(default_factory=lambda: HotLooks(_LEAST_LOOKS, MOST_LOOKS))
    cold: ColdAfter = field(default_factory=lambda: ColdAfter(*COLD_AUTO_NS))
    moved_to: Counter[int] = field(default_factory=Counter)
    demoted_pages: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    pending_pages: int = 0
    pending_down_pages: int = 0

    @property
    def threshold(self) -> int:
        """Looks that must find a page accessed, now."""
        return self.looks.looks if self.rule.hot is None else self.rule.hot

    @property
    def cold_after_ns(self) -> int:
        """How long a page must not have been accessed, now."""
        return self.cold.ns if self.rule.cold_after is None else self.rule.cold_after


class Governor:
    """Policies of processes.

    Args:
        config: what they are to be.
        monitor_cold_ns: after how long the monitor calls a page cold; None where it calls none so.
    """

    def __init__(self, config: Config, monitor_cold_ns: int | None = None) -> None:
        self.policies: dict[str, PolicyState] = {}
        self.hold_ups = HoldUps(config.service.batch)
        self.budgets = Budgets(None, {})
        self._of: dict[int, str] = {}
        self._pause_ns = 0
        self._granted = self._moves_ns = 0
        self.on_call: Callable[[], None] = lambda: None
        """Called at each process and each call of move_pages(2): a look may have many."""
        self.is_held: Callable[[], bool] = lambda: False
        """Whether nothing is to move any more, for now."""
        self.configure(config, monitor_cold_ns)

    def configure(self, config: Config, monitor_cold_ns: int | None) -> None:
        """Go by another configuration from now on; what was counted under a rule's name goes on."""
        known = self.policies
        self.policies = {}
        for rule in config.rule:
            state = known.get(rule.name) or PolicyState(rule)
            state.rule = rule
            self.policies[rule.name] = state
        rates = {rule.name: rule.rate for rule in config.rule}
        self.budgets = Budgets(config.own_rate, rates, self.budgets)
        self.monitor_cold_ns = monitor_cold_ns
        self.hold_ups.limit_ns = config.service.batch
        self.assign({})

    def assign(self, rules: Mapping[int, str]) -> None:
        """Set which process goes by which rule: numbers to names."""
        self._of = {number: name for number, name in rules.items() if name in self.policies}

    def rule_of(self, number: int) -> str | None:
        """Return the name of a process's rule."""
        return self._of.get(number)

    def begin(self, elapsed_ns: int, pending: Mapping[int, tuple[int, int]], pause_ns: int) -> None:
        """Let time pass before a look.

        Args:
            elapsed_ns: since the last call.
            pending: base pages of the candidates of each process, to go up (or out) and down, by number.
            pause_ns: between two looks, for now.
        """
        self._pause_ns, self._moves_ns = pause_ns, 0
        self.budgets.begin(elapsed_ns)
        for state in self.policies.values():
            state.pending_pages = state.pending_down_pages = 0
            state.looks.pass_time(elapsed_ns)
            state.cold.pass_time(elapsed_ns)
        for number, (n_up, n_down) in pending.items():
            if (name := self._of.get(number)) is not None:
                self.policies[name].pending_pages += n_up
                self.policies[name].pending_down_pages += n_down

    def treatment(self, number: int) -> Treatment:
        """See :class:`gpuscan.monitors.treatment.Keeper`."""
        self.on_call()
        name = self._of.get(number)
        if name is None:
            return _NOTHING
        state = self.policies[name]
        rule = state.rule
        backlog = self.budgets.backlog_pages(name, self._pause_ns)
        cold_ns = self.monitor_cold_ns
        return Treatment(
            promotes=rule.promotes,
            demotes=rule.demotes,
            threshold=state.threshold,
            nids=frozenset(rule.nodes) if rule.nodes else None,
            shared=rule.shared,
            cold_wait_ns=0 if cold_ns is None else max(0, state.cold_after_ns - cold_ns),
            room_pages=None if backlog is None else max(0, backlog - state.pending_pages),
            room_down_pages=None if backlog is None else max(0, backlog - state.pending_down_pages),
        )

    def entered(self, number: int, n_pages: int, way: Way) -> None:
        """See :class:`gpuscan.monitors.treatment.Keeper`."""
        if (name := self._of.get(number)) is None:
            return
        if way == "down":
            self.policies[name].pending_down_pages += n_pages
        else:
            self.policies[name].pending_pages += n_pages

    def grant(self, number: int, n_pages: NDArray[np.int64]) -> int:
        """See :class:`gpuscan.migrate.steward.Steward`."""
        name = self._of.get(number)
        if name is None or self._is_over():
            self.on_call()
            return 0
        n = self.budgets.grant(name, n_pages)
        self._granted = int(n_pages[:n].sum())
        self.policies[name].looks.heard(0, int(n_pages[n:].sum()))
        return n

    def chunk_pages(self) -> int:
        """See :class:`gpuscan.migrate.steward.Steward`."""
        return 0 if self._is_over() else self.hold_ups.pages

    def _is_over(self) -> bool:
        """Whether nothing more is to move in this look."""
        return self.is_held() or self._moves_ns >= LOOK_MOVES_NS

    def called(self, n_pages: int, n_moved: int, busy_ns: int) -> None:
        """See :class:`gpuscan.migrate.steward.Steward`."""
        self._moves_ns += busy_ns
        self.hold_ups.took(n_pages, n_moved, busy_ns)
        self.on_call()

    def settled(
        self,
        number: int,
        target_nid: int,
        n_pages: int,
        n_demoted: int,
        reasons: Mapping[str, int],
        n_left_below: int,
    ) -> None:
        """See :class:`gpuscan.migrate.steward.Steward`."""
        granted, self._granted = self._granted, 0
        name = self._of.get(number)
        if name is None:
            return
        state = self.policies[name]
        self.budgets.give_back(name, granted - n_pages)
        state.looks.heard(n_pages, 0)
        if n_pages:
            state.moved_to[target_nid] += n_pages
        state.demoted_pages += n_demoted
        state.refused.update(reasons)
        if n_left_below and any(reason.endswith(_NO_ROOM) for reason in reasons):
            for each in self.policies.values():
                each.cold.heard_short()
