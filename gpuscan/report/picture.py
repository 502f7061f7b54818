"""A map as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.files.writing import new_file
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import LAYERS, HeatMap
from gpuscan.heatmap.request import Window

_MOST = (900, 1200)
_DPI = 110
_N_NODES_NAMED = 32


def draw_map(heat: HeatMap, name: str, layer: Layer, window: Window, path: Path) -> None:
    """Draw one layer of a map.

    Raises:
        InputError: matplotlib is not installed, or something other than a file is at ``path``.
        RunFailedError: the system refused it; nothing was left.
    """
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError(
            f"--png needs {error.name}, which is not installed: {install_command('report', 'matplotlib')}, "
            "or leave it out"
        ) from error
    image, space = window.image(layer, _MOST), heat.space
    height, width = image.pixels.shape
    figure = Figure(figsize=(10, 7), layout="constrained")
    ax = figure.subplots()
    step_s = space.step_ns / 1e9
    first, end = image.first_page, image.first_page + height * image.pages_each
    left, right = image.first_step * step_s, (image.first_step + width * image.steps_each) * step_s
    shown = ax.imshow(
        np.where(image.pixels > 0, image.pixels, np.nan),
        aspect="auto",
        interpolation="nearest",
        cmap="cividis",
        norm=LogNorm(1, max(2.0, float(image.pixels.max(initial=0.0)))),
        extent=(left, right, end, first),
    )
    figure.colorbar(shown, label=f"{LAYERS[name]}, a pixel")
    ticks = np.linspace(first, end, 9)[:-1].astype(int)
    ax.set_yticks(ticks, [space.text_of(int(flat)) for flat in ticks])
    ax.set(xlabel="time (s)", ylabel=space.words.axis, title=_plain(f"{name} on {space.machine}"))
    edges = [(extent[0], extent[3]) for extent in space.extents if extent[0] < end]
    edges = [(flat, nid) for at, (flat, nid) in enumerate(edges) if at == 0 or edges[at - 1][1] != nid]
    if len(edges) <= _N_NODES_NAMED:
        for flat, nid in edges:
            ax.axhline(max(flat, first), color="0.5", linewidth=0.6)
            ax.annotate(
                _plain(space.nodes[nid]), (right, max(flat, first)), ha="right", va="top", fontsize="small"
            )
    with new_file(path) as file:
        figure.savefig(file, format="png", dpi=_DPI)


def _plain(text: str) -> str:
    """Return a name of somebody's that matplotlib takes for no formula."""
    return text.replace("$", r"\$")
