"""A machine described in a TOML file."""

from __future__ import annotations

from pathlib import Path

from gpuscan.topology.contract import Host, MachineSource


def _read(path: Path) -> Host:
    from gpuscan.topology.toml import from_toml  # pydantic takes 0.2 s to import

    return Host(from_toml(path), ())


MACHINE_SOURCE = MachineSource(
    about="a .toml file",
    knows=lambda path, start: path.suffix == ".toml" and not path.is_dir(),
    read=_read,
)
