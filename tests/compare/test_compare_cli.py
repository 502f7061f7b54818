"""``gpuscan compare``: the table, its marks, JSON, files, plots, grids, traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gpuscan.cli.main import main
from gpuscan.compare.closed_loop import ClosedResult
from gpuscan.compare.columns.catalogue import all_columns
from gpuscan.compare.columns.cells import cell_of, cell_text
from gpuscan.compare.columns.contract import Figures
from gpuscan.compare.cost_fit import Estimate
from gpuscan.compare.equal_cost import CostPoint, EqualCost
from gpuscan.compare.grid import parse_grid
from gpuscan.compare.open_loop import OpenResult
from gpuscan.compare.plots import PLOTS
from gpuscan.compare.settings import Parameters
from gpuscan.designs.catalogue import DESIGNS
from small_steps import small_steps

SMALL = """
shows = "a test"
ticks = 12
seed = 7
[topology]
machine = "two-socket-cxl"
memory = "1GiB"
[[processes]]
name = "p"
memory = "20%"
cpus_of = [0]
placement = { 0 = "20%", 2 = "80%" }
accesses_per_gib_s = 100_000
"""
NAN = float("nan")
ONE, NONE = Estimate(1.0, 0.0), Estimate(NAN, NAN, "not measured: see hot-list in designs.md")
DATA = Path(__file__).parents[1] / "data" / "traces"


@pytest.fixture(autouse=True)
def _small_steps() -> Iterator[None]:
    """Measure the steps on little memory: what is tested here is what becomes of the figures."""
    with small_steps():
        yield


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["compare", *arguments, "--json", "--quiet", "--jobs", "1"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    return document


def test_every_cell_is_filled_and_marked(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    designs = "rfc-v1,section-flag,percpu-list,gpuscan"
    document = compared(
        capsys, small, "--designs", designs, "--out", str(out), "--no-side-costs", "--requests", "2000"
    )
    names = designs.split(",")
    assert document["kind"] == "compare"
    assert document["designs"] == names
    for name in names:
        for column in all_columns():
            cell = document["cells"][name][column.key]
            assert cell["how"] in ("counted", "measured", "modelled")
            assert cell["text"]
            assert (cell["number"] is None) == bool(cell["why_not"])
    (opened,), (closed,) = document["open_loop"], document["closed_loop"]
    assert set(opened["digest_by_design"].values()) == {opened["digest"]}
    assert set(closed["digest_by_design"].values()) == {closed["digest"]}
    assert opened["requests"] <= 2000 <= opened["of"] + 2000
    assert document["cells"]["percpu-list"]["pages_examined"]["why_not"].startswith("no walk")
    assert document["cells"]["gpuscan"]["scan_time"]["how"] == "measured"
    assert json.loads((out / "compare.json").read_text()) == document
    for name in PLOTS:
        assert (out / f"{name}.png").stat().st_size > 5000
        assert (out / f"{name}.svg").is_file()
    delays = pq.read_table(out / "delays.parquet").to_pydict()
    mine = np.array(delays["delay_ns"])[np.array(delays["design"]) == "rfc-v1"]
    assert np.percentile(mine, 50) == document["cells"]["rfc-v1"]["delay_p50"]["number"]
    requests = pq.read_table(out / "requests.parquet")
    assert requests.num_rows == opened["requests"]
    assert requests.column_names == ["time_ns", "pfn", "nid", "cpu"]
    cells = pq.read_table(out / "cells.parquet").to_pylist()
    assert {row["loop"] for row in cells} == {"open", "closed", "none"}
    assert [(row["design"], row["column"], row["seed"]) for row in cells] == [
        (name, column.key, 7) for name in names for column in all_columns()
    ]
    for row in cells:
        assert row["value"] == document["cells"][row["design"]][row["column"]]["number"]
    # What a model's walks find depends on how fast they are, and that is measured here.
    assert opened["step_costs"].keys() == {"rfc-v1", "section-flag", "percpu-list"}
    assert opened["step_costs"]["rfc-v1"]["page_ns"] == document["model"]["steps"]["walk"]["each_ns"]
    how = {name: document["cells"][name]["batches"]["how"] for name in names}
    assert how == dict.fromkeys(names[:-1], "modelled") | {"gpuscan": "counted"}
    fills = pq.read_table(out / "fills.parquet").to_pylist()
    assert {row["design"]: row["unit"] for row in fills}["gpuscan"] == "base pages"
    assert main(["compare", small, "--out", str(out)]) == 2
    assert "--force to replace it" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_of_all_designs_over_two_seeds(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", small, "--ticks", "6", "--seeds", "2", "--jobs", "1", "--requests", "500"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    for name in (*DESIGNS.names, "open loop", "closed loop", "~ modelled, * measured", "±", "seeds 7 to 8"):
        assert name in shown.out
    for column in all_columns():
        assert column.title.strip() in shown.out
    assert "compare: " in shown.err


def test_a_grid_runs_each_design_once_per_combination_that_it_knows(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid"
    document = compared(
        capsys,
        *(small, "--designs", "section-flag,gpuscan", "--out", str(out), "--objective", "delay_p50"),
        *("--grid", "interval=50ms,100ms", "--grid", "threshold=1,2"),
    )
    rows = document["cells"]
    tried = [(row["design"], row["interval_ns"] // 10**6, row["threshold"]) for row in rows]
    assert sorted(tried, key=str) == sorted(
        [
            *[("section-flag", ms, threshold) for ms in (50, 100) for threshold in (1, 2)],
            *[("gpuscan", ms, None) for ms in (50, 100)],
        ],
        key=str,
    )
    p50 = {tuple(key): row["values"]["delay_p50"] for key, row in zip(tried, rows, strict=True)}
    assert p50["gpuscan", 50, None] < p50["gpuscan", 100, None]
    assert document["best"]["values"]["delay_p50"] == min(p50.values())
    assert pq.read_table(out / "grid.parquet").num_rows == len(rows)


def test_what_a_grid_may_be() -> None:
    assert parse_grid(["interval=1s", "batch=64,512"]) == [
        Parameters(10**9, 64, None),
        Parameters(10**9, 512, None),
    ]
    assert Parameters(1, 2, 3).applying_to("rfc-v1") == Parameters(1, 2, None)
    assert Parameters(1, 2, 3).applying_to("section-flag") == Parameters(1, 2, 3)
    assert Parameters(1, 2, 3).applying_to("hot-list") == Parameters(1, 2, None)  # kpromoted's is a constant
    assert Parameters(1, 2, 3).applying_to("gpuscan", "request") == Parameters(1, 2, None)
    assert Parameters(1, 2, 3).applying_to("gpuscan", "record") == Parameters(1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--grid", "tick=1s"], "give one of interval, batch, threshold"),
        (["--grid", "batch=0"], "'0' is not a whole number of at least 1"),
        (["--grid", "batch=1", "--grid", "batch=2"], "batch is given twice"),
        (["--grid", "batch="], "no value; give for example batch=1,2"),
        (["--objective", "beauty"], "unknown objective 'beauty'; choose one of"),
        (["--designs", "rfc-v9"], "unknown design 'rfc-v9' (did you mean 'rfc-v1'?); choose gpuscan"),
        (["--designs", ","], "unknown design ''; choose gpuscan"),
        (["--grid", "interval=70ms"], "interval=70 ms does not divide the run's 1.2 s; choose an"),
        (["--grid", "batch=1", "--seeds", "2"], "--seeds goes with neither --grid nor --trace"),
        (["--objective", "fill"], "--objective says what the best cell of a grid is; leave it out, or add"),
        (["--set", "policy.one_thread=true"], "policy.one_thread is a switch of gpuscan run; leave it out"),
        (["--accesses", "9", "--set", "source={ kind = 'trace', trace = 'x' }"], "and a trace has an end;"),
    ],
)
def test_wrong_comparisons_are_refused(
    small: str, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", small, *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1


def test_a_trace_goes_through_every_design(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "mem.txt"
    # Pages of the CXL node 2 of a 1 GiB two-socket-cxl, from CPU 0, once every millisecond.
    machine_json = compared_topology(capsys)
    start = machine_json["nodes"][2]["zones"][0]["present"][0][0]
    lines = [f"[000]  1.{ms:03d}000: {5} {(start + ms % 300) << 12:x}" for ms in range(1, 900)]
    trace.write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = compared(
        capsys,
        *("--trace", str(trace), "--machine", "two-socket-cxl", "--memory", "1GiB"),
        *("--designs", "rfc-fixed,percpu-list,gpuscan", "--no-side-costs"),
    )
    (opened,), (closed,) = document["open_loop"], document["closed_loop"]
    assert opened["requests"] == 899
    assert set(opened["digest_by_design"].values()) == {opened["digest"]}
    assert set(closed["digest_by_design"].values()) == {closed["digest"]}
    assert document["cells"]["gpuscan"]["never_again"]["why_not"] == "not known of a trace"
    assert document["cells"]["gpuscan"]["moved"]["number"] == 300
    assert document["cells"]["percpu-list"]["delay_p50"]["number"] < 120e6


def compared_topology(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["topology", "two-socket-cxl", "--memory", "1GiB", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_gpuscan_s_cells_cannot_say() -> None:
    opened, closed = OpenResult("gpuscan", scan_ns=10.0), ClosedResult("gpuscan", wrong_node_known=False)
    nan = float("nan")
    figures = Figures("gpuscan", opened, closed, 1000, 4, 0, nan, nan, nan, ONE, ONE)
    cells = {column.key: cell_of(column, [figures]) for column in all_columns()}
    busy = next(column for column in all_columns() if column.key == "busy")
    assert cell_text(busy, cells["busy"]) == "4.0% (at most, 4 threads)"
    assert cells["wrong_node"].why_not == "not counted: records keep no node"
    known = replace(figures, closed=ClosedResult("gpuscan"))
    wrong_node = next(column for column in all_columns() if column.key == "wrong_node")
    assert cell_text(wrong_node, cell_of(wrong_node, [known])) == "0 (by construction)"
    for mark_ns, why_not in ((nan, "not measured"), (20.0, "one CPU")):
        for column in (one for one in all_columns() if one.key in ("mark_cost_2", "slowdown")):
            assert cell_of(column, [replace(figures, mark_ns=mark_ns)]).why_not == why_not
    hot = replace(figures, design="hot-list", scan_1tib=NONE, scan_64tib=NONE)
    for column in all_columns():
        if column.loop == "none" and column.key != "metadata":
            assert cell_of(column, [hot]).why_not == "not measured: see hot-list in designs.md"


def test_a_seed_without_a_number_keeps_its_place() -> None:
    nan = float("nan")
    moved = {1: 40, 2: 0, 3: 60}
    seeds = [
        Figures(
            "rfc-v1",
            OpenResult("rfc-v1"),
            ClosedResult("rfc-v1", migrated=n, examined=120),
            *(1000, 1, 0, nan, nan, nan, ONE, ONE),
        )
        for n in moved.values()
    ]
    column = next(column for column in all_columns() if column.key == "examined_per_promotion")
    cell = cell_of(column, seeds)
    np.testing.assert_array_equal(cell.values, [3, nan, 2])
    assert cell_text(column, cell) == "2.50 ±0.50 (2 of 3 seeds)"
    assert cell_text(column, cell_of(column, seeds[:2])) == "3 (1 of 2 seeds)"
    none = cell_of(column, seeds[1:2])
    assert (none.why_not, len(none.values)) == ("found none to move", 1)


def test_moves_at_the_fault_are_counted_with_the_others() -> None:
    nan = float("nan")
    column = next(column for column in all_columns() if column.key == "moved")

    def text(*results: ClosedResult) -> str:
        rest = (1000, 1, 0, nan, nan, nan, ONE, ONE)
        seeds = [Figures("rfc-v1", OpenResult("rfc-v1"), closed, *rest) for closed in results]
        return cell_text(column, cell_of(column, seeds))

    assert text(ClosedResult("rfc-v1", migrated=5)) == "5"
    assert text(ClosedResult("rfc-v1", migrated=5, moved_at_fault=32)) == "37 (32 at the fault)"
    three = (ClosedResult("rfc-v1", moved_at_fault=n) for n in (10, 30, 20))
    assert text(*three) == "20 ±10 (20 at the fault)"  # that of the seed in the middle


def test_only_designs_that_ask_a_time_promote_by_one_that_wrapped() -> None:
    nan = float("nan")
    column = next(column for column in all_columns() if column.key == "false_promotions")
    rest = (1000, 1, 0, nan, nan, nan, ONE, ONE)
    for design in DESIGNS.names:
        figures = Figures(design, OpenResult(design, false_promotions=4), ClosedResult(design), *rest)
        asks = design in ("section-flag", "section-flag-next", "hot-list")
        assert cell_text(column, cell_of(column, [figures])) == ("4" if asks else "asks no time")


def test_costs_that_are_measured_once_have_no_spread_and_say_how_they_were_measured() -> None:
    opened, closed = OpenResult("gpuscan"), ClosedResult("gpuscan")
    scan = Estimate(700_000.0, 0.084)
    seeds = [
        Figures("gpuscan", opened, closed, 1000, 1, n, 20.0, 21.0, 0.5, scan, NONE, 60.0) for n in (64, 96)
    ]
    columns = {column.key: column for column in all_columns()}

    def text(key: str) -> str:
        return cell_text(columns[key], cell_of(columns[key], seeds))

    assert text("scan_1tib") == "700 us ±8%"
    assert text("scan_64tib") == NONE.why_not
    assert text("mark_cost") == "20 ns (a sorted batch)"
    assert text("mark_cost_single") == "60 ns"
    assert text("slowdown") == "50.0%"
    assert text("metadata") == "80 B ±16 B"  # which hangs on what was asked for


def test_rows_of_equal_cost_say_what_was_reached() -> None:
    nan = float("nan")
    points = [CostPoint(ms * 10**6, 0.08 / ms, ms * 5e5, ms * 1e6, ms * 1e6, 9, 9) for ms in (100, 20, 2, 1)]
    rest = (1000, 1, 0, nan, nan, nan, ONE, ONE, nan)
    columns = {column.key: column for column in all_columns()}

    def text(key: str, cost: EqualCost | None) -> str:
        figures = Figures("rfc-v1", OpenResult("rfc-v1"), ClosedResult("rfc-v1"), *rest, cost)
        return cell_text(columns[key], cell_of(columns[key], [figures]))

    found = EqualCost(tuple(points))
    assert text("delay_at_1_percent", found) == "4 ms"
    assert text("delay_at_10_percent", found) == "500 us (takes 8.0%)"
    assert text("core_for_10_ms", found) == "0.4%"
    assert text("core_for_10_ms", None) == "not measured"
    assert text("core_for_10_ms", EqualCost((), "found none")) == "found none"
