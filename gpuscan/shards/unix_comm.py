"""Dask over sockets that are files in a directory of ours: whoever may not enter it cannot connect.

A worker unpickles what it is sent, so whoever reaches one runs code as its user; on a TCP port of loopback
that is everybody on the host, and who is kept out by TLS can still use up descriptors there. With TLS the
requests of ``gpuscan bench scale`` came at 7.6 to 22.1 M/s, without at 23.3 to 30.9 (docs/scale.md).

An address is ``unix://DIRECTORY:NUMBER``, the directory percent-encoded; its socket is the file NUMBER in
it. It reads as a host and a port to Dask, which takes addresses apart in many places. Both ends ask the
kernel whose the other one is (unix(7), SO_PEERCRED), so that a directory that was put in the place of ours
is found out.

Facts about Dask distributed (2024.8 to 2026.8): "Extending the Communication Layer" of its docs has the
interface, ``distributed.comm.registry.backends`` the table; ``TCP.__init__`` sets options that only TCP has,
and logs an error where it cannot.
"""

from __future__ import annotations

import errno
import functools
import os
import secrets
import socket
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from distributed.comm.addressing import parse_host_port, unparse_host_port
from distributed.comm.core import Comm, CommClosedError
from distributed.comm.registry import backends
from distributed.comm.tcp import MAX_BUFFER_SIZE, TCP, TCPBackend, TCPConnector, TCPListener, _close_comm
from tornado.iostream import IOStream
from tornado.tcpserver import TCPServer

SCHEME = "unix"
_PREFIX = f"{SCHEME}://"
_BACKLOG = 1024
_NUMBERS = 1 << 30
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


def host_of(directory: Path) -> str:
    """Return what stands for a directory in addresses."""
    return quote(str(directory))


def register() -> None:
    """Let Dask know the scheme, in this process."""
    backends[SCHEME] = UnixBackend()


@contextmanager
def _reached(host: str, number: int) -> Iterator[str]:
    """Yield a path of a socket that is short, whatever its directory: a socket's has 107 bytes at most."""
    handle = os.open(unquote(host), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{number}"
    finally:
        os.close(handle)


def _check_peer(sock: socket.socket) -> None:
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"the other end belongs to user {uid}")


class UnixComm(TCP):
    """A connection."""

    def __init__(self, stream: Any, local_addr: str, peer_addr: str, deserialize: bool = True) -> None:
        self._closed = False
        Comm.__init__(self, deserialize=deserialize)
        self._local_addr, self._peer_addr = local_addr, peer_addr
        self.stream = stream
        self._finalizer = weakref.finalize(self, self._get_finalizer())  # type: ignore[no-untyped-call]
        self._finalizer.atexit = False
        self._extra: dict[str, Any] = {}
        stream.set_close_callback(functools.partial(_close_comm, weakref.ref(self)))


class UnixConnector(TCPConnector):
    """Connects."""

    prefix = _PREFIX
    comm_class = UnixComm
    encrypted = True  # nobody else can listen in, which is what Dask asks for

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> UnixComm:
        """Return a connection to an address.

        Raises:
            CommClosedError: nobody listens there, or somebody else does.
        """
        host, number = parse_host_port(address)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            with _reached(host, number) as path:
                sock.connect(path)
            _check_peer(sock)
        except OSError as error:
            sock.close()
            raise CommClosedError(f"cannot connect to {self.prefix}{address}: {error}") from error
        stream = IOStream(sock, max_buffer_size=MAX_BUFFER_SIZE)
        return self.comm_class(stream, f"{self.prefix}{host}:0", self.prefix + address, deserialize)


class UnixListener(TCPListener):
    """Listens, at a number that nobody had."""

    prefix = _PREFIX
    comm_class = UnixComm
    encrypted = True

    async def start(self) -> None:
        """Bind and listen."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            self.port = self._bind(sock)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        self.bound_address = self.ip, self.port
        server: Any = TCPServer(max_buffer_size=int(MAX_BUFFER_SIZE))
        server.handle_stream = self._handle_stream
        server.add_sockets([sock])
        self.tcp_server = server

    def _bind(self, sock: socket.socket) -> int:
        while True:
            number = 1 + secrets.randbelow(_NUMBERS)
            try:
                with _reached(self.ip, number) as path:
                    sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return number

    def stop(self) -> None:
        """Stop, and remove the socket."""
        if self.tcp_server is not None:
            with suppress(OSError):  # its directory may be gone already
                Path(unquote(self.ip), str(self.port)).unlink()
        super().stop()  # type: ignore[no-untyped-call]

    async def _handle_stream(self, stream: Any, _: Any) -> None:
        try:
            _check_peer(stream.socket)
        except OSError:
            stream.close()
            return
        if self.tcp_server is None:  # stopped since it was accepted
            stream.close()
            return
        comm = self.comm_class(stream, self.listen_address, f"{self.prefix}{self.ip}:0", self.deserialize)
        comm.allow_offload = self.allow_offload
        try:
            await self.on_connection(comm)
        except CommClosedError:
            return
        await self.comm_handler(comm)

    @property
    def contact_address(self) -> str:
        """Return where it can be reached."""
        address: str = self.listen_address
        return address


class UnixBackend(TCPBackend):
    """What Dask asks for by the scheme of an address."""

    _connector_class = UnixConnector
    _listener_class = UnixListener

    def resolve_address(self, loc: str) -> str:
        """Return the address as it is."""
        return loc

    def get_local_address_for(self, loc: str) -> str:
        """Return where somebody may listen whom that address shall reach."""
        return unparse_host_port(parse_host_port(loc)[0])
