"""Files that a workload file names lie beside it; those of options lie where the shell is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpuscan.cli.main import main
from gpuscan.topology.resolve import resolve_topology
from gpuscan.topology.toml import to_toml
from gpuscan.workload.files import builtin_text, load_workload, with_paths

SMALL = ("--ticks", "2", "--device", "cpu")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a workload, a machine and a trace; the shell is in another one."""
    folder = tmp_path / "mine"
    folder.mkdir()
    machine = to_toml(resolve_topology("two-socket-cxl", 1 << 30)).replace("two-socket-cxl", "my-machine")
    (folder / "machine.toml").write_text(machine, encoding="utf-8")
    text = builtin_text("cxl-promote")
    text, n = re.subn(
        'machine = "two-socket-cxl".*\nmemory = "64GiB".*\n', 'machine = "machine.toml"\n', text
    )
    assert n == 1
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    (tmp_path / "shell").mkdir()
    monkeypatch.chdir(tmp_path / "shell")
    return folder


def document(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json", "--quiet"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_machine_is_looked_for_beside_its_workload(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, "run", "../mine/mine.toml", *SMALL)
    assert found["machine"]["topology"] == "my-machine"
    assert load_workload(str(elsewhere / "mine.toml")).topology.machine == str(elsewhere / "machine.toml")


def test_an_option_is_looked_for_where_the_shell_is(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    override = ("--set", "topology.machine=machine.toml")
    assert main(["run", "../mine/mine.toml", *SMALL, *override]) == 2
    assert "machine.toml" in capsys.readouterr().err
    shutil.copy(elsewhere / "machine.toml", "machine.toml")
    (elsewhere / "machine.toml").unlink()
    assert (
        document(capsys, "run", "../mine/mine.toml", *SMALL, *override)["machine"]["topology"] == "my-machine"
    )


def test_a_trace_is_looked_for_beside_its_workload_and_found_again_by_resume(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = resolve_topology("two-socket-cxl", 1 << 30).node(2).zones[0].present[0][0]
    accesses = [
        f"[000] {second:5d}.{page * 300:06d}: {5:16d}{first + page << 12:16x}\n"
        for second in (100, 101)
        for page in range(500)
    ]
    end = f"[001] {102:5d}.000000: {5:16d}{0:16x}\n"
    (elsewhere / "mem.txt").write_text("".join(accesses) + end, encoding="utf-8")
    (elsewhere / "traced.toml").write_text(
        'shows = "a trace"\n[topology]\nmachine = "machine.toml"\n'
        '[source]\nkind = "trace"\ntrace = "mem.txt"\n',
        encoding="utf-8",
    )
    ran = document(capsys, "run", "../mine/traced.toml", "--device", "cpu", "--checkpoint", "../state")
    assert ran["ledger"]["requested"] > 0
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "shell")
    assert document(capsys, "resume", "state")["ledger"] == ran["ledger"]


def test_paths_are_located_and_nothing_else_is_changed() -> None:
    def beside_a(name: str) -> Path:
        return Path("/a") / name

    asked = {"topology": {"machine": "m.toml", "memory": "1GiB"}, "source": {"trace": "t"}, "seed": 1}
    assert with_paths(asked, beside_a) == {
        "topology": {"machine": "/a/m.toml", "memory": "1GiB"},
        "source": {"trace": "/a/t"},
        "seed": 1,
    }
    assert asked["topology"] == {"machine": "m.toml", "memory": "1GiB"}
    for same in (
        {"topology": {"machine": "two-socket-cxl"}, "source": {"trace": ""}},
        {"topology": {"machine": "host"}},
        {"topology": {"machine": "/b/m.toml"}, "source": {"trace": "/b/t"}},
        {"topology": 1, "source": [1]},
        {"topology": {"machine": 1}, "source": {"trace": None}},
        {},
    ):
        assert with_paths(same, beside_a) == same


def test_names_of_files_here_stay_short(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere)
    assert load_workload("mine.toml").topology.machine == "machine.toml"
    assert load_workload("./mine.toml").topology.machine == "machine.toml"


@pytest.mark.parametrize(
    ("file", "args", "meant"),
    [
        ("myload.toml", ["run", "myload"], "./myload.toml"),
        ("myload.toml", ["compare", "myload"], "./myload.toml"),
        ("myload", ["run", "myload"], "./myload"),
        ("host.zarr", ["run", "host"], "./host.zarr"),
        ("mymachine.toml", ["topology", "mymachine"], "./mymachine.toml"),
        ("mymachine.toml", ["compare", "--machine", "mymachine"], "./mymachine.toml"),
    ],
)
def test_a_name_that_is_a_file_here_is_met_with_its_path(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    args: list[str],
    meant: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    assert "did you mean" not in capsys.readouterr().err
    (tmp_path / file).touch()
    assert main(args) == 2
    err = capsys.readouterr().err
    assert f"(did you mean '{meant}'?)" in err
    assert err.count("\n") == 1
