"""What the service says: entries with fields for journald, lines where there is none, each once."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.service.journal import Log, Told, datagram
from livesim.service import Noted

NAMES = st.sampled_from(["MESSAGE", "PRIORITY", "GPUSCAN_RULES", "GPUSCAN_NODE"])
VALUES = st.one_of(st.text("a=\n\0é\x1b", max_size=9), st.integers(), st.lists(st.integers(), max_size=3))


def parsed(data: bytes) -> dict[str, str]:
    """Read an entry as journald does (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)."""
    found: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (n,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + n], rest[8 + n :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        found[name.decode()] = value.decode()
        data = rest
    return found


class Journald:
    """A socket where journald's would be, and a standard error that is its own."""

    def __init__(self, tmp_path, *, is_stream=True):
        self.path = tmp_path / "socket"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)
        self.stderr = os.open(tmp_path / "stderr", os.O_CREAT | os.O_RDWR)
        there = os.fstat(self.stderr)
        self.environment = {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"} if is_stream else {}
        self.lines: list[str] = []
        self.log = Log(self.lines.append, self.environment, self.path, self.stderr)

    def entries(self) -> list[dict[str, str]]:
        found = []
        while True:
            try:
                found.append(parsed(self.socket.recv(1 << 20)))
            except BlockingIOError:
                return found

    def close(self):
        self.log.close()
        self.socket.close()
        os.close(self.stderr)


@pytest.fixture
def journald(tmp_path):
    there = Journald(tmp_path)
    yield there
    there.close()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, VALUES, min_size=1))
def test_an_entry_is_read_as_it_was_written(entry: dict[str, Any]):
    as_text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in entry.items()}
    assert parsed(datagram(entry)) == as_text


def test_what_is_decided_goes_to_journald_with_fields_and_to_nobody_else(journald):
    noted = Noted()
    told = Told(noted, journald.log)
    told.note("config", None, {"rules": ["a", "b"], "later": []})
    told.note("control", None, {"order": "drain", "node": 7, "refused": "no such\nnode"})
    told.note("moved", "a", {"moved_pages_to": {"0": 3}})
    told.note("kernel", "a", {"promoted_pages": 3})
    told.note("kernel", None, {"trouble": {"numa-balancing": "it is 0"}})
    assert [kind for kind, _, _ in noted.notes] == ["config", "control", "moved", "kernel", "kernel"]
    config, control, kernel = journald.entries()
    assert config == {
        "MESSAGE": "config: rules ['a', 'b']",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "gpuscan",
        "GPUSCAN_EVENT": "config",
        "GPUSCAN_RULES": '["a", "b"]',
        "GPUSCAN_LATER": "[]",
    }
    assert (control["PRIORITY"], control["GPUSCAN_NODE"]) == ("4", "7")
    assert control["GPUSCAN_REFUSED"] == "no such\nnode"
    assert kernel["PRIORITY"] == "4"
    assert "it is 0" in kernel["MESSAGE"]
    assert journald.lines == []


def test_without_journald_it_is_a_line_each(journald, tmp_path):
    journald.socket.close()
    journald.log.say("running", event="running")  # it has gone meanwhile
    assert journald.lines == ["gpuscan: running"]
    (tmp_path / "other").mkdir()
    for other in (Journald(tmp_path / "other", is_stream=False),):  # a terminal is standard error
        other.log.say("it is odd", is_warning=True)
        assert other.lines == ["gpuscan: note: it is odd"]
        assert other.entries() == []
        other.close()
    lines: list[str] = []
    Log(lines.append, journald.environment, tmp_path / "none", journald.stderr).say("there is no socket")
    assert lines == ["gpuscan: there is no socket"]


def test_a_value_that_is_too_long_is_cut_and_a_full_queue_is_not_waited_for(journald):
    journald.log.say("x" * 100_000)
    (entry,) = journald.entries()
    assert 1_000 < len(entry["MESSAGE"]) < 100_000
    n = 5_000
    for number in range(n):
        journald.log.say(f"{number}")
    assert len(journald.entries()) + len(journald.lines) == n
    assert journald.lines
