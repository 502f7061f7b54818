"""The session on the simulated kernel: what a service manager hears, and a process whose files fail."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest

from gpuscan.base.errors import InputError
from gpuscan.linux.damon_taken import DamonUnavailableError
from gpuscan.monitors.built_in.kpageflags import ReferencedFlags
from gpuscan.service.load import config_of
from livesim.service import Noted
from livesim.session import RULES, Run
from livesim.system import SimulatedSystem


def test_a_manager_hears_of_the_start_of_reloads_and_of_the_end():
    def broken():
        raise InputError("it is broken; mend it")

    run = Run((400, "reload", None), reload=broken).go()
    names = [name for _, what in run.manager.told for name in what if name not in ("STATUS", "WATCHDOG")]
    assert names == ["READY", "RELOADING", "MONOTONIC_USEC", "READY", "STOPPING"]
    assert "it is broken" in run.manager.said("STATUS")[1]


@pytest.mark.parametrize("orders", [(), ((300, "pause", None),)])
def test_a_manager_hears_within_a_third_of_what_it_asks_for(orders):
    run = Run(*orders, end_ms=25_000, interval="10s").go()  # pauses far longer than what it asks for
    at_ns = [at for at, what in run.manager.told if "READY" in what or "WATCHDOG" in what]
    at_ns.append(run.machine.world.now_ns)
    assert max(after - before for before, after in pairwise(at_ns)) < 1.5e9


class Kept(Noted):
    """Knows which notes a kill would have taken along: those that were not flushed at once."""

    def __init__(self):
        super().__init__()
        self.n_flushed = set()

    def flush(self):
        self.n_flushed.add(len(self.notes))


def test_what_is_rare_is_kept_at_once():
    run = Run((300, "pause", None), (600, "resume", None), (900, "reload", None), (950, "drain", 99))
    run.noted = Kept()
    run.go()
    rare = [n for n, (kind, *_) in enumerate(run.noted.notes, 1) if kind not in ("moved", "state", "process")]
    kinds = [run.noted.notes[n - 1][0] for n in rare]
    assert {*kinds} == {"start", "control", "rest", "config", "stop"}
    assert set(rare) <= run.noted.n_flushed


@pytest.mark.parametrize("wrong", [{"tiers": ["77=1"]}, {"tiers": ["0=1", "1=1", "2=1"]}])
def test_a_reload_refuses_what_the_next_start_would(wrong):
    run = Run((400, "reload", None), reload=lambda: config_of("x", {"service": wrong, "rule": RULES})).go()
    assert "error" in run.documents[0]
    assert run.session.config is run.config


def test_whom_the_monitor_refused_at_a_reload_it_is_told_of_until_it_watches_them(monkeypatch):
    watch = ReferencedFlags.watch
    told: list[int] = []

    def refusing(monitor, processes):
        told.append(len(processes))
        if 1 <= told.count(2) <= 3:
            raise DamonUnavailableError("the kernel has no room")
        watch(monitor, processes)

    monkeypatch.setattr(ReferencedFlags, "watch", refusing)
    rules = [*RULES, {"name": "other", "command": "other*"}]
    service = {"monitor": "kpageflags", "cpu": "50%"}
    run = Run(
        (600, "reload", None),
        end_ms=12_000,
        reload=lambda: config_of("x", {"service": service, "rule": rules}),
    )
    run.machine.world.spawn(40, command="other")
    run.go()
    assert "no room" in run.documents[0]["error"]
    assert told == [1, 2, 2, 2, 2]


class Failing(SimulatedSystem):
    """Files of one process fail after a while."""

    pid, name, code, from_ns = -1, "", errno.EIO, 0

    def _check(self, path):
        if str(path) == f"/proc/{self.pid}/{self.name}" and self.world.now_ns >= self.from_ns:
            raise OSError(self.code, "it fails", str(path))

    def read_text(self, path):
        self._check(path)
        return super().read_text(path)

    def open(self, path, flags, mode=0o777, *, dir_fd=None):
        self._check(path)
        return super().open(path, flags, mode, dir_fd=dir_fd)


_FAIL = (
    *(("maps", errno.EIO), ("maps", errno.EMFILE), ("numa_maps", errno.EACCES), ("pagemap", errno.EMFILE)),
    *(("stat", errno.EIO), ("status", errno.EIO), ("cgroup", errno.EMFILE)),
)


@pytest.mark.parametrize(("name", "code"), _FAIL)
def test_a_process_whose_files_fail_is_let_go_of_and_no_other(name, code):
    run = Run((5_500, "dump", None), system_class=Failing, n=2, end_ms=6_000)
    run.system.pid, run.system.name, run.system.code = run.pids[0], name, code
    run.system.from_ns = run.machine.world.now_ns + 1_000_000_000
    run.go()
    assert run.session.totals.end_reason == "ended by a signal"
    assert run.watched[0] == run.pids
    assert run.watched[-1] == run.pids[1:]
    if name in ("maps", "numa_maps", "pagemap"):  # else it is as if no rule were for it
        assert run.documents[0]["n_failed"] == 1
        assert run.documents[0]["failed"][0]["pid"] == run.pids[0]
        assert name in run.documents[0]["failed"][0]["why"]
