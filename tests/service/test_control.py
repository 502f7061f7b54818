"""The control socket: who may speak, what is refused, and that nobody can hold it up."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.cli.main import main
from gpuscan.live.stop import Stop
from gpuscan.service import control
from gpuscan.service.client import ask
from gpuscan.service.control import ControlSocket, group_id
from gpuscan.service.orders import Orders
from gpuscan.service.wire import REQUEST_BYTES, parse_request

IS_ROOT = os.geteuid() == 0
NOBODY = 65_534


class Served:
    """A service that notes what it is told."""

    def __init__(self):
        self.done = []
        self.over = False

    def pause(self):
        self.done.append("pause")

    def resume(self):
        self.done.append("resume")

    def reload(self):
        raise InputError("it is broken; mend it")

    def drain(self, nid):
        self.done.append(f"drain {nid}")

    def is_over(self):
        return self.over

    def alive(self):
        pass

    def now_ns(self):
        return time.monotonic_ns()

    def told(self, order, nid, refused):
        self.done.append(f"told {order}{': ' + refused if refused else ''}")

    def document(self, *, whole):
        return {"state": "running", "whole": whole, "done": list(self.done)}


@contextlib.contextmanager
def listening(place, gid=None):
    """Yield what is served at a socket until the block ends, by a thread that does nothing else."""
    stop = Stop()
    inbox = ControlSocket(place, gid, stop)
    served = Served()
    orders = Orders(inbox, served)

    def serve():
        while not served.over:
            orders.hear(0.2)
            orders.carry_out()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield served
    finally:
        served.over = True
        stop.set()
        thread.join()
        inbox.close()
        stop.close()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "run/service.sock"


def test_orders_are_answered_and_refusals_said(place):
    with listening(place) as served:
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert ask(place, "status")["whole"] is False
        assert ask(place, "dump")["whole"] is True
        ask(place, "pause")
        ask(place, "drain", 2)
        with pytest.raises(RunFailedError, match="it is broken; mend it"):
            ask(place, "reload")
        assert served.done == [
            *("pause", "told pause", "drain 2", "told drain"),
            "told reload: it is broken; mend it",
        ]
    assert not place.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[]\n", "is a table of"),
        (b"{}\n", "there is no such order; send one of status"),
        (b'{"order": "stop"}\n', "there is no such order"),
        (b'{"order": ["drain"]}\n', "there is no such order"),
        (b'{"order": "drain", "node": true}\n', "node is no number of a node"),
        (b'{"order": "drain", "node": 1e9}\n', "node is no number of a node"),
        (b'{"order": "status", "more": 1}\n', "is a table of"),
        (b"\xff\xfe\n", "a request is cut short or damaged"),
        (b"[" * 3000 + b"\n", "a request is"),
        (b"x" * (REQUEST_BYTES + 1), f"a request has up to {REQUEST_BYTES} bytes"),
    ],
)
def test_what_is_no_order_is_said(place, line, said):
    with listening(place), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(place))
        connection.sendall(line)
        answer = json.loads(connection.makefile().readline())
        assert said in answer["error"]


def test_a_request_may_not_be_what_python_cannot_hash():
    for line in (b'{"order": {}}', b'{"order": []}', b'{"order": null}'):
        with pytest.raises(InputError, match="there is no such order"):
            parse_request(line)


def test_whoever_says_nothing_holds_up_nobody(place, monkeypatch):
    monkeypatch.setattr(control, "_PEER_S", 0.3)
    with listening(place), contextlib.ExitStack() as stack:
        silent = []
        for _ in range(20):  # more than are heard at a time
            each = stack.enter_context(socket.socket(socket.AF_UNIX))
            each.connect(str(place))
            each.settimeout(20)
            silent.append(each)
        assert ask(place, "status", limit_s=20)["state"] == "running"
        assert silent[0].recv(10) == b""


def test_whoever_does_not_take_the_answer_is_hung_up_on(place, monkeypatch):
    monkeypatch.setattr(control, "_PEER_S", 0.3)
    with listening(place) as served, socket.socket(socket.AF_UNIX) as deaf:
        served.done.append("x" * (4 << 20))
        deaf.connect(str(place))
        deaf.sendall(b'{"order": "dump"}\n')
        time.sleep(0.1)
        served.done.clear()
        assert ask(place, "status", limit_s=20)["done"] == []


def test_whoever_ordered_is_answered_however_long_the_service_takes(place, monkeypatch):
    monkeypatch.setattr(control, "_PEER_S", 0.05)
    stop = Stop()
    inbox = ControlSocket(place, None, stop)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(place))
        connection.sendall(b'{"order": "pause"}\n')
        orders: list[Any] = []
        while not orders:
            orders = inbox.wait(0.1)
        time.sleep(0.1)  # a look
        assert inbox.wait(0.0) == []
        orders[0].answer({"state": "paused"})
        assert json.loads(connection.makefile().readline())["state"] == "paused"
    inbox.close()
    stop.close()


def test_what_is_too_long_to_answer_is_said(place, monkeypatch):
    monkeypatch.setattr(control, "ANSWER_BYTES", 1000)
    with listening(place) as served:
        served.done.append("x" * 2000)
        with pytest.raises(RunFailedError, match="the answer is too long"):
            ask(place, "dump")


def test_one_that_was_killed_leaves_a_socket_that_is_replaced(place):
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    with listening(place):
        assert ask(place, "status")["state"] == "running"
        with pytest.raises(InputError, match="another service listens at"):
            ControlSocket(place, None, Stop())
    place.write_text("")
    with pytest.raises(InputError, match="is there and no socket; move it away"):
        ControlSocket(place, None, Stop())


def test_of_two_that_start_at_once_one_listens(place, monkeypatch):
    """Between the trial of a dead socket and its removal another service begins to listen there."""
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    others = []
    make_room = control._make_room

    def while_another_starts(path):
        monkeypatch.setattr(control, "_make_room", make_room)
        with contextlib.suppress(InputError):
            others.append(ControlSocket(path, None, Stop()))
        path.unlink()  # as it was found

    monkeypatch.setattr(control, "_make_room", while_another_starts)
    inbox = ControlSocket(place, None, Stop())
    assert others == []
    lock = place.with_name("service.sock.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600  # whoever may open it may hold it
    inbox.close()
    assert not place.exists()
    ControlSocket(place, None, Stop()).close()  # the lock went with it


_AS_NOBODY = r"""
import os, socket, sys
os.setgroups([int(each) for each in sys.argv[2].split(",") if each])
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(b'{"order": "status"}\n')
    print(connection.makefile().readline())
"""


def as_nobody(place, groups=""):
    command = [sys.executable, "-S", "-c", _AS_NOBODY, str(place), groups]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr[-500:]


@pytest.mark.skipif(not IS_ROOT, reason="only root can be somebody else")
def test_others_may_not_speak_unless_they_are_of_the_group(tmp_path_factory):
    top = tmp_path_factory.mktemp("control")
    for parent in (top, *list(top.parents)[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    with listening(top / "a.sock"):
        assert "PermissionError" in as_nobody(top / "a.sock")
        (top / "a.sock").chmod(0o666)  # the file's mode is not what decides
        assert "only root, and members of service.group, may" in as_nobody(top / "a.sock")
    with listening(top / "b.sock", 4_242):
        assert (top / "b.sock").stat().st_gid == 4_242
        assert json.loads(as_nobody(top / "b.sock", "4242,7"))["state"] == "running"
        assert "PermissionError" in as_nobody(top / "b.sock", "7")


def test_a_group_that_is_not_there():
    assert group_id("") is None
    assert isinstance(group_id("daemon"), int)
    with pytest.raises(InputError, match=r"service.group names the group 'no-such-group'"):
        group_id("no-such-group")


def test_the_command_says_where_nobody_listens(capsys, tmp_path):
    assert main(["ctl", "status", "--socket", str(tmp_path / "none.sock")]) == 2
    assert "no service listens at" in capsys.readouterr().err
    assert main(["ctl", "drain", "--socket", "x"]) == 2
    assert "drain takes the number of a node, or none" in capsys.readouterr().err
    assert main(["ctl", "pause", "2"]) == 2
    assert "pause takes no node; leave 2 out" in capsys.readouterr().err


def test_a_path_that_is_too_long(tmp_path):
    with pytest.raises(InputError, match="cannot listen at"):
        ControlSocket(Path(tmp_path, "x" * 200), None, Stop())
