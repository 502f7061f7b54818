"""``gpuscan run`` as a user meets it: small machines, real engine."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gpuscan.cli.devices import note_if_compiling
from gpuscan.cli.main import main
from gpuscan.cli.output import Output
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.heatmap.map import ADDRESSES_FILE
from gpuscan.run.out import OUT_FILES
from gpuscan.store.plan_file import read_plans
from workload_files import small

SMALL = small(12)


def test_the_help_names_every_design(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    said = "".join(capsys.readouterr().out.split())  # lines are broken at hyphens, too
    assert f"Scandesign,oneof{','.join(DESIGNS.names)}." in said


@pytest.fixture(name="small")
def small_toml(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


def run_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["run", *args, "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    return document


def test_the_share_of_fast_accesses_rises_and_the_ledger_adds_up(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = run_json(capsys, small, "--device", "cpu", "--threads", "1")
    assert list(document)[:2] == ["schema", "kind"]
    assert (document["schema"], document["kind"]) == (1, "run")
    fast = document["summary"]["fast"]
    assert len(fast["series"]) == 12
    assert fast["before"] < 0.4
    assert fast["after"] > 0.8
    ledger = document["ledger"]
    ended = ledger["migrated"] + ledger["superseded"] + sum(ledger["dropped"].values())
    assert ledger["requested"] == ended + ledger["pending"] + ledger["in_flight"] > 10_000
    assert document["device"]["name"] == "cpu"
    assert document["machine"]["memory_bytes"] == pytest.approx(1 << 30, rel=0.01)
    assert document["summary"]["migrated_bytes"] == 4096 * ledger["migrated"]


def without_time(document: dict[str, Any]) -> dict[str, Any]:
    """Drop what is measured on this machine's clock."""
    kept = {key: value for key, value in document.items() if key not in ("wall_s", "device", "made_by")}
    kept["summary"] = {key: value for key, value in kept["summary"].items() if not key.startswith("scan_ns")}
    return kept


def test_the_same_seed_gives_the_same_result(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_json(capsys, small, "--device", "cpu", "--threads", "1")
    again = run_json(capsys, small, "--device", "cpu", "--threads", "3")
    other = run_json(capsys, small, "--device", "cpu", "--seed", "8")
    assert without_time(first) == without_time(again)
    assert without_time(first) != without_time(other)


def test_text_goes_to_stdout_and_progress_to_stderr(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", small, "--ticks", "3"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("small: a test\non two-socket-cxl, 1 GiB in 4 nodes\n")
    for expected in ("accesses served by fast memory (top tier)", "batches", "requested", "= migrated"):
        assert expected in out
    assert "3/3 ticks, candidates" in err
    assert "batches" in err
    assert "ticks" not in out.splitlines()[0]


def test_options_win_over_the_file_and_set_over_options(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--ticks", "5", "--memory", "2GiB", "--set", "ticks=2", "--set", "policy.batch_pages=64"]
    document = run_json(capsys, small, *options)
    assert document["summary"]["n_ticks"] == 2
    assert document["machine"]["memory_bytes"] == pytest.approx(2 << 30, rel=0.01)
    assert document["policy"]["batch_pages"] == 64


def test_out_keeps_plan_series_ledger_and_the_printed_document(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    document = run_json(capsys, small, "--out", str(out))
    assert sorted(entry.name for entry in out.iterdir()) == sorted({*OUT_FILES} - {ADDRESSES_FILE})
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == document
    assert len(read_plans(out / "plan.parquet")) == sum(
        pq.read_table(out / "series.parquet")["candidates"].to_pylist()
    )
    ledger = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
    assert ledger.pop("schema") == 1
    assert ledger == document["ledger"]


def test_an_earlier_result_needs_force(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["run", small, "--ticks", "1", "--quiet", "--out", str(tmp_path / "out")]
    assert main(out) == 0
    capsys.readouterr()
    assert main(out) == 2
    assert "holds an earlier result; give another place, or --force" in capsys.readouterr().err
    assert main([*out, "--force"]) == 0


def test_a_full_disk_fails_after_the_report(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    out = tmp_path / "out"
    assert main(["run", small, "--ticks", "2", "--json", "--quiet", "--out", str(out)]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["summary"]["n_ticks"] == 2
    assert f"cannot write {out}: No space left on device, so nothing was left there" in shown.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.toml"]


def test_more_threads_than_cpus_are_noted(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    n_cpus = len(os.sched_getaffinity(0))
    args = ["run", small, "--ticks", "1", "--device", "cpu", "--threads"]
    assert main([*args, str(n_cpus + 1)]) == 0
    out, err = capsys.readouterr()
    assert f"cpu, {n_cpus + 1} threads\n" in out
    assert f"gpuscan: note: {n_cpus + 1} threads on " in err


@pytest.mark.parametrize(
    "command",
    [
        ("run",),
        ("live", "--pid", "1"),
        ("resume", "nowhere"),
        ("bench", "scan"),
        ("bench", "request"),
        ("bench", "tick"),
    ],
)
def test_far_more_threads_than_cpus_are_refused(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--threads", "1000"]) == 2
    n_cpus = len(os.sched_getaffinity(0))
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        rf"gpuscan: error: 1,000 threads are too many for {n_cpus} CPUs?; give up to {4 * n_cpus}, .*\n", err
    )


def test_what_is_asked_for_is_checked_before_the_machine_is_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = [["--device", "cuda"], ["--set", "processes.0.placement={ 7='100%' }"], ["--memory", "1EiB"]]
    for args in wrong:
        assert main(["run", *args]) != 0
        assert "building" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (["cxl-promot"], 2, "unknown workload 'cxl-promot' (did you mean 'cxl-promote'?)"),
        (["--set", "polcy.hz=1"], 2, "unknown key polcy"),
        (["--memory", "64Tib"], 2, "has the unknown unit 'Tib'"),
        (["--memory", "1KiB"], 2, "two-socket-cxl"),
        (["--device", "gpu"], 2, "'--device': 'gpu' is not one of"),
        (["--device", "cuda"], 3, "use --device cpu"),
        (["--ticks", "0"], 2, "invalid value for '--ticks': it must be at least 1, not '0'; see"),
        (["--ticks", "1.5"], 2, "it must be a whole number, not '1.5'; see"),
        (["--every", "3"], 2, "--every is for checkpoints; give --checkpoint DIR too"),
        (["--set", "producer.kind=sampler", "--trace", "x"], 2, "workload cxl-promote: producer.kind = "),
        (["--split-cxl", "50%"], 2, "give one with --machine"),
        (["--machine", "none.zarr"], 2, "none.zarr"),
        (["none.zarr"], 2, "none.zarr"),
        (["--machine", "x.zarr", "--memory", "1GiB"], 2, "leave out --memory or --machine"),
        (["--out", __file__], 2, "not a directory; give another place"),
        (["--out", "none/deep"], 2, "none is not there; make it"),
        (["--out", str(Path(__file__).parents[1])], 2, "holds files that gpuscan did not write"),
    ],
)
def test_wrong_input_is_one_sentence(
    args: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--quiet", *args]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpuscan: error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_producer_by_name(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, metric in (("sampler", "samples"), ("a-bit", "ptes_walked"), ("hint-faults", "hint_faults")):
        assert main(["run", small, "--producer", name, "--json", "--quiet", "--device", "cpu"]) == 0
        assert json.loads(capsys.readouterr().out)["summary"]["metrics"][metric] > 0
    assert main(["run", small, "--producer", "sampler", "--quiet", "--device", "cpu", "--ticks", "3"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("producer "))
    assert "sampler: " in row
    assert " useless, " in row
    assert row.endswith("of CPU time (modelled)")
    assert main(["run", small, "--producer", "tea-leaves"]) == 2
    assert "'tea-leaves' is not one of 'a-bit', 'evacuate'" in capsys.readouterr().err


def test_a_fallback_from_the_cpu_is_noted(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", small, "--fallback", "--device", "cpu", "--ticks", "1"]) == 0
    assert "the device is the CPU already, so --fallback changes nothing" in capsys.readouterr().err
    assert main(["run", small, "--device", "cpu", "--ticks", "1"]) == 0
    assert "--fallback" not in capsys.readouterr().err


def test_compiling_is_noted_when_something_compiles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import time

    from numba import njit

    monkeypatch.setattr("gpuscan.cli.output._SLOW_S", 0.01)
    function = njit(lambda x: x + 1)
    for expected in (1, 0):
        with note_if_compiling(Output(json_mode=False)):
            assert function(1) == 2
            time.sleep(0.1)
        assert capsys.readouterr().err.count("compiling the CPU kernels") == expected
