"""However a live session ends, what it found is kept, and what it did not find replaces nothing."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from gpuscan.base.errors import RunFailedError
from gpuscan.cli import live as live_module
from gpuscan.cli.main import main
from gpuscan.files.writing import create_json, new_directory
from gpuscan.linux.resident import PageFlags
from gpuscan.live import session as session_module
from gpuscan.live.document import tick_document
from gpuscan.live.keeping import DOCUMENT, Keeping, contents
from gpuscan.live.pipeline import Pipeline
from livesim.machine import Machine
from livesim.scenario import scenario
from livesim.system import SimulatedSystem

QUIET = replace(scenario(0), source="soft-dirty", selection="pids", n_pages=(60,), events=(), demote=False)


@pytest.fixture
def system():
    return SimulatedSystem(Machine(QUIET))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system):
    """Return what runs ``gpuscan live`` on a simulated kernel, in a directory with an earlier result."""
    monkeypatch.chdir(tmp_path)
    with new_directory(tmp_path / "out", contents()) as directory:
        create_json(directory / DOCUMENT, {"earlier": True})
    real = session_module.LiveSession
    monkeypatch.setattr(session_module, "LiveSession", lambda request, **how: real(request, system, **how))
    (pid,) = system.world.processes
    how = f"--pid {pid} --monitor soft-dirty --device cpu --threads 1 --for 1300ms --out out --force --quiet"
    yield lambda *more: main(["live", *how.split(), *more])
    system.end()


def kept() -> dict:
    return json.loads(Path("out", DOCUMENT).read_text())


def test_who_reads_no_further_ends_the_session_and_it_is_kept(command, monkeypatch):
    n_told = 0

    def broken(*args):
        nonlocal n_told
        n_told += 1
        if n_told == 3:
            raise BrokenPipeError(32, "Broken pipe")
        return tick_document(*args)

    monkeypatch.setattr("gpuscan.live.document.tick_document", broken)
    monkeypatch.setattr("gpuscan.cli.main._drop_stdout", lambda: None)
    assert command("--json") == 141
    assert n_told == 3
    assert kept()["end"]["reason"] == "interrupted"
    assert 3 <= kept()["end"]["ticks"] <= 5


def test_a_terminal_that_hung_up_is_not_blamed_on_the_result(command, monkeypatch, capsys):
    def hung_up(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(live_module._Display, "stop", hung_up)
    assert command() == 1
    assert "standard output: Input/output error" in capsys.readouterr().err
    assert kept()["end"]["ticks"] > 5


def test_what_is_not_put_back_takes_nothing_along(command, monkeypatch, capsys):
    close = PageFlags.close

    def refused(self):
        close(self)
        raise OSError(16, "Device or resource busy", "/sys/kernel/there")

    monkeypatch.setattr(PageFlags, "close", refused)
    assert command("--json") == 1
    out, err = capsys.readouterr()
    assert "/sys/kernel/there failed (Device or resource busy)" in err
    end = json.loads(out.splitlines()[-1])
    assert end["event"] == "end"
    assert end["moved_pages"] == kept()["end"]["moved_pages"] > 10
    assert "/sys/kernel/there" in kept()["end"]["reason"]
    assert kept()["end"]["ledger_balanced"]


def test_a_monitor_that_never_was_on_replaces_nothing(command, monkeypatch, capsys):
    def refused(*_):
        raise RunFailedError("the kernel has no more of that")

    monkeypatch.setattr(Pipeline, "start", refused)
    assert command() == 1
    assert "the kernel has no more of that" in capsys.readouterr().err
    assert kept()["earlier"]


def test_a_kernel_that_refuses_to_go_on_leaves_what_was_found(command, monkeypatch, capsys):
    step, n_steps = Pipeline.step, 0

    def refused(self):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 4:
            raise RunFailedError("the kernel refused")
        return step(self)

    monkeypatch.setattr(Pipeline, "step", refused)
    assert command() == 1
    assert "the kernel refused" in capsys.readouterr().err
    assert (kept()["end"]["ticks"], kept()["end"]["reason"]) == (3, "the kernel refused")


def test_a_signal_while_the_result_is_written_does_not_take_it_along(command, system, monkeypatch):
    finish = Keeping.finish

    def interrupted(self, *args):
        system._take_signal(signal.SIGINT)
        return finish(self, *args)

    monkeypatch.setattr(Keeping, "finish", interrupted)
    assert command() == 0
    assert kept()["end"]["ticks"] > 5


@pytest.mark.parametrize("fails", ["result", "page"])
def test_one_view_that_cannot_be_made_takes_no_other_along(command, monkeypatch, capsys, fails):
    def full(*_, **__):
        raise RunFailedError("No space left on device")

    if fails == "result":
        monkeypatch.setattr(Keeping, "finish", full)
    else:
        monkeypatch.setattr("gpuscan.cli.pages.write_page", full)
    assert command("--report", "page.html", "--trace-events", "times.json.gz", "--json") == 1
    out, err = capsys.readouterr()
    assert "No space left on device" in err
    assert json.loads(out.splitlines()[-1])["event"] == "end"
    assert Path("times.json.gz").is_file()
    assert ("earlier" in kept()) == (fails == "result")
