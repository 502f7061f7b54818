"""Records and reports of damo (DAMON's user-space tool): JSON, as it is or compressed by zlib.

``damo record`` writes ``json_compressed`` by default and ``json`` on demand, and
``damo report access --json`` prints the same document: a list of records, one per monitored
target, each a list of snapshots with ``start_time``, ``end_time`` and ``regions`` (src/_damo_records.py
and src/_damon.py, damo df6d55faa031). Numbers are numbers or strings with commas, a unit, or both;
null stands for what is not known.

A record does not say whose addresses it has. ``damo record`` keeps the settings beside it in
``NAME.kdamonds``, where ``ops`` is ``paddr`` for physical memory. Without it the machine's memory tells: that
of a process has regions far above, its stack and libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpuscan.base.documents import shown
from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT, format_bytes
from gpuscan.files.reading import (
    TEXT_COST,
    JsonError,
    UnfitError,
    parse_json,
    read_file,
    room_bytes,
)
from gpuscan.traces.advice import DAMO, ONLY_PHYSICAL
from gpuscan.traces.contract import Sniff, TraceFormat
from gpuscan.traces.damo_stream import most_accesses, share_of, stream
from gpuscan.traces.given import PAGES, check_one_target
from gpuscan.traces.pieces import PackedError, open_pieces
from gpuscan.traces.samples import UNKNOWN_CPU, Samples

_READ_BYTES = 1 << 20
_TEXT_BYTES_MAX = 1 << 30
"""Of JSON: parsed it takes several times as much memory, of which there may be less. A snapshot of 1000
regions has some 0.4 MB."""
_SMALL_BYTES = 32 << 20
"""Of a file that is read as a whole in a second or two: to compile the scanner takes 25 s, once."""
_SETTINGS_BYTES_MAX = 1 << 20
_ADDRESS_MAX = 1 << 56
_COUNT_MAX = 1 << 62

_BYTES = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGTPE", start=1):
    _BYTES.update({_letter + suffix: 1 << (10 * _power) for suffix in ("", "B", "iB")})
_NANOSECONDS = {
    "": 1,
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_MICROSECONDS = {**_NANOSECONDS, "": 10**3}
"""Of numbers in nanoseconds whose names say microseconds."""
_COUNTS = {"": 1, "samples": 1}
_QUANTITY = re.compile(r"\s*(-?[0-9][0-9,]{0,40}(?:\.[0-9]{1,40})?)\s*([A-Za-z]{0,8})")
_OTHERS = {
    rb"damon_recfmt_ver": "a binary record of an old damo",
    rb"(?:[^\n]*\n){0,8}?(?:kdamond [0-9]+ / context [0-9]+|base_time_absolute:|# total recorded snapshots"
    rb"|monitoring time: |heatmap: [0-9]+\n"
    rb"|[0-9]{1,9} {1,9}addr {1,9}[^\n]{0,200} size {1,9}[^\n]{0,200} access )": (
        "a report of damo for people"
    ),
}
"""What else has DAMON's regions, by its first bytes."""
_INTERVALS = re.compile(rb'"intervals"\s*:\s*\{')
_VIRTUAL = re.compile(rb'"(?:fvaddr|vaddr)"')
_IS_VIRTUAL = (
    "its addresses are virtual ({}), and which page is where nobody says; give that, --given pages=FILE "
    "(gpuscan capture --pages), or record physical memory with damo record paddr"
)
_REMEDY = "give a file of damo record, or what damo report access --json prints"


def read_damo(path: Path, on_read: Callable[[int], None], *, is_virtual: bool = False) -> Iterator[Samples]:
    """Yield the accessed regions, by the end of their snapshot, some ten thousand at a time.

    A large file that is laid out as damo does it is read piece by piece (:mod:`gpuscan.traces.damo_stream`),
    any other as a whole.

    Args:
        path: of the file.
        on_read: called with the bytes of the file read since the last call.
        is_virtual: its addresses are those of one process, whatever it says.

    Raises:
        InputError: the file is cut short or foreign (names line or key), its addresses are virtual and nobody
            said so, or they are of several processes.
        OSError: the file cannot be read.
    """
    if not is_virtual:
        _refuse_virtual(path)
    most, found = _read(path, on_read, is_virtual=is_virtual)
    for samples in found:
        unknown = np.isnan(share_of(samples))
        if unknown.any():
            yield replace(samples, share=np.where(unknown, samples.weight / most, share_of(samples)))
        else:
            yield samples


def _read(path: Path, on_read: Callable[[int], None], *, is_virtual: bool) -> tuple[int, Iterator[Samples]]:
    """Return the accessed regions, with NaN for a share that nobody says, and what these are shares of.

    That is in how many looks the most accessed of them was accessed; see :func:`read_damo`.
    """
    if path.stat().st_size <= _SMALL_BYTES:
        return _read_whole(path, on_read, is_virtual=is_virtual)
    n_read = n_again = 0

    def count(n_bytes: int) -> None:
        nonlocal n_read
        n_read += n_bytes
        on_read(n_bytes)

    def count_again(n_bytes: int) -> None:
        nonlocal n_again
        n_again += n_bytes
        if n_again > n_read:
            count(n_again - n_read)

    found = stream(path, count)
    if found is None:
        return _read_whole(path, count_again, is_virtual=is_virtual)
    if is_virtual:
        check_one_target(path, found.n_targets)
    return found.most_accesses, found.blocks


def _read_whole(
    path: Path, on_read: Callable[[int], None], *, is_virtual: bool = False
) -> tuple[int, Iterator[Samples]]:
    """Return what :func:`_read` does, a block per snapshot; raises as :func:`read_damo`."""
    text = _text(path, on_read)
    try:
        records = parse_json(text)
    except JsonError as error:
        raise InputError(
            f"{path}:{error.line}: the JSON ends or breaks here ({error.why}); {_REMEDY}"
        ) from error
    except UnfitError as error:
        raise InputError(f"{path} {error}; record for a shorter time, or {_REMEDY}") from error
    if not is_virtual and (text_says := _VIRTUAL.search(text)):
        raise InputError(f"{path}: {_IS_VIRTUAL.format(f'it says {text_says[0].decode()}')}")
    del text
    at = _Place(path)
    snapshots: list[tuple[int, Samples]] = []
    records = at.list_of(records, "the document")
    if is_virtual:
        check_one_target(path, len(records))
    for index, record in enumerate(records):
        here = f"[{index}]"
        found = at.list_of(at.get(record, here, "snapshots", required=True), f"{here}.snapshots")
        if record.get("data_source") == "damon_stat":
            raise InputError(
                f"{path}: {here} comes from DAMON_STAT, which has no addresses; record with damo record paddr"
            )
        n_looks = _looks(at, record, here)
        last_ns = 0
        for number, snapshot in enumerate(found):
            there = f"{here}.snapshots[{number}]"
            end_ns = at.quantity(snapshot, there, "end_time", _NANOSECONDS, _COUNT_MAX)
            if end_ns < last_ns:
                raise InputError(
                    f"{path}: {there}.end_time is earlier than that of the snapshot before; "
                    "a record is in the order of time, as damo writes it"
                )
            last_ns = end_ns
            snapshots.append((end_ns, _regions(at, snapshot, there, end_ns, n_looks)))
    del records
    # Targets are recorded side by side.
    snapshots.sort(key=lambda of_time: of_time[0])
    most = max((most_accesses(samples) for _, samples in snapshots), default=1)
    return most, (samples for _, samples in snapshots)


def _looks(at: _Place, record: Any, here: str) -> float:
    """Return how many looks an aggregation has, NaN where the record does not say."""
    intervals = at.get(record, here, "intervals")
    if intervals is None:
        return np.nan
    sample_ns, aggregation_ns = (
        at.quantity(intervals, f"{here}.intervals", name, _MICROSECONDS, _COUNT_MAX)
        for name in ("sample_us", "aggr_us")
    )
    return max(1, aggregation_ns // sample_ns) if sample_ns else np.nan


def _regions(at: _Place, snapshot: Any, there: str, end_ns: int, n_looks: float) -> Samples:
    starts: list[int] = []
    ends: list[int] = []
    counts: list[int] = []
    most: list[float] = []
    n_idle, highest = 0, -1
    found = at.list_of(at.get(snapshot, there, "regions", required=True), f"{there}.regions")
    for number, region in enumerate(found):
        where = f"{there}.regions[{number}]"
        start = at.quantity(region, where, "start", _BYTES, _ADDRESS_MAX)
        end = at.quantity(region, where, "end", _BYTES, _ADDRESS_MAX)
        if end < start:
            raise InputError(f"{at.path}: {where} ends before it starts; {_REMEDY}")
        highest = max(highest, start)
        n_accesses, n_most = _accesses(at, region, where)
        if start < end and n_accesses > 0:
            starts.append(start)
            ends.append(end)
            counts.append(n_accesses)
            most.append(n_most or n_looks)
        else:
            n_idle += 1
    first = np.array(starts, dtype=np.int64) >> PAGE_SHIFT
    after = (np.array(ends, dtype=np.int64) + PAGE_BYTES - 1) >> PAGE_SHIFT
    return Samples(
        np.full(len(first), end_ns, dtype=np.int64),
        np.full(len(first), UNKNOWN_CPU, dtype=np.int32),
        first,
        after - first,
        np.array(counts, dtype=np.int64),
        n_idle=n_idle,
        highest_pfn=highest >> PAGE_SHIFT,
        share=np.array(counts, dtype=np.float64) / np.array(most, dtype=np.float64),
    )


def _accesses(at: _Place, region: Any, where: str) -> tuple[int, int]:
    """Return ``nr_accesses`` in looks and 0; its percentage, rounded up, and 100 where that is all."""
    found = at.get(region, where, "nr_accesses", required=True)
    where = f"{where}.nr_accesses"
    if at.get(found, where, "samples") is not None:
        return at.quantity(found, where, "samples", _COUNTS, _COUNT_MAX, lowest=-1), 0
    percent = at.get(found, where, "percent", required=True)
    text = percent.strip().removesuffix("%") if isinstance(percent, str) else percent
    return at.quantity({"percent": text}, where, "percent", _COUNTS, 100, lowest=-1), 100


class _Place:
    """Reads values of a document; what does not fit is named by its key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def list_of(self, value: Any, key: str) -> list[Any]:
        if not isinstance(value, list):
            raise InputError(f"{self.path}: {key} is not a list; {_REMEDY}")
        return value

    def get(self, table: Any, key: str, name: str, *, required: bool = False) -> Any:
        """Return ``table[name]``, None without it unless it is required."""
        if not isinstance(table, dict):
            raise InputError(f"{self.path}: {key} is not a table; {_REMEDY}")
        if required and table.get(name) is None:
            raise InputError(f"{self.path}: {key} has no {name}; {_REMEDY}")
        return table.get(name)

    def quantity(
        self, table: Any, key: str, name: str, units: dict[str, int], limit: int, *, lowest: int = 0
    ) -> int:
        """Return a number in base units: ``4096``, ``"4,096"``, ``"4.000 KiB"``, ``"1 s 500 ms"``."""
        value = self.get(table, key, name, required=True)
        number: float | int | None = None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = value * units[""]
        elif isinstance(value, str):
            number = limit if value == "max" else _parsed(value, units)
        # A NaN is in no range.
        if number is None or not lowest <= number <= limit:
            found = shown(value) if isinstance(value, (dict, list)) else repr(str(value)[:40])
            raise InputError(
                f"{self.path}: {key}.{name} is {found}, not a number from {lowest} to {limit:,}; {_REMEDY}"
            )
        return int(-(-number // 1))


def _parsed(text: str, units: dict[str, int]) -> float | int | None:
    """Return the sum of the quantities in ``text``, None where it holds anything else."""
    total: float | int = 0
    position = 0
    while position < len(text):
        match = _QUANTITY.match(text, position)
        if match is None or match[2] not in units:
            return None
        digits = match[1].replace(",", "")
        total += (float(digits) if "." in digits else int(digits)) * units[match[2]]
        position = match.end()
    return total if position else None


def _text(path: Path, on_read: Callable[[int], None]) -> bytearray:
    """Return the JSON of a file, inflated where it is compressed."""
    text = bytearray()
    n_bytes_max = min(_TEXT_BYTES_MAX, room_bytes() // TEXT_COST)
    place = memoryview(bytearray(_READ_BYTES))
    with open_pieces(path, on_read) as pieces:
        try:
            while n_bytes := pieces.readinto(place):
                text += place[:n_bytes]
                if len(text) > n_bytes_max:
                    raise InputError(
                        f"{path}:{_line(text)}: the record goes on beyond {format_bytes(n_bytes_max)} of "
                        "JSON, and more would not fit into memory when it is parsed as a whole, as has to be "
                        f"what damo did not lay out; {_REMEDY}"
                    )
        except PackedError as error:
            raise InputError(f"{path}:{_line(text)}: {error}") from error
    return text


def _line(text: bytearray) -> int:
    """Return the number of the last line."""
    return text.count(b"\n") + 1


def _settings(path: Path) -> Path:
    return path.with_name(f"{path.name}.kdamonds")


def _all_ops(path: Path) -> list[Any]:
    """Return whose addresses a record has by its settings, as far as there are any."""
    try:
        kdamonds = parse_json(read_file(_settings(path), _SETTINGS_BYTES_MAX))
        return [context["ops"] for kdamond in kdamonds for context in kdamond["contexts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no settings, or not damo's: the machine's PFNs will tell


def _refuse_virtual(path: Path) -> None:
    """Refuse a record whose settings say that its addresses are virtual."""
    for ops in _all_ops(path):
        if ops != "paddr":
            said = f"{_settings(path).name} says ops = {shown(ops)}"
            raise InputError(f"{path}: {_IS_VIRTUAL.format(said)}")


def _of_file(path: Path, start: bytes, given: Mapping[str, str]) -> TraceFormat:
    fmt = TRACE_FORMAT
    if not _INTERVALS.search(start):
        fmt = replace(fmt, assumes="without intervals, as many looks as the most accessed region had")
    if PAGES not in given:
        return fmt
    if "paddr" in _all_ops(path):
        raise InputError(
            f"{path}: its addresses are physical ({_settings(path).name} says ops = paddr); leave out {PAGES}"
        )
    return replace(fmt, is_virtual=True, read=partial(read_damo, is_virtual=True))


def _sniff(start: bytes) -> Sniff:
    is_json = start.lstrip()[:1] in (b"[", b"{") and not _is_numbered(start)
    return Sniff.IS if is_json else Sniff.NO


def _is_numbered(start: bytes) -> bool:
    """Whether a text begins with a number in brackets, as a line of perf script with its CPU may."""
    number, _, after = start.lstrip()[1:].partition(b"]")
    return number.isdigit() and after[:1].isspace()


def _advice(path: Path, start: bytes) -> str:
    for looks_like, what in _OTHERS.items():
        if re.match(looks_like, start):
            source = path if "record" in what else "RECORD"
            return f"is {what}; have damo turn it into JSON: {DAMO} {source}"
    return ""


TRACE_FORMAT = TraceFormat(
    about="a damo record",
    noun="accessed region",
    knows_cpus=False,
    sniff=_sniff,
    advice=_advice,
    outside_advice=ONLY_PHYSICAL,
    read=read_damo,
    is_virtual=False,
    assumes="",
    given={},
    of_file=_of_file,
)
