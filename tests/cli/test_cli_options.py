"""A value that no option can have is met with one sentence and exit code 2, before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpuscan.cli.main import COMMANDS, load_command, main

ABSURD = [
    ("run --ticks 0", "it must be at least 1, not '0'"),
    ("run --ticks -1", "it must be at least 1, not '-1'"),
    ("run --ticks 99999999999999999999", "ticks must be at most 1000000000"),
    ("run --ticks 1e3", "it must be a whole number, not '1e3'"),
    ("run --seed -1", "it must be at least 0"),
    ("run --seed 99999999999999999999999", "seed must be below 9223372036854775808"),
    ("run --memory 0", "topology.memory: 0 has no unit"),
    ("run --memory 0GiB", "too small for topology"),
    ("run --memory -1GiB", "'-1GiB' is not a size"),
    ("run --memory 64G", "did you mean '64GiB'"),
    ("run --memory 9EiB", "does not fit 63 bits"),
    ("run --workers 0", "it must be at least 1"),
    ("run --workers 100000", "cannot be cut into 100000 shards"),
    ("run --threads 0", "it must be at least 1"),
    ("run --threads 1000", "threads are too many for"),
    ("run --split-cxl 50", "--split-cxl divides a captured machine"),
    ("run --every 10", "--every is for checkpoints"),
    ("run --checkpoint state --every 0s", "cannot be written all the time"),
    ("run --checkpoint state --every 0", "cannot be written all the time"),
    ("run --checkpoint state --every -1", "'-1' is not a time"),
    ("run --checkpoint state --every 10S", "did you mean '10s'"),
    ("run --checkpoint state --every 99999999999h", "does not fit 63 bits"),
    ("run --set tick=0s", "tick must be above 0"),
    ("run --set tick=100MS", "did you mean '100ms'"),
    ("run --set policy.rate_limit=100mb/s", "did you mean '100MB/s'"),
    ("compare --seeds 0", "it must be at least 1"),
    ("compare --seeds 100000", "it must be at most 1000"),
    ("compare --requests 0", "it must be at least 1"),
    ("compare --accesses 0", "it must be at least 1"),
    ("compare --jobs 0", "it must be at least 1"),
    ("compare --memory 64gib", "did you mean '64GiB'"),
    ("scan nowhere.zarr --batch-pages 0", "it must be at least 1"),
    ("scan nowhere.zarr --target -1", "it must be at least 0"),
    ("scan nowhere.zarr --target 1024", "it must be at most 1023"),
    ("scan nowhere.zarr --split-cxl 50", "did you mean '50%'"),
    ("capture new.zarr --pid 1 --for 0s", "nothing is seen in no time"),
    ("capture new.zarr --pid 1 --for 5", "'5' has no unit"),
    ("topology two-socket --memory 0B", "too small for topology"),
    ("topology two-socket --memory 64g", "did you mean '64GiB'"),
    ("bench scan --memory 64g", "did you mean '64GiB'"),
    ("bench scan --rounds 0", "it must be at least 1"),
    ("bench scan --rounds 999999999", "it must be at most 10000"),
    ("bench scan --capacity 0", "it must be at least 512"),
    ("bench scan --walk-pages 99999999999999", "it must be at most 4294967296"),
    ("bench scan --density 5", "is not a share"),
    ("bench scan --density nan", "is not a share"),
    ("bench scan --targets 0", "0 targets: give 1 to 1024"),
    ("bench scan --targets x", "must be a whole number, not 'x'"),
    ("bench request --requests 99999999999999", "it must be at most 4294967296"),
    ("bench tick --density 0", "must be above 0"),
    ("bench costs --rounds 99999999999999", "it must be at most 10000"),
    ("bench costs --walk-pages 0", "it must be at least 1"),
    ("bench scale --density 7", "is no share of pages"),
    ("bench scale --density nan", "is no share of pages"),
    ("bench scale --shards 0", "give ascending counts of at least 1"),
    ("bench scale --shards 2000", "cannot be cut evenly"),
    ("bench scale --memory 0GiB", "cannot be cut evenly"),
]


@pytest.mark.parametrize(("command", "said"), ABSURD, ids=[command for command, _ in ABSURD])
def test_an_absurd_value_is_a_sentence(
    command: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpuscan: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def every_command() -> list[tuple[str, Any]]:
    """Return all commands, those of ``bench`` too, by what is typed."""
    found: list[tuple[str, Any]] = []
    for name in COMMANDS:
        command: Any = load_command(name)
        found += [(f"{name} {sub}", of) for sub, of in getattr(command, "commands", {}).items()] or [
            (name, command)
        ]
    return found


def test_results_are_kept_in_one_way_by_every_command() -> None:
    keeping = []
    for name, command in every_command():
        options = {option: parameter for parameter in command.params for option in parameter.opts}
        if "--out" in options:
            keeping.append(name)
            assert options["--out"].metavar == "DIR", name
            assert "--force" in options, name
    assert {"run", "scan", "compare", "bench scan", "bench scale", "bench sweep"} <= set(keeping)
