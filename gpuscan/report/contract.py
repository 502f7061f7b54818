"""What a kind of result offers to a page: texts and figures as plain data, of no library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuscan.heatmap.map import HeatMap
from gpuscan.run.tables import Tables

RESULT = "RESULT"
"""In the command of a figure: the directory of the result, which a reader may have elsewhere, or nowhere."""


@dataclass(frozen=True, slots=True)
class About:
    """What every figure has.

    Attributes:
        title: a few words.
        sentence: what it shows.
        command: what shows, or made, the same; :data:`RESULT` stands for the directory.
    """

    title: str
    sentence: str
    command: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plot: a point for each x; None where there is none."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over one axis; what the axes are has its unit in brackets.

    Attributes:
        about: what it is.
        x_label, y_label: such as ``time (s)``.
        lines: at least one.
        shares_time: its x is the time of the map, and follows it.
        log_x, log_y: whether that axis is on a scale of logarithms.
        has_points: the values stand apart, so each has a mark.
        names_recur: a line of the same name is of the same thing in other plots, and looks the same.
    """

    about: About
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    shares_time: bool = False
    log_x: bool = False
    log_y: bool = False
    has_points: bool = False
    names_recur: bool = False


@dataclass(frozen=True, slots=True)
class Multiples:
    """Small plots of the same lines, one for each, in which that is before all others.

    Attributes:
        about, x_label, y_label, lines, log_x: see :class:`Plot`; the styles are those of its names there.
    """

    about: About
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log_x: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """Where all of something went: its parts add up to the total.

    Attributes:
        about: what it is.
        unit: what is counted.
        whole: what is divided.
        parts: name and count.
    """

    about: About
    unit: str
    whole: str
    parts: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Zoomed:
    """A map to zoom into.

    Attributes:
        about: what it is.
        heats: the map, and others of the same time that a reader may switch to.
        x_label: of its axis of time, with the unit in brackets.
    """

    about: About
    heats: tuple[HeatMap, ...]
    x_label: str


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar for each name, one below the other.

    Attributes:
        about: what it is.
        label: what their length is, with its unit in brackets.
        bars: name and length.
        band: between these two the background is marked, since it is where a bar should end.
    """

    about: About
    label: str
    bars: tuple[tuple[str, float], ...]
    band: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """What is rather read than seen: texts, all columns but the first to the right."""

    about: About
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Figure = Plot | Multiples | Flow | Bars | Table | Zoomed


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says.

    Attributes:
        title, subtitle: at its head.
        facts: what a reader wants first.
        figures: in their order.
        notes: sentences, of what is missing for example.
    """

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResultKind:
    """What a kind of result declares; all of it.

    Attributes:
        marker: the file by which its directory is known: JSON, whose ``kind`` is ``document_kind``.
        document_kind: so.
        page: makes a page of the document and its directory.
        page_of_tables: makes it of the document and what is in memory yet, at the end of a run; None, or not
            given: of this kind there is no run whose page could be made at once.
        begins: a marker that is no JSON begins with these bytes. Such a file may be given itself, under any
            name; there is no document then, and ``page`` gets an empty one and the path of the file.
    """

    marker: str
    document_kind: str
    page: Callable[[Mapping[str, Any], Path], Page]
    page_of_tables: Callable[[Mapping[str, Any], Tables], Page] | None = None
    begins: bytes = b""
