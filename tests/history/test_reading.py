"""Reading a history: what is no whole one of this version is told apart; hostile ones end in a sentence."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.history.course import Course, course_of
from gpuscan.history.database import History
from gpuscan.history.reading import read_notes

ROOM = 4 << 20
_S = 10**9


def kept(path: Path, n: int = 3) -> Path:
    history = History(path, ROOM)
    for i in range(n):
        history.note("control", None, {"order": "status", "node": i, "refused": "x" * 500})
    history.close()
    return path


def changed(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(kept(path), isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)
    return path


def said(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        course_of(path)
    with pytest.raises(InputError):
        list(read_notes(path, 0))
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_one_of_a_later_version_is_told(tmp_path: Path) -> None:
    path = changed(tmp_path / "h.sqlite", "PRAGMA user_version = 7")
    assert "is of version 7, and 1 is known here; read it with the gpuscan that wrote it" in said(path)


def test_one_that_is_cut_short_is_told(tmp_path: Path) -> None:
    path = kept(tmp_path / "h.sqlite", 200)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 3 * 4096)
    assert f"is cut short: {size - 3 * 4096:,} bytes are there of {size:,}" in said(path)
    with path.open("r+b") as file:
        file.truncate(50)
    assert "is cut short: 50 bytes are there of " in said(path)


def test_what_is_no_history_is_told(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"no database" * 100)
    assert "is no history: it is no database of SQLite" in said(text)
    empty = tmp_path / "empty"
    empty.touch()
    assert "has nothing in it; the service that keeps it has only begun" in said(empty)
    other = tmp_path / "other"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE note (id INTEGER, t_ns, kind, policy, body)")
        database.execute("PRAGMA user_version = 1")
    assert "is no history of gpuscan's, but another database" in said(other)
    assert "there is no history at" in said(tmp_path / "none")


def test_a_view_in_the_place_of_the_notes_does_not_run(tmp_path: Path) -> None:
    """It would have no end."""
    path = changed(
        tmp_path / "h.sqlite",
        "DROP TABLE note",
        "CREATE VIEW note AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
        "SELECT id, id AS t_ns, 'moved' AS kind, 'x' AS policy, '{}' AS body FROM n",
    )
    assert "is no history of gpuscan's, but another database" in said(path)


@pytest.mark.parametrize(
    "change",
    [
        "body = '[]'",
        "body = 7",
        "body = '" + "[" * 90_000 + "'",
        "body = CAST(x'ff' AS TEXT)",
        "body = zeroblob(5000000)",
        "kind = x'00'",
        "policy = x'00'",
        "t_ns = 'soon'",
    ],
)
def test_notes_of_another_form_end_in_a_sentence(tmp_path: Path, change: str) -> None:
    assert "the history" in said(changed(tmp_path / "h.sqlite", f"UPDATE note SET {change}"))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("moved", '{"moved_pages_to": {"0": -1}, "demoted_pages": 0, "refused": {}}'),
        ("moved", '{"moved_pages_to": {"x": 1}, "demoted_pages": 0, "refused": {}}'),
        ("moved", '{"moved_pages_to": {"0": 1}, "demoted_pages": 2, "refused": {}}'),
        ("moved", '{"moved_pages_to": {"0": 1}, "demoted_pages": 0, "refused": {"a": 1e9}}'),
        ("moved", '{"moved_pages_to": {"0": 1' + "0" * 400 + '}, "demoted_pages": 0, "refused": {}}'),
        ("moved", "{}"),
        ("state", '{"cpu_s": 1, "within_s": -1, "cpu_ceiling": 0.02, "resident_pages": {}}'),
        ("state", '{"cpu_s": 1, "within_s": 1, "cpu_ceiling": 0.02, "resident_pages": []}'),
    ],
)
def test_figures_that_make_no_sense_end_in_a_sentence(tmp_path: Path, kind: str, body: str) -> None:
    path = changed(
        tmp_path / "h.sqlite", f"UPDATE note SET kind = '{kind}', policy = 'db', body = '{body}' WHERE id = 2"
    )
    with pytest.raises(InputError, match="has a note that gpuscan does not write"):
        course_of(path)


def test_one_that_is_being_written_is_read_as_far_as_it_is_flushed(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    history = History(path, ROOM)
    history.note("start", None, {})
    history.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO note (t_ns, kind, policy, body) VALUES (1, 'x', NULL, '{}')")
        course = course_of(path)
        assert course is not None
        assert (course.n_notes, course.is_open) == (1, True)
        writer.execute("ROLLBACK")
    history.close()


def test_a_copy_with_its_log_is_read(tmp_path: Path) -> None:
    """As a kill leaves it, or ``cp`` beside a service that runs."""
    path = tmp_path / "h.sqlite"
    history = History(path, ROOM)
    history.note("start", None, {})
    history.flush()
    (tmp_path / "copy").mkdir()
    for each in tmp_path.glob("h.sqlite*"):
        if not each.name.endswith("-shm"):
            shutil.copy(each, tmp_path / "copy")
    assert [note["kind"] for note in read_notes(tmp_path / "copy" / "h.sqlite", 0)] == ["start"]
    history.close()


def note(t_s: float, kind: str, policy: str | None = None, **body: object) -> dict[str, object]:
    return {"t_ns": int(t_s * _S), "kind": kind, "policy": policy, **body}


def moved(t_s: float, rule: str, to: dict[str, int], down: int = 0, **refused: int) -> dict[str, object]:
    return note(t_s, "moved", rule, moved_pages_to=to, demoted_pages=down, refused=refused)


def test_a_course_sums_by_stretch_and_knows_when_nobody_ran() -> None:
    course = Course(1000 * _S, 1100 * _S)
    assert (course.stretch_ns, course.n_stretches) == (10 * _S, 11)
    for each in (
        note(1000, "start"),
        note(1003, "process", "db", what="came", pid=7, command="x"),
        moved(1005, "db", {"0": 5, "1": 3}, 3, busy=2),
        note(1031, "state", cpu_s=0.5, within_s=30, cpu_ceiling=0.02, resident_pages={"0": 9}),
        note(1035, "stop"),
        note(1070, "start"),  # and was killed
        moved(1075, "web", {"0": 1}),
        note(1090, "start"),
        note(1100, "something new", gold=1),
        moved(2000, "db", {"0": 1}),  # it is being written
    ):
        course.take(each)
    assert course.moved_to == {(0, 0): 5, (1, 0): 3, (0, 7): 1, (0, 10): 1}
    assert {key: n for key, n in course.moved.items() if n} == {
        ("db", "up", 0): 5,
        ("db", "down", 0): 3,
        ("web", "up", 7): 1,
        ("db", "up", 10): 1,
    }
    assert course.refused == {("busy", 0): 2}
    assert course.ran == {0, 1, 2, 3, 7, 9, 10}
    assert (course.cpu_s, course.within_s, course.resident) == ({3: 0.5}, {3: 30}, {(0, 3): 9})
    assert course.came == {"db": 1}
    assert (course.n_starts, course.n_events, course.is_open) == (3, 4, True)


def test_a_course_of_years_has_as_few_stretches_and_one_set_back_stays_within() -> None:
    course = Course(0, 10**18)
    assert course.n_stretches <= 240
    for t_s in (5e8, 1e9, 3.0, 9e9):
        course.take(note(t_s, "start"))
    assert course.ran <= set(range(course.n_stretches))


def root_page(path: Path) -> tuple[bytearray, int]:
    """Return the bytes of a history without a log, and where the root page of its notes begins."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'note'").fetchone()
    return bytearray(path.read_bytes()), (root - 1) * 4096


@pytest.mark.timeout(60)
def test_pages_that_point_to_one_another_without_number_end(tmp_path: Path) -> None:
    """Five levels of 300 cells, each to the same page: 2e12 leaves in a few pages (fileformat.html, 1.6)."""
    path = changed(tmp_path / "h.sqlite", "DROP INDEX note_t")
    content, root = root_page(path)
    leaf = bytes(content[root : root + 4096])
    first = len(content) // 4096 + 1
    levels = []
    for child in range(first, first + 5):
        level = bytearray(4096)
        level[0] = 5
        level[3:5] = (300).to_bytes(2, "big")
        level[5:7] = (4096 - 300 * 5).to_bytes(2, "big")
        level[8:12] = child.to_bytes(4, "big")
        for cell in range(300):
            at = 4096 - 5 * (cell + 1)
            level[at : at + 5] = child.to_bytes(4, "big") + b"\1"
            level[12 + 2 * cell : 14 + 2 * cell] = at.to_bytes(2, "big")
        levels.append(bytes(level))
    content[root : root + 4096] = levels[0]
    content += b"".join(levels[1:]) + leaf
    content[28:32] = (len(content) // 4096).to_bytes(4, "big")
    path.write_bytes(content)
    assert "is damaged: reading it has no end" in said(path)
    with pytest.raises(InputError, match="is damaged"):
        list(read_notes(path, 1 << 62))  # later than all, so no row is ever given


def test_rows_that_do_not_ascend_end_in_a_sentence(tmp_path: Path) -> None:
    path = kept(tmp_path / "h.sqlite")
    content, root = root_page(path)
    pointers = slice(root + 8, root + 10), slice(root + 12, root + 14)
    content[pointers[0]], content[pointers[1]] = content[pointers[1]], content[pointers[0]]
    path.write_bytes(content)
    assert "is damaged: its notes are out of order" in said(path)


def test_a_note_without_a_body_ends_in_a_sentence(tmp_path: Path) -> None:
    path = changed(
        tmp_path / "h.sqlite",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'body TEXT NOT NULL', 'body TEXT') WHERE name = 'note'",
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE note SET body = NULL WHERE id = 2")
        database.execute("PRAGMA writable_schema = ON")
        database.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'body TEXT', 'body TEXT NOT NULL') "
            "WHERE name = 'note'"
        )
    assert "is damaged" in said(path)


def test_the_command_refuses_what_makes_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed(tmp_path / "h.sqlite", "UPDATE note SET kind = 'moved', policy = 'db', body = '{}'")
    assert main(["history", "--history", str(path)]) == 2
    assert "is damaged: it has a note that gpuscan does not write" in capsys.readouterr().err
