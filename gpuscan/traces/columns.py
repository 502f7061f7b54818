"""Traces as tables, CSV or Parquet: which columns there may be, and what they are read as.

A time and a place have to be there, each in one of the units of :data:`TIMES` and :data:`PLACES`; CPU, pages,
weight and share need not. What :mod:`gpuscan.traces.convert` writes has them in the units of
:class:`Samples`, and with them what was left out, as one line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT
from gpuscan.files.reading import UnfitError, parse_json
from gpuscan.traces.advice import ONLY_PHYSICAL
from gpuscan.traces.contract import TraceFormat
from gpuscan.traces.samples import LEFT_OUT, UNKNOWN_CPU, Samples

TIMES = {"time_ns": 1, "time_us": 10**3, "time_ms": 10**6, "time_s": 10**9}
"""Column -> nanoseconds in its unit."""
PLACES = {
    "pfn": (False, 0),
    "address": (False, PAGE_SHIFT),
    "virtual_page": (True, 0),
    "virtual_address": (True, PAGE_SHIFT),
}
"""Column -> whether its addresses are virtual, and by how much they are shifted to be pages."""
OTHERS = ("cpu", "n_pages", "weight", "share")
REMEDY = (
    f"give columns with a heading: one of {', '.join(TIMES)}, one of {', '.join(PLACES)}, and of "
    f"{', '.join(OTHERS)} what there is"
)
_TIME_MAX, _COUNT_MAX = 1 << 62, 1 << 62
_PAGE_MAX, _VIRTUAL_MAX, _CPU_MAX = 1 << 44, 1 << 62, 1 << 24
FACTS = b"gpuscan.trace"
"""Where the metadata of Parquet say what was left out."""
_FACTS = (*LEFT_OUT, "highest_pfn")
_LATER = {"n_unmapped": 0}
"""What files that were written before do not say."""
_TEXT_MAX = 4096


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that is a trace.

    Attributes:
        names: all of them, in their order.
        time, place: the one that is there.
    """

    names: tuple[str, ...]
    time: str
    place: str

    @classmethod
    def of(cls, path: Path, names: Sequence[str]) -> Columns:
        """Return the columns by their names.

        Raises:
            InputError: they are not those of a trace.
        """
        times, places = ([name for name in names if name in kinds] for kinds in (TIMES, PLACES))
        unknown = [name for name in names if name not in (*TIMES, *PLACES, *OTHERS)]
        if len(times) != 1 or len(places) != 1 or unknown or len(set(names)) != len(names):
            shown = ", ".join(names)[:80]
            raise InputError(f"{path} has the columns {shown!r}; {REMEDY}")
        return cls(tuple(names), times[0], places[0])

    @property
    def is_virtual(self) -> bool:
        """Whether its addresses are those of processes."""
        return PLACES[self.place][0]

    @property
    def of_regions(self) -> bool:
        """Whether it has regions of DAMON's rather than single accesses."""
        return "share" in self.names

    def samples(self, path: Path, row: int, values: Mapping[str, NDArray[Any]], last_ns: int) -> Samples:
        """Return rows as samples.

        Args:
            path: for what is said of them.
            row: the number of the first, from 1.
            values: int64[n] by column; the time in nanoseconds, ``share`` as float64[n].
            last_ns: of the row before them.

        Raises:
            InputError: one is out of range, or earlier than the one before.
        """
        time_ns = values[self.time]
        is_virtual, shift = PLACES[self.place]
        page = values[self.place] >> shift
        n = len(time_ns)
        ones = np.ones(n, dtype=np.int64)
        n_pages, weight = values.get("n_pages", ones), values.get("weight", ones)
        cpu = values.get("cpu", np.full(n, UNKNOWN_CPU, dtype=np.int64))
        for name, numbers, low, high in (
            (self.time, time_ns, 0, _TIME_MAX),
            (self.place, page, 0, _VIRTUAL_MAX if is_virtual else _PAGE_MAX),
            ("n_pages", n_pages, 0, _PAGE_MAX),
            ("weight", weight, 0, _COUNT_MAX),
            ("cpu", cpu, 0 if "cpu" in values else UNKNOWN_CPU, _CPU_MAX),
        ):
            wrong = (numbers < low) | (numbers >= high)
            if wrong.any():
                at = int(np.argmax(wrong))
                raise InputError(f"{path}: row {row + at:,}: {name} is out of range; record it again")
        earlier = np.diff(time_ns, prepend=last_ns) < 0
        if earlier.any():
            at = row + int(np.argmax(earlier))
            raise InputError(
                f"{path}: row {at:,} is earlier than the one before; traces are in the order of time"
            )
        counts = n_pages > 0
        return Samples(
            time_ns[counts],
            cpu[counts].astype(np.int32),
            page[counts],
            n_pages[counts],
            weight[counts],
            n_idle=int(np.count_nonzero(~counts)),
            highest_pfn=int(page.max(initial=-1)) if self.of_regions else -1,
            share=values["share"][counts] if self.of_regions else None,
        )


def facts_text(counts: Mapping[str, int]) -> str:
    """Return what was left out of a trace as a line of JSON."""
    return json.dumps({"gpuscan_trace": 1, **counts})


def facts_of(path: Path, text: bytes) -> dict[str, int]:
    """Return what was left out of a trace, from its line of JSON; empty where it is not such a line.

    Raises:
        InputError: a newer gpuscan wrote it, or a count is none.
    """
    if b'"gpuscan_trace"' not in text or len(text) > _TEXT_MAX:
        return {}
    try:
        found = parse_json(text)
    except UnfitError as error:
        raise InputError(f"{path} {error}, in what it says of itself; convert it again") from error
    facts = {name: found.get(name, _LATER.get(name)) for name in _FACTS} if isinstance(found, dict) else {}
    counts = {name: n for name, n in facts.items() if type(n) is int and -1 <= n < _COUNT_MAX}
    if len(counts) < len(_FACTS) or found.get("gpuscan_trace") != 1:
        raise InputError(f"{path} says of itself what this gpuscan cannot read; convert it again")
    return counts


def only(facts: Mapping[str, int], *, of_regions: bool) -> Samples:
    """Return no samples, with what was left out."""
    none = np.empty(0, dtype=np.int64)
    return Samples(
        none, none.astype(np.int32), none, none, none, share=np.empty(0) if of_regions else None, **facts
    )


def of_file(fmt: TraceFormat, columns: Columns) -> TraceFormat:
    """Return what is true of a table with these columns."""
    return replace(
        fmt,
        knows_cpus="cpu" in columns.names,
        is_virtual=columns.is_virtual,
        noun="accessed region" if columns.of_regions else fmt.noun,
        outside_advice=ONLY_PHYSICAL if columns.of_regions else "",
    )
