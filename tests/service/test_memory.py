"""Memory that goes offline and comes online while the service runs, on the simulated kernel."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest

from gpuscan.base.errors import DeviceError, RunFailedError, TopologyError
from gpuscan.linux.damon_taken import DamonUnavailableError
from gpuscan.live.pipeline import Pipeline
from gpuscan.monitors.source import LiveSource
from gpuscan.service.load import config_of
from gpuscan.service.memory import OnlineMemory
from gpuscan.service.session import ServiceSession
from gpuscan.store.single import Store
from livesim.machine import Machine
from livesim.service import script
from livesim.session import RULES, Run
from livesim.system import SimulatedSystem
from livesim.world import FAR, HOST, NEAR, PRESENT, SECTION

MIDDLE = 1


class Plugged(SimulatedSystem):
    """Nodes go offline and come online at their times, in ms after the start: (when, which are offline)."""

    changes: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def _enter(self, *args):
        began_ns = self.__dict__.setdefault("_began_ns", self.machine.world.now_ns)
        world = self.machine.world
        while self.changes and world.now_ns - began_ns >= self.changes[0][0] * 1_000_000:
            (_, offline), *rest = self.changes
            self.changes = tuple(rest)
            for nid in set(offline) - world.offline:
                world.empty(nid)
            world.offline = set(offline)
        return super()._enter(*args)


COLD = {"name": "db", "command": "data*", "cold_after": "1s"}


def ran(*changes, orders=(), rules=RULES, end_ms=12_000, monitor="kpageflags"):
    """Return a run on a machine whose nodes go and come."""
    run = Run(*orders, system_class=Plugged, end_ms=end_ms)
    run.config = config_of("x", {"service": {"monitor": monitor, "cpu": "50%"}, "rule": rules})
    run.machine.world.hotplugs = True
    run.system.changes = changes
    return run.go()


def notes(run, kind):
    return [body for of, _, body in run.noted.notes if of == kind]


def test_a_node_that_is_gone_is_nowhere_and_used_again_once_it_is_back():
    orders = ((3_400, "dump", None), (6_500, "dump", None), (11_500, "dump", None))
    run = ran((3_500, (FAR,)), (7_000, ()), orders=orders, rules=[COLD])
    assert [[node["nid"] for node in each["nodes"]] for each in run.documents] == [
        [0, 1, 2],
        [0, 1],
        [0, 1, 2],
    ]
    assert [one["present_pages"].keys() for one in notes(run, "memory")] == [{"0", "1"}, {"0", "1", "2"}]
    before, away, back = [each["policies"][0]["moved_pages_to"].get(FAR, 0) for each in run.documents]
    assert 0 < before == away < back
    assert run.machine.world.broken == []


def test_what_came_online_after_the_start_is_looked_at():
    """Its pages were counted as in no known zone, until the next start."""
    run = Run((1_900, "dump", None), (9_900, "dump", None), system_class=Plugged, end_ms=10_000)
    world = run.machine.world
    world.hotplugs, world.offline = True, {MIDDLE}
    run.system.changes = ((500, ()),)
    come: list[bool] = []

    class Comes(Plugged):
        def _enter(self, *args):
            if not come and world.now_ns > 1_600_000_000 and not world.offline:
                come.append(True)
                proc = world.processes[run.pids[0]]
                for page in np.flatnonzero(proc.words & PRESENT).tolist():
                    world.move(proc, page, MIDDLE)
            return super()._enter(*args)

    run.system.__class__ = Comes
    run.go()
    early, late = run.documents
    assert early["not_candidates"]["not in a known zone"] > 0
    assert late["not_candidates"]["not in a known zone"] - early["not_candidates"]["not in a known zone"] < 40
    assert run.session.topology.node(MIDDLE).present_pages == SECTION


def test_all_far_memory_may_go_and_come_back():
    run = ran((2_500, (FAR,)), (7_000, ()), orders=((6_500, "status", None),))
    assert [node["nid"] for node in run.documents[0]["nodes"]] == [NEAR, MIDDLE]
    assert run.session.targets.promotion == {FAR: NEAR}
    assert run.session.totals.end_reason == "ended by a signal"


def test_cold_pages_go_to_memory_that_came_after_the_start():
    """Its zone was printed before, too, without memory, and was taken to have none until the next start."""
    run = Run((2_900, "dump", None), system_class=Plugged, end_ms=9_000)
    service = {"monitor": "soft-dirty", "cpu": "50%", "tiers": [f"{MIDDLE}=1"]}
    run.config = config_of("x", {"service": service, "rule": [COLD]})
    world = run.machine.world
    world.empty(MIDDLE)
    world.hotplugs, world.offline = True, {MIDDLE}
    run.system.changes = ((3_000, (MIDDLE, FAR)), (5_500, (FAR,)))  # what was far is near then, and cold
    run.go()
    assert [node["nid"] for node in run.documents[0]["nodes"]] == [NEAR, FAR]
    assert run.session.totals.moved_to[MIDDLE] > 0
    assert world.broken == []


def test_an_order_to_empty_a_node_holds_while_it_is_away_and_after():
    orders = ((2_100, "drain", MIDDLE), (6_500, "status", None), (11_000, "status", None))
    run = ran((2_900, (MIDDLE,)), (7_000, ()), orders=orders)
    _, away, back = run.documents
    assert [node["draining"] for node in away["nodes"]] == [False, False]
    assert [node["nid"] for node in back["nodes"] if node["draining"]] == [MIDDLE]


def test_figures_go_on():
    run = ran((3_500, (MIDDLE,)), (7_000, ()))
    moved = sum(sum(one["moved_pages_to"].values()) for one in notes(run, "moved"))
    assert moved == run.session.totals.moved_pages == run.machine.world.confirmed_pages > 0


@pytest.mark.parametrize(("monitor", "n_opened"), [("kpageflags", 1), ("damon-paddr", 3)])
def test_a_monitor_of_physical_memory_is_opened_anew(monkeypatch, monitor, n_opened):
    opened: list[str] = []
    open_monitor = ServiceSession._open_monitor

    def counted(session, name):
        opened.append(name)
        return open_monitor(session, name)

    monkeypatch.setattr(ServiceSession, "_open_monitor", counted)
    run = ran((3_500, (MIDDLE,)), (7_000, ()), monitor=monitor)
    assert opened == [monitor] * n_opened
    assert run.session.totals.end_reason == "ended by a signal"


def test_what_waits_when_memory_changes_is_ended_and_booked():
    run = Run(system_class=Plugged, end_ms=9_000)
    settings = {"monitor": "kpageflags", "cpu": "50%"}
    run.config = config_of(
        "x", {"service": settings, "budget": {"rate": "4KiB/s"}, "rule": [{"name": "db", "command": "data*"}]}
    )
    run.machine.world.hotplugs = True
    run.system.changes = ((2_500, (MIDDLE,)),)
    run.go()  # its end proves conservation
    assert run.session.pipeline.engine.ledger.dropped["the machine's memory has changed"] > 0


def test_what_memory_of_another_layout_makes_impossible_is_worth_another_start(monkeypatch):
    """An InputError has exit code 2, after which systemd starts the unit no more."""
    watch = LiveSource.watch

    def refused(source, processes):
        if source._system.world.offline:
            raise DamonUnavailableError("somebody configured DAMON meanwhile")
        watch(source, processes)

    monkeypatch.setattr(LiveSource, "watch", refused)
    with pytest.raises(RunFailedError, match="somebody configured DAMON meanwhile"):
        ran((3_500, (MIDDLE,)), monitor="damon-paddr")


def test_a_store_that_does_not_fit_is_tried_again(monkeypatch):
    orders = ((6_500, "dump", None), (11_500, "dump", None))
    made: list[bool] = []
    store_of = ServiceSession._store_of

    def fails_twice(session, topology):
        made.append(True)
        if len(made) in (2, 3):
            raise DeviceError("the store does not fit")
        return store_of(session, topology)

    monkeypatch.setattr(ServiceSession, "_store_of", fails_twice)
    run = ran((3_500, (MIDDLE,)), orders=orders)
    before, after = run.documents
    assert [node["nid"] for node in before["nodes"]] == [0, 1, 2]
    assert "the memory of before" in before["problem"]
    assert [node["nid"] for node in after["nodes"]] == [0, 2]
    assert after["problem"] == ""
    assert notes(run, "memory") == [{"refused": "the store does not fit"}, notes(run, "memory")[-1]]
    assert len(made) == 4


def test_a_store_that_does_not_fit_is_not_needed_once_memory_is_as_before(monkeypatch):
    made: list[bool] = []
    store_of = ServiceSession._store_of

    def fails_from_the_second_on(session, topology):
        made.append(True)
        if len(made) > 1:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return store_of(session, topology)

    monkeypatch.setattr(ServiceSession, "_store_of", fails_from_the_second_on)
    orders = ((6_500, "dump", None), (11_900, "dump", None))
    run = ran((3_500, (MIDDLE,)), (7_000, ()), orders=orders)
    before, after = run.documents
    assert "Cannot allocate memory" in before["problem"]
    assert after["problem"] == ""
    assert run.session.totals.end_reason == "ended by a signal"


def test_the_store_of_before_is_closed_where_the_other_cannot_be_used(monkeypatch):
    closed: list[Store] = []
    close = Store.close

    def noted(store):
        closed.append(store)
        close(store)

    def fails(*_):
        raise RunFailedError("conservation broke")

    monkeypatch.setattr(Store, "close", noted)
    monkeypatch.setattr(Pipeline, "use_machine", fails)
    with pytest.raises(RunFailedError, match="conservation broke"):
        ran((3_500, (MIDDLE,)))
    assert len(set(map(id, closed))) == 2


class Files(SimulatedSystem):
    """Says what it is told to."""

    line, host, fails = "MemTotal: 7 kB", HOST, None

    def read_text(self, path):
        if isinstance(self.fails, OSError):
            raise self.fails
        return f"{self.line}\nMemFree: 1 kB\n"

    def read_host(self):
        if isinstance(self.fails, TopologyError):
            raise self.fails
        self.n_read = getattr(self, "n_read", 0) + 1
        return self.host


@pytest.fixture
def files():
    return Files(Machine(script(4)[0]))


def without(nid):
    topology = HOST.topology
    nodes = tuple(replace(node, zones=()) if node.nid == nid else node for node in topology.nodes)
    return replace(HOST, topology=replace(topology, nodes=nodes))


@pytest.fixture
def memory(files):
    """As it is once two readings agree."""
    memory = OnlineMemory(files)
    memory.read()
    assert memory.changed() is None
    assert files.n_read == 2
    return memory


def test_the_machine_is_read_only_where_its_memory_is_more_or_less(files, memory):
    files.host = without(MIDDLE)
    assert memory.changed() is None
    assert files.n_read == 2
    files.line = "MemTotal: 5 kB"
    found = memory.changed()
    assert found is not None
    assert not found.node(MIDDLE).present_pages
    memory.use(found)
    assert [memory.changed(), memory.changed()] == [None, None]
    assert files.n_read == 4


def test_a_block_whose_state_follows_the_line_is_found(files, memory):
    """online_pages() counts its pages in before its state says so, and a poll may fall between."""
    files.line = "MemTotal: 9 kB"
    assert memory.changed() is None
    files.host = without(MIDDLE)
    assert memory.changed() is not None


def test_what_the_first_reading_missed_is_found(files):
    memory = OnlineMemory(files)
    memory.read()
    files.host = without(MIDDLE)
    assert memory.changed() is not None


def test_what_is_not_used_is_returned_again(files, memory):
    files.line, files.host = "MemTotal: 5 kB", without(FAR)
    found = [memory.changed() for _ in range(3)]
    assert found == [files.host.topology] * 3
    files.host = HOST
    assert memory.changed() is None


def test_a_balloon_changes_nothing(files, memory):
    node = HOST.topology.nodes[0]
    zone = replace(node.zones[0], managed_pages=node.zones[0].managed_pages - 7)
    nodes = (replace(node, zones=(zone,)), *HOST.topology.nodes[1:])
    files.host = replace(HOST, topology=replace(HOST.topology, nodes=nodes))
    files.line = "MemTotal: 6 kB"
    assert [memory.changed() for _ in range(3)] == [None] * 3
    assert files.n_read == 4


@pytest.mark.parametrize("error", [OSError(errno.EIO, "it fails"), TopologyError("read again")])
def test_what_cannot_be_read_now_is_asked_again(files, memory, error):
    files.line, files.host, files.fails = "MemTotal: 5 kB", without(FAR), error
    assert memory.changed() is None
    files.fails = None
    found = memory.changed()
    assert found is not None
    assert not found.node(FAR).present_pages
