"""``gpuscan run --checkpoint`` and ``gpuscan resume`` as a user meets them."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from crashes import in_child
from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.cli.progress import Lines
from gpuscan.engine.stages import Sampled
from gpuscan.engine.tick import TickReport
from gpuscan.heatmap.counting import Counting
from gpuscan.heatmap.recorder import MapRecorder
from gpuscan.run import checkpoints as checkpoints_module
from gpuscan.run.checkpoints import RunCheckpoints
from gpuscan.run.states import made_of, scenario_state
from gpuscan.timeline.timeline import Timeline
from gpuscan.topology.resolve import resolve_topology
from hosts import small_host
from runs import Case, Crash

WORKLOAD = """
shows = "a test"
ticks = 10
seed = 7
[topology]
machine = "{machine}"
[[processes]]
name = "p"
memory = "30%"
cpus_of = [0]
placement = {{ 0 = "20%", 2 = "80%" }}
accesses_per_gib_s = 666_667
[producer.hint_faults]
scan_size = "1GiB"
[policy]
rate_limit = "50MB/s"
"""


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory, which is the current one, with a workload on a machine described beside it."""
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "machine.toml").open("w") as file, redirect_stdout(file):
        assert main(["topology", "two-socket-cxl", "--memory", "512MiB", "--toml"]) == 0
    (tmp_path / "small.toml").write_text(WORKLOAD.format(machine="machine.toml"))
    return tmp_path


def crash_after(monkeypatch: pytest.MonkeyPatch, n_ticks: int) -> pytest.MonkeyPatch:
    """Let the next run end after so many ticks as if its process were gone."""
    on_tick = RunCheckpoints.on_tick

    def dies(self: RunCheckpoints, report: TickReport) -> None:
        on_tick(self, report)
        if report.tick + 1 == n_ticks:
            raise Crash

    monkeypatch.setattr(RunCheckpoints, "on_tick", dies)
    return monkeypatch


def crashed(n_ticks: int, *args: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, n_ticks)
        assert main(["run", *args, "--quiet", "--checkpoint", "state", "--every", "4"]) == 1


def timeless(document: dict[str, Any]) -> dict[str, Any]:
    """Return a report without wall times, and without where it was resumed and by what command."""
    left_out = ("wall_s", "resumed_at", "made_by")
    kept = {key: value for key, value in document.items() if key not in left_out}
    kept["summary"] = {key: value for key, value in document["summary"].items() if "scan_ns" not in key}
    return kept


def asked(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    return document


def assert_kept_alike(one: Path, other: Path) -> None:
    """Check that two --out directories hold the same series and ledger, and the rest to the byte."""
    for name in ("plan.parquet", "map.parquet", "nodes.parquet", "waits.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert len(pq.read_table(one / "plan.parquet"))
    series = [pq.read_table(path / "series.parquet").drop_columns("scan_ns") for path in (one, other)]
    assert series[0].equals(series[1])
    assert (one / "ledger.json").read_bytes() == (other / "ledger.json").read_bytes()
    reports = [timeless(json.loads((path / "report.json").read_text())) for path in (one, other)]
    assert reports[0] == reports[1]


def test_a_killed_run_goes_on_and_its_files_are_those_of_a_whole_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [
        sys.executable,
        "-m",
        "gpuscan",
        "run",
        "small.toml",
        "--device",
        "cpu",
        "--set",
        "ticks=40",
        "--quiet",
    ]
    whole = asked(capsys, *run[3:-1], "--out", "whole")
    process = subprocess.Popen([*run, "--checkpoint", "state", "--every", "3", "--out", "kept"])
    deadline = time.monotonic() + 60
    while not (here / "state/checkpoint-00000003").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # Files by these names mean something else now; the run is the one that was asked for.
    (here / "small.toml").write_text("shows = 'other'")
    (here / "machine.toml").write_text("")
    resumed = asked(capsys, "resume", "state")
    assert timeless(resumed) == timeless(whole)
    (at,) = resumed["resumed_at"]
    assert 6 <= at < 40
    assert_kept_alike(here / "whole", here / "kept")
    assert [path.name for path in here.glob("kept*")] == ["kept"]  # what the killed one left is swept


def test_resuming_again_needs_force_where_a_result_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crashed(6, "small.toml", "--out", "kept")
    capsys.readouterr()
    first = asked(capsys, "resume", "state")
    assert first["resumed_at"] == [4]
    assert main(["resume", "state"]) == 2
    assert "is after tick 8 of 10; --force goes on from there and replaces it" in capsys.readouterr().err
    again = asked(capsys, "resume", "state", "--force", "--every", "1")
    assert again["resumed_at"] == [4, 8]
    assert timeless(again) == timeless(first)
    assert sorted(path.name for path in (here / "state").glob("checkpoint-*"))[-1] == "checkpoint-00000005"


def test_a_run_says_what_its_checkpoints_cost(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "small.toml", "--checkpoint", "state", "--every", "4"]) == 0
    assert "3 checkpoints in " in capsys.readouterr().err


@pytest.mark.parametrize("every", ["1h", "3"])
def test_time_or_ticks(here: Path, every: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked(capsys, "run", "small.toml", "--checkpoint", "state", "--every", every)
    newest = max(path.name for path in (here / "state").glob("checkpoint-*"))
    assert newest == {"1h": "checkpoint-00000001", "3": "checkpoint-00000004"}[every]


def test_often_by_the_clock(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked(capsys, "run", "small.toml", "--checkpoint", "state", "--every", "1ns")
    assert max(path.name for path in (here / "state").glob("checkpoint-*")) == "checkpoint-00000011"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "--checkpoint", "state", "--every", "0"], "give 10, or 30s"),
        (["run", "--checkpoint", "state", "--every", "soon"], "soon"),
        (["run", "--checkpoint", "state", "--design", "rfc-v1"], "leave out --checkpoint or --design"),
        (["run", "--checkpoint", "no/where"], "is not there; make it"),
        (["run", "--checkpoint", "machine.toml"], "is not a directory"),
        (["resume", "nowhere"], "is not a directory of checkpoints"),
        (["resume", "."], "holds no checkpoint"),
    ],
)
def test_wrong_usage_is_one_sentence(
    here: Path, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert not (here / "nowhere").exists()


def test_another_runs_checkpoints_are_replaced_with_force_only(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashed(6, "small.toml")
    capsys.readouterr()
    assert main(["run", "small.toml", "--checkpoint", "state"]) == 2
    assert "go on with it by 'gpuscan resume state'" in capsys.readouterr().err
    args = ("run", "small.toml", "--checkpoint", "state", "--force", "--ticks", "3")
    assert asked(capsys, *args)["summary"]["n_ticks"] == 3
    assert asked(capsys, "resume", "state")["summary"]["n_ticks"] == 3


def test_two_do_not_write_to_one_directory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crashed(6, "small.toml")
    capsys.readouterr()
    held = RunCheckpoints(here / "state", force=True)
    assert main(["resume", "state"]) == 2
    assert "another process writes checkpoints to" in capsys.readouterr().err
    held.close()


def test_a_damaged_checkpoint_names_the_one_that_is_whole(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = asked(capsys, "run", "small.toml")
    crashed(9, "small.toml")
    newest = here / "state/checkpoint-00000003/state.json"
    newest.write_bytes(newest.read_bytes().replace(b'"cursor":0', b'"cursor":1'))
    capsys.readouterr()
    assert main(["resume", "state"]) == 2
    err = capsys.readouterr().err
    before = here / "state/checkpoint-00000002"
    assert f"was changed (its SHA-256 is wrong); {before} is whole: resume that" in err
    assert timeless(asked(capsys, "resume", str(before))) == timeless(whole)
    assert timeless(asked(capsys, "resume", "state")) == timeless(whole)


def test_a_damaged_log_is_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crashed(6, "small.toml", "--out", "kept")
    for name in ("plans.log", "ticks.log"):
        log = here / "state" / name
        good = log.read_bytes()
        for bad, said in (
            (good[:50], "bytes early"),
            (b"?" + good[1:], "was changed"),
            (None, "cannot be read"),
        ):
            log.unlink() if bad is None else log.write_bytes(bad)
            capsys.readouterr()
            assert main(["resume", "state"]) == 2
            assert said in capsys.readouterr().err
        log.write_bytes(good)
    assert main(["resume", "state"]) == 0


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_is_whole(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        args = ["run", "small.toml", "--set", "ticks=40", "--quiet", "--checkpoint", "state", "--every", "4"]
        assert main(args) == 1

    assert in_child(fill_up) == 0
    err = capfd.readouterr().err
    assert err.startswith("gpuscan: error: cannot write ")
    assert "File too large" in err
    assert "make room and go on from" in err
    assert err.count("\n") == 1
    assert not list((here / "state").glob("*.tmp"))
    assert main(["resume", "state", "--quiet", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["summary"]["n_ticks"] == 40


def test_a_trace_must_be_the_one_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = resolve_topology("two-socket-cxl", 512 << 20).node(2).zones[0].present[0][0]
    lines = [f"[000] {100:5d}.{page * 900:06d}: {7:16d}{first + page << 12:16x}\n" for page in range(1000)]
    trace = here / "mem.txt"
    trace.write_text("".join(lines))
    args = ("--trace", "mem.txt", "--memory", "512MiB")
    whole = asked(capsys, "run", *args)
    assert whole["ledger"]["migrated"]
    crashed(5, *args)
    trace.write_text("".join(lines[:-1]))
    capsys.readouterr()
    assert main(["resume", "state"]) == 2
    assert "mem.txt was changed since the run began; bring it back" in capsys.readouterr().err
    trace.write_text("".join(lines))
    assert timeless(asked(capsys, "resume", "state")) == timeless(whole)


def test_a_page_table_must_be_the_one_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = resolve_topology("two-socket-cxl", 512 << 20).node(2).zones[0].present[0][0]
    pages = "".join(f"{100_000 + page},{first + page}\n" for page in range(1000))
    lines = [f"{page * 900},{(100_000 + page) << 12}\n" for page in range(1000)]
    (here / "mem.csv").write_text("time_us,virtual_address\n" + "".join(lines))
    (here / "pages.csv").write_text(f"virtual_page,pfn\n{pages}")
    args = ("--trace", "mem.csv", "--given", "pages=pages.csv", "--memory", "512MiB")
    whole = asked(capsys, "run", *args)
    assert whole["ledger"]["migrated"]
    crashed(5, *args)
    (here / "pages.csv").write_text("virtual_page,pfn\n" + pages.replace("100000,", "7,"))
    capsys.readouterr()
    assert main(["resume", "state"]) == 2
    assert "pages.csv was changed since the run began; bring it back" in capsys.readouterr().err
    (here / "pages.csv").write_text(f"virtual_page,pfn\n{pages}")
    assert timeless(asked(capsys, "resume", "state")) == timeless(whole)


def test_a_captured_machine_must_be_the_one_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_host().write(here / "host.zarr")
    args = ("host.zarr", "--split-cxl", "50%", "--ticks", "9")
    whole = asked(capsys, "run", *args)
    crashed(5, *args)
    host = small_host()
    host.flags[0] ^= 1 << 3
    host.write(here / "host.zarr", force=True)
    capsys.readouterr()
    assert main(["resume", "state"]) == 2
    assert "the captured machine was changed" in capsys.readouterr().err
    small_host().write(here / "host.zarr", force=True)
    assert timeless(asked(capsys, "resume", "state")) == timeless(whole)


def test_a_gpuscan_with_other_defaults_refuses(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "made_of", lambda scenario: {**made_of(scenario), "ticks": 11})
        crashed(5, "small.toml")
    capsys.readouterr()
    assert main(["resume", "state"]) == 2
    assert "makes another machine or policy of the same workload" in capsys.readouterr().err


def test_a_state_that_lacks_something_is_one_sentence(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoints_module,
            "scenario_state",
            lambda scenario: {**scenario_state(scenario), "migrator": {"dice": 3}},
        )
        crashed(5, "small.toml")
    capsys.readouterr()
    assert main(["resume", "state"]) == 2
    assert "does not fit the run it is of (the migrator lacks the key 'random')" in capsys.readouterr().err


def test_a_map_that_a_checkpoint_has_not_begins_where_the_run_goes_on_and_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:  # as an earlier gpuscan kept it, or one that nobody asked for a map
        patch.setattr(
            checkpoints_module,
            "scenario_state",
            lambda scenario: {
                name: part
                for name, part in scenario_state(scenario).items()
                if name not in ("recorder", "timeline")
            },
        )
        crashed(6, "small.toml", "--out", "kept", "--trace-events", "times.json.gz")
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, 8)
        assert main(["resume", "state", "--quiet", "--every", "1"]) == 1
    capsys.readouterr()
    assert main(["resume", "state", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    with gzip.open(here / "times.json.gz") as file:
        assert json.load(file)["otherData"]["begins"].startswith("batches from tick 4 on")
    for said in ("map, nodes and waits begin", "batches of the timeline begin"):
        assert f"{said} at tick 4: the checkpoint there has none" in notes
    columns = pq.read_table(here / "kept" / "map.parquet")["column"].to_numpy()
    assert set(columns.tolist()) == {4, 5, 6, 7, 8, 9}
    assert len(pq.read_table(here / "kept" / "series.parquet")) == 10


def test_a_map_that_was_sorted_and_made_coarser_goes_on_as_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of large folios, and of so many cells that checkpoints hold sorted ones and ones yet to be."""
    monkeypatch.setattr("gpuscan.heatmap.gathering.GATHERED_MAX", 700)
    defaults = MapRecorder.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "n_cells_max", 2000)
    restored: dict[str, int] = {}
    restore = Counting.restore

    def noted(self: Counting, state: dict[str, Any]) -> None:
        for name in ("keys", "points", "folio_keys", "row_shift"):
            restored[name] = max(restored.get(name, 0), int(np.size(state[name]) and np.max(state[name])))
        restore(self, state)

    monkeypatch.setattr(Counting, "restore", noted)
    workload = (here / "small.toml").read_text().replace("cpus_of", "thp = true\ncpus_of")
    (here / "small.toml").write_text(workload)
    asked(capsys, "run", "small.toml", "--out", "whole")
    crashed(6, "small.toml", "--out", "kept")
    capsys.readouterr()
    asked(capsys, "resume", "state")
    assert_kept_alike(here / "whole", here / "kept")
    assert all(restored.values()), restored


def test_a_timeline_and_a_page_of_a_resumed_run_are_those_of_a_whole_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was asked for at the start is made at the end, or elsewhere where that is said."""
    views = ["--trace-events", "times.json.gz", "--report", "page.html"]
    assert main(["run", "small.toml", "--quiet", *views]) == 0
    whole = timed(here / "times.json.gz")
    page = (here / "page.html").read_text(encoding="utf-8").split('id="gpuscan-map"')[1].split("</script>")[0]
    for view in (here / "times.json.gz", here / "page.html"):
        view.unlink()
    crashed(6, "small.toml", *views)
    assert not (here / "times.json.gz").exists()
    capsys.readouterr()
    assert main(["resume", "state", "--quiet", "--trace-events", "other.json.gz"]) == 0
    assert sum(event["name"] == "batch" for event in whole) > 10
    assert timed(here / "other.json.gz") == whole
    assert not (here / "times.json.gz").exists()
    assert f'id="gpuscan-map"{page}</script>' in (here / "page.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_made_where_a_run_goes_on_does_not_stop_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint may be taken to a machine without Bokeh, or without the directory of the timeline."""
    (here / "there").mkdir()
    crashed(6, "small.toml", "--report", "page.html", "--trace-events", "there/times.json.gz")
    (here / "there").rmdir()
    monkeypatch.setitem(sys.modules, "bokeh", None)
    capsys.readouterr()
    assert main(["resume", "state", "--report", "page.html"]) == 2  # whoever asks for it here is refused
    assert "a report needs bokeh" in capsys.readouterr().err
    assert main(["resume", "state"]) == 0
    said = capsys.readouterr().err
    assert f"note: {here}/page.html, which the run was to make, is left out: a report needs bokeh" in said
    assert f"note: {here}/there/times.json.gz, which the run was to make, is left out: the directory" in said
    assert not (here / "page.html").exists()


def test_a_page_that_is_there_already_stops_what_goes_on_until_force(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashed(6, "small.toml", "--report", "page.html")
    (here / "page.html").write_text("mine", encoding="utf-8")
    capsys.readouterr()
    assert main(["resume", "state"]) == 2
    assert "page.html is there already" in capsys.readouterr().err
    assert (here / "page.html").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("option", ["--report", "--trace-events"])
def test_two_results_in_one_place_are_refused_before_a_run_goes_on(
    here: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where --out of the run is, only the checkpoint says."""
    crashed(6, "small.toml", "--out", "results")
    before = sorted((here / "state").iterdir())
    capsys.readouterr()
    assert main(["resume", "state", option, "results"]) == 2
    said = capsys.readouterr()
    assert f"two results would be kept at {here}/results; " in said.err
    assert not said.out
    assert sorted((here / "state").iterdir()) == before


def timed(path: Path) -> list[dict[str, Any]]:
    """Return the events of a timeline, without how long scans took on this computer."""
    with gzip.open(path) as file:
        document = json.load(file)
    assert document["otherData"] == {}
    return [
        {key: value for key, value in event.items() if event.get("tid") != 2 or key != "dur"}
        for event in document["traceEvents"]
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"node": np.array([7], dtype=np.int64)}, "nodes that are not there"),
        ({"start_ns": np.array([np.nan]).view(np.int64)}, "start_ns of the timeline are not all from 0"),
        ({"start_ns": np.array([5.0])}, "not an array of int64"),
        ({"thread": np.array([9], dtype=np.int8)}, "not all from 0 to 4"),
        ({"pages": np.empty(0, dtype=np.int64)}, "0 elements, not 1"),
    ],
)
def test_a_state_of_no_timeline_is_refused(change: dict[str, Any], said: str) -> None:
    timeline = Timeline({0: "node 0"})
    timeline.batch(5, 0, 1, 2, 3.0)
    state = timeline.state()
    Timeline({0: "node 0"}).restore(state)
    with pytest.raises(ValueError, match=said):
        Timeline({0: "node 0"}).restore({**state, "slices": {**state["slices"], **change}})


def test_a_terminal_that_takes_nothing_is_not_blamed_on_the_result(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(self: Lines, n: float = 1, **_: float | str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Lines, "advance", gone)
    assert main(["run", "small.toml", "--out", "kept"]) == 1
    said = capsys.readouterr().err
    assert "Input/output error" in said
    assert "kept" not in said
    assert not (here / "kept").exists()


def test_a_source_without_a_state_is_refused(tmp_path: Path) -> None:
    class Stateless:
        def sample(self, now_ns: int, duration_ns: int) -> Sampled:
            return Sampled(())

        def finished(self) -> bool:
            return False

    case = Case("cxl-promote")
    scenario = case.build()
    scenario.engine.source = Stateless()  # type: ignore[union-attr]
    checkpoints = RunCheckpoints(tmp_path / "c")
    with pytest.raises(InputError, match="the source Stateless has no state that a checkpoint could keep"):
        checkpoints.begin(scenario, replace(case.request("5")))
    checkpoints.close()


def test_a_run_that_is_complete_says_where_its_result_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--device", "cpu", "--quiet", "--out", "res", "--checkpoint", "whole", "--every", "5")
    assert main(["run", "small.toml", *options]) == 0
    capsys.readouterr()
    assert main(["resume", "whole"]) == 2
    err = capsys.readouterr().err
    assert f"whole is complete, and its result is in {here / 'res'}; --force writes that again" in err
    assert "going on" not in err
    assert main(["resume", "whole", "--force", "--quiet"]) == 0


def test_an_interrupt_names_how_to_go_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_tick = RunCheckpoints.on_tick

    def interrupted(self: RunCheckpoints, report: TickReport) -> None:
        on_tick(self, report)
        if report.tick == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunCheckpoints, "on_tick", interrupted)
        assert main(["run", "small.toml", "--checkpoint", "state", "--every", "3", "-q"]) == 130
    said = f"interrupted; go on from tick 3 with 'gpuscan resume {here / 'state'}'"
    assert capsys.readouterr().err == f"gpuscan: error: {said}\n"
    assert main(["resume", "state", "-q"]) == 0
