"""How a run starts: what it loads, what it reports about that, and how long it takes."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from gpuscan.cli.main import main

RUN = ["run", "--ticks", "1", "--memory", "1GiB", "--device", "cpu", "--json", "--quiet"]
UNUSED = [
    *("snapshot.snapshot", "snapshot.procfs", "records.page_flags", "store.plan_file", "sim.captured"),
    *("topology.sysfs", "topology.serialize", "run.kept", "run.checkpoints", "run.resume", "run.captured"),
]
CLOCK_TICK_S = 0.01
BENCHMARK = Path(__file__).parents[2] / "benchmarks/startup.py"


def test_a_plain_run_loads_only_what_it_uses() -> None:
    code = (
        f"import sys; from gpuscan.cli.main import main; main({RUN});"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "gpuscan.sim.machine" in loaded
    packages = {name.partition(".")[0] for name in loaded}
    assert not packages & {"pyarrow", "zarr", "polars", "matplotlib", "cupy"}
    unused = {f"gpuscan.{name}" for name in UNUSED}
    assert all(find_spec(name) for name in unused)
    assert not loaded & unused


def test_a_run_reports_when_its_first_tick_began() -> None:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "gpuscan", *RUN], capture_output=True, text=True, check=True)
    ended_s = time.perf_counter() - started + CLOCK_TICK_S
    wall_s = json.loads(done.stdout)["wall_s"]
    assert 0 < wall_s["of_which_machine"] < wall_s["build"] < wall_s["process_to_first_tick"]
    assert wall_s["process_to_first_tick"] + wall_s["run"] < ended_s + CLOCK_TICK_S


def test_a_command_leaves_the_collector_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    before = gc.get_threshold()
    assert main(["workloads"]) == 0
    assert main(["run", "no-such-workload"]) == 2
    assert gc.get_threshold() == before


@pytest.mark.slow
@pytest.mark.alone
def test_a_second_run_begins_its_first_tick_soon_beside_what_its_libraries_take() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARK)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
