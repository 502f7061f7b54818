"""Results on stdout, everything else on stderr; progress on a terminal and without one."""

from __future__ import annotations

import ast
import json
import time
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.table import Table

from gpuscan.cli.output import Output
from gpuscan.cli.progress import Bar, bar_line
from terminals import on_terminal


def speak(output: Output) -> None:
    output.document({"value": np.float32(1.5)})
    table = Table("column")
    table.add_row("cell")
    output.table(table)
    output.line("a line [not markup]")
    output.note("a note")


def test_text_mode(capsys: pytest.CaptureFixture[str]) -> None:
    speak(Output(json_mode=False))
    out, err = capsys.readouterr()
    assert "cell" in out
    assert "a line [not markup]\n" in out
    assert "value" not in out
    assert err == "a note\n"


def test_json_mode_prints_one_document_only(capsys: pytest.CaptureFixture[str]) -> None:
    speak(Output(json_mode=True))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema": 1, "value": 1.5}
    assert err == "a note\n"


def test_quiet_silences_notes_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json_mode=False, quiet=True)
    speak(output)
    with output.progress("job", 3) as progress:
        progress.advance(3)
    assert capsys.readouterr().err == ""


def test_a_wide_table_is_not_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("a", "b")
    table.add_row("x" * 70, "y" * 60)
    Output(json_mode=False).table(table)
    assert "x" * 70 in capsys.readouterr().out


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Output(json_mode=False).progress("run", 100, unit="ticks") as progress:
        for number in range(40):
            clock[0] += 0.125
            progress.advance(1, candidates=1000 * (number + 1), path="dense")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "run: 16/100 ticks, candidates 16 k, path dense, 8 ticks/s, 10 s left",
        "run: 32/100 ticks, candidates 32 k, path dense, 8 ticks/s, 8 s left",
        "run: 40/100 ticks, candidates 40 k, path dense, 8 ticks/s, in 5 s",
    ]


def test_a_line_is_not_said_twice(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Output(json_mode=False).progress("run", 10, unit="steps") as progress:
        for _ in range(50):
            clock[0] += 1.0
            progress.advance(0.001)  # of a step; what is shown does not change each time
    lines = capsys.readouterr().err.splitlines()
    said = [line.split(",")[0] for line in lines]
    assert len(lines) > 3
    assert len(set(said)) == len(said)


def test_a_long_job_leaves_few_lines(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Output(json_mode=False).progress("run", 3600, unit="ticks") as progress:
        for _ in range(3600):
            clock[0] += 1.0
            progress.advance(1)
    assert 30 < len(capsys.readouterr().err.splitlines()) < 80


def test_what_was_done_before_is_no_progress(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Output(json_mode=False).progress("run", 100, unit="ticks", done=90) as progress:
        for _ in range(5):
            clock[0] += 1.0
            progress.advance(1)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "run: 92/100 ticks, 1 ticks/s, 8 s left"
    assert last == "run: 95/100 ticks, 1 ticks/s, in 5 s"


TEXTS = ["5/100 ticks", "candidates 1.23 M", "batches 3.21 k", "fast 45%", "8.12 ticks/s", "3:05 min left"]


@pytest.mark.parametrize("width", range(1, 141))
def test_a_bar_line_fits(width: int) -> None:
    for description in ("cxl-promote", "страница-記憶體", "x"):
        for share in (0.0, 0.5, 1.0, None):
            assert cell_len(bar_line(width, description, share, TEXTS)) <= width
            assert cell_len(bar_line(width, description, share, ["1", "", ""])) <= width


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "cx… ━━━━────  5/100 ticks  3:05 min left"),
        (60, "cxl-promote ━━━━━─────  5/100 ticks  fast 45%  3:05 min left"),
        (80, "cxl-promote ━━━━━━━───────  5/100 ticks  batches 3.21 k  fast 45%  3:05 min left"),
        (120, f"cxl-promote {10 * '━'}{11 * '─'}  {'  '.join(TEXTS)}"),
    ],
)
def test_what_a_bar_line_shows(width: int, shown: str) -> None:
    assert bar_line(width, "cxl-promote", 0.5, TEXTS) == shown


def test_a_job_that_did_nothing_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Output(json_mode=True).progress("read", None):
        pass
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_leaves_stdout_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = Output(json_mode=True).progress("run", 10, unit="ticks")
    assert isinstance(progress, Bar)
    with progress:
        progress.advance(5, candidates=12)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/10 ticks" in err
    assert "candidates 12" in err


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich a terminal
    wide = Table(*(f"column {n}" for n in range(8)), box=None, pad_edge=False, header_style="")
    wide.add_row(*(f"value {n}" for n in range(8)))
    text = Table("what", "found", box=None, pad_edge=False, header_style="")
    text.add_row("path", "/" + "x" * 100)
    Output(json_mode=False).table(wide)
    Output(json_mode=False).table(text)
    out = capsys.readouterr().out
    for n in range(8):
        assert f"column {n}" in out
        assert f"value {n}" in out
    assert out.count("x") == 100
    assert max(map(len, out.splitlines())) <= columns


def test_a_command_to_copy_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("what", "to do", box=None)
    table.add_row("cluster", "pip install " + "x" * 300)
    Output(json_mode=False).table(table)
    assert "pip install " + "x" * 300 in capsys.readouterr().out


NAMES = ("[bold]", "a[/b].toml", "[red]x", ":smile:", "[link=x]y", "100% [cluster]")


@pytest.mark.parametrize("forced", [False, True])
def test_data_is_no_markup(
    forced: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    table = Table("[head]", "b", box=None)
    for name in NAMES:
        table.add_row(name, name)
    Output(json_mode=False).table(table)
    out = capsys.readouterr().out
    assert "[head]" in out
    for name in NAMES:
        assert out.count(name) == 2


def test_there_is_one_way_to_a_terminal() -> None:
    """Every console of rich is made where markup is off."""
    made = [
        (file.name, node.lineno)
        for top in ("gpuscan", "kernels", "cli", "benchmarks")
        for file in (Path(__file__).parents[2] / top).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in ("Console", "from_markup")
    ]
    assert {name for name, _ in made} == {"output.py"}


def test_a_slow_step_is_explained_and_a_quick_one_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Output(json_mode=False).note_if_slow("quick"):
        pass
    monkeypatch.setattr("gpuscan.cli.output._SLOW_S", 0.0)
    with Output(json_mode=False).note_if_slow("slow"):
        time.sleep(0.1)
    assert capsys.readouterr().err == "slow\n"


def test_the_rate_is_that_of_the_last_seconds(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Output(json_mode=False).progress("run", None, unit="ticks") as progress:
        for step in [20.0] + [1.0] * 10:  # one slow tick, then one a second
            clock[0] += step
            progress.advance(1)
    assert capsys.readouterr().err.splitlines()[-1] == "run: 11 ticks, 1 ticks/s, in 30 s"


JOB = """
import time
from gpuscan.cli.output import Output
from gpuscan.cli.streams import plain_streams
with plain_streams(), Output(json_mode=False).progress("cxl-promote", 100, unit="ticks") as progress:
    for number in range(100):
        time.sleep(0.01)
        progress.advance(1, candidates=12345 * number, batches=321 * number, fast="45%")
"""


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_bar_fits_its_terminal_with_the_time_left(columns: int) -> None:
    code, lines = on_terminal(["-c", JOB], columns)
    assert code == 0
    assert max(map(len, lines)) <= columns
    drawn = [line for line in lines if "/100 ticks" in line]
    assert len(drawn) > 3
    assert any("s left" in line for line in drawn)
    assert all(line.count("━") + line.count("─") >= 8 for line in drawn)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_bar_without_colours_or_characters(environment: dict[str, str]) -> None:
    code, lines = on_terminal(["-c", JOB], 80, **environment)
    assert code == 0
    drawn = [line for line in lines if "/100 ticks" in line and "s left" in line]
    assert drawn
    assert all(("=" if "PYTHONIOENCODING" in environment else "━") in line for line in drawn)


def test_a_dumb_terminal_gets_lines() -> None:
    code, lines = on_terminal(["-c", JOB], 80, TERM="dumb")
    assert code == 0
    assert [line.partition(",")[0] for line in lines] == ["cxl-promote: 100/100 ticks"]
