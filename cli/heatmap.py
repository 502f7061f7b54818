"""``gpuscan heatmap``: where and when a run's accesses, marks, claims and moves happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuscan.base.described import Option, described
from gpuscan.cli.options import Voice, takes_options
from gpuscan.cli.pages import check_new

if TYPE_CHECKING:
    from gpuscan.cli.output import Output
    from gpuscan.heatmap.layer import Image, Layer
    from gpuscan.heatmap.map import HeatMap
    from gpuscan.heatmap.request import Window

_STYLES = ("map", "temperature-sz-hist", "recency-sz-hist")
_KINDS = ("frames", "addresses")
_ROWS, _COLUMNS = 40, 100
_LABEL_COLUMNS = 31


@dataclass(frozen=True, slots=True)
class Shown:
    """What to show of which result."""

    result: Path = described(Path(), Option("The directory of --out.", metavar="RESULT", is_argument=True))
    of: str = described(
        "accesses", Option("What was counted.", choices=("accesses", "marks", "claims", "moves"))
    )
    by: str = described(
        _KINDS[0], Option("Down: page frames, or of a live session addresses of processes.", choices=_KINDS)
    )
    style: str = described("map", Option("The map, or one of damo's histograms.", choices=_STYLES))
    pfn: str | None = described(None, Option("Only these page frames: 0x100000-0x1fffff.", metavar="A-B"))
    time: str | None = described(None, Option("Only this time: 2s-5s.", metavar="A-B"))
    png: Path | None = described(None, Option("Draw it as a picture, too; needs [report].", metavar="FILE"))
    rows: int = described(_ROWS, Option("Rows of the map, at most.", low=1, high=1000))
    force: bool = described(False, Option("Replace an earlier file of --png."))


@takes_options
def heatmap(shown: Shown, voice: Voice) -> None:
    """Show where and when something happened: page frames down, time across.

    \b
    gpuscan run --out results
    gpuscan heatmap results                          accesses, in the terminal
    gpuscan heatmap results --of moves --time 2s-5s
    gpuscan heatmap results --pfn 0x100000-0x13ffff --png map.png
    gpuscan heatmap results --style temperature-sz-hist
    gpuscan heatmap session --by addresses           of live: processes and their mappings
    """
    from gpuscan.heatmap.map import read_map
    from gpuscan.heatmap.request import layer_of, window_of

    output = voice.output()
    path = map_of(shown.result, shown.by)
    heat = read_map(path)
    layer, window = layer_of(heat, shown.of, str(path)), window_of(heat, shown.pfn, shown.time)
    if shown.png is not None:
        from gpuscan.report.picture import draw_map

        check_new(shown.png, force=shown.force)
        draw_map(heat, shown.of, layer, window, shown.png)
        output.note(f"drawn in {shown.png}")
    if shown.style == "map":
        _show(heat, shown, layer, window, output)
    else:
        _histogram(heat, shown, layer, window, output)


def map_of(result: Path, by: str = _KINDS[0]) -> Path:
    """Return the map of a result.

    Args:
        result: its directory, or the file itself.
        by: what its pages are.

    Raises:
        InputError: it has none.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.heatmap.map import ADDRESSES_FILE, MAP_FILE

    path = result / (MAP_FILE if by == _KINDS[0] else ADDRESSES_FILE) if result.is_dir() else result
    if not path.exists():
        _check_kind(result)
    if not path.exists() and by != _KINDS[0]:
        raise InputError(
            f"{result} has no {ADDRESSES_FILE}: only 'gpuscan live --out DIR' knows addresses; leave out --by"
        )
    if not path.exists():
        raise InputError(
            f"{result} has no {MAP_FILE}: an earlier gpuscan made it; make one by 'gpuscan run --out DIR'"
        )
    return path


def _check_kind(result: Path) -> None:
    """Refuse what is no result, and those of kinds that have no map."""
    from gpuscan.base.errors import InputError
    from gpuscan.report.catalogue import kind_of

    kind = kind_of(result)
    if kind.page_of_tables is None:  # of what is no run there is nothing that was counted by page and time
        raise InputError(
            f"{result} is a result of {kind.document_kind}, which has no map; give one of 'gpuscan run --out "
            f"DIR' or 'gpuscan live --out DIR', or see this one by 'gpuscan report {result}'"
        )


def _show(heat: HeatMap, shown: Shown, layer: Layer, window: Window, output: Output) -> None:
    from gpuscan.cli.output import terminal
    from gpuscan.heatmap.text import levels, scale, title

    console = terminal()
    columns = max(20, (console.width if console.is_terminal else _COLUMNS + _LABEL_COLUMNS) - _LABEL_COLUMNS)
    image = window.image(layer, (shown.rows, columns))
    shades = levels(image)
    output.document(
        {
            "kind": "heatmap",
            "of": shown.of,
            "space": heat.space.document(),
            "first_page": image.first_page,
            "pages_each": image.pages_each,
            "first_step": image.first_step,
            "steps_each": image.steps_each,
            "one_in": layer.one_in,
            "counts": image.pixels.astype(int).tolist(),
        }
    )
    if output.json_mode:
        return
    output.line(title(heat, shown.of, layer))
    output.line()
    _print(heat, image, shades.tolist())
    output.line()
    for line in scale(heat, image):
        output.line(line)


def _print(heat: HeatMap, image: Image, shades: list[list[int]]) -> None:
    from rich.text import Text

    from gpuscan.base.printable import harmless
    from gpuscan.cli.output import terminal
    from gpuscan.heatmap.text import COLOURS, SHADES, labels, time_axis

    console = terminal()
    if not console.is_terminal:
        console.width = 1 << 16
    for (node, first), row in zip(labels(heat, image), shades, strict=True):
        line = Text(f"{harmless(node)[:14]:>14} {first:>14} ")
        for shade in row:
            colour = COLOURS[shade]
            line.append(SHADES[shade], "" if colour is None else f"color({colour})")
        console.print(line, no_wrap=True, crop=False)
    for text in time_axis(heat, image):
        console.print(Text(" " * (_LABEL_COLUMNS - 1) + text), no_wrap=True, crop=False)


def _histogram(heat: HeatMap, shown: Shown, layer: Layer, window: Window, output: Output) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_bytes
    from gpuscan.heatmap.sizes import histogram

    found = histogram(heat, layer, window, shown.style)
    output.document(
        {"kind": "heatmap", "of": shown.of, "style": shown.style, "sizes": [[text, n] for text, n in found]}
    )
    total = max(1, sum(n for _, n in found))
    table = Table(f"{shown.of}", "memory", "", box=None, header_style="bold", pad_edge=False)
    table.columns[1].justify = "right"
    for text, n_bytes in found:
        table.add_row(text, format_bytes(n_bytes), "█" * round(50 * n_bytes / total))
    output.table(table)
