"""A directory with the files of a machine's /proc and /sys."""

from __future__ import annotations

from pathlib import Path

from gpuscan.topology.contract import Host, MachineSource
from gpuscan.topology.file_tree import NODES, ZONEINFO, Directory
from gpuscan.topology.model import HOST
from gpuscan.topology.sysfs import read_tree

_BELOW = ("", "*", "*/*")
"""Where /proc and /sys are: hwloc-gather-topology puts them into a directory with the name of the archive."""


def _roots(path: Path) -> list[Path]:
    for below in _BELOW:
        found = [each for each in (path.glob(below) if below else (path,)) if _is_root(each)]
        if found:
            return sorted(found)
    return []


def _is_root(path: Path) -> bool:
    return (path / NODES).is_dir() or (path / ZONEINFO).is_file()


def _knows(path: Path, start: bytes) -> bool:
    if start:
        return False
    try:
        return path.is_dir() and len(_roots(path)) == 1
    except OSError:
        return False


def _read(path: Path) -> Host:
    (root,) = _roots(path)
    return read_tree(Directory(root), path.resolve().name or HOST)


MACHINE_SOURCE = MachineSource(about="a directory with a machine's /proc and /sys", knows=_knows, read=_read)
