"""A directory of checkpoints: what others have or planted there is not removed and not written through."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crashes import in_child
from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.checkpoint.directory import CheckpointDirectory, generations
from gpuscan.checkpoint.log import Log, Position
from gpuscan.files.owned import MARK

KIND = "test"


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def saved(path: Path, n: int = 1) -> None:
    with CheckpointDirectory(path, KIND) as directory:
        for number in range(n):
            directory.save({"number": number})


def test_what_has_the_name_of_one_and_no_mark_stays_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c"
    saved(path, 2)
    theirs = ["checkpoint-00000000", "checkpoint-00000001.old", "checkpoint-20250601.0123abcd.tmp"]
    for name in theirs:
        (path / name).mkdir()
        (path / name / "weights").write_text("precious")
    with pytest.warns(UserWarning, match="left as they are") as said:
        saved(path)
    assert len(said) == 1
    assert all(name in str(said[0].message) for name in theirs)
    for name in theirs:
        assert (path / name / "weights").read_text() == "precious"


def test_giving_up_generations_removes_only_ours(tmp_path: Path) -> None:
    path = tmp_path / "c"
    saved(path)
    (path / "checkpoint-00000001" / MARK).unlink()
    with (
        CheckpointDirectory(path, KIND) as directory,
        pytest.raises(RunFailedError, match="gpuscan did not make it; remove it yourself"),
    ):
        directory.go_back_to(None)
    assert generations(path) == [1]


@pytest.mark.parametrize("lock", ["", "pid 4711\n"])
def test_somebody_elses_directory_with_a_file_called_lock_is_refused(tmp_path: Path, lock: str) -> None:
    (tmp_path / "lock").write_text(lock)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds (lock|thesis\.txt), which gpuscan did not write"):
        CheckpointDirectory(tmp_path, KIND)
    assert (tmp_path / "lock").read_text() == lock
    assert names(tmp_path) == ["lock", "thesis.txt"]


@pytest.mark.parametrize("written", [0, 7])
def test_one_killed_before_it_had_signed_is_taken_again(tmp_path: Path, written: int) -> None:
    saved(tmp_path / "c")
    text = (tmp_path / "c/lock").read_text()
    (tmp_path / "c/lock").write_text(text[:written])
    saved(tmp_path / "c")
    assert (tmp_path / "c/lock").read_text() == text


@pytest.mark.parametrize("name", ["lock", "ticks.log"])
@pytest.mark.parametrize("kind", ["link", "second name", "fifo"])
def test_what_was_planted_is_not_written_through(tmp_path: Path, name: str, kind: str) -> None:
    path, victim = tmp_path / "c", tmp_path / "victim"
    saved(path)
    victim.write_text("root's file")
    (path / name).unlink(missing_ok=True)
    if kind == "link":
        (path / name).symlink_to(victim)
    elif kind == "second name":
        (path / name).hardlink_to(victim)
    else:
        os.mkfifo(path / name)

    def opened() -> None:
        CheckpointDirectory(path, KIND).close() if name == "lock" else Log(path / name, Position()).close()

    with pytest.raises(InputError, match=f"{name} is a .*, and gpuscan did not make it"):
        opened()
    assert victim.read_text() == "root's file"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of another user: root")
def test_the_generations_of_another_users_directory_can_be_kept_up_by_root(tmp_path: Path) -> None:
    path = tmp_path / "c"
    saved(path, 2)
    for entry in [path, *path.rglob("*")]:
        os.chown(entry, 65534, 65534)
    saved(path, 2)
    assert len(generations(path)) == 2
    os.chown(path / "checkpoint-00000003", 65533, 65533)
    assert in_child(lambda: saved(path)) == 0
    with pytest.warns(UserWarning, match="belongs to another user"):
        saved(path)
    assert 3 in generations(path)
