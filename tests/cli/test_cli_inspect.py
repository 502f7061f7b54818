"""``gpuscan inspect``: every kind of file is told by its content, and its commands are the ones that work."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from gpuscan.cli.main import COMMANDS, main
from gpuscan.inspection.catalogue import FILE_KINDS
from gpuscan.store.plan_file import PlanWriter
from gpuscan.topology.resolve import resolve_topology
from gpuscan.topology.toml import to_toml
from gpuscan.workload.files import builtin_text
from hosts import HOST
from plans import make_plan

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one file of each kind."""
    place = tmp_path_factory.mktemp("files")
    (place / "machine.toml").write_text(to_toml(resolve_topology("two-socket-cxl", 1 << 30)))
    (place / "workload.toml").write_text(builtin_text("cxl-promote"))
    plan = make_plan([[0] * 40, [9] * 3], with_order=True)
    (place / "result").mkdir()
    with PlanWriter(place / "result/plan.parquet", "rfc", 2) as writer:
        writer.append(0, plan, plan.batches(2))
    (place / "result/report.json").write_text('{"schema": 1, "kind": "run", "notes": ["one"]}')
    return {
        "snapshot": HOST,
        "checkpoint": DATA / "checkpoint",
        "plan": place / "result/plan.parquet",
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
