"""A map as plain data for ``draw.js``: its axes, and along the same pages, zones, nodes and holes.

What is in its cells is in the page besides (``embedded``), and drawn by ``map.js``.
"""

from __future__ import annotations

from typing import Any

from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.heatmap.space import ADDRESSES, Band, Space
from gpuscan.report.contract import Zoomed

_HEIGHT = 520
_BELOW, _ABOVE = 60, 10
"""Room below and above both plots, so that their pages lie on one line."""
_PIXELS = (512, 1024)
"""Of a map, rows and columns at most."""
_EDGE_WIDTH = 270
_ZONES, _NODES, _HOLES, _END = 0.0, 0.9, 2.8, 3.0
"""Where each begins across the edge."""
_BANDS_MAX = 1024
"""Of zones, of nodes, of holes: of more than that the edge has none, and hover says where one is."""
_LINES_MAX = 40
_SHADES = ("#dbe4ee", "#f4f4f4")
_HOLE_COLOUR = "#D55E00"


def drawn_map(figure: Zoomed) -> dict[str, Any]:
    """Return what is to be drawn of a map, for JSON."""
    space = figure.heats[0].space
    return {
        "kind": "map",
        "height": _HEIGHT,
        "above": _ABOVE,
        "below": _BELOW,
        "pixels": _PIXELS,
        "end_s": space.n_steps * space.step_ns / 1e9,
        "x_label": figure.x_label,
        "edge": {"width": _EDGE_WIDTH, "end": _END, "colour": _HOLE_COLOUR},
        "spaces": [_along(heat.space) for heat in figure.heats],
    }


def _along(space: Space) -> dict[str, Any]:
    """Return what is drawn along the pages of one map."""
    nodes = space.bands(by_zone=False)
    return {
        "n_pages": space.n_pages,
        "y_label": space.words.axis,
        "lines": [node.start for node in nodes[1:]] if len(nodes) <= _LINES_MAX else [],
        "label": space.words.edge,
        "bands": _bands(space),
        "holes": _holes(space),
    }


def _bands(space: Space) -> dict[str, list[Any]]:
    """Return columns of zones and nodes; what is shown of a name depends on the window."""
    bands = [
        (band, left, right)
        for found, left, right in (
            (space.bands(by_zone=True), _ZONES, _NODES),
            (space.bands(by_zone=False), _NODES, _HOLES),
        )
        if len(found) <= _BANDS_MAX
        for band in found
    ]
    return {
        "left": [left for _, left, _ in bands],
        "right": [right for _, _, right in bands],
        "start": [band.start for band, _, _ in bands],
        "end": [band.end for band, _, _ in bands],
        "name": [_name(space, band, left == _ZONES) for band, left, _ in bands],
        "label": [
            _short(space, band.name) if left == _ZONES else f"{band.name}, {_size(band.n_pages)}"
            for band, left, _ in bands
        ],
        "size": [_size(band.n_pages) for band, _, _ in bands],
        "pfns": [f"{space.text_of(band.start)} to {space.text_of(band.end - 1)}" for band, _, _ in bands],
        "shade": [_SHADES[at % 2] for at in range(len(bands))],
        "x": [left + 0.05 for _, left, _ in bands],
        "y": [(band.start + band.end) / 2 for band, _, _ in bands],
        "text": [""] * len(bands),
    }


def _holes(space: Space) -> dict[str, list[Any]]:
    holes, unit = space.holes(), space.words.unit_bytes
    if len(holes) > _BANDS_MAX:
        holes = []
    return {
        "x": [(_HOLES + _END) / 2] * len(holes),
        "y": [hole.flat for hole in holes],
        "name": [space.words.gap] * len(holes),
        "size": [_size(hole.n_pages) for hole in holes],
        "pfns": [f"{hole.pfn * unit:#x} to {(hole.pfn + hole.n_pages - 1) * unit:#x}" for hole in holes],
    }


def _name(space: Space, band: Band, is_zone: bool) -> str:
    return f"{space.words.part} {band.name} of {space.nodes[band.nid]}" if is_zone else band.name


def _short(space: Space, name: str) -> str:
    """Return a name for where there is little room: of a file that is mapped, its own without its folder."""
    return name.rpartition("/")[2] or name if space.kind == ADDRESSES else name


def _size(n_pages: int) -> str:
    return format_bytes(n_pages * PAGE_BYTES)
