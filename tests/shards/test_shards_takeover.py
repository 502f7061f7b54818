"""An engine takes over the shards of one that was killed, on a machine that went on meanwhile."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crashes import in_child, kill_at
from gpuscan.base.errors import CheckpointError
from gpuscan.kernels.api import Outcome, ReleaseOutcome
from gpuscan.shards.messages import Frames, ShardLostError
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


def opened(transport: InProcessTransport | None = None) -> ShardedStore:
    return ShardedStore(machine(1), device="cpu", n_shards=2, transport=transport, n_threads=1)


def left_by_an_engine(directory: Path, flats: Any, n_calls: int) -> None:
    """Leave the shards of an engine that asked for pages in so many calls, the last ones after protection."""
    with opened() as store:
        store.load_pages(store.page_map.present_bits())
        store.protect(directory)
        for part in np.array_split(flats, n_calls):
            store.request(store.page_map.pfn_of_flat(part), TARGET)


def ready_flats(store: ShardedStore) -> set[int]:
    return {int(flat) for plan in store.drain() for flat in plan.flat}


FLATS = np.concatenate([np.arange(0, 32768, 500), np.arange(3 * 32768, 4 * 32768, 500)])


def test_a_log_that_is_missing_or_damaged_is_not_taken_over(tmp_path: Path) -> None:
    left_by_an_engine(tmp_path / "shards", FLATS, 3)
    log = tmp_path / "shards/shard-1.log"
    content = log.read_bytes()
    log.write_bytes(content[:50] + b"?" + content[51:])
    with (
        opened() as store,
        pytest.raises(CheckpointError, match=r"shard-1.log is damaged: .* is behind that"),
    ):
        store.take_over(tmp_path / "shards")
    log.unlink()
    with opened() as store, pytest.raises(CheckpointError, match=r"shard-1.log is not there"):
        store.take_over(tmp_path / "shards")
    assert not log.exists()
    log.write_bytes(content)
    with opened() as store:
        store.take_over(tmp_path / "shards")
        assert ready_flats(store) == set(FLATS.tolist())


@pytest.mark.slow
def test_two_runs_in_one_directory_are_never_mixed(tmp_path: Path) -> None:
    mine = FLATS + 7

    def protects_again(directory: Path, step: int) -> None:
        with opened() as store:
            store.load_pages(store.page_map.present_bits())
            store.request(store.page_map.pfn_of_flat(mine), TARGET)
            kill_at(step, directory)
            store.protect(directory)

    n_refused = n_taken = 0
    for step in (*range(1, 12), *range(12, 1000, 9)):
        directory = tmp_path / str(step)
        left_by_an_engine(directory, FLATS, 9)
        is_done = in_child(lambda: protects_again(directory, step)) == 0  # noqa: B023
        with opened() as store:
            try:
                store.take_over(directory)
            except CheckpointError:
                n_refused += 1
            else:
                assert ready_flats(store) in (set(FLATS.tolist()), set(mine.tolist()))
                n_taken += 1
        if is_done:
            break
    assert is_done
    assert n_refused > 3
    assert n_taken


class LosesAgain(InProcessTransport):
    """Loses a shard at one message."""

    def __init__(self, lose_at: int) -> None:
        super().__init__()
        self.left = lose_at

    def send(self, shard: int, frames: Frames) -> Any:
        self.left -= 1
        if not self.left:
            self._shards.pop(shard).close()
            raise ShardLostError(shard)
        return super().send(shard, frames)


def test_a_worker_lost_while_its_shard_is_taken_over_is_made_anew(tmp_path: Path) -> None:
    for lose_at in range(1, 40):
        directory = tmp_path / str(lose_at)
        left_by_an_engine(directory, FLATS, 2)
        transport = LosesAgain(0)
        with opened(transport) as store:
            transport.left = lose_at
            store.take_over(directory)
            assert ready_flats(store) == set(FLATS.tolist())
        if transport.left > 0:  # all was said without a loss
            break
    assert lose_at > 8


def test_what_waits_for_a_retry_comes_back_where_it_was_named(tmp_path: Path) -> None:
    with opened() as store:
        store.load_pages(store.page_map.present_bits())
        store.protect(tmp_path / "shards")
        store.request(store.page_map.pfn_of_flat(FLATS), TARGET)
        (plan,) = store.drain()
        store.hold(plan.flat[::5], plan.words[::5])
        n_held = len(plan.flat[::5])
        store.release(plan.flat[:1], plan.words[:1])  # its wait is over before the engine dies
        store.count_ready()  # tells all shards what was queued
    with opened() as store:
        ended = store.take_over(tmp_path / "shards")
        assert ended[ReleaseOutcome.RESTORED] == n_held - 1
        assert ended[ReleaseOutcome.SUPERSEDED] == 1
        assert ready_flats(store) == set(plan.flat[::5].tolist())
        assert store.count_ready() == 0  # settled now
    with opened() as store:
        store.take_over(tmp_path / "shards")  # nobody has named them since the last drain
        assert ready_flats(store) == set()
