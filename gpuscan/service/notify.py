"""What the service tells systemd, by the protocol of sd_notify(3): a datagram to the socket that it names."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

_SOCKET, _WATCHDOG, _WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Notifier:
    """Tells a service manager how things stand; where there is none, nothing.

    Args:
        environment: where the manager says so.
        pid: of this process.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, pid: int = 0) -> None:
        address = environment.get(_SOCKET, "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self.watchdog_s: float | None = None
        """How often the manager wants to hear of this process; None: it does not."""
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            usec, owner = environment.get(_WATCHDOG, ""), environment.get(_WATCHDOG_PID, "")
            if usec.isdigit() and owner in ("", str(pid or os.getpid())):
                self.watchdog_s = int(usec) / 1e6

    def tell(self, **what: str) -> None:
        """Send assignments, such as ``READY="1"``; a manager that does not listen loses nothing of ours."""
        if self._socket is not None:
            text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in what.items())
            with contextlib.suppress(OSError):
                self._socket.sendto(text.encode(errors="replace"), self._address)

    def ready(self, status: str) -> None:
        """Say that it runs, or runs again after a reload."""
        self.tell(READY="1", STATUS=status)

    def status(self, status: str) -> None:
        """Say in one line what it does; this also says that it is alive."""
        self.tell(STATUS=status, **self._alive())

    def reloading(self, monotonic_ns: int) -> None:
        """Say that a reload has begun, by the time of CLOCK_MONOTONIC; :meth:`ready` ends it."""
        self.tell(RELOADING="1", MONOTONIC_USEC=str(monotonic_ns // 1000))

    def stopping(self) -> None:
        """Say that it ends."""
        self.tell(STOPPING="1")

    def alive(self) -> None:
        """Say that it is alive, where somebody wants to hear so."""
        if self.watchdog_s is not None:
            self.tell(**self._alive())

    def _alive(self) -> dict[str, str]:
        return {} if self.watchdog_s is None else {"WATCHDOG": "1"}

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
