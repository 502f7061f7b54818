"""The other end of the control socket: asks once, and returns the answer."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.service.wire import ANSWER_BYTES, parse_answer, request_line

ANSWER_S = 130.0
"""A look may be under way, and orders come after it: the longest pause, and as long again."""

_AGAIN_S = 0.05


def _connect(connection: socket.socket, path: str, limit_s: float) -> None:
    """Connect, also where so many wait there that the kernel says to try again (connect(2), EAGAIN)."""
    connection.settimeout(limit_s)
    until_s = time.monotonic() + limit_s
    while True:
        try:
            connection.connect(path)
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise
            time.sleep(_AGAIN_S)
        else:
            return


def ask(path: Path, order: str, nid: int | None = None, *, limit_s: float = ANSWER_S) -> dict[str, Any]:
    """Send an order to the service that listens at a socket, and return what it answers.

    Raises:
        InputError: nobody listens there, or this user may not ask.
        RunFailedError: it was refused, or no answer came.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            _connect(connection, str(path), limit_s)
        except PermissionError:
            raise InputError(
                f"{path} may not be used by this user; use sudo, or be a member of the group of the service"
            ) from None
        except OSError as error:
            raise InputError(
                f"no service listens at {path} ({error.strerror or error}); start it: systemctl start gpuscan"
            ) from error
        try:
            connection.sendall(request_line(order, nid))
            received = bytearray()
            while b"\n" not in received and len(received) <= ANSWER_BYTES:
                part = connection.recv(1 << 16)
                if not part:
                    break
                received += part
        except OSError as error:
            raise RunFailedError(
                f"the service at {path} does not answer ({error.strerror or error}); look at its log"
            ) from error
    if b"\n" not in received:
        raise RunFailedError(f"the service at {path} hung up without an answer; look at its log")
    document = parse_answer(bytes(received))
    if "error" in document:
        raise RunFailedError(str(document["error"]))
    return document
