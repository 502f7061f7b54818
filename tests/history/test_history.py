"""The history: bounded, whole after a kill, and no reason to stop on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.history import database as history_module
from gpuscan.history.database import History
from gpuscan.history.reading import read_notes
from gpuscan.history.tally import tally
from gpuscan.service.since import Since

MIB = 1 << 20
ROOM = 4 * MIB


def moved(n, nid="0", refused=0):
    return {"moved_pages_to": {nid: n}, "demoted_pages": 0, "refused": {"EBUSY: busy": refused}}


def size_of(path):
    return sum(each.stat().st_size for each in path.parent.iterdir())


def test_what_was_noted_is_read_while_it_is_kept_and_after(tmp_path):
    path = tmp_path / "lib/history.sqlite"
    history = History(path, ROOM)
    history.note("start", None, {"monitor": "damon"})
    history.note("moved", "db", moved(7))
    assert [note["kind"] for note in read_notes(path, 0)] == []
    history.flush()
    history.note("moved", "db", moved(5, "2", refused=3))
    history.close()
    notes = list(read_notes(path, 0))
    assert [(note["kind"], note["policy"]) for note in notes] == [
        ("start", None),
        ("moved", "db"),
        ("moved", "db"),
    ]
    assert tally(notes) == {
        "db": {
            "moved_pages_to": {"0": 7, "2": 5},
            "promoted_pages": 12,
            "demoted_pages": 0,
            "moved_by_kernel_pages": 0,
            "refused": {"EBUSY: busy": 3},
        }
    }
    assert list(read_notes(path, time.time_ns() + 10**9)) == []


def test_it_stays_within_its_room_and_the_newest_are_kept(tmp_path):
    path = tmp_path / "history.sqlite"
    most = ROOM
    history = History(path, most)
    n = 20_000
    for i in range(n):
        history.note("moved", "db", {"i": i, "text": "x" * 200})
        if i % 500 == 499:
            history.flush()
            assert size_of(path) <= most + (1 << 18), i
            assert history.problem == ""
    history.close()
    kept = [note["i"] for note in read_notes(path, 0)]
    assert kept == list(range(kept[0], n))
    assert 2_000 < len(kept) < n
    assert history.lost == 0


def test_it_stays_within_its_room_while_somebody_reads(tmp_path):
    path = tmp_path / "history.sqlite"
    history = History(path, ROOM)
    history.note("start", None, {})
    history.flush()
    with contextlib.closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM note").fetchone()
        for i in range(9_000):
            history.note("moved", "db", {"i": i, "text": "x" * 1000})
            if i % 3_000 == 2_999:
                history.flush()
        assert size_of(path) <= ROOM
        assert "somebody reads" in history.problem
        reader.rollback()
        history.flush()
    assert history.problem == ""
    history.close()
    assert size_of(path) <= ROOM
    assert [note["i"] for note in read_notes(path, 0)][-1] == 8_999
    assert history.lost == 0


def test_one_that_is_given_less_room_takes_less_and_is_its_owners(tmp_path):
    path = tmp_path / "history.sqlite"
    path.touch(mode=0o644)
    history = History(path, 4 * ROOM)
    for i in range(9_000):
        history.note("moved", "db", {"i": i, "text": "x" * 1000})
    history.flush()
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}
    history.close()
    assert size_of(path) > 2 * ROOM
    history = History(path, ROOM)
    assert size_of(path) <= ROOM
    history.note("moved", "db", {"i": 9_000})
    history.close()
    assert size_of(path) <= ROOM
    kept = [note["i"] for note in read_notes(path, 0)]
    assert kept == list(range(kept[0], 9_001))
    assert len(kept) > 1_000


_KILLED = """
import sys, time
from pathlib import Path
from gpuscan.history.database import History
history = History(Path(sys.argv[1]), 1 << 24)
for i in range(10**6):
    history.note("moved", "db", {"i": i})
    history.flush()
    print(i, flush=True)
"""


def test_a_kill_loses_nothing_that_was_flushed(tmp_path):
    path = tmp_path / "history.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(50)]
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout if line.endswith("\n")]
    kept = [note["i"] for note in read_notes(path, 0)]
    assert kept[: len(told)] == told
    history = History(path, 1 << 24)  # the next one goes on
    history.note("stop", None, {})
    history.close()
    assert [note["kind"] for note in read_notes(path, 0)][-1] == "stop"


_FULL = """
import json, resource, signal, sys
from pathlib import Path
from gpuscan.history.database import History
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
history = History(path, 1 << 24)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
said = []
for i in range(2000):
    history.note("moved", "db", {"i": i, "text": "x" * 300})
    if i % 50 == 49:
        history.flush()
        said.append(history.problem)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
history.flush()
print(json.dumps([said[0], said[-1], history.problem, history.lost]))
history.close()
"""


def test_a_full_disk_is_said_and_what_waited_comes_later(tmp_path):
    path = tmp_path / "history.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path)], capture_output=True, text=True, check=True
    )
    first, last, after, lost = json.loads(done.stdout)
    assert (first, after, lost) == ("", "", 0)
    assert "cannot be written (" in last
    assert "make room, and it goes on" in last
    assert [note["i"] for note in read_notes(path, 0)] == list(range(2000))


def test_what_waits_is_bounded_and_what_is_lost_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(history_module, "_MOST_WAITING", 10)
    path = tmp_path / "history.sqlite"
    path.write_bytes(b"no database at all" * 100)
    history = History(path, ROOM)
    for i in range(25):
        history.note("moved", "db", {"i": i})
        history.flush()
    assert history.lost == 15
    assert "file is not a database" in history.problem
    path.unlink()
    history.close()
    assert [note["i"] for note in read_notes(path, 0)] == list(range(15, 25))


def test_one_of_a_later_version_is_left_alone(tmp_path):
    path = tmp_path / "history.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    history = History(path, ROOM)
    assert "it is of version 99, and 1 is known" in history.problem
    history.close()


def test_changes_are_what_is_new_and_nothing_where_nothing_is():
    clock: Any = SimpleNamespace(monotonic_ns=lambda: 0, process_time=lambda: 0.0)
    since = Since(clock)
    from collections import Counter

    state: Any = SimpleNamespace(moved_to=Counter({0: 5}), demoted_pages=2, refused=Counter())
    assert since.changes({"a": state}) == {
        "a": {"moved_pages_to": {"0": 5}, "demoted_pages": 2, "refused": {}}
    }
    assert since.changes({"a": state}) == {}
    state.refused["EBUSY"] += 1
    assert since.changes({"a": state}) == {
        "a": {"moved_pages_to": {}, "demoted_pages": 0, "refused": {"EBUSY": 1}}
    }


def test_the_command(tmp_path, capsys):
    path = tmp_path / "history.sqlite"
    assert main(["history", "--history", str(path)]) == 2
    assert "there is no history at" in capsys.readouterr().err
    history = History(path, ROOM)
    history.note("start", None, {"monitor": "damon"})
    history.note("moved", "db", moved(256, "0", refused=3))
    history.close()
    assert main(["history", "--since", "7d", "--history", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 MiB" in out
    assert "EBUSY: busy" in out
    assert "start: monitor damon" in out
    assert "moved of db" not in out
    assert main(["history", "--events", "--history", str(path)]) == 0
    assert "moved of db" in capsys.readouterr().out
    assert main(["history", "--json", "--history", str(path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == ["start", "moved"]
    assert lines[0]["schema"] == 1
    assert main(["history", "--since", "soon", "--history", str(path)]) == 2
    os.truncate(path, 100)
    assert main(["history", "--history", str(path)]) == 2
    assert "is cut short: 100 bytes are there of" in capsys.readouterr().err


def test_a_place_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file/history.sqlite", ROOM)
    history.note("start", None, {})
    history.close()
    assert "cannot be written" in history.problem
    with pytest.raises(InputError, match="there is no history"):
        list(read_notes(tmp_path / "file/history.sqlite", 0))
