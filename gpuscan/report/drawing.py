"""Figures as plain data for ``draw.js``, which draws them by BokehJS in the browser.

Lines have dashes beside colours, and maps a palette that rises in lightness.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpuscan.report.contract import Bars, Figure, Flow, Line, Multiples, Plot, Table, Zoomed
from gpuscan.report.map_drawing import drawn_map

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, told apart by everyone."""
_DASHES = ("solid", "dashed", "dotdash", "dotted", "dashdot")
_HEIGHT = 280
_FLOW_WIDTH = 10.0
_FLOW_COLUMNS, _FLOW_LINES = 34, 3
_SMALL_HEIGHT = 170
_FEW_POINTS = 100
_POINTS_MAX = 1000
"""Of a line: a screen has no more columns, and each takes some 30 bytes of the page."""


def drawn(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Return what is to be drawn, for JSON, of each figure that is no table."""
    style_of: dict[str, int] = {}  # a line of one name looks the same in every plot
    found = []
    for figure in figures:
        if isinstance(figure, Zoomed):
            found.append(drawn_map(figure))
        elif isinstance(figure, Plot):
            found.append(_plot(figure, style_of))
        elif isinstance(figure, Multiples):
            found.append(_multiples(figure, style_of))
        elif isinstance(figure, Bars):
            found.append(_bars(figure))
        elif not isinstance(figure, Table):
            found.append(_flow(figure))
    return found


def _styled(line: Line, at: int, n_points_max: int = _POINTS_MAX) -> dict[str, Any]:
    x, y = _thinned(line, n_points_max)
    style = {"colour": COLOURS[at % len(COLOURS)], "dash": _DASHES[at % len(_DASHES)]}
    return {"name": line.name, "x": x, "y": y, **style}


def _multiples(figure: Multiples, style_of: dict[str, int]) -> dict[str, Any]:
    lines = [
        _styled(line, style_of.setdefault(line.name, len(style_of)), _FEW_POINTS) for line in figure.lines
    ]
    return {
        "kind": "multiples",
        "height": _SMALL_HEIGHT,
        "x_label": figure.x_label,
        "y_label": figure.y_label,
        "log_x": figure.log_x,
        "lines": lines,
    }


def _plot(figure: Plot, style_of: dict[str, int]) -> dict[str, Any]:
    lines = []
    for number, line in enumerate(figure.lines):
        at = style_of.setdefault(line.name, len(style_of)) if figure.names_recur else number
        lines.append(_styled(line, at))
    return {
        "kind": "plot",
        "height": _HEIGHT,
        "x_label": figure.x_label,
        "y_label": figure.y_label,
        "log_x": figure.log_x,
        "log_y": figure.log_y,
        "shares_time": figure.shares_time,
        "has_points": figure.has_points,
        "lines": lines,
    }


def _thinned(line: Line, n_points_max: int) -> tuple[list[float | None], list[float | None]]:
    """Return the points of a line; of a long one the lowest and the highest of each stretch of it."""
    x = np.asarray(line.x, dtype=np.float64)
    y = np.array([np.nan if value is None else value for value in line.y], dtype=np.float64)
    if len(x) > n_points_max:
        kept = set()
        for part in np.array_split(np.arange(len(x)), n_points_max // 2):
            known = part[~np.isnan(y[part])]
            kept.update({known[y[known].argmin()], known[y[known].argmax()]} if len(known) else {part[0]})
        which = np.array(sorted(kept))
        x, y = x[which], y[which]
    return _finite(x.tolist()), _finite(y.tolist())


def _finite(values: Iterable[float]) -> list[float | None]:
    """Return None for what JSON has no number for: nothing is drawn there."""
    return [value if math.isfinite(value) else None for value in values]


def _bars(figure: Bars) -> dict[str, Any]:
    names = [f"{at + 1}. {name}" for at, (name, _) in enumerate(figure.bars)]  # Bokeh wants each only once
    return {
        "kind": "bars",
        "height": 80 + 22 * len(names),
        "label": figure.label,
        "names": names,
        "lengths": _finite(length for _, length in figure.bars),
        "band": figure.band if figure.band is not None and None not in _finite(figure.band) else None,
        "colour": COLOURS[0],
        "band_colour": COLOURS[2],
    }


def _folded(text: str) -> str:
    """Return a text in lines that have room beside a flow; the page has it whole below."""
    return "\n".join(textwrap.wrap(text, _FLOW_COLUMNS, max_lines=_FLOW_LINES, placeholder=" …"))


def _flow(figure: Flow) -> dict[str, Any]:
    """Return bands from one bar to one for each part, as wide as it is large."""
    parts = [(name, n) for name, n in figure.parts if n]
    total = max(1, sum(n for _, n in parts))
    gap = total * 0.04
    xs, ys, middles = [], [], []
    left, right = 0.0, 0.0
    bend = np.linspace(0, 1, 24)
    smooth = bend * bend * (3 - 2 * bend)
    x = bend * _FLOW_WIDTH
    for _, n in parts:
        upper, lower = left + smooth * (right - left), left + n + smooth * (right - left)
        xs.append([*x.tolist(), *x[::-1].tolist()])
        ys.append([*upper.tolist(), *lower[::-1].tolist()])
        middles.append(right + n / 2)
        left, right = left + n, right + n + gap
    told = [
        {
            "x": _FLOW_WIDTH + 0.1,
            "y": middle,
            "text": _folded(f"{name}: {n:,} ({n / total:.1%})"),
            "align": "left",
        }
        for middle, (name, n) in zip(middles, parts, strict=True)
    ]
    whole = _folded(f"{figure.whole}: {sum(n for _, n in parts):,} {figure.unit}")
    return {
        "kind": "flow",
        "height": max(160, 60 + 45 * len(parts)),
        "unit": figure.unit,
        "x_range": (-3.5, _FLOW_WIDTH + 6),
        "y_range": (max(right, 1), 0),
        "bands": {
            "xs": xs,
            "ys": ys,
            "name": [name for name, _ in parts],
            "count": [n for _, n in parts],
            "share": [n / total for _, n in parts],
            "colour": [COLOURS[at % len(COLOURS)] for at in range(len(parts))],
        },
        "texts": [*told, {"x": -0.1, "y": left / 2, "text": whole, "align": "right"}],
    }
