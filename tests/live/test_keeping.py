"""What is kept of a live session: it says what the session said, is whole or not there, and stays small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.engine.report import RunReport, TickReport
from gpuscan.files.writing import create_json, new_directory
from gpuscan.heatmap.map import read_map
from gpuscan.heatmap.nodes import read_nodes
from gpuscan.heatmap.space import ADDRESSES, FRAMES
from gpuscan.live.document import end_document, kept_document, start_document
from gpuscan.live.keeping import DOCUMENT, Keeping, contents
from gpuscan.live.series import Series
from gpuscan.live.session import LiveRequest, LiveSession
from gpuscan.report.catalogue import page_of
from gpuscan.report.contract import Flow, Plot, Zoomed
from livesim.machine import Machine
from livesim.scenario import scenario
from livesim.system import SimulatedSystem

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="who is not root has nothing to give up")
NOBODY = 65534
QUIET = replace(scenario(0), source="soft-dirty", selection="pids", n_pages=(60,), events=(), demote=False)


def kept(out: Path, one=QUIET, ms: int = 1_300):
    """Run a session on the simulated kernel, and keep it; return its end and its document's moved pages."""
    machine = Machine(one)
    system = SimulatedSystem(machine)
    request = LiveRequest(
        pids=tuple(machine.world.processes),
        monitor=one.source,
        for_ns=ms * 1_000_000,
        device="cpu",
        n_threads=1,
    )
    started = {}
    with Keeping(out, has_timeline=True, force=True) as keeping:
        with LiveSession(request, system, keeping=keeping) as session:
            report = session.run(lambda: started.update(start_document(session, 0.0)), lambda *_: None)
        finish(keeping, report, kept_document(session, report, started, "gpuscan live"))
    system.end()
    return end_document(session, report), keeping.ticks


def finish(keeping: Keeping, report: RunReport, document: dict[str, Any]) -> None:
    report = replace(report, ticks=keeping.ticks)
    keeping.finish(report, document, keeping.tables(report))


def test_a_session_is_kept_and_agrees_with_itself(tmp_path):
    end, ticks = kept(tmp_path / "out")
    assert end["moved_pages"] > 10
    document = json.loads((tmp_path / "out" / DOCUMENT).read_text())
    assert document["end"]["moved_pages"] == end["moved_pages"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]
    series = pq.read_table(tmp_path / "out" / "series.parquet")
    assert sum(series["migrated_pages"].to_pylist()) == end["moved_pages"]
    assert len(series) == len(ticks) == end["ticks"]
    assert set(series["metric.ticks"].to_pylist()) == {1}
    heat = read_map(tmp_path / "out" / "map.parquet")
    assert heat.layers["moves"].counts.sum() == end["moved_pages"]
    assert set(heat.layers) == {"accesses", "marks", "claims", "moves"}
    by_address = read_map(tmp_path / "out" / "addresses.parquet")
    assert by_address.space.kind == ADDRESSES
    watched = [f"{one['comm']} ({one['pid']})" for one in document["start"]["processes"]]
    assert sorted(by_address.space.nodes.values()) == sorted(watched)
    for name, layer in heat.layers.items():
        assert by_address.layers[name].counts.sum() == layer.counts.sum()
    assert "(mapped for a moment)" not in {extent[4] for extent in by_address.space.extents}
    nodes = read_nodes(tmp_path / "out" / "nodes.parquet")
    assert {nid: len(node.free_pages) for nid, node in nodes.items()} == dict.fromkeys(nodes, 3)
    page = page_of(tmp_path / "out")
    assert isinstance(page.figures[0], Zoomed)
    assert [heat.space.kind for heat in page.figures[0].heats] == [FRAMES, ADDRESSES]
    flow = next(figure for figure in page.figures if isinstance(figure, Flow))
    assert sum(n for _, n in flow.parts) == document["ledger"]["requested"]
    near = page.figures[1]
    assert isinstance(near, Plot)
    shares = [share for share in near.lines[0].y if share is not None]
    assert shares[-1] > shares[0]


def test_a_signal_ends_it_with_all_that_was_found_and_until_then_the_earlier_one_stays(tmp_path):
    out = tmp_path / "out"
    with new_directory(out, contents()) as directory:
        create_json(directory / DOCUMENT, {"earlier": True})
    machine = Machine(QUIET)
    system = SimulatedSystem(machine)
    request = LiveRequest(
        pids=tuple(machine.world.processes), monitor="soft-dirty", device="cpu", n_threads=1
    )
    n_ticks = 0

    def on_tick(*_):
        nonlocal n_ticks
        n_ticks += 1
        assert json.loads((out / DOCUMENT).read_text())["earlier"]
        if n_ticks == 5:
            system._take_signal(signal.SIGTERM)

    with Keeping(out, force=True) as keeping:
        with LiveSession(request, system, keeping=keeping) as session:
            report = session.run(lambda: None, on_tick)
        finish(keeping, report, kept_document(session, report, {}, ""))
    system.end()
    document = json.loads((out / DOCUMENT).read_text())
    assert (document["end"]["reason"], document["end"]["ticks"]) == ("interrupted", n_ticks)
    assert len(pq.read_table(out / "series.parquet")) == n_ticks == 6  # the last one's sleep was cut short
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]


def test_what_was_found_before_a_failure_is_kept_and_says_so(tmp_path):
    machine = Machine(QUIET)
    system = SimulatedSystem(machine)
    request = LiveRequest(
        pids=tuple(machine.world.processes), monitor="soft-dirty", device="cpu", n_threads=1
    )

    def on_tick(tick, *_):
        if tick.tick == 3:
            raise RunFailedError("the kernel refused")

    with Keeping(tmp_path / "out") as keeping:
        with LiveSession(request, system, keeping=keeping) as session:
            with pytest.raises(RunFailedError):
                session.run(lambda: None, on_tick)
            report = session.engine.report([])
        finish(keeping, report, kept_document(session, report, {}, ""))
    system.end()
    end = json.loads((tmp_path / "out" / DOCUMENT).read_text())["end"]
    assert (end["reason"], end["ledger_balanced"], end["ticks"]) == ("the kernel refused", False, 4)
    assert len(pq.read_table(tmp_path / "out" / "series.parquet")) == 4


def test_what_was_not_finished_leaves_nothing_new(tmp_path):
    out = tmp_path / "out"
    with new_directory(out, contents()) as directory:
        create_json(directory / DOCUMENT, {"earlier": True})
    machine = Machine(QUIET)
    with Keeping(out, force=True) as keeping:
        keeping.begin(SimulatedSystem(machine).read_host().topology, 10**8, 10**10)
        assert len(list(tmp_path.iterdir())) == 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]
    assert json.loads((out / DOCUMENT).read_text())["earlier"]
    with pytest.raises(InputError, match="--force"):
        Keeping(out).check()


def tick(number: int, **counts: float) -> TickReport:
    return TickReport(
        number, number * 10, 10, marked=1, pending=number, path="idle", metrics={"hot_pages": 2.0, **counts}
    )


def test_a_long_series_is_put_together_and_loses_nothing():
    series = Series(8)
    for number in range(53):
        series.add(tick(number, **({"late": 1.0} if number > 50 else {})))
    rows = series.rows()
    assert len(rows) <= 8
    assert sum(row.marked for row in rows) == sum(row.metrics["ticks"] for row in rows) == 53
    assert sum(row.metrics["hot_pages"] for row in rows) == 106
    assert sum(row.metrics.get("late", 0) for row in rows) == 2
    assert sum(row.duration_ns for row in rows) == 530
    ends = [row.now_ns + row.duration_ns for row in rows]
    assert [row.now_ns for row in rows] == [0, *ends[:-1]]
    assert [row.pending for row in rows] == [end // 10 - 1 for end in ends]
    assert {row.path for row in rows} == {"idle"}
    busy = tick(53)
    busy.path = "dense"
    series.add(busy)
    assert series.rows()[-1].path == "dense"
    assert busy.metrics == {"hot_pages": 2.0}


GIVE_UP = "from gpuscan.linux import capabilities, privileges; privileges.give_up(capabilities.KEPT)\n"
TAKE = """
from pathlib import Path
from gpuscan.files.writing import *
import sys
def out(folder):
    check_place(folder / 'out', Contents('live.json', ()), force=True)
def page(folder):
    check_file(folder / 'page.html')
for folder in sys.argv[1:]:
    for ask in (out, page):
        try:
            ask(Path(folder))
        except Exception as error:
            print(type(error).__name__, error)
        else:
            print('fine')
"""


def asked(code: str, *folders: Path) -> list[list[str]]:
    """Return for each folder what is said of a result and of a page there, in a process that ran ``code``."""
    command = [sys.executable, "-c", code + TAKE, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.splitlines()
    return [lines[at : at + 2] for at in range(0, len(lines), 2)]


@needs_root
def test_what_could_not_be_replaced_at_the_end_is_refused_at_the_start(tmp_path):
    """Of a user's directory, of a user's result in it, and in a directory where only owners replace."""
    for name in ("theirs", "shared", "ours"):
        (tmp_path / name).mkdir()
        result = tmp_path / name / "out"
        with new_directory(result, contents()) as directory:
            create_json(directory / DOCUMENT, {})
        page = tmp_path / name / "page.html"
        page.write_text("earlier")
        for path in (result, page):
            os.chown(path, NOBODY, NOBODY)
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)
    os.chown(tmp_path / "shared", NOBODY, NOBODY)
    (tmp_path / "shared").chmod(0o1777)
    folders = [tmp_path / name for name in ("theirs", "shared", "ours")]
    theirs, shared, ours = asked(GIVE_UP, *folders)
    assert all("Permission denied; give another place" in one for one in theirs)
    assert all("where only owners replace; give another place" in one for one in shared)
    # A directory that comes to another place must be writable; of a file nobody asks.
    assert "may not be written" in ours[0]
    assert ours[1] == "fine"
    assert all(one.startswith("InputError") for one in [*theirs, *shared, ours[0]])
    assert asked("", *folders) == [["fine", "fine"]] * 3


def live(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gpuscan", "live", "--device", "cpu", "--threads", "1", "--json"]
    command += ["--dry-run", "--monitor", "kpageflags", "--pid", str(os.getpid()), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, umask=0o022
    )


@needs_root
@pytest.mark.slow  # 12 s: three starts of the command
def test_the_command_keeps_what_it_found_when_it_is_stopped_and_nothing_when_it_is_killed(tmp_path):
    options = ("--out", "out", "--report", "page.html", "--trace-events", "times.json.gz")
    with live(tmp_path, *options) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["reason"] == "interrupted"
    names = {"out", "page.html", "times.json.gz"}
    assert {entry.name for entry in tmp_path.iterdir()} == names
    assert 'id="gpuscan-map"' in (tmp_path / "page.html").read_text()
    earlier = (tmp_path / "out" / DOCUMENT).read_bytes()
    with live(tmp_path, *options, "--force") as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        process.kill()
    assert (tmp_path / "out" / DOCUMENT).read_bytes() == earlier
    (left,) = {entry.name for entry in tmp_path.iterdir()} - names
    assert left.startswith("out.gpuscan-")
    with live(tmp_path, *options, "--force", "--for", "300ms") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert {entry.name for entry in tmp_path.iterdir()} == names
    assert (tmp_path / "out" / DOCUMENT).read_bytes() != earlier


@needs_root
@pytest.mark.slow  # 4 s: a start of the command
def test_the_command_refuses_at_the_start_where_it_could_not_write_at_the_end(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    began = time.monotonic()
    with live(tmp_path, "--out", "theirs/out", "--for", "100s") as process:
        out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert (process.returncode, out) == (2, "")
    assert "with the rights that live keeps, cannot write" in err
    assert not list(theirs.iterdir())
