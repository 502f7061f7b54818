"""A map as Bokeh's models: the plot itself, and beside it, along the same pages, zones, nodes and holes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.heatmap.space import Band, Space
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


def map_model(figure: Zoomed, time: list[Any]) -> Any:
    """Return a map with its edge; its range of time is added to ``time``."""
    from bokeh.layouts import row
    from bokeh.models import Range1d

    space = figure.heat.space
    x_range, y_range = Range1d(0.0, space.n_steps * space.step_ns / 1e9), Range1d(space.n_pages, 0)
    time.append(x_range)
    return row(_map(figure, x_range, y_range), _edge(space, y_range), sizing_mode="stretch_width")


def _map(figure: Zoomed, x_range: Any, y_range: Any) -> Any:
    from bokeh.models import CustomJSHover, CustomJSTickFormatter, LogColorMapper, Span
    from bokeh.palettes import Cividis256
    from bokeh.plotting import figure as new

    space = figure.heat.space
    model = new(
        height=_HEIGHT,
        min_border_top=_ABOVE,
        min_border_bottom=_BELOW,
        sizing_mode="stretch_width",
        name="gpuscan-map",
        x_range=x_range,
        y_range=y_range,
        x_axis_label=figure.x_label,
        y_axis_label="page frame number (PFN); holes are left out",
        tools="pan,wheel_zoom,box_zoom,reset,save,hover",
        active_scroll="wheel_zoom",
        tooltips=[("PFN", "$y{custom}"), ("time (s)", "$x{0,0.000}"), ("how many", "@image{0,0}")],
    )
    model.toolbar.logo = None
    colours = LogColorMapper(palette=Cividis256, low=1, high=2, low_color="rgba(0,0,0,0)")
    pixels, size = np.zeros(_PIXELS, dtype=np.float32), (x_range.end, float(space.n_pages))
    model.image(image=[pixels], x=[0.0], y=[0.0], dw=[size[0]], dh=[size[1]], color_mapper=colours)
    model.hover[0].formatters = {"$y": CustomJSHover(code="return gpuscanMap.where(value)")}
    model.yaxis.formatter = CustomJSTickFormatter(code="return '0x' + gpuscanMap.pfnOf(tick).toString(16)")
    model.background_fill_color = "#f4f4f4"
    nodes = space.bands(by_zone=False)
    if len(nodes) <= _LINES_MAX:
        for node in nodes[1:]:
            model.add_layout(Span(location=node.start, dimension="width", line_color="#777777", line_width=1))
    return model


def _edge(space: Space, y_range: Any) -> Any:
    """Return zones, nodes and holes; ``map.js`` puts names where their bands are seen."""
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure as new

    model = new(
        height=_HEIGHT,
        width=_EDGE_WIDTH,
        min_border_top=_ABOVE,
        min_border_bottom=_BELOW,
        sizing_mode="fixed",
        name="gpuscan-edge",
        x_range=(_ZONES, _END),
        y_range=y_range,
        x_axis_label="zones, nodes, holes (orange)",
        tools="",
        toolbar_location=None,
    )
    bands = [
        (band, left, right)
        for found, left, right in (
            (space.bands(by_zone=True), _ZONES, _NODES),
            (space.bands(by_zone=False), _NODES, _HOLES),
        )
        if len(found) <= _BANDS_MAX
        for band in found
    ]
    data = {
        "left": [left for _, left, _ in bands],
        "right": [right for _, _, right in bands],
        "start": [band.start for band, _, _ in bands],
        "end": [band.end for band, _, _ in bands],
        "name": [_name(space, band, left == _ZONES) for band, left, _ in bands],
        "label": [
            band.name if left == _ZONES else f"{band.name}, {_size(band.n_pages)}" for band, left, _ in bands
        ],
        "size": [_size(band.n_pages) for band, _, _ in bands],
        "pfns": [_pfns(space.pfn_of(band.start), space.pfn_of(band.end - 1)) for band, _, _ in bands],
        "shade": [_SHADES[at % 2] for at in range(len(bands))],
        "x": [left + 0.05 for _, left, _ in bands],
        "y": [(band.start + band.end) / 2 for band, _, _ in bands],
        "text": [""] * len(bands),
    }
    source = ColumnDataSource(data, name="gpuscan-bands")
    shown = [
        model.quad("left", "right", "start", "end", source=source, fill_color="shade", line_color="#777777")
    ]
    model.text("x", "y", "text", source=source, text_baseline="middle", text_font_size="12px")
    holes = space.holes()
    if len(holes) <= _BANDS_MAX:
        shown.append(
            model.scatter(
                "x",
                "y",
                source=ColumnDataSource(
                    {
                        "x": [(_HOLES + _END) / 2] * len(holes),
                        "y": [hole.flat for hole in holes],
                        "name": ["hole, left out"] * len(holes),
                        "size": [_size(hole.n_pages) for hole in holes],
                        "pfns": [_pfns(hole.pfn, hole.pfn + hole.n_pages - 1) for hole in holes],
                    },
                    name="gpuscan-holes",
                ),
                marker="triangle",
                angle=np.pi / 2,
                size=9,
                color=_HOLE_COLOUR,
            )
        )
    model.add_tools(HoverTool(renderers=shown, tooltips=[("", "@name"), ("size", "@size"), ("PFN", "@pfns")]))
    model.xaxis.ticker = []
    model.yaxis.visible = model.grid.visible = False
    return model


def _name(space: Space, band: Band, is_zone: bool) -> str:
    return f"zone {band.name} of {space.nodes[band.nid]}" if is_zone else band.name


def _size(n_pages: int) -> str:
    return format_bytes(n_pages * PAGE_BYTES)


def _pfns(first: int, last: int) -> str:
    return f"{first:#x} to {last:#x}"
