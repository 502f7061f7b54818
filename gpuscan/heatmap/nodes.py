"""How full each node was, over time, and its watermarks: a ``nodes.parquet``.

    now_ns      int64   the end of a stretch of time, since the start
    nid         int16
    free_pages  int64   of the buddy allocator, all zones of the node

ascending by time and then by node. File metadata: ``gpuscan.schema`` (1), and ``gpuscan.nodes``: JSON, for
each node its name, its pages, and the sums of its zones' watermarks in pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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
SCHEMA_VERSION = 1
MARKS = ("min", "low", "high", "promo")
_ROW_BYTES = 18
_WHAT = "nodes"


@dataclass(frozen=True, slots=True)
class NodeFill:
    """How full a node was.

    Attributes:
        name: such as ``node 2 (cxl)``.
        n_pages: present on it.
        marks: by name, one of :data:`MARKS`: free pages, the sum over its zones.
        now_ns, free_pages: at the end of each stretch of time.
    """

    name: str
    n_pages: int
    marks: Mapping[str, int]
    now_ns: list[int]
    free_pages: list[int]

    def spare(self, free_pages: int) -> float:
        """Return what is free above the low watermark, as a share of the node."""
        return (free_pages - self.marks["low"]) / self.n_pages


def empty_nodes(topology: Topology) -> dict[int, NodeFill]:
    """Return every node that has memory, with nothing counted yet, by nid."""
    names = node_names(topology)
    return {
        node.nid: NodeFill(
            names[node.nid],
            node.present_pages,
            {mark: sum(getattr(zone.watermarks, mark) for zone in node.zones) for mark in MARKS},
            [],
            [],
        )
        for node in topology.nodes
        if node.present_pages
    }


def _columns() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("now_ns", pa.int64()), ("nid", pa.int16()), ("free_pages", pa.int64())])


def create_nodes(path: Path, nodes: Mapping[int, NodeFill]) -> None:
    """Write to a new file in a directory that is being filled.

    Raises:
        OSError: the system refused it.
    """
    import pyarrow as pa

    from gpuscan.files.parquet import create_table

    nids = np.repeat(list(nodes), [len(node.now_ns) for node in nodes.values()]).astype(np.int16)
    now_ns = np.array([ns for node in nodes.values() for ns in node.now_ns], dtype=np.int64)
    free = np.array([n for node in nodes.values() for n in node.free_pages], dtype=np.int64)
    order = np.lexsort((nids, now_ns))
    said = [[nid, node.name, node.n_pages, dict(node.marks)] for nid, node in nodes.items()]
    metadata = {
        "gpuscan.schema": str(SCHEMA_VERSION),
        "gpuscan.nodes": json_text({"nodes": said}, indent=None),
    }
    arrays = [pa.array(each[order]) for each in (now_ns, nids, free)]
    create_table(path, pa.Table.from_arrays(arrays, schema=_columns().with_metadata(metadata)))


def read_nodes(path: Path) -> dict[int, NodeFill]:
    """Return what was kept, by nid.

    Raises:
        InputError: it is no such file, is damaged, of a newer schema, or larger than memory allows.
    """
    from gpuscan.files.parquet import check_schema, read_table
    from gpuscan.files.reading import parse_json

    table = read_table(path, _columns(), _ROW_BYTES, _WHAT)
    metadata = table.schema.metadata or {}
    check_schema(path, metadata, SCHEMA_VERSION, _WHAT)
    try:
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        nids, now_ns, free = (table[name].to_numpy() for name in ("nid", "now_ns", "free_pages"))
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
                free[mine].tolist(),
            )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); give a {NODES_FILE} of gpuscan") from error
    return found
