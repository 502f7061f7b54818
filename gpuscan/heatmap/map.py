"""A map in memory, and as a file.

A ``map.parquet`` has a row per cell that is not empty:

    layer   dictionary of texts   what was counted: accesses, marks, claims, moves
    row     int64                 flat pages from ``row << row_shift`` on
    column  int64                 steps of time from ``column << column_shift`` on
    count   int64                 base pages; of accesses and marks, how many

ascending by row and column in each layer. File metadata: ``gpuscan.schema`` (1), and ``gpuscan.map``: JSON
with the ``space`` (:class:`gpuscan.heatmap.space.Space`) and the shifts of each layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuscan.base import documents as checked
from gpuscan.base.errors import InputError
from gpuscan.files.writing import create, json_text
from gpuscan.heatmap.cells import COLUMN_BITS
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.space import Space

if TYPE_CHECKING:
    import pyarrow as pa

MAP_FILE, ADDRESSES_FILE = "map.parquet", "addresses.parquet"
"""Over page frames, and over addresses of processes: the same columns, of other spaces."""
LAYERS = {
    "accesses": "accesses, each at the first page of its folio",
    "marks": "pages that were marked, each at the first page of its folio",
    "claims": "base pages that a scan claimed",
    "moves": "base pages that were moved away",
}
"""What there may be -> what is counted."""
MAP_BYTES_MAX = 16 << 20
"""Of the file."""
SCHEMA_VERSION = 1
_ROW_BYTES = 64
_FIELDS = ("rows", "columns", "counts")
_NOWHERE = slice(0, 0)
_WHAT = "map"


@dataclass(frozen=True, slots=True)
class HeatMap:
    """What happened where and when.

    Attributes:
        space: the axes.
        layers: by name, one of :data:`LAYERS`.
    """

    space: Space
    layers: dict[str, Layer]

    def shared(self) -> HeatMap:
        """Return the map with layers that say the same as one object.

        They often do: all that was marked is claimed and moved in the same tick.
        """
        layers: dict[str, Layer] = {}
        for name, layer in self.layers.items():
            layers[name] = next(
                (other for other in layers.values() if other is layer or other.says_same(layer)), layer
            )
        return replace(self, layers=layers)

    def changed(self, change: Callable[[Layer], Layer]) -> HeatMap:
        """Return the map with each layer changed; those that are one object stay one."""
        made = {id(layer): change(layer) for layer in self.layers.values()}
        return replace(self, layers={name: made[id(layer)] for name, layer in self.layers.items()})

    def coarser(self) -> HeatMap:
        """Return the map with the largest of its layers at half the resolution."""
        largest = max(self.layers.values(), key=lambda layer: layer.n_cells)
        space = self.space
        return self.changed(
            lambda layer: layer.coarser(space.n_pages, space.n_steps) if layer is largest else layer
        )


def _table(heat: HeatMap) -> pa.Table:
    import pyarrow as pa

    names = list(heat.layers)
    layers = list(heat.layers.values())
    named, schema = pa.array(names, pa.string()), _columns()
    of_layer = [
        pa.DictionaryArray.from_arrays(pa.array(np.full(layer.n_cells, at, dtype=np.int32)), named)
        for at, layer in enumerate(layers)
    ]
    numbers = [[pa.array(getattr(layer, field)) for layer in layers] for field in _FIELDS]
    chunks = zip([of_layer, *numbers], schema.types, strict=True)
    columns = [pa.chunked_array(each, kind) for each, kind in chunks]  # as they are, not put together
    shifts = {
        name: {"row_shift": layer.row_shift, "column_shift": layer.column_shift, "one_in": layer.one_in}
        for name, layer in heat.layers.items()
    }
    metadata = {
        "gpuscan.schema": str(SCHEMA_VERSION),
        "gpuscan.map": json_text({"space": heat.space.document(), "layers": shifts}, indent=None),
    }
    return pa.Table.from_arrays(columns, schema=schema.with_metadata(metadata))


def _columns() -> pa.Schema:
    import pyarrow as pa

    numbers = [(name, pa.int64()) for name in ("row", "column", "count")]
    return pa.schema([("layer", pa.dictionary(pa.int32(), pa.string())), *numbers])


def create_map(path: Path, heat: HeatMap, n_bytes_max: int = MAP_BYTES_MAX) -> None:
    """Write a map to a new file in a directory that is being filled; coarser where it would be too large.

    Raises:
        OSError: the system refused it.
    """
    from gpuscan.files.parquet import table_content

    encodings = {"row": "DELTA_BINARY_PACKED", "column": "DELTA_BINARY_PACKED", "count": "PLAIN"}
    while True:
        content = table_content(
            _table(heat), compression="zstd", use_dictionary=["layer"], column_encoding=encodings
        )
        if len(content) <= n_bytes_max or not any(layer.n_cells > 1 for layer in heat.layers.values()):
            break
        heat = heat.coarser()
    with create(path) as file:
        file.write(content)


def is_map_file(path: Path) -> bool:
    """Whether a file looks like one of these; reading it will tell whether it is whole.

    Raises:
        OSError: it cannot be opened.
        UnfitError: it is no regular file.
    """
    from gpuscan.files.parquet import has_columns

    return has_columns(path, _columns())


def read_map(path: Path) -> HeatMap:
    """Return a map from its file.

    Raises:
        InputError: it is not one, is cut short, of a newer schema, or larger than memory allows.
    """
    from gpuscan.files.parquet import check_schema, read_table
    from gpuscan.files.reading import parse_json

    table = read_table(path, _columns(), _ROW_BYTES, _WHAT)
    metadata = table.schema.metadata or {}
    check_schema(path, metadata, SCHEMA_VERSION, _WHAT)
    try:
        found = checked.table(
            parse_json(metadata.get(b"gpuscan.map", b"")), "the map", ("schema", "space", "layers")
        )
        space = Space.parsed(found["space"])
        layers = checked.table(found["layers"], "layers")
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        where = _where(table["layer"])
        cells = {name: table[name].to_numpy() for name in ("row", "column", "count")}
        heat = HeatMap(
            space,
            {
                name: _layer(said, [cells[each][where.get(name, _NOWHERE)] for each in cells], space)
                for name, said in layers.items()
                if name in LAYERS
            },
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); give a {MAP_FILE} of gpuscan") from error
    return heat


def _where(column: pa.ChunkedArray) -> dict[str, slice]:
    """Return the rows of each layer, which lie together."""
    column = column.unify_dictionaries()
    texts = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
    if len(set(texts)) != len(texts):
        raise ValueError("a layer is named twice")
    rows = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in column.chunks]
    of_row = np.concatenate([np.empty(0, np.int32), *rows])
    if len(of_row) and not 0 <= of_row.min() <= of_row.max() < len(texts):
        raise ValueError("a row is of no layer")
    starts = np.flatnonzero(np.diff(of_row, prepend=-1))
    ends = [*starts[1:].tolist(), len(of_row)]
    found = {
        texts[at]: slice(start, end)
        for at, start, end in zip(of_row[starts].tolist(), starts.tolist(), ends, strict=True)
    }
    if len(found) != len(starts):
        raise ValueError("a layer lies in several places")
    return found


def _layer(said: Any, cells: list[Any], space: Space) -> Layer:
    found = checked.table(said, "a layer", ("row_shift", "column_shift", "one_in"))
    row_shift = checked.whole(found["row_shift"], 0, 40, "row_shift")
    column_shift = checked.whole(found["column_shift"], 0, 40, "column_shift")
    one_in = checked.whole(found["one_in"], 1, 1 << 20, "one_in")
    rows, columns, counts = cells
    if len(rows):
        bounds = (
            (rows, space.n_pages - 1 >> row_shift),
            (columns, (1 << COLUMN_BITS) - 1),
            (counts, 1 << 62),
        )
        if any(int(each.min()) < 0 or int(each.max()) > most for each, most in bounds):
            raise ValueError("a cell lies outside the machine")
        keys = rows << COLUMN_BITS | columns
        if (keys[1:] <= keys[:-1]).any():
            raise ValueError("its cells are not in order")
    return Layer.of(rows, columns, counts, row_shift, column_shift, one_in)
