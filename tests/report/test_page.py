"""A page: what it says, how large it is, and that it asks nobody for anything."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import sys
import tempfile
import webbrowser
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import HeatMap, create_map, read_map
from gpuscan.heatmap.nodes import empty_nodes
from gpuscan.heatmap.space import Space
from gpuscan.report.catalogue import page_of
from gpuscan.report.contract import RESULT, About, Bars, Flow, Line, Multiples, Page, Plot, Table, Zoomed
from gpuscan.report.drawing import drawn
from gpuscan.report.embedded import embedded
from gpuscan.report.page import page_html
from gpuscan.report.run_parts import Series, plot_of_nodes, waits_of
from gpuscan.run.tables import Tables, read_tables
from gpuscan.store.plan_file import read_plans
from gpuscan.topology.resolve import resolve_topology
from results import small_result
from workload_files import small

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&\u2028${x}"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_result(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(result: Path) -> str:
    return page_html(page_of(result), result)[0].decode()


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the texts in some."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._inside, []).append(data)

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.found)


def test_a_page_requests_nothing(text: str) -> None:
    elements = Elements(text)
    for tag, attributes in elements.found:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "a"}
        assert not {"src", "href", "srcset", "action", "data"} & attributes.keys()
    policy = next(a["content"] or "" for tag, a in elements.found if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert "connect-src" not in policy  # so default-src is in force for it
    own = [code for code in elements.texts["script"] if "gpuscanMap" in code]
    assert own
    assert not any(
        word in code for code in own for word in ("fetch(", "XMLHttpRequest", "import(", "WebSocket")
    )


def test_a_page_says_what_its_plots_show_and_where_they_are_from(result: Path, text: str) -> None:
    page = page_of(result)
    assert [type(figure) for figure in page.figures[:2]] == [Zoomed, Plot]
    assert isinstance(page.figures[-1], Flow)
    ledger = json.loads((result / "ledger.json").read_text(encoding="utf-8"))
    assert sum(n for _, n in page.figures[-1].parts) == ledger["requested"] > 0
    for figure in page.figures:
        assert figure.about.sentence in text
        assert figure.about.command.replace(RESULT, str(result)) in text
        if isinstance(figure, Plot):
            assert "(" in figure.x_label
            assert any(
                unit in figure.y_label for unit in ("(%)", "(% of node)", "(ms)", "per tick", "batches")
            )


@pytest.mark.slow
def test_a_page_is_never_larger_than_it_may_be_and_says_what_that_cost(result: Path, text: str) -> None:
    whole = len(text.encode())
    assert whole < 5_000_000
    small, notes = page_html(page_of(result), result, whole - 20_000)
    assert len(small) <= whole - 20_000
    assert len(notes) == 1
    assert notes[0].encode() in small
    assert "coarser" in notes[0]
    assert "coarser than what was kept" not in text
    with pytest.raises(InputError, match=r"takes [\d.]+MB without any map; give a --max-size of that or"):
        page_html(page_of(result), result, 100_000)


def read_back(given: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Return row, column and count of each cell, as map.js reads them."""
    packed = np.frombuffer(gzip.decompress(base64.b64decode(given["packed"])), dtype=np.uint8)
    planes, begin = np.empty((12, given["n"]), dtype=np.uint8), 0
    for plane, alike in zip(planes, given["planes"], strict=True):
        plane[:] = packed[begin : begin + given["n"]] if alike is None else alike
        begin += given["n"] if alike is None else 0
    steps, columns, counts = (planes[at : at + 4].T.copy().view("<u4")[:, 0] for at in (0, 4, 8))
    rows = np.cumsum(steps.astype(np.int64)).tolist()
    return list(zip(rows, columns.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize(
    ("row", "row_shift"), [((1 << 32) - 1, 0), (1 << 32, 1), ((1 << 33) + 7, 2), ((1 << 39) - 1, 7)]
)
def test_a_map_of_more_than_16_tib_is_coarser_and_says_so(row: int, row_shift: int) -> None:
    rows, ones = np.array([5, row]), np.array([1, 2])
    layer, fine = Layer.of(rows, ones, ones * 3, 0, 0), Layer.of(np.array([9]), ones[:1], ones[:1], 0, 0)
    extents = ((0, 0, row + 1, 0, "Normal"),)
    heat = HeatMap(Space("big", row + 1, 1, 4, extents, {0: "node 0"}), {"accesses": layer, "moves": fine})
    given = embedded(heat)
    assert [each["row_shift"] for each in given["layers"]] == [row_shift, 0]
    assert read_back(given["cells"][0]) == [(5 >> row_shift, 1, 3), (row >> row_shift, 2, 6)]
    assert read_back(given["cells"][1]) == [(9, 1, 1)]
    about = About("Map", "of what is accessed", "gpuscan heatmap RESULT")
    found, notes = page_html(Page("big", "", (), (Zoomed(about, (heat,), "time (s)"),)), None)
    assert len(notes) == (row_shift > 0)
    if notes:
        assert notes[0].startswith(
            "The map is coarser than what was kept, since a page has rows up to 2^32: "
        )
        assert f"accesses by {4 << row_shift} KiB" in notes[0]
        assert notes[0].encode() in found


def hostile_result(result: Path, folder: Path) -> Path:
    """Return a copy of a result all of whose names try to be scripts."""
    copy = folder / "hostile"
    shutil.copytree(result, copy)

    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: hostile(each) for key, each in value.items()}
        return HOSTILE if isinstance(value, str) else value

    document = json.loads((copy / "report.json").read_text(encoding="utf-8"))
    changed = hostile(document) | {"kind": "run", "notes": [HOSTILE]}
    changed["ledger"]["dropped"] = {HOSTILE: 3}
    changed["ledger"]["refusals"] = {HOSTILE: 3}
    (copy / "report.json").write_text(json.dumps(changed), encoding="utf-8")
    heat = read_map(copy / "map.parquet")
    extents = tuple((*extent[:4], HOSTILE) for extent in heat.space.extents)
    nodes = dict.fromkeys(heat.space.nodes, HOSTILE)
    (copy / "map.parquet").unlink()
    space = replace(heat.space, machine=HOSTILE, extents=extents, nodes=nodes)
    create_map(copy / "map.parquet", replace(heat, space=space))
    return copy


def test_hostile_names_are_inert(result: Path, text: str, tmp_path: Path) -> None:
    copy = hostile_result(result, tmp_path)
    hostile = Elements(page_html(page_of(copy), copy)[0].decode())
    plain = Elements(text)
    assert hostile.count("script") == plain.count("script")
    assert hostile.count("img") == 0
    assert "".join(hostile.texts["h1"]).strip() == HOSTILE
    given = next(code for code in hostile.texts["script"] if code.startswith('{"maps"'))
    assert json.loads(given)["maps"][0]["machine"] == HOSTILE


def test_a_result_without_a_map_still_has_a_page(result: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(result, old)
    (old / "map.parquet").unlink()
    page = page_of(old)
    assert not any(isinstance(figure, Zoomed) for figure in page.figures)
    assert any("no map.parquet" in note for note in page.notes)


def test_a_comparison_has_a_line_for_each_design_that_found_something(tmp_path: Path) -> None:
    fast = {"time_ns": [10**8, 2 * 10**8], "share": [0.3, None]}
    curves = {
        "gpuscan": {"delay": {"ns": [1e6, 2e6], "share": [0.5, 1.0]}, "fast": fast},
        "hot-list": {"delay": {"ns": [], "share": []}, "fast": fast},
    }
    document = {
        "kind": "compare",
        "workload": {"name": HOSTILE},
        "machine": {"memory_bytes": 1 << 30},
        "seeds": [0],
        "curves": curves,
    }
    (tmp_path / "compare.json").write_text(json.dumps(document), encoding="utf-8")
    page = page_of(tmp_path)
    delay, share = page.figures  # of one line there are no small ones
    assert isinstance(delay, Plot)
    assert isinstance(share, Plot)
    assert [line.name for line in delay.lines] == ["gpuscan"]
    assert list(delay.lines[0].x) == [1.0, 2.0]
    assert list(delay.lines[0].y) == [50.0, 100.0]
    assert [list(line.y) for line in share.lines] == [[30.0, None]] * 2
    assert page.notes[0] == "Not among the delays, they found none: hot-list."
    assert page.notes[1].startswith("Not all figures are here")


def test_a_comparison_says_who_is_soonest_at_one_cost_and_why_requests_were_lost(tmp_path: Path) -> None:
    curve = {"delay": {"ns": [1e6, 2e6], "share": [0.5, 1.0]}, "fast": {"time_ns": [1], "share": [0.5]}}
    points = [
        {"seed": 4, "share": 0.02, "p50_ns": 5e6},
        {"seed": 4, "share": 0.01, "p50_ns": 9e6},
        {"seed": 5, "share": 0.01, "p50_ns": 1e6},
    ]
    document = {
        "kind": "compare",
        "workload": {"name": "w"},
        "machine": {"memory_bytes": 1 << 30},
        "designs": ["a", HOSTILE],
        "seeds": [4, 5],
        "curves": {"a": curve, HOSTILE: curve},
        "equal_cost": {"a": points, HOSTILE: []},
        "lost": {"a": {"open": {}, "closed": {}}, HOSTILE: {"open": {}, "closed": {HOSTILE: 1234}}},
        "sheets": [
            {
                "title": loop,
                "names": [HOSTILE, "a"],
                "n_first": 1,
                "rows": [["delay", ["~1 ms", "*2 ms"]], ["lost", [HOSTILE, "0"]]],
                "notes": ["delay: so"],
            }
            for loop in ("open loop", HOSTILE)
        ],
        "legend": "~ modelled",
        "cells": {
            name: {
                "delay_at_1_percent": {"text": text, "number": number, "why_not": why_not},
            }
            for name, text, number, why_not in (
                ("a", "9 ms", 9e6, ""),
                (HOSTILE, "2 ms", 2e6, ""),
                ("late", "-", None, "found none"),
            )
        },
        "verdict": [f"{HOSTILE} is soonest."],
    }
    (tmp_path / "compare.json").write_text(json.dumps(document), encoding="utf-8")
    page = page_of(tmp_path)
    cost, _, small, _, lost, table, costs = page.figures
    assert isinstance(small, Multiples)
    assert [line.name for line in small.lines] == ["a", HOSTILE]
    assert isinstance(cost, Plot)
    assert [(line.name, line.x, line.y) for line in cost.lines] == [("a", [1.0, 2.0], [9.0, 5.0])]
    said = f"At 1% of a core: {HOSTILE} 2 ms, a 9 ms; without a figure: late (found none)."
    assert cost.about.sentence.endswith(said)
    assert isinstance(lost, Table)
    assert lost.rows == ((HOSTILE, HOSTILE, "1,234", "closed"),)
    assert isinstance(table, Table)
    assert table.columns == ("", HOSTILE, "a")
    assert table.rows == (("delay", "~1 ms", "*2 ms"), ("lost", HOSTILE, "0"))
    assert (table.about.title, costs.about.title) == ("All figures, open loop", f"All figures, {HOSTILE}")
    assert table.about.sentence.endswith("as gpuscan compare prints it: ~ modelled. delay: so.")
    assert page.notes == (f"{HOSTILE} is soonest.",)
    elements = Elements(page_html(page, tmp_path)[0].decode())
    assert elements.count("script") == 4  # BokehJS, its interface, the figures, what draws them
    assert not elements.count("img")


def test_a_page_says_why_requests_were_lost_and_which_node_was_full_when(tmp_path: Path) -> None:
    text = small(12).replace('placement = { 0 = "20%", 2 = "80%" }', 'placement = { 0 = "80%", 2 = "20%" }')
    (tmp_path / "full.toml").write_text(f"demotion = false\n{text}", encoding="utf-8")
    command = ["run", str(tmp_path / "full.toml"), "--device", "cpu", "--threads", "1", "--quiet"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    page, document = page_of(tmp_path / "out"), json.loads((tmp_path / "out" / "report.json").read_text())
    facts, ledger, refusals = dict(page.facts), document["ledger"], document["ledger"]["refusals"]
    ((why, n_dropped),) = ledger["dropped"].items()
    assert facts["requests lost"] == (
        f"{n_dropped / ledger['requested']:.1%} of them were dropped: {n_dropped:,} {why}; "
        f"{ledger['pending']:,} wait at the end"
    )
    assert why in facts["requests lost"]
    assert (
        f"{refusals['EAGAIN: target not balanced']:,} times EAGAIN: target not"
        in facts["why folios were refused"]
    )
    # All of them were refused for want of room, and after the first tick there was none at any time.
    n_refused = f"{sum(refusals.values()):,}"
    full = f"node 0 (dram) from 0.1 s to 1.2 s, no room for {n_refused} folios"
    assert facts["nodes that were full"] == full
    plot = next(figure for figure in page.figures if figure.about.title == "Room on nodes")
    assert plot.about.sentence.endswith(f" Full: {full}.")
    assert isinstance(plot, Plot)
    assert [y is not None and y <= 0.1 for y in plot.lines[0].y] == [False] + [True] * 12
    assert facts["producer"] == document["producer_said"]
    assert "faults" in facts["producer"]


def test_what_a_tick_moved_stands_where_the_room_falls(result: Path) -> None:
    moved, room = (
        next(figure for figure in page_of(result).figures if figure.about.title == title)
        for title in ("Moved and not moved", "Room on nodes")
    )
    assert isinstance(moved, Plot)
    assert isinstance(room, Plot)
    free = room.lines[0].y
    falls = [x for at, x in enumerate(room.lines[0].x) if at and (free[at] or 0) < (free[at - 1] or 0)]
    moves = [x for x, y in zip(moved.lines[0].x, moved.lines[0].y, strict=True) if y]
    assert falls == pytest.approx(moves)


def test_what_is_no_result_has_no_map_or_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "compare.json").write_text('{"kind": "compare"}', encoding="utf-8")
    (tmp_path / "empty").mkdir()
    said = {}
    for name in ("compared", "empty", "nope"):
        assert main(["heatmap", str(tmp_path / name)]) == 2
        said[name] = capsys.readouterr().err
    assert "compared is a result of compare, which has no map; give one of 'gpuscan run" in said["compared"]
    assert "empty holds no result of" in said["empty"]
    assert "nope is not there; give the directory of --out" in said["nope"]
    assert main(["report", str(tmp_path / "nope"), "-o", str(tmp_path / "page.html")]) == 2
    assert "nope is not there; give the directory of --out" in capsys.readouterr().err


def test_a_page_says_by_which_command_it_and_the_run_were_made(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(result), "-o", "page.html", "--max-size", "4MB"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"Made by <code>gpuscan report {result} -o page.html --max-size 4MB</code>" in page
    ran = dict(page_of(result).facts)["run by"]
    assert ran.startswith("gpuscan run ")
    assert ran.endswith(f"--out {result}")
    copy = tmp_path / "earlier"
    shutil.copytree(result, copy)
    document = json.loads((copy / "report.json").read_text(encoding="utf-8"))
    del document["made_by"]
    (copy / "report.json").write_text(json.dumps(document), encoding="utf-8")
    known = "a gpuscan that did not keep its command: workload small, seed 7"
    assert dict(page_of(copy).facts)["run by"] == known
    about = About("one", "of it", "series.parquet in RESULT")
    figure = Table(about, ("a",), (("b",),))
    text = page_html(Page("kept nowhere", "", (), (figure,)), None)[0].decode()
    assert "series.parquet in RESULT</code> (not kept; --out RESULT keeps it)" in text
    assert "not kept" not in page


def test_one_wait_is_said_and_several_are_drawn() -> None:
    tables = Tables({}, None, None, {}, {})
    assert waits_of(tables) == []
    (said,) = waits_of(replace(tables, waits={10**8: 7}))
    assert isinstance(said, Table)
    assert said.rows == (("100 ms", "7 (100%)"),)
    (plot,) = waits_of(replace(tables, waits={10**8: 7, 2 * 10**8: 7}))
    assert isinstance(plot, Plot)


def test_the_whole_text_of_a_flow_is_in_the_page_and_a_long_one_is_folded_beside_it() -> None:
    name = "dropped: refused: EAGAIN after 4 attempts, " * 4
    flow = Flow(About("a", "b", "c"), "folios", "requested", ((name, 3), ("pending", 1), ("none", 0)))
    (made,) = drawn([flow])
    lines = made["texts"][0]["text"].split("\n")
    assert 1 < len(lines) <= 3
    assert max(map(len, lines)) <= 34
    assert made["texts"][1]["text"] == "pending: 1 (25.0%)"
    text = page_html(Page("a page", "", (), (flow,)), None)[0].decode()
    assert f"<td>{name}</td><td>3</td><td>75.0%</td>" in text
    assert "<td>none</td>" not in text


def test_damaged_and_foreign_results_are_refused(result: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no result of"):
        page_of(tmp_path)
    bad = tmp_path / "bad"
    shutil.copytree(result, bad)
    (bad / "report.json").write_text('{"kind": "run"}', encoding="utf-8")
    with pytest.raises(InputError, match="is not what gpuscan writes"):
        page_of(bad)
    (bad / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not a readable result"):
        page_of(bad)


def test_without_bokeh_a_user_is_told_what_to_install(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    assert main(["report", str(result), "-o", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert "a report needs bokeh" in said
    assert "pip install" in said
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_an_earlier_page_is_replaced_with_force_alone(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    assert main(["report", str(result), "-o", str(page)]) == 2
    assert "--force" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "mine"
    assert main(["report", str(result), "-o", str(page), "--force"]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def run_with_page(folder: Path, *options: str) -> int:
    (folder / "small.toml").write_text(small(4), encoding="utf-8")
    command = ["run", str(folder / "small.toml"), "--device", "cpu", "--threads", "1", "--quiet"]
    return main([*command, "--report", str(folder / "page.html"), *options])


def test_a_run_makes_its_page_at_once_and_keeps_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert run_with_page(tmp_path) == 0
    page = (tmp_path / "page.html").read_text()
    assert 'id="gpuscan-map"' in page
    assert f"Made by <code>gpuscan run {tmp_path}/small.toml --device cpu" in page
    assert "gpuscan heatmap RESULT" in page
    assert {entry.name for entry in tmp_path.iterdir()} == {"small.toml", "page.html", "tmp"}
    assert not list((tmp_path / "tmp").iterdir())
    capsys.readouterr()
    assert run_with_page(tmp_path) == 2
    said = capsys.readouterr()
    assert "page.html is there already" in said.err
    assert not said.out  # refused before the run


def test_a_page_and_a_result_are_made_of_one_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_with_page(tmp_path, "--out", str(out)) == 0
    assert f"gpuscan heatmap {out}" in (tmp_path / "page.html").read_text()
    assert len(read_plans(out / "plan.parquet"))


@pytest.mark.slow  # 3 s: three runs
def test_a_run_with_checkpoints_and_its_resumption_make_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = str(tmp_path / "state")
    assert run_with_page(tmp_path, "--checkpoint", state) == 0
    page = tmp_path / "page.html"
    assert 'id="gpuscan-map"' in page.read_text()
    assert main(["resume", state, "--quiet", "--report", str(page), "--force"]) == 0
    assert f"Made by <code>gpuscan resume {state}" in page.read_text()
    capsys.readouterr()


@pytest.mark.parametrize("has_browser", [True, False])
def test_a_page_is_opened_where_there_is_a_browser(
    result: Path,
    tmp_path: Path,
    has_browser: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[str] = []

    def browse(uri: str) -> bool:
        opened.append(uri)
        return has_browser

    monkeypatch.setattr(webbrowser, "open", browse)
    page = tmp_path / "a page.html"
    assert main(["report", str(result), "-o", str(page), "--open"]) == 0
    assert opened == [page.as_uri()]
    assert ("there is no browser here" in capsys.readouterr().err) is not has_browser


def test_a_page_that_cannot_be_made_costs_nobody_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise InputError("the page takes too much")

    monkeypatch.setattr("gpuscan.report.page.page_html", too_large)
    timeline = tmp_path / "t.json.gz"
    assert run_with_page(tmp_path, "--out", str(tmp_path / "out")) == 2
    said = capsys.readouterr()
    assert "requested" in said.out
    assert "the page takes too much" in said.err
    assert (tmp_path / "out" / "report.json").exists()
    assert not timeline.exists()
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("option", ["--out", "--trace-events", "--checkpoint"])
def test_two_results_in_one_place_are_refused_before_the_run(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with_page(tmp_path, option, str(tmp_path / "there" / ".." / "page.html")) == 2
    said = capsys.readouterr()
    assert "two results would be kept at" in said.err
    assert not said.out
    assert {entry.name for entry in tmp_path.iterdir()} == {"small.toml"}


def test_of_many_nodes_the_fullest_are_drawn_and_long_lines_are_thinned() -> None:
    nodes = empty_nodes(resolve_topology("cxl-pool"))
    for nid, node in nodes.items():
        node.now_ns.extend(range(5000))
        node.free_pages.extend([node.n_pages] * 5000)
        node.room_pages.extend([node.n_pages] * 5000)
        node.no_room.extend([0] * 5000)
        node.room_pages[2500] = node.n_pages if nid % 100 else nid - 790
    plot = plot_of_nodes(nodes, "time (s)")
    assert [line.name for line in plot.lines] == [nodes[nid].name for nid in range(0, 800, 100)]
    assert plot.about.sentence.startswith("The 8 nodes of 1,024 that were fullest.")
    assert f"Full: {nodes[0].name} at 2.5e-06 s; {nodes[100].name} at" in plot.about.sentence
    assert plot.about.sentence.endswith(f"{nodes[700].name} at 2.5e-06 s.")
    nodes[0].no_room[2500:] = range(7, 2507)
    nodes[0].no_room[4000:] = [9] * 1000
    nodes[0].room_pages[1:9:2] = [0] * 4
    said = plot_of_nodes({0: nodes[0]}, "time (s)").about.sentence
    assert said.endswith(
        f"Full: {nodes[0].name} 5 times between 1e-09 s and 3.999e-06 s ({1504 / 5000:.1%} of all moments), "
        "no room for 9 folios."
    )
    nodes[0].room_pages[:] = nodes[0].room_pages[:1] * 5000
    nodes[0].no_room[:] = [0] * 5000
    nodes[1].room_pages[:] = nodes[1].room_pages[:1] * 5000
    whole = {0: nodes[0], 1: nodes[1]}
    assert plot_of_nodes(whole, "time (s)").about.sentence.endswith("Full: none at any time.")
    (made,) = drawn([plot])
    assert all(len(line["x"]) <= 1000 for line in made["lines"])
    assert min(made["lines"][0]["y"]) < 0
    assert 2500e-9 in made["lines"][0]["x"]


def test_numbers_that_json_has_not_are_not_drawn() -> None:
    about = About("t", "s", "c")
    inf = float("inf")
    bars, endless, plot = drawn(
        [
            Bars(about, "x", (("a", inf), ("b", 2.0))),
            Bars(about, "x", (("a", 1.0),), band=(0.0, inf)),
            Plot(about, "x", "y", (Line("l", [0.0, inf], [float("nan"), 2.0]),)),
        ]
    )
    assert bars["lengths"] == [None, 2.0]
    assert endless["band"] is None
    assert (plot["lines"][0]["x"], plot["lines"][0]["y"]) == ([0.0, None], [None, 2.0])


@pytest.mark.parametrize("n_ticks", [0, None])
def test_a_row_of_no_tick_is_refused(tmp_path: Path, n_ticks: int | None) -> None:
    row = {"now_ns": [5], "duration_ns": [1], "metric.ticks": pa.array([n_ticks], pa.float64())}
    pq.write_table(pa.table(row), tmp_path / "series.parquet")
    with pytest.raises(ValueError, match="is of no tick"):
        Series(read_tables(tmp_path).series, "time")
