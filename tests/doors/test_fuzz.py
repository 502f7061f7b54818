"""Hostile files: every reader ends in a value or in one sentence; no signal, no hang, no 2 GiB of memory."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from effort import share_of
from fuzz.campaign import Job
from fuzz.machines import MACHINE_TARGETS
from fuzz.targets import TARGETS

N_SAMPLE, N_CAMPAIGN = 250, share_of(100_000)
N_WORKERS, N_PARTS = 2, 4


def run(jobs: list[Job]) -> None:
    with ThreadPoolExecutor(N_WORKERS) as threads:
        list(threads.map(Job.run, jobs))
    failures = [job.failure for job in jobs if job.failure]
    assert not failures, "\n\n".join(failures)


@pytest.mark.slow
def test_a_sample_of_hostile_files() -> None:
    rest = tuple(name for name in TARGETS if name != "checkpoint")
    run([Job(("checkpoint",), 0, N_SAMPLE), Job(rest, 0, N_SAMPLE)])


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_hostile_files_of_each_kind() -> None:
    """14 minutes of CPU time in all: 7 on two cores that are free, 14 beside other work."""
    jobs = [
        Job((target,), first, N_CAMPAIGN // N_PARTS)
        for target in ("checkpoint", "snapshot", *TARGETS)  # the longest first
        if target not in MACHINE_TARGETS
        for first in range(0, N_CAMPAIGN, N_CAMPAIGN // N_PARTS)
    ]
    run(list({(job.targets, job.first): job for job in jobs}.values()))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_hostile_machines_of_each_kind() -> None:
    """30 minutes of workers together, half of that by the clock, beside much other work."""
    jobs = [
        Job((target,), first, N_CAMPAIGN // N_PARTS)
        for target in MACHINE_TARGETS
        for first in range(0, N_CAMPAIGN, N_CAMPAIGN // N_PARTS)
    ]
    run(jobs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crash", "how"),
    [
        ("raise KeyError('x')", "broken seed 2 ended in a traceback"),
        ("import os; os.kill(os.getpid(), 11)", "broken seed 2 was killed by SIGSEGV"),
        ("import time; time.sleep(60)", "broken seed 2 hung for 3.0 s"),
        ("bytearray(3 << 30)", "broken seed 2 ended in a traceback"),
        ("self.compiles(4.0)", ""),
        ("self.compiles(0.1); import time; time.sleep(60)", "broken seed 2 hung for 3.0 s"),
    ],
)
def test_what_no_input_may_do_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crash: str, how: str
) -> None:
    program = tmp_path / "broken.py"
    program.write_text(
        "import sys, time\nfrom pathlib import Path\nfrom numba.core import event\n"
        "from fuzz import targets, worker\n"
        "class Broken:\n    n = 0\n    def __init__(self, directory): pass\n"
        "    def compiles(self, s):\n"
        "        with event.trigger_event('numba:compile'):\n            time.sleep(s)\n"
        "    def attempt(self, rng):\n        self.n += 1\n"
        f"        if self.n == 3:\n            {crash}\n"
        "targets.TARGETS['broken'] = Broken\n"
        "worker.attempts(Path(sys.argv[1]), 0, 5, ['broken'])\n"
    )
    command = [sys.executable, "-P", str(program)]
    job = Job(("broken",), 0, 5)
    monkeypatch.setattr(Job, "command", lambda self, directory: [*command, str(directory)])
    monkeypatch.setattr("fuzz.campaign.HANG_S", 3.0)
    job.run()
    assert how in job.failure
    assert bool(how) == bool(job.failure)
