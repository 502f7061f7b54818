"""Every command prints all it has to say, whatever the encoding of its streams."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from gpuscan.cli.main import COMMANDS, main
from gpuscan.cli.streams import ascii_only, plain_streams

ENCODINGS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "c-locale": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
SMALL = ("--memory", "2GiB", "--ticks", "4")


def gpuscan(*args: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    return subprocess.run(
        [sys.executable, "-m", "gpuscan", *args],
        capture_output=True,
        timeout=120,
        check=False,
        env={**known, "NO_COLOR": "1", **environment},
    )


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workload whose name, that of its file, no narrow encoding has."""
    from gpuscan.workload.files import builtin_text

    file = tmp_path_factory.mktemp("workloads") / "größe-мой-😀.toml"
    file.write_text(builtin_text("uniform"), encoding="utf-8")
    return file


@pytest.mark.parametrize("environment", ENCODINGS.values(), ids=ENCODINGS)
def test_a_run_is_reported_in_plain_characters(environment: dict[str, str], named: Path) -> None:
    done = gpuscan("run", str(named), *SMALL, **environment)
    assert done.returncode == 0, done.stderr
    out, err = done.stdout.decode("latin-1"), done.stderr.decode("latin-1")
    assert re.search(r"over time, from \d+% \(\.\) to \d+% \(@\) +[.:=+*#@-]{4}\n", out)
    assert "requested" in out
    name = "größe-" if environment.get("PYTHONIOENCODING") == "latin-1" else r"gr\u00f6\u00dfe-"
    name += r"\u043c\u043e\u0439-\ud83d\ude00"
    assert out.startswith(f"{name}: ")
    assert f"{name}: 4/4 ticks" in err


def test_json_loses_no_character() -> None:
    name = "größe-мой-😀-█▁µ"
    args = ("run", "uniform", "--set", f"name={name}", *SMALL, "--json", "--quiet")
    done = gpuscan(*args, **ENCODINGS["ascii"])
    assert done.returncode == 0
    assert json.loads(done.stdout.decode("latin-1"))["workload"]["name"] == name


COMMAND_LINES = {
    **{name: (name, "--help") for name in COMMANDS},
    "topology presets": ("topology", "--list"),
    "topology of a preset": ("topology", "two-socket-cxl"),
    "all workloads": ("workloads",),
    "one workload": ("workloads", "cxl-promote"),
    "what is there": ("doctor",),
    "costs": ("bench", "costs", "--walk-pages", "4096", "--rounds", "1"),
    "sizes": ("topology", "cxl-pool"),
}


@pytest.mark.parametrize("args", COMMAND_LINES.values(), ids=COMMAND_LINES)
def test_every_command_prints_ascii_where_that_is_all_there_is(args: tuple[str, ...]) -> None:
    written, complaints = io.BytesIO(), io.BytesIO()
    with (
        io.TextIOWrapper(written, encoding="ascii") as out,
        io.TextIOWrapper(complaints, encoding="ascii") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = main(args)
        err.flush()
        out.flush()
        assert code == 0, complaints.getvalue()
        assert written.getvalue().isascii()
        assert written.getvalue()


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "utf-8"}, ENCODINGS["c-locale"]], ids=["utf-8", "c-locale"]
)
@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["run", "größe-мой".encode()], id="letters"),
        pytest.param(["run", b"\xff\xfe"], id="bytes"),
        pytest.param(["topology", b"\xff\xfe"], id="topology"),
        pytest.param(["scan", b"\xff.zarr"], id="scan"),
        pytest.param(["run", "--trace", b"\xff\xfe"], id="trace"),
    ],
)
def test_an_error_about_any_name_is_a_sentence(environment: dict[str, str], args: list[str | bytes]) -> None:
    done = gpuscan(*args, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(b"gpuscan: error: ")
    assert b"internal" not in done.stderr


def test_a_stream_without_encoding_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    assert getattr(out, "encoding", "") is None
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["run", "uniform", *SMALL, "--quiet", "--device", "cpu"]) == 0
    assert "(▁)" in out.getvalue()
    out.truncate(0)
    assert main(["workloads", "--json"]) == 0
    assert '"schema"' in out.getvalue()


def test_the_caller_gets_its_streams_back() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    before = sys.stdout
    try:
        sys.stdout = stream
        with plain_streams():
            sys.stdout.write("█▁ ä\n")
        assert stream.errors == "strict"
        stream.flush()
    finally:
        sys.stdout = before
    assert stream.buffer.getvalue() == b"@. \\u00e4\n"


def test_escapes_are_those_of_json() -> None:
    text = "a ä \U0001f600 \udcff"
    assert json.loads(f'"{ascii_only(text)}"') == text
    assert ascii_only("plain") == "plain"
