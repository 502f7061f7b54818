"""The control socket: the kernel says who speaks, what they may send is short, and nobody is waited for.

One thread: it is polled while the next look is waited for. SO_PEERCRED tells who the other end is,
SO_PEERGROUPS (v4.13) that one's other groups (unix(7)).
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import select
import socket
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.files.writing import json_text, open_kept
from gpuscan.live.stop import Stop
from gpuscan.service.waiting import Answer, Order
from gpuscan.service.wire import ANSWER_BYTES, REQUEST_BYTES, parse_request

_SO_PEERGROUPS = 59
"""include/uapi/asm-generic/socket.h"""
_CREDENTIALS = struct.Struct("3i")
_MOST_PEERS = 16
_DEAF_S = 1.0
"""Where a connection cannot be taken it is not asked for so long: it would be ready at once, for ever."""
_PEER_S = 10.0
"""Whoever has not sent a request, or not taken the answer, after so long is hung up on."""
_GROUPS_BYTES = 1024
"""The most that getsockopt() of Python takes: 256 groups."""


@dataclass(eq=False, slots=True)
class _Peer:
    """A connection: what came, what is to go, and until when it may take."""

    socket: socket.socket
    until_s: float
    may_speak: bool
    received: bytes = b""
    to_send: bytes = b""
    is_ordering: bool = False

    def fileno(self) -> int:
        return self.socket.fileno()


def group_id(name: str) -> int | None:
    """Return the number of a group; None for no group.

    Raises:
        InputError: there is none of that name.
    """
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InputError(
            f"service.group names the group {name!r}, which is not there; make it (groupadd "
            f"--system {name}), or name another one"
        ) from None


class ControlSocket:
    """An :class:`gpuscan.service.waiting.Inbox` that listens on a Unix socket.

    Args:
        path: of the socket; one that nobody listens at is replaced. A file beside it is locked meanwhile.
        gid: whose members may use it, beside root and the service's own user.
        stop: ends or breaks off each wait.

    Raises:
        InputError: it cannot be made, or another service listens there.
    """

    def __init__(self, path: Path, gid: int | None, stop: Stop) -> None:
        self._path, self._gid, self._stop = path, gid, stop
        self._peers: list[_Peer] = []
        self._deaf_until_s = 0.0
        self._lock = -1
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            before = os.umask(0o177)  # whoever may open the lock may hold it
            try:
                self._take_lock()
                self._bind()
            finally:
                os.umask(before)
        except OSError as error:
            self._let_go()
            raise InputError(
                f"cannot listen at {path}: {error.strerror or error}; make its directory writable"
            ) from error
        except BaseException:
            self._let_go()
            raise
        self._inode = path.stat().st_ino

    def _take_lock(self) -> None:
        """Be the only one that may replace the socket: of two that see a dead one each would remove it."""
        self._lock = open_kept(self._path.with_name(f"{self._path.name}.lock"))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(self._path) from None

    def _let_go(self) -> None:
        self._socket.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _bind(self) -> None:
        path = self._path
        _make_room(path)
        self._socket.bind(str(path))
        if self._gid is not None:
            os.chown(path, -1, self._gid)
            path.chmod(0o660)
        self._socket.listen(_MOST_PEERS)
        self._socket.setblocking(False)

    def wait(self, limit_s: float) -> list[Order]:
        """See :class:`gpuscan.service.waiting.Inbox`."""
        until_s = time.monotonic() + limit_s
        orders: list[Order] = []
        while not orders and not self._stop.is_set:
            left_s = max(0.0, until_s - time.monotonic())
            if self._peers:
                left_s = min(left_s, 1.0)
            woken = self._poll(left_s, orders)
            self._hang_up_on_the_slow()
            if woken or time.monotonic() >= until_s:
                break
        return orders

    def _poll(self, limit_s: float, orders: list[Order]) -> bool:
        """Wait for anything and take it in; return whether somebody woke whoever waits."""
        poll = select.poll()
        poll.register(self._stop.fd, select.POLLIN)
        if len(self._peers) < _MOST_PEERS and time.monotonic() >= self._deaf_until_s:
            poll.register(self._socket, select.POLLIN)
        peers = {peer.fileno(): peer for peer in self._peers}
        for fd, peer in peers.items():
            poll.register(fd, select.POLLOUT if peer.to_send else select.POLLIN)
        woken = False
        for fd, _ in poll.poll(limit_s * 1000):
            if fd == self._stop.fd:
                self._stop.slept()
                woken = True
            elif fd == self._socket.fileno():
                self._accept()
            else:
                self._go_on(peers[fd], orders)
        return woken

    def _accept(self) -> None:
        self._deaf_until_s = time.monotonic() + _DEAF_S
        with contextlib.suppress(OSError):  # it has gone again, or there are no descriptors left
            connection, _ = self._socket.accept()
            self._deaf_until_s = 0.0
            connection.setblocking(False)
            may_speak = self._may_speak(connection)
            self._peers.append(_Peer(connection, time.monotonic() + _PEER_S, may_speak))

    def _may_speak(self, connection: socket.socket) -> bool:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, gid = _CREDENTIALS.unpack(credentials)
        if uid in (0, os.geteuid()):
            return True
        return self._gid is not None and self._gid in (gid, *_groups_of(connection))

    def _go_on(self, peer: _Peer, orders: list[Order]) -> None:
        try:
            if peer.to_send:
                n = peer.socket.send(peer.to_send)
                peer.to_send = peer.to_send[n:]
                if not peer.to_send:
                    self._drop(peer)
                return
            part = peer.socket.recv(REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._drop(peer)
            return
        if not part or peer.is_ordering:  # it hung up, or says more than it was asked for
            self._drop(peer)
            return
        peer.received += part
        if len(peer.received) > REQUEST_BYTES:
            self._answer(peer, {"error": f"a request has up to {REQUEST_BYTES} bytes; send a shorter one"})
        elif b"\n" in peer.received:
            self._order(peer, orders)

    def _order(self, peer: _Peer, orders: list[Order]) -> None:
        if not peer.may_speak:
            self._answer(peer, {"error": "only root, and members of service.group, may; use sudo"})
            return
        try:
            name, nid = parse_request(peer.received.partition(b"\n")[0])
        except InputError as error:
            self._answer(peer, {"error": str(error)})
            return
        peer.is_ordering = True

        def answer(document: Answer) -> None:
            self._answer(peer, document)

        orders.append(Order(name, answer, nid))

    def _answer(self, peer: _Peer, document: dict[str, Any]) -> None:
        """Let an answer go out, as far as the other end takes it at once; the rest while it is waited."""
        line = json_text(document, indent=None).encode() + b"\n"
        if len(line) > ANSWER_BYTES:
            line = b'{"schema": 1, "error": "the answer is too long; ask for status, not dump"}\n'
        peer.to_send, peer.until_s = line, time.monotonic() + _PEER_S
        if peer in self._peers:
            self._go_on(peer, [])

    def _hang_up_on_the_slow(self) -> None:
        now_s = time.monotonic()
        # One whose order waits is not slow: the service is.
        waiting = [peer for peer in self._peers if not peer.is_ordering or peer.to_send]
        for peer in [peer for peer in waiting if now_s > peer.until_s]:
            self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers.remove(peer)
        peer.socket.close()

    def close(self) -> None:
        """Listen no more; the socket's file goes, if it is still this one's."""
        for peer in list(self._peers):
            self._drop(peer)
        with contextlib.suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        self._let_go()


def _groups_of(connection: socket.socket) -> list[int]:
    with contextlib.suppress(OSError):  # before v4.13, or too many
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
        return list(struct.unpack(f"{len(packed) // 4}I", packed))
    return []


def _make_room(path: Path) -> None:
    """Remove a socket that nobody listens at any more, as a service that was killed leaves one.

    Raises:
        InputError: somebody listens there, or it is something else.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{path} is there and no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(1.0)
        try:
            trial.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except (TimeoutError, BlockingIOError):  # many wait there already
            pass
    raise _taken(path)


def _taken(path: Path) -> InputError:
    return InputError(f"another service listens at {path}; end that one first")
