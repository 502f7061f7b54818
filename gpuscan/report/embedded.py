"""A map as text in a page: its cells, from which the browser draws any window.

Each layer is three arrays of uint32 in one gzip: the step from the row before, the column, the count. The
lowest bytes of all cells come first, then the next ones: what is alike lies together. ``map.js`` reads it.
"""

from __future__ import annotations

import base64
import gzip
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import LAYERS, HeatMap

_UINT32_MAX = (1 << 32) - 1


def embedded(heat: HeatMap) -> dict[str, Any]:
    """Return what :func:`map.js` draws of, for JSON."""
    with ThreadPoolExecutor() as pool:  # zlib lets go of the interpreter
        cells = list(pool.map(_packed, heat.layers.values()))
    return {
        **heat.space.document(),
        "layers": [
            {
                "name": name,
                "what": LAYERS[name],
                "row_shift": layer.row_shift,
                "column_shift": layer.column_shift,
                "one_in": layer.one_in,
                "n": len(layer.rows),
                "cells": packed,
            }
            for (name, layer), packed in zip(heat.layers.items(), cells, strict=True)
        ],
    }


def _packed(layer: Layer) -> str:
    return base64.b64encode(gzip.compress(_bytes(layer), 4, mtime=0)).decode()


def _bytes(layer: Layer) -> bytes:
    steps = np.diff(layer.rows, prepend=0)
    return b"".join(_planes(each) for each in (steps, layer.columns, layer.counts))


def _planes(values: NDArray[np.int64]) -> bytes:
    words = np.minimum(values, _UINT32_MAX).astype("<u4")
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 4).T).tobytes()
