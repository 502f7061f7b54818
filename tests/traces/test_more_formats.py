"""Traces as other tools write them: each format's own text, what it is read as, and what is no such text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.inspection import inspect
from gpuscan.traces import open_trace
from gpuscan.workload.files import load_workload
from trace_texts import CASES


def columns(path: Path, kind: str, given: dict[str, str]) -> tuple[list[tuple[Any, ...]], int, int]:
    trace = open_trace(path, given)
    assert trace.kind == kind
    blocks = list(trace.blocks())
    names = ("time_ns", "pfn", "n_pages", "weight")
    rows = [row for block in blocks for row in zip(*(getattr(block, n).tolist() for n in names), strict=True)]
    assert all((block.cpu == -1).all() for block in blocks)
    return rows, sum(block.n_idle for block in blocks), sum(block.n_unresolved for block in blocks)


@pytest.mark.parametrize("name", CASES)
def test_what_tools_write_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = CASES[name]
    path = tmp_path / "trace"
    path.write_text(case.text)
    expected = (case.rows, case.n_idle, case.n_unresolved)
    assert columns(path, case.kind, case.given) == expected
    path.write_bytes(gzip.compress(case.text.encode()))
    monkeypatch.setattr("gpuscan.traces.text.BLOCK_BYTES", 7)
    assert columns(path, case.kind, case.given) == expected


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"hot lists"}))
def test_another_line_is_named(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    path = tmp_path / "trace"
    filler = case.text.splitlines(keepends=True)[-1]
    path.write_text(case.text + filler * 200 + case.bad)
    number = case.text.count("\n") + 201
    with pytest.raises(InputError, match=rf"trace:{number}: the line is not one of such a trace .*; give"):
        list(open_trace(path).blocks())
    path.write_text(case.text + filler[:-1])
    with pytest.raises(InputError, match=rf"trace:{number - 200}: the trace ends in the middle of this line"):
        list(open_trace(path).blocks())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            (0x7F0000001000).to_bytes(8, "little") + (0x7F0000003000).to_bytes(8, "little"),
            r"is memtierd's list of what to demote \(.vab\), which says nothing of accesses",
        ),
        (
            b"# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL\n",
            r"has no physical addresses; record and report them: perf mem --phys-data",
        ),
    ],
)
def test_what_says_too_little_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "4711.vab"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        open_trace(path)


def test_times_that_go_back_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    first, second = CASES["tracepoint"].text.splitlines(keepends=True)
    path.write_text(second + first)
    with pytest.raises(InputError, match=r"trace:1: in or after this line a time is earlier"):
        list(open_trace(path).blocks())


def test_the_share_of_an_aggregation_is_of_twenty_looks(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(CASES["trace_pipe"].text)
    (block,) = open_trace(path).blocks()
    assert block.share is not None
    assert block.share.tolist() == [1.0, 0.05]
    assert block.highest_pfn == 2


def test_another_number_of_looks_is_given(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(CASES["tracepoint"].text.replace(": 3 5", ": 30 5"))
    with pytest.raises(InputError, match=r"trace:1: .* accessed in 30 of 20 looks, .*; give --given looks=N"):
        list(open_trace(path).blocks())
    trace = open_trace(path, {"looks": "100"})
    (samples,) = trace.blocks()
    assert samples.share is not None
    assert (samples.share.tolist(), trace.format.assumes) == ([0.3], "aggregations of 100 looks, as given")
    assert open_trace(path).format.assumes == "aggregations of 20 looks, as DAMON makes them by default"
    with pytest.raises(InputError, match="--given looks=0: that is no number from 1"):
        open_trace(path, {"looks": "0"})


def test_a_trace_of_virtual_addresses_runs_on_pages_that_are_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace"
    lines = [f"0 {0x7F0000000000 + page * 4096}\n" for page in (*range(100), *range(100))]
    path.write_text("".join(lines))
    args = ["run", "--trace", str(path), "--json", "--quiet", "--device", "cpu"]
    assert main([*args, "--topology", "two-socket-cxl", "--memory", "1GiB"]) == 0
    document = json.loads(capsys.readouterr().out)
    metrics = document["summary"]["metrics"]
    assert (metrics["accesses"], metrics["accesses_fast"]) == (200, 0)  # all of one tick: nothing has moved
    assert document["ledger"]["requested"] == 100
    (note,) = document["notes"]
    assert note.endswith(
        "on 100 pages; left out: none; an instruction takes 1 ns; virtual addresses: pages got frames as they "
        "were first accessed, from the lowest tier up"
    )


def test_made_up_pages_end_with_the_machine(tmp_path: Path) -> None:
    from gpuscan.traces.source import survey
    from machines import tiered

    machine = tiered(n_sections=1)
    path = tmp_path / "trace"
    path.write_text("".join(f"0 {page * 4096}\n" for page in range(500)))
    found = survey(open_trace(path), machine)
    assert found.n_pages == 500
    tiers = [
        machine.node(nid).tier for nid in np.unique(machine.page_map.nid_of_flat(np.flatnonzero(found.pages)))
    ]
    assert tiers == [max(node.tier for node in machine.nodes)]
    n_pages = machine.page_map.n_pages
    path.write_text("".join(f"0 {page * 4096}\n" for page in range(n_pages + 1)))
    with pytest.raises(InputError, match=r"accesses more than .* pages, which is all that"):
        survey(open_trace(path), machine)


def test_where_all_regions_are_rare_the_setting_is_named(tmp_path: Path) -> None:
    from gpuscan.traces.source import survey
    from machines import tiered

    path = tmp_path / "trace"
    machine = tiered(n_sections=2)
    first = int(machine.page_map.extent_pfn_start[0]) << 12
    event = "k 4000 [000] 1.000000: damon:damon_aggregated: target_id=0 nr_regions=2 "
    path.write_text(f"{event}{first}-{first + 8192}: 3 5\n{event}{first + 8192}-{first + 16384}: 0 9\n")
    with pytest.raises(
        InputError, match=r"1 not accessed, 1 accessed in a smaller .*; --set source.min_share=0% keeps"
    ):
        survey(open_trace(path), machine, min_share=0.5)
    assert load_workload("cxl-promote", ["source.min_share=0%", "source.min_weight=0"]).source.min_share == 0
    assert survey(open_trace(path), machine).n_samples == 1
    path.write_text(f"{event}{first}-{first + 8192}: 3 5\n{event}140737310400512-140737310404608: 0 9\n")
    with pytest.raises(InputError, match=r"a region begins at 128 TiB, and .*--given pages=FILE"):
        survey(open_trace(path), machine)


def test_inspect_says_processes_and_addresses_apart(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(CASES["memtierd"].text)
    found = inspect(path)[1]
    assert ("addresses", "virtual, 0x7f0000001000 to 0x7f0000003000") in found.rows
    assert ("processes", "1: 4711") in found.rows
    assert (found.facts["pids"], found.facts["lowest_page"]) == ([4711], 0x7F0000001)
    path.write_text(CASES["lackey"].text)
    assert not dict(inspect(path)[1].rows).get("processes")


@pytest.mark.slow
def test_a_virtual_trace_is_not_for_a_captured_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hosts import HOST

    path = tmp_path / "trace"
    path.write_text(CASES["ramulator"].text)
    args = [
        "run",
        "--trace",
        str(path),
        "--machine",
        str(HOST),
        "--split-cxl",
        "50%",
        "--quiet",
        "--device",
        "cpu",
    ]
    assert main(args) == 2
    assert (
        "has virtual addresses, and which page of a captured machine is whose nobody says; give that, --given"
        in capsys.readouterr().err
    )
