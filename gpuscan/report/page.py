"""A page as one HTML file that opens anywhere: everything is in it, and it may request nothing."""

from __future__ import annotations

import html
import json
import shlex
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.report.contract import Figure, Page, Zoomed
from gpuscan.report.embedded import embedded

if TYPE_CHECKING:
    from gpuscan.heatmap.map import HeatMap

MAX_BYTES = 5_000_000
"""Of a page, by default."""
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; form-action 'none'; base-uri 'none'"
)
"""The browser itself refuses whatever would be requested, whoever asks for it."""
_NOSCRIPT = "This page draws its plots by a script of its own; allow it to run. It requests nothing."
_MOVES = {"in": "+", "out": "−", "left": "←", "right": "→", "up": "↑", "down": "↓"}
_SAID = {"in": "zoom in", "out": "zoom out"}


def require_bokeh() -> None:
    """Check that a page can be made.

    Raises:
        InputError: Bokeh is not installed.
    """
    try:
        import bokeh.plotting  # noqa: F401 (only whether it can be)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a report needs {error.name}, which is not installed: {install_command('report', 'bokeh')}"
        ) from error


def page_html(page: Page, result: Path, max_bytes: int = MAX_BYTES) -> tuple[str, tuple[str, ...]]:
    """Return a page as text, and sentences on what was made coarser for its size.

    Args:
        page: what it says.
        result: where that came from, for the command at its foot.
        max_bytes: it is never larger; maps are coarser then.

    Raises:
        InputError: Bokeh is not installed, or what is no map does not fit.
    """
    require_bokeh()
    notes: tuple[str, ...] = ()
    while True:
        text = _rendered(replace(page, notes=page.notes + notes), result)
        too_much = len(text.encode()) - max_bytes
        if too_much <= 0:
            return text, notes
        heats = [figure.heat for figure in page.figures if isinstance(figure, Zoomed)]
        if not any(len(layer.rows) > 1 for heat in heats for layer in heat.layers.values()):
            least = format_bytes(len(text.encode()))
            raise InputError(f"the page takes {least} without any map; give a --max-size of that or more")
        page = replace(page, figures=tuple(_coarser(figure, too_much) for figure in page.figures))
        notes = (_says_how_coarse(page, max_bytes),)


def _coarser(figure: Figure, too_much: int) -> Figure:
    if not isinstance(figure, Zoomed):
        return figure
    heat = figure.heat
    cells = sum(len(layer.rows) for layer in heat.layers.values())
    wanted = max(1, cells - too_much // 5)  # a cell takes about four bytes and a half, or fewer
    while True:
        heat = heat.coarser()
        now = sum(len(layer.rows) for layer in heat.layers.values())
        if now <= wanted or now <= len(heat.layers):
            return replace(figure, heat=heat)


def _says_how_coarse(page: Page, max_bytes: int) -> str:
    said = []
    for figure in page.figures:
        if isinstance(figure, Zoomed):
            step_s = figure.heat.space.step_ns / 1e9
            said += [
                f"{name} by {format_bytes(PAGE_BYTES << layer.row_shift)} "
                f"and {step_s * (1 << layer.column_shift):g} s"
                for name, layer in figure.heat.layers.items()
            ]
    return (
        f"The map is coarser than what was kept, so that the page has at most {max_bytes:,} bytes: "
        f"{', '.join(said)}. A larger --max-size shows more."
    )


def _rendered(page: Page, result: Path) -> str:
    from bokeh.embed import components
    from bokeh.resources import INLINE, Resources

    from gpuscan.report.drawing import drawn

    heats = [figure.heat for figure in page.figures if isinstance(figure, Zoomed) and figure.heat.layers]
    first = next(iter(heats[0].layers)) if heats else ""
    shown = [figure for figure in page.figures if not isinstance(figure, Zoomed) or figure.heat.layers]
    script, places = components(tuple(drawn(shown, first)), wrap_script=False)
    bokeh_js = "\n".join(Resources(mode=INLINE.mode, components=["bokeh"]).js_raw)
    sections = [
        _section(figure, place, at) for at, (figure, place) in enumerate(zip(shown, places, strict=True))
    ]
    style = (files(__package__) / "page.css").read_text(encoding="utf-8")
    scripts = [_script(bokeh_js), *([] if not heats else _map_scripts(heats[0])), _script(script)]
    facts = "".join(f"<tr><th>{_text(what)}</th><td>{_text(value)}</td></tr>" for what, value in page.facts)
    notes = "".join(f"<p>{_text(note)}</p>" for note in page.notes)
    made = _text(f"gpuscan report {shlex.quote(str(result))}")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{_text(page.title)}</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n<h1>{_text(page.title)}</h1>\n"
        f'<p class="sub">{_text(page.subtitle)}</p>\n<noscript><p>{_NOSCRIPT}</p></noscript>\n'
        f"<table>{facts}</table>\n{notes}\n{''.join(sections)}\n"
        f'<p class="made">Made by <code>{made}</code></p>\n{"".join(scripts)}</body>\n</html>\n'
    )


def _section(figure: Figure, place: str, at: int) -> str:
    about = figure.about
    controls = _controls(figure.heat) if isinstance(figure, Zoomed) else ""
    return (
        f'<section aria-labelledby="figure-{at}"><h2 id="figure-{at}">{_text(about.title)}</h2>\n'
        f'<p>{_text(about.sentence)}</p>\n{controls}<figure class="plot">{place}</figure>\n'
        f'<p class="made">From: <code>{_text(about.command)}</code></p></section>\n'
    )


def _controls(heat: HeatMap) -> str:
    layers = "".join(f'<button type="button" data-layer="{name}">{name}</button> ' for name in heat.layers)
    moves = "".join(
        f'<button type="button" data-move="{move}" aria-label="{_SAID.get(move, move)}">{sign}</button> '
        for move, sign in _MOVES.items()
    )
    whole = '<button type="button" id="gpuscan-whole">all of it</button>'
    return (
        f'<nav>{layers} | {moves}{whole}</nav>\n<p class="pixel" id="gpuscan-pixel" aria-live="polite"></p>\n'
    )


def _map_scripts(heat: HeatMap) -> list[str]:
    given = _inert(json.dumps(embedded(heat)))
    code = (files(__package__) / "map.js").read_text(encoding="utf-8")
    return [f'<script type="application/json" id="gpuscan-map">{given}</script>\n', _script(code)]


def _inert(text: str) -> str:
    """Return JSON text in which no tag can begin or end."""
    return text.replace("<", r"\u003c").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")


def _script(code: str) -> str:
    if "</script" in code.lower() or "<!--" in code:
        raise AssertionError("a script of the page would end, or begin a comment, in its middle")
    return f"<script>{code}</script>\n"


def _text(text: Any) -> str:
    return html.escape(str(text))
