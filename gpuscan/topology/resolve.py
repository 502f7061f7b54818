"""One name for every machine: a preset, a file or directory that describes one, or this host."""

from __future__ import annotations

from pathlib import Path

from gpuscan.base.arguments import INT64_MAX, shown, text, whole
from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.topology.contract import Host
from gpuscan.topology.model import HOST, Topology
from gpuscan.topology.presets import PRESETS, preset


def names_file(source: str) -> bool:
    """Whether ``source`` is the path of a file or directory, and no name: it has a slash or a suffix."""
    return source not in (HOST, *PRESETS) and ("/" in source or bool(Path(source).suffix))


def resolve_topology(source: str, memory_bytes: int | None = None) -> Topology:
    """Return the topology that ``source`` names; see :func:`resolve_machine`."""
    return resolve_machine(source, memory_bytes).topology


def resolve_machine(source: str, memory_bytes: int | None = None) -> Host:
    """Return the machine that ``source`` names, with what could not be told of it for certain.

    Args:
        source: a preset's name, ``host``, or the path of what one of
            :data:`gpuscan.topology.catalogue.MACHINES` knows, such as a ``.toml`` file.
        memory_bytes: size of a preset; None = its own.

    Raises:
        InputError: there is no such source, or ``memory_bytes`` is no int or given for one of fixed size.
    """
    text("resolve_topology: source", source)
    if isinstance(memory_bytes, str):
        raise ArgumentError(
            f"memory_bytes is a whole number of bytes, not {shown(memory_bytes)}; "
            "gpuscan.base.units.parse_bytes reads sizes with a unit"
        )
    if memory_bytes is not None:
        memory_bytes = whole("memory_bytes", memory_bytes, -INT64_MAX)
    is_file = names_file(source) or (source not in (HOST, *PRESETS) and _is_there(source))
    if memory_bytes is not None and (is_file or source == HOST):
        raise InputError(f"the memory of {source!r} is what it is; give a size for presets only")
    if source == HOST:
        from gpuscan.topology.sysfs import read_host

        return read_host()
    if is_file:
        from gpuscan.topology.catalogue import read_machine_file

        return read_machine_file(Path(source))
    return Host(preset(source, memory_bytes), ())


def _is_there(source: str) -> bool:
    try:
        return bool(source) and Path(source).exists()
    except (OSError, ValueError):
        return False
