"""A page as one HTML file that opens anywhere: everything is in it, and it may request nothing."""

from __future__ import annotations

import html
import json
import math
import shlex
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.heatmap.map import LAYERS
from gpuscan.heatmap.space import ADDRESSES, FRAMES
from gpuscan.report.contract import RESULT, Figure, Flow, Page, Table, Zoomed
from gpuscan.report.drawing import drawn
from gpuscan.report.embedded import embedded, fitting

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
_PART, _FEW_CELLS = 4, 1 << 16
"""Of a map of more cells than that, one in so many is made coarser to see how coarse all have to be."""
_COARSER = "The map is coarser than what was kept"
_BOKEH_JS = ("bokeh.min.js", "bokeh-api.min.js")
_PLOT = '<figure class="plot"></figure>'
_MOVES = {"in": "+", "out": "−", "left": "←", "right": "→", "up": "↑", "down": "↓"}
_KEEPING = f"--out {RESULT}"
_KINDS = {FRAMES: "page frame", ADDRESSES: "process and address"}
_SAID = {"in": "zoom in", "out": "zoom out", **{way: f"go {way}" for way in ("left", "right", "up", "down")}}


def require_bokeh() -> None:
    """Check that a page can be made.

    Raises:
        InputError: Bokeh is not installed.
    """
    _bokeh_js()


def _bokeh_js() -> list[Path]:
    """Return the scripts of BokehJS. Bokeh itself is not imported: that takes longer than the whole page."""
    found = find_spec("bokeh")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"a report needs bokeh, which is not installed: {install_command('report', 'bokeh')}"
        )
    folder = Path(found.submodule_search_locations[0]) / "server" / "static" / "js"
    paths = [folder / name for name in _BOKEH_JS]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is not there, and bokeh has it: {install_command('report', 'bokeh')}")
    return paths


def page_html(
    page: Page, result: Path | None, max_bytes: int = MAX_BYTES, made_by: str = ""
) -> tuple[bytes, tuple[str, ...]]:
    """Return a page in UTF-8, and sentences on what was made coarser to fit it.

    Args:
        page: what it says.
        result: where that came from, for its commands; None: it is not kept.
        max_bytes: it is never larger; maps are coarser then.
        made_by: the command at its foot, by default that which makes the page of ``result``.

    Raises:
        InputError: Bokeh is not installed, or what is no map does not fit.
    """
    require_bokeh()
    place = None if result is None else shlex.quote(str(result))
    frame = _Frame(page, place, made_by or f"gpuscan report {place or RESULT}")
    given = (figure.heats for figure in page.figures if isinstance(figure, Zoomed))
    kept = [heat.shared() for heat in next(given, ())]
    heats = [fitting(heat) for heat in kept]
    notes: tuple[str, ...] = ()
    if any(heat is not whole for heat, whole in zip(heats, kept, strict=True)):
        notes = (f"{_COARSER}, since a page has rows up to 2^32: {_how_coarse(heats)}.",)
    while True:
        cells = json.dumps({"maps": [embedded(heat) for heat in heats]}) if heats else ""
        found = frame.filled(page.notes + notes, cells)
        n_bytes = len(found)
        if n_bytes <= max_bytes:
            return found, notes
        if not any(layer.n_cells > 1 for heat in heats for layer in heat.layers.values()):
            least = f"{math.ceil(n_bytes / 10_000) / 100:g}MB"
            raise InputError(f"the page takes {least} without any map; give a --max-size of that or more")
        share = max(0.0, 1 - (n_bytes - max_bytes) / len(cells))
        heats = [_coarser(heat, share) for heat in heats]
        notes = (
            f"{_COARSER}, so that the page has at most {max_bytes:,} bytes: {_how_coarse(heats)}. "
            "A larger --max-size shows more.",
        )


def _coarser(heat: HeatMap, share: float) -> HeatMap:
    """Return a map with about so much of its cells, and fewer than it had; of a large one a part says how
    coarse it has to be."""
    few = _n_cells(heat) < _FEW_CELLS
    part = heat if few else heat.changed(lambda layer: layer.part(_PART))
    wanted = max(share * _n_cells(part), len(heat.layers))
    part = part.coarser()
    while _n_cells(part) > wanted:
        part = part.coarser()
    shifts = {
        id(layer): (part.layers[name].row_shift, part.layers[name].column_shift)
        for name, layer in heat.layers.items()
    }
    return heat.changed(lambda layer: layer.at(*shifts[id(layer)]))


def _n_cells(heat: HeatMap) -> int:
    return sum(layer.n_cells for layer in {id(each): each for each in heat.layers.values()}.values())


def _how_coarse(heats: Sequence[HeatMap]) -> str:
    return ", ".join(
        f"{name}{'' if heat.space.kind == FRAMES else ' of processes'} "
        f"by {format_bytes(PAGE_BYTES << layer.row_shift)} "
        f"and {heat.space.step_ns / 1e9 * (1 << layer.column_shift):g} s"
        for heat in heats
        for name, layer in heat.layers.items()
    )


class _Frame:
    """A page without its notes and the cells of its map: what takes time to draw, and does not change."""

    def __init__(self, page: Page, place: str | None, made_by: str) -> None:
        figures = drawn(page.figures)
        shown = (_shown(each) for each in page.figures)
        numbered = enumerate(zip(page.figures, shown, strict=True))
        sections = "".join(_section(figure, what, at, place) for at, (figure, what) in numbered)
        style = _own("page.css")
        facts = "".join(
            f"<tr><th>{_text(what)}</th><td>{_text(value)}</td></tr>" for what, value in page.facts
        )
        self._head = (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            f'<meta name="viewport" content="width=device-width">\n<title>{_text(page.title)}</title>\n'
            f"<style>{style}</style>\n</head>\n<body>\n<h1>{_text(page.title)}</h1>\n"
            f'<p class="sub">{_text(page.subtitle)}</p>\n<noscript><p>{_NOSCRIPT}</p></noscript>\n'
            f"<table>{facts}</table>\n"
        )
        made = f'<p class="made">Made by <code>{_text(made_by)}</code></p>\n'
        self._middle = f"{sections}\n{made}"
        self._bokeh_js = [_script(path.read_bytes()) for path in (_bokeh_js() if figures else ())]
        given = _given("gpuscan-figures", json.dumps(figures, allow_nan=False))
        drawing = given.encode() + _script(_own("draw.js").encode()) if figures else b""
        self._end = drawing + b"</body>\n</html>\n"

    def filled(self, notes: tuple[str, ...], cells: str) -> bytes:
        """Return the page with its notes, and its cells as JSON; empty without a map."""
        said = "".join(f"<p>{_text(note)}</p>\n" for note in notes)
        above = f"{self._head}{said}{self._middle}".encode()
        return b"".join((above, *self._bokeh_js, *(_map_scripts(cells) if cells else ()), self._end))


def _shown(figure: Figure) -> str:
    """Return what stands in the page for a figure; the texts of a flow also where its plot has no room."""
    if isinstance(figure, Table):
        return _table(figure)
    if not isinstance(figure, Flow):
        return _PLOT
    total = max(1, sum(n for _, n in figure.parts))
    rows = tuple((name, f"{n:,}", f"{n / total:.1%}") for name, n in figure.parts if n)
    return _PLOT + _table(Table(figure.about, (figure.whole, figure.unit, "of all"), rows))


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _section(figure: Figure, shown: str, at: int, place: str | None) -> str:
    about = figure.about
    not_kept = ""
    if place is None and RESULT in about.command:
        not_kept = f" (not kept; {_KEEPING} keeps it)"
    controls = _controls(figure.heats) if isinstance(figure, Zoomed) else ""
    return (
        f'<section aria-labelledby="figure-{at}"><h2 id="figure-{at}">{_text(about.title)}</h2>\n'
        f"<p>{_text(about.sentence)}</p>\n{controls}{shown}\n"
        f'<p class="made">From: <code>{_text(about.command.replace(RESULT, place or RESULT))}</code>'
        f"{not_kept}</p></section>\n"
    )


def _controls(heats: Sequence[HeatMap]) -> str:
    kinds = (
        f'<button type="button" data-map="{at}" title="pages by {_KINDS[heat.space.kind]}">'
        f"{_KINDS[heat.space.kind]}</button> "
        for at, heat in enumerate(heats)
    )
    maps = f"by {''.join(kinds)}| " if len(heats) > 1 else ""
    names = dict.fromkeys(name for heat in heats for name in heat.layers)
    layers = "".join(
        f'<button type="button" data-layer="{name}" title="{_text(LAYERS[name])}">{name}</button> '
        for name in names
    )
    moves = "".join(
        f'<button type="button" data-move="{move}" title="{_SAID[move]}" aria-label="{_SAID[move]}">'
        f"{sign}</button> "
        for move, sign in _MOVES.items()
    )
    whole = '<button type="button" id="gpuscan-whole" title="show the whole map">all of it</button>'
    return (
        f"<nav>{maps}{layers} | {moves}{whole}</nav>\n"
        '<p class="pixel" id="gpuscan-pixel" aria-live="polite"></p>\n'
        '<p class="scale">A pixel: <span class="nothing"></span> nothing, 1 <span class="ramp"></span> '
        '<span id="gpuscan-most"></span> (by logarithms)</p>\n'
    )


def _map_scripts(cells: str) -> tuple[bytes, bytes]:
    return _given("gpuscan-map", cells).encode(), _script(_own("map.js").encode())


def _given(name: str, text: str) -> str:
    """Return an element that has JSON for a script."""
    return f'<script type="application/json" id="{name}">{_inert(text)}</script>\n'


def _own(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _inert(text: str) -> str:
    """Return JSON text in which no tag can begin or end."""
    return text.replace("<", r"\u003c").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")


def _script(code: bytes) -> bytes:
    ends = any(after[:6].lower() == b"script" for after in code.split(b"</")[1:])
    if ends or b"<!--" in code:
        raise AssertionError("a script of the page would end, or begin a comment, in its middle")
    return b"<script>%b</script>\n" % code


def _text(text: Any) -> str:
    return html.escape(str(text))
