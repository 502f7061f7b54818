"""Readers of machines: trees of /proc and /sys, archives of them, numactl and lstopo."""

from __future__ import annotations

import bz2
import gzip
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzz import mutate
from gpuscan.base.errors import GpuscanError
from gpuscan.topology.file_tree import NODES, Directory
from gpuscan.topology.resolve import resolve_topology
from gpuscan.topology.sysfs import read_tree
from machine_trees import LSTOPO, NUMACTL, archive, gathered, meminfo, write_tree, zoned

_NUMBERS = (
    "0",
    "1",
    "-1",
    "255",
    "256",
    "65535",
    "1048576",
    "4503599627370496",
    "9" * 18,
    "9" * 40,
    "0x10",
    "",
)
_ROWS = {0: "10 21 17", 1: "21 10 27", 2: "17 27 10"}


def _in_text(rng: random.Random, text: bytes) -> bytes:
    """Return text with bytes changed, a number replaced, or lines removed, doubled or moved."""
    if rng.random() < 0.5:
        return mutate.in_bytes(rng, text)
    lines = text.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[at : at + rng.choice((1, 3, 20))]
    elif kind == 1:
        lines[at:at] = [rng.choice(lines)] * rng.choice((1, 2, 50))
    else:
        words = lines[at].split(b" ")
        words[rng.randrange(len(words))] = rng.choice(_NUMBERS).encode()
        lines[at] = b" ".join(words)
    return b"\n".join(lines)


def _trees() -> list[dict[str, str]]:
    """Return one tree with zones, one with sizes alone and one with blocks, links and tiers."""
    nodes = {0: ("0-3", 65_536), 1: ("4-7", 65_536), 2: ("", 32_768)}
    with_zones = zoned(nodes, _ROWS)
    with_zones["proc/iomem"] = "100000000-1ffffffff : System RAM\n"
    for nid, (_, n_pages) in nodes.items():
        with_zones[f"{NODES}/node{nid}/meminfo"] = meminfo(nid, n_pages * 4)
    sizes = gathered({nid: (cpus, 4 * n_pages) for nid, (cpus, n_pages) in nodes.items()}, _ROWS, 65536)
    more = dict(sizes)
    more["sys/devices/system/memory/block_size_bytes"] = "8000000\n"
    for number in range(40, 46):
        more[f"{NODES}/node{number % 3}/memory{number}"] = ""
        more[f"sys/devices/system/memory/memory{number}/valid_zones"] = "Normal Movable\n"
    more["sys/devices/virtual/memory_tiering/memory_tier4/nodelist"] = "0-1\n"
    more["sys/devices/virtual/memory_tiering/memory_tier961/nodelist"] = "2\n"
    more["proc/driver/nvidia/gpus/1/numa_status"] = "Node: 2\n"
    access = f"{NODES}/node2/access1/initiators"
    more |= {f"{access}/read_latency": "250\n", f"{access}/read_bandwidth": "30000\n", f"{access}/node0": ""}
    return [with_zones, sizes, more]


class MachineTreeTarget:
    """Directories of /proc and /sys, of whose files some are changed."""

    def __init__(self, directory: Path) -> None:
        self._trees = [
            (write_tree(directory / str(number), tree), tree) for number, tree in enumerate(_trees())
        ]

    def attempt(self, rng: random.Random) -> None:
        root, tree = rng.choice(self._trees)
        names = rng.sample(sorted(tree), rng.choice((1, 1, 2)))
        try:
            for name in names:
                if rng.random() < 0.08:
                    (root / name).unlink()
                else:
                    (root / name).write_bytes(_in_text(rng, tree[name].encode()))
            _look_at(read_tree(Directory(root), "m").topology)
        finally:
            for name in names:
                (root / name).write_text(tree[name])


class MachineFileTarget:
    """One file that describes a machine."""

    def __init__(self, directory: Path, name: str, contents: list[bytes]) -> None:
        self._path, self._contents = directory / name, contents

    def changed(self, rng: random.Random, content: bytes) -> bytes:
        """Return what is to be read in place of a good file."""
        return _in_text(rng, content)

    def attempt(self, rng: random.Random) -> None:
        self._path.write_bytes(self.changed(rng, rng.choice(self._contents)))
        _look_at(resolve_topology(str(self._path)))


class NumactlTarget(MachineFileTarget):
    """Text of numactl -H."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "there.txt", [NUMACTL.encode()])


class LstopoTarget(MachineFileTarget):
    """XML of lstopo."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "m.xml", [LSTOPO.encode()])


class MachineArchiveTarget(MachineFileTarget):
    """Archives, changed inside and packed again, or changed as they are packed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "m.tar", [archive(tree, kind="") for tree in _trees()])

    def changed(self, rng: random.Random, content: bytes) -> bytes:
        inside = rng.random() < 0.8
        if inside:
            content = mutate.in_bytes(rng, content.rstrip(b"\0") + bytes(1024))
        pack = rng.choice((bytes, bytes, gzip.compress, lambda plain: bz2.compress(plain, 1)))
        packed = bytes(pack(content))
        return packed if inside else mutate.in_bytes(rng, packed)


def _look_at(machine: Any) -> None:
    with suppress(GpuscanError):
        _ = machine.page_map.n_pages


MACHINE_TARGETS: dict[str, Any] = {
    "machine-tree": MachineTreeTarget,
    "machine-archive": MachineArchiveTarget,
    "numactl": NumactlTarget,
    "lstopo": LstopoTarget,
}
