"""The one writer: whole or absent, and nothing of others is touched, whatever it is called."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crashes import fork, in_child
from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.files import owned, writing
from gpuscan.files.owned import MARK, Temporary, opened, remove_owned
from gpuscan.files.writing import (
    Contents,
    check_file,
    check_place,
    new_directory,
    new_file,
    open_kept,
    write_file,
    write_json,
)

CONTENTS = Contents("report", ("plan-*",))


def write(path: Path, text: str = "new", *, force: bool = True) -> None:
    with new_directory(path, CONTENTS, force=force) as directory:
        for name in ("report", "plan-1"):
            with writing.create(directory / name) as file:
                file.write(text.encode())


def read(path: Path) -> str:
    return (path / "report").read_text()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed(task: Callable[[], None], at: str) -> None:
    """Run ``task`` in a child that SIGKILL ends before it calls a function of ``gpuscan.files.writing``."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        setattr(writing, at, die)
        task()

    assert in_child(run) == -signal.SIGKILL


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a file system that has no RENAME_EXCHANGE."""
    monkeypatch.setattr(writing, "_exchange", lambda *_: False)


USERS_NAMES = [
    "results.old-20250601",
    "results.tmp-9999999999",
    "results.tmp-1",
    "results.old-2024",
    "results.gpuscan",
    "results.gpuscan-notes",
    "results.gpuscan-" + "0" * 18 + "-1-1-" + "0" * 12,
]


@pytest.mark.filterwarnings("ignore:left as they are")
@pytest.mark.parametrize("name", USERS_NAMES)
@pytest.mark.parametrize("kind", ["directory", "file", "empty file", "link", "fifo"])
@pytest.mark.parametrize("has_earlier", [False, True])
def test_what_users_have_beside_it_stays(tmp_path: Path, name: str, kind: str, has_earlier: bool) -> None:
    theirs, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "report").write_text("precious")
    if kind == "directory":
        theirs.mkdir()
        (theirs / "thesis.txt").write_text("precious")
    elif kind == "link":
        theirs.symlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(theirs)
    else:
        theirs.write_text("" if kind == "empty file" else "precious")
    before = theirs.lstat()
    if has_earlier:
        write(tmp_path / "results", "earlier")
    write(tmp_path / "results")
    assert read(tmp_path / "results") == "new"
    assert theirs.lstat().st_ino == before.st_ino
    assert theirs.lstat().st_mtime_ns == before.st_mtime_ns
    assert read(elsewhere) == "precious"
    assert names(tmp_path) == sorted(["elsewhere", "results", name])


def test_what_looks_like_ours_and_is_not_is_named_once(tmp_path: Path) -> None:
    for name in ("r.gpuscan-notes", "r.gpuscan-2025"):
        (tmp_path / name).mkdir()
    with pytest.warns(
        UserWarning, match=r"left as they are in .*: r\.gpuscan-2025 .*, r\.gpuscan-notes"
    ) as said:
        write(tmp_path / "r")
    assert len(said) == 1


def left_by_a_killed_writer(path: Path, at: str = "sync") -> str:
    """Let a writer of ``path`` be killed; return the name of what it left."""
    before = set(names(path.parent))
    killed(lambda: write(path), at)
    (left,) = set(names(path.parent)) - before
    return left


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    left = left_by_a_killed_writer(out)
    assert names(tmp_path / left) == [MARK, "new"]
    assert stat.S_IMODE((tmp_path / left).stat().st_mode) == 0o700
    write(tmp_path / "other")
    assert left in names(tmp_path)  # of another name: whoever writes that will
    write(out)
    assert names(tmp_path) == ["other", "out"]


def test_a_writer_at_work_is_not_swept(tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    def wait(directory: Path) -> None:
        ready.touch()
        time.sleep(60)

    def slow() -> None:
        writing.sync = wait
        write(tmp_path / "out", "slow")

    pid = fork(slow)
    try:
        while not ready.exists():
            time.sleep(0.01)
        (left,) = (name for name in names(tmp_path) if name.startswith("out."))
        write(tmp_path / "out", "quick")
        assert left in names(tmp_path)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    write(tmp_path / "out", "last")
    assert names(tmp_path) == ["out", "ready"]


@pytest.mark.parametrize(
    ("what", "becomes", "why"),
    [
        ("the process number was given out again", {"start": "1"}, ""),
        ("an earlier boot", {"boot": "000000"}, ""),
        ("another host", {"host": "000000", "boot": "000000"}, "of another host"),
        ("another PID namespace", {"namespace": "000000"}, "of another host or container"),
    ],
)
def test_whose_maker_is_gone_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, becomes: dict[str, str], why: str
) -> None:
    host, boot, namespace = owned._here()
    here = {"host": host, "boot": boot, "namespace": namespace, **becomes}
    with monkeypatch.context() as patch, opened(tmp_path) as parent:
        patch.setattr(owned, "_here", lambda: (here["host"], here["boot"], here["namespace"]))
        if "start" in becomes:
            patch.setattr(owned, "_start_ticks", lambda _: int(becomes["start"]))
        left = Temporary.make("out.gpuscan", parent).name
    if why:
        with pytest.warns(UserWarning, match=re.escape(why)):
            write(tmp_path / "out")
    else:
        write(tmp_path / "out")
    assert names(tmp_path) == (["out", left] if why else ["out"]), what


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of another user: root")
def test_what_belongs_to_another_user_stays(tmp_path: Path) -> None:
    left = left_by_a_killed_writer(tmp_path / "out")
    os.chown(tmp_path / left, 65534, 65534)
    with pytest.warns(UserWarning, match="belongs to another user"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["out", left]


@pytest.mark.parametrize("mark", [None, "somebody's", "link", "fifo"])
def test_a_mark_that_is_not_ours_protects(tmp_path: Path, mark: str | None) -> None:
    left = left_by_a_killed_writer(tmp_path / "out")
    place = tmp_path / left / MARK
    (tmp_path / "copy").write_text(place.read_text())
    place.unlink()
    if mark == "link":
        place.symlink_to(tmp_path / "copy")
    elif mark == "fifo":
        os.mkfifo(place)
    elif mark:
        place.write_text(mark)
    with pytest.warns(UserWarning, match="gpuscan did not make it"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["copy", "out", left]


@pytest.mark.parametrize("written", [0, 10])
def test_one_killed_before_its_mark_was_whole_is_swept(tmp_path: Path, written: int) -> None:
    left = left_by_a_killed_writer(tmp_path / "out")
    text = (tmp_path / left / MARK).read_text()
    (tmp_path / left / "new/report").unlink()
    (tmp_path / left / "new/plan-1").unlink()
    (tmp_path / left / "new").rmdir()
    (tmp_path / left / MARK).write_text(text[:written])
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis").write_text("precious")
    left = left_by_a_killed_writer(tmp_path / "out")
    (tmp_path / left / "new/plan-2").symlink_to(outside)
    (tmp_path / left / "old").symlink_to(outside)
    write(tmp_path / "out")
    assert names(tmp_path) == ["out", "outside"]
    assert names(outside) == ["thesis"]


def test_a_link_in_the_place_of_a_directory_of_ours_is_left(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "planted").symlink_to(tmp_path / "ours")
    with opened(tmp_path) as handle:
        assert "no directory of gpuscan's" in remove_owned("planted", "text", dir_fd=handle)
        assert remove_owned("ours", "text", dir_fd=handle) == ""


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("at", ["_take_name", "_sync_name"])
def test_killed_at_the_end_one_of_the_two_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, at: str
) -> None:
    if not exchanges:
        without_exchange(monkeypatch)
    out = tmp_path / "out"
    write(out, "earlier")
    killed(lambda: write(out, "new"), at)
    assert read(out) == ("earlier" if at == "_take_name" else "new")
    with pytest.raises(InputError, match="holds an earlier result"):
        write(out, force=False)
    assert names(tmp_path) == ["out"]


def put_aside(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a writer be killed that had put the earlier result aside, on a file system without exchange."""
    without_exchange(monkeypatch)
    write(out, "earlier")

    def once() -> None:
        rename, n = os.rename, 0

        def second_dies(*args: str, **handles: Any) -> None:
            nonlocal n
            n += 1
            if n == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*args, **handles)

        os.rename = second_dies  # type: ignore[assignment]
        write(out, "new")

    assert in_child(once) == -signal.SIGKILL
    assert not out.exists()


def test_a_result_that_a_killed_writer_put_aside_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    put_aside(out, monkeypatch)
    with pytest.raises(InputError, match="holds an earlier result"):
        write(out, force=False)
    assert read(out) == "earlier"
    assert names(tmp_path) == ["out"]


def test_one_put_aside_whose_name_was_taken_since_is_left_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    put_aside(out, monkeypatch)
    (left,) = names(tmp_path)
    out.mkdir()
    with pytest.warns(UserWarning, match="the earlier out is in it, as old"):
        write(out, "newest")
    assert (read(out), read(tmp_path / left / "old")) == ("newest", "earlier")


@pytest.mark.parametrize("exchanges", [True, False])
def test_the_earlier_one_is_intact_when_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    out = tmp_path / "out"
    write(out, "earlier")
    if exchanges:
        monkeypatch.setattr(writing, "_exchange", full_disk)
    else:
        without_exchange(monkeypatch)
        rename = os.rename

        def refuse_the_new_one(name: str, *args: str, **handles: Any) -> None:
            if name == "new":
                full_disk()
            rename(name, *args, **handles)

        monkeypatch.setattr(os, "rename", refuse_the_new_one)
    with pytest.raises(RunFailedError, match=r"cannot write .*out: No space left on device"):
        write(out)
    assert read(out) == "earlier"
    assert names(tmp_path) == ["out"]


def test_what_came_to_the_name_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def thesis_arrives() -> None:
        with new_directory(out, CONTENTS) as directory:
            writing.create(directory / "report").close()
            out.mkdir()
            (out / "thesis").write_text("precious")

    with pytest.raises(RunFailedError, match="something came there meanwhile"):
        thesis_arrives()
    assert names(out) == ["thesis"]
    assert names(tmp_path) == ["out"]


def test_a_directory_with_a_result_and_more_in_it_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out)
    (out / "notes.txt").write_text("precious")
    for ask in (lambda: write(out), lambda: check_place(out, CONTENTS, force=True)):
        with pytest.raises(InputError, match=r"holds notes\.txt, which gpuscan did not write"):
            ask()
    assert names(out) == ["notes.txt", "plan-1", "report"]


def plant(path: Path, kind: str, victim: Path) -> None:
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(victim.parent / "made-by-root")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "second name":
        path.hardlink_to(victim)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory"])
def test_a_name_that_is_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("root's file")
    plant(tmp_path / "x.json", kind, victim)
    for ask in (lambda: write_json(tmp_path / "x.json", {}), lambda: check_file(tmp_path / "x.json")):
        with pytest.raises(InputError, match=r"x\.json is a .*, not a file; give another place"):
            ask()
    assert victim.read_text() == "root's file"
    assert names(tmp_path) == ["victim", "x.json"]
    if kind != "directory":
        with pytest.raises(InputError, match="not a directory; give another place"):
            write(tmp_path / "x.json")


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "second name", "directory"])
def test_a_file_that_stays_is_not_opened_through_what_was_planted(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("root's file")
    plant(tmp_path / "lock", kind, victim)
    with pytest.raises(InputError, match="and gpuscan did not make it; give another place"):
        open_kept(tmp_path / "lock")
    assert victim.read_text() == "root's file"
    assert "made-by-root" not in names(tmp_path)


def test_a_file_is_private_until_it_has_its_name_and_then_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with new_file(tmp_path / "x") as file:
            (beside,) = tmp_path.iterdir()
            assert stat.S_IMODE(beside.stat().st_mode) == 0o700
            file.write(b"1")
        with new_directory(tmp_path / "d", CONTENTS) as directory:
            writing.create(directory / "report").close()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"x": 0o640, "d": 0o750, "report": 0o640}


def test_a_planted_name_in_a_directory_under_way_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("root's file")
    (tmp_path / "plan").symlink_to(victim)
    with pytest.raises(FileExistsError):
        writing.create(tmp_path / "plan")
    assert victim.read_text() == "root's file"


def test_a_directory_under_way_is_the_same_whatever_becomes_of_its_name(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()

    def moved() -> None:
        with new_directory(tmp_path / "out", CONTENTS) as directory:
            (beside,) = (path for path in tmp_path.iterdir() if path.name.startswith("out."))
            beside.rename(tmp_path / "moved")
            beside.symlink_to(trap)
            writing.create(directory / "report").close()

    with pytest.warns(UserWarning, match="left as they are"):
        moved()
    assert names(trap) == []
    assert names(tmp_path / "out") == ["report"]


@pytest.mark.parametrize("name", ["n" * 200, "ü" * 100, "a b\nc", "-rf", "x[1]*"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    left_by_a_killed_writer(tmp_path / name)
    write(tmp_path / name)
    write_json(tmp_path / f"{name}j", {})
    assert names(tmp_path) == [name, f"{name}j"]


def test_a_json_file_keeps_its_earlier_text_when_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "rename", full_disk)
    with pytest.raises(RunFailedError, match=r"x\.json: No space left on device, so nothing was left there"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"schema": 1, "a": 1}
    assert names(tmp_path) == ["x.json"]


def test_a_missing_directory_is_not_made(tmp_path: Path) -> None:
    for ask in (lambda: write_file(tmp_path / "no/x", ""), lambda: write(tmp_path / "no/out")):
        with pytest.raises(InputError, match=r"no is not there; make it, or give another place"):
            ask()


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_parent_that_another_took_the_place_of_gets_nothing(tmp_path: Path, what: str) -> None:
    """Nor does the one that was: what is checked is what is renamed in."""
    parent = tmp_path / "parent"
    parent.mkdir()
    name = parent / "out"

    def write() -> None:
        with new_file(name) if what == "file" else new_directory(name, CONTENTS):
            parent.rename(tmp_path / "moved")
            parent.mkdir()

    with pytest.raises(RunFailedError, match="is another directory than before"):
        write()
    assert list(parent.iterdir()) == list((tmp_path / "moved").iterdir()) == []
