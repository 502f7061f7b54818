"""Results on stdout, everything else on stderr; progress on a terminal and without one."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from rich.table import Table

from gpuscan.cli import output as module
from gpuscan.cli.output import Output


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


def test_progress_without_a_terminal_is_about_a_line_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Output(json_mode=False).progress("run", 100, unit="ticks") as progress:
        for number in range(20):
            clock[0] += 0.125
            progress.advance(1, candidates=1000 * (number + 1), path="dense")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "run: 8/100 ticks, candidates 8 k, path dense, 8 ticks/s",
        "run: 16/100 ticks, candidates 16 k, path dense, 8 ticks/s",
        "run: 20/100 ticks, candidates 20 k, path dense, 8 ticks/s",
    ]


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
    assert isinstance(progress, module._Bar)
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
    monkeypatch.setattr("gpuscan.cli.output._PIPE_WIDTH", columns)
    wide = Table(*(f"column {n}" for n in range(8)), box=None, pad_edge=False)
    wide.add_row(*(f"value {n}" for n in range(8)))
    text = Table("what", "found", box=None, pad_edge=False)
    text.add_row("path", "/" + "x" * 100)
    Output(json_mode=False).table(wide)
    Output(json_mode=False).table(text)
    out = capsys.readouterr().out
    for n in range(8):
        assert f"column {n}" in out
        assert f"value {n}" in out
    assert out.count("x") == 100
    assert max(map(len, out.splitlines())) <= columns


def test_a_slow_step_is_explained_and_a_quick_one_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Output(json_mode=False).note_if_slow("quick"):
        pass
    monkeypatch.setattr("gpuscan.cli.output._SLOW_S", 0.0)
    with Output(json_mode=False).note_if_slow("slow"):
        time.sleep(0.1)
    assert capsys.readouterr().err == "slow\n"


def test_the_rate_is_that_of_the_last_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Output(json_mode=False).progress("run", None, unit="ticks") as progress:
        for step in [20.0] + [1.0] * 10:  # one slow tick, then one a second
            clock[0] += step
            progress.advance(1)
    assert capsys.readouterr().err.splitlines()[-1] == "run: 11 ticks, 1 ticks/s"
