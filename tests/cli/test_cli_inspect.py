"""``gpuscan inspect``: every kind of file is told by its content, and its commands are the ones that work."""

from __future__ import annotations

import json
import shlex
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.cli.main import COMMANDS, main
from gpuscan.files.parquet import ParquetRows
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import HeatMap, create_map
from gpuscan.heatmap.space import Space
from gpuscan.inspection.catalogue import FILE_KINDS
from gpuscan.store.plan_file import PlanWriter
from gpuscan.topology.resolve import resolve_topology
from gpuscan.topology.toml import to_toml
from gpuscan.workload.files import builtin_text
from hosts import HOST
from plans import make_plan

DATA = Path(__file__).parents[1] / "data"


NUMA_MAPS = """\
55d0c0a00000 default file=/usr/bin/x mapped=10 active=0 N0=10 kernelpagesize_kB=4
7f0000000000 prefer=relative:2 anon=512 dirty=512 N0=500 N2=12 kernelpagesize_kB=4
7f8000000000 bind:2 file=/anon_hugepage\\040(deleted) huge dirty=3 N2=3 kernelpagesize_kB=2048
7fff00000000 default stack
"""
PAGE_OWNER = """\
Page allocated via order 0, mask 0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), pid 42, tgid 42 (x), ts 7 ns
PFN 0x{near:x} type Movable Block 8 type Movable Flags 0x17ffffc0000000(node=0|zone=2)
 get_page_from_freelist+0x1/0x2

Page allocated via order 9, mask 0xcc0(GFP_KERNEL), pid 1, tgid 1 (y), ts 8 ns, free_ts 1 ns
PFN {far} type Unmovable Block 8 type Movable Flags 0x17ffffc0000000()
 alloc+0x1/0x2

"""


def vmcore(elf_type: int = 4, note: bytes = b"VMCOREINFO\0") -> bytes:
    """Return the beginning of a dump: an ELF header, and the note that says which kernel it is of."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + elf_type.to_bytes(2, "little") + bytes(46)
    return (
        header
        + note
        + b"\0OSRELEASE=6.12.95\nPAGESIZE=4096\nSYMBOL(x)=1\nCRASHTIME=1767225600\n"
        + bytes(999)
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one file of each kind."""
    place = tmp_path_factory.mktemp("files")
    machine = resolve_topology("two-socket-cxl", 1 << 30)
    (place / "machine.toml").write_text(to_toml(machine))
    (place / "workload.toml").write_text(builtin_text("cxl-promote"))
    plan = make_plan([[0] * 40, [9] * 3], with_order=True)
    (place / "result").mkdir()
    with PlanWriter(place / "result/plan.parquet", "rfc", 2) as writer:
        writer.append(0, plan, plan.batches(2))
    with (place / "result/series.parquet").open("wb") as file, closing(ParquetRows(file)) as rows:
        rows.rows({"tick": np.arange(3), "time_ns": np.arange(3)})
        rows.end("gpuscan.test", "{}")
    cells = np.arange(3)
    create_map(
        place / "result/map.parquet",
        HeatMap(Space.of(machine, 10**8, 5), {"moves": Layer.of(cells, cells, cells + 1, 0, 0)}),
    )
    (place / "result/report.json").write_text('{"schema": 1, "kind": "run", "notes": ["one"]}')
    near, far = (machine.node(nid).zones[-1].present[0][0] for nid in (0, 2))
    (place / "pages.csv").write_text("virtual_page,pfn\n1,2\n")
    (place / "numa_maps").write_text(NUMA_MAPS)
    (place / "page_owner.txt").write_text(PAGE_OWNER.format(near=near, far=far))
    (place / "vmcore").write_bytes(vmcore())
    return {
        "memory-dump": place / "vmcore",
        "numa-maps": place / "numa_maps",
        "page-owner": place / "page_owner.txt",
        "snapshot": HOST,
        "checkpoint": DATA / "checkpoint",
        "plan": place / "result/plan.parquet",
        "heat-map": place / "result/map.parquet",
        "page-table": place / "pages.csv",
        "table": place / "result/series.parquet",
        "machine": place / "machine.toml",
        "workload": place / "workload.toml",
        "report": place / "result",
        "trace": DATA / "traces/perf-cpu-time-weight-phys.txt",
    }


def inspected(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["inspect", *args, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_there_is_an_example_of_every_kind(files: dict[str, Path]) -> None:
    assert sorted(files) == sorted(FILE_KINDS.names)


@pytest.mark.parametrize("kind", FILE_KINDS.names)
def test_each_kind_is_told(files: dict[str, Path], capsys: pytest.CaptureFixture[str], kind: str) -> None:
    document = inspected(capsys, str(files[kind]))
    assert document["kind"] == kind
    commands = [shlex.split(entry["command"]) for entry in document["commands"]]
    assert commands
    for name, command, *_ in commands:
        assert name == "python" or command in COMMANDS


def test_a_result_is_shown_and_made_a_page_of(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    commands = [entry["command"] for entry in inspected(capsys, str(files["report"]))["commands"]]
    given = shlex.quote(str(files["report"]))
    assert commands[:2] == [f"gpuscan heatmap {given}", f"gpuscan report {given} -o page.html"]
    (tmp_path / "grid.json").write_text('{"schema": 1, "kind": "compare-grid"}')
    (entry,) = inspected(capsys, str(tmp_path))["commands"]
    assert entry["command"].startswith("python -m json.tool")


@pytest.mark.parametrize("kind", ["trace", "plan"])
def test_people_are_told_the_same(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    document = inspected(capsys, str(files[kind]))
    assert main(["inspect", str(files[kind])]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{files[kind]}: {document['what']}\n")
    assert all(f"{entry['command']}    # {entry['does']}" in out for entry in document["commands"])


def test_what_is_in_a_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machine = resolve_topology("two-socket-cxl", 1 << 30)
    near, far = (machine.node(nid).zones[-1].present[0][0] for nid in (0, 2))
    path = tmp_path / "mem.txt"
    path.write_text(
        f"[003] 1.000000: 7 {near << 12:x}\n"
        + 2 * f"[005] 1.500000: 7 {far << 12:x}\n"
        + f"[005] 1.600000: 7 0\n[005] 3.500000: 7 {far + 1 << 12:x}\n[005] 3.500000: 7 fffffffffff000\n"
    )
    document = inspected(capsys, str(path), "--machine", "two-socket-cxl", "--memory", "1GiB")
    assert (document["samples"], document["n_unresolved"], document["n_repeated"]) == (4, 1, 1)
    assert (document["first_ns"], document["last_ns"]) == (10**9, 3_500_000_000)
    assert document["cpus"] == [3, 5]
    assert document["pages_on_node"] == {"0": 1, "2": 2}
    assert document["pages_outside"] == 1
    assert main(["inspect", str(path), "--machine", "two-socket-cxl", "--memory", "1GiB"]) == 0
    out = capsys.readouterr().out
    assert "on node 2  50.0% of its pages, 8 KiB" in out
    assert "left out   1 at physical address 0, 1 lines that say an access once more" in out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the trace is empty"),
        (b"\0\1\2\3\n", "does not end in a physical address"),
        (b"nodes = 3\n", "nodes"),
        (b'[{"a": 1}]', "has no snapshots"),
    ],
)
def test_what_is_no_file_of_ours_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, says: str
) -> None:
    path = tmp_path / "some"
    path.write_bytes(content)
    assert main(["inspect", str(path)]) == 2
    assert says in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "none")]) == 2
    assert main(["inspect", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "none is not there" in err
    assert "is nothing that gpuscan reads; it knows snapshots" in err


def test_page_state(files: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    machine = ("--machine", "two-socket-cxl", "--memory", "1GiB")
    document = inspected(capsys, str(files["numa-maps"]), *machine)
    assert document["bytes_on_node"] == {"0": 510 << 12, "2": (12 << 12) + (3 << 21)}
    assert document["bytes"]["dirty"] == (512 << 12) + (3 << 21)
    document = inspected(capsys, str(files["page-owner"]), *machine)
    assert document["pages_by_type"] == {"Movable": 1, "Unmovable": 512}
    assert document["pages_on_node"] == {"0": 1, "2": 512}
    assert inspected(capsys, "/proc/self/numa_maps")["mappings"] > 0
    damaged = tmp_path / "numa_maps"
    damaged.write_text(NUMA_MAPS + "nothing\n")
    assert main(["inspect", str(damaged)]) == 2
    assert "numa_maps:5: the line is none of numa_maps" in capsys.readouterr().err


def test_a_dump_of_memory_says_of_which_kernel(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    document = inspected(capsys, str(files["memory-dump"]))
    assert document["vmcoreinfo"] == {"OSRELEASE": "6.12.95", "PAGESIZE": "4096", "CRASHTIME": "1767225600"}
    (command,) = (entry["command"] for entry in document["commands"])
    assert command.startswith("gpuscan capture OUT.zarr --core ")
    (tmp_path / "flat").write_bytes(b"KDUMP   " + bytes(999))
    assert inspected(capsys, str(tmp_path / "flat"))["kind"] == "memory-dump"
    for other in (vmcore(elf_type=2), vmcore(note=b"CORE\0")):  # a program, a process
        (tmp_path / "other").write_bytes(other)
        assert main(["inspect", str(tmp_path / "other")]) == 2
        assert "dump" not in capsys.readouterr().out
