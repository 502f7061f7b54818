"""Hot lists of CXL hotness monitoring units, as ``perf script -D`` prints what their driver recorded.

The driver copies a hot list into the AUX buffer behind two words: how many entries there are and how wide
their counters, and one that says nothing. An entry is a count in its lower bits and a unit of the device in
the others (cxl_hmu_update_aux() of drivers/cxl/hmu.c). perf prints ``CXL_HMU data``, then for each list
``Header 0: units: N counter_width W``, ``Header 1 : ...`` and N entries, all in hexadecimal (cxl_hmu_dump()
of tools/perf/util/cxl-hmu.c; both of github.com/davidlohr/linux, edd65db8f04a, and of "CXL Hotness Monitoring
Unit perf driver", J. Cameron, linux-cxl, 2024-11-21). When a list was copied says the ``PERF_RECORD_AUX`` of
its part of the buffer; where there is none, lists are an epoch apart.

Neither the size of a unit nor where the memory of the device is in that of the host is in the dump: both have
to be given, and of interleaved devices the ways, the granularity and which of them this one is. Where
granules are smaller than a page, the first page of each page of device memory is taken, as of the producer
``hotness-unit``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT, format_bytes
from gpuscan.sim.interleave import GRANULARITIES, WAYS, place_in_region
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.given import Given
from gpuscan.traces.hot_lists import HotList, hot_lists
from gpuscan.traces.samples import Samples
from gpuscan.traces.text import accesses

_UNIT_BYTES = (256, 2 << 30)
"""Sizes of a unit that the driver takes (hot_gran, a power of two)."""
_ADDRESS_MAX = 1 << 56
_PAGES_AT_ONCE = 1 << 20
_GIVEN = {
    "unit": "size of a unit: 2 to the power of the recording's hotness_granual, 12 is 4KiB",
    "base": "physical address of the region that the device is in: /sys/bus/cxl/devices/regionN/resource",
    "skip": "address on the device at which the region begins: mappings of decoderN, dpa_resource; 0",
    "ways": "devices of the region: interleave_ways; 1",
    "granularity": "bytes of one device before the next comes: interleave_granularity",
    "way": "which device of the region this one is, from 0: targetN",
    "epoch": "time from one list to the next, where the dump says none: epoch_multiplier times epoch_scale",
}


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the units of a device are in the host's memory.

    Attributes:
        unit_bytes, base, skip, ways, granularity_bytes, way: as given.
        epoch_ns: from one list to the next where the dump says no times, 0 where nobody says.
    """

    unit_bytes: int
    base: int
    skip: int = 0
    ways: int = 1
    granularity_bytes: int = GRANULARITIES[-1]
    way: int = 0
    epoch_ns: int = 0

    @classmethod
    def of(cls, path: Path, given: Given) -> Placed:
        """Return what was given of a dump.

        Raises:
            InputError: it is too little, or does not fit.
        """
        unit = given.size("unit", *_UNIT_BYTES)
        base = given.number("base", None, 0, _ADDRESS_MAX)
        ways = given.number("ways", 1, 1, WAYS[-1]) or 1
        missing = [name for name, value in (("unit", unit), ("base", base)) if value is None]
        if ways > 1:
            missing += [name for name in ("granularity", "way") if name not in given.values]
        if missing or unit is None or base is None:
            lines = "; ".join(f"--given {name}=... ({_GIVEN[name]})" for name in missing)
            raise InputError(
                f"{path} has units of a CXL device, and does not say where they are; give {lines}"
            )
        if ways not in WAYS:
            raise InputError(f"--given ways={ways}: give one of {', '.join(map(str, WAYS))}")
        granularity = given.size("granularity", GRANULARITIES[0], GRANULARITIES[-1]) or GRANULARITIES[-1]
        way = given.number("way", 0, 0, ways - 1) or 0
        skip = given.number("skip", 0, 0, _ADDRESS_MAX) or 0
        if skip % granularity:
            raise InputError(
                f"--given skip={skip}: no region begins there; give a multiple of the granularity"
            )
        return cls(unit, base, skip, ways, granularity, way, given.time_ns("epoch") or 0)

    def sentence(self) -> str:
        """Return what is assumed of the dump."""
        of = (
            ""
            if self.ways == 1
            else f", way {self.way} of {self.ways} by {format_bytes(self.granularity_bytes)}"
        )
        return f"units of {format_bytes(self.unit_bytes)} from {self.base:#x} on{of}, as given"

    def stretches(self, units: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Return int64[n] which of the units each stretch is of, int64[n] its first page, and its pages."""
        step = self.unit_bytes
        if self.ways > 1:
            step = min(step, max(self.granularity_bytes, PAGE_BYTES))
        of = np.repeat(np.arange(len(units)), self.unit_bytes // step)
        dpa = (units[:, None] * self.unit_bytes + np.arange(self.unit_bytes // step) * step).ravel()
        place = self.base + place_in_region(dpa - self.skip, self.way, self.ways, self.granularity_bytes)
        return of, place >> PAGE_SHIFT, max(1, step >> PAGE_SHIFT)

    @property
    def stretches_per_unit(self) -> int:
        """How many stretches :meth:`stretches` makes of a unit."""
        return len(self.stretches(np.zeros(1, dtype=np.int64))[0])


def read_dump(
    path: Path, on_read: Callable[[int], None], *, placed: Placed | None = None
) -> Iterator[Samples]:
    """Yield the hot units, some thousand at a time.

    Args:
        path: of the file.
        on_read: called with the bytes of the file read since the last call.
        placed: where the units are.

    Raises:
        InputError: a line is cut short or foreign, the lists are of several devices or without times, or a
            unit lies nowhere; names the line.
        OSError: the file cannot be read.
    """
    assert placed is not None
    per_unit = placed.stretches_per_unit
    last_ns = 0
    for at, found in enumerate(hot_lists(path, on_read)):
        time_ns = _time_ns(path, at, found, placed)
        if time_ns < last_ns:
            raise InputError(
                f"{path}:{found.line}: the list is earlier than the one before; record one unit at a time"
            )
        last_ns = time_ns
        highest = placed.skip + (_ADDRESS_MAX - placed.base) // placed.ways
        addresses = found.units.astype(np.float64) * placed.unit_bytes
        wrong = (addresses + placed.unit_bytes > highest) | (addresses < placed.skip)
        if wrong.any():
            unit = int(found.units[np.argmax(wrong)])
            raise InputError(
                f"{path}:{found.line}: unit {unit:#x} of the list from this line on "
                f"is not in the region, with units of {format_bytes(placed.unit_bytes)}; give the right "
                "unit and skip"
            )
        n_at_once = max(1, _PAGES_AT_ONCE // per_unit)
        for start in range(0, len(found.units), n_at_once):
            part = slice(start, start + n_at_once)
            of, page, n_pages = placed.stretches(found.units[part])
            n = len(of)
            yield accesses(
                np.full(n, time_ns, dtype=np.int64),
                page,
                found.counts[part][of],
                np.full(n, n_pages, dtype=np.int64),
            )


def _time_ns(path: Path, at: int, found: HotList, placed: Placed) -> int:
    if found.time_ns >= 0:
        return found.time_ns
    if not placed.epoch_ns:
        raise InputError(
            f"{path}:{found.line}: the dump does not say when this list was read: no PERF_RECORD_AUX with a "
            "time is of its part of the buffer; give all that perf script -D prints, or --given epoch=... "
            f"({_GIVEN['epoch']})"
        )
    return at * placed.epoch_ns


_IS = re.compile(
    rb"^(?:\. \.\.\. CXL_HMU data: size [0-9]+ bytes|Header 0: units: [0-9a-f]+ counter_width [0-9a-f]+"
    rb"|0x[0-9a-f]+(?:@[^\n]*?)? \[0x[0-9a-f]+\]: event: [0-9]+)\s*$",
    re.MULTILINE,
)
"""Its beginning: of the lists alone, or of all that perf says of its own recording."""


def _of_file(path: Path, start: bytes, given: Mapping[str, str]) -> TraceFormat:
    placed = Placed.of(path, Given(given))
    return replace(TRACE_FORMAT, read=partial(read_dump, placed=placed), assumes=placed.sentence())


TRACE_FORMAT = TraceFormat(
    about="hot lists in what perf script -D prints of a CXL_HMU recording",
    noun="hot unit",
    knows_cpus=False,
    sniff=lambda start: Sniff.IS if _IS.search(start) else Sniff.NO,
    advice=lambda path, start: "",
    outside_advice="",
    read=read_dump,
    is_virtual=False,
    assumes="",
    given=_GIVEN,
    of_file=_of_file,
)
