"""How much memory is how hot, or was touched how long ago; named as damo names such histograms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES, format_time
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import HeatMap
from gpuscan.heatmap.request import Window

HISTOGRAMS = ("temperature-sz-hist", "recency-sz-hist")
_NEVER = "never"


def histogram(heat: HeatMap, layer: Layer, window: Window, kind: str) -> list[tuple[str, int]]:
    """Return bytes of memory by temperature (counts per page and second), or by time since the last one.

    A row of the layer is taken as a whole: where it has several pages, they share its count.

    Args:
        heat, layer, window: of what.
        kind: one of :data:`HISTOGRAMS`.

    Returns:
        Bounds as text and bytes, in powers of two, the hottest or latest last; ``never`` is first.
    """
    first, end = window.pages[0] >> layer.row_shift, -(-window.pages[1] >> layer.row_shift)
    low, high = window.steps[0] >> layer.column_shift, -(-window.steps[1] >> layer.column_shift)
    rows, columns = layer.rows, layer.columns
    inside = (rows >= first) & (rows < end) & (columns >= low) & (columns < high)
    rows, where = np.unique(rows[inside], return_inverse=True)
    n_present = _present(heat, window.pages)
    row_bytes = np.minimum(PAGE_BYTES << layer.row_shift, n_present * PAGE_BYTES)
    seconds = (window.steps[1] - window.steps[0]) * heat.space.step_ns / 1e9
    if kind == HISTOGRAMS[0]:
        counts = np.bincount(where, weights=layer.counts[inside], minlength=len(rows))
        values = counts / (1 << layer.row_shift) / seconds
        bounds = _powers(values, lambda low, high: f"{low:g} to {high:g} per page and second")
    else:
        last = np.zeros(len(rows), dtype=np.int64)
        np.maximum.at(last, where, columns[inside])
        ended = (last + 1) << layer.column_shift
        values = -np.maximum(window.steps[1] - ended, 0) * heat.space.step_ns / 1e9
        step_s = (1 << layer.column_shift) * heat.space.step_ns / 1e9
        bounds = _powers(
            -values + step_s, lambda low, high: f"{format_time(low * 1e9)} to {format_time(high * 1e9)} ago"
        )[::-1]
    untouched = max(0, n_present * PAGE_BYTES - len(rows) * int(row_bytes))
    return [(_NEVER, untouched), *((text, n * int(row_bytes)) for text, n in bounds)]


def _powers(values: NDArray[np.float64], said: Callable[[float, float], str]) -> list[tuple[str, int]]:
    if not len(values):
        return []
    exponents = np.floor(np.log2(values)).astype(np.int64)
    lowest, highest = int(exponents.min()), int(exponents.max())
    return [
        (said(2.0**exponent, 2.0 ** (exponent + 1)), int((exponents == exponent).sum()))
        for exponent in range(lowest, highest + 1)
    ]


def _present(heat: HeatMap, pages: tuple[int, int]) -> int:
    return sum(
        max(0, min(start + n_pages, pages[1]) - max(start, pages[0]))
        for start, _, n_pages, _, _ in heat.space.extents
    )
