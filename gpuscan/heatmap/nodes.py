"""How full each node was, over time, and its watermarks: a ``nodes.parquet``.

    now_ns      int64   a moment, since the start: between two ticks, when what the first marked has moved
    nid         int16
    free_pages  int64   of the buddy allocator, all zones of the node
    room_pages  int64   for so many less one it has room, see :attr:`NodeFill.room_pages`
    no_room     int64   folios that it had no room for, since the start

ascending by time and then by node. File metadata: ``gpuscan.schema`` (2), and ``gpuscan.nodes``: JSON, for
each node its name, its pages, and the sums of its zones' watermarks in pages. Schema 1 had neither room nor
what there was none for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.errors import InputError
from gpuscan.files.writing import json_text
from gpuscan.heatmap.space import node_names
from gpuscan.records.formats import N_NODES_MAX

if TYPE_CHECKING:
    import pyarrow as pa

    from gpuscan.topology import Topology

NODES_FILE = "nodes.parquet"
SCHEMA_VERSION = 2
MARKS = ("min", "low", "high", "promo")
COUNTS = ("free_pages", "room_pages", "no_room")
"""Of a node at each moment."""
_ROW_BYTES = 34
_WHAT = "nodes"
_FULL_PAGES = 1
"""A node takes a page while its room is more than that."""


@dataclass(frozen=True, slots=True)
class NodeFill:
    """How full a node was.

    Attributes:
        name: such as ``node 2 (cxl)``.
        n_pages: present on it.
        marks: by name, one of :data:`MARKS`: free pages, the sum over its zones.
        now_ns, free_pages: at each moment.
        room_pages: a folio of n pages is moved to it while this is more than n. Of a simulated machine what
            the zone that has most of it has free above its high watermark and its reserve:
            migrate_balanced_pgdat() in mm/migrate.c looks for any such zone. Of a real one what all have.
        no_room: folios that it had no room for until then, since the start.
    """

    name: str
    n_pages: int
    marks: Mapping[str, int]
    now_ns: list[int]
    free_pages: list[int]
    room_pages: list[int]
    no_room: list[int]

    @property
    def series(self) -> tuple[list[int], ...]:
        """Its moments and, in the order of :data:`COUNTS`, what was counted at each."""
        return self.now_ns, *(getattr(self, name) for name in COUNTS)

    def full(self) -> list[Full]:
        """Return when it was full: it had no room for a single page, or since the moment before it had none
        for a folio that was to be moved to it."""
        found: list[Full] = []
        refused, was_full = 0, False
        for now_ns, room_pages, until_now in zip(self.now_ns, self.room_pages, self.no_room, strict=True):
            is_full = room_pages <= _FULL_PAGES or until_now > refused
            if is_full and was_full:
                last = found[-1]
                found[-1] = Full(
                    last.first_ns, now_ns, last.n_moments + 1, last.no_room + until_now - refused
                )
            elif is_full:
                found.append(Full(now_ns, now_ns, 1, until_now - refused))
            refused, was_full = until_now, is_full
        return found


class Full(NamedTuple):
    """When a node was full.

    Attributes:
        first_ns, last_ns: the first moment and the last, which may be the same.
        n_moments: of these, all that were looked at.
        no_room: folios that it had no room for meanwhile.
    """

    first_ns: int
    last_ns: int
    n_moments: int
    no_room: int


def empty_nodes(topology: Topology) -> dict[int, NodeFill]:
    """Return every node that has memory, with nothing counted yet, by nid."""
    names = node_names(topology)
    return {
        node.nid: NodeFill(
            names[node.nid],
            node.present_pages,
            {mark: sum(getattr(zone.watermarks, mark) for zone in node.zones) for mark in MARKS},
            *([], [], [], []),
        )
        for node in topology.nodes
        if node.present_pages
    }


def _columns() -> pa.Schema:
    import pyarrow as pa

    counts = ((name, pa.int64()) for name in COUNTS)
    return pa.schema([("now_ns", pa.int64()), ("nid", pa.int16()), *counts])


def create_nodes(path: Path, nodes: Mapping[int, NodeFill]) -> None:
    """Write to a new file in a directory that is being filled.

    Raises:
        OSError: the system refused it.
    """
    import pyarrow as pa

    from gpuscan.files.parquet import create_table

    nids = np.repeat(list(nodes), [len(node.now_ns) for node in nodes.values()]).astype(np.int16)
    now_ns = np.array([ns for node in nodes.values() for ns in node.now_ns], dtype=np.int64)
    counts = [
        np.array([n for node in nodes.values() for n in getattr(node, name)], dtype=np.int64)
        for name in COUNTS
    ]
    order = np.lexsort((nids, now_ns))
    said = [[nid, node.name, node.n_pages, dict(node.marks)] for nid, node in nodes.items()]
    metadata = {
        "gpuscan.schema": str(SCHEMA_VERSION),
        "gpuscan.nodes": json_text({"nodes": said}, indent=None),
    }
    columns: list[NDArray[np.integer[Any]]] = [now_ns, nids, *counts]
    arrays = [pa.array(each[order]) for each in columns]
    create_table(path, pa.Table.from_arrays(arrays, schema=_columns().with_metadata(metadata)))


def read_nodes(path: Path) -> dict[int, NodeFill]:
    """Return what was kept, by nid; nothing of a file of schema 1.

    Raises:
        InputError: it is no such file, is damaged, of a newer schema, or larger than memory allows.
    """
    from gpuscan.files.parquet import check_schema, read_table
    from gpuscan.files.reading import parse_json

    if _is_earlier(path):
        return {}
    table = read_table(path, _columns(), _ROW_BYTES, _WHAT)
    metadata = table.schema.metadata or {}
    check_schema(path, metadata, SCHEMA_VERSION, _WHAT)
    try:
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        nids, now_ns, *counts = (table[name].to_numpy() for name in ("nid", "now_ns", *COUNTS))
        found = {}
        said = checked.table(
            parse_json(metadata.get(b"gpuscan.nodes", b"")), "the nodes", ("schema", "nodes")
        )
        for one in checked.items(said["nodes"], "the nodes"):
            nid, name, n_pages, marks = checked.items(one, "a node", n=4)
            mine = nids == checked.whole(nid, 0, N_NODES_MAX - 1, "a node")
            marks = checked.table(marks, "watermarks", MARKS)
            found[nid] = NodeFill(
                checked.text(name, "a node's name"),
                checked.whole(n_pages, 1, INT64_MAX, "a node's pages"),
                {mark: checked.whole(marks[mark], 0, INT64_MAX, mark) for mark in MARKS},
                now_ns[mine].tolist(),
                *(count[mine].tolist() for count in counts),
            )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); give a {NODES_FILE} of gpuscan") from error
    return found


def _is_earlier(path: Path) -> bool:
    """Whether a file is of schema 1."""
    from gpuscan.files.parquet import has_columns
    from gpuscan.files.reading import UnfitError

    columns = _columns()
    for name in COUNTS[1:]:
        columns = columns.remove(columns.get_field_index(name))
    try:
        return has_columns(path, columns)
    except (UnfitError, OSError):
        return False  # who reads it says what is wrong
