"""Which format a trace has: sure, likely, several, none; and what a format says of CPUs."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.traces import open_trace
from gpuscan.traces.catalogue import TRACES
from gpuscan.traces.contract import Sniff, TraceFormat

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


def test_a_format_gives_cpus_as_it_declares(monkeypatch: pytest.MonkeyPatch, trace: Path) -> None:
    found = open_trace(trace)
    assert [len(samples) for samples in found.blocks()] == [1]
    monkeypatch.setitem(TRACES._loaded, "perf", replace(TRACES.get("perf"), knows_cpus=False))
    with pytest.raises(InputError, match=r"trace format perf declares knows_cpus = False, and gives samples"):
        list(found.blocks())


TRACEPOINT = (
    "kdamond.0  4000 [000]   820.952659: damon:damon_aggregated: target_id=0 nr_regions=2 4096-8192: 3 5\n"
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"damon_recfmt_ver\x02" + bytes(99), "is a binary record of an old damo; have damo turn it"),
        ("       " + TRACEPOINT, "is DAMON's tracepoint, printed by perf; have damo turn it"),
        ("# captured on: today\n" + TRACEPOINT, ":2: .*; these are DAMON's regions; have damo turn them"),
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


@pytest.mark.parametrize(
    ("pack", "unpack"), [(gzip.compress, "gunzip"), (lzma.compress, "unxz"), (bz2.compress, "bunzip2")]
)
def test_what_unpacks_a_compressed_trace_is_said(
    tmp_path: Path, pack: Callable[[bytes], bytes], unpack: str
) -> None:
    path = tmp_path / "mem.txt.packed"
    path.write_bytes(pack(PERF.encode()))
    with pytest.raises(InputError, match=rf"is compressed; unpack it first: {unpack} --keep {path}"):
        open_trace(path)
