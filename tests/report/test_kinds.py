"""Pages of results that are no runs: they say what the result says, and all of them can be drawn."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuscan.base.errors import InputError
from gpuscan.bench.scale import Point, fit, project
from gpuscan.cli.main import main
from gpuscan.history.database import History
from gpuscan.report.catalogue import RESULT_KINDS, page_of, page_of_run
from gpuscan.report.contract import Bars, Page, Plot, ResultKind, Table
from gpuscan.report.page import page_html
from gpuscan.run.tables import Tables
from hosts import small_host

RECORDED = Path(__file__).parents[2] / "benchmarks" / "results"
HOST = {"cpu": "<b>", "n_cpus": 2, "memory_bytes": 1 << 34, "load_1min": 0.5, "kernel_sources": "0"}


def drawn(result: Path, n_at_most: int = 8) -> Page:
    """Return the page of a result, after so much of it has been drawn once."""
    page = page_of(result)
    part = replace(page, figures=page.figures[:n_at_most])
    text, notes = page_html(part, result)
    assert not notes
    for figure in page.figures:
        assert figure.about.title
        if isinstance(figure, Table):
            assert all(len(row) == len(figure.columns) for row in figure.rows)
    assert text.count(b"<section") == len(part.figures)
    return page


def kept(directory: Path, name: str, document: Mapping[str, Any]) -> Path:
    (directory / name).write_text(json.dumps(document), encoding="utf-8")
    return directory


def test_a_scan_says_where_its_folios_lie_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_host().write(tmp_path / "host.zarr")
    out = tmp_path / "out"
    command = [
        "scan",
        str(tmp_path / "host.zarr"),
        "--split-cxl",
        "50%",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    capsys.readouterr()
    document = json.loads((out / "scan.json").read_text())
    pages = document["routes"][0]["pages"]
    place, routes, batches = drawn(out).figures
    assert isinstance(place, Plot)
    (line,) = place.lines
    assert sum(y or 0 for y in line.y) == pytest.approx(pages * 4096 / 2**20)
    assert isinstance(routes, Bars)
    assert routes.bars == (("node 1 to 0", pages * 4096 / 2**30),)
    assert isinstance(batches, Table)
    assert batches.rows[0][2] == f"{document['targets'][0]['batches']:,}"


def test_a_scan_that_plans_nothing_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_host().write(tmp_path / "host.zarr")
    assert main(["scan", str(tmp_path / "host.zarr"), "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    page = drawn(tmp_path / "out")
    assert not page.figures
    assert page.notes[0].startswith("Nothing would be moved")


def test_a_benchmark_has_a_plot_for_each_series_and_a_table_for_each_case() -> None:
    document = json.loads((RECORDED / "bench.json").read_text())
    page = drawn(RECORDED)
    plots = [figure for figure in page.figures if isinstance(figure, Plot)]
    tables = [figure for figure in page.figures if isinstance(figure, Table)]
    assert len(tables) == len(document["scans"]) + len(document["requests"]) + len(document["ticks"])
    first = plots[0]
    assert len({figure.about.title for figure in plots}) == len(plots)
    by_name = {line.name: line for line in first.lines}
    (case,) = (
        case
        for case in document["scans"]
        if case["density"] == 1e-4 and case["clustering"] == "uniform" and len(case["results"]) > 12
    )
    (row,) = (row for row in case["results"] if row["name"] == "gpuscan indexed" and row["state"] == "cold")
    at = list(by_name["gpuscan indexed"].x).index(1e-4)
    assert by_name["gpuscan indexed"].y[at] == pytest.approx(row["scaled_ns"] * 1e-6)


def test_shards_are_plotted_by_their_number(tmp_path: Path) -> None:
    points = [
        Point(
            "strong",
            n,
            1 << 24,
            1000 * n,
            2e6,
            1e6 / n,
            1e6,
            2e6,
            10**6 * n,
            1e8,
            9e3,
            3e5,
            10**6,
            5e7,
            6e7,
            12.0,
        )
        for n in (1, 2, 4)
    ]
    model = fit(points)
    document = {
        "kind": "bench-scale",
        "host": HOST,
        "settings": {"n_pages": 1 << 24, "density": 1e-4},
        "points": [asdict(point) for point in points],
        "model": asdict(model),
        "projections": project(model, 1e-4),
    }
    plot, measured, projected = drawn(kept(tmp_path, "scale.json", document)).figures
    assert isinstance(plot, Plot)
    assert [list(line.x) for line in plot.lines] == [[1, 2, 4]] * 2
    assert list(plot.lines[1].y) == [1.0, 0.5, 0.25]
    assert isinstance(measured, Table)
    assert isinstance(projected, Table)
    assert (len(measured.rows), len(projected.rows)) == (3, len(document["projections"]))


def test_published_experiments_are_laid_beside_ours(tmp_path: Path) -> None:
    rows = [
        {
            "what": f"row {n}",
            "unit": "GB/s",
            "published": 2.0,
            "ours": ours,
            "difference": ours and ours / 2 - 1,
        }
        | {"verdict": "missed" if why else "reached", "missing": why}
        for n, ours, why in ((1, 1.0, "no DMA"), (2, 2.0, ""), (3, None, "not run"))
    ]
    experiment = {
        "name": "one",
        "about": "about it",
        "source": "</script>",
        "fitted": ["a cost"],
        "not_modelled": [],
        "reached": 1,
        "judged": 2,
        "rows": rows,
        "orders": [{"what": "all", "as_published": False, "missing": "an order"}],
        "tables": [{"title": "more", "columns": ["a", "b"], "rows": [["x", 0.25]]}],
    }
    document = {
        "kind": "reproduce",
        "bars": {"count": 0.01, "rate": 0.1},
        "reached": 1,
        "judged": 2,
        "seconds": 1.5,
        "experiments": [experiment],
    }
    bars, table, more = drawn(kept(tmp_path, "reproduce.json", document)).figures
    assert isinstance(bars, Bars)
    assert bars.bars == (("row 1", 0.5), ("row 2", 1.0))
    assert isinstance(table, Table)
    assert table.rows[0] == ("row 1", "2 GB/s", "1 GB/s", "-50.0%", "missed")
    assert table.rows[2] == ("row 3", "2 GB/s", "-", "", "missed")
    assert "Missed: row 1: no DMA." in table.about.sentence
    assert "Order of all not as published: an order." in table.about.sentence
    assert isinstance(more, Table)
    assert more.rows == (("x", "0.25"),)


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&\u2028\u202e\x1b[2J" + "n" * 500


class SetClock:
    """A clock that stands where it is set."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * 10**9

    def wall_ns(self) -> int:
        return self.now_ns


def history_of(path: Path, hours: float, rules: tuple[str, ...], step_s: int = 10) -> Path:
    """Keep a history as a service writes it: each rule moves a page more each step, and has one refusal."""
    clock = SetClock()
    history = History(path, 64 << 20, clock)  # type: ignore[arg-type]
    history.note("start", None, {"monitor": "damon", "notes": [rules[0]]})
    for step in range(int(hours * 3600 / step_s)):
        clock.now_ns += step_s * 10**9
        for rule in rules:
            body = {"moved_pages_to": {"0": 256, "2": 256}, "demoted_pages": 256, "refused": {rules[0]: 1}}
            history.note("moved", rule, body)
        history.note("kernel", "helped", {"promoted_pages": 512, "demoted_pages": 256})
        if step % 6 == 5:
            cost = {"cpu_s": 0.03 * step_s, "within_s": 6.0 * step_s, "cpu_ceiling": 0.02}
            resident = {"n_processes": 1, "resident_pages": {"0": 1 << 18, "2": step}}
            history.note("state", None, cost | resident)
        if step % 500 == 0:
            history.flush()
    history.note("stop", None, {"moved_pages": 1})
    history.close()
    assert not history.lost
    return path


def test_a_history_says_what_was_done_over_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = history_of(tmp_path / "history.sqlite", 1.0, ("db", "web"))
    page = drawn(tmp_path)  # the directory that it lies in
    figures = {figure.about.title: figure for figure in page.figures}
    by_node, by_rule, refused, share, where = (
        figures[title]
        for title in (
            "Moved, by node",
            "Moved, by rule",
            "Not moved, by reason",
            "Its own share of a core",
            "Where it lay",
        )
    )
    for figure, usual_mib in ((by_node, 360 * 2.0), (by_rule, 360.0)):
        assert isinstance(figure, Plot)
        for line in figure.lines:
            n_mib = usual_mib * (2 if line.name == "helped: up" else 1)
            width_s = 3600 * (line.x[1] - line.x[0])
            assert sum(y or 0 for y in line.y) * width_s == pytest.approx(n_mib)
    assert isinstance(by_node, Plot)
    assert isinstance(by_rule, Plot)
    assert [line.name for line in by_node.lines] == ["to node 0", "to node 2"]
    assert {line.name for line in by_rule.lines} == {
        *("db: up", "db: down", "web: up", "web: down"),
        *("helped: up", "helped: down"),
    }
    assert isinstance(refused, Plot)
    assert sum(y or 0 for y in refused.lines[0].y) == 720
    assert isinstance(share, Plot)
    assert [y for y in share.lines[0].y if y is not None] == pytest.approx([0.5] * 60)
    assert {y for y in share.lines[1].y if y is not None} == {2.0}
    assert isinstance(where, Plot)
    assert {y for y in where.lines[0].y if y is not None} == {1.0}
    rules = figures["Rules"]
    assert isinstance(rules, Table)
    assert rules.rows[0][:5] == ("helped", "720 MiB", "360 MiB", "-", "0")
    assert rules.rows[1][:5] == ("db", "360 MiB", "360 MiB", "0: 360 MiB, 2: 360 MiB", "360")
    decided = figures["What was decided"]
    assert isinstance(decided, Table)
    assert [row[1] for row in decided.rows] == ["stop", "start"]
    assert not page.notes
    (command,) = {figure.about.command for figure in page.figures}
    assert main(shlex.split(command)[1:]) == 0
    assert "monitor damon" in capsys.readouterr().out
    out = tmp_path / "page.html"
    assert main(["report", str(path), "-o", str(out)]) == 0  # the file itself
    path.rename(tmp_path / "other.name")
    assert main(["report", str(tmp_path / "other.name"), "-o", str(out), "--force"]) == 0
    assert main(["report", str(tmp_path), "-o", str(out), "--force"]) == 2
    assert "holds no result" in capsys.readouterr().err


def test_what_is_no_history_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = history_of(tmp_path / "history.sqlite", 0.5, ("db",))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 2
    assert "is cut short" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_hostile_names_in_a_history_are_inert_and_short(tmp_path: Path) -> None:
    path = history_of(
        tmp_path / "history.sqlite", 0.02, (HOSTILE, *(f"rule {n}{HOSTILE}" for n in range(200)))
    )
    page = drawn(path)
    text = page_html(page, path)[0].decode()
    plain = history_of(tmp_path / "plain.sqlite", 0.02, ("db", "web"))
    assert text.count("<script") == page_html(page_of(plain), plain)[0].count(b"<script")
    assert "<img" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert len(text) < 2_000_000
    assert (
        max(len(row[0]) for figure in page.figures if isinstance(figure, Table) for row in figure.rows) <= 80
    )


@pytest.mark.slow
def test_a_week_is_a_small_page(tmp_path: Path) -> None:
    path = history_of(tmp_path / "history.sqlite", 24.0 * 7, ("db", "web", "rest"))
    page = drawn(path)
    assert dict(page.facts)["notes"] == f"{60_480 * (3 + 1) + 10_080 + 2:,}"
    assert len(page_html(page, path)[0]) < 2_000_000


def test_a_kind_of_another_package_need_not_make_pages_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were declared before there was such a thing give three values."""

    def page(document: Mapping[str, Any], result: Path) -> Page:
        return Page(str(document["said"]), "", (), ())

    theirs = SimpleNamespace(RESULT_KIND=ResultKind("theirs.json", "theirs", page))
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    entry = EntryPoint("theirs", "theirs:RESULT_KIND", RESULT_KINDS.group)
    monkeypatch.setitem(RESULT_KINDS._entry_points, "theirs", entry)
    monkeypatch.setattr(RESULT_KINDS, "_loaded", dict(RESULT_KINDS._loaded))
    document = {"kind": "theirs", "said": "so"}
    assert page_of(kept(tmp_path, "theirs.json", document)).title == "so"
    with pytest.raises(InputError, match="no page can be made at once of a result of theirs"):
        page_of_run(document, Tables({}, None, None, {}, {}))
