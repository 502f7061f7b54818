"""One scenario from the start of gpuscan to what it leaves, and what must hold then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuscan.base.errors import GpuscanError
from gpuscan.engine.stages import MigrateStatus
from gpuscan.live.document import end_document
from gpuscan.live.session import LiveRequest, LiveSession

from .machine import Machine
from .scenario import Scenario
from .system import Hang, Killed, SimulatedSystem


@dataclass
class Result:
    """What came of a scenario: what did not hold, what was done, and the log of system calls."""

    broken: list[str]
    how: str
    n_steps: int
    moved_pages: int
    log: list[str] = field(repr=False, default_factory=list)


class Accountant:
    """Counts requests beside the ledger: what becomes READY, and what the migrator says of it."""

    def __init__(self, session: LiveSession) -> None:
        self.requested = self.migrated = self.migrated_pages = 0
        self.follow(session.store)
        migrate = session.migrator.migrate

        def counted(target_nid: int, pfns: Any, n_pages: Any) -> Any:
            result = migrate(target_nid, pfns, n_pages)
            moved = result.status == MigrateStatus.MOVED
            self.migrated += int(moved.sum())
            self.migrated_pages += int(n_pages[moved].sum())
            return result

        session.migrator.migrate = counted  # type: ignore[method-assign]

    def follow(self, store: Any) -> None:
        """Count what becomes READY in a store, too."""
        for name in ("request", "record"):
            self._watch(store, name)

    def _watch(self, store: Any, name: str) -> None:
        marks = getattr(store, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            before = store.count_ready()
            counts = marks(*args, **kwargs)
            self.requested += store.count_ready() - before
            return counts

        setattr(store, name, counted)

    def check(self, session: LiveSession) -> list[str]:
        """Return what the ledger says otherwise."""
        ledger = session.engine.ledger
        own = (self.requested, self.migrated, session.store.count_ready(), 0)
        said = (ledger.requested, ledger.migrated, ledger.pending, ledger.in_flight)
        if own != said:
            return [f"requested, migrated, pending, in flight: counted {own}, the ledger has {said}"]
        return []


def run(scenario: Scenario, *, is_logging: bool = False) -> Result:
    """Run a scenario."""
    machine = Machine(scenario, is_logging=is_logging)
    broken = machine.world.broken
    how = life(
        machine,
        lambda system: _live(machine, system, scenario.source, scenario.ms, scenario.selection, broken),
        broken,
    )
    if damon_left(machine) or (
        scenario.seed % 8 == 0 and (how in ("killed", "broken off") or machine.n_faults)
    ):
        _again(machine, broken)  # where nothing is left the next start is that of any other seed
    broken += damon_left(machine)
    return Result(broken, how, machine.step, machine.world.moved_pages, machine.world.log)


def life(machine: Machine, live: Callable[[SimulatedSystem], str], broken: list[str]) -> str:
    """Run a process of gpuscan from its start to its end, and what it leaves behind to its own.

    Returns how it ended.
    """
    system = SimulatedSystem(machine)
    is_broken_off = False
    try:
        how = live(system)
    except Killed:
        how = "killed"
    except Hang:
        broken.append("it hangs")
        how = "hangs"
    except KeyboardInterrupt:
        how, is_broken_off = "broken off", True
    except GpuscanError as error:
        how, is_broken_off = f"{type(error).__name__}: {error}", _came_of_a_signal(error)
    except Exception as error:
        how = f"{type(error).__name__}: {error}"
        broken.append(f"no GpuscanError: {how}")
    if how != "killed":
        broken += left(machine, system, is_broken_off=is_broken_off)
    system.end()
    for watchdog in machine.watchdogs:
        watchdog.run()
    return how


def _came_of_a_signal(error: BaseException | None) -> bool:
    """Whether something failed while a second Ctrl-C was breaking the run off."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _live(
    machine: Machine, system: SimulatedSystem, source: str, ms: int, selection: str, broken: list[str]
) -> str:
    world = machine.world
    nid = machine.scenario.evacuate
    request = LiveRequest(
        pids=tuple(world.processes) if selection == "pids" else (),
        cgroup=Path("simulated") if selection == "cgroup" else None,
        command=("worker",) if selection == "command" else (),
        monitor=source if nid is None else "auto",
        evacuate_nid=nid,
        for_ns=ms * 1_000_000,
        demote=machine.scenario.demote,
        cold_after_ns=200_000_000,
        device="cpu",
        n_threads=1,
    )
    with LiveSession(request, system) as session:
        accountant = Accountant(session)
        before = world.confirmed_pages
        report = session.run(lambda: None, lambda *_: None)
        broken += accountant.check(session)
        told = world.confirmed_pages - before
    document = end_document(session, report)
    if nid is not None:
        broken += _left_on(machine, nid, document)
    if document["moved_pages"] != told or sum(document["moved_pages_to"].values()) != told:
        broken.append(
            f"the kernel told of {told} pages on their targets, the document of {document['moved_pages']}"
        )
    return session.totals.end_reason


def _left_on(machine: Machine, nid: int, document: dict[str, Any]) -> list[str]:
    """Return what the report says otherwise of a node that was emptied; of a machine that changes, little."""
    said = document["evacuation"]
    if said["node"] != nid or said["left_pages"] != sum(said["left"].values()):
        return [f"node {nid} was emptied, the report says {said}"]
    there = machine.world.pages_on(nid)
    if not machine.scenario.events and said["left_pages"] != there:
        return [f"{there} pages are on node {nid}, the report says {said}"]
    is_over = document["reason"].startswith("nothing that can move is left")
    movable = {reason for reason in said["left"] if reason not in _STAYS}
    if not machine.scenario.events and is_over and movable:
        return [f"it ended though pages of node {nid} could move: {movable}"]
    return []


_STAYS = {
    "not allowed elsewhere (cpuset or memory policy)",
    "mapped by several processes",
    "not on an LRU list",
    "no node has room",
}


def left(machine: Machine, system: SimulatedSystem, *, is_broken_off: bool = False) -> list[str]:
    """Return what a gpuscan that ended by itself left behind."""
    # A second Ctrl-C may come between a call and the name for what it returned, or while somebody is waited
    # for: the watchdog, which ends by itself then, or what was killed; the process ends with it.
    is_open = system.left_open() and not is_broken_off
    found = [f"open: {', '.join(system.left_open())}"] if is_open else []
    waited_for = [
        each
        for each in system.children
        if not (is_broken_off and (each in machine.watchdogs or not each.is_alive))
    ]
    found += [f"child {child.pid} was not waited for" for child in waited_for if child.returncode is None]
    return found if machine.n_faults or is_broken_off else found + damon_left(machine)


def damon_left(machine: Machine) -> list[str]:
    damon = machine.damon
    found = []
    if damon.files["nr_kdamonds"] != "0" or damon.on:
        found.append(f"DAMON has {damon.files['nr_kdamonds']} kdamonds, {len(damon.on)} on")
    if damon.instances:
        found.append(f"trace instances are left: {', '.join(damon.instances)}")
    if machine.own.settings != machine.own.AT_BOOT:
        found.append(f"settings are left: {machine.own.settings}")
    found += [f"{name} still names something" for name, text in machine.state_files.items() if text]
    found += [f"{name} is still locked" for name in machine.locks]
    return found


def _again(machine: Machine, broken: list[str]) -> None:
    """Start gpuscan once more, without faults, on what was left."""
    machine.events = {}
    world = machine.world
    world.offline.clear()
    if not any(proc.is_target for proc in world.running()):
        world.spawn(5)
    for proc in world.running():
        proc.is_target = True
    system = SimulatedSystem(machine)
    try:
        _live(machine, system, "damon", 100, "cgroup", broken)
    except GpuscanError as error:
        broken.append(f"the next gpuscan: {error}")
    broken += left(machine, system)
    system.end()


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool]) -> Scenario:
    """Return a scenario with as few events as still fail."""
    for event in scenario.events:
        fewer = scenario.without({event})
        if fails(fewer):
            scenario = fewer
    return scenario
