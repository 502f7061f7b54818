"""``benchmarks/rfc_answers.py`` says how far it is, and prints what it found."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with a folder of its own to keep figures in."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.import_module("rfc_answers")
    monkeypatch.setattr(found, "OUT", tmp_path)
    return found


def test_progress_and_figures_are_printed(
    script: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert script.main(["folio"]) == 0
    out, err = capsys.readouterr()
    kept = json.loads((tmp_path / "folio.json").read_text(encoding="utf-8"))
    assert "folio: 6/6 steps, last 100% in folios" in err
    assert f"folio: kept in {tmp_path}\n" in err
    lines = out.splitlines()
    assert lines[0] == "folio: what one record for a folio saves"
    for row, line in zip(kept["rows"], lines[2:], strict=False):
        assert line.split()[:3] == [
            f"{row['huge_share']:.0%}",
            f"{row['every_page']:,}",
            f"{row['by_folio']:,}",
        ]


@pytest.mark.parametrize("name", ["scan", "place", "fill", "density", "folio", "compact"])
def test_there_is_a_table_for_every_answer(script: ModuleType, name: str) -> None:
    kept = json.loads((ROOT / f"docs/answers/{name}.json").read_text(encoding="utf-8"))
    tables = importlib.import_module("answers.tables").TABLES[name](kept)
    assert tables
    for table in tables:
        assert len(table.rows) >= 4
        assert {len(row) for row in table.rows} == {len(table.columns)}
    if name == "fill":
        (row,) = [row for row in tables[0].rows if row[0] == "1"]
        assert dict(zip(tables[0].columns, row, strict=True))["percpu-list"] == "512"


def test_the_steps_are_as_many_as_are_said(script: ModuleType) -> None:
    run, n_steps = importlib.import_module("answers.experiments").EXPERIMENTS["folio"]
    steps: list[str] = []
    run(steps.append)
    assert len(steps) == n_steps


def test_wrong_names_are_met_with_those_that_there_are(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["fil"]) == 2
    assert "some of scan, place, fill, density, folio, compact" in capsys.readouterr().err
