"""A fault at every system call of every command that writes: a sample; ``faults.server`` does all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults.library import compiled, need_compiler

N_SERVERS = 2
ROOT = Path(__file__).parents[1]


def serve(tmp_path: Path, *options: str, n_servers: int = 1) -> list[dict[str, Any]]:
    """Run servers side by side, each with its part of the points; return what they found."""
    need_compiler()
    environment = {**os.environ, "LD_PRELOAD": str(compiled(tmp_path)), "TMPDIR": str(tmp_path)}
    servers = [
        subprocess.Popen(
            [sys.executable, "-m", "faults.server", *options, "--part", f"{part}/{n_servers}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in range(1, n_servers + 1)
    ]
    found = []
    try:
        for server in servers:
            out, _ = server.communicate()
            assert server.returncode in (0, 1), "the server itself failed"
            found.append(json.loads(out))
    finally:
        for server in servers:
            server.kill()
            server.wait()
    return found


def wrong(found: list[dict[str, Any]]) -> list[Any]:
    return [wrong for one in found for wrong in one["wrong"]]


def test_a_few_faults_of_the_writer(tmp_path: Path) -> None:
    found = serve(tmp_path, "--command", "bench scale --out, again", "--sample", "12")
    assert wrong(found) == []
    assert found[0]["n_points"] == 12
    assert found[0]["points"]["bench scale --out, again"]["calls"] > 40


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1200)
def test_a_sample_of_faults_of_every_command(tmp_path: Path) -> None:
    found = serve(tmp_path, "--sample", "2000", "--seed", "1", n_servers=N_SERVERS)
    assert wrong(found) == []
    assert sum(one["n_points"] for one in found) == 2000
    outcomes = [outcome for one in found for counts in one["outcomes"].values() for outcome in counts]
    assert {"done", "refused (1)", "killed"} <= set(outcomes)
