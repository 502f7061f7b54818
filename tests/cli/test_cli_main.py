"""The front door: exit codes, one sentence on stderr, lazy imports, start-up time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from gpuscan.base.errors import DeviceError, InputError, RunFailedError, SnapshotError, TopologyError
from gpuscan.cli.main import COMMANDS, main

HELP_BUDGET_S = 0.3
"""What ``gpuscan --help`` may take beyond an empty interpreter."""


def gpuscan(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpuscan", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def best_of(n: int, *args: str) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        subprocess.run([sys.executable, *args], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def test_help_is_fast() -> None:
    empty = best_of(5, "-c", "pass")
    helped = best_of(7, "-m", "gpuscan", "--help")
    assert helped - empty < HELP_BUDGET_S


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from gpuscan.cli.main import main; main(['--help']);"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"'(\w+)'", done.stderr))
    assert "gpuscan" in loaded
    assert not loaded & {"numpy", "numba", "pydantic", "rich", "zarr", "pyarrow", "cupy"}


@pytest.mark.parametrize("args", [["--help"], ["-h"], []])
def test_help_lists_every_command_with_its_line(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", out, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: gpuscan {name} ")
    assert err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from gpuscan import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gpuscan {__version__}\n"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["rnu"], r"no such command 'rnu': did you mean 'run'; see 'gpuscan --help'"),
        (["--colour"], r"no such option: --colour.*; see 'gpuscan --help'"),
        (["workloads", "--jsn"], r"no such option: --jsn.*; see 'gpuscan workloads --help'"),
        (
            ["workloads", "uniform", "extra"],
            r"got unexpected extra argument.*extra.*; see 'gpuscan workloads --help'",
        ),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(
    args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"gpuscan: error: {sentence}\n", err)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make ``gpuscan doctor`` raise what is given."""

    def install(error: BaseException) -> None:
        def doctor() -> None:
            raise error

        monkeypatch.setitem(sys.modules, "gpuscan.cli.doctor", SimpleNamespace(doctor=doctor))

    return install


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (RunFailedError("the disk is full"), 1, "the disk is full"),
        (InputError("no such key; add it"), 2, "no such key; add it"),
        (TopologyError("one PFN in two zones"), 2, "one PFN in two zones"),
        (SnapshotError("cut short"), 2, "cut short"),
        (DeviceError("no GPU"), 3, "no GPU"),
        (InputError("two\nlines"), 2, "two lines"),
        (FileNotFoundError(2, "No such file or directory", "x.toml"), 1, "x.toml: No such file or directory"),
        (MemoryError("Unable to allocate 64 GiB"), 1, "out of memory: Unable to allocate 64 GiB"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "internal error: ZeroDivisionError: division by zero; run",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_have_a_sentence_and_a_code(
    raising: Callable[[BaseException], None],
    error: BaseException,
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raising(error)
    assert main(["doctor"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gpuscan: error: {sentence}")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("args", [["--debug", "doctor"], ["doctor", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(
    raising: Callable[[BaseException], None], args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(InputError("broken"))
    assert main(args) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("gpuscan: error: broken\n")


def test_json_goes_to_stdout_and_nothing_else_does() -> None:
    done = gpuscan("workloads", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert next(iter(document)) == "schema"
    assert document["schema"] == 1
    assert {"cxl-promote", "uniform"} <= {workload["name"] for workload in document["workloads"]}


def test_workloads_is_a_table() -> None:
    done = gpuscan("workloads")
    assert done.returncode == 0
    assert re.search(r"^cxl-promote \(default\) +a sharded cache", done.stdout, re.MULTILINE)


def test_a_workload_can_be_printed_to_start_from(tmp_path: Path) -> None:
    from gpuscan.workload.files import load_workload

    done = gpuscan("workloads", "ping-pong")
    mine = tmp_path / "mine.toml"
    mine.write_text(done.stdout, encoding="utf-8")
    assert load_workload(str(mine), ["name=ping-pong"]) == load_workload("ping-pong")
    wrong = gpuscan("workloads", "pingpong")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'ping-pong'" in wrong.stderr


def test_a_machine_can_be_printed_to_start_from(tmp_path: Path) -> None:
    from gpuscan.topology.resolve import resolve_topology

    mine = tmp_path / "mine.toml"
    mine.write_text(gpuscan("topology", "two-socket-cxl", "--toml").stdout, encoding="utf-8")
    assert resolve_topology(str(mine)).zones == resolve_topology("two-socket-cxl").zones


def test_doctor_survives_what_it_meets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gpuscan.base.code_cache.cache_place", refused)
    assert main(["doctor"]) == 0
    assert "cannot be checked: PermissionError" in capsys.readouterr().out


def test_an_error_with_json_is_a_sentence_on_stderr_too() -> None:
    done = gpuscan("workloads", "--json", "--nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpuscan: error: ")


def test_doctor_says_what_is_there() -> None:
    done = gpuscan("doctor", "--json")
    assert done.returncode == 0
    checks = {check["name"]: check["found"] for check in json.loads(done.stdout)["checks"]}
    assert re.match(r"\d+\.\d+", checks["numpy"])
    assert re.match(r"\d+ usable", checks["processors"])
    assert "cpu" in checks["devices"]
    assert {"distributed", "matplotlib", "polars", "duckdb"} <= set(checks)
    assert {"cuda", "kernel cache", "rights to capture", "/proc/kpageflags"} <= set(checks)


def test_a_reader_that_leaves_is_met_in_silence() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gpuscan", "workloads"], stdout=write, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("workloads",), ("workloads", "--json"), ("--help",)])
def test_a_full_disk_behind_stdout_is_one_sentence(args: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gpuscan", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "gpuscan: error: cannot write to standard output: No space left on device; fix that and run again\n"
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_internal_error(closed: str) -> None:
    command = f"exec {sys.executable} -m gpuscan workloads {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("cxl-promote" in done.stdout) == (closed == "2>&-")


def test_a_warning_is_a_note(tmp_path: Path) -> None:
    code = (
        "import sys, types, warnings; m = types.ModuleType('gpuscan.cli.doctor');"
        "m.doctor = lambda: warnings.warn('slow today', RuntimeWarning);"
        "sys.modules['gpuscan.cli.doctor'] = m;"
        "from gpuscan.cli.main import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "gpuscan: note: slow today\n")


@pytest.mark.parametrize(
    ("signum", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "hung up"),
    ],
)
def test_a_signal_ends_it_cleaned_up_with_a_line(signum: signal.Signals, code: int, said: str) -> None:
    script = (
        "import signal, sys, time, types\n"
        # Whoever runs the tests in the background, or under nohup, ignores some for all its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "for signum in (signal.SIGTERM, signal.SIGHUP): signal.signal(signum, signal.SIG_DFL)\n"
        "def doctor():\n"
        "    try:\n"
        "        print('up', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally: print('cleaned up', flush=True)\n"
        "m = types.ModuleType('gpuscan.cli.doctor'); m.doctor = doctor\n"
        "sys.modules['gpuscan.cli.doctor'] = m\n"
        "from gpuscan.cli.main import main; sys.exit(main(['doctor']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "up\n"
        running.send_signal(signum)
        assert running.wait(10) == code
        assert running.stdout.read() == "cleaned up\n"
        assert running.stderr.read() == f"gpuscan: error: {said}\n"


def test_what_an_interrupt_is_told_to_do_is_said(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt = KeyboardInterrupt()
    interrupt.add_note("go on with 'gpuscan resume state'")
    raising(interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == ("gpuscan: error: interrupted; go on with 'gpuscan resume state'\n")


def test_130_may_be_a_commands_own_code(
    raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    raising(typer.Exit(130))
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == ""


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["workloads", "--json"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
