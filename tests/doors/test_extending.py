"""docs/extending.md: each example, a package outside the tree, is there as if it were built in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/extending.md"
N_LINES_MAX = 60
WORKLOAD = """
shows = "a test"
ticks = 6
topology = { machine = "two-socket-cxl", memory = "1GiB" }
[[processes]]
name = "p"
memory = "30%"
cpus_of = [0]
placement = { 0 = "20%", 2 = "80%" }
accesses_per_gib_s = 666_667
"""
BROKEN = "\n".join(
    f"[gpuscan.{group}]\nbroken = gpuscan_broken:ANY"
    for group in ("producers", "monitors", "traces", "backends", "peers")
)
DRIVER = """
import contextlib, io, json, sys
from gpuscan.cli.main import main
done = []
for args in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    done.append((code, out.getvalue(), err.getvalue()))
json.dump(done, sys.stdout)
"""
"""Runs commands one after the other: Numba and all are imported once."""

QUICK_DISK = """
import os, sys
from gpuscan.cli.main import main
os.fsync = lambda handle: None
sys.exit(main(sys.argv[1:]))
"""


class Example(NamedTuple):
    """One of the document's, by its entry point."""

    group: str
    name: str
    value: str
    code: str

    @property
    def module(self) -> str:
        return self.value.partition(":")[0]


def examples() -> list[Example]:
    found = []
    pairs = re.findall(r"```toml\n(.*?)```\n\n```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    for toml, code in pairs:
        ((group, entries),) = tomllib.loads(toml)["entry-points"].items()
        ((name, value),) = entries.items()
        found.append(Example(group, name, value, code))
    return found


def install(place: Path, name: str, entries: str, code: str) -> None:
    """Write a package as an installer leaves it."""
    (place / f"{name}.py").write_text(code)
    metadata = place / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entries)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a workload and traces, and in ``packages`` the examples and a broken one."""
    here = tmp_path_factory.mktemp("extending")
    (here / "small.toml").write_text(WORKLOAD)
    packages = here / "packages"
    packages.mkdir()
    for one in examples():
        install(packages, one.module, f"[{one.group}]\n{one.name} = {one.value}\n", one.code)
    install(packages, "gpuscan_broken", BROKEN, "1 / 0")
    return here


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(place / "packages")}


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


SMALL = ("run", "small.toml", "--quiet")
ELEVENTH = ("--set", "producer.counter.every=11", "--set", "ticks=60")
COMMANDS: dict[str, tuple[str, ...]] = {
    "run help": ("run", "--help"),
    "live help": ("live", "--help"),
    "bench help": ("bench", "scan", "--help"),
    "doctor": ("doctor", "--json"),
    "run": (*SMALL, "--producer", "counter", "--device", "one-thread"),
    "run json": (*SMALL, "--producer", "counter", "--device", "one-thread", "--json"),
    "of a workload": (*SMALL, "--set", "producer={ kind = 'counter', counter.every = 50 }", "--json"),
    "waiting": (*SMALL, "--set", "producer.counter.every=50", "--set", "ticks=1", "--json"),
    "whole": (*SMALL, "--producer", "counter", "--device", "cpu", *ELEVENTH, "--json"),
    "no such key": (*SMALL, "--set", "producer.counter.evry=50"),
    "no such value": (*SMALL, "--set", "producer.counter.every=0"),
    "broken producer": (*SMALL, "--producer", "broken"),
    "broken backend": (*SMALL, "--device", "broken"),
    "auto": (*SMALL, "--set", "ticks=1", "--json"),
    "trace": ("run", "--quiet", "--trace", "mem.csv", "--memory", "1GiB", "--json"),
    "machine": ("topology", "mine.nodes", "--json"),
    "torn trace": ("run", "--quiet", "--trace", "torn.csv", "--memory", "1GiB"),
    "bench": (
        *("bench", "scan", "--quiet", "--memory", "1GiB", "--density", "1e-3,1e-2", "--targets", "2"),
        *("--rounds", "1", "--threads", "1", "--peers", "lexsort,numpy", "--out", "bench", "--json"),
    ),
    "experiment": ("reproduce", "saturation", "--quiet", "--json"),
    "live": (
        *("live", "--quiet", "--device", "cpu", "--dry-run", "--monitor", "resident", "--json"),
        *("--for", "200ms", "--", "sleep", "60"),
    ),
}


@pytest.fixture(scope="module")
def done(place: Path) -> dict[str, Done]:
    """Run all commands in one process and return how each ended."""
    from gpuscan.topology.resolve import resolve_topology

    first = resolve_topology("two-socket-cxl", 1 << 30).node(2).zones[0].present[0][0]
    lines = [f"{page * 1000},0,{first + page % 500}\n" for page in range(1000)]
    (place / "mem.csv").write_text("".join(["time_ns,cpu,pfn\n", *lines]))
    (place / "mine.nodes").write_text("cpus memory\n0-3 1GiB\n- 2GiB\n")
    (place / "torn.csv").write_text("".join(["time_ns,cpu,pfn\n", *lines, "1001000,0"]))
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(list(COMMANDS.values())),
        capture_output=True,
        text=True,
        check=True,
        cwd=place,
        env=environment(place),
    )
    return {name: Done(*one) for name, one in zip(COMMANDS, json.loads(ran.stdout), strict=True)}


def test_each_example_is_short_and_whole() -> None:
    found = examples()
    assert {one.group for one in found} >= {
        f"gpuscan.{kind}"
        for kind in (
            "producers",
            "monitors",
            "machines",
            "traces",
            "backends",
            "peers",
            "designs",
            "columns",
            "experiments",
        )
    }
    for one in found:
        assert len(one.code.splitlines()) < N_LINES_MAX, one.name


def test_help_names_them(done: dict[str, Done]) -> None:
    for command, name in (
        ("run help", "counter"),
        ("run help", "one-thread"),
        ("live help", "resident"),
        ("live help", "one-thread"),
        ("bench help", "lexsort"),
    ):
        assert done[command].code == 0
        assert name in "".join(done[command].out.split())


def test_doctor_has_them_and_says_which_are_broken(done: dict[str, Done]) -> None:
    found = {check["name"]: check for check in done["doctor"].document["checks"]}
    assert "one-thread" in found["devices"]["found"].split(", ")
    assert found["one-thread"]["found"] == "the CPU, one thread"
    assert found["live --monitor resident"]["found"].startswith("needs CAP_SYS_ADMIN")
    why = "gpuscan_broken 1.0 cannot be loaded (ZeroDivisionError: division by zero)"
    assert why in found["broken"]["found"]
    assert why in found["live --monitor broken"]["remedy"]
    for kind, name in (("design", "node-list"), ("producer", "counter"), ("peer", "lexsort")):
        assert f"{name} (" in found[f"{kind}s"]["found"]
    for kind in ("producer", "trace format", "peer"):
        assert why in found[f"{kind} broken"]["remedy"]


def test_a_producer_and_a_backend_run(done: dict[str, Done]) -> None:
    document = done["run json"].document
    assert document["device"]["name"] == "one-thread"
    metrics = document["summary"]["metrics"]
    assert "producer_cost_ns" not in metrics
    assert metrics["interrupts"] == pytest.approx(metrics["accesses"] / 100, rel=0.01)
    assert document["ledger"]["migrated"] > 0
    more = done["of a workload"].document["summary"]["metrics"]
    assert more["interrupts"] == pytest.approx(2 * metrics["interrupts"], rel=0.01)


def test_a_report_has_what_it_declares(done: dict[str, Done]) -> None:
    assert done["run"].code == 0
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in done["run"].out.splitlines() if "  " in line)
    assert rows["device"] == "one-thread, never more"
    assert re.fullmatch(r"counter: [\d,]+ interrupts, [\d.]+% of them marks", rows["producer"])


def test_a_machine_source_is_read(done: dict[str, Done]) -> None:
    found = json.loads(done["machine"].out)
    assert [(node["kind"], len(node["cpus"])) for node in found["nodes"]] == [("dram", 4), ("cxl", 0)]
    assert done["machine"].err == "gpuscan: note: distances are not said\n"


def test_its_table_of_a_workload_is_checked_as_those_of_the_built_in_ones(done: dict[str, Done]) -> None:
    assert "hint_faults" in done["waiting"].document["summary"]["metrics"]  # the table waits for --producer
    for command, said in (
        ("no such key", "unknown key producer.counter.evry (did you mean 'every'?); choose one of every"),
        ("no such value", "producer.counter.every must be above 0, not 0"),
        ("broken producer", "the producer 'broken' of gpuscan_broken 1.0 cannot be loaded"),
        ("broken backend", "the backend 'broken' of gpuscan_broken 1.0 cannot be loaded"),
    ):
        assert done[command].code == 2, command
        assert said in done[command].err


def test_a_broken_package_is_nobody_elses_affair(done: dict[str, Done]) -> None:
    assert done["auto"].document["device"]["reason"].startswith(("cpu: ", "cuda: "))


def test_a_trace_keeps_its_cpus(done: dict[str, Done]) -> None:
    document = done["trace"].document
    assert "accesses_local" in document["summary"]["metrics"]  # which a format without CPUs has not
    assert document["ledger"]["migrated"] == 500
    (note,) = document["notes"]
    assert note.startswith("trace mem.csv: 1,000 accesses over")
    assert done["torn trace"].code == 2
    assert "torn.csv:1002: the line is not time_ns,cpu,pfn" in done["torn trace"].err


def test_a_peer_is_measured_and_drawn(done: dict[str, Done], place: Path) -> None:
    results = done["bench"].document["scans"][0]["results"]
    (row,) = [row for row in results if row["name"] == "lexsort"]
    assert (row["kind"], row["about"]) == ("peer", "numpy.lexsort by target and PFN")
    drawn = [path.read_text() for path in (place / "bench").glob("**/*.svg")]
    assert sum("#999999" in text for text in drawn) == 2  # times and ratios


def test_an_experiment_is_run_and_judged(done: dict[str, Done]) -> None:
    (found,) = done["experiment"].document["experiments"]
    assert [row["verdict"] for row in found["rows"]] == ["reached"] * 3
    assert [order["as_published"] for order in found["orders"]] == [True]


@pytest.mark.skipif(os.geteuid() != 0, reason="page frame numbers are root's to see")
def test_a_monitor_watches(done: dict[str, Done]) -> None:
    assert done["live"].code == 0, done["live"].err
    start, *_, end = map(json.loads, done["live"].out.splitlines())
    assert start["source"] == "resident"
    assert start["source_sees"] == "all resident pages, accessed or not"
    assert end["event"] == "end"


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_producer(place: Path, tmp_path: Path, done: dict[str, Done]) -> None:
    state = str(tmp_path / "state")
    run = [sys.executable, "-c", QUICK_DISK, *SMALL, "--producer", "counter", "--device", "cpu"]
    run += [*ELEVENTH, "--checkpoint", state, "--every", "2"]
    process = subprocess.Popen(run, cwd=place, env=environment(place))
    deadline = time.monotonic() + 60
    while not (tmp_path / "state/checkpoint-00000002").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)  # the run ends after its tick, with a checkpoint
    process.wait()
    resume = [sys.executable, "-c", QUICK_DISK, "resume", state, "--every", "1000", "--json", "--quiet"]
    ran = subprocess.run(resume, capture_output=True, text=True, check=False, env=environment(place))
    document = Done(ran.returncode, ran.stdout, ran.stderr).document
    whole = done["whole"].document
    assert document["resumed_at"]
    assert document["summary"]["metrics"] == whole["summary"]["metrics"]
    assert document["ledger"] == whole["ledger"]


@pytest.mark.parametrize(
    ("args", "used"),
    [
        (("--help",), set()),
        (("run", "--help"), set()),
        (("live", "--help"), set()),
        (("bench", "scan", "--help"), set()),
        (
            ("run", "small.toml", "--set", "ticks=1", "--device", "cpu", "--quiet"),
            {"producers.built_in.hint_faults", "kernels.backends.cpu"},
        ),
    ],
)
def test_what_is_not_used_is_not_imported(place: Path, args: tuple[str, ...], used: set[str]) -> None:
    code = (
        f"import sys; from gpuscan.cli.main import main; main({args}); print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=place,
        env=environment(place),
    )
    loaded = {name for name in ran.stderr.split() if re.search(r"built_in\.|kernels\.backends\.", name)}
    assert loaded == {f"gpuscan.{name}" for name in used}
    assert not {one.module for one in examples()} & set(ran.stderr.split())
    assert "gpuscan_broken" not in ran.stderr.split()
