"""A page of what a service decided and did: of its history, or of the directory that this lies in."""

from __future__ import annotations

import datetime
import shlex
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuscan.base.printable import harmless
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.history.course import Course, course_of
from gpuscan.history.schema import BEGINS, HISTORY
from gpuscan.report.contract import RESULT, About, Figure, Line, Page, Plot, ResultKind, Table

_N_LINES = 6
_N_ROWS = 100
_NAME_MAX = 80
_TITLE = "What the service did"
_SINCE = "36500d"
"""All there is."""
_MIB = 1 << 20


def page(document: Mapping[str, Any], history: Path) -> Page:
    """Return what there is to say of a history; see :class:`ResultKind`."""
    course = course_of(history)
    if course is None:
        return Page(_TITLE, _shown(history.name), (), (), ("Nothing was noted yet.",))
    figures = (
        *_moved_to(course),
        *_moved_by(course),
        *_refused(course),
        *_share(course),
        *_resident(course),
        *_rules(course),
        *_reasons(course),
        _events(course),
    )
    notes = ("No end was noted: the service runs on, or was killed.",) if course.is_open else ()
    command = f"gpuscan history --history {shlex.quote(str(history))} --since {_SINCE} --events"
    return Page(
        _TITLE,
        _shown(history.name),
        _facts(course),
        tuple(replace(each, about=replace(each.about, command=command)) for each in figures),
        notes,
    )


def _facts(course: Course) -> tuple[tuple[str, str], ...]:
    moved = {"up": 0, "down": 0}
    for (_, way, _), n in course.moved.items():
        moved[way] += n
    within_s = sum(course.within_s.values())
    cost = f"{sum(course.cpu_s.values()):.1f} s, {sum(course.cpu_s.values()) / within_s:.2%} of a core"
    return (
        ("from", _when(course.first_ns)),
        ("to", f"{_when(course.last_ns)}, {_long(course.last_ns - course.first_ns)} later"),
        ("moved", f"{_bytes(moved['up'])} up, {_bytes(moved['down'])} down"),
        ("not moved", f"{sum(course.refused.values()):,} times"),
        *((("own CPU time", cost),) if within_s else ()),
        ("starts", f"{course.n_starts:,}"),
        ("notes", f"{course.n_notes:,}"),
    )


def _plot(course: Course, title: str, sentence: str, y_label: str, lines: Sequence[Line]) -> Iterator[Plot]:
    if lines:
        about = About(title, f"{sentence} Nothing is drawn where no service ran.", RESULT)
        yield Plot(about, f"time since {_when(course.first_ns)} (h)", y_label, tuple(lines), has_points=True)


def _line(course: Course, name: str, values: Mapping[int, float], *, is_sum: bool) -> Line:
    """Return a line over the stretches; where nothing was noted a sum is 0 while a service ran."""
    hours = [at * course.stretch_ns / 3.6e12 for at in range(course.n_stretches)]
    missing = dict.fromkeys(course.ran, 0.0) if is_sum else {}
    return Line(name, hours, [values.get(at, missing.get(at)) for at in range(course.n_stretches)])


def _sums(course: Course, counts: Mapping[tuple[Hashable, int], float], name_of: Any) -> list[Line]:
    """Return a line for each of those that come to most, and one for all others together."""
    totals: defaultdict[Hashable, float] = defaultdict(float)
    for (key, _), n in counts.items():
        totals[key] += n
    most = [key for key in sorted(totals, key=lambda key: -totals[key])[:_N_LINES] if totals[key]]
    values: dict[Hashable, defaultdict[int, float]] = {key: defaultdict(float) for key in most}
    rest: defaultdict[int, float] = defaultdict(float)
    for (key, at), n in counts.items():
        values.get(key, rest)[at] += n
    lines = [_line(course, name_of(key), values[key], is_sum=True) for key in most]
    if any(rest.values()):
        lines.append(_line(course, "all others", rest, is_sum=True))
    return lines


def _rates(course: Course, pages: Mapping[tuple[Any, int], int]) -> dict[tuple[Hashable, int], float]:
    within_s = course.stretch_ns / 1e9
    return {key: n * PAGE_BYTES / _MIB / within_s for key, n in pages.items()}


def _moved_to(course: Course) -> Iterator[Figure]:
    yield from _plot(
        course,
        "Moved, by node",
        f"Memory that came to each node, on average over {_long(course.stretch_ns)}.",
        "moved (MiB/s)",
        _sums(course, _rates(course, course.moved_to), lambda nid: f"to node {nid}"),
    )


def _moved_by(course: Course) -> Iterator[Figure]:
    pages = {((rule, way), at): n for (rule, way, at), n in course.moved.items()}
    yield from _plot(
        course,
        "Moved, by rule",
        f"Memory that went up or down for each rule, on average over {_long(course.stretch_ns)}.",
        "moved (MiB/s)",
        _sums(course, _rates(course, pages), lambda key: f"{_shown(key[0])}: {key[1]}"),
    )


def _refused(course: Course) -> Iterator[Figure]:
    counts: dict[tuple[Hashable, int], float] = {key: float(n) for key, n in course.refused.items()}
    yield from _plot(
        course,
        "Not moved, by reason",
        f"How often the kernel or a budget refused a folio, in each {_long(course.stretch_ns)}.",
        "refusals",
        _sums(course, counts, _shown),
    )


def _share(course: Course) -> Iterator[Figure]:
    share = {at: 100 * course.cpu_s[at] / s for at, s in course.within_s.items() if s}
    if share:
        ceiling = {at: 100 * each for at, each in course.cpu_ceiling.items()}
        yield from _plot(
            course,
            "Its own share of a core",
            "CPU time of the service itself without its start, and the ceiling, as noted each minute.",
            "of a core (%)",
            [
                _line(course, "gpuscan", share, is_sum=False),
                _line(course, "ceiling", ceiling, is_sum=False),
            ],
        )


def _resident(course: Course) -> Iterator[Figure]:
    most: Counter[int] = Counter()
    for (nid, _), n in course.resident.items():
        most[nid] = max(most[nid], n)
    shown = sorted(nid for nid, _ in most.most_common(_N_LINES))
    said = "" if len(shown) == len(most) else f" Of {len(most):,} nodes those that had most are drawn."
    yield from _plot(
        course,
        "Where it lay",
        f"Memory of the processes that were watched, by node, as noted each minute.{said}",
        "resident (GiB)",
        [
            _line(
                course,
                f"node {nid}",
                {at: n * PAGE_BYTES / 2**30 for (each, at), n in course.resident.items() if each == nid},
                is_sum=False,
            )
            for nid in shown
        ],
    )


def _rules(course: Course) -> Iterator[Figure]:
    moved: dict[str, Counter[str]] = {}
    for (rule, way, _), n in course.moved.items():
        moved.setdefault(rule, Counter())[way] += n
    nodes: dict[str, list[tuple[int, int]]] = {}
    for (rule, nid), n in sorted(course.moved_by.items()):
        nodes.setdefault(rule, []).append((nid, n))
    refused: Counter[str] = Counter()
    for (rule, _), n in course.refused_by.items():
        refused[rule] += n
    names = {*moved, *(name for name in (*course.came, *course.went) if name is not None)}
    if not names:
        return
    ordered = sorted(names, key=lambda name: (-moved.get(name, Counter()).total(), name))
    rows = tuple(
        (
            _shown(name),
            _bytes(moved.get(name, Counter())["up"]),
            _bytes(moved.get(name, Counter())["down"]),
            ", ".join(f"{nid}: {_bytes(n)}" for nid, n in nodes.get(name, [])[:8]) or "-",
            f"{refused[name]:,}",
            f"{course.came[name]:,}",
            f"{course.went[name]:,}",
        )
        for name in ordered[:_N_ROWS]
    )
    about = About("Rules", _of(len(names), "What each rule did, those that moved most first."), RESULT)
    columns = ("rule", "up", "down", "to nodes", "refusals", "processes came", "went")
    yield Table(about, columns, rows)


def _reasons(course: Course) -> Iterator[Figure]:
    if course.refused_by:
        about = About(
            "Why not",
            _of(len(course.refused_by), "Refusals by rule and reason, the most frequent first."),
            RESULT,
        )
        most = course.refused_by.most_common(_N_ROWS)
        rows = tuple((_shown(rule), _shown(why), f"{n:,}") for (rule, why), n in most)
        yield Table(about, ("rule", "reason", "times"), rows)


def _events(course: Course) -> Table:
    n = len(course.events)
    said = f" These are the newest {n} of {course.n_events:,}." if n < course.n_events else ""
    about = About("What was decided", f"Starts, ends, reloads, orders and rests, newest first.{said}", RESULT)
    rows = tuple(
        (_when(t_ns), _shown(kind), harmless(words)) for t_ns, kind, words in reversed(course.events)
    )
    return Table(about, ("when", "what", ""), rows)


def _of(n: int, sentence: str) -> str:
    return sentence if n <= _N_ROWS else f"{sentence} {_N_ROWS} of {n:,} are shown."


def _bytes(n_pages: int) -> str:
    return format_bytes(n_pages * PAGE_BYTES)


def _shown(name: object) -> str:
    """Return a name that somebody gave, short and on one line."""
    text = harmless(" ".join(str(name).split()))
    return text if len(text) <= _NAME_MAX else f"{text[: _NAME_MAX - 3]}..."


def _when(ns: int) -> str:
    return datetime.datetime.fromtimestamp(ns // 10**9).isoformat(" ", "seconds")


def _long(ns: int) -> str:
    """Return a duration as people say it, of days, hours, minutes or seconds."""
    for unit, unit_s in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if ns >= 2e9 * unit_s:
            return f"{ns / 1e9 / unit_s:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


RESULT_KIND = ResultKind(HISTORY.name, "history", page, begins=BEGINS)
