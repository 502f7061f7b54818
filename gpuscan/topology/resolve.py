"""One name for every machine: a preset, a TOML file, or this host."""

from __future__ import annotations

from pathlib import Path

from gpuscan.base.arguments import INT64_MAX, shown, text, whole
from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.topology.model import Topology
from gpuscan.topology.presets import preset

HOST = "host"


def names_file(source: str) -> bool:
    """Whether ``source`` is the path of a file, and no name."""
    return source.endswith(".toml")


def resolve_topology(source: str, memory_bytes: int | None = None) -> Topology:
    """Return the topology that ``source`` names.

    Args:
        source: a preset's name, the path of a ``.toml`` file, or ``host``.
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
    is_file = names_file(source)
    if memory_bytes is not None and (is_file or source == HOST):
        raise InputError(f"the memory of {source!r} is what it is; give a size for presets only")
    if source == HOST:
        from gpuscan.topology.sysfs import from_host

        return from_host()
    if is_file:
        # pydantic takes 0.2 s to import; a preset does not need it.
        from gpuscan.topology.toml import from_toml

        return from_toml(Path(source))
    return preset(source, memory_bytes)
