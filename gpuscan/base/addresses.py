"""Where to listen: an address and a port, as options and configurations write it."""

from __future__ import annotations

from gpuscan.base.errors import InputError

LOOPBACK = "127.0.0.1"


def parse_address(text: str) -> tuple[str, int]:
    """Return address and port of ``127.0.0.1:9464``, ``[::1]:9464`` or ``:9464`` (loopback).

    Raises:
        InputError: there is no port in it.
    """
    address, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InputError(f"{text!r} names no port; write for example {LOOPBACK}:9464")
    return address.strip("[]") or LOOPBACK, int(port)
