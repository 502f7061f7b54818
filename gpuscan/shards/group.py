"""All shards of a store, told in step: sequence numbers, logs, checkpoints, and shards made anew.

What a shard is told is a pure function of what it was told before, so nothing is lost with a
worker: the shard is made again elsewhere, begins with its checkpoint and is told again what its
log has. Claims that were made since are made again, the very same ones. A device that failed takes
its shard along, which is made again on the CPU, if that was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpuscan.base.errors import DeviceError, DeviceFailedError, RunFailedError
from gpuscan.files.writing import sync_path, writing_to
from gpuscan.kernels.registry import takes_over
from gpuscan.records.page_map import BLOCK_PAGES
from gpuscan.shards.log import RequestLog, log_path, remove_logs
from gpuscan.shards.messages import (
    Frames,
    Message,
    Op,
    Reply,
    ShardLostError,
    ShardScan,
    ShardSpec,
    pack,
    unpack,
)
from gpuscan.shards.transport import Transport

LOG_BYTES = 64 << 20
"""Log of a shard from which on a checkpoint takes its place; replaying as much takes about a second."""
_ATTEMPTS = 3
"""Times a shard is made anew before the run is given up: workers dying one after the other have a cause."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """A shard that was made anew.

    Attributes:
        shard: which.
        n_messages: of its log that were told again.
        took_s: from the loss being noticed to the shard being where it was.
    """

    shard: int
    n_messages: int
    took_s: float


class ShardGroup:
    """The shards of one store.

    Args:
        transport: how they are reached; closed with the group.
        specs: one for each.
        cpu_takes_over: make a shard whose device fails again on the CPU, once :meth:`protect` was called.
        on_failure: called with a sentence when that happens.

    Attributes:
        transport: as given.
        recoveries: shards made anew so far.
        device_failures: those sentences.

    Raises:
        RunFailedError: a worker died while it made its shard.
        What making a shard raises, after those made before were closed.
    """

    def __init__(
        self,
        transport: Transport,
        specs: Sequence[ShardSpec],
        *,
        cpu_takes_over: bool = False,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.transport = transport
        self.recoveries: list[Recovery] = []
        self.device_failures: list[str] = []
        self._specs = list(specs)
        self._cpu_takes_over = cpu_takes_over
        self._on_failure = on_failure
        self._seq = [0] * len(specs)
        self._why = [""] * len(specs)
        self._queued: list[list[Op]] = [[] for _ in specs]
        self._cursors: list[dict[int, int]] = [{} for _ in specs]
        self._directory: Path | None = None
        self._logs: list[RequestLog] = []
        self._log_bytes = LOG_BYTES
        try:
            for spec in specs:
                self._create(spec)
        except ShardLostError as lost:
            transport.close()
            raise RunFailedError(
                f"the worker of shard {lost.shard} died while its records were allocated; look at its log "
                "for the reason, and give more workers, or a machine with less memory"
            ) from lost
        except BaseException:
            transport.close()
            raise

    def _create(self, spec: ShardSpec) -> None:
        """Make a shard, elsewhere where its worker goes meanwhile: nothing is lost with it yet."""
        for _ in range(_ATTEMPTS - 1):
            with suppress(ShardLostError):
                self.transport.create(spec, None)
                return
        self.transport.create(spec, None)

    @property
    def n_shards(self) -> int:
        """How many."""
        return len(self._specs)

    def protect(self, directory: Path, log_bytes: int = LOG_BYTES) -> None:
        """From now on survive the loss of workers: write a checkpoint of every shard, then keep logs.

        Args:
            directory: for both; its parent is there; the same one for this process and all workers, and
                for no other run at the same time. What an earlier run left there counts no more.
            log_bytes: log of a shard from which on a checkpoint takes its place.

        Raises:
            InputError: what gpuscan did not write has a name that is needed there, or a run is at work there.
            RunFailedError: something cannot be written there.
        """
        self._directory, self._log_bytes = directory, log_bytes
        if not directory.is_dir():
            with writing_to(directory):
                directory.mkdir(exist_ok=True)
                sync_path(directory.parent)
        # No log before every checkpoint is there: until then a shard can only be restored as an
        # earlier run left it, and who takes over could be told an earlier run's messages.
        with writing_to(directory):
            remove_logs(directory, self.n_shards)
        for shard, seq in self._write_states(range(self.n_shards)).items():
            log = RequestLog(log_path(directory, shard))
            self._logs.append(log)
            log.begin_after(seq)

    def take_over(self, directory: Path, log_bytes: int = LOG_BYTES) -> None:
        """Make shards that were told nothing yet what those of an engine that died were, and protect them.

        Args:
            directory: of the :meth:`protect` of that engine, whose shards had the same cuts and the same kind
                of device: another one ends full plans at other pages, and the log does not say where.
            log_bytes: as there.

        Raises:
            CheckpointError, RunFailedError: a checkpoint or a log is damaged, of other shards, or not there;
                so it is where that engine died before :meth:`protect` returned.
        """
        self._directory, self._log_bytes = directory, log_bytes
        for shard in range(self.n_shards):
            self._logs.append(RequestLog(log_path(directory, shard), must_exist=True))
        for shard, log in enumerate(self._logs):
            self._seq[shard], _ = self._recover(shard)
            if log.last_seq < self._seq[shard]:
                log.begin_after(self._seq[shard])

    def queue(self, shard: int, op: Op) -> None:
        """Let a shard do something before what it is told next; nobody waits for the result."""
        self._queued[shard].append(op)

    def tell(self, ops: Mapping[int, Sequence[Op]]) -> dict[int, Reply]:
        """Let shards do something, side by side; return the replies, which have the results of ``ops`` alone.

        Raises:
            RunFailedError: a worker was lost, and its shard cannot be made anew.
        """
        tickets: dict[int, Any] = {}
        n_queued: dict[int, int] = {}
        for shard, wanted in ops.items():
            seq, before = self._seq[shard] + 1, self._queued[shard]
            n_queued[shard] = len(before)
            frames = pack(Message(seq, (*before, *wanted)))
            if self._logs:
                self._logs[shard].append(seq, frames)
            self._seq[shard], self._queued[shard] = seq, []  # only now: the log may have refused
            tickets[shard] = self._send(shard, frames)
        replies = {}
        for shard, ticket in tickets.items():
            reply = self._receive(shard, ticket) or self._recover(shard)[1]
            if reply is None or reply.seq != self._seq[shard]:
                raise RunFailedError(
                    f"shard {shard} answered message {None if reply is None else reply.seq}, not "
                    f"{self._seq[shard]}; this is a bug in gpuscan, report it"
                )
            results = reply.results[n_queued[shard] :]
            if self._logs:
                self._note_cursors(shard, results)
            replies[shard] = Reply(reply.seq, results, reply.active_nids)
        return replies

    def ask(self, op: Op) -> list[Any]:
        """Ask every shard the same, side by side, after all that was queued.

        Raises:
            RunFailedError: as :meth:`tell`.
        """
        return self.ask_each(dict.fromkeys(range(self.n_shards), op))

    def ask_each(self, ops: Mapping[int, Op]) -> list[Any]:
        """Ask shards, side by side, after all that was queued for any.

        Raises:
            RunFailedError: as :meth:`tell`.
        """
        waiting = [shard for shard in range(self.n_shards) if self._queued[shard]]
        for reply in self.tell(dict.fromkeys(waiting, ())).values():
            assert not reply.active_nids  # nothing that is queued makes a page READY
        return [results[0] for results in self._question(ops)]

    def at_rest(self) -> None:
        """Say that no ranking is under way, which checkpoints lack: they take the place of full logs now.

        Raises:
            RunFailedError: a checkpoint cannot be written.
        """
        full = [shard for shard, log in enumerate(self._logs) if log.n_bytes > self._log_bytes]
        if full:
            self._checkpoint(full)

    def begin_logs_anew(self) -> None:
        """Write checkpoints of all shards in place of their logs: these tell of what will not stay.

        Raises:
            RunFailedError: a checkpoint cannot be written.
        """
        if self._logs:
            self._checkpoint(range(self.n_shards))

    def close(self) -> None:
        """Let go of the shards. Idempotent."""
        for log in self._logs:
            log.close()
        self._logs.clear()
        self.transport.close()

    def _question(self, ops: Mapping[int, Op]) -> list[tuple[Any, ...]]:
        tickets: dict[int, Any] = {}
        for shard, op in ops.items():
            tickets[shard] = self._send_question(shard, op)
        answers = []
        for shard, ticket in tickets.items():
            reply = self._receive(shard, ticket)
            for _ in range(_ATTEMPTS):
                if reply is not None:
                    break
                self._recover(shard)
                reply = self._receive(shard, self._send_question(shard, ops[shard]))
            if reply is None:
                raise RunFailedError(
                    f"shard {shard} was lost {_ATTEMPTS + 1} times in a row in {ops[shard].name} "
                    f"({self._why[shard]}); look at the logs of the workers for the reason (out of memory?)"
                )
            answers.append(reply.results)
        return answers

    def _send_question(self, shard: int, op: Op) -> Any:
        return self._send(shard, pack(Message(None, (op,), self._seq[shard])))

    def _send(self, shard: int, frames: Frames) -> Any:
        """Return the ticket, None where the shard was lost."""
        ticket: Any = None
        with self._losses(shard):
            ticket = self.transport.send(shard, frames)
        return ticket  # noqa: RET504 (the block may be left without one)

    def _receive(self, shard: int, ticket: Any) -> Reply | None:
        """Return the reply, None where the shard was lost."""
        reply: Reply | None = None
        if ticket is not None:
            with self._losses(shard):
                reply = unpack(self.transport.receive(ticket))
        return reply

    @contextmanager
    def _losses(self, shard: int) -> Iterator[None]:
        """Leave the block where it loses a shard, or its device fails and the CPU may take over.

        Raises:
            DeviceFailedError: it may not.
        """
        try:
            yield
        except ShardLostError as lost:
            self._why[shard] = lost.why
        except (DeviceError, DeviceFailedError) as error:
            sentence = self._why[shard] = f"shard {shard}: {error}"
            if not (self._cpu_takes_over and self._logs) or self._specs[shard].device == takes_over():
                raise DeviceFailedError(sentence) from error
            self._specs[shard] = replace(self._specs[shard], device=takes_over())
            sentence += ": the CPU went on from its checkpoint and log"
            self.device_failures.append(sentence)
            if self._on_failure is not None:
                self._on_failure(sentence)

    def _checkpoint(self, shards: Sequence[int]) -> None:
        for shard, seq in self._write_states(shards).items():
            self._logs[shard].cut(seq)
            self._cursors[shard].clear()

    def _write_states(self, shards: Sequence[int]) -> dict[int, int]:
        """Write checkpoints; return the last message in each."""
        written = self._question({shard: Op("checkpoint", (self._state_of(shard),)) for shard in shards})
        return {shard: seq for shard, (seq,) in zip(shards, written, strict=True)}

    def _state_of(self, shard: int) -> Path:
        assert self._directory is not None
        return self._directory / f"shard-{shard}"

    def _recover(self, shard: int) -> tuple[int, Reply | None]:
        """Make a shard anew and tell it again what its log has.

        Returns:
            The number of the last message it has seen, and its reply, None where the log has none.
        """
        if not self._logs:
            why = f" ({self._why[shard]})" if self._why[shard] else ""
            raise RunFailedError(
                f"the worker of shard {shard} died before the first checkpoint of its shard, so its records "
                f"are gone{why}; run again, with fewer workers or a smaller machine if memory ran out, or go "
                "on with 'gpuscan resume' if the run has a --checkpoint"
            )
        started = time.perf_counter()
        for _ in range(_ATTEMPTS):
            with self._losses(shard):
                self.transport.create(self._specs[shard], self._state_of(shard))
                (seen,) = unpack(self._told(shard, pack(Message(None, (Op("last_seq"),))))).results
                reply: Reply | None = None
                n_messages = 0
                for seq, frames in self._logs[shard].after(seen):
                    reply = unpack(self._told(shard, self._as_it_went(shard, seq, frames)))
                    n_messages += 1
                self.recoveries.append(Recovery(shard, n_messages, time.perf_counter() - started))
                return seen + n_messages, reply
        raise RunFailedError(
            f"shard {shard} was lost {_ATTEMPTS} times in a row ({self._why[shard]}); look at the logs of "
            f"the workers for the reason; its checkpoint and log are in {self._directory}"
        )

    def _note_cursors(self, shard: int, results: Sequence[Any]) -> None:
        for result in results:
            if isinstance(result, ShardScan):
                self._cursors[shard][self._seq[shard]] = result.cursor

    def _as_it_went(self, shard: int, seq: int, frames: Frames) -> Frames:
        """Return a message whose scan is bounded by where it ended, not by how many folios it may claim.

        Backends end a plan that is full at different pages, and the shard may have another one now.
        """
        cursor = self._cursors[shard].get(seq)
        if cursor is None:  # no scan, or nobody knows what it claimed
            return frames
        message: Message = unpack(frames)
        ops = []
        for op in message.ops:
            if op.name == "scan":
                lo, _, _, *how = op.args
                op = Op("scan", (lo, cursor, max(cursor - lo, BLOCK_PAGES), *how))
            ops.append(op)
        return pack(replace(message, ops=tuple(ops)))

    def _told(self, shard: int, frames: Any) -> Any:
        return self.transport.receive(self.transport.send(shard, frames))
