"""All peers: those in ``built_in`` and those of other packages, by the entry points ``gpuscan.peers``."""

from __future__ import annotations

from importlib import import_module

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.bench.peers.contract import PeerKind

PEERS = Catalogue("peer", "gpuscan.bench.peers.built_in", PeerKind, "PEER")


def open_peer(name: str) -> PeerKind:
    """Return the peer called ``name``, what it takes imported.

    Raises:
        InputError: there is no such peer, or what it takes is not installed.
    """
    kind = PEERS.get(name)
    for module in kind.imports:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name or module
            how = install_command(kind.extra, missing) if kind.extra else "install it"
            raise InputError(
                f"the peer {name} needs {missing}, which is not installed: {how}, or leave it out of --peers"
            ) from error
    return kind


def packages() -> dict[str, str]:
    """Return what peers take beside gpuscan's own packages, each with the extra that brings it."""
    found: dict[str, str] = {}
    for kind in PEERS.usable()[0].values():
        found.update(dict.fromkeys(kind.imports, kind.extra))
    return found
