"""How much CPU time a service takes until it runs, beside the import of libraries that it cannot do without.

The time by the clock is that and little more where a CPU is free: docs/notes/service.md, *What it costs*.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MOST_OF_FLOOR = 3.2
"""2.4 to 2.7 were measured."""
FLOOR = "import numpy, numba, pydantic, typer"
START = """
import sys
import time
from pathlib import Path

from gpuscan.cli.main import main
from gpuscan.cli.alone import import_without_threads

import_without_threads()
from gpuscan.history.database import History
from gpuscan.service.control import ControlSocket
from gpuscan.service.journal import Log
from gpuscan.service.load import config_of
from gpuscan.service.session import ServiceSession

before_s = time.process_time()
from dataclasses import replace
from livesim.machine import Machine
from livesim.service import Script, ScriptedInbox, script
from livesim.system import SimulatedSystem

machine = Machine(replace(script(4)[0], events=()))
machine.world.spawn(40, command="database")
system = SimulatedSystem(machine)
simulation_s = time.process_time() - before_s
config = config_of("x", {"service": {"monitor": "soft-dirty"}, "rule": [{"name": "db", "command": "data*"}]})


def open_inbox(stop):
    return ScriptedInbox(machine, system, Script((), (), 10), stop)


def open_recorder():
    return History(Path(sys.argv[1]), 8 << 20)


with ServiceSession(config, lambda: config, open_inbox, system, open_recorder=open_recorder) as session:
    session.run(lambda: print(time.process_time() - simulation_s), lambda _: None)
"""


def cpu_s(code: str, *arguments: str) -> float:
    """Return the CPU time, in seconds, that a program says it took."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)


@pytest.mark.slow
def test_a_start_takes_little_more_than_its_libraries(tmp_path: Path) -> None:
    cpu_s(START, str(tmp_path / "warm"))
    floor = f"{FLOOR}\nimport time; print(time.process_time())"
    pairs = [(cpu_s(START, str(tmp_path / f"history{i}")), cpu_s(floor)) for i in range(3)]
    assert min(start for start, _ in pairs) / min(each for _, each in pairs) < MOST_OF_FLOOR, pairs
