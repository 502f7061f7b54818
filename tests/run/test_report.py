"""What a run comes to, and that a ``--out`` directory is whole or not there."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.engine.ledger import Ledger
from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import RunReport, TickReport
from gpuscan.files.writing import json_text
from gpuscan.heatmap.map import ADDRESSES_FILE, MAP_FILE
from gpuscan.heatmap.nodes import NODES_FILE
from gpuscan.heatmap.waits import WAITS_FILE
from gpuscan.producers.contract import Told
from gpuscan.run.out import OUT_FILES, open_out
from gpuscan.run.report import ledger_rows, run_document, share_axis, sparkline, summary_rows
from gpuscan.run.summary import fast_share, summarize
from gpuscan.run.tables import Tables
from gpuscan.store.plan import Plan
from gpuscan.store.plan_file import read_plans


def tick(number: int, fast: float, **numbers: Any) -> TickReport:
    metrics = {
        "accesses": 1000.0,
        "accesses_fast": 1000.0 * fast,
        "demoted_pages": 3.0,
        "mean_latency_ns": 100.0,
    }
    return TickReport(number, number * 10**8, 10**8, metrics=metrics, **numbers)


def report(n_ticks: int = 40) -> RunReport:
    """The share rises from 0.2 to 0.9 in even steps; each tick moves 100 of 256 pages in two batches."""
    shares = np.linspace(0.2, 0.9, n_ticks).tolist() if n_ticks else []
    ticks = [
        tick(
            number,
            share,
            n_plans=1,
            n_batches=2,
            batch_pages=256,
            migrated=100,
            migrated_pages=100,
            scan_ns=1000 * (number + 1),
            examined_bytes=4096,
            migrate_busy_ns=500.0,
            path="indexed" if number else "dense",
        )
        for number, share in enumerate(shares)
    ]
    ledger = Ledger(
        requested=1000, in_flight=1, migrated=900, superseded=4, dropped=Counter({"freed": 5, "EIO": 7})
    )
    return RunReport(
        "cpu",
        "cpu: no GPU here",
        "test",
        1 << 15,
        Policy(),
        ticks,
        ledger,
        Counter({"EAGAIN: target not balanced": 2}),
    )


def plan(n_folios: int = 3) -> Plan:
    flat = np.arange(n_folios, dtype=np.int64)
    words = np.full(n_folios, 7, dtype=np.uint32)
    offsets = np.array([0, 0, n_folios], dtype=np.int64)
    return Plan(offsets, flat + 100, flat, words, None, n_folios, "dense", "asked for", 5, 512, 2048)


def test_summary_of_a_run() -> None:
    summary = summarize(report())
    assert summary.fast is not None
    assert summary.fast.before == pytest.approx(0.2)
    assert summary.fast.after == pytest.approx(np.linspace(0.2, 0.9, 40)[-4:].mean())
    assert summary.fast.lowest == pytest.approx(0.2)
    assert (summary.n_ticks, summary.simulated_ns, summary.n_scans) == (40, 4 * 10**9, 40)
    assert summary.scan_ns_p50 == 20_500
    assert summary.scan_ns_p99 == pytest.approx(39_610)
    assert summary.scan_ns_total == 820_000
    assert summary.paths == {"dense": 1, "indexed": 39}
    assert summary.batch_fill == 0.25
    assert summary.migrated_bytes == 40 * 100 * 4096
    assert summary.migrate_busy_ns == 20_000
    assert summary.metrics["accesses"] == 40_000
    assert summary.metrics["demoted_pages"] == 120
    assert summary.metrics["mean_latency_ns"] == pytest.approx(100.0)  # a mean is not summed


def test_shares_are_weighted_by_accesses_and_idle_ticks_are_left_out() -> None:
    run = report(2)
    run.ticks[0].metrics = {"accesses": 10.0, "accesses_fast": 10.0}
    run.ticks[1].metrics = {"accesses": 0.0, "accesses_fast": 0.0}
    fast = summarize(run).fast
    assert fast is not None
    assert fast.before == fast.after == 1.0  # the last tick had none
    assert fast.lowest == 1.0
    run.ticks.reverse()
    late = summarize(run).fast
    assert late is not None
    assert late.before == late.after == 1.0


def test_a_run_without_ticks_or_accesses_still_has_a_summary() -> None:
    empty = summarize(report(0))
    assert empty.fast is None
    assert (empty.n_ticks, empty.n_batches) == (0, 0)
    assert dict(summary_rows(report(0), empty, "top tier"))["scan"] == "nothing was ready"
    json.loads(json_text(run_document(report(0), empty, {})))


def test_rows_say_before_and_after() -> None:
    run = report()
    rows = dict(summary_rows(run, summarize(run), "top tier"))
    assert rows["accesses served by fast memory (top tier)"] == "20.0% -> 87.3%"
    assert rows["moved"].startswith("15.6 MiB")
    assert rows["device"] == "cpu"
    assert rows["batches"] == "80 in 40 plans, filled to 25% of 512 pages"
    assert rows["moved"].endswith("in 20 us (busiest migrator, modelled)")
    assert rows["demoted by kswapd"] == "480 KiB"


def test_ledger_rows_add_up() -> None:
    (_, requested), *parts = ledger_rows(report().ledger)
    assert requested == 1000 == sum(count for _, count in parts)
    assert ("+ dropped, EIO", 7) in parts


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 10, ""),
        ([0.0, 1.0], 10, "▁█"),
        ([0.0, 0.5, 1.0], 3, "▁▅█"),
        ([0.0, 0.0, 1.0, 1.0], 2, "▁█"),
        ([float("nan"), 1.0], 10, " █"),
    ],
)
def test_sparkline(values: list[float], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


def test_a_dip_is_said_with_when_it_was_over() -> None:
    run = report(40)
    shares = [1.0] * 10 + [0.0] + [0.05 * n for n in range(19)] + [0.99] * 10
    run.ticks = [tick(number, share) for number, share in enumerate(shares)]
    rows = dict(summary_rows(run, summarize(run), "local"))
    served = rows["accesses served by fast memory (local)"]
    assert served == "100.0% -> 99.0%, lowest 0.0% at 1.1 s, back at 99.0% by 3.1 s"


def test_series_has_a_column_per_number_and_null_where_a_metric_is_missing() -> None:
    run = report(3)
    run.ticks[1].metrics = {"other": 2.0}
    columns = run.to_arrow().to_pydict()
    assert columns["tick"] == [0, 1, 2]
    assert columns["metric.accesses"] == [1000.0, None, 1000.0]
    assert columns["metric.other"] == [None, 2.0, None]
    assert "metrics" not in columns


def fill(path: Path, *, force: bool = False) -> None:
    run = report(3)
    with open_out(path, run.policy, force=force) as out:
        one = plan()
        out.plan_sink(0, one, one.batches(2))
        out.plan_sink(1, one, one.batches(2))
        document = run_document(run, summarize(run), {"workload": {"name": "w"}})
        out.finish(run, document, Tables.of(run, None))


def test_out_directory_holds_plan_series_ledger_and_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out)
    # nobody recorded where and when
    assert {entry.name for entry in out.iterdir()} == {*OUT_FILES} - {
        MAP_FILE,
        ADDRESSES_FILE,
        NODES_FILE,
        WAITS_FILE,
    }
    plans = read_plans(out / "plan.parquet")
    assert plans["pfn"].to_pylist() == [100, 101, 102] * 2
    assert plans["batch"].to_pylist() == [0, 0, 1, 2, 2, 3]
    series = pq.read_table(out / "series.parquet")
    assert series["metric.accesses_fast"].to_pylist() == [200.0, 550.0, 900.0]
    document = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert list(document)[:3] == ["schema", "kind", "workload"]
    assert document["schema"] == 1
    ledger = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["requested"] == 1000
    assert ledger["refusals"] == {"EAGAIN: target not balanced": 2}
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]


def test_an_earlier_result_is_replaced_when_told_to(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out)  # an empty directory is no result
    (out / "report.json").write_text("old", encoding="utf-8")
    with pytest.raises(InputError, match="holds an earlier result; give another place, or --force"):
        fill(out)
    assert (out / "report.json").read_text(encoding="utf-8") == "old"
    fill(out, force=True)
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["schema"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_missing_parent_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"deep is not there; make it"):
        fill(tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full_disk)
    run, n_sunk = report(3), 0

    def go_on() -> None:
        nonlocal n_sunk
        with open_out(tmp_path / "out", run.policy) as out:
            for number in range(2):
                out.plan_sink(number, plan(), plan().batches(2))
                n_sunk += 1
            out.finish(run, {}, Tables.of(run, None))

    with pytest.raises(RunFailedError, match="No space left on device"):
        go_on()
    assert n_sunk == 2


@pytest.mark.parametrize("with_report", [False, True])
def test_a_directory_with_other_files_is_left_alone(tmp_path: Path, with_report: bool) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work", encoding="utf-8")
    if with_report:
        (tmp_path / "report.json").write_text("{}", encoding="utf-8")
    said = r"holds thesis\.tex" if with_report else "holds files"
    with pytest.raises(InputError, match=f"{said}.* gpuscan did not write"):
        fill(tmp_path)
    assert thesis.read_text(encoding="utf-8") == "years of work"


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="not a directory"):
        fill(path)
    assert path.read_text(encoding="utf-8") == "x"


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "target",
    [
        "pyarrow.parquet.ParquetWriter.__init__",
        "pyarrow.parquet.ParquetWriter.write_table",
        "pyarrow.parquet.ParquetWriter.close",
        "pyarrow.parquet.write_table",
        "gpuscan.run.out.create_json",
        "gpuscan.files.writing.sync",
        "gpuscan.files.writing._take_name",
        "gpuscan.files.writing.os.mkdir",
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, earlier: bool
) -> None:
    out = tmp_path / "out"
    if earlier:
        fill(out)
        (out / "report.json").write_text("earlier", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(target, full_disk)
        with pytest.raises(RunFailedError, match=r"cannot write .*No space left on device") as caught:
            fill(out, force=True)
    assert caught.value.exit_code == 1
    assert [entry.name for entry in tmp_path.iterdir()] == (["out"] if earlier else [])
    if earlier:
        assert (out / "report.json").read_text(encoding="utf-8") == "earlier"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with open_out(tmp_path / "out", Policy()) as out:
            out.plan_sink(0, plan(), plan().batches(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_json_text_takes_numpy_and_has_no_nan() -> None:
    text = json_text(
        {
            "int": np.int64(3),
            "float": np.float64("nan"),
            "array": np.array([1.5, np.inf]),
            "flag": np.bool_(True),
            "by nid": {np.int64(2): np.uint8(1)},
            "path": Path("a"),
            "tuple": (1, None),
        }
    )
    assert json.loads(text) == {
        "schema": 1,
        "int": 3,
        "float": None,
        "array": [1.5, None],
        "flag": True,
        "by nid": {"2": 1},
        "path": "a",
        "tuple": [1, None],
    }
    assert text.startswith('{\n  "schema": 1')


@pytest.mark.parametrize(
    ("shares", "axis"),
    [
        ([0.78, 0.86], (0.7, 0.9)),
        ([0.3, 0.893], (0.3, 0.9)),
        ([0.1 + 0.2, 0.7], (0.3, 0.7)),
        ([0.5, 0.5], (0.4, 0.5)),
        ([0.0, float("nan")], (0.0, 0.1)),
        ([1.0], (0.9, 1.0)),
        ([0.0, 1.0], (0.0, 1.0)),
    ],
)
def test_the_axis_of_shares(shares: list[float], axis: tuple[float, float]) -> None:
    assert share_axis(shares) == axis


def test_a_rise_of_a_few_percent_is_seen_and_the_scale_is_named() -> None:
    run = report(0)
    run.ticks.extend(tick(number, share) for number, share in enumerate(np.linspace(0.78, 0.86, 40)))
    rows = dict(summary_rows(run, summarize(run), "top tier"))
    bars = rows["over time, from 70% (▁) to 90% (█)"]
    assert (bars[0], bars[-1]) == ("▄", "▇")


TOLD = (
    Told("samples", "samples"),
    Told("samples_useless", "useless", ("samples",)),
    Told("guessed_right", "of nodes guessed right", ("guessed_right", "guessed_wrong")),
)
PRODUCED = {"producer_cost_ns": 2e9, "pages_looked_at": 12.0}
"""What a producer counts that has only metrics of its own."""


@pytest.mark.parametrize(
    ("metrics", "row"),
    [
        ({}, "mine: 4 s of CPU time (modelled)"),
        ({"samples": 3.0}, "mine: 6 samples, 4 s of CPU time (modelled)"),
        ({"samples_useless": 3.0}, "mine: 4 s of CPU time (modelled)"),
        (
            {"guessed_right": 0.0, "guessed_wrong": 3.0},
            "mine: 0.0% of nodes guessed right, 4 s of CPU time (modelled)",
        ),
        ({"samples": 0.0, "samples_useless": 1.0}, "mine: 0 samples, 4 s of CPU time (modelled)"),
    ],
)
def test_a_producer_with_metrics_of_its_own(metrics: dict[str, float], row: str) -> None:
    run = report(0)
    run.ticks.extend(TickReport(number, 0, 10**8, metrics=PRODUCED | metrics) for number in range(2))
    summary = summarize(run)
    assert dict(summary_rows(run, summary, "top tier", producer="mine", told=TOLD))["producer"] == row
    unnamed = dict(summary_rows(run, summary, "top tier", told=TOLD))["producer"]
    assert unnamed == row.removeprefix("mine: ")
    assert (
        json.loads(json_text(run_document(run, summary, {})))["summary"]["metrics"]["pages_looked_at"] == 24
    )


def test_accesses_of_which_none_are_known_to_be_fast_have_no_share() -> None:
    run = report(0)
    run.ticks.append(TickReport(0, 0, 10**8, metrics={"accesses": 5.0}))
    assert summarize(run).fast is None
    assert fast_share(run.ticks[0]) is None
    assert fast_share(tick(0, 0.25)) == 0.25
