"""What a history comes to over time: a few hundred stretches of equal length, whatever it spans.

Memory follows what was noted, not the time between.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.documents import number
from gpuscan.history.reading import checked, read_notes, time_span
from gpuscan.history.tally import COUNT_MAX, Moved, moved_by_kernel, pages_by_node, said

_N_STRETCHES = 240
_STRETCH_NS_MIN = 10_000_000_000
"""What was done is noted this often."""
N_EVENTS = 200
_SAID_MAX = 400
"""So many are kept, the newest."""
EVENTS = ("start", "stop", "config", "control", "rest", "memory")


class Course:
    """Sums by stretch of time; a stretch is a number from 0.

    Args:
        first_ns, last_ns: times of the earliest and of the latest note, since 1970.

    Attributes:
        n_notes: that were taken; n_starts: of these, starts.
        ran: stretches in which a service ran, at least for a part.
        moved_to: base pages that arrived, by nid and stretch.
        moved: base pages by rule, ``up`` or ``down``, and stretch, those that the kernel moved for it among
            them; of these no node is known.
        moved_by: base pages by rule and nid.
        refused: folios by reason and stretch; refused_by: by rule and reason.
        came, went: processes by rule; None: no rule was known.
        cpu_s, within_s: CPU time of the service itself by stretch, and within how much time.
        cpu_ceiling: the share of a core that was allowed, by stretch, as last noted there.
        resident: base pages of what is watched by nid and stretch, as last noted there.
        events: time, kind and words of the newest starts, ends, reloads, orders, rests and changes of
            memory; n_events: of all.
        is_open: a start is the last that is known, so the service runs, or was killed.
    """

    def __init__(self, first_ns: int, last_ns: int) -> None:
        self.first_ns, self.last_ns = first_ns, last_ns
        self.stretch_ns = max(_STRETCH_NS_MIN, -(-(last_ns - first_ns + 1) // _N_STRETCHES))
        self.n_stretches = (last_ns - first_ns) // self.stretch_ns + 1
        self.n_notes = self.n_events = self.n_starts = 0
        self.ran: set[int] = set()
        self.moved_to: Counter[tuple[int, int]] = Counter()
        self.moved: Counter[tuple[str, str, int]] = Counter()
        self.moved_by: Counter[tuple[str, int]] = Counter()
        self.refused: Counter[tuple[str, int]] = Counter()
        self.refused_by: Counter[tuple[str, str]] = Counter()
        self.came: Counter[str | None] = Counter()
        self.went: Counter[str | None] = Counter()
        self.cpu_s: dict[int, float] = {}
        self.within_s: dict[int, float] = {}
        self.cpu_ceiling: dict[int, float] = {}
        self.resident: dict[tuple[int, int], int] = {}
        self.events: deque[tuple[int, str, str]] = deque(maxlen=N_EVENTS)
        self.is_open = False
        self._before = 0

    def take(self, note: Mapping[str, Any]) -> None:
        """Add a note, as :func:`gpuscan.history.reading.read_notes` yields them, in their order.

        Raises:
            ArgumentError: it is not what gpuscan writes. Kinds that are not known are passed over.
        """
        # A clock that was set back, or a service that goes on meanwhile, is put to the ends.
        at = min(self.n_stretches - 1, max(0, (note["t_ns"] - self.first_ns) // self.stretch_ns))
        kind = note["kind"]
        if kind != "start" and (self.is_open or not self.n_notes):  # the oldest go: it began with none
            self.ran.update(range(min(at, self._before), at + 1))
        self.is_open = kind != "stop"
        self._before = at
        self.n_notes += 1
        self.n_starts += kind == "start"
        self.ran.add(at)
        if kind == "moved":
            self._take_moved(Moved.of(note), at)
        elif kind == "kernel" and note.get("policy") is not None:
            rule, pages = moved_by_kernel(note)
            for way, n_pages in pages.items():
                self.moved[rule, way, at] += n_pages
        elif kind == "state":
            self._take_state(note, at)
        elif kind == "process":
            (self.came if note.get("what") == "came" else self.went)[note.get("policy")] += 1
        elif kind in EVENTS:
            self.n_events += 1
            self.events.append((note["t_ns"], kind, said(note)[:_SAID_MAX]))

    def _take_moved(self, moved: Moved, at: int) -> None:
        for nid, n_pages in moved.pages_to.items():
            self.moved_to[nid, at] += n_pages
            self.moved_by[moved.rule, nid] += n_pages
        for way, n_pages in (("up", moved.promoted_pages), ("down", moved.demoted_pages)):
            self.moved[moved.rule, way, at] += n_pages
        for why, n in moved.refused.items():
            self.refused[why, at] += n
            self.refused_by[moved.rule, why] += n

    def _take_state(self, note: Mapping[str, Any], at: int) -> None:
        spent = number(note.get("cpu_s"), 0, COUNT_MAX, "CPU time")
        within = number(note.get("within_s"), 0, COUNT_MAX, "a time")
        self.cpu_s[at] = self.cpu_s.get(at, 0.0) + spent
        self.within_s[at] = self.within_s.get(at, 0.0) + within
        self.cpu_ceiling[at] = number(note.get("cpu_ceiling"), 0, COUNT_MAX, "the ceiling")
        for nid, n_pages in pages_by_node(note, "resident_pages").items():
            self.resident[nid, at] = n_pages


def course_of(path: Path) -> Course | None:
    """Return what a history comes to; None where nothing is in it.

    Raises:
        InputError: it cannot be read, or has what gpuscan does not write.
    """
    span = time_span(path)
    if span is None:
        return None
    course = Course(*span)
    for note in read_notes(path, 0):
        with checked(path):
            course.take(note)
    return course
