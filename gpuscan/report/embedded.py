"""A map as text in a page: its cells, from which the browser draws any window.

Of each cell there are three numbers of 32 bits: the step from the row before, the column, the count. A map
that reaches beyond 16 TiB of single pages is made coarser until its rows are such numbers. Their
lowest bytes lie together in one plane, then the next ones, twelve in all: what is alike lies together. Of a
plane whose bytes are all the same there is one; the others, one after the other, are in one gzip. Layers that
say the same share their cells. ``map.js`` reads it.
"""

from __future__ import annotations

import base64
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled
from gpuscan.heatmap.cells import COLUMN_BITS
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import LAYERS, HeatMap

_PLANES, _NUMBER_BYTES = 12, 4
_GZIP_BITS = 31
"""The largest window, and the head and foot of gzip."""


def fitting(heat: HeatMap) -> HeatMap:
    """Return a map whose layers have rows as :func:`embedded` takes them; the same object if it has them."""
    if all(_row_shift(layer) == layer.row_shift for layer in heat.layers.values()):
        return heat
    return heat.changed(lambda layer: layer.at(_row_shift(layer), layer.column_shift))


def _row_shift(layer: Layer) -> int:
    """Return how coarse a layer has to be, at least as coarse as it is."""
    return layer.row_shift + max(0, layer.last_row.bit_length() - 8 * _NUMBER_BYTES)


def embedded(heat: HeatMap) -> dict[str, Any]:
    """Return what :func:`map.js` draws of, for JSON; layers that are one object have one set of cells.

    Rows that 32 bits cannot say are made coarser before, see :func:`fitting`.
    """
    heat = fitting(heat)
    layers = {id(layer): layer for layer in heat.layers.values()}
    with ThreadPoolExecutor() as pool:  # zlib and what is compiled let go of the interpreter
        cells = list(pool.map(_packed, layers.values()))
    number_of = {key: number for number, key in enumerate(layers)}
    return {
        **heat.space.document(),
        "cells": cells,
        "layers": [
            {
                "name": name,
                "what": LAYERS[name],
                "row_shift": layer.row_shift,
                "column_shift": layer.column_shift,
                "one_in": layer.one_in,
                "cells": number_of[id(layer)],
            }
            for name, layer in heat.layers.items()
        ],
    }


def _packed(layer: Layer) -> dict[str, Any]:
    planes = np.empty((_PLANES, layer.n_cells), dtype=np.uint8)
    _into_planes(planes, layer.keys, layer.counts)
    alike = [int(plane[0]) if len(plane) and plane.min() == plane.max() else None for plane in planes]
    # Runs alone: what is not alike in such a plane hardly recurs, and to look for it takes most of the time.
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP_BITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    pieces = (
        packer.compress(plane.data) for plane, value in zip(planes, alike, strict=True) if value is None
    )
    packed = b"".join(pieces) + packer.flush()
    return {"n": layer.n_cells, "planes": alike, "packed": base64.b64encode(packed).decode()}


@compiled
def _into_planes(planes: NDArray[np.uint8], keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    most, before = (1 << 8 * _NUMBER_BYTES) - 1, 0
    for at in range(len(keys)):
        row, column, count = (
            keys[at] >> COLUMN_BITS,
            keys[at] & ((1 << COLUMN_BITS) - 1),
            min(counts[at], most),
        )
        step, before = row - before, row
        for byte in range(_NUMBER_BYTES):
            planes[byte, at] = (step >> 8 * byte) & 255
            planes[_NUMBER_BYTES + byte, at] = (column >> 8 * byte) & 255
            planes[2 * _NUMBER_BYTES + byte, at] = (count >> 8 * byte) & 255
