"""Text of ``numactl -H``: CPUs, sizes in MiB and distances of each node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import numpy as np

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.files.reading import UnfitError, read_file
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.topology.contract import Host, MachineSource
from gpuscan.topology.model import CPU_LIMIT, DISTANCE_REMOTE_DEFAULT
from gpuscan.topology.node_files import default_distances, kinds, once
from gpuscan.topology.sized import SizedNode, sized_machine
from gpuscan.topology.zoneinfo import parse_count

_BYTES_MAX = 4 << 20
_FIRST = re.compile(rb"^available: [0-9]{1,6} nodes? \(", re.M)
_CPUS = re.compile(r"node ([0-9]{1,6}) cpus:((?: [0-9]{1,6})*)\s*")
_SIZE = re.compile(r"node ([0-9]{1,6}) size: ([0-9]{1,15}) MB\s*")
_HEADING = re.compile(r"node((?:\s+[0-9]{1,6})+)\s*")
_ROW = re.compile(r"\s*([0-9]{1,6}):((?:\s+[0-9]{1,3})+)\s*")
_AGAIN = "give all that numactl -H prints"

T = TypeVar("T")


def _read(path: Path) -> Host:
    try:
        text = read_file(path, _BYTES_MAX).decode(errors="replace")
    except UnfitError as error:
        raise InputError(f"{path} {error}; {_AGAIN}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a readable file") from error
    return parse_numactl(text, str(path), path.stem)


def parse_numactl(text: str, source: str, name: str) -> Host:
    """Return the machine that ``numactl -H`` prints.

    Sizes are MiB, rounded down (``size >> 20``, numactl.c of numactl 2.0.18), of what the kernel manages.

    Args:
        text: of it.
        source: what errors call the text.
        name: of the machine.

    Raises:
        TopologyError: the text is cut short or something else; says the line.
    """
    cpus: dict[int, tuple[int, ...]] = {}
    sizes: dict[int, int] = {}
    rows: dict[int, list[int]] = {}
    columns: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line:
            continue
        where = f"{source}, line {number}"
        if match := _CPUS.fullmatch(line):
            listed = tuple(int(cpu) for cpu in match[2].split())
            if any(cpu >= CPU_LIMIT for cpu in listed):
                raise TopologyError(f"{where}: CPU {max(listed)} is not below {CPU_LIMIT}; {_AGAIN}")
            _put(cpus, match[1], listed, "cpus", where)
        elif match := _SIZE.fullmatch(line):
            _put(sizes, match[1], int(match[2]) << 20, "size", where)
        elif match := _HEADING.fullmatch(line):
            columns = [int(nid) for nid in match[1].split()]
        elif columns and (match := _ROW.fullmatch(line)):
            values = [parse_count(word, "a distance", where) for word in match[2].split()]
            if len(values) != len(columns) or max(values) > 255:
                raise TopologyError(
                    f"{where}: {len(values)} distances for {len(columns)} nodes, or one above 255; {_AGAIN}"
                )
            _put(rows, match[1], values, "distances", where)
    nids = sorted(sizes)
    if not nids or set(cpus) != set(nids):
        lacking = min(set(cpus) ^ set(nids), default=0)
        raise TopologyError(f"{source}: node {lacking} lacks its cpus or its size; {_AGAIN}")
    if nids[-1] >= N_NODES_MAX:
        raise TopologyError(f"{source}: node {nids[-1]} is not below {N_NODES_MAX}; {_AGAIN}")
    notes = []
    distance = default_distances(len(nids))
    if rows and len(nids) > 1:
        if sorted(columns) != nids or sorted(rows) != nids:
            raise TopologyError(f"{source}: the distances are not of the nodes with a size; {_AGAIN}")
        order = [columns.index(nid) for nid in nids]
        distance = np.array([[rows[nid][column] for column in order] for nid in nids], dtype=np.uint8)
    elif len(nids) > 1:
        notes.append(f"it has no distances: {DISTANCE_REMOTE_DEFAULT} is taken between all nodes")
    near = {nid for nid in nids if sizes[nid] and cpus[nid]} or {nid for nid in nids if sizes[nid]}
    tiers = {nid: int(bool(sizes[nid]) and nid not in near) for nid in nids}
    kind_of, own = kinds(nids, cpus, tiers, set()), once(cpus)
    nodes = [SizedNode(nid, kind_of[nid], tiers[nid], own[nid], sizes[nid], {}) for nid in nids]
    topology, laid_out = sized_machine(name, nodes, distance, {}, source)
    return Host(topology, (*laid_out, *notes))


def _put(found: dict[int, T], nid: str, value: T, what: str, where: str) -> None:
    if int(nid) in found:
        raise TopologyError(f"{where}: the {what} of node {nid} stand there twice; {_AGAIN}")
    found[int(nid)] = value


MACHINE_SOURCE = MachineSource(
    about="text of numactl -H", knows=lambda path, start: _FIRST.search(start) is not None, read=_read
)
