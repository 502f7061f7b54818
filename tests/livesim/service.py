"""The whole of ``gpuscan service`` on the simulated kernel: processes come and go, orders, reloads, kills."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.history.recording import Nowhere
from gpuscan.live.stop import Stop
from gpuscan.service.config import Config, Rule
from gpuscan.service.load import config_of
from gpuscan.service.rules import Facts, verdict
from gpuscan.service.session import ServiceSession
from gpuscan.service.waiting import Order

from .machine import Machine
from .run import Accountant, Result, damon_left, life
from .scenario import (
    CHANGES,
    COMES,
    FAULTS,
    HELPING_FROM,
    HOTPLUG_FROM,
    SHARING_FROM,
    Event,
    Scenario,
    hotplug_events,
    sharing_events,
)
from .system import SimulatedSystem

_MS = 1_000_000
_PAGE = 4096
_RULES: tuple[dict[str, Any], ...] = (
    {"name": "strangers", "command": "stranger", "policy": "off"},
    {"name": "databases", "unit": "data*.service", "policy": "both", "rate": "20KiB/s", "cold_after": "1s"},
    {"name": "caches", "command": ["cache"], "policy": "promote", "hot": "auto"},
    {"name": "workers", "cgroup": "system.slice/work*", "policy": "both", "nodes": [0, 2]},
    {"name": "low", "command": "cache", "policy": "demote", "cold_after": "auto"},
)


_ORDERS = (
    *(("status", None), ("pause", None), ("resume", None), ("reload", None), ("dump", None)),
    *(("drain", None), ("drain", 7)),
)


@dataclass(frozen=True, slots=True)
class Script:
    """What one seed decides beyond the machine: rules at first and later, and orders, by the time in ms."""

    configs: tuple[dict[str, Any], ...]
    orders: tuple[tuple[int, str, int | None], ...]
    end_ms: int


def script(seed: int) -> tuple[Scenario, Script]:
    """Return what a seed decides."""
    chance = random.Random(seed)
    source = chance.choices(("kpageflags", "soft-dirty", "idle", "damon"), (30, 25, 25, 10))[0]
    reach = chance.choice((300, 1_500, 4_000))
    events = [
        Event(
            chance.randrange(reach),
            chance.choices((COMES, chance.choice(CHANGES), chance.choice(FAULTS)), (4, 4, 1))[0],
            choice=chance.randrange(1 << 16),
        )
        for _ in range(chance.randrange(12))
    ]
    events += sharing_events(seed, reach) + hotplug_events(seed, reach)
    scenario = Scenario(
        seed=seed,
        source=source,
        selection="rules",
        n_pages=tuple(chance.randint(4, 60) for _ in range(chance.randrange(3))),
        ms=0,
        demote=True,
        has_trace=chance.random() < 0.8,
        has_scan=chance.random() < 0.5,
        events=tuple(sorted(events, key=lambda event: event.step)),
        shares=seed >= SHARING_FROM,
    )
    end_ms = chance.choice((1_500, 4_000, 7_000))
    orders = [
        (
            chance.randrange(end_ms),
            *chance.choice((*_ORDERS, ("drain", chance.choice((0, 1, 2))))),
        )
        for _ in range(chance.randrange(6))
    ]
    orders.sort(key=lambda order: order[0])
    return scenario, Script(tuple(_config(chance, source, seed) for _ in range(3)), tuple(orders), end_ms)


_HELPED: tuple[list[dict[str, Any]], ...] = (
    [{"name": "all", "backend": "numa-balancing"}],
    [{"name": "all", "backend": "kernel", "policy": "promote", "rate": "2MiB/s"}],
    [{"name": "all", "backend": "damon-schemes", "cold_after": "1s"}],
    [
        {"name": "databases", "unit": "data*", "backend": "damon-schemes", "cold_after": "1s"},
        {"name": "caches", "unit": "cache*", "backend": "kernel", "policy": "promote", "rate": "20KiB/s"},
        {"name": "low", "command": "worker", "policy": "both"},
    ],
)
"""Rules that the kernel carries out, in the seeds from ``HELPING_FROM`` on."""


def _config(chance: random.Random, source: str, seed: int) -> dict[str, Any]:
    if seed >= HELPING_FROM and chance.random() < 0.7:
        source = "soft-dirty" if source == "damon" else source
        return {"service": {"monitor": source, "cpu": "50%"}, "rule": chance.choice(_HELPED)}
    settings: dict[str, Any] = {"monitor": source, "cpu": chance.choice(("2%", "20%", "90%"))}
    if chance.random() < 0.1:
        settings["quiet"] = ["00:00-12:00"]
    rules = [rule for rule in _RULES if chance.random() < 0.75]
    if seed >= SHARING_FROM and chance.random() < 0.3:
        rules = [rule | {"shared": "never"} if rule["name"] == "caches" else rule for rule in rules]
    budget = {"rate": chance.choice(("16KiB/s", "64KiB/s"))} if chance.random() < 0.5 else {}
    return {"service": settings, "budget": budget, "rule": rules}


class ScriptedInbox:
    """Gives orders at their times, then the signal that ends it; each must be answered once."""

    def __init__(self, machine: Machine, system: SimulatedSystem, what: Script, stop: Stop) -> None:
        self._machine, self._system, self._stop = machine, system, stop
        self._began_ns = machine.world.now_ns
        self._orders = list(what.orders)
        self._end_ms = what.end_ms
        self.n_given = self.n_answered = 0
        self.is_closed = False

    def wait(self, limit_s: float) -> list[Order]:
        now_ms = (self._machine.world.now_ns - self._began_ns) // _MS
        if now_ms >= self._end_ms:
            self._system._take_signal(signal.SIGTERM)
            return []
        if self._orders and now_ms >= self._orders[0][0]:
            _, name, nid = self._orders.pop(0)
            self.n_given += 1
            return [Order(name, self._answered, nid)]  # type: ignore[arg-type]
        next_ms = self._orders[0][0] if self._orders else self._end_ms
        self._stop.wait(min(limit_s, max(1, next_ms - now_ms) / 1e3))
        self._stop.slept()
        return []

    def _answered(self, document: dict[str, Any]) -> None:
        self.n_answered += 1
        assert document.keys() == {"error"} or {"nodes", "policies", "cost"} <= document.keys()

    def close(self) -> None:
        self.is_closed = True


class Noted(Nowhere):
    """Keeps what was noted."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str | None, dict[str, Any]]] = []

    def note(self, kind: Any, policy: str | None, body: dict[str, Any]) -> None:
        self.notes.append((kind, policy, body))


def run_service(seed: int, *, is_logging: bool = False) -> Result:
    """Run what a seed decides; after a kill, once more without faults."""
    scenario, what = script(seed)
    machine = Machine(scenario, is_logging=is_logging)
    machine.world.hotplugs = seed >= HOTPLUG_FROM
    broken = machine.world.broken
    how = life(machine, lambda system: _serve(machine, system, what, broken), broken)
    if how in ("killed", "broken off") or damon_left(machine):
        machine.events = {}
        machine.world.offline.clear()
        rest = Script(what.configs, (), 1_500)
        again = life(machine, lambda system: _serve(machine, system, rest, broken), broken)
        if again != "ended by a signal":
            broken.append(f"the next service: {again}")
    broken += damon_left(machine)
    return Result(broken, how, machine.step, machine.world.moved_pages, machine.world.log)


def _serve(machine: Machine, system: SimulatedSystem, what: Script, broken: list[str]) -> str:
    world = machine.world
    configs = [config_of("simulated", each) for each in what.configs]
    _choose(machine, configs[0])
    n_reloads = 0

    def reload() -> Config:
        nonlocal n_reloads
        n_reloads += 1
        if n_reloads % 3 == 2:
            raise InputError("it is broken; mend it")
        config = configs[n_reloads % len(configs)]
        _choose(machine, config)
        return config

    inboxes: list[ScriptedInbox] = []

    def open_inbox(stop: Stop) -> ScriptedInbox:
        inboxes.append(ScriptedInbox(machine, system, what, stop))
        return inboxes[-1]

    noted = Noted()
    by_kernel = moved_by_kernel(machine)
    pace = _Moved(world.now_ns)
    with ServiceSession(configs[0], reload, open_inbox, system, open_recorder=lambda: noted) as session:
        pipeline = session.pipeline
        parts: Any = SimpleNamespace(store=session.store, migrator=pipeline.migrator, engine=pipeline.engine)
        accountant = Accountant(parts)
        use_machine = pipeline.use_machine

        def counted_on(store: Any, *args: Any) -> None:
            use_machine(store, *args)
            parts.store = store
            accountant.follow(store)

        pipeline.use_machine = counted_on  # type: ignore[method-assign, assignment]
        before = world.confirmed_pages

        def on_tick(_: Any) -> None:
            try:
                session.pipeline.engine.verify()
            except RunFailedError as error:
                broken.append(str(error))
                raise
            pace.look(world.now_ns, session, broken)

        session.run(lambda: None, on_tick)
        broken += accountant.check(parts)
        told = world.confirmed_pages - before
    if told != session.totals.moved_pages:
        broken.append(f"the kernel told of {told} pages on their targets, the service of others")
    in_notes = sum(sum(body["moved_pages_to"].values()) for kind, _, body in noted.notes if kind == "moved")
    if in_notes != told:
        broken.append(f"the history has {in_notes} moved pages, {told} were")
    of_kernel = sum(
        body["promoted_pages"] + body["demoted_pages"]
        for kind, rule, body in noted.notes
        if kind == "kernel" and rule is not None
    )
    by_kernel = moved_by_kernel(machine) - by_kernel
    if of_kernel != by_kernel and not machine.n_faults:
        broken.append(f"the kernel moved {by_kernel} pages for rules, the history has {of_kernel}")
    (inbox,) = inboxes
    if not inbox.is_closed or inbox.n_given != inbox.n_answered:
        broken.append(f"{inbox.n_given} orders, {inbox.n_answered} answers")
    return session.totals.end_reason


def moved_by_kernel(machine: Machine) -> int:
    """Return how many pages the kernel moved by itself."""
    return machine.own.n_promoted + machine.own.n_demoted + machine.world.moved_by_damon.total()


def _choose(machine: Machine, config: Config) -> None:
    """Let those be asked for whom a rule chooses from now on."""

    def rule_of(command: str) -> Rule | None:
        facts = Facts(1, command, "root", 0, f"/system.slice/{command}.service")
        found = verdict(config.rule, facts).rule
        return None if found is None or found.policy == "off" else found

    def may_have(command: str, nid: int) -> bool:
        found = rule_of(command)
        return found is None or not found.nodes or nid in found.nodes

    def may_share(command: str) -> bool:
        found = rule_of(command)
        return found is None or found.shared != "never"

    def is_chosen(command: str) -> bool:
        return rule_of(command) is not None

    machine.world.is_chosen, machine.world.may_have = is_chosen, may_have
    machine.world.may_share = may_share
    for proc in machine.world.processes.values():
        proc.is_target = is_chosen(proc.command)


class _Moved:
    """Holds what moved against the budgets, over the whole run; a reload begins it anew."""

    def __init__(self, now_ns: int) -> None:
        self._config: Config | None = None
        self._since_ns = now_ns
        self._before: dict[str, int] = {}

    def look(self, now_ns: int, session: ServiceSession, broken: list[str]) -> None:
        moved = {name: state.moved_to.total() for name, state in session.governor.policies.items()}
        if session.config is not self._config:
            self._config, self._since_ns, self._before = session.config, now_ns, moved
            return
        within_s = (now_ns - self._since_ns) / 1e9 + 1.0
        new = {name: n - self._before.get(name, 0) for name, n in moved.items()}
        rates = {rule.name: rule.rate for rule in session.config.rule if rule.rate is not None}
        for name, rate in rates.items():
            if new[name] * _PAGE > rate * within_s + _PAGE:
                broken.append(f"{name} moved {new[name]} pages in {within_s:.2f} s")
        total = session.config.budget.rate
        if total is not None and sum(new.values()) * _PAGE > total * within_s + _PAGE:
            broken.append(f"{sum(new.values())} pages moved in {within_s:.2f} s, all together")
