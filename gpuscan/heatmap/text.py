"""A map as lines of text: a character per pixel, denser where more happened, readable without colours."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_number, format_time
from gpuscan.heatmap.layer import Image, Layer
from gpuscan.heatmap.map import LAYERS, HeatMap

SHADES = " ·░▒▓█"
"""From nothing to the most; one each for how many, on a scale of logarithms."""
COLOURS = (None, 17, 54, 126, 208, 228)
"""Of the 256 of a terminal, one for each shade: lightness rises, so they are told apart without hues."""


def levels(image: Image) -> NDArray[np.int64]:
    """Return int64[height, width], the shade of every pixel."""
    most = float(image.pixels.max(initial=0.0))
    if most <= 0:
        return np.zeros(image.pixels.shape, dtype=np.int64)
    n = len(SHADES) - 1
    scaled = np.ceil(n * np.log1p(image.pixels) / math.log1p(most) - 1e-9).astype(np.int64)
    return np.clip(scaled, (image.pixels > 0).astype(np.int64), n)


def labels(heat: HeatMap, image: Image) -> list[tuple[str, str]]:
    """Return for each row its node, where it changes, and its first PFN."""
    rows, before = [], ""
    for at in range(len(image.pixels)):
        first = image.first_page + at * image.pages_each
        node = heat.space.nodes_in(first, first + image.pages_each)
        rows.append((node if node != before else "", heat.space.text_of(first)))
        before = node
    return rows


def title(heat: HeatMap, name: str, layer: Layer) -> str:
    """Return a line that says what is shown."""
    sampled = f"; one in {layer.one_in} was looked at" if layer.one_in > 1 else ""
    return f"{name} on {heat.space.machine}: {LAYERS[name]}{sampled}"


def scale(heat: HeatMap, image: Image) -> list[str]:
    """Return lines that say what the axes and the shades are."""
    step_ns = heat.space.step_ns
    most = image.pixels.max(initial=0.0)
    words = heat.space.words
    row = f"{format_bytes(image.pages_each * PAGE_BYTES)} ({format_number(image.pages_each, 'page')})"
    return [
        f"down: {words.axis}; of each row the first, {row} each",
        f"across: time from the start, {format_time(image.steps_each * step_ns)} a character",
        f"shades: {SHADES[1:]} from 1 to {most:,.0f} a character, by logarithms; blank: none",
    ]


def time_axis(heat: HeatMap, image: Image) -> tuple[str, str]:
    """Return the line under the map, and the times under it."""
    width = image.pixels.shape[1]
    each_s = image.steps_each * heat.space.step_ns / 1e9
    line, times = ["─"] * width, [" "] * (width + 12)
    for at in range(0, width, 20):
        line[at] = "┬"
        told = f"{image.first_step * heat.space.step_ns / 1e9 + at * each_s:g} s"
        times[at : at + len(told)] = told
    return "".join(line), "".join(times).rstrip()
