"""Rules that the kernel carries out, on the simulated kernel: set up, counted, watched, and put back."""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import replace

import pytest

from exposition import text_of
from gpuscan.base.errors import InputError
from gpuscan.cli import ctl
from gpuscan.cli.main import main
from gpuscan.cli.output import Output
from gpuscan.linux.kernel_settings import DEMOTION, NUMA_BALANCING, PROMOTION_RATE
from gpuscan.service.load import config_of
from gpuscan.service.metrics import of_service
from gpuscan.service.session import ServiceSession
from livesim.machine import Machine
from livesim.scenario import Event
from livesim.service import Noted, Script, ScriptedInbox, script
from livesim.system import Killed, SimulatedSystem

ALL = {"name": "all", "backend": "numa-balancing"}
OWN = {"name": "own", "command": "nobody"}
DB = {"name": "db", "unit": "database.service", "backend": "damon-schemes", "cold_after": "1s"}
CACHE = {"name": "cache", "cgroup": "system.slice/cache*", "backend": "kernel", "policy": "promote"}


class Run:
    """One service, from its start to its end; ``at`` are calls by the time in ms, given the run."""

    def __init__(self, *rules, orders=(), end_ms=2_500, reloads=(), at=(), machine=None, **tables):
        self.machine = machine or Machine(replace(script(4)[0], events=()))
        if machine is None:
            for command in ("database", "cache"):
                self.machine.world.spawn(150, command=command)
        self.own = self.machine.own
        self.system = SimulatedSystem(self.machine)
        self.noted, self.documents, self.seen = Noted(), [], []
        service = {"monitor": "soft-dirty", "cpu": "50%", **tables.pop("service", {})}
        self.config = config_of("x", {"service": service, "rule": list(rules), **tables})
        self.what, self.reloads, self.at = Script((), tuple(orders), end_ms), list(reloads), list(at)

    def go(self):
        def open_inbox(stop):
            inbox = ScriptedInbox(self.machine, self.system, self.what, stop)
            inbox._answered = lambda document: self.documents.append(document)  # type: ignore[method-assign]
            return inbox

        began_ns = self.machine.world.now_ns

        def on_turn():
            while self.at and (self.machine.world.now_ns - began_ns) / 1e6 >= self.at[0][0]:
                self.at.pop(0)[1](self)

        with ServiceSession(
            self.config,
            lambda: self.reloads.pop(0),
            open_inbox,
            self.system,
            open_recorder=lambda: self.noted,
        ) as self.session:
            self.session.run(lambda: self.seen.append(dict(self.own.settings)), lambda _: None, on_turn)
        return self

    def in_history(self, key):
        return sum(
            body[key] for kind, rule, body in self.noted.notes if kind == "kernel" and rule is not None
        )

    def policy(self, place=-1):
        return self.documents[place]["policies"][0]


@pytest.mark.parametrize(
    ("rule", "set_to"),
    [
        ({"policy": "both"}, {NUMA_BALANCING: "2", DEMOTION: "true"}),
        ({"policy": "promote"}, {NUMA_BALANCING: "2"}),
        ({"policy": "demote"}, {DEMOTION: "true"}),
        ({"policy": "promote", "rate": "64MiB/s"}, {NUMA_BALANCING: "2", PROMOTION_RATE: "64"}),
        ({"backend": "kernel"}, {NUMA_BALANCING: "2", DEMOTION: "true"}),
    ],
)
def test_numa_balancing_is_set_up_counted_and_put_back(rule, set_to):
    run = Run(ALL | rule, orders=[(2_000, "status", None)])
    run.machine.world.pressure[0] = 32_715  # short of memory, so that reclaim has something to do
    run.go()
    assert run.seen == [{**run.own.AT_BOOT, **set_to}]
    assert run.own.settings == run.own.AT_BOOT
    assert (run.own.n_promoted > 0) == (NUMA_BALANCING in set_to)
    assert (run.own.n_demoted > 0) == (DEMOTION in set_to)
    assert run.in_history("promoted_pages") == run.own.n_promoted
    assert run.in_history("demoted_pages") == run.own.n_demoted
    assert run.policy()["helper"] == "numa-balancing"
    assert 0 < run.policy()["moved_by_kernel_pages"] <= run.own.n_promoted + run.own.n_demoted
    assert run.machine.world.moved_pages == 0  # gpuscan itself moved nothing


def test_what_is_so_already_is_left_and_what_was_counted_before_is_not():
    run = Run(ALL)
    run.own.settings |= {NUMA_BALANCING: "3", DEMOTION: "true"}
    run.own.n_promoted = 1_000
    run.go()
    assert run.own.settings == {**run.own.AT_BOOT, NUMA_BALANCING: "3", DEMOTION: "true"}
    assert run.in_history("promoted_pages") == run.own.n_promoted - 1_000 > 0


def test_what_goes_down_because_somebody_else_wants_it_is_not_the_rules():
    run = Run(ALL | {"policy": "promote"})
    run.own.settings[DEMOTION] = "true"
    run.machine.world.pressure[0] = 32_715
    run.go()
    assert run.own.n_demoted > 0
    assert run.in_history("demoted_pages") == 0
    assert run.in_history("promoted_pages") == run.own.n_promoted


def test_balancing_between_nodes_with_cpus_goes_on_beside():
    run = Run(ALL)
    run.own.settings[NUMA_BALANCING] = "1"
    run.go()
    assert run.seen[0][NUMA_BALANCING] == "3"
    assert run.own.settings[NUMA_BALANCING] == "1"


def test_who_sets_it_meanwhile_meant_it_and_the_status_says_so():
    def sets(run):
        run.own.settings[NUMA_BALANCING] = "0"

    run = Run(ALL, at=[(700, sets)], orders=[(500, "status", None), (1_500, "status", None)]).go()
    assert [one["helpers"][0]["trouble"] for one in run.documents] == [
        "",
        "/proc/sys/kernel/numa_balancing is 0, not 2 any more",
    ]
    assert run.own.settings == run.own.AT_BOOT  # and demotion, which nobody touched, is put back
    troubles = [body["trouble"] for kind, rule, body in run.noted.notes if kind == "kernel" and rule is None]
    assert troubles == [{"numa-balancing": run.documents[1]["helpers"][0]["trouble"]}]


def test_a_rest_puts_it_back_until_it_is_over():
    states = []

    def look(run):
        states.append(run.own.settings[NUMA_BALANCING])

    run = Run(
        ALL,
        orders=[(2_000, "pause", None), (5_000, "resume", None)],
        at=[(0, look), (3_000, look), (6_500, look)],
        end_ms=9_000,
    ).go()
    assert states == ["2", "0", "2"]
    assert run.in_history("promoted_pages") == run.own.n_promoted


def test_a_reload_gives_a_rule_to_the_kernel_and_takes_it_back():
    states = []

    def look(run):
        states.append((run.own.settings[NUMA_BALANCING], run.machine.world.moved_pages))

    def another(run):
        run.machine.world.spawn(100, command="database")

    own = {"name": "all"}
    run = Run(own, orders=[(2_000, "reload", None), (5_000, "reload", None)], end_ms=9_000)
    service = {"monitor": "soft-dirty", "cpu": "50%"}
    run.reloads = [config_of("x", {"service": service, "rule": [rule]}) for rule in (ALL, own)]
    run.at = [(900, look), (2_500, another), (3_000, look), (3_500, look), (7_000, look)]
    run.go()
    assert [mode for mode, _ in states] == ["0", "2", "2", "0"]
    moved = [n for _, n in states]
    assert 0 < moved[0] <= moved[1] == moved[2] <= moved[3]
    assert run.in_history("promoted_pages") == run.own.n_promoted > 0
    assert run.own.settings == run.own.AT_BOOT


def test_nothing_is_drained_while_the_kernel_moves():
    run = Run(ALL, orders=[(300, "drain", 1), (600, "drain", None)]).go()
    assert "it empties no node" in run.documents[0]["error"]
    assert "nodes" in run.documents[1]


def test_a_kill_leaves_what_the_next_service_puts_back_whatever_its_rules_are():
    n_killed = 0
    for step in range(30, 400, 23):
        machine = Machine(replace(script(4)[0], events=(Event(step, "kill", 0),)))
        machine.world.spawn(60, command="database")
        run = Run(ALL, machine=machine, end_ms=300)
        with contextlib.suppress(Killed):
            run.go()
        run.system.end()
        n_killed += machine.own.settings != machine.own.AT_BOOT
        machine.events = {}
        Run(OWN, machine=machine, end_ms=100).go()
        assert machine.own.settings == machine.own.AT_BOOT
        assert not any(machine.state_files.values())
    assert n_killed > 3


def test_a_start_that_cannot_says_which_setting_is_not_there():
    run = Run(ALL)
    del run.own.settings[DEMOTION]
    with pytest.raises(InputError, match="demotion_enabled is not there"):
        run.go()
    assert not any(run.machine.state_files.values())
    assert not run.machine.locks


class ReadOnly(SimulatedSystem):
    """As in a container."""

    def may_write(self, path):
        return super().may_write(path) and not str(path).startswith("/proc/sys")


def test_where_settings_are_read_only_the_start_is_refused():
    run = Run(ALL)
    run.system = ReadOnly(run.machine)
    with pytest.raises(InputError, match="numa_balancing may not be written: root owns it, and containers"):
        run.go()
    assert not run.machine.locks


def test_a_rate_below_what_the_kernel_can_count_is_refused_at_the_start():
    with pytest.raises(InputError, match="whole MiB/s"):
        Run(ALL | {"policy": "promote", "rate": "100KB/s"}).go()


def by_rule(run, rule, *commands):
    """Return what DAMON moved of commands' cgroups, hot and cold, and what the history has of a rule."""
    moved = run.machine.world.moved_by_damon
    inodes = {inode for inode in run.inodes if run.inodes[inode] in commands}
    told = [body for kind, name, body in run.noted.notes if kind == "kernel" and name == rule]
    return (
        tuple(sum(moved[inode, is_hot] for inode in inodes) for is_hot in (True, False)),
        tuple(sum(body[key] for body in told) for key in ("promoted_pages", "demoted_pages")),
    )


class DamonRun(Run):
    """One whose cgroups are known by their inodes, also those that are gone."""

    def __init__(self, *rules, **more):
        super().__init__(*rules, **more)
        self.inodes: dict[int, str] = {}
        world = self.machine.world
        spawn = world.spawn

        def spawned(*args, **kwargs):
            proc = spawn(*args, **kwargs)
            self.inodes[world.cgroups[proc.cgroup]] = proc.command
            return proc

        world.spawn = spawned  # type: ignore[method-assign]
        self.inodes |= {world.cgroups[proc.cgroup]: proc.command for proc in world.running()}

    def is_given_back(self):
        files = self.machine.damon.files
        return files == {"nr_kdamonds": "0"} and not any(self.machine.state_files.values())


def test_damon_moves_the_memory_of_each_rules_cgroups_and_no_others():
    run = DamonRun(DB, CACHE, {"name": "rest", "command": "worker"}, end_ms=25_000)
    run.what = Script((), ((14_000, "status", None),), 25_000)
    run.go()
    for rule, command, goes_down in (("db", "database", True), ("cache", "cache", False)):
        moved, told = by_rule(run, rule, command)
        assert moved == told
        assert moved[0] > 20
        assert (moved[1] > 0) == goes_down
    assert set(run.machine.world.moved_by_damon) <= {
        (inode, is_hot)
        for inode, command in run.inodes.items()
        if command != "worker"
        for is_hot in (True, False)
    }
    first = run.documents[0]
    assert [one["helper"] for one in first["policies"]] == ["damon-schemes", "damon-schemes", None]
    assert first["policies"][0]["promoted_pages"] > 20
    assert first["helpers"][0]["trouble"] == ""
    assert run.machine.world.moved_pages > 0  # those of the third rule, by gpuscan itself
    assert run.is_given_back()


def test_cgroups_that_come_go_and_come_again_under_their_name_are_counted_each():
    def ends(run):
        for proc in run.machine.world.running():
            if proc.command == "database":
                run.machine.world.end(proc)

    def comes(run):
        run.machine.world.spawn(80, command="database")
        run.machine.world.spawn(80, command="cache")

    run = DamonRun(
        DB | {"unit": ["database.service", "cache.service"]},
        end_ms=16_000,
        at=[(4_000, ends), (4_000, comes), (9_000, ends), (12_000, comes)],
    ).go()
    assert len(run.inodes) == 5  # of workers, of caches, and thrice of databases
    moved, told = by_rule(run, "db", "database", "cache")
    assert moved == told
    assert all(
        run.machine.world.moved_by_damon[inode, True]
        for inode in run.inodes
        if run.inodes[inode] == "database"
    )


def test_a_rule_for_all_needs_no_cgroup():
    run = DamonRun({"name": "all", "backend": "damon-schemes", "policy": "promote"}, end_ms=3_000).go()
    assert run.in_history("promoted_pages") == run.machine.world.moved_by_damon[None, True] > 50


def test_a_rate_holds_over_all_schemes_of_a_rule_and_is_taken_off_the_budget():
    rate = 64 << 10
    rules = [DB | {"rate": "64KiB/s", "unit": "*.service", "policy": "both"}]
    run = DamonRun(*rules, end_ms=9_000, budget={"rate": "100KiB/s"}).go()
    moved = sum(run.machine.world.moved_by_damon.values()) << 12
    assert rate < moved <= rate * 9 + rate  # a second's quota may be there at the beginning
    assert run.session.governor.budgets._rate == 36 << 10


@pytest.mark.parametrize("is_taken", [True, False])
def test_who_has_damon_keeps_it_and_a_kernel_without_these_schemes_is_refused(is_taken):
    run = DamonRun(DB, CACHE)
    if is_taken:
        run.machine.damon.write("nr_kdamonds", "1")
        said = "DAMON is taken: 1 kdamond configured (switched off)"
    else:
        run.machine.damon.actions = {"stat"}
        said = "it has no migrate_hot, which is there since v6.11"
    with pytest.raises(InputError) as refused:
        run.go()
    assert said in str(refused.value)
    assert "let gpuscan move the pages" in str(refused.value)
    assert run.machine.damon.files["nr_kdamonds"] == str(int(is_taken))
    assert not run.machine.locks


def test_the_kernel_takes_the_helper_that_works():
    run = DamonRun({"name": "all", "backend": "kernel"})
    del run.own.settings[DEMOTION]
    run.go()
    assert run.session.helping.document() == []
    assert run.machine.world.moved_by_damon[None, True] > 20


def test_auto_takes_a_monitor_that_does_not_need_damon():
    run = DamonRun(DB, OWN, service={"monitor": "auto"}).go()
    assert not run.session.pipeline.monitor.name.startswith("damon")


def test_a_kdamond_that_somebody_switches_off_is_said_and_left():
    def off(run):
        run.machine.damon.write("0/state", "off")

    run = DamonRun(DB, at=[(2_000, off)], end_ms=16_000, orders=[(15_000, "status", None)]).go()
    assert "does not take update_schemes_stats" in run.documents[0]["helpers"][0]["trouble"]
    assert run.is_given_back()


def test_a_kill_while_damon_moves_leaves_nothing():
    n_killed = 0
    for step in (40, 60, 79, 900, *range(2_834, 3_430, 90)):
        machine = Machine(replace(script(4)[0], events=(Event(step, "kill", 0),)))
        machine.world.spawn(60, command="database")
        run = DamonRun(DB, machine=machine, end_ms=3_000)
        with contextlib.suppress(Killed):
            run.go()
        run.system.end()
        n_killed += bool(machine.damon.on)
        for watchdog in machine.watchdogs:
            watchdog.run()
        assert run.is_given_back()
    assert n_killed > 4


@pytest.mark.parametrize(
    ("rules", "tables", "said"),
    [
        ([{"backend": "kernal"}], {}, "there is no backend 'kernal'; choose one of gpuscan, kernel"),
        ([ALL | {"policy": "off"}], {}, "leaves alone"),
        ([ALL | {"command": "x"}], {}, "one for all processes, and command is for some"),
        ([ALL | {"hot": 3}], {}, "knows nothing of hot"),
        ([ALL | {"shared": "never"}], {}, "knows nothing of shared"),
        ([ALL, OWN], {}, "it is one for all processes, and rule own is for some"),
        ([ALL | {"exclude": {"user": "x"}}], {}, "it is one for all processes, and user is for some"),
        ([DB | {"command": "x"}], {}, "it tells processes apart by cgroup, unit, and rule db by command"),
        ([OWN, DB], {}, "it tells processes apart by cgroup, unit, and rule own by command"),
        (
            [DB | {"exclude": {"user": "x"}}],
            {},
            "it tells processes apart by cgroup, unit, and rule db by user",
        ),
        ([DB | {"nodes": [1]}], {}, "it knows nothing of nodes"),
        ([DB | {"cold_after": "auto"}], {}, "give a time"),
        ([DB], {"service": {"monitor": "damon"}}, "needs for itself what service.monitor = 'damon' needs"),
        ([DB, OWN], {"budget": {"rate": "9MB/s"}}, "give rule db a rate"),
        (
            [DB | {"rate": "9MB/s"}, OWN],
            {"budget": {"rate": "9MB/s"}},
            "so that something is left for the others",
        ),
        ([DB | {"backend": "kernel", "hot": 2}], {}, "damon-schemes: it knows nothing of hot"),
        ([ALL], {"service": {"tiers": ["2=1"]}}, "the kernel's own tiers, not by service.tiers"),
        ([ALL | {"rate": "1MB/s"}], {}, "nothing what goes down"),
        ([ALL | {"policy": "promote"}], {"budget": {"rate": "9MB/s"}}, "give rule all a rate"),
        (
            [ALL | {"policy": "promote", "rate": "20MiB/s"}],
            {"budget": {"rate": "10MiB/s"}},
            "rules that the kernel carries out have 20 MiB/s, and budget.rate is 10 MiB/s",
        ),
    ],
)
def test_what_the_kernel_cannot_do_is_refused_when_it_is_checked(rules, tables, said):
    document = {"rule": [{"name": f"r{i}"} | rule for i, rule in enumerate(rules)], **tables}
    with pytest.raises(InputError) as refused:
        config_of("x.toml", document)
    assert said in str(refused.value)
    assert str(refused.value).startswith("x.toml: ")


def test_a_kill_of_the_watchdog_too_leaves_what_the_next_service_gives_back_whatever_its_rules_are():
    machine = Machine(replace(script(4)[0], events=(Event(2_900, "kill", 0),)))
    machine.world.spawn(60, command="database")
    run = DamonRun(DB, machine=machine, end_ms=3_000)
    with contextlib.suppress(Killed):
        run.go()
    run.system.end()
    assert machine.damon.on
    machine.events, machine.watchdogs = {}, []
    Run(OWN, machine=machine, end_ms=100).go()
    assert run.is_given_back()


def test_what_the_kernel_moves_is_in_the_status_and_the_metrics(capsys):
    texts = []

    def scrape(run):
        texts.append(text_of(of_service(run.session)))

    run = DamonRun(DB, OWN, orders=[(15_000, "status", None)], at=[(15_500, scrape)], end_ms=16_000).go()
    (document,) = run.documents
    ctl._print(document, Output(False))
    printed = capsys.readouterr().out
    assert (
        "by the kernel: DAMON's schemes migrate_hot and migrate_cold, for db; its threads took 6.0 s"
        in printed
    )
    moved = document["policies"][0]
    assert moved["moved_by_kernel_pages"] == moved["promoted_pages"] + moved["demoted_pages"] > 0
    assert f'rule_moved_pages_total{{direction="up",rule="db"}} {float(moved["promoted_pages"])}' in texts[0]
    assert 'gpuscan_helper_in_trouble{helper="damon-schemes"} 0.0' in texts[0]
    assert 'gpuscan_rule_processes{rule="db"} 1.0' in texts[0]


def test_check_and_explain_say_who_carries_a_rule_out(tmp_path, capsys):
    path = tmp_path / "c.toml"
    path.write_text('[[rule]]\nname = "all"\nbackend = "kernel"\npolicy = "promote"\n')
    assert main(["service", str(path), "--check"]) == 0
    assert (
        "rule all is carried out by the kernel: numa-balancing, or damon-schemes" in capsys.readouterr().out
    )
    assert main(["service", str(path), "--check", "--json"]) == 0
    (rule,) = json.loads(capsys.readouterr().out)["rules"]
    assert rule["helpers"] == ["numa-balancing", "damon-schemes"]
    with subprocess.Popen(["sleep", "60"]) as other:
        assert main(["service", str(path), "--explain", str(other.pid)]) == 0
        other.kill()
    assert "carried out by the kernel (numa-balancing, or damon-schemes)" in capsys.readouterr().out
