"""Shards on the workers of a Dask cluster: one long-lived actor for each, for the whole run.

Facts about Dask distributed that shape this module (2024.8 to 2026.8):

- an actor dies with its worker and is not made again (docs, "Actors", "No Resilience");
- a client reaches actors through the scheduler unless ``direct_to_workers`` is set (``Actor._worker_rpc``);
- a call to a dead worker may wait for the scheduler to make the actor's task again
  (``Actor.__getattr__``), so waiting here looks at the list of workers now and then;
- ``memory_limit`` makes a nanny kill a worker that holds much, which a worker with a shard does.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from gpuscan.base.allocator import keep_freed_memory
from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.base.installing import install_command
from gpuscan.base.memory import available_bytes
from gpuscan.base.units import format_bytes, format_number
from gpuscan.files.scratch import scratch_directory
from gpuscan.shards.joining import joining_security, scheduler_address
from gpuscan.shards.messages import Frames, ShardLostError, ShardSpec, n_bytes, pack, unpack
from gpuscan.shards.shard import Shard
from gpuscan.shards.transport import Traffic

_LOOK_EVERY_S = 0.5
"""Pause between two looks at the list of workers while a reply is waited for."""
_REPLACED_WITHIN_S = 20.0
"""How long a lost worker's successor is waited for (a nanny starts one in 2 to 5 s) before the shard goes
to a worker that has one already."""
_LOST_WORKER_TIMEOUT = "distributed.deploy.lost-worker-timeout"
"""15 s after a worker was lost ``SpecCluster._update_worker_status`` ends its nanny if no worker of that
name is there at that moment: one that was lost twice in between would not come back."""
_JOIN_TIMEOUT_S = 30.0
"""How long a scheduler is waited for, its file, and the next worker, where not all have registered yet."""
_WORKERS_PER_CPU = 4
_WORKER_BYTES = 150 << 20
"""Memory of its own that a worker takes, about: 144 MB (Pss) with a shard of 1 GiB, 1 MiB of it records."""


class ShardActor:
    """What lives on a worker: a shard, and the packing of what goes to and fro.

    The worker keeps memory that it has freed: a call of 1 M requests took 26 ms instead of 41, with 12 MB
    of arrays that were faulted in anew each time (Zen 4).
    """

    def __init__(self, state: str | None, *spec: Any) -> None:
        keep_freed_memory()
        self._shard = Shard(unpack(spec), None if state is None else Path(state))

    def handle(self, *frames: Any) -> Frames:
        """Do what a packed message says; return the packed reply."""
        return pack(self._shard.handle(unpack(frames)))

    def close(self) -> None:
        """Free the shard."""
        self._shard.close()


class _Placed(NamedTuple):
    """A shard on a worker. The actor lives as long as somebody has its future."""

    actor: Any
    future: Any
    address: str


class DaskTransport:
    """Shards on the workers of a cluster.

    Args:
        client: a ``distributed.Client`` made with ``direct_to_workers=True``.
        where: what to call the cluster, for people.
        replaces_workers: whether a worker that dies gets a successor.
    """

    def __init__(self, client: Any, where: str, *, replaces_workers: bool = True) -> None:
        self.traffic = Traffic()
        self._client = client
        self._where = where
        self._replaced_within_s = _REPLACED_WITHIN_S if replaces_workers else 0.0
        self._n_expected = self.n_workers()
        self._actors: dict[int, _Placed] = {}

    def create(self, spec: ShardSpec, state: Path | None) -> None:
        """Make a shard on the worker that has the fewest; a free one that is about to come is waited for."""
        self._actors.pop(spec.shard, None)  # else the scheduler goes on trying to make a lost actor again
        address = self._free_worker(spec.shard)
        frames = pack(spec)
        self._count(sent=frames)
        made = self._client.submit(
            ShardActor,
            None if state is None else str(state),
            *frames,
            actor=True,
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        while True:
            try:
                self._actors[spec.shard] = _Placed(made.result(timeout=_LOOK_EVERY_S), made, address)
                return
            except TimeoutError:
                if address not in self._workers():
                    raise ShardLostError(spec.shard) from None
            except Exception as error:
                # A future that is cancelled while it is waited for, whatever its status says then, can end in
                # an UnboundLocalError of distributed.utils.sync(), which catches no CancelledError (2026.8).
                lost = ("KilledWorker", "FutureCancelledError", "CancelledError", "UnboundLocalError")
                if made.status in ("cancelled", "lost") or type(error).__name__ in lost:
                    raise ShardLostError(spec.shard) from None
                raise

    def send(self, shard: int, frames: Frames) -> Any:
        """Hand a message to the worker that has the shard."""
        if shard not in self._actors:
            raise ShardLostError(shard)
        actor = self._actors[shard].actor
        self.traffic.n_calls += 1
        self._count(sent=frames)
        try:
            with self._client.as_current():  # a proxy finds its client that way
                return shard, actor.handle(*frames)
        except RuntimeError:  # "Worker holding Actor was lost"
            raise ShardLostError(shard) from None

    def receive(self, ticket: Any) -> Frames:
        """Wait for the reply."""
        shard, reply = ticket
        placed = self._actors[shard]
        while True:
            try:
                frames: Frames = reply.result(timeout=_LOOK_EVERY_S)
                break
            except TimeoutError:
                if placed.future.status != "finished" or placed.address not in self._workers():
                    raise ShardLostError(shard) from None
            except OSError as error:  # "Unable to contact Actor's worker"; one of the shard's own is rare
                raise ShardLostError(shard, f"{type(error).__name__}: {error}") from None
        self._count(received=frames)
        return frames

    def n_workers(self) -> int:
        """Return how many workers there are now."""
        return len(self._workers())

    def describe(self) -> str:
        """Return how many workers there are and where."""
        n_workers = self.n_workers()
        return f"on {n_workers} worker{'s' * (n_workers != 1)} of {self._where}"

    def close(self) -> None:
        """Free the shards. The cluster is its owner's."""
        closing = []
        for placed in self._actors.values():
            with suppress(Exception), self._client.as_current():  # a worker that is gone has nothing to free
                closing.append(placed.actor.close())
        for waiting in closing:
            with suppress(Exception):
                waiting.result(timeout=_LOOK_EVERY_S)
        self._actors.clear()

    def _workers(self) -> set[str]:
        try:
            return _workers_of(self._client)
        except OSError as error:
            raise RunFailedError(
                f"the scheduler of {self._where} does not answer ({error}); look whether it runs, and "
                "resume the run from its last checkpoint"
            ) from error

    def _free_worker(self, shard: int) -> str:
        """Return the address of a worker without a shard, or of the one that has the fewest."""
        deadline = time.monotonic() + self._replaced_within_s
        while True:
            alive = self._workers()
            n_shards = dict.fromkeys(sorted(alive), 0)
            for placed in self._actors.values():
                if placed.address in n_shards:
                    n_shards[placed.address] += 1
            best = min(n_shards, key=lambda address: n_shards[address], default=None)
            nobody_is_missing = len(alive) >= self._n_expected
            if best is not None and (n_shards[best] == 0 or nobody_is_missing or time.monotonic() > deadline):
                return best
            if best is None and time.monotonic() > deadline:
                raise RunFailedError(f"{self._where} has no worker for shard {shard}; start some")
            time.sleep(0.05)

    def _count(self, *, sent: Frames | None = None, received: Frames | None = None) -> None:
        self.traffic.sent_bytes += n_bytes(sent or [])
        self.traffic.received_bytes += n_bytes(received or [])


class LocalShards(NamedTuple):
    """A cluster of this machine's own, and a place for checkpoints and logs that goes with it."""

    transport: DaskTransport
    scratch: Path


@contextmanager
def local_cluster(n_workers: int) -> Iterator[LocalShards]:
    """Yield a cluster of this machine's own; whatever ends the block, nothing of it is left.

    Workers are processes, everything listens on sockets that are files in a directory of ours
    (:mod:`gpuscan.shards.unix_comm`), and what they write goes there; it is removed. Where SIGKILL ends
    this process, its workers see a pipe closed and exit (``AsyncProcess._immediate_exit_when_closed``),
    and the next cluster removes the directory.

    Args:
        n_workers: processes.

    Raises:
        InputError: Dask is not installed, or so many workers are too many for this machine.
        RunFailedError: the workers do not start.
    """
    check_workers(n_workers)
    distributed = _distributed()
    from gpuscan.shards.local import cluster_spec

    try:
        with (
            scratch_directory("shards") as scratch,
            _quiet(),
            _configured({"temporary-directory": str(scratch), _LOST_WORKER_TIMEOUT: "1000 days"}),
            distributed.SpecCluster(
                **cluster_spec(n_workers, scratch), silence_logs=logging.CRITICAL
            ) as cluster,
            distributed.Client(cluster, direct_to_workers=True, set_as_default=False) as client,
        ):
            transport = DaskTransport(client, "this machine")
            try:
                yield LocalShards(transport, scratch / "shards")
            finally:
                transport.close()
    finally:
        gc.collect()  # nannies of lost workers left named semaphores in cycles


def check_workers(n_workers: int) -> None:
    """Refuse more processes than this machine has CPUs and memory for.

    Raises:
        InputError: they would be too many.
    """
    n_cpus, free_bytes = len(os.sched_getaffinity(0)), available_bytes()
    most = max(1, min(_WORKERS_PER_CPU * n_cpus, free_bytes // _WORKER_BYTES))
    if n_workers > most:
        raise InputError(
            f"{n_workers:,} workers are too many for {format_number(n_cpus, 'CPU')} and "
            f"{format_bytes(free_bytes)} of memory available; give up to {most}, or a --cluster of more hosts"
        )


@contextmanager
def joined_cluster(
    given: str, n_workers: int | None = None, *, without_tls: bool = False
) -> Iterator[DaskTransport]:
    """Yield a transport to a cluster that runs already, or is about to; its workers need gpuscan, and stay.

    Args:
        given: address of its scheduler, ``tls://host:8786``, or the path of a scheduler file (``*.json``),
            which may not be there yet.
        n_workers: to wait for; by default those that there are once there is one.
        without_tls: whether one without TLS may be joined.

    Raises:
        InputError: Dask is not installed, nobody answers there, or it is not to be trusted
            (:mod:`gpuscan.shards.joining`).
        RunFailedError: no worker came, or not as many as that.
    """
    distributed = _distributed()
    address = scheduler_address(given, without_tls=without_tls, timeout_s=_JOIN_TIMEOUT_S)
    try:
        client = distributed.Client(
            address,
            security=joining_security(address),
            direct_to_workers=True,
            set_as_default=False,
            timeout=_JOIN_TIMEOUT_S,
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address} ({error}); give its address, for example tls://host:8786"
        ) from None
    with client:
        where = f"the cluster at {given}"
        _wait_for_workers(client, where, n_workers)
        transport = DaskTransport(client, where)
        try:
            yield transport
        finally:
            transport.close()


def _wait_for_workers(client: Any, where: str, n_workers: int | None) -> None:
    """Wait for so many workers, one by default, as long as they keep coming."""
    n_here, deadline = len(_workers_of(client)), time.monotonic() + _JOIN_TIMEOUT_S
    while n_here < (n_workers or 1):
        if time.monotonic() > deadline:
            if not n_here:
                raise RunFailedError(f"{where} has no worker; start some")
            raise RunFailedError(
                f"{where} has {n_here} of {n_workers} workers, and no other came in {_JOIN_TIMEOUT_S:g} s; "
                "start more, or ask for fewer"
            )
        time.sleep(0.05)
        n_before, n_here = n_here, len(_workers_of(client))
        if n_here > n_before:
            deadline = time.monotonic() + _JOIN_TIMEOUT_S


def _workers_of(client: Any) -> set[str]:
    """Return the addresses of the workers, as the scheduler knows them now.

    ``Client.scheduler_info()`` returns what a timer of the client's may have replaced meanwhile, every two
    seconds, by a description without workers (2026.8); then all of them seem to be lost.
    """
    return set(client.sync(client.scheduler.identity)["workers"])


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise InputError(
            f"shards on workers need Dask distributed: {install_command('cluster', 'distributed')}"
        ) from None
    return distributed


def _configured(settings: dict[str, Any]) -> Any:
    import dask

    return dask.config.set(settings)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Dask say nothing: a worker that dies is gpuscan's to report, and so is an interrupt."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
