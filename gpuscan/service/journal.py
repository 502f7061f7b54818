"""What the service says as it goes: to journald with fields of its own, else a line on standard error.

The native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/) is one datagram an entry. It is spoken where
standard error is journald's already, which the service manager says in ``$JOURNAL_STREAM`` (systemd.exec(5)):
whoever starts the service at a terminal sees lines there.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.program import PROGRAM
from gpuscan.history.course import EVENTS
from gpuscan.history.recording import Kind, Recorder
from gpuscan.history.tally import said

SOCKET = Path("/run/systemd/journal/socket")
_STREAM = "JOURNAL_STREAM"
_STDERR = 2
_WARNING, _INFO = 4, 6
"""Of syslog(3)."""
_VALUE_BYTES = 4096
"""A datagram is to fit into what a socket takes; of longer values the beginning is said."""
_FIELDS_MAX = 64


class Log:
    """Where the service says things.

    Args:
        line: prints a line on standard error.
        environment: where a service manager says what standard error is.
        path: journald's socket.
        stderr: descriptor of standard error.
    """

    def __init__(
        self,
        line: Callable[[str], None],
        environment: Mapping[str, str] = os.environ,
        path: Path = SOCKET,
        stderr: int = _STDERR,
    ) -> None:
        self._line, self._path = line, str(path)
        self._socket: socket.socket | None = None
        if _is_journals(stderr, environment.get(_STREAM, "")) and path.is_socket():
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def say(self, text: str, *, is_warning: bool = False, **fields: Any) -> None:
        """Say something, once: where journald does not take it, on standard error.

        Args:
            text: in one line.
            is_warning: somebody should look at it.
            fields: what it is about; values that are no text or number go as JSON.
        """
        if self._socket is not None:
            entry = {
                "MESSAGE": text,
                "PRIORITY": _WARNING if is_warning else _INFO,
                "SYSLOG_IDENTIFIER": PROGRAM,
                **{f"GPUSCAN_{name.upper()}": value for name, value in fields.items()},
            }
            with contextlib.suppress(OSError):
                self._socket.sendto(datagram(entry), socket.MSG_DONTWAIT, self._path)
                return
        self._line(f"{PROGRAM}: {'note: ' if is_warning else ''}{text}")

    def close(self) -> None:
        """Say nothing to journald any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def datagram(entry: Mapping[str, Any]) -> bytes:
    """Return an entry as the protocol has it; names are of capitals, digits and underscores."""
    parts = []
    for name, value in list(entry.items())[:_FIELDS_MAX]:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        data = text.encode(errors="replace")[:_VALUE_BYTES]
        # A value with an end of a line in it is told by its length.
        head = name.encode()
        parts.append(
            head + b"\n" + struct.pack("<Q", len(data)) + data if b"\n" in data else head + b"=" + data
        )
    return b"\n".join(parts) + b"\n"


def _is_journals(descriptor: int, stream: str) -> bool:
    """Whether a descriptor is the file that ``$JOURNAL_STREAM`` names, by device and inode."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


class Told:
    """A :class:`gpuscan.history.recording.Recorder` that also says what was decided; not what each look did.

    Args:
        recorder: keeps all of it.
        log: where it is said.
    """

    def __init__(self, recorder: Recorder, log: Log) -> None:
        self._recorder, self._log = recorder, log

    @property
    def lost(self) -> int:
        """Notes that could not be kept."""
        return self._recorder.lost

    @property
    def problem(self) -> str:
        """Why not; empty where all are kept."""
        return self._recorder.problem

    def note(self, kind: Kind, policy: str | None, body: dict[str, Any]) -> None:
        """Note something, and say it where it was decided; it does not fail, and does not wait."""
        self._recorder.note(kind, policy, body)
        is_trouble = kind == "kernel" and policy is None
        if kind in EVENTS or is_trouble:
            text = said(body)
            is_warning = bool(body.get("refused")) or (is_trouble and bool(body.get("trouble")))
            self._log.say(f"{kind}: {text}" if text else kind, is_warning=is_warning, event=kind, **body)

    def flush(self) -> None:
        """Bring what was noted to where it stays."""
        self._recorder.flush()

    def close(self) -> None:
        """Flush, and end."""
        self._recorder.close()
