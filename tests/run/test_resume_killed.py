"""Runs killed with SIGKILL at random moments, writes of checkpoints included: nothing is lost or doubled."""

from __future__ import annotations

import os
import pickle
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crashes import fork, in_child
from effort import share_of
from gpuscan.checkpoint.directory import generations
from gpuscan.run.resume import ResumedRun
from gpuscan.shards.sharded_store import Sharding
from gpuscan.shards.transport import InProcessTransport
from runs import BUSY, Case, assert_same, resume, run_with_checkpoints, undivided

CASE = Case(
    "phase-shift",
    ("processes.0.accesses_per_gib_s=800_000", "processes.0.pattern.shift_every=300ms", *BUSY),
    memory="512MiB",
    n_ticks=6,
)
KILLS_IN_A_ROW = 4
HUNG_S = 60


N_KILLS = share_of(50, at_least=20)
SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Victim:
    """A run that is killed, resumed, killed again, and at last left alone.

    With ``max_shards`` it has up to so many, others each time, that log what they are told.
    """

    def __init__(self, path: Path, rng: random.Random, max_shards: int) -> None:
        self.path = path
        self.rng = rng
        self.max_shards = max_shards
        self.at = Counter[str]()

    def go_on(self) -> None:
        """Run from the last checkpoint, or from the start; leave the outcome in a file."""
        options: dict[str, Any] = {}
        if n_shards := self.rng.randint(0, self.max_shards):
            options["sharding"] = Sharding(InProcessTransport(), n_shards, self.path.with_suffix(".shards"))
        if self.path.exists() and generations(self.path):
            left = resume(self.path, CASE, "1", **options)
        else:
            left = run_with_checkpoints(CASE, self.path, "1", **options)
        self.path.with_suffix(".done").write_bytes(pickle.dumps((left, time.thread_time_ns())))

    def kill(self, life_ns: int) -> bool:
        """Go on and be killed within ``life_ns`` of work; return whether the kill came before the end.

        In time on a CPU, not by the clock: on a busy machine a run would hardly have begun.
        """
        pid = fork(self.go_on)
        until_ns = self.rng.randrange(life_ns)
        deadline = time.monotonic() + HUNG_S
        schedstat = Path(f"/proc/{pid}/schedstat")
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if int(schedstat.read_text().split()[0]) >= until_ns:
                os.kill(pid, signal.SIGKILL)
                break
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise AssertionError(f"the run hung for {HUNG_S} s")
            time.sleep(0.001)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL)
        if status == 0:
            return False
        names = [entry.name for entry in self.path.iterdir()] if self.path.exists() else []
        if not any("checkpoint" in name for name in names):
            self.at["before the first checkpoint"] += 1
        elif any(name.endswith((".tmp", ".old")) for name in names):
            self.at["while one was written"] += 1
        else:
            self.at["in between"] += 1
        return True

    def check(self, n_ticks_before: int) -> int:
        """Check that a resume would work, and goes on where the run had come to or later; return where."""
        if not (self.path.exists() and generations(self.path)):
            assert n_ticks_before == 0
            return 0
        run = ResumedRun(self.path)
        run.close()
        assert len(run.earlier) >= n_ticks_before
        return len(run.earlier)


@pytest.mark.parametrize(
    ("part", "n_kills", "max_shards"),
    [
        pytest.param(0, 6, 0, marks=SLOW),
        *(pytest.param(part, N_KILLS, 0, marks=SLOW) for part in range(1, 5)),
        pytest.param(5, 2, 3, marks=SLOW),
        pytest.param(6, N_KILLS, 3, marks=SLOW),
    ],
)
def test_killed_at_random_moments(
    part: int, n_kills: int, max_shards: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    whole = run_with_checkpoints(CASE, tmp_path / "whole", "1000")
    assert whole["refusals"]
    assert in_child(Victim(tmp_path / "once", random.Random(part), max_shards).go_on) == 0
    _, life_ns = pickle.loads((tmp_path / "once.done").read_bytes())
    at: Counter[str] = Counter()
    number = 0
    while at.total() < n_kills:
        number += 1
        victim = Victim(tmp_path / str(number), random.Random(1000 * part + number), max_shards)
        n_ticks = 0
        for _ in range(KILLS_IN_A_ROW):
            if not victim.kill(life_ns):
                break
            n_ticks = victim.check(n_ticks)
        assert in_child(victim.go_on) == 0
        left, _ = pickle.loads((tmp_path / f"{number}.done").read_bytes())
        if max_shards:
            assert_same(undivided(whole), undivided(left))
        else:
            assert_same(whole, left)
        at += victim.at
    with capsys.disabled():
        where = ", ".join(f"{count} {name}" for name, count in sorted(at.items()))
        took_s = time.monotonic() - started
        sys.stdout.write(
            f"\nkilled {at.total()} times ({where}) in {number} runs with up to {max_shards} shards, "
            f"{took_s:.0f} s: all as if never\n"
        )
