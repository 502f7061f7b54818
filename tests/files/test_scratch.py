"""Scratch directories, and what shards keep: what is removed is ours, and nobody waits for a FIFO."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crashes import in_child
from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.files.owned import MARK
from gpuscan.files.scratch import scratch_directory
from gpuscan.shards.log import RequestLog, log_path, remove_logs
from gpuscan.shards.sharded_store import ShardedStore
from gpuscan.shards.transport import InProcessTransport
from sharded_runs import machine


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def killed_in_scratch(purpose: str = "shards") -> None:
    def die() -> None:
        with scratch_directory(purpose) as scratch:
            (scratch / "worker").mkdir()
            (scratch / "worker/shard-0.log").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL


def test_what_a_killed_one_left_is_removed_by_the_next_of_its_kind(temporary: Path) -> None:
    killed_in_scratch()
    killed_in_scratch("compare")
    (shards,) = (name for name in names(temporary) if "shards" in name)
    with scratch_directory("shards") as scratch:
        assert shards not in names(temporary)
        assert scratch.stat().st_mode & 0o777 == 0o700
        assert len(names(temporary)) == 2
        with scratch_directory("shards"):
            assert scratch.exists()
    assert len(names(temporary)) == 1


@pytest.mark.parametrize("inside", ["lock", "fifo", "mark", "nothing"])
def test_what_others_made_stays_and_is_named(temporary: Path, inside: str) -> None:
    killed_in_scratch()
    (left,) = names(temporary)
    mark = (temporary / left / MARK).read_text()
    theirs = temporary / "gpuscan-shards-notes"
    theirs.mkdir()
    if inside == "lock":
        (theirs / "lock").touch()
        (theirs / "precious").touch()
    elif inside == "fifo":
        os.mkfifo(theirs / "lock")
        os.mkfifo(theirs / MARK)
    elif inside == "mark":
        (theirs / MARK).write_text(mark)
    before = names(theirs)
    with (
        pytest.warns(UserWarning, match=r"left as they are in .*: gpuscan-shards-notes \(gpuscan did not"),
        scratch_directory("shards"),
    ):
        pass
    assert names(temporary) == ["gpuscan-shards-notes"]
    assert names(theirs) == before


@pytest.mark.parametrize("kind", ["fifo", "link", "file"])
def test_a_thing_by_the_name_of_one_of_ours_is_left_and_named(temporary: Path, kind: str) -> None:
    killed_in_scratch()
    (left,) = names(temporary)
    (temporary / left).rename(temporary / "elsewhere")
    if kind == "fifo":
        os.mkfifo(temporary / left)
    elif kind == "link":
        (temporary / left).symlink_to(temporary / "elsewhere")
    else:
        (temporary / left).write_text("precious")
    with pytest.warns(UserWarning, match=left), scratch_directory("shards"):
        pass
    assert names(temporary) == sorted(["elsewhere", left])
    assert (temporary / "elsewhere/worker/shard-0.log").exists()


def test_no_room_for_one_is_a_sentence(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpuscan.files.owned.os.mkdir", refuse)
    with (
        pytest.raises(RunFailedError, match=r"cannot make a temporary directory in .*: No space"),
        scratch_directory("shards"),
    ):
        pass


@pytest.fixture
def store() -> Iterator[ShardedStore]:
    with ShardedStore(
        machine(1), device="cpu", n_shards=1, transport=InProcessTransport(), n_threads=1
    ) as opened:
        yield opened


def protected(store: ShardedStore, directory: Path) -> None:
    store.load_pages(store.page_map.present_bits())
    store.protect(directory)


def test_the_directory_of_shards_keeps_what_others_have_there(store: ShardedStore, tmp_path: Path) -> None:
    (tmp_path / "shard-notes-2025.log").write_text("precious")
    (tmp_path / "shard-9").mkdir()
    (tmp_path / "shard-9/y").write_text("precious")
    (tmp_path / "shard-7.log").write_text("precious")
    os.mkfifo(tmp_path / "shard-8.log")
    with pytest.warns(UserWarning, match=r"shard-7\.log .*shard-8\.log"):
        protected(store, tmp_path)
    assert names(tmp_path) == sorted(
        ["shard-0", "shard-0.log", "shard-7.log", "shard-8.log", "shard-9", "shard-notes-2025.log"]
    )
    assert (tmp_path / "shard-7.log").read_text() == "precious"
    assert (tmp_path / "shard-9/y").read_text() == "precious"


@pytest.mark.parametrize("kind", ["link", "fifo", "second name", "directory", "text", "empty"])
def test_a_name_that_shards_need_and_others_have_is_refused(
    store: ShardedStore, tmp_path: Path, kind: str
) -> None:
    shards, victim = tmp_path / "shards", tmp_path / "victim"
    shards.mkdir()
    victim.write_text("precious")
    log = shards / "shard-0.log"
    if kind == "link":
        log.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(log)
    elif kind == "second name":
        log.hardlink_to(victim)
    elif kind == "directory":
        log.mkdir()
    else:
        log.write_text("precious" if kind == "text" else "")
    before = log.lstat()
    with pytest.raises(InputError, match=r"shard-0\.log (is|was not written by gpuscan)"):
        protected(store, shards)
    assert victim.read_text() == "precious"
    assert log.lstat().st_ino == before.st_ino
    assert names(shards) == ["shard-0.log"]


def test_a_directory_by_the_name_of_a_shard_is_refused(store: ShardedStore, tmp_path: Path) -> None:
    (tmp_path / "shard-0").mkdir()
    (tmp_path / "shard-0/mine.txt").write_text("precious")
    with pytest.raises(InputError, match=r"shard-0 holds files that gpuscan did not write"):
        protected(store, tmp_path)
    assert names(tmp_path / "shard-0") == ["mine.txt"]


def test_logs_of_an_earlier_run_go_and_of_one_at_work_stay(tmp_path: Path) -> None:
    for shard in (0, 3):
        RequestLog(log_path(tmp_path, shard)).close()
    with RequestLog(log_path(tmp_path, 5)), pytest.warns(UserWarning, match=r"shard-5\.log"):
        remove_logs(tmp_path, 2)
    assert names(tmp_path) == ["shard-5.log"]
    with RequestLog(log_path(tmp_path, 1)) as log:
        with pytest.raises(InputError, match="another process has shards in"):
            remove_logs(tmp_path, 2)
        fcntl.flock(log._file, fcntl.LOCK_UN)
    assert names(tmp_path) == ["shard-1.log", "shard-5.log"]
