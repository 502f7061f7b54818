"""Checkpoints of runs with shards: what goes on, in as many shards as there are then, is the same run."""

from __future__ import annotations

import errno
import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import CASES
from gpuscan.base.errors import CheckpointError, InputError, RunFailedError
from gpuscan.checkpoint import arrays as arrays_module
from gpuscan.checkpoint.arrays import ArrayPlace, ArrayWriter
from gpuscan.checkpoint.directory import CheckpointDirectory, generations, load
from gpuscan.kernels.api import ScanRequest
from gpuscan.run.resume import ResumedRun
from gpuscan.shards.messages import Frames, Message, ShardLostError, pack, unpack
from gpuscan.shards.sharded_store import ShardedStore, Sharding
from gpuscan.shards.transport import InProcessTransport
from gpuscan.store.single import Store
from machines import tiered
from runs import Crash, assert_same, resume, run_with_checkpoints, store_arrays, undivided

KIND = "test"


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@contextmanager
def in_shards(
    n_shards: int, directory: Path | None = None, transport: InProcessTransport | None = None
) -> Iterator[dict[str, Any]]:
    """Yield what makes a scenario one of so many shards, or of a single store."""
    gc.collect()  # the logs of a store that crashed are locked until it is gone, as a process would be
    transport = transport or InProcessTransport()
    try:
        yield {"sharding": Sharding(transport, n_shards, directory)} if n_shards else {}
    finally:
        transport.close()


def crashed(case: Any, path: Path, n_shards: int, *, every: int = 9, after: int = 11) -> None:
    with in_shards(n_shards) as options, pytest.raises(Crash):
        run_with_checkpoints(case, path, str(every), crash_after=after, **options)


@pytest.mark.parametrize(
    ("name", "before", "then"),
    [
        ("refusals and a rate", 3, 2),
        ("a budget", 2, 0),
        ("compact records", 0, 3),
        ("huge pages", 2, 3),
        ("one thread", 4, 4),
    ],
)
def test_a_resumed_run_equals_that_of_a_single_store(
    name: str, before: int, then: int, tmp_path: Path
) -> None:
    case = CASES[name]
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    assert sum(tick["migrated"] for tick in whole["ticks"][9:])
    crashed(case, tmp_path / "c", before)
    with in_shards(then) as options:
        resumed = resume(tmp_path / "c", case, "9", **options)
    assert_same(undivided(resumed), undivided(whole))


@pytest.mark.slow
def test_divided_anew_at_every_crash(tmp_path: Path) -> None:
    case = CASES["refusals and a rate"]
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    crashed(case, tmp_path / "c", 2, every=1, after=2)
    for number, (n_shards, after) in enumerate([(4, 4), (0, 6), (3, 9)]):
        with in_shards(n_shards, tmp_path / str(number)) as options, pytest.raises(Crash):
            resume(tmp_path / "c", case, "1", crash_after=after, **options)
    with in_shards(2) as options:
        assert_same(undivided(resume(tmp_path / "c", case, "5", **options)), undivided(whole))


class LosesAtCheckpoints(InProcessTransport):
    """Loses shard 1 when it is to write, or has written, its part of every other checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.n_asked = 0

    def send(self, shard: int, frames: Frames) -> Any:
        if shard != 1 or unpack(frames).ops[0].name != "write_part":
            return super().send(shard, frames)
        self.n_asked += 1
        if self.n_asked % 4 == 3:
            super().send(shard, frames)
        if self.n_asked % 2:
            self._shards.pop(shard).close()
            raise ShardLostError(shard)
        return super().send(shard, frames)


@pytest.mark.slow
def test_a_worker_lost_at_a_checkpoint_is_made_anew_and_writes_it(tmp_path: Path) -> None:
    case = CASES["a budget"]
    whole = run_with_checkpoints(case, tmp_path / "whole", "1000")
    transport = LosesAtCheckpoints()
    with in_shards(2, tmp_path / "shards", transport) as options, pytest.raises(Crash):
        run_with_checkpoints(case, tmp_path / "c", "2", crash_after=11, **options)
    assert transport.n_asked == 12
    gc.collect()  # the engine that crashed is gone, and its locks with it
    with in_shards(2, tmp_path / "shards") as options:
        assert_same(undivided(resume(tmp_path / "c", case, "2", **options)), undivided(whole))


def filled(n_shards: int) -> ShardedStore:
    store = ShardedStore(tiered(2), device="cpu", n_shards=n_shards, n_threads=1, large_folios=True)
    store.load_pages(store.page_map.present_bits())
    store.admit(np.arange(0, store.n_pages, 4096), 5)
    store.request(store.page_map.pfn_of_flat(np.arange(7, store.n_pages, 37)), 1)
    return store


def test_only_what_changed_is_written_again_at_each_shard(tmp_path: Path) -> None:
    with filled(3) as store, CheckpointDirectory(tmp_path / "c", KIND) as directory:
        first = directory.save({"store": store.state()})
        assert first.n_written > 3
        assert directory.save({"store": store.state()}).n_written == 0
        store.request(store.page_map.pfn_of_flat(np.array([store.n_pages - 1])), 1)
        again = directory.save({"store": store.state()})
    assert again.n_chunks == first.n_chunks
    assert 1 <= again.n_written <= 3  # its record, ready word and block word
    names = [entry.name for entry in (tmp_path / "c/checkpoint-00000003/arrays").iterdir() if entry.is_dir()]
    assert sorted(names)[0] == "store.parts.0.block_bits"
    assert len(names) == 15


@pytest.mark.parametrize("n_shards", [1, 2, 5])
def test_a_state_is_taken_by_any_division(
    n_shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays_module, "CHUNK_BYTES", 100_000)  # a shard begins and ends within chunks
    with filled(3) as store, CheckpointDirectory(tmp_path / "c", KIND) as directory:
        directory.save({"store": store.state()})
        expected, n_ready = store_arrays(store), store.count_ready()
    assert n_ready > 1000
    state, _ = load(tmp_path / "c", KIND, later="store.parts")
    options = {"device": "cpu", "large_folios": True, "n_threads": 1}
    with ShardedStore(tiered(2), n_shards=n_shards, **options) as other, Store(tiered(2), **options) as one:  # type: ignore[arg-type]
        for mine in (other, one):
            mine.restore(state["store"])
            for name in ("records", "ready_bits", "block_bits", "eligible_bits", "folio_order"):
                found = getattr(store_arrays(mine), name)
                np.testing.assert_array_equal(found, getattr(expected, name), err_msg=name)
            assert mine.count_ready() == n_ready
            assert mine.take_active().sum()
        plans = [list(mine.drain(capacity=512)) for mine in (other, one)]
        assert [plan.pfn.tolist() for plan in plans[0]] == [plan.pfn.tolist() for plan in plans[1]]


def test_a_shard_lost_after_a_restore_does_not_need_what_it_was_restored_from(tmp_path: Path) -> None:
    with filled(3) as store, CheckpointDirectory(tmp_path / "c", KIND) as directory:
        directory.save({"store": store.state()})
        n_ready = store.count_ready()
    state, place = load(tmp_path / "c", KIND, later="store.parts")
    transport = InProcessTransport()
    options = {"device": "cpu", "large_folios": True, "n_threads": 1}
    with ShardedStore(tiered(2), n_shards=2, transport=transport, **options) as other:  # type: ignore[arg-type]
        other.protect(tmp_path / "shards")
        other.restore(state["store"])
        shutil.rmtree(place)
        transport._shards.pop(0).close()
        assert other.count_ready() == n_ready > 1000
        assert len(other.group.recoveries) == 1


def test_a_state_of_another_machine_is_refused() -> None:
    with filled(2) as store, ShardedStore(tiered(3), device="cpu", n_shards=2) as other:
        with pytest.raises(ValueError, match="8 sections, this store has 12"):
            other.restore(store.state())
        with pytest.raises(ValueError, match="format 'rfc', this store has pghot"):
            Store(tiered(2), "pghot", "cpu").restore(store.state())


def test_claims_that_nobody_settled_are_in_no_checkpoint(tmp_path: Path) -> None:
    with filled(2) as store, CheckpointDirectory(tmp_path / "c", KIND) as directory:
        plan = store.scan_range(ScanRequest(0, store.n_pages, store.n_pages))
        assert len(plan)
        with pytest.raises(InputError, match="shard 0 holds claims that are not settled"):
            directory.save({"store": store.state()})
        assert generations(directory.path) == []


def test_a_disk_full_at_a_shard_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ArrayWriter.write

    def full(self: ArrayWriter, path: str, array: Any) -> None:
        if path == "store.parts.1.records":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, path, array)

    with filled(2) as store, CheckpointDirectory(tmp_path / "c", KIND) as directory:
        directory.save({"store": store.state()})
        monkeypatch.setattr(ArrayWriter, "write", full)
        with pytest.raises(
            RunFailedError, match=r"^shard 1 cannot write .*: No space left.* every worker must"
        ):
            directory.save({"store": store.state()})
    assert sorted(entry.name for entry in (tmp_path / "c").iterdir()) == ["checkpoint-00000001", "lock"]
    load(tmp_path / "c", KIND)


def test_a_shard_of_a_killed_engine_that_goes_on_writing_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with filled(2) as store, filled(2) as earlier:
        killed = CheckpointDirectory(path, KIND)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CheckpointDirectory, "_rename", lambda *_: None)  # it comes no further
            killed.save({"store": earlier.state()})
        killed.close()
        (old,) = path.glob("*.tmp")
        with CheckpointDirectory(path, KIND) as directory:
            assert not list(path.glob("*.tmp"))
            old.mkdir()
            late = ArrayWriter(ArrayPlace.make(old / "arrays", None, {}))
            late.write("store.parts.0.records", np.arange(9))
            store.request(store.page_map.pfn_of_flat(np.array([1])), 1)
            directory.save({"store": store.state()})
            expected = store_arrays(store)
    state, _ = load(path, KIND)
    np.testing.assert_array_equal(
        state["store"]["parts"]["0"]["records"], expected.records[: len(expected.records) // 2]
    )
    with pytest.warns(UserWarning, match=rf"left as they are in .*: {old.name}"):  # it has no mark
        CheckpointDirectory(path, KIND).close()
    assert sorted(entry.name for entry in path.iterdir()) == ["checkpoint-00000001", old.name, "lock"]


class OnAnotherHost(InProcessTransport):
    """Has its shards where the same paths lead elsewhere."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def send(self, shard: int, frames: Frames) -> Any:
        message: Message = unpack(frames)
        op = message.ops[0]
        if op.name == "write_part":
            place = replace(op.args[0], directory=self._root / op.args[0].directory.relative_to("/"))
            frames = pack(replace(message, ops=(op._replace(args=(place, op.args[1])),)))
        return super().send(shard, frames)


def test_a_worker_that_does_not_see_the_directory_writes_nothing(tmp_path: Path) -> None:
    elsewhere = tmp_path / "another host"
    transport = OnAnotherHost(elsewhere)
    with ShardedStore(tiered(2), device="cpu", n_shards=2, transport=transport, n_threads=1) as store:
        store.load_pages(store.page_map.present_bits())
        with CheckpointDirectory(tmp_path / "c", KIND) as directory:
            with pytest.raises(
                RunFailedError, match=r"^shard 0 cannot write .*: No such file .*; every worker must see"
            ):
                directory.save({"store": store.state()})
            assert generations(directory.path) == []
    assert not elsewhere.exists()


def test_a_worker_that_does_not_see_the_directory_says_so(tmp_path: Path) -> None:
    with filled(2) as store, CheckpointDirectory(tmp_path / "c", KIND) as directory:
        directory.save({"store": store.state()})
        state, place = load(tmp_path / "c", KIND, later="store.parts")
        shutil.rmtree(place)
        with pytest.raises(CheckpointError, match=r"^shard 0: .* cannot be read .*; every worker must see"):
            store.restore(state["store"])


def test_damage_in_a_shards_part_is_found_before_anything_is_built(tmp_path: Path) -> None:
    case = CASES["a budget"]
    crashed(case, tmp_path / "c", 2, every=4)
    before, newest = sorted((tmp_path / "c").glob("checkpoint-*"))
    chunk = newest / "arrays/store.parts.1.eligible_bits/c/0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.unlink()
    chunk.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"parts.1.eligible_bits/c/0 .*; {before} is whole: resume that$"
    ):
        ResumedRun(tmp_path / "c")
