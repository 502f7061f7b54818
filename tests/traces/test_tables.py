"""Traces as CSV and Parquet: read in any unit, and written by ``gpuscan convert`` so that they are the same again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.traces import Samples, open_trace
from trace_texts import CASES

DATA = Path(__file__).parents[1] / "data/traces"
NAMES = ("time_ns", "cpu", "pfn", "n_pages", "weight")
COUNTS = ("n_unresolved", "n_repeated", "n_idle", "n_unmapped")


def whole(path: Path, given: dict[str, str]) -> tuple[dict[str, Any], tuple[bool, bool, str]]:
    """Return all that is in a trace, and what its format says of it."""
    trace = open_trace(path, given)
    found = Samples.joined(list(trace.blocks()))
    columns = {name: getattr(found, name).tolist() for name in NAMES}
    columns |= {name: getattr(found, name) for name in (*COUNTS, "highest_pfn")}
    columns["share"] = None if found.share is None else np.nan_to_num(found.share, nan=-1).tolist()
    return columns, (trace.format.knows_cpus, trace.format.is_virtual, trace.format.outside_advice[:5])


def traces(directory: Path) -> list[tuple[Path, dict[str, str]]]:
    """Return traces of every kind, and what has to be given of each."""
    made = []
    for name, case in CASES.items():
        path = directory / name.replace(" ", "-")
        path.write_text(case.text)
        made.append((path, case.given))
    return [*made, *((path, {}) for path in sorted(DATA.iterdir()))]


def test_a_converted_trace_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, given in traces(tmp_path):
        expected = whole(path, given)
        options = [option for key, value in given.items() for option in ("--given", f"{key}={value}")]
        for suffix in (".parquet", ".csv"):
            out, again = tmp_path / f"out{suffix}", tmp_path / f"again{suffix}"
            assert main(["convert", str(path), str(out), "--force", "--json", *options]) == 0
            document = json.loads(capsys.readouterr().out)
            assert document["samples"] == len(expected[0]["pfn"])
            assert whole(out, {}) == expected
            assert main(["convert", str(out), str(again), "--force"]) == 0
            capsys.readouterr()
            assert again.read_bytes() == out.read_bytes()


def test_nothing_is_replaced_unasked_or_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("mine")
    args = ["convert", str(DATA / "damo-paddr.json"), str(out)]
    assert main(args) == 2
    assert out.read_text() == "mine"
    assert main([*args[:2], str(tmp_path / "out.txt")]) == 2
    broken = tmp_path / "broken.txt"
    broken.write_text("[000] 1.000000: 7 1000\n" * 2 + "no\n")
    for suffix in (".parquet", ".csv"):
        assert main(["convert", str(broken), str(tmp_path / f"new{suffix}")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.txt", "out.parquet"]
    err = capsys.readouterr().err
    assert "out.parquet is there already; give another place, or --force to replace it" in err
    assert "ends in neither .parquet nor .csv" in err


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("time_ns,pfn\n5,7\n5,0x10\n", [(5, -1, 7, 1, 1), (5, -1, 16, 1, 1)]),
        (
            "# made by hand\ncpu, address ,time_s,weight\n3,0x410203040,1.5,42\n",
            [(1_500_000_000, 3, 0x410203, 1, 42)],
        ),
        ('"time_us","virtual_address","n_pages"\n7,4096,2\n\n8,0,0\n', [(7000, -1, 1, 2, 1)]),
        ("time_ms,virtual_page,share\r\n1,9,0.5\r\n", [(1_000_000, -1, 9, 1, 1)]),
    ],
)
def test_tables_by_hand(tmp_path: Path, text: str, rows: list[tuple[int, ...]]) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    (found, facts) = whole(path, {})
    assert list(zip(*(found[name] for name in NAMES), strict=True)) == rows
    assert facts[:2] == ("cpu" in text, "virtual" in text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("time_ns,pfn,colour\n1,2,3\n", "is a table of other columns; give columns with a heading"),
        ("time_ns,time_us,pfn\n1,2,3\n", "has the columns 'time_ns, time_us, pfn'"),
        ("time_ns,cpu\n1,2\n", "is a table of other columns"),
        ("time_ns,pfn\n1,2,3\n", ":2: the line has 3 values"),
        ("time_ns,pfn\n1,x\n", "row 1: pfn is 'x', not a number"),
        ("time_ns,pfn\n1,2\n0,2\n", "row 2 is earlier than the one before"),
        ("time_ns,pfn\n-1,2\n", "row 1: time_ns is '-1'"),
        ("time_ns,pfn\n1,0xfffffffffffffff\n", "row 1: pfn is out of range"),
        ("time_s,pfn\n99999999999,1\n", "row 1: time_s is"),
        ("time_ns,pfn,cpu\n1,1,99999999\n", "row 1: cpu is out of range"),
        ("time_ns,pfn\n1,2\n3,4", ":3: the trace ends in the middle of this line"),
        ('time_ns,pfn\n# {"gpuscan_trace": 2}\n1,1\n', "says of itself what this gpuscan cannot read"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        list(open_trace(path).blocks())


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"time_ns": [1], "pfn": ["x"]}, "column pfn has values of type string"),
        ({"time_ns": [1], "pfn": [None]}, "column pfn has values of type null|is missing"),
        ({"time_ns": [1, None], "pfn": [1, 2]}, "a value of the column time_ns is missing"),
        ({"time_s": [1 << 40], "pfn": [1]}, "time_s is out of range"),
        ({"time_ns": [2, 1], "pfn": [1, 1]}, "row 2 is earlier"),
        ({"a": [1]}, "has the columns 'a'"),
    ],
)
def test_what_is_wrong_with_parquet_is_said(tmp_path: Path, columns: dict[str, list[Any]], why: str) -> None:
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match=why):
        list(open_trace(path).blocks())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="is not a readable Parquet file"):
        open_trace(path)


def test_progress_counts_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"time_us": np.arange(200_000), "pfn": np.arange(200_000)}), path)
    seen: list[int] = []
    assert sum(len(block) for block in open_trace(path).blocks(seen.append)) == 200_000
    assert sum(seen) == path.stat().st_size
