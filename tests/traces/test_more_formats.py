"""Traces as other tools write them: each format's own text, what it is read as, and what is no such text."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.traces import open_trace

PID = 4711 << 40


@dataclass(frozen=True)
class Case:
    """A trace, and (time_ns, page, n_pages, weight) of what is in it."""

    kind: str
    text: str
    rows: list[tuple[int, int, int, int]]
    n_idle: int = 0
    n_unresolved: int = 0
    bad: str = "no such line\n"


CASES = {
    "tracepoint": Case(
        "damon-tracepoint",
        "       kdamond.0  4000 [000]   820.952659: damon:damon_aggregated: target_id=0 nr_regions=2 "
        "4294967296-4299161600: 3 5\n"
        "       kdamond.0  4000 [000]   820.952663: damon:damon_aggregated: target_id=0 nr_regions=2 "
        "4299161600-8589934592: 0 9\n",
        [(820_952_659_000, 1 << 20, 1024, 3)],
        n_idle=1,
    ),
    "trace_pipe": Case(
        "damon-tracepoint",
        "# tracer: nop\n#\n"
        "       kdamond.0-46      [003] .....  1820.952659: damon_aggregated: target_id=0 nr_regions=2 "
        "4096-8193: 20 5\n"
        "   my kdamond-46      [003] .....  1820.952660: damon_aggregated: target_id=0 nr_regions=2 8193-9000: 1\n",
        [(1_820_952_659_000, 1, 2, 20), (1_820_952_660_000, 2, 1, 1)],
    ),
    "lackey": Case(
        "lackey",
        "==99== Lackey, an example Valgrind tool\n==99== \nI  04016a80,3\n S 1ffefff8a8,8\nI  04016a83,5\n"
        " L 1ffefff8a0,8\n M 0421c7cc,4\n==99== \n",
        [(1, 0x1FFEFFF, 1, 1), (2, 0x1FFEFFF, 1, 1), (2, 0x421C, 1, 1)],
        bad=" X 1ffe,8\n",
    ),
    "ramulator": Case(
        "ramulator",
        "3 20734016\n1 20846400 20734080\n0 4096\n",
        [(4, 5062, 1, 1), (6, 5089, 1, 1), (6, 5062, 1, 1), (7, 1, 1, 1)],
        bad="3 0x2073\n",
    ),
    "drmemtrace": Case(
        "drmemtrace",
        "Output format:\n<--record#-> <--instr#->: <---tid---> <record details>\n"
        "------------------------------------------------------------\n"
        "           1           0:      342625 <marker: version 6>\n"
        "           2           0:      342625 <marker: timestamp 13335432623168950>\n"
        "           3           0:      342625 <marker: tid 342625 on core 5>\n"
        "           4           1:      342625 ifetch       3 byte(s) @ 0x00007fef68041850 48 89 e7   mov\n"
        "           5           1:      342625 write        8 byte(s) @ 0x00007ffc52b3f6d8 by PC 0x00007fef68041853\n"
        "           6           1:      342625 <marker: timestamp 13335432623168990>\n"
        "           7           1:      342625 read         8 byte(s) @ 0x00007fef6807b000 by PC 0x00007fef68041853\n"
        "           8           1:      342625 pref-r-L1    0 byte(s) @ 0x00007fef6807b000 by PC 0x00007fef68041853\n"
        "View tool results:\n              1 : total instructions\n",
        [(0, 0x7FFC52B3F, 1, 1), (40_000, 0x7FEF6807B, 1, 1)],
        bad="           9           1:      342625 read         8 byte(s) at 0x00007fef6807b000\n",
    ),
    "memtierd": Case(
        "memtierd",
        "          timestamp       pid             addr    pages     accs   writes\n"
        " 1779692722000000000     4711     7f0000001000        2        3        1\n"
        " 1779692722000000001     4711     7f0000009000        7        0        0\n".replace(
            "17796", "0779"
        ),
        [(779_92_722_000_000_000, PID | 0x7F0000001, 2, 4)],
        n_idle=1,
    ),
    "perf mem": Case(
        "perf-mem",
        "# PID, TID, IP, ADDR, PHYS ADDR, LOCAL WEIGHT, DSRC, SYMBOL\n"
        " 1234  1235 0xffffffff81a00b20 0xffff88810a1b2c40 0x000000010a1b2c40   311 0x68100142 [kernel.kallsyms]:f\n"
        " 1234  1234 0x0000000000401136 0x00007ffd00001040 0x0000000000000000     7 0x68100142 /bin/x y:main\n",
        [(0, 0x10A1B2, 1, 311)],
        n_unresolved=1,
    ),
    "perf mem, with separators and page sizes": Case(
        "perf-mem",
        "# PID, TID, IP, ADDR, PHYS ADDR, DATA PAGE SIZE, LOCAL WEIGHT, DSRC, SYMBOL\n"
        "1234,1235,0xffffffff81a00b20,0xffff88810a1b2c40,0x000000010a1b2c40,4K,311,0x68100142,x:f\n"
        "1234,1235,0xffffffff81a00b20,0xffff88810a1b2c40,0x000000010a1b3c40,N/A,12,0x68100142,x:f\n",
        [(0, 0x10A1B2, 1, 311), (1000, 0x10A1B3, 1, 12)],
    ),
}


def columns(path: Path, kind: str) -> tuple[list[tuple[Any, ...]], int, int]:
    trace = open_trace(path)
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
    assert columns(path, case.kind) == expected
    path.write_bytes(gzip.compress(case.text.encode()))
    monkeypatch.setattr("gpuscan.traces.text.BLOCK_BYTES", 7)
    assert columns(path, case.kind) == expected


@pytest.mark.parametrize("name", CASES)
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
