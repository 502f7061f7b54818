"""Figures as Bokeh's models. Lines have dashes beside colours, and maps a palette that rises in lightness."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuscan.report.contract import Bars, Figure, Flow, Line, Plot, Table, Zoomed
from gpuscan.report.map_drawing import map_model

if TYPE_CHECKING:
    from bokeh.models import Range1d

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, told apart by everyone."""
_DASHES = ("solid", "dashed", "dotdash", "dotted", "dashdot")
_HEIGHT = 280
_FLOW_WIDTH = 10.0
_POINTS_MAX = 1000
"""Of a line: a screen has no more columns, and each takes some 30 bytes of the page."""


def drawn(figures: Iterable[Figure]) -> list[Any]:
    """Return a model for each figure that is no table; those behind a map that share its time follow it."""
    time: list[Range1d] = []
    style_of: dict[str, int] = {}  # a line of one name looks the same in every plot
    models = []
    for figure in figures:
        if isinstance(figure, Zoomed):
            models.append(map_model(figure, time))
        elif isinstance(figure, Plot):
            models.append(_plot(figure, time, style_of))
        elif isinstance(figure, Bars):
            models.append(_bars(figure))
        elif not isinstance(figure, Table):
            models.append(_flow(figure))
    return models


def _new(**options: Any) -> Any:
    from bokeh.plotting import figure

    made = figure(sizing_mode="stretch_width", **options)
    made.toolbar.logo = None
    return made


def _plot(figure: Plot, time: list[Any], style_of: dict[str, int]) -> Any:
    options: dict[str, Any] = {"x_axis_type": "log"} if figure.log_x else {}
    if figure.log_y:
        options["y_axis_type"] = "log"
    if figure.shares_time and time:
        options["x_range"] = time[0]
    model = _new(
        height=_HEIGHT,
        x_axis_label=figure.x_label,
        y_axis_label=figure.y_label,
        tools="xpan,xwheel_zoom,box_zoom,reset,save,hover",
        tooltips=[("", "$name"), (figure.x_label, "$x{0,0.000}"), (figure.y_label, "$y{0,0.00}")],
        **options,
    )
    for line in figure.lines:
        at = style_of.setdefault(line.name, len(style_of)) if figure.names_recur else figure.lines.index(line)
        x, y = _thinned(line)
        style = {"line_color": COLOURS[at % len(COLOURS)], "line_dash": _DASHES[at % len(_DASHES)]}
        model.line(x, y, name=line.name, legend_label=line.name, line_width=2, **style)
        if figure.has_points:
            colour = style["line_color"]
            model.scatter(x, y, name=line.name, legend_label=line.name, size=7, color=colour)
    if figure.lines:
        model.legend.click_policy = "hide"
        model.add_layout(model.legend[0], "right")
    return model


def _thinned(line: Line) -> tuple[list[float], list[float]]:
    """Return the points of a line; of a long one the lowest and the highest of each stretch of it."""
    x = np.asarray(line.x, dtype=np.float64)
    y = np.array([np.nan if value is None else value for value in line.y], dtype=np.float64)
    if len(x) > _POINTS_MAX:
        kept = set()
        for part in np.array_split(np.arange(len(x)), _POINTS_MAX // 2):
            known = part[~np.isnan(y[part])]
            kept.update({known[y[known].argmin()], known[y[known].argmax()]} if len(known) else {part[0]})
        which = np.array(sorted(kept))
        x, y = x[which], y[which]
    return x.tolist(), y.tolist()


def _bars(figure: Bars) -> Any:
    from bokeh.models import BoxAnnotation

    names = [f"{at + 1}. {name}" for at, (name, _) in enumerate(figure.bars)]  # Bokeh wants each only once
    lengths = [length for _, length in figure.bars]
    model = _new(
        height=80 + 22 * len(names),
        y_range=names[::-1],
        x_axis_label=figure.label,
        tools="save,hover",
        tooltips=[("", "@name"), (figure.label, "@length{0,0.00}")],
    )
    if figure.band is not None:
        low, high = figure.band
        model.add_layout(BoxAnnotation(left=low, right=high, fill_color=COLOURS[2], fill_alpha=0.2))
    data = {"name": names, "length": lengths}
    model.hbar(y="name", right="length", source=data, height=0.6, color=COLOURS[0])
    model.ygrid.visible = False
    return model


def _flow(figure: Flow) -> Any:
    """Return bands from one bar to one for each part, as wide as it is large."""
    parts = [(name, n) for name, n in figure.parts if n]
    total = max(1, sum(n for _, n in parts))
    gap = total * 0.04
    xs, ys, names, counts, shares, middles, colours = [], [], [], [], [], [], []
    left, right = 0.0, 0.0
    bend = np.linspace(0, 1, 24)
    smooth = bend * bend * (3 - 2 * bend)
    for at, (name, n) in enumerate(parts):
        upper, lower = left + smooth * (right - left), left + n + smooth * (right - left)
        x = bend * _FLOW_WIDTH
        xs.append([*x, *x[::-1]])
        ys.append([*upper, *lower[::-1]])
        names.append(name)
        counts.append(n)
        shares.append(n / total)
        middles.append(right + n / 2)
        colours.append(COLOURS[at % len(COLOURS)])
        left, right = left + n, right + n + gap
    model = _new(
        height=max(160, min(_HEIGHT, 60 + 40 * len(parts))),
        x_range=(-3.5, _FLOW_WIDTH + 6),
        y_range=(max(right, 1), 0),
        tools="save,hover",
        tooltips=[("", "@name"), (figure.unit, "@count{0,0}"), ("of all", "@share{0.0%}")],
    )
    data = {"xs": xs, "ys": ys, "name": names, "count": counts, "share": shares, "colour": colours}
    model.patches("xs", "ys", source=data, fill_color="colour", line_color=None, fill_alpha=0.75)
    told = [f"{name}: {n:,} ({n / total:.1%})" for name, n in parts]
    model.text(
        x=[_FLOW_WIDTH + 0.1] * len(told), y=middles, text=told, text_baseline="middle", text_font_size="13px"
    )
    model.text(
        x=[-0.1],
        y=[left / 2],
        text=[f"{figure.whole}: {sum(n for _, n in parts):,} {figure.unit}"],
        text_align="right",
        text_baseline="middle",
        text_font_size="13px",
    )
    model.axis.visible = model.grid.visible = False
    model.outline_line_color = None
    return model
