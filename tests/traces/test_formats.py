"""Which format a trace has: sure, likely, several, none; and what a format says of CPUs."""

from __future__ import annotations

import bz2
import gc
import gzip
import lzma
import time
import weakref
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.inspection import inspect
from gpuscan.traces import open_trace, pieces
from gpuscan.traces.built_in import damo
from gpuscan.traces.catalogue import TRACES
from gpuscan.traces.contract import START_BYTES, Sniff, TraceFormat
from trace_texts import lz4, zstd

PERF = "[000] 1.000000: 7 1000\n"


class Formats:
    """A catalogue of formats that are given, or why one cannot be loaded."""

    usable = Catalogue.usable

    def __init__(self, members: Mapping[str, TraceFormat | InputError]) -> None:
        self._members = members
        self.names = tuple(members)

    def get(self, name: str) -> TraceFormat:
        found = self._members[name]
        if isinstance(found, InputError):
            raise found
        return found

    def origin(self, name: str) -> str:
        return f"of-{name} 1.0"


def says(sniff: Sniff, **others: Any) -> TraceFormat:
    return replace(TRACES.get("perf"), sniff=lambda start: sniff, **others)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "mem.txt"
    path.write_text(PERF)
    return path


def opened(monkeypatch: pytest.MonkeyPatch, path: Path, **members: TraceFormat | InputError) -> str:
    monkeypatch.setattr("gpuscan.traces.catalogue.TRACES", Formats(members))
    return open_trace(path).kind


def test_who_is_sure_comes_before_who_may_be(monkeypatch: pytest.MonkeyPatch, trace: Path) -> None:
    may_be, is_one, no = map(says, (Sniff.MAY_BE, Sniff.IS, Sniff.NO))
    assert opened(monkeypatch, trace, first=may_be, second=is_one, third=no) == "second"
    assert opened(monkeypatch, trace, first=no, second=may_be, third=may_be) == "second"
    with pytest.raises(InputError, match=r"mem.txt is no trace that can be read; give text of perf script"):
        opened(monkeypatch, trace, first=no)
    with pytest.raises(
        InputError, match=r"several formats: first \(of-first 1.0\), third \(of-third 1.0\); uninstall"
    ):
        opened(monkeypatch, trace, first=is_one, second=may_be, third=is_one)


def test_advice_is_for_what_no_other_format_is_sure_of(monkeypatch: pytest.MonkeyPatch, trace: Path) -> None:
    advises = says(Sniff.NO, advice=lambda path, start: "is a recording; convert it")
    with pytest.raises(InputError, match=r"mem.txt is a recording; convert it$"):
        opened(monkeypatch, trace, first=advises, second=says(Sniff.MAY_BE))
    assert opened(monkeypatch, trace, first=advises, second=says(Sniff.IS)) == "second"


def test_a_broken_format_is_told_of_where_no_other_is_sure(
    monkeypatch: pytest.MonkeyPatch, trace: Path
) -> None:
    broken = InputError("the trace format 'first' cannot be loaded")
    assert opened(monkeypatch, trace, first=broken, second=says(Sniff.IS)) == "second"
    assert opened(monkeypatch, trace, first=broken, second=says(Sniff.MAY_BE)) == "second"
    with pytest.raises(InputError, match="'first' cannot be loaded"):
        opened(monkeypatch, trace, first=broken, second=says(Sniff.NO))


def test_a_format_gives_cpus_as_it_declares(trace: Path) -> None:
    found = open_trace(trace)
    assert [len(samples) for samples in found.blocks()] == [1]
    otherwise = replace(found, format=replace(found.format, knows_cpus=False))
    with pytest.raises(InputError, match=r"trace format perf declares knows_cpus = False, and gives samples"):
        list(otherwise.blocks())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"damon_recfmt_ver\x02" + bytes(99), "is a binary record of an old damo; have damo turn it"),
        (b"PERFILE2" + bytes(99), "is perf's own recording; .* of damo's, of DAMON's regions,"),
    ],
)
def test_other_forms_of_damons_regions_are_named_with_what_helps(
    tmp_path: Path, content: bytes | str, says: str
) -> None:
    path = tmp_path / "damon.data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"{says} into JSON: damo report access --json --input {path}"):
        list(open_trace(path).blocks())


def pzstd(data: bytes) -> bytes:
    """Return what begins with a frame that is passed over, as pzstd has it."""
    return b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + bytes(4) + zstd(data)


@pytest.mark.parametrize(
    ("pack", "at"),
    # Arrow's frames have no checksums: of these the header of a block is hit.
    [(gzip.compress, 60), (lzma.compress, 60), (bz2.compress, 60), (zstd, 6), (lz4, 9), (pzstd, 18)],
)
def test_a_compressed_trace_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes], at: int
) -> None:
    path = tmp_path / "mem.txt.packed"
    lines = [f"[000] {second}.000000: 7 {second:x}000\n".encode() for second in range(1, 300)]
    path.write_bytes(pack(b"".join(lines[:200])) + pack(b"".join(lines[200:])))  # both one after the other
    monkeypatch.setattr("gpuscan.traces.pieces._READ_BYTES", 7)
    seen: list[int] = []
    assert [pfn for block in open_trace(path).blocks(seen.append) for pfn in block.pfn] == list(range(1, 300))
    assert sum(seen) == path.stat().st_size
    whole = path.read_bytes()
    for damaged, why in (
        (whole[:-9], "ends in this line of its text"),
        (whole + b"more, behind", "breaks in or after|something follows"),
        (whole[:at] + bytes([whole[at] ^ 0x7E]) + whole[at + 1 :], "breaks in or after"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"mem.txt.packed:\d+: .*({why}).*; copy it again whole"):
            list(open_trace(path).blocks())


# What damo report access prints for people, of several versions.
DAMO_TEXTS = (
    "heatmap: 00000000000000008888\n# min/max temperatures: -1,850,000,000, 0, column size: 766.684 MiB\n"
    "intervals: sample 5 ms aggr 100 ms (max access hz 200)\n# damon filters (df): none\n"
    "0   addr 4.000 GiB    size 7.484 GiB   access 0 hz   age 18.500 s\n",
    "kdamond 0 / context 0 / scheme None / target id 0 / recorded for total 50.2 s from 16 m 3.0 s\n",
    "base_time_absolute: 8 m 59.809 s\n\nmonitoring_start: 0 ns\n",
    "0   addr 1.000 GiB   size 62.5 MiB  access 0 %   age 3.2 s\n",
)


@pytest.mark.parametrize(
    "text",
    [f"1 addr{' ' * 900}{' size ' * 500}", f"1{' ' * 1000}addr{' ' * 1000}size{' ' * 1000}"],
    ids=["many sizes", "blanks"],
)
def test_what_is_nearly_a_report_of_damo_is_told_at_once(text: str) -> None:
    began = time.process_time()
    assert damo.TRACE_FORMAT.advice(Path("x"), text[:START_BYTES].encode()) == ""
    assert time.process_time() - began < 1


@pytest.mark.parametrize("text", DAMO_TEXTS)
def test_reports_of_damo_for_people_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"is a report of damo for people; .* --json --input RECORD"):
        list(open_trace(path).blocks())


def test_a_recording_of_trace_cmd_is_told(tmp_path: Path) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(b"\x17\x08\x44tracing6\0\0\0\0")
    with pytest.raises(InputError, match=rf"own recording; turn it into text: trace-cmd report -i {path}"):
        list(open_trace(path).blocks())


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, zstd])
def test_a_file_that_inflates_beyond_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "mem.txt.packed"
    monkeypatch.setattr("gpuscan.traces.pieces._FREE_BYTES", 4 << 20)
    path.write_bytes(pack(bytes(1 << 20)))
    with pytest.raises(
        InputError, match=r"mem.txt.packed:1: (.* inflate to more than|the line is longer than)"
    ):
        list(open_trace(path).blocks())
    path.write_bytes(pack(b"\n" * (6 << 20)))
    with pytest.raises(InputError, match=r"packed:\d+: .*B inflate to more than \d.* MiB, which no"):
        list(open_trace(path).blocks())


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, zstd, lz4, zlib.compress])
def test_inspect_takes_a_packed_trace_for_one(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """And not for an archive of a machine's files, which are packed like that too."""
    path = tmp_path / "mem.txt.packed"
    path.write_bytes(pack(PERF.encode()))
    kind, found = inspect(path)
    assert (kind, found.facts["format"], found.facts["samples"]) == ("trace", "perf", 1)


def test_what_arrow_reads_from_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's streams hold it where Python's collector does not look."""
    seen: list[weakref.ref[pieces._File]] = []

    class Seen(pieces._File):
        def __init__(self, read: Callable[[int], bytes]) -> None:
            super().__init__(read)
            seen.append(weakref.ref(self))

    monkeypatch.setattr(pieces, "_File", Seen)
    path = tmp_path / "mem.txt"
    path.write_bytes(zstd(PERF.encode()))
    list(open_trace(path).blocks())
    gc.collect()
    assert [found() for found in seen] == [None] * len(seen) != []


def test_what_takes_too_much_memory_to_inflate_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "mem.txt"
    # A frame of Zstandard with a window of 512 MiB (RFC 8878, 3.1.1.1.2) and an empty last block.
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00" + bytes([19 << 3]) + b"\x01\x00\x00")
    with pytest.raises(InputError, match=r"mem.txt:1: .* too much memory to inflate; unpack it yourself"):
        open_trace(path)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 300 << 20}]
    path.write_bytes(lzma.compress(b"[000] 1.000000: 7 1000\n", filters=filters))
    with pytest.raises(InputError, match=r"mem.txt:1: .* too much memory to inflate; unpack it yourself"):
        open_trace(path)


@pytest.mark.parametrize("start", [b"PERFILE2", b"PAR1"])
def test_what_is_not_read_from_its_beginning_on_is_to_be_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(start + bytes(99)))
    monkeypatch.setattr("gpuscan.traces.built_in.perf_data._perf", lambda: "perf")
    with pytest.raises(InputError, match=r"trace.gz is compressed, .*; unpack it first"):
        open_trace(path)


def test_what_unpacks_a_trace_that_cannot_be_inflated_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mem.txt.lz4"
    path.write_bytes(b"\x02\x21\x4c\x18" + bytes(99))
    with pytest.raises(InputError, match=rf"is compressed; unpack it first: unlz4 {path}"):
        open_trace(path)
