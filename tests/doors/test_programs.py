"""The programs of tests/guest/programs on the host: they answer, their records are found, harm is noticed."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.linux.process import read_stat
from guest.processes import eventually
from guest.programs import compare as comparison
from guest.programs import records
from guest.programs.catalogue import NAMES, load
from guest.programs.contract import ANSWER_LIMIT_S, Conversation, RealProgram, WrongAnswer
from guest.programs.make import make
from guest.programs.places import Places
from guest.programs.running import Client, Running, running
from guest.programs.table import table


@settings(deadline=None)
@given(st.integers(0, 3 * records.N_WRITTEN))
def test_versions_are_those_of_the_last_write_of_each_record(n_writes: int) -> None:
    by_replay = dict.fromkeys(range(records.N_READ, records.N_RECORDS), 0)
    for write in range(1, n_writes + 1):
        for number in records.written_by(write):
            by_replay[number] = write
    assert records.versions(n_writes) == by_replay


@settings(deadline=None)
@given(st.integers(0, records.N_RECORDS - 1), st.integers(0, 10**6 - 1))
def test_a_record_says_which_it_is_and_all_are_as_long(number: int, version: int) -> None:
    text = records.body.__wrapped__(number, version)
    assert text.startswith(b"%s%06d-%06d-" % (records.MARK, number, version))
    assert len(text) == records.BODY_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_its_reads_are_skewed_and_make_a_whole(name: str) -> None:
    drawn = load(name).shares()
    assert len(drawn) == records.N_READ
    assert sum(drawn) == pytest.approx(1)
    reads = sorted(records.shares_of_reads(drawn), reverse=True)
    assert sum(reads) == pytest.approx(1)
    sums = list(itertools.accumulate(reads))
    assert sums[records.N_READ // 4] > 0.8


def run(method: str, reads_per_s: int, **others: object) -> dict[str, object]:
    """Return a line that compare printed."""
    reads = {"2": 0.25, "12": 0.5}
    fields = {"program": "p", "method": method, "reads_near": reads, "hot_near": 0.5, "others_near": 0.0}
    measured = {"migrated_pages": 512, "cpu_s": 1.0, "longest_gap_s": 0.5, "reads_per_s": reads_per_s}
    return fields | measured | others


def test_the_table_has_medians_the_worst_gap_and_the_pace_beside_doing_nothing() -> None:
    runs = [run("nothing", 900), run("nothing", 1000), run("nothing", 5000)]
    runs += [run("m", 500, longest_gap_s=2.0), run("m", 500, cpu_s=3.0)]
    runs += [{"program": "q", "failed": "why"}]
    lines = table(runs).splitlines()
    assert lines[0].startswith("| program | who | rounds | reads near after 2 s | reads near after 12 s |")
    assert lines[3] == "| p | m | 2 | 25.0% | 50.0% | 50.0% | 0.0% | 2.0 MiB | 500 | 50.0% | 2.00 s | 2.0 |"
    assert lines[4].startswith("| q | failed: why |")


def test_where_no_program_is_installed_there_is_nothing_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guest.programs.make.NAMES", ("here", "absent"))
    absent: dict[str, str | None] = {"here": None, "absent": "not installed"}
    monkeypatch.setattr(
        "guest.programs.make.load",
        lambda name: SimpleNamespace(make=lambda: None, missing=lambda: absent[name]),
    )
    make()
    absent["here"] = "not found"
    with pytest.raises(SystemExit, match="not found\nnot installed"):
        make()


def test_a_comparison_of_which_each_program_failed_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails_of_one(name: str, *options: object) -> dict[str, object]:
        if name == "redis":
            raise WrongAnswer(name)
        return {"program": name}

    monkeypatch.setattr(comparison, "load", lambda name: SimpleNamespace(missing=lambda: None))
    monkeypatch.setattr("guest.damon_scheme.n_kdamonds", lambda: 0)
    monkeypatch.setattr(comparison, "compare", fails_of_one)
    monkeypatch.setattr("sys.argv", ["compare", "--programs", "redis", "sqlite"])
    comparison.main()
    monkeypatch.setattr("sys.argv", ["compare", "--programs", "redis"])
    with pytest.raises(SystemExit, match="no program"):
        comparison.main()
    assert "WrongAnswer: redis" in capsys.readouterr().out


class Silent(Conversation):
    """A connection to a program that is asked for nothing."""

    def ask(self, request: bytes, expected: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class Shell(RealProgram):
    """A shell that does what is to be done when it is told to end."""

    at_end = ""

    def command(self) -> list[str]:
        started = self.folder / "started"
        script = (
            f"trap '{self.at_end}' TERM; sleep 1000 & echo $! >{started}.part; mv {started}.part {started}"
        )
        return ["sh", "-c", f"{script}; while :; do sleep 0.05; done"]

    def connect(self) -> Silent:
        if not (self.folder / "started").exists():
            raise ConnectionRefusedError
        return Silent()

    def fill(self, conversation: Conversation) -> None:
        pass


def test_a_program_ends_in_order_also_where_a_test_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shell, "at_end", f"kill $!; echo in order >{tmp_path / 'ended'}; exit")
    monkeypatch.setattr("guest.programs.running.load", lambda name: Shell)
    with pytest.raises(WrongAnswer), running("shell"):
        raise WrongAnswer
    assert (tmp_path / "ended").read_text() == "in order\n"


def test_a_program_that_does_not_end_is_killed_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guest.programs.running.load", lambda name: Shell)
    monkeypatch.setattr("guest.programs.running.END_LIMIT_S", 0.1)
    with pytest.raises(subprocess.TimeoutExpired), running("shell") as started:
        child = int((started.program.folder / "started").read_text())
    assert eventually(lambda: not _runs(child), "the child has ended")


def _runs(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state != "Z"


@pytest.fixture(params=NAMES)
def program(request: pytest.FixtureRequest) -> Iterator[Running]:
    """Start each program, all records in it."""
    kind = load(request.param)
    kind.make()
    if why := kind.missing():
        pytest.skip(why)
    if os.geteuid() != 0:
        pytest.skip("page frames are read by root alone")
    with running(request.param) as started:
        yield started


@pytest.mark.slow
def test_it_answers_and_is_found_and_holds_what_was_written(program: Running, tmp_path: Path) -> None:
    places = Places(program.holder_pid, program.program.shares())
    assert 100 < places.hot.sum() < len(places.pages) / 3
    with Client(program, tmp_path) as client:
        program.program.disturb(program.conversation)
        began_s = time.monotonic()
        client.wait_for(lambda line: line["t_s"] > began_s + 2 and line["n_writes"] > 0, ANSWER_LIMIT_S)
        assert client.pace(began_s, time.monotonic()).reads_per_s > 0
        last = client.finish()
    assert places.are_still_there()
    program.check(last["n_writes"])
    with pytest.raises(WrongAnswer):
        program.check(last["n_writes"] + 1)
    program.end()


@pytest.mark.slow
def test_one_byte_of_one_record_that_changed_is_noticed(program: Running) -> None:
    places = Places(program.holder_pid, program.program.shares())
    program.check(0)
    with Path(f"/proc/{program.holder_pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(places.address(records.N_READ // 3) + records.BODY_BYTES - 1)
        memory.write(b"x")
    with pytest.raises(WrongAnswer):
        program.check(0)
