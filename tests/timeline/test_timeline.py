"""A timeline: what is in it happened in the run, then and as long; it stays small."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gpuscan.cli.main import main
from gpuscan.engine.report import TickReport
from gpuscan.timeline.timeline import Timeline
from workload_files import small


def timeline_of(folder: Path, *options: str) -> list[dict[str, Any]]:
    (folder / "small.toml").write_text(small(12), encoding="utf-8")
    path = folder / "run.json.gz"
    command = ["run", str(folder / "small.toml"), "--quiet", "--trace-events", str(path), *options]
    assert main(command) == 0
    with gzip.open(path) as file:
        document = json.load(file)
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    events: list[dict[str, Any]] = document["traceEvents"]
    return events


def check_tracks(events: list[dict[str, Any]]) -> None:
    """Every track with slices has a name, and its slices come one after the other."""
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    processes = {e["pid"] for e in events if e["name"] == "process_name"}
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert tracks.keys() <= named
    assert {process for process, _ in tracks} <= processes
    for slices in tracks.values():
        ordered = sorted(slices)
        assert all(end <= start + 1e-6 for (_, end), (start, _) in itertools.pairwise(ordered))


def test_the_batches_and_ticks_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    events = timeline_of(tmp_path, "--device", "cpu", "--threads", "1", "--out", str(out))
    check_tracks(events)
    series = pq.read_table(out / "series.parquet")
    batches = [event for event in events if event["name"] == "batch"]
    assert len(batches) == sum(series["n_batches"].to_pylist()) > 12
    assert sum(event["args"]["pages"] for event in batches) == sum(series["batch_pages"].to_pylist())
    targets = set(pq.read_table(out / "plan.parquet")["target_nid"].to_pylist())
    assert {event["pid"] - 1 for event in batches} == targets
    ticks = [event for event in events if event["name"] == "tick"]
    assert [event["ts"] for event in ticks] == [tick * 1e5 for tick in range(12)]
    ready = [event["args"]["pending"] for event in events if event["name"] == "READY afterwards"]
    assert ready == series["pending"].to_pylist()
    faults = [event["args"]["hint_faults"] for event in events if event["name"] == "faults"]
    assert faults == series["metric.hint_faults"].to_pylist()


def test_walks_of_another_designs_threads(tmp_path: Path) -> None:
    events = timeline_of(tmp_path, "--design", "rfc-v1", "--out", str(tmp_path / "out"))
    check_tracks(events)
    looks = [event for event in events if event["name"] == "look"]
    summary = json.loads((tmp_path / "out" / "report.json").read_text())["summary"]
    assert len(looks) == summary["n_scans"] > 0
    assert sum(event["dur"] for event in looks) * 1e3 == pytest.approx(
        sum(pq.read_table(tmp_path / "out" / "series.parquet")["scan_ns"].to_pylist()), rel=1e-3
    )


def test_a_thread_sleeps_between_its_walks() -> None:
    timeline = Timeline({3: "node 3"})
    timeline.walk(3, 100, 20.5, 5.0)
    timeline.walk(3, 125, 10.0, 0.0)  # at once: a thread counts whole nanoseconds
    timeline.walk(3, 1000, 10.0, 0.0)
    found = [
        (event["name"], event["pid"], event["ts"] * 1e3, event["dur"] * 1e3)
        for event in timeline.events([])
        if event["ph"] == "X"
    ]
    assert found == [
        ("look", 4, 100, 20.5),
        ("move", 4, 120.5, 5),
        ("look", 4, 125.5, 10),
        ("sleep", 4, 135.5, 864.5),
        ("look", 4, 1000, 10),
    ]


def test_it_keeps_so_many_slices_and_says_what_is_left_out(tmp_path: Path) -> None:
    timeline = Timeline({0: "node 0"}, n_slices_max=10)
    for at in range(25):
        timeline.batch(at, 0, 1, 1, 5.0)
    assert timeline.n_left_out == 15
    path = tmp_path / "t.json.gz"
    timeline.write(path, [TickReport(0, 0, 100)])
    with gzip.open(path) as file:
        document = json.load(file)
    assert document["otherData"] == {"left_out": "15 slices after the first 10"}
    starts = [event["ts"] for event in document["traceEvents"] if event["name"] == "batch"]
    assert starts == [pytest.approx(at * 5e-3) for at in range(10)]  # one after the other


def test_an_earlier_timeline_is_replaced_with_force_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json.gz").write_text("mine")
    assert main(["run", "--quiet", "--trace-events", str(tmp_path / "run.json.gz")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "run.json.gz").read_text() == "mine"
