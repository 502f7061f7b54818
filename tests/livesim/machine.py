"""The simulated machine with all that is on it, shared by gpuscan, its watchdog and the gpuscan after it."""

from __future__ import annotations

import itertools
import random
from typing import Any

from .damon import DamonFiles
from .files import Files
from .moves import MovePages
from .own_moves import OwnMoves
from .scenario import Event, Scenario
from .world import World


class Machine:
    """Set up by a scenario."""

    def __init__(self, scenario: Scenario, *, is_logging: bool = False) -> None:
        self.scenario = scenario
        self.is_logging = is_logging
        self.world = World(scenario.seed)
        self.damon = DamonFiles(self.world, has_trace=scenario.has_trace)
        self.own = OwnMoves(self.world)
        self.files = Files(self.world, self.damon, self.own)
        self.moves = MovePages(self.world)
        self.step = 0
        self.n_faults = 0
        self.events: dict[int, list[Event]] = {}
        for event in scenario.events:
            self.events.setdefault(event.step, []).append(event)
        self.own_pids = itertools.count(70_000)
        self.state_files: dict[str, bytearray] = {}
        self.locks: dict[str, Any] = {}
        self.watchdogs: list[Any] = []
        if scenario.selection != "command":
            for n in scenario.n_pages:
                self.world.spawn(n)
        if scenario.shares:
            self._share(random.Random(f"{scenario.seed} who shares"))

    def _share(self, chance: random.Random) -> None:
        """Let processes map what others have: those that were asked for, and strangers."""
        self.world.forks_share = True
        running = self.world.running()
        if chance.random() < 0.4:
            running.append(self.world.spawn(4, is_target=False, command="stranger"))
        for proc in running[1:]:
            if chance.random() < 0.8:
                self.world.share(proc, chance.choice([one for one in running if one is not proc]))

    def pass_time(self, ns: int) -> None:
        """Let time pass, for everybody."""
        self.world.now_ns += ns
        self.world.touch()
        if self.damon.on:
            self.damon.pass_time()
        self.own.pass_time()
