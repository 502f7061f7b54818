"""An engine takes over the shards of one that was killed, on a machine that went on meanwhile."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from crashes import in_child
from gpuscan.kernels.api import Outcome, ReleaseOutcome
from gpuscan.shards.messages import Frames
from gpuscan.shards.sharded_store import ShardedStore
from gpuscan.shards.transport import InProcessTransport
from sharded_runs import machine

TARGET = 1


class KillsItself(InProcessTransport):
    """Is killed, with everything in this process, at one message: before it was done, or afterwards."""

    def __init__(self, die_at: int) -> None:
        super().__init__()
        self._left, self._is_done = die_at, die_at % 2

    def send(self, shard: int, frames: Frames) -> Any:
        self._left -= 1
        if not self._left:
            if self._is_done:
                super().send(shard, frames)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().send(shard, frames)


def migrating_engine(place: Path, die_at: int) -> None:
    """Mark pages, and move those that are claimed: what was asked for and moved is in two files."""
    with ShardedStore(
        machine(1), device="cpu", n_shards=2, transport=KillsItself(die_at), n_threads=1
    ) as store:
        store.load_pages(store.page_map.present_bits())
        store.protect(place / "shards", log_bytes=1 << 14)
        rng = np.random.default_rng(1)
        with (place / "asked").open("ab", 0) as asked, (place / "moved").open("ab", 0) as moved:
            for _ in range(4):
                flats = np.unique(rng.integers(0, store.n_pages, 900))
                pfns = store.page_map.pfn_of_flat(flats[store.page_map.nid_of_flat(flats) != TARGET])
                asked.write(pfns.tobytes())
                store.request(pfns, TARGET)
                with closing(store.drain(capacity=512)) as plans:
                    for plan in plans:
                        moved.write(plan.pfn[::2].tobytes())
                        store.forget(plan.flat[::2])
                        store.release(plan.flat[1::2], plan.words[1::2])


def test_an_engine_takes_over_the_shards_of_one_that_was_killed(tmp_path: Path) -> None:
    n_back = n_migrated = 0
    for die_at in range(12, 60, 5):
        place = tmp_path / str(die_at)
        place.mkdir()
        if in_child(lambda place=place, die_at=die_at: migrating_engine(place, die_at)) == 0:  # type: ignore[misc]
            break
        asked, moved = (set(np.fromfile(place / name, dtype=np.int64)) for name in ("asked", "moved"))
        with ShardedStore(machine(1), device="cpu", n_shards=2, n_threads=1) as store:
            ended = store.take_over(place / "shards")
            n_back += ended[ReleaseOutcome.RESTORED]
            n_migrated += ended[ReleaseOutcome.INELIGIBLE]
            n_ready = store.count_ready()
            (plan,) = store.drain()
            ready = set(plan.pfn)
            assert len(plan) == n_ready
            last = set(np.fromfile(place / "asked", dtype=np.int64)[-900:])  # may not have been told any more
            assert asked - last <= ready | moved
            assert ready <= asked
            assert len(ready & moved) <= 256  # half of the last plan, and nobody had been told
            assert store.request(sorted(moved - ready), TARGET)[Outcome.ACCEPTED] == 0
    assert die_at > 30
    assert n_back
    assert n_migrated
