"""A shard is lost at any message: the log, the checkpoint and the replay give the very same run."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import CheckpointError, InputError, RunFailedError
from gpuscan.checkpoint.directory import CheckpointDirectory
from gpuscan.kernels.api import ReleaseOutcome
from gpuscan.shards.group import LOG_BYTES, ShardGroup
from gpuscan.shards.log import TITLE, RequestLog
from gpuscan.shards.messages import (
    Frames,
    Message,
    Op,
    ShardBehindError,
    ShardLostError,
    ShardSpec,
    pack,
    unpack,
)
from gpuscan.shards.shard import Shard
from gpuscan.shards.sharded_store import ShardedStore
from gpuscan.shards.transport import InProcessTransport
from machines import tiered
from sharded_runs import assert_same_run, machine, run, single


def frames_of(number: int) -> Frames:
    """Return a message with arrays, one of them empty."""
    arrays = np.arange(number * 100), np.empty(0, dtype=np.uint8)
    return pack(Message(number, (Op("request", arrays),)))


def numbers(log: RequestLog, after: int = 0) -> list[int]:
    """Return what a log has, and check that it is what was put there."""
    found = []
    for number, frames in log.after(after):
        message: Message = unpack(frames)
        assert message.seq == number
        np.testing.assert_array_equal(message.ops[0].args[0], np.arange(number * 100))
        found.append(number)
    return found


def test_a_log_has_what_was_appended_and_forgets_what_is_cut(tmp_path: Path) -> None:
    with RequestLog(tmp_path / "log") as log:
        for number in (7, 8, 9):
            log.append(number, frames_of(number))
        assert numbers(log, after=6) == [7, 8, 9]
        assert numbers(log, after=8) == [9]
        assert numbers(log, after=9) == []
        with pytest.raises(ValueError, match="up to 9, a checkpoint has them up to 8"):
            log.cut(8)
        log.cut(9)
        assert (log.n_bytes, (tmp_path / "log").stat().st_size) == (0, len(TITLE))
        log.append(10, frames_of(10))
    with RequestLog(tmp_path / "log") as log:
        assert numbers(log, after=9) == [10]


def test_a_number_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with RequestLog(tmp_path / "log") as log:
        log.append(3, frames_of(3))
        with pytest.raises(RunFailedError, match="message 5 cannot follow 3, one is missing"):
            log.append(5, frames_of(5))
        with pytest.raises(RunFailedError, match="begins with message 3, the checkpoint ends with 1"):
            list(log.after(1))
        log.cut(3)
        with pytest.raises(RunFailedError, match="message 5 cannot follow 3"):
            log.append(5, frames_of(5))


def test_an_entry_that_was_cut_short_or_damaged_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with RequestLog(path) as log:
        log.append(1, frames_of(1))
        whole = len(TITLE) + log.n_bytes
        log.append(2, frames_of(2))
    content = path.read_bytes()
    for length in range(whole, len(content), 37):
        path.write_bytes(content[:length])
        with RequestLog(path) as log:
            assert numbers(log) == [1]
            log.append(2, frames_of(2))
            assert numbers(log) == [1, 2]
    for position in range(whole, len(content), 29):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with RequestLog(path) as log:
            assert numbers(log) == [1]


def test_a_log_that_is_damaged_before_its_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    edges = [len(TITLE)]
    with RequestLog(path) as log:
        for number in (1, 2, 3):
            log.append(number, frames_of(number))
            edges.append(len(TITLE) + log.n_bytes)
    content = path.read_bytes()
    for entry in (0, 1):
        for position in (
            *range(edges[entry], edges[entry] + 40, 3),
            *range(edges[entry], edges[entry + 1], 97),
        ):
            path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
            with pytest.raises(
                CheckpointError, match=rf"up to message {entry}, and {entry + 2} is behind that"
            ):
                RequestLog(path)
    path.write_bytes(content[: edges[1]] + content[edges[2] :])
    with pytest.raises(CheckpointError, match="up to message 1, and 3 is behind that"):
        RequestLog(path)
    # An entry that was cut short may be longer than what replaces it: nothing whole is behind that.
    path.write_bytes(content[: edges[2]] + content[edges[1] : edges[2]])
    with RequestLog(path) as log:
        assert numbers(log) == [1, 2]


def test_a_log_that_should_be_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="log is not there, and with it what the shard was told"):
        RequestLog(tmp_path / "log", must_exist=True)
    assert not list(tmp_path.iterdir())


def test_a_log_whose_end_is_lost_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with RequestLog(path) as log:
        log.append(1, frames_of(1))
        whole = len(TITLE) + log.n_bytes
        log.append(2, frames_of(2))
        os.truncate(path, log.n_bytes - 1)
        assert list(log.after(2)) == []
        with pytest.raises(RunFailedError, match="can be read up to message 1, and 2 was written"):
            list(log.after(0))
        os.truncate(path, whole - 1)
        with pytest.raises(RunFailedError, match="can be read up to message 0, and 2 was written"):
            list(log.after(0))
        log.begin_after(5)
        assert list(log.after(5)) == []
        with pytest.raises(RunFailedError, match="can be read up to message 4, and 5 was written"):
            list(log.after(4))
        log.append(6, frames_of(6))
        assert numbers(log, after=5) == [6]


def test_a_log_is_synced_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(file))
    with RequestLog(tmp_path / "log") as log:
        log.append(1, frames_of(1))
        assert len(synced) == 1


def shard() -> Shard:
    spec = ShardSpec(0, 1, tiered(), 0, 4, "rfc", "reference", None, False, None)
    made = Shard(spec)
    made.store.load_pages(made.store.page_map.present_bits())
    return made


def a_request(seq: int | None, first: int, n: int = 5) -> Message:
    pfns = np.arange(first, first + n, dtype=np.int64) + 5 * 32768
    nothing = np.empty(0, dtype=np.uint8)
    return Message(seq, (Op("request", (pfns, np.zeros(n, dtype=np.int32), nothing)),))


def test_a_message_that_was_seen_is_answered_again_and_changes_nothing() -> None:
    one = shard()
    first = one.handle(a_request(1, 0))
    scanned = one.handle(Message(2, (Op("scan", (0, one.store.n_pages, 512, "auto", None, False)),)))
    assert scanned.results[0].lists.flat.tolist() == [65536, 65537, 65538, 65539, 65540]
    again = one.handle(Message(2, (Op("scan", (0, one.store.n_pages, 512, "auto", None, False)),)))
    assert again is scanned
    assert one.handle(a_request(1, 0)).results == ()
    assert one.count_ready() == 0
    assert first.active_nids == (2,)


def test_a_message_that_is_missing_is_an_error() -> None:
    one = shard()
    one.handle(a_request(1, 0))
    with pytest.raises(ShardBehindError):
        one.handle(a_request(3, 0))
    assert one.count_ready() == 5


def test_a_question_about_another_state_is_not_answered() -> None:
    one = shard()
    one.handle(a_request(1, 0))
    assert one.handle(Message(None, (Op("count_ready"),), 1)).results == (5,)
    assert one.handle(Message(None, (Op("last_seq"),))).results == (1,)
    for after in (0, 2):
        with pytest.raises(ShardBehindError):
            one.handle(Message(None, (Op("count_ready"),), after))


def test_what_was_claimed_and_not_settled_comes_back_or_was_migrated(tmp_path: Path) -> None:
    one = shard()
    one.handle(a_request(1, 0, 6))
    scanned = one.handle(Message(2, (Op("scan", (0, one.store.n_pages, 512, "auto", None, False)),)))
    flats = scanned.results[0].lists.flat.astype(np.int64)
    one.handle(Message(3, (Op("forget", (flats[:2],)),)))  # these were migrated: their old frames are free
    one.handle(a_request(4, 2, 1))  # this one was asked for anew
    one.checkpoint(tmp_path / "state")
    one.close()
    again = Shard(one.spec, tmp_path / "state")
    ended = again.handle(Message(5, (Op("put_back"),))).results[0]
    assert ended.tolist() == [3, 1, 2]
    assert [ReleaseOutcome(kind).name for kind in range(3)] == ["RESTORED", "SUPERSEDED", "INELIGIBLE"]
    assert again.count_ready() == 4
    assert again.handle(Message(6, (Op("put_back"),))).results[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_claim_ends_with_its_folio_whoever_has_the_page_then(is_made_anew: bool, tmp_path: Path) -> None:
    one = shard()
    one.handle(a_request(1, 0, 3))
    everything = Op("scan", (0, one.store.n_pages, 512, "auto", None, False))
    flats = one.handle(Message(2, (everything,))).results[0].lists.flat.astype(np.int64)
    one.handle(Message(3, (Op("forget", (flats[:2],)), Op("admit", (flats[:1], 0)))))
    if is_made_anew:
        one.checkpoint(tmp_path / "state")
        one.close()
        one = Shard(one.spec, tmp_path / "state")
    assert one.handle(Message(4, (Op("put_back"),))).results[0].tolist() == [1, 0, 2]
    assert one.handle(Message(5, (everything,))).results[0].lists.flat.tolist() == [flats[2]]
    # One that is claimed again after it was freed and allocated is the new folio's claim.
    pfns = one.store.page_map.pfn_of_flat(flats[:1])
    request = Op("request", (pfns, np.zeros(1, dtype=np.int32), np.empty(0, dtype=np.uint8)))
    one.handle(Message(6, (request, everything)))
    one.handle(Message(7, (Op("forget", (flats[2:],)),)))
    assert one.handle(Message(8, (Op("put_back"),))).results[0].tolist() == [1, 0, 1]


class Forgetful(InProcessTransport):
    """Makes a shard again by itself, as it first was, before a message: clusters may do so with actors."""

    def __init__(self, forget_at: int) -> None:
        super().__init__()
        self.n_sent = 0
        self._forget_at = forget_at
        self.armed = False

    def send(self, shard: int, frames: Frames) -> Any:
        self.n_sent += self.armed
        if self.armed and self.n_sent == self._forget_at:
            spec = self._shards[shard].spec
            self._shards.pop(shard).close()
            self._shards[shard] = Shard(spec)
        return super().send(shard, frames)


def test_a_shard_that_was_made_again_without_anybodys_asking_is_found_out(tmp_path: Path) -> None:
    expected = single(2, 4, machine(1))
    calm = Forgetful(0)
    found, _ = fragile_run(tmp_path / "calm", calm)
    assert_same_run(found, expected)
    n_points = 0
    for forget_at in range(1, calm.n_sent + 1, 3):
        found, recoveries = fragile_run(tmp_path / str(forget_at), Forgetful(forget_at))
        assert len(recoveries) == 1
        assert_same_run(found, expected)
        n_points += 1
    assert n_points >= 6


def test_a_question_alone_finds_out_too(tmp_path: Path) -> None:
    transport = Forgetful(1)
    with ShardedStore(machine(1), device="cpu", n_shards=2, transport=transport, n_threads=1) as store:
        store.load_pages(store.page_map.present_bits())
        store.protect(tmp_path / "shards")
        store.request(store.page_map.pfn_of_flat(np.arange(0, store.n_pages, 100)), 0)
        n_ready = store.count_ready()
        transport.armed = True
        assert store.count_ready() == n_ready > 900
        assert len(store.group.recoveries) == 1


class FragileTransport(InProcessTransport):
    """Loses the shard at one message, before or after it was done, or while the shard is made anew."""

    def __init__(self, lose_at: int, *, done: bool, again: int) -> None:
        super().__init__()
        self.n_sent = 0
        self.n_lost = 0
        self._lose_at = lose_at
        self._done = done
        self._again = again
        self.armed = False

    def send(self, shard: int, frames: Frames) -> Any:
        if not self.armed:
            return super().send(shard, frames)
        self.n_sent += 1
        lost = self._lose_at <= self.n_sent <= self._lose_at + self._again
        if lost and not self._done:
            self._lose(shard)
        reply = super().send(shard, frames)
        if lost:
            self._lose(shard)
            return shard
        return reply

    def receive(self, ticket: Any) -> Frames:
        if isinstance(ticket, int):
            raise ShardLostError(ticket)
        return super().receive(ticket)

    def _lose(self, shard: int) -> None:
        self.n_lost += 1
        self._shards.pop(shard).close()


def fragile_run(place: Path, transport: FragileTransport | Forgetful, log_bytes: int = LOG_BYTES) -> Any:
    with ShardedStore(machine(1), device="cpu", n_shards=2, transport=transport, n_threads=1) as store:
        store.load_pages(store.page_map.present_bits())
        store.protect(place, log_bytes)
        transport.armed = True
        return run(store, 2, seed=4), store.group.recoveries


def test_a_shard_lost_at_any_message_changes_nothing(tmp_path: Path) -> None:
    expected = single(2, 4, machine(1))
    calm = FragileTransport(1 << 30, done=False, again=0)
    found, _ = fragile_run(tmp_path / "calm", calm)
    assert_same_run(found, expected)
    n_points = 0
    for lose_at in range(1, calm.n_sent + 1, 3):
        done, again, log_bytes = lose_at % 2 == 0, lose_at % 4 // 2, (LOG_BYTES, 1 << 12)[lose_at % 5 == 0]
        transport = FragileTransport(lose_at, done=done, again=again)
        found, recoveries = fragile_run(tmp_path / str(lose_at), transport, log_bytes)
        assert transport.n_lost >= len(recoveries) >= 1
        assert_same_run(found, expected)
        n_points += 1
    assert n_points >= 6


def test_a_shard_that_is_lost_again_and_again_ends_the_run(tmp_path: Path) -> None:
    transport = FragileTransport(5, done=False, again=1000)
    with pytest.raises(RunFailedError, match=r"shard \d was lost 3 times in a row"):
        fragile_run(tmp_path / "shards", transport)


def test_runs_after_one_another_in_one_directory(tmp_path: Path) -> None:
    expected = single(2, 4, machine(1))
    for lose_at in (3, 2, 5):  # the later runs begin with checkpoints and logs of the one before
        found, recoveries = fragile_run(tmp_path, FragileTransport(lose_at, done=True, again=0))
        assert len(recoveries) == 1
        assert_same_run(found, expected)


def test_before_its_first_checkpoint_a_shard_is_not_that_of_an_earlier_run(tmp_path: Path) -> None:
    fragile_run(tmp_path, FragileTransport(1 << 30, done=False, again=0))
    transport = FragileTransport(1, done=False, again=0)
    transport.armed = True
    group = ShardGroup(transport, [shard().spec])
    with pytest.raises(RunFailedError, match="shard 0 died before the first checkpoint"):
        group.protect(tmp_path)
    group.close()


def logged(store: ShardedStore) -> list[int]:
    return [log.n_bytes for log in store.group._logs]


def test_logs_are_cut_without_a_drain_too(tmp_path: Path) -> None:
    with ShardedStore(machine(1), device="cpu", n_shards=2, n_threads=1) as store:
        store.load_pages(store.page_map.present_bits())
        store.protect(tmp_path / "shards", log_bytes=1 << 13)
        pfns = store.page_map.pfn_of_flat(np.arange(0, store.n_pages, 100))
        for _ in range(5):
            store.request(pfns, 0)
            assert max(logged(store)) <= 1 << 13
        for now in range(5):
            store.record(pfns, 0, now_jiffies=now, window_jiffies=9, threshold=1)
            assert max(logged(store)) <= 1 << 13
        store.rank(40, 5)
        store.request(pfns, 0)
        assert min(logged(store)) > 1 << 13  # a checkpoint would not keep what was counted
        store.scan()
        assert max(logged(store)) < 1 << 13


def test_a_shard_lost_between_a_ranking_and_its_scan_changes_nothing(tmp_path: Path) -> None:
    found = []
    for number, lose in enumerate((False, True)):
        transport = InProcessTransport()
        with ShardedStore(machine(1), device="cpu", n_shards=2, transport=transport, n_threads=1) as store:
            store.load_pages(store.page_map.present_bits())
            store.protect(tmp_path / str(number), log_bytes=1 << 12)
            pfns = store.page_map.pfn_of_flat(np.arange(0, store.n_pages, 100))
            store.request(pfns, 0)
            cuts = store.rank(300, 5)
            store.request(pfns + 1, 0)
            if lose:
                transport._shards.pop(1).close()
            plan = store.scan(cuts=cuts)
            assert len(store.group.recoveries) == lose
            found.append((plan.flat.tolist(), plan.words.tolist()))
    assert found[0] == found[1]
    assert len(found[0][0]) == 300


def test_what_a_scan_handed_out_is_settled_by_the_next(tmp_path: Path) -> None:
    transport = InProcessTransport()
    with ShardedStore(machine(1), device="cpu", n_shards=2, transport=transport, n_threads=1) as store:
        store.load_pages(store.page_map.present_bits())
        for number in range(4):
            store.request(store.page_map.pfn_of_flat(np.arange(number, store.n_pages, 1000)), 0)
            plan = store.scan()
            held = [len(claimed.flat) for shard in transport._shards.values() for claimed in shard._claims()]
            assert sum(held) == len(plan) > 90
        with CheckpointDirectory(tmp_path / "c", "test") as directory:
            with pytest.raises(InputError, match=r"not settled, .* settle\(\) the store first"):
                directory.save({"store": store.state()})
            store.settle()
            directory.save({"store": store.state()})


def test_a_drain_that_is_closed_late_ends_nobodys_ranking() -> None:
    with ShardedStore(machine(1), device="cpu", n_shards=2, n_threads=1) as store:
        store.load_pages(store.page_map.present_bits())
        store.request(store.page_map.pfn_of_flat(np.arange(0, store.n_pages, 40)), 0)
        earlier = store.drain(capacity=512, budget_pages=600)
        next(earlier)
        later = store.drain(capacity=512, budget_pages=2000)
        next(later)
        earlier.close()
        assert sum(len(plan) for plan in later) > 1000


class Murderous(InProcessTransport):
    """Loses the shard at every question of one kind."""

    def send(self, shard: int, frames: Frames) -> Any:
        if unpack(frames).ops[0].name == "count_ready":
            self._shards.pop(shard).close()
        return super().send(shard, frames)


def test_a_question_that_kills_the_worker_each_time_ends_the_run(tmp_path: Path) -> None:
    group = ShardGroup(Murderous(), [shard().spec])
    group.protect(tmp_path)
    with pytest.raises(RunFailedError, match="shard 0 was lost 4 times in a row in count_ready"):
        group.ask(Op("count_ready"))
    group.close()


class Stillborn(InProcessTransport):
    """Loses the worker that makes a shard."""

    def create(self, spec: ShardSpec, state: Path | None) -> None:
        raise ShardLostError(spec.shard)


class LateStarter(InProcessTransport):
    """Loses the worker of the first shard once."""

    n_lost = 0

    def create(self, spec: ShardSpec, state: Path | None) -> None:
        if not self.n_lost:
            self.n_lost = 1
            raise ShardLostError(spec.shard)
        super().create(spec, state)


def test_a_shard_whose_worker_dies_at_once_is_made_elsewhere() -> None:
    group = ShardGroup(LateStarter(), [shard().spec])
    assert group.ask(Op("count_ready")) == [0]
    group.close()


def test_a_worker_that_dies_making_its_shard_ends_the_run() -> None:
    with pytest.raises(RunFailedError, match="worker of shard 0 died while its records were allocated"):
        ShardGroup(Stillborn(), [shard().spec])


def test_a_message_that_the_log_refuses_was_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = ShardGroup(InProcessTransport(), [shard().spec])
    group.protect(tmp_path)
    group.queue(0, Op("settle"))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", full)
        with pytest.raises(RunFailedError, match="cannot write"):
            group.tell({0: [Op("last_seq")]})
    assert group.tell({0: [Op("last_seq")]})[0].seq == 1
    group.close()
