"""XML of ``lstopo`` (hwloc 1, 2 and 3): nodes with their CPUs and memory, and the latency matrix.

Entities are refused as soon as one is declared, nothing outside the file is looked at, and what is kept of it
are the nodes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.files.reading import UnfitError, read_file
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.topology.contract import Host, MachineSource
from gpuscan.topology.model import CPU_LIMIT, DISTANCE_REMOTE_DEFAULT
from gpuscan.topology.node_files import check_listed, cpus_of_mask, default_distances, kinds, once
from gpuscan.topology.page_size import said_of
from gpuscan.topology.sized import SizedNode, sized_machine

_BYTES_MAX = 16 << 20
_DEPTH_MAX = 256
_MATRIX_TEXT_MAX = 8 << 20
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!DOCTYPE\s+topology\b|<topology\b)")
_MASK = re.compile(r"0x[0-9a-f]{1,8}(?:,(?:0x[0-9a-f]{1,8})?)*", re.IGNORECASE)
_KEY = {"NUMANode", "Node"}
"""What a node is called: ``Node`` before hwloc 1.11 could say NUMANode."""
_AGAIN = "write it again with lstopo --of xml"


@dataclass
class _Found:
    """What was found of a machine.

    Attributes:
        cpus, sizes: of nodes, by nid.
        gpus: nodes that are GPUs' memory.
        page_bytes: sizes of pages that nodes list.
        matrix: nids, and latencies row by row; without nids they are of hwloc 1.
    """

    cpus: dict[int, tuple[int, ...]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    gpus: set[int] = field(default_factory=set)
    page_bytes: set[int] = field(default_factory=set)
    matrix: tuple[list[int], list[int]] | None = None


class _Reader:
    """Goes through the elements of one file."""

    def __init__(self, source: str) -> None:
        self.found = _Found()
        self._source = source
        self._parser = expat.ParserCreate("UTF-8")  # as lstopo writes it, whatever the file says
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._entity
        self._open: list[tuple[str, int | None]] = []
        self._kept: list[str] = []
        self._n_kept = self._n_listed = 0
        self._nids: list[int] = []
        self._values: list[int] = []
        self._is_latency = False

    def read(self, content: bytes) -> _Found:
        """Return what is in the file.

        Raises:
            TopologyError: it is no XML, or not of lstopo; says the line.
        """
        try:
            self._parser.Parse(content, True)
        except expat.ExpatError as error:
            raise TopologyError(
                f"{self._source}, line {error.lineno}: {expat.ErrorString(error.code)}; {_AGAIN}"
            ) from error
        return self.found

    @property
    def _where(self) -> str:
        return f"{self._source}, line {self._parser.CurrentLineNumber}"

    def _entity(self, *declared: object) -> None:
        raise TopologyError(f"{self._where}: it declares an entity, which lstopo never does; {_AGAIN}")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= _DEPTH_MAX:
            raise TopologyError(f"{self._where}: nested more than {_DEPTH_MAX} deep; {_AGAIN}")
        nid = None
        if tag == "object" and attributes.get("type") in _KEY:
            nid = self._node(attributes)
        elif tag == "page_type":
            size = self._number(attributes, "size")
            if self._open and self._open[-1][1] is not None and size:
                self.found.page_bytes.add(size)
        elif tag in ("distances2", "distances"):
            self._nids, self._values = [], []
            self._is_latency = _is_latency(tag, attributes)
        elif tag == "latency" and self._is_latency:  # hwloc 1
            self._values.append(_hundredths(attributes.get("value", ""), self._where))
        self._kept = []
        self._open.append((tag, nid))

    def _node(self, attributes: dict[str, str]) -> int:
        nid = self._number(attributes, "os_index")
        if nid is None or nid >= N_NODES_MAX:
            raise TopologyError(f"{self._where}: the node has no number below {N_NODES_MAX}; {_AGAIN}")
        if nid in self.found.sizes:
            raise TopologyError(f"{self._where}: node {nid} is there twice; {_AGAIN}")
        self.found.cpus[nid] = _cpus(attributes.get("cpuset", ""), self._where)
        self._n_listed += len(self.found.cpus[nid])
        check_listed(self._n_listed, self._where)
        self.found.sizes[nid] = self._number(attributes, "local_memory") or 0
        if attributes.get("subtype") == "GPUMemory":
            self.found.gpus.add(nid)
        return nid

    def _number(self, attributes: dict[str, str], name: str) -> int | None:
        text = attributes.get(name)
        if text is None:
            return None
        if re.fullmatch("[0-9]{1,18}", text, re.ASCII) is None:
            raise TopologyError(f"{self._where}: {name} is {text[:40]!r}, not a number; {_AGAIN}")
        return int(text)

    def _text(self, text: str) -> None:
        if self._is_latency and self._open[-1][0] in ("indexes", "u64values"):
            self._n_kept += len(text)
            if self._n_kept > _MATRIX_TEXT_MAX:
                raise TopologyError(f"{self._where}: a matrix of more nodes than there can be; {_AGAIN}")
            self._kept.append(text)

    def _end(self, tag: str) -> None:
        self._open.pop()
        if tag in ("indexes", "u64values") and self._is_latency:
            words = "".join(self._kept).split()
            numbers = [self._number({tag: word}, tag) or 0 for word in words]
            (self._nids if tag == "indexes" else self._values).extend(numbers)
        elif tag in ("distances2", "distances") and self._is_latency:
            if self.found.matrix is None:
                self.found.matrix = (self._nids, self._values)
            self._is_latency = False


def _is_latency(tag: str, attributes: dict[str, str]) -> bool:
    if tag == "distances":  # hwloc 1 has those of nodes, by their depth, and no others in practice
        return True
    name = attributes.get("name", "NUMALatency")
    return (
        attributes.get("type") == "NUMANode" and name == "NUMALatency" and attributes.get("indexing") == "os"
    )


def _hundredths(text: str, where: str) -> int:
    """Return a latency of hwloc 1 (a float, of one base) in hundredths."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise TopologyError(f"{where}: {text[:40]!r} is not a latency; {_AGAIN}")
    return round(value * 100)


def _cpus(text: str, where: str) -> tuple[int, ...]:
    """Return the CPUs of a set: words of 32 bits, the highest first; one without bits may be left empty."""
    if not text or text == "0x0":
        return ()
    if len(text) > CPU_LIMIT or _MASK.fullmatch(text) is None:
        raise TopologyError(f"{where}: {text[:40]!r} is not a set of CPUs; {_AGAIN}")
    words = [word.lower().removeprefix("0x") or "0" for word in text.split(",")]
    return cpus_of_mask(int("".join(word.rjust(8, "0") for word in words), 16))


def _read(path: Path) -> Host:
    try:
        content = read_file(path, _BYTES_MAX)
    except UnfitError as error:
        raise InputError(f"{path} {error}; {_AGAIN}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a readable file") from error
    found = _Reader(str(path)).read(content)
    nids = sorted(found.sizes)
    if not nids:
        raise TopologyError(f"{path}: it has no node of memory (NUMANode); {_AGAIN}")
    cpus = once(found.cpus)  # what has no CPUs of its own names those that it is near to
    near = {nid for nid in nids if found.sizes[nid] and cpus[nid]}
    near = near or {nid for nid in nids if found.sizes[nid]}
    tiers = {nid: int(bool(found.sizes[nid]) and nid not in near) for nid in nids}
    kind_of = kinds(nids, cpus, tiers, found.gpus)
    distance, notes = _distances(found, nids, str(path))
    nodes = [SizedNode(nid, kind_of[nid], tiers[nid], cpus[nid], found.sizes[nid], {}) for nid in nids]
    topology, laid_out = sized_machine(path.stem, nodes, distance, {}, str(path))
    page_bytes = min(found.page_bytes, default=PAGE_BYTES)
    return Host(topology, (*laid_out, *notes, *said_of(page_bytes)), page_bytes)


def _distances(found: _Found, nids: list[int], source: str) -> tuple[NDArray[np.uint8], list[str]]:
    distance = default_distances(len(nids))
    if len(nids) == 1:
        return distance, []
    if found.matrix is None:
        said = f"it has no distances: {DISTANCE_REMOTE_DEFAULT} is taken between all nodes"
        return distance, [said]
    order, values = found.matrix
    order = order or nids  # hwloc 1 has them by ascending nid, and does not say so
    if sorted(order) != nids or len(values) != len(nids) ** 2:
        raise TopologyError(
            f"{source}: the latency matrix has {len(values)} values for {len(nids)} nodes; {_AGAIN}"
        )
    matrix = np.array(values, dtype=np.int64).reshape(len(nids), -1)
    local = int(matrix[0, 0])
    if not found.matrix[0] and local:
        matrix = matrix * 10 // local  # relative to what is local, in hwloc 1
    if (matrix < 10).any() or (matrix > 255).any():
        raise TopologyError(f"{source}: the latency matrix has values that are none from 10 to 255; {_AGAIN}")
    at = [order.index(nid) for nid in nids]
    return matrix[np.ix_(at, at)].astype(np.uint8), []


MACHINE_SOURCE = MachineSource(
    about="XML of lstopo", knows=lambda path, start: _BEGINNING.match(start) is not None, read=_read
)
