"""What the service tells systemd, what --install writes, and the commands as they are typed."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli import ctl as ctl_command
from gpuscan.cli.main import main
from gpuscan.cli.output import Output
from gpuscan.linux.system import System
from gpuscan.service.install import CONFIG, UNIT, install, unit_text
from gpuscan.service.notify import Notifier
from gpuscan.service.selection import MOST_PROCESSES
from livesim.machine import Machine
from livesim.service import Script, ScriptedInbox, script
from livesim.system import SimulatedSystem


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening, str(tmp_path / "notify")


def test_a_manager_is_told(manager):
    listening, address = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "7"}
    notifier = Notifier(environment, pid=7)
    assert notifier.watchdog_s == 4.0
    notifier.ready("running,\nall well")
    notifier.status("moved 1 MiB")
    notifier.reloading(5_000_000)
    notifier.alive()
    notifier.stopping()
    assert [listening.recv(1000).decode().split("\n") for _ in range(5)] == [
        ["READY=1", "STATUS=running, all well"],
        ["STATUS=moved 1 MiB", "WATCHDOG=1"],
        ["RELOADING=1", "MONOTONIC_USEC=5000"],
        ["WATCHDOG=1"],
        ["STOPPING=1"],
    ]
    notifier.close()


def test_a_watchdog_of_another_process_is_not_ours(manager):
    _, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}, pid=7)
    assert notifier.watchdog_s is None
    notifier.close()


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path):
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "none")}, {"NOTIFY_SOCKET": "@gpuscan-none"}):
        notifier = Notifier(environment)
        notifier.ready("x")
        notifier.alive()
        notifier.close()
        notifier.ready("after the end")


def test_an_installation_writes_both_and_replaces_nothing(tmp_path, monkeypatch):
    (tmp_path / "etc").mkdir()
    written = install(tmp_path)
    assert written == [tmp_path / CONFIG, tmp_path / UNIT]
    unit = (tmp_path / UNIT).read_text()
    assert re.search(r"^ExecStart=\S+gpuscan service /etc/gpuscan/service.toml$", unit, re.MULTILINE)
    assert "@" not in re.sub(r"@\w+(-\w+)?", "", unit)
    assert (tmp_path / CONFIG).stat().st_mode & 0o777 == 0o644
    (tmp_path / UNIT).unlink()  # as one that was broken off leaves it
    assert install(tmp_path) == written
    assert (tmp_path / UNIT).read_text() == unit
    (tmp_path / CONFIG).write_text("# mine\n")
    (tmp_path / UNIT).unlink()
    with pytest.raises(InputError, match=r"service.toml is there; give --force to replace it"):
        install(tmp_path)
    assert (tmp_path / CONFIG).read_text() == "# mine\n"
    assert not (tmp_path / UNIT).exists()
    install(tmp_path, force=True)
    assert "[[rule]]" in (tmp_path / CONFIG).read_text()


def test_a_place_of_gpuscan_with_signs_that_mean_something_to_systemd(monkeypatch, tmp_path):
    odd = tmp_path / "50% $off"
    odd.mkdir()
    (odd / "gpuscan").write_text("#!/bin/sh\n")
    (odd / "gpuscan").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(odd / "python"))
    assert f"'{tmp_path}/50%% $$off/gpuscan' service" in unit_text(Path("/etc/x.toml"))
    (odd / "gpuscan").unlink()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "/python' -m gpuscan service" in unit_text(Path("/etc/x.toml"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_the_unit_and_finds_it_little_exposed(tmp_path):
    (tmp_path / "etc").mkdir()
    install(tmp_path)
    unit = str(tmp_path / UNIT)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    own = [line for line in verified.stderr.splitlines() if "gpuscan.service" in line]
    assert own == []
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", unit], capture_output=True, text=True, check=False
    )
    found = re.search(r"Overall exposure level for gpuscan.service: ([0-9.]+)", rated.stdout)
    assert found is not None, rated.stderr
    assert float(found[1]) <= 5.0


_DESCRIPTORS = """
import resource
from gpuscan.base.descriptors import take_all_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 300))
print(take_all_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_service_may_have_as_many_descriptors_as_the_unit_says():
    done = subprocess.run([sys.executable, "-c", _DESCRIPTORS], capture_output=True, text=True, check=True)
    assert done.stdout == "300 (300, 300)\n"
    (most,) = re.findall(r"^LimitNOFILE=(\d+)$", unit_text(Path("/x")), re.MULTILINE)
    assert int(most) > 2 * MOST_PROCESSES  # a pidfd each, and one of its files at a time


MINE = """
[[rule]]
name = "mine"
command = ["python*", "pytest*"]
policy = "promote"
[[rule]]
name = "all"
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    return str(tmp_path / "mine.toml")


def test_check_and_explain(mine, capsys):
    assert main(["service", mine, "--check"]) == 0
    assert "makes sense: 2 rules" in capsys.readouterr().out
    assert main(["service", mine, "--check", "--json"]) == 0
    assert [rule["name"] for rule in json.loads(capsys.readouterr().out)["rules"]] == ["mine", "all"]
    with subprocess.Popen(["sleep", "60"]) as other:
        assert main(["service", mine, "--explain", str(other.pid)]) == 0
        other.kill()
    out = capsys.readouterr().out
    assert "not rule mine: command is sleep, not python* or pytest*" in out
    assert "rule all (policy both): the rule is for all processes" in out
    assert main(["service", mine, "--explain", "2147483600"]) == 2
    assert "there is no process 2147483600" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('[service]\ntiers = ["77=1"]\n', "node 77"),
        ('[[rule]]\nname = "a"\nnodes = [77]\n', "rule a: nodes names 77, which has no memory here"),
    ],
)
def test_check_says_what_does_not_fit_this_machine(tmp_path, capsys, monkeypatch, wrong, said):
    scenario, _ = script(4)
    host = SimulatedSystem(Machine(replace(scenario, events=()))).read_host()
    monkeypatch.setattr(System, "read_host", lambda _: host)
    (tmp_path / "c.toml").write_text(wrong)
    assert main(["service", str(tmp_path / "c.toml"), "--check"]) == 0
    found = capsys.readouterr().err
    assert "on this machine it cannot start: " in found
    assert said in found
    assert main(["service", str(tmp_path / "c.toml"), "--check", "--json"]) == 0
    assert said in json.loads(capsys.readouterr().out)["not_here"]
    (tmp_path / "c.toml").write_text('[[rule]]\nname = "a"\nnodes = [0]\n')
    assert main(["service", str(tmp_path / "c.toml"), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_here"] is None


def test_check_refuses_a_group_that_is_not_there(tmp_path, capsys):
    (tmp_path / "c.toml").write_text('[service]\ngroup = "no-such-group"\n')
    assert main(["service", str(tmp_path / "c.toml"), "--check"]) == 2
    assert "service.group names the group 'no-such-group'" in capsys.readouterr().err
    assert "\nRestartPreventExitStatus=2\n" in unit_text(Path("/x"))  # what is wrong does not mend itself


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to do: gpuscan service CONFIG.toml"),
        (["x.toml", "--check", "--install"], "give one of them"),
        (["x.toml", "--force"], "--force replaces files of --install"),
        (["none.toml", "--check"], "cannot read the configuration none.toml"),
        (["none.toml"], "cannot read the configuration none.toml"),
    ],
)
def test_what_makes_no_sense_is_said(arguments, said, capsys):
    assert main(["service", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_rule_that_hides_others_is_noted(tmp_path, capsys):
    (tmp_path / "c.toml").write_text('[[rule]]\nname = "all"\n[[rule]]\nname = "never"\n')
    assert main(["service", str(tmp_path / "c.toml"), "--check"]) == 0
    assert "rule all fits every process, so none after it ever does" in capsys.readouterr().err


def test_a_status_of_a_service_can_be_shown(capsys):
    """The document of a whole service on the simulated kernel, as ``gpuscan ctl`` prints it."""
    from gpuscan.service.load import config_of
    from gpuscan.service.session import ServiceSession

    scenario, _ = script(4)
    machine = Machine(replace(scenario, events=()))
    machine.world.spawn(40, command="database")
    system = SimulatedSystem(machine)
    what = Script((), ((900, "dump", None),), 1_500)
    documents: list[Any] = []
    rules = [{"name": "db", "command": "data*", "rate": "100KiB/s"}]
    config = config_of("x", {"service": {"monitor": "kpageflags", "cpu": "50%"}, "rule": rules})

    def open_inbox(stop):
        inbox = ScriptedInbox(machine, system, what, stop)
        inbox._answered = lambda document: documents.append(document)  # type: ignore[method-assign]
        return inbox

    with ServiceSession(config, lambda: config, open_inbox, system) as session:
        session.run(lambda: None, lambda _: None)
    (document,) = documents
    (policy,) = document["policies"]
    assert policy["name"] == "db"
    assert policy["n_processes"] == 1
    assert policy["promoted_pages"] == sum(policy["moved_pages_to"].values()) > 0
    assert document["processes"][0]["rule"] == "db"
    assert document["cost"]["cpu_ceiling"] == 0.5
    assert json.loads(json.dumps(document)) is not None
    ctl_command._print(document, Output(False))
    out = capsys.readouterr().out
    assert "running, 1 processes watched with kpageflags" in out
    assert "ceiling 50.00%" in out


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_unit_lets_it_make_the_calls_that_it_makes():
    """Lines of SystemCallFilter= add up in their order (systemd.exec(5))."""
    sets = sets_of_calls()
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit_text(Path("/x")), re.MULTILINE):
        named = {call for name in line.removeprefix("~").split() for call in calls_of(name, sets)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    needed = {"move_pages", "pidfd_open", "ioctl", "preadv", "pwrite64", "capset", "prctl", "bind", "chown"}
    assert needed | {"sendto", "flock", "poll", "mmap", "clone3", "execve", "wait4"} <= allowed
    assert not {"ptrace", "mount", "kexec_load", "init_module", "mbind"} & allowed


def sets_of_calls():
    """Return what each set of systemd's has, by its name: calls, and names of other sets."""
    shown = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True)
    sets: dict[str, list[str]] = {}
    name = ""
    for line in shown.stdout.splitlines():
        word = line.strip()
        if line.startswith(("@", "#")):
            name = word
        elif word and not word.startswith("#"):
            sets.setdefault(name, []).append(word)
    return sets


def calls_of(name, sets):
    """Return the calls in a set, those in the sets in it included; a call is one of its own."""
    if not name.startswith("@"):
        return {name}
    return {call for each in sets[name] for call in calls_of(each, sets)}


def test_the_unit_starts_as_its_own_user_would(tmp_path):
    """No right is in the unit that the service does not keep, or need at its start."""
    unit = unit_text(Path("/etc/x.toml"))
    bounding = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert bounding is not None
    from gpuscan.linux.capabilities import FLAGS, KEPT
    from gpuscan.migrate.move_pages import MovePagesMigrator
    from gpuscan.monitors.catalogue import MONITORS

    needed = {right.name for right in (*KEPT, FLAGS, *MovePagesMigrator.keeps)}
    for name in MONITORS.names:
        kind = MONITORS.get(name)
        needed |= {right.name for right in (*kind.keeps, *kind.opens)}
    assert set(bounding[1].split()) == needed | {"CAP_CHOWN", "CAP_SETPCAP"}
