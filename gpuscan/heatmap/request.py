"""What part of a map is wanted, and of which layer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuscan.base.errors import InputError
from gpuscan.base.units import parse_time_ns
from gpuscan.heatmap.layer import Image, Layer
from gpuscan.heatmap.map import HeatMap
from gpuscan.heatmap.space import FRAMES

_RANGE = re.compile(r"\s*([^-]+?)\s*-\s*([^-]+?)\s*")


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a map.

    Attributes:
        pages: first and end, flat.
        steps: first and end, of time.
    """

    pages: tuple[int, int]
    steps: tuple[int, int]

    def image(self, layer: Layer, most: tuple[int, int]) -> Image:
        """Return it of one layer; see :meth:`gpuscan.heatmap.layer.Layer.image`."""
        return layer.image(self.pages, self.steps, most)


def window_of(heat: HeatMap, pfns: str | None, times: str | None) -> Window:
    """Return the part of a map that two texts name, such as ``0x100000-0x200000`` and ``2s-5s``.

    Raises:
        InputError: they name none.
    """
    space = heat.space
    pages, steps = (0, space.n_pages), (0, space.n_steps)
    if pfns is not None and space.kind != FRAMES:
        raise InputError(f"--pfn {pfns}: this map is over addresses of processes; leave out --pfn or --by")
    if pfns is not None:
        first, last = _ends(pfns, "--pfn", "0x100000-0x1fffff")
        try:
            low, high = int(first, 0), int(last, 0)
        except ValueError as error:
            raise InputError(f"--pfn {pfns} is not a range of PFNs; give 0x100000-0x1fffff") from error
        if low > high:
            raise InputError(f"--pfn {pfns} is reversed; give {last}-{first}")
        pages = space.flat_of(low), space.flat_of(high + 1)
        if pages[0] >= pages[1]:
            ends = f"{space.extents[0][1]:#x}-{space.pfn_of(space.n_pages) - 1:#x}"
            raise InputError(f"--pfn {pfns}: {space.machine} has no page there; give some of {ends}")
    if times is not None:
        first, last = _ends(times, "--time", "2s-5s")
        first_ns, last_ns = parse_time_ns(first), parse_time_ns(last)
        if first_ns > last_ns:
            raise InputError(f"--time {times} is reversed; give {last}-{first}")
        steps = first_ns // space.step_ns, -(-last_ns // space.step_ns)
        if steps[0] >= min(steps[1], space.n_steps):
            lasted = f"{space.n_steps * space.step_ns / 1e9:g}s"
            raise InputError(f"--time {times}: nothing was recorded then; give some of 0s-{lasted}")
        steps = steps[0], min(steps[1], space.n_steps)
    return Window(pages, steps)


def layer_of(heat: HeatMap, name: str, where: str) -> Layer:
    """Return a layer.

    Raises:
        InputError: nothing of that was counted.
    """
    if name not in heat.layers:
        has = ", ".join(heat.layers) or "nothing"
        raise InputError(f"{where} has no {name}, only {has}; give --of with one of these")
    return heat.layers[name]


def _ends(text: str, option: str, example: str) -> tuple[str, str]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise InputError(f"{option} {text} is not a range; give for example {example}")
    return match[1], match[2]
