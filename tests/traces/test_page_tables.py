"""Traces of virtual addresses by the page table that is given beside them: frames, and what has none."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.linux.process import Process
from gpuscan.linux.resident import pfns_at
from gpuscan.live.page_tables import page_tables
from gpuscan.traces import Samples, open_trace
from gpuscan.traces import page_table as module
from gpuscan.traces.page_table_file import read_page_table, write_page_table
from hosts import small_host
from trace_texts import CASES

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="page frame numbers are root's to see")
RECORD = [
    {
        "target_id": 0,
        "intervals": {"sample_us": 5000, "aggr_us": 100_000},
        "snapshots": [
            {
                "start_time": 0,
                "end_time": 100_000_000,
                "regions": [
                    {"start": 0x1000, "end": 0x9000, "nr_accesses": {"samples": 12}},
                    {"start": 0x20000, "end": 0x30000, "nr_accesses": {"samples": 9}},
                    {"start": 0x7FFC00000000, "end": 0x7FFC00004000, "nr_accesses": {"samples": 20}},
                    {"start": 0x7FFC00004000, "end": 0x7FFC00005000, "nr_accesses": {"samples": 0}},
                ],
            }
        ],
    }
]


def read(path: Path, pages: Path) -> tuple[list[tuple[int, ...]], int]:
    trace = open_trace(path, {"pages": str(pages)})
    assert not trace.format.is_virtual
    found = Samples.joined(list(trace.blocks()))
    names = ("time_ns", "pfn", "n_pages", "weight")
    return list(zip(*(getattr(found, name).tolist() for name in names), strict=True)), found.n_unmapped


def put(directory: Path, text: str, table: str) -> tuple[Path, Path]:
    (directory / "trace").write_text(text)
    (directory / "pages.csv").write_text(table)
    return directory / "trace", directory / "pages.csv"


def test_accesses_are_where_the_table_has_their_pages(tmp_path: Path) -> None:
    table = "virtual_address,pfn\n0x1ffefff000,700\n0x421c000,0x10\n"
    assert read(*put(tmp_path, CASES["lackey"].text, table)) == (
        [(1, 700, 1, 1), (2, 700, 1, 1), (2, 16, 1, 1)],
        0,
    )
    table = "pid,virtual_page,address,n_pages\n9,0x421b,0x5000,3\n"
    assert read(*put(tmp_path, CASES["lackey"].text, table)) == ([(2, 6, 1, 1)], 2)


def test_regions_are_cut_into_stretches_of_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = "virtual_page,pfn,n_pages\n3,300,2\n0,100,2\n5,900,1\n0x7ffc00001,40,2\n8,500,9\n"
    expected = (
        [
            (10**8, 101, 1, 12),
            (10**8, 300, 2, 12),
            (10**8, 900, 1, 12),
            (10**8, 500, 1, 12),
            (10**8, 40, 2, 20),
        ],
        1,
    )
    path, pages = put(tmp_path, json.dumps(RECORD), table)
    assert read(path, pages) == expected
    monkeypatch.setattr(module, "_N_PIECES", 1)
    assert read(path, pages) == expected


@pytest.mark.slow
def test_large_records_are_translated_as_small_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pages = put(tmp_path, json.dumps(RECORD), "virtual_page,pfn,n_pages\n3,300,2\n0,100,2\n")
    expected = read(path, pages)
    monkeypatch.setattr("gpuscan.traces.built_in.damo._SMALL_BYTES", 0)
    monkeypatch.delattr("gpuscan.traces.built_in.damo._read_whole")
    assert read(path, pages) == expected
    path.write_text(json.dumps(RECORD * 2))
    with pytest.raises(InputError, match="has 2 targets, and a page table is of one process; record that"):
        read(path, pages)


def test_the_shares_and_what_was_left_out_before_are_kept(tmp_path: Path) -> None:
    path, pages = put(tmp_path, json.dumps(RECORD), "virtual_page,pfn,n_pages\n0,100,9\n")
    found = Samples.joined(list(open_trace(path, {"pages": str(pages)}).blocks()))
    assert found.share is not None
    assert (found.share.tolist(), found.n_idle, found.n_unmapped) == ([0.6], 1, 2)


def test_a_record_that_says_vaddr_is_read_by_a_table_and_one_that_says_paddr_is_not(tmp_path: Path) -> None:
    path, pages = put(tmp_path, json.dumps(RECORD), "virtual_page,pfn,n_pages\n0,100,9\n")
    settings = tmp_path / "trace.kdamonds"
    settings.write_text(json.dumps([{"contexts": [{"ops": "vaddr", "targets": []}]}]))
    assert len(read(path, pages)[0]) == 1
    with pytest.raises(InputError, match=r"addresses are virtual .*; give that, --given pages=FILE"):
        list(open_trace(path).blocks())
    settings.write_text(json.dumps([{"contexts": [{"ops": "paddr", "targets": []}]}]))
    with pytest.raises(InputError, match=r"its addresses are physical .*; leave out pages"):
        read(path, pages)


def test_several_targets_are_not_of_one_table(tmp_path: Path) -> None:
    path, pages = put(tmp_path, json.dumps(RECORD * 2), "virtual_page,pfn\n1,100\n")
    with pytest.raises(InputError, match="has 2 targets, and a page table is of one process; record that"):
        read(path, pages)
    text = CASES["tracepoint"].text
    path, pages = put(tmp_path, text, "virtual_page,pfn\n0x100000,100\n")
    assert read(path, pages) == ([(820_952_659_000, 100, 1, 3)], 0)
    path.write_text(text + text.splitlines()[-1].replace("target_id=0", "target_id=1") + "\n")
    with pytest.raises(InputError, match="has 2 targets"):
        read(path, pages)


def test_processes_are_told_apart(tmp_path: Path) -> None:
    text = CASES["memtierd"].text
    line = text.splitlines()[1]
    other = line.replace(" 4711 ", "  815 ")
    both = f"{text.splitlines()[0]}\n{line}\n{other}\n"
    row = (779_92_722_000_000_000, 40, 2, 4)
    page = "0x7f0000001"
    assert read(*put(tmp_path, text, f"virtual_page,pfn,n_pages\n{page},40,2\n")) == ([row], 0)
    assert read(*put(tmp_path, text, f"pid,virtual_page,pfn,n_pages\n815,{page},40,2\n")) == ([], 1)
    table = f"pid,virtual_page,pfn,n_pages\n815,{page},50,2\n4711,{page},40,2\n"
    assert read(*put(tmp_path, both, table)) == ([row, (row[0], 50, 2, 4)], 0)
    with pytest.raises(InputError, match=r"does not say whose pages it has, and the trace is of several"):
        read(*put(tmp_path, both, f"virtual_page,pfn\n{page},40\n"))
    with pytest.raises(InputError, match=r"has pages of 2 processes, and the trace does not say of which"):
        read(*put(tmp_path, CASES["lackey"].text, table))


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("", "is empty; give a table that gpuscan capture --pages wrote"),
        ("virtual_page,pfn\n", "has no pages; write it while the process runs"),
        ("virtual_page,virtual_address,pfn\n1,2,3\n", "has the columns 'virtual_page,|has the columns"),
        ("virtual_page,pfn,weight\n1,2,3\n", "has the columns"),
        ("virtual_page\n1\n", "has the columns 'virtual_page'; give a table"),
        ("virtual_page,pfn\n1,2\n1,x\n", "row 2: pfn is 'x', not a number"),
        ("virtual_page,pfn\n1,2,3\n", "pages.csv:2: the line has 3 values"),
        ("virtual_page,pfn\n1,0xfffffffffffff\n", "row 1: pfn is out of range"),
        ("virtual_page,pfn,n_pages\n1,2,0\n", "row 1: n_pages is out of range"),
        (f"pid,virtual_page,pfn,n_pages\n7,{(1 << 40) - 1},2,2\n", r"row 1: virtual_page \+ n_pages is out"),
        (f"virtual_page,pfn,n_pages\n1,{(1 << 44) - 1},2\n", r"row 1: pfn \+ n_pages is out of range"),
        ("pid,virtual_page,pfn\n0,1,2\n", "row 1: pid is out of range"),
        ("virtual_page,pfn,n_pages\n1,2,3\n3,9,1\n", "the page at 0x3000 has two frames"),
        ("virtual_page,pfn\n1,2", "ends in the middle of this line"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, table: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read(*put(tmp_path, CASES["lackey"].text, table))


def test_a_table_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(CASES["lackey"].text)
    with pytest.raises(InputError, match=r"cannot read the page table .*none: No such file"):
        open_trace(path, {"pages": str(tmp_path / "none")})
    with pytest.raises(InputError, match=r"is a directory, not a file; give"):
        open_trace(path, {"pages": str(tmp_path)})
    path.write_text("[000] 1.000000: 7 1000\n")
    with pytest.raises(InputError, match=r"format perf, of which may be given: nothing; leave out pages"):
        open_trace(path, {"pages": str(tmp_path)})


def test_rows_are_counted_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file says of its rows is not what it has."""
    path = tmp_path / "pages.parquet"
    pq.write_table(pa.table({"virtual_page": [1, 2, 3], "pfn": [4, 5, 6]}), path)
    assert len(read_page_table(path).page) == 3
    batch = pa.RecordBatch.from_pydict({"virtual_page": [1, 2], "pfn": [4, 5]})
    monkeypatch.setattr("gpuscan.traces.page_table_file.batches_of", lambda table: iter([batch, batch]))
    with pytest.raises(InputError, match="has more rows than the 3 that it says"):
        read_page_table(path)


def test_tables_are_written_and_read_alike(tmp_path: Path) -> None:
    part = {"pid": [7, 7], "virtual_page": [5, 9], "pfn": [50, 40], "n_pages": [2, 1]}
    columns = {name: np.array(values, dtype=np.int64) for name, values in part.items()}
    none = {name: values[:0] for name, values in columns.items()}
    found = []
    for name in ("pages.parquet", "pages.csv"):
        assert write_page_table(tmp_path / name, [none, columns]) == 3
        table = read_page_table(tmp_path / name)
        found.append((table.page.tolist(), table.pfn.tolist(), table.n_pages.tolist(), table.pids))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress((tmp_path / "pages.csv").read_bytes()))
    table = read_page_table(packed)
    found.append((table.page.tolist(), table.pfn.tolist(), table.n_pages.tolist(), table.pids))
    assert found == [([7 << 40 | 5, 7 << 40 | 9], [50, 40], [2, 1], (7,))] * 3
    with pytest.raises(InputError, match="no page of these processes"):
        write_page_table(tmp_path / "none.csv", [none])
    assert not (tmp_path / "none.csv").exists()
    pq.write_table(pa.table({"virtual_page": pa.array([1, None]), "pfn": [1, 2]}), packed)
    with pytest.raises(InputError, match="a value of the column virtual_page is missing"):
        read_page_table(packed)


@needs_root
def test_the_pages_of_a_process_that_runs() -> None:
    code = "import ctypes; m = ctypes.create_string_buffer(b'x' * (1 << 21)); "
    code += "print(ctypes.addressof(m), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            first = (int(child.stdout.readline()) + 4095) >> 12
            addresses = np.arange(first, first + 500, dtype=np.int64) << 12
            with Process(child.pid) as process:
                tables = list(page_tables([process]))
                pfns = pfns_at(process, addresses)
                of_ended = page_tables([process])
                next(of_ended)
                child.kill()
                child.wait()
                assert list(of_ended) == []
        finally:
            child.kill()
    assert {pid for part in tables for pid in part["pid"].tolist()} == {child.pid}
    found = {
        page + i: pfn + i
        for part in tables
        for page, pfn, n_pages in zip(part["virtual_page"], part["pfn"], part["n_pages"], strict=True)
        for i in range(n_pages)
    }
    assert (pfns > 0).all()
    assert [found.get(page) for page in range(first, first + 500)] == pfns.tolist()


@pytest.mark.slow  # 5 s
def test_capture_writes_pages_beside_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = small_host()
    pfn = int(host.topology.page_map.pfn_of_flat(np.flatnonzero(host.frames().eligible)[:1])[0])
    part = {"pid": [7], "virtual_page": [0x421C], "pfn": [pfn], "n_pages": [1]}
    columns = {name: np.array(values, dtype=np.int64) for name, values in part.items()}
    watched: list[Any] = []

    def capture_processes(pids: Any, *_: Any, on_captured: Any, **__: Any) -> Any:
        watched.append(pids)
        on_captured([columns])
        return host

    monkeypatch.setattr("gpuscan.live.capture.capture_processes", capture_processes)
    snapshot, pages = str(tmp_path / "a.zarr"), str(tmp_path / "pages.parquet")
    assert main(["capture", snapshot, "--pid", "7", "--pages", pages, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_pages_written"] == 1
    assert watched == [(7,)]
    assert main(["capture", str(tmp_path / "b.zarr"), "--pid", "7", "--pages", pages]) == 2
    assert "pages.parquet is there already; give another place, or --force" in capsys.readouterr().err
    trace = tmp_path / "lackey"
    trace.write_text(CASES["lackey"].text)
    assert main(["inspect", pages, "--machine", snapshot, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pages_on_node"] == {"0": 1}
    options = ["--given", f"pages={pages}"]
    assert main(["inspect", str(trace), *options, "--machine", snapshot, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["samples"], document["n_unmapped"], document["pages_on_node"]) == (1, 2, {"0": 1})
    assert main(["run", "--trace", str(trace), *options, "--machine", snapshot, "--split-cxl", "50%"]) == 0
    shown = capsys.readouterr().out
    assert "2 at addresses without a page in the page table" in shown
    assert "virtual addresses: by pages.parquet, which has the frames of 1 page" in shown
    assert main(["inspect", snapshot, *options]) == 2
    assert "leave out --given" in capsys.readouterr().err


def test_a_snapshot_is_there_where_its_pages_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processes were watched, and the machine was captured: that is not done again for a table."""

    def refused(error: Exception) -> Any:
        yield from ()  # so that it is raised where they are asked for
        raise error

    made: list[Any] = [iter(()), refused(PermissionError(1, "Operation not permitted", "/proc/7/pagemap"))]

    def capture_processes(*_: Any, on_captured: Any, **__: Any) -> Any:
        on_captured(made.pop(0))
        return small_host()

    monkeypatch.setattr("gpuscan.live.capture.capture_processes", capture_processes)
    for name, code, why in (
        ("a", 2, "no page of these processes is there"),
        ("b", 1, "Operation not permitted"),
    ):
        argv = ["capture", str(tmp_path / name), "--pid", "7", "--pages", str(tmp_path / "p.csv"), "--json"]
        assert main(argv) == code, name
        shown = capsys.readouterr()
        assert json.loads(shown.out)["n_pages_written"] is None
        assert why in shown.err
        assert (tmp_path / name / "zarr.json").is_file()
        assert not (tmp_path / "p.csv").exists()


def test_what_is_wrong_with_pages_is_said_before_anything_is_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    for options, why in (
        (("--pages", "pages.csv"), "--pages is of the processes of --pid; give one too, or leave it out"),
        (("--pid", "7", "--pages", "pages.txt"), "pages.txt ends in neither .parquet nor .csv"),
        (("--pid", "7", "--force", "--pages", str(tmp_path / "folder.csv")), "folder.csv is a directory"),
        (("--pid", "7", "--pages", str(tmp_path / "none/new.csv")), "none"),
        (
            ("--pid", "7", "--pages", str(tmp_path / "there.csv")),
            "there.csv is there already; give another place, or",
        ),
    ):
        assert main(["capture", str(tmp_path / "a.zarr"), *options]) == 2
        assert why in capsys.readouterr().err
