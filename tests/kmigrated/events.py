"""What a kernel whose kmigrated is traced says: marks, walks, marks that are taken, batches.

Each event is a line of ``/sys/kernel/tracing/trace`` that trace_printk() made::

    A pfn nid       a page is marked (hexadecimal, decimal)
    W nid, E nid    a node's walk begins, ends
    G pfn nid       the thread takes the mark of a page, which asks for this target
    F nid n [last]  a batch of n folios goes to a node; at the end of a zone it is the last

A page whose mark was taken goes onto the list, unless it is on its target already or a check refuses it. A
batch that is not the last of its zone goes before the page whose mark was taken last is on the list.
The threads of several nodes run at the same time: what a thread says belongs to the walk that it began.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gpuscan.designs.machine import BatchCall

_LINE = re.compile(
    r"^ *\S.*-(?P<task>\d+) +\[\d+\] +\S+ +(?P<t_s>\d+\.\d+): \S+: (?P<kind>[AWEGF]) (?P<words>.*)$"
)
_WORDS = {
    "A": re.compile(r"([0-9a-f]+) (-?\d+)"),
    "W": re.compile(r"(\d+)"),
    "E": re.compile(r"(\d+)"),
    "G": re.compile(r"([0-9a-f]+) (-?\d+)"),
    "F": re.compile(r"(-?\d+) (\d+)( last)?"),
}
_LOST = re.compile(r"\[LOST .*\]")
_ENTRIES = re.compile(r"^# entries-in-buffer/entries-written: (\d+)/(\d+) ")


class TraceError(Exception):
    """A trace does not tell all, or not what a kmigrated does; the message has the line."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A page was marked.

    Attributes:
        at: number of the line, which orders what different CPUs did.
        pfn, nid: which page, and where it shall go.
    """

    at: int
    pfn: int
    nid: int


@dataclass(slots=True)
class Walk:
    """One walk of a node.

    Attributes:
        nid: the node.
        began, ended: numbers of its first and last line.
        t_s: when it began, of the trace's clock.
        taken: marks in the order in which the thread took them.
        batches: what went out, each in the order of its list, the page that was added last first.
    """

    nid: int
    began: int
    t_s: float
    ended: int = -1
    taken: list[Mark] = field(default_factory=list)
    batches: list[BatchCall] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """What a trace tells.

    Attributes:
        marks: ascending.
        walks: those that ended, in the order of their beginnings.
    """

    marks: list[Mark]
    walks: list[Walk]


def parse(text: str) -> Trace:
    """Return what a trace tells; lines of others are passed over, and walks that it does not have whole.

    Raises:
        TraceError: events were lost, a line is not complete, or they do not fit each other: a thread does
            something outside of a walk, or a batch has another number of folios than there were pages for the
            list, so that a check refused one, and which is not told.
    """
    marks: list[Mark] = []
    ended: list[Walk] = []
    walks: dict[str, Walk] = {}
    waiting: dict[str, list[int]] = {}
    begun: set[str] = set()
    for at, line in enumerate(text.splitlines(), 1):
        _refuse_gaps(at, line)
        event = _LINE.match(line)
        if event is None:
            continue
        task, kind = event["task"], event["kind"]
        words = _WORDS[kind].fullmatch(event["words"])
        if words is None:
            raise _error(at, line, "not complete")
        if kind == "A":
            marks.append(Mark(at, int(words[1], 16), int(words[2])))
            continue
        if kind == "W":
            if task in walks:
                raise _error(at, line, "a walk begins in a walk")
            begun.add(task)
            walks[task], waiting[task] = Walk(int(words[1]), at, float(event["t_s"])), []
            continue
        walk = walks.get(task)
        if walk is None and kind == "E" and task not in begun:
            begun.add(task)
            continue
        if walk is None:
            raise _error(at, line, "outside of a walk")
        pages = waiting[task]
        if kind == "G":
            walk.taken.append(Mark(at, int(words[1], 16), int(words[2])))
            if walk.taken[-1].nid != walk.nid:
                pages.append(walk.taken[-1].pfn)
        elif kind == "F":
            n_listed = len(pages) if words[3] else len(pages) - 1
            if int(words[2]) != n_listed:
                raise _error(at, line, f"{n_listed} pages were for the list")
            walk.batches.append(BatchCall(tuple(reversed(pages[:n_listed])), int(words[1])))
            waiting[task] = pages[n_listed:]
        else:
            if pages or int(words[1]) != walk.nid:
                raise _error(at, line, f"the walk of node {walk.nid} has {len(pages)} pages for the list")
            walk.ended = at
            ended.append(walks.pop(task))
    return Trace(marks, sorted(ended, key=lambda walk: walk.began))


def _refuse_gaps(at: int, line: str) -> None:
    entries = _ENTRIES.match(line)
    if _LOST.search(line) or (entries is not None and entries[1] != entries[2]):
        raise _error(at, line, "events were lost, the trace's buffer was too small")


def _error(at: int, line: str, why: str) -> TraceError:
    return TraceError(f"line {at}: {why}: {line.strip()}")
