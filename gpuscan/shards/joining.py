"""Which cluster may be joined: whoever is its scheduler, or comes between, runs code here.

What a scheduler sends is unpickled, and what it is sent, its workers unpickle. With TLS both ends show a
certificate that the cluster's own authority signed; what Dask is configured with is taken (docs/scale.md
shows how). Anything else is joined only where somebody says that its network can be trusted.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.files.reading import JsonError, UnfitError, parse_json, read_file

_FILE_BYTES_MAX = 1 << 20
"""Of a scheduler file: a scheduler writes it when it begins, without workers, and it has 1 KB (2026.8)."""
_ADDRESS = re.compile(r"(?:([a-z][a-z0-9+.-]{0,15})://)?\[?[A-Za-z0-9_.:%-]{1,253}\]?:[0-9]{1,5}")
_TLS = {
    "tls_ca_file": "distributed.comm.tls.ca-file",
    "tls_client_cert": "distributed.comm.tls.client.cert",
    "tls_client_key": "distributed.comm.tls.client.key",
}
_LOOK_EVERY_S = 0.05


def is_scheduler_file(given: str) -> bool:
    """Whether what was given is the name of a file, and no address."""
    return "://" not in given and given.endswith(".json")


def scheduler_address(given: str, *, without_tls: bool, timeout_s: float) -> str:
    """Return the address of a scheduler that may be joined.

    Args:
        given: an address, or the path of a scheduler file (``*.json``), which may not be there yet.
        without_tls: whether anything but TLS is allowed.
        timeout_s: how long the file is waited for.

    Raises:
        InputError: it is no address, the file does not come or is none, or it is not TLS.
    """
    address = _address_in(Path(given), timeout_s) if is_scheduler_file(given) else given
    where = "" if address is given else f" in {given}"
    parsed = _ADDRESS.fullmatch(address)
    if parsed is None:
        shown = address if len(address) <= 60 else f"{address[:60]}..."
        raise InputError(
            f"{shown!r}{where} is not the address of a Dask scheduler; give one, for example tls://host:8786"
        )
    if parsed[1] is None:
        address = f"tcp://{address}"
    if parsed[1] != "tls" and not without_tls:
        raise InputError(
            f"{address}{where} is not tls://, so whoever reaches the cluster can run code in it and here; "
            "start it with TLS (docs/scale.md), or say --insecure on a network that is yours alone"
        )
    return address


def joining_security(address: str) -> Any:
    """Return the ``Security`` to join with: of what Dask is configured with, nothing but TLS where it is TLS.

    Raises:
        InputError: a certificate, its key, or the authority is not configured or cannot be read.
    """
    from distributed.security import Security

    try:
        security: Any = Security(require_encryption=address.startswith("tls://"))  # type: ignore[no-untyped-call]
        if security.require_encryption:
            missing = [name for field, name in _TLS.items() if not getattr(security, field)]
            if "distributed.comm.tls.client.key" in missing and security.tls_client_cert:
                missing.remove("distributed.comm.tls.client.key")  # it may be in the file of the certificate
            if missing:
                raise InputError(
                    f"{address} needs TLS, and Dask is configured without {' and '.join(missing)}; set "
                    "them, in ~/.config/dask/ or by DASK_DISTRIBUTED__COMM__TLS__... (docs/scale.md)"
                )
        security.get_connection_args("client")  # reads the files
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InputError(
            f"the certificates for {address} cannot be used ({error}); look at distributed.comm.tls in the "
            "configuration of Dask"
        ) from None
    return security


def _address_in(path: Path, timeout_s: float) -> str:
    """Return what a scheduler writes to its file, as soon as that is there: Dask's own wait has no end."""
    deadline = time.monotonic() + timeout_s
    while True:
        # Not there, or not whole yet.
        with suppress(OSError, JsonError, TypeError, KeyError):
            return str(_document(path)["address"])
        if time.monotonic() > deadline:
            raise InputError(
                f"no Dask scheduler has written {path} in {timeout_s:g} s; start one with "
                f"'dask scheduler --scheduler-file {path}', or give its address"
            )
        time.sleep(_LOOK_EVERY_S)


def _document(path: Path) -> Any:
    try:
        return parse_json(read_file(path, _FILE_BYTES_MAX))
    except JsonError:
        raise
    except UnfitError as error:
        raise InputError(
            f"{path} {error}; give the file that 'dask scheduler --scheduler-file' writes"
        ) from None
