"""Shards on Dask workers: loopback only, nothing left behind, nothing lost with a worker that is killed."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dask
import pytest
from distributed import LocalCluster
from distributed.security import Security

from effort import share_of
from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.checkpoint.directory import generations
from gpuscan.cli.output import Output
from gpuscan.cli.shards import open_shards
from gpuscan.engine.tick import RunReport
from gpuscan.kernels.registry import Device
from gpuscan.run.request import RunRequest
from gpuscan.shards import dask_transport, joining
from gpuscan.shards.dask_transport import DaskTransport, ShardActor, joined_cluster, local_cluster
from gpuscan.shards.messages import ShardLostError, ShardSpec, pack
from gpuscan.shards.sharded_store import ShardedStore
from gpuscan.store.plan import Plan
from processes import family, listening, worker_pids
from sharded_runs import assert_same_run, machine, run, single

N_RUNS, N_ENGINES = share_of(5, at_least=2), share_of(3)
"""With ten killed workers each; engines that are killed."""


@pytest.fixture(scope="module")
def certified() -> Iterator[str]:
    """Yield the address of a cluster over TLS; Dask is configured to join it, here and in children."""
    secured = Security.temporary()
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        settings = {}
        for field, key in joining._TLS.items():
            file = Path(place) / field
            file.write_text(getattr(secured, field))
            settings[key] = str(file)
            patch.setenv("DASK_" + key.upper().replace(".", "__").replace("-", "_"), str(file))
        with (
            dask.config.set(settings),
            LocalCluster(
                n_workers=3,
                threads_per_worker=1,
                memory_limit=0,
                security=secured,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
            ) as cluster,
        ):
            yield cluster.scheduler_address


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[DaskTransport]:
    with local_cluster(3) as (transport, _):  # one more than most stores here have shards
        yield transport


@pytest.fixture
def cluster(shared_cluster: DaskTransport) -> DaskTransport:
    """Return the cluster once all its workers are there: a worker that a test killed comes back after it."""
    client = shared_cluster._client
    deadline = time.monotonic() + 60
    while {nanny.pid for nanny in client.cluster.workers.values()} != set(
        client.run(os.getpid, on_error="ignore").values()
    ):
        assert time.monotonic() < deadline, "a worker that was killed has not come back"
        time.sleep(0.02)
    return shared_cluster


class Killer:
    """Kills the worker of a random shard at random ticks, at a random moment from the tick's beginning on."""

    def __init__(self, transport: DaskTransport, seed: int, ticks: set[int]) -> None:
        self._transport = transport
        self._random = random.Random(seed)
        self._ticks = ticks
        self._tick = -1
        self.n_killed = 0

    def before_tick(self) -> None:
        self._tick += 1
        if self._tick not in self._ticks:
            return
        addresses = {placed.address for placed in self._transport._actors.values()}
        nannies = self._transport._client.cluster.workers.values()
        owners = [nanny.pid for nanny in nannies if nanny.worker_address in addresses]
        pid = self._random.choice(sorted(owners))
        self.n_killed += 1
        delay_s = self._random.choice([0.0, self._random.uniform(0.0, 0.03)])
        if delay_s:
            threading.Timer(delay_s, os.kill, (pid, signal.SIGKILL)).start()
        else:
            os.kill(pid, signal.SIGKILL)


def disturbed(
    transport: DaskTransport, place: Path, n_ticks: int, seed: int, ticks: set[int], log_bytes: int
) -> tuple[tuple[RunReport, list[Plan]], Killer]:
    killer = Killer(transport, seed, ticks)
    store = ShardedStore(machine(), device="cpu", n_shards=2, transport=transport, n_threads=1)
    store.load_pages(store.page_map.present_bits())
    store.protect(place, log_bytes)
    found = run(store, n_ticks, seed, killer.before_tick)
    store.group._logs.clear()  # the transport outlives this store
    return found, killer


def test_nothing_listens_on_a_network(cluster: DaskTransport) -> None:
    assert listening(family(os.getpid())) == []
    sockets = Path(unquote(cluster._client.scheduler.address.partition("://")[2].rpartition(":")[0]))
    assert len(list(sockets.iterdir())) >= 7, "scheduler, three workers and their nannies"
    assert stat.S_IMODE(sockets.stat().st_mode) == stat.S_IMODE(sockets.parent.stat().st_mode) == 0o700


def test_a_run_over_a_network_is_that_of_a_single_store(cluster: DaskTransport) -> None:
    store = ShardedStore(machine(), device="cpu", n_shards=3, transport=cluster, n_threads=1)
    store.load_pages(store.page_map.present_bits())
    sharded = run(store, 4, seed=1)
    assert_same_run(sharded, single(4, seed=1))
    assert sharded[0].device == "cpu"
    assert sharded[0].device_reason.endswith("3 shards on 3 workers of this machine")
    assert all(tick.network_calls >= 3 and tick.network_bytes > 20_000 for tick in sharded[0].ticks)
    cluster.close()


def test_all_workers_are_seen_whatever_the_client_asks_of_its_own(cluster: DaskTransport) -> None:
    """A worker that is not seen is taken for lost, and its shard with it."""
    client = cluster._client
    timer = client._periodic_callbacks["scheduler-info"]

    async def set_period(period_ms: float) -> None:
        timer.stop()
        timer.callback_time = period_ms
        timer.start()

    usual_ms = timer.callback_time
    client.sync(set_period, 1)
    try:
        assert {cluster.n_workers() for _ in range(3000)} == {3}
    finally:
        client.sync(set_period, usual_ms)


def test_a_cluster_that_runs_already_is_joined_and_stays(certified: str) -> None:
    address = certified
    with joined_cluster(address) as joined:
        assert joined.describe() == f"on 3 workers of the cluster at {address}"
        with ShardedStore(machine(1), device="cpu", n_shards=2, transport=joined, n_threads=1) as store:
            store.load_pages(store.page_map.present_bits())
            assert_same_run(run(store, 2, seed=5), single(2, 5, machine(1)))
    with joined_cluster(address) as joined:
        assert joined.n_workers() == 3


def test_nobody_there_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_transport, "_JOIN_TIMEOUT_S", 0.2)
    with (
        pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1 "),
        joined_cluster("tcp://127.0.0.1:1", without_tls=True),
    ):
        pass


def test_a_scheduler_file_is_waited_for(
    certified: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "dask.json"
    text = json.dumps({"type": "Scheduler", "address": certified})
    place.write_text(text[:30])
    writing = threading.Timer(0.3, place.write_text, (text,))
    writing.start()
    with joined_cluster(str(place)) as joined:
        assert joined.describe() == f"on 3 workers of the cluster at {place}"
    writing.join()
    monkeypatch.setattr(dask_transport, "_JOIN_TIMEOUT_S", 0.2)
    with (
        pytest.raises(
            InputError, match=r"no Dask scheduler has written /nowhere/dask.json in 0.2 s; start one"
        ),
        joined_cluster("/nowhere/dask.json"),
    ):
        pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, "is a FIFO, not a file"),
        (Path.mkdir, "is a directory, not a file"),
        (lambda path: path.write_bytes(b" " * (2 << 20)), "is larger than it can be"),
        (lambda path: path.write_text('{"address": ' + "[" * 30 + "]" * 30 + "}"), "is nested more than"),
        (
            lambda path: path.write_text('{"address": "a:1", "address": "b:1"}'),
            "names the key 'address' twice",
        ),
    ],
)
def test_what_is_no_scheduler_file_is_not_waited_for(
    make: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    place = tmp_path / "dask.json"
    make(place)
    with pytest.raises(InputError, match=says):
        joining.scheduler_address(str(place), without_tls=False, timeout_s=30)


def test_as_many_workers_as_were_asked_for_are_waited_for(
    certified: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = certified
    with open_shards(RunRequest(workers=2, cluster=address), Output(False, quiet=True)) as sharding:
        assert sharding is not None
        assert sharding.n_shards == 2
    with open_shards(RunRequest(cluster=address), Output(False, quiet=True)) as sharding:
        assert sharding is not None
        assert sharding.n_shards == 3
    monkeypatch.setattr(dask_transport, "_JOIN_TIMEOUT_S", 0.2)
    with (
        pytest.raises(RunFailedError, match=r"has 3 of 9 workers, and no other came in 0.2 s; start more"),
        joined_cluster(address, 9),
    ):
        pass


class Growing:
    """A cluster whose workers register one after the other."""

    def __init__(self, n_looks_each: int, n_at_most: int) -> None:
        self.n_looks, self._n_looks_each, self._n_at_most = 0, n_looks_each, n_at_most
        self.scheduler = self

    def identity(self) -> dict[str, Any]:
        self.n_looks += 1
        n = min(self.n_looks // self._n_looks_each, self._n_at_most)
        return {"workers": {f"tcp://{number}": {} for number in range(n)}}

    def sync(self, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return call()


class Cancelled(Growing):
    """A cluster on which an actor's future is cancelled while it is waited for."""

    status = "pending"  # as it may be at that moment

    def submit(self, *_: Any, **__: Any) -> Cancelled:
        return self

    def result(self, timeout: float) -> Any:
        raise UnboundLocalError("cannot access local variable 'result'")  # distributed.utils.sync()


def test_an_actor_that_is_cancelled_while_it_is_made_is_a_lost_one() -> None:
    transport = DaskTransport(Cancelled(1, 2), "the cluster")
    with pytest.raises(ShardLostError):
        transport.create(ShardSpec(0, 1, machine(), 0, 4, "rfc", "cpu", None, False, 1), None)


def test_workers_are_waited_for_as_long_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_transport, "_JOIN_TIMEOUT_S", 0.4)
    growing = Growing(3, 5)
    dask_transport._wait_for_workers(growing, "the cluster", 5)
    assert growing.n_looks == 15
    growing = Growing(3, 5)
    dask_transport._wait_for_workers(growing, "the cluster", None)
    assert growing.n_looks == 3
    with pytest.raises(RunFailedError, match=r"^the cluster has no worker; start some$"):
        dask_transport._wait_for_workers(Growing(3, 0), "the cluster", None)
    with pytest.raises(RunFailedError, match=r"^the cluster has 2 of 4 workers"):
        dask_transport._wait_for_workers(Growing(3, 2), "the cluster", 4)


@pytest.mark.slow
def test_a_worker_is_killed_and_nothing_is_lost(cluster: DaskTransport, tmp_path: Path) -> None:
    found, killer = disturbed(cluster, tmp_path / "shards", 5, seed=2, ticks={2, 3}, log_bytes=1 << 16)
    assert killer.n_killed == len(found[0].recovery_s) == 2
    assert_same_run(found, single(5, seed=2))
    cluster.close()


def test_without_a_checkpoint_a_lost_worker_ends_the_run(cluster: DaskTransport) -> None:
    store = ShardedStore(machine(), device="cpu", n_shards=2, transport=cluster, n_threads=1)
    store.load_pages(store.page_map.present_bits())
    with pytest.raises(RunFailedError, match=r"worker of shard \d died before the first checkpoint"):
        run(store, 5, seed=3, before_tick=Killer(cluster, 3, {1}).before_tick)
    cluster.close()


def protected(cluster: DaskTransport, place: Path, device: Device, **options: Any) -> ShardedStore:
    store = ShardedStore(machine(1), device=device, n_shards=2, transport=cluster, n_threads=1, **options)
    store.load_pages(store.page_map.present_bits())
    store.protect(place)
    return store


def test_an_actor_that_was_made_again_at_the_same_address_is_found_out(
    cluster: DaskTransport, tmp_path: Path
) -> None:
    store = protected(cluster, tmp_path / "shards", "cpu")
    n_ticks = 0

    def make_again() -> None:
        nonlocal n_ticks
        n_ticks += 1
        if n_ticks == 2:
            placed = cluster._actors[1]
            spec = pack(store.group._specs[1])
            made = cluster._client.submit(
                ShardActor, None, *spec, actor=True, workers=[placed.address], pure=False
            )
            cluster._actors[1] = placed._replace(actor=made.result(), future=made)

    found = run(store, 3, 6, make_again)
    assert len(found[0].recovery_s) == 1
    assert_same_run(found, single(3, 6, machine(1)))
    cluster.close()


def test_a_device_that_fails_at_a_worker_is_replaced_by_the_cpu(
    cluster: DaskTransport, tmp_path: Path
) -> None:
    def let_fail() -> None:  # in the workers: only what is pickled by value reaches them
        from gpuscan.base.errors import DeviceFailedError
        from gpuscan.shards.shard import Shard

        do = Shard._do

        def fails(self: Any, message: Any) -> Any:
            if self.spec.device != "cpu" and self.spec.shard == 1 and (message.seq or 0) > 9:
                raise DeviceFailedError("the device cuda failed in scan (DriverLostError: gone)")
            return do(self, message)

        Shard._do, Shard._whole = fails, do  # type: ignore[method-assign, attr-defined]

    def mend() -> None:
        from gpuscan.shards.shard import Shard

        Shard._do = Shard._whole  # type: ignore[method-assign, attr-defined]

    cluster._client.run(let_fail)
    try:
        found = run(store := protected(cluster, tmp_path / "shards", "auto", cpu_takes_over=True), 3, 6)
    finally:
        cluster._client.run(mend)
    assert_same_run(found, single(3, 6, machine(1)))
    (sentence,) = store.device_failures()
    assert sentence.startswith(
        "shard 1: the device cuda failed in scan (DriverLostError: gone): the CPU went"
    )
    cluster.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what a run without workers says."""
    out, _ = gpuscan(tmp_path_factory.mktemp("alone"), "--ticks", "6", "--quiet").communicate()
    return json.loads(out)


@pytest.fixture(autouse=True, scope="module")
def _interrupts_arrive() -> Any:
    """Let children have SIGINT where a shell ignored it for what it started in the background."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def gpuscan(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run of a small workload in a process group of its own, as a terminal does."""
    return command(place, "run", "cxl-promote", "--memory", "1GiB", "--json", *arguments)


def command(place: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gpuscan", *arguments]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(place)},
        process_group=0,
    )


def gone(pids: list[int]) -> bool:
    """Wait until processes have gone, and say whether they have."""
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def nothing_is_left(place: Path, pids: list[int]) -> bool:
    """Wait until processes have gone, and say whether they and what they wrote have."""
    return gone(pids) and not list(place.iterdir())


@pytest.mark.slow
def test_a_run_with_workers_says_what_one_without_says(alone: Any, tmp_path: Path) -> None:
    with_workers = gpuscan(tmp_path, "--ticks", "6", "--workers", "2", "--quiet")
    pids = {with_workers.pid}
    while with_workers.poll() is None:
        pids |= set(family(with_workers.pid))
        time.sleep(0.05)
    out, err = with_workers.communicate()
    assert (with_workers.returncode, err) == (0, "")
    assert len(pids) >= 3
    assert nothing_is_left(tmp_path, list(pids))
    sharded = json.loads(out)
    assert sharded["ledger"] == alone["ledger"]
    assert sharded["summary"]["network_calls"] > 0 == alone["summary"]["network_calls"]
    assert sharded["device"]["reason"].endswith("2 shards on 2 workers of this machine")


@pytest.mark.slow
@pytest.mark.parametrize("signalled", ["group", "process"])
def test_an_interrupt_leaves_nothing(tmp_path: Path, signalled: str) -> None:
    process = gpuscan(tmp_path, "--ticks", "1000000", "--workers", "2")
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "ticks" in line:
            break
    pids = family(process.pid)
    assert len(worker_pids(process.pid)) == 2, lines
    assert list(tmp_path.iterdir())
    if signalled == "group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err, err
    assert nothing_is_left(tmp_path, pids)


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(worker_pids())
    pids: list[int] = []

    def fail() -> None:
        with local_cluster(1) as (_, scratch):
            pids.extend(set(worker_pids()) - before)
            assert scratch.parent.parent == tmp_path
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(pids) == 1
    assert nothing_is_left(tmp_path, pids)


def semaphores_of(pids: Iterable[int]) -> set[Path]:
    """Return the files of semaphores that these processes have mapped, not those of tests that run beside."""
    mapped: set[int] = set()
    for pid in pids:
        with suppress(OSError):  # it has ended
            # By inode: the maker has it mapped under the name that sem_open(3) gave it first.
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            mapped.update(int(line.split()[4]) for line in lines if "/sem." in line)
    found = set()
    for file in Path("/dev/shm").glob("sem.*"):
        with suppress(FileNotFoundError):
            if file.stat().st_ino in mapped:
                found.add(file)
    return found


def removed(files: set[Path]) -> bool:
    """Wait until files are not there any more, and say whether they are not."""
    deadline = time.monotonic() + 30
    while any(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(file.exists() for file in files)


def kill_after(engine: subprocess.Popen[str], state: Path, generation: int) -> tuple[list[int], set[Path]]:
    """Send SIGKILL to an engine once it has written a checkpoint; return its processes and semaphores."""
    while engine.poll() is None and not (state / f"checkpoint-{generation:08}").exists():
        time.sleep(0.005)
    pids = family(engine.pid)
    semaphores = semaphores_of(pids)
    engine.kill()
    _, err = engine.communicate()
    assert engine.returncode == -signal.SIGKILL, err
    return pids, semaphores


@pytest.mark.slow
def test_an_engine_that_is_killed_leaves_nobody_behind_and_its_run_goes_on(
    certified: str, alone: Any, tmp_path: Path
) -> None:
    scratch, state = tmp_path / "tmp", tmp_path / "state"
    scratch.mkdir()
    engine = gpuscan(
        scratch, "--ticks", "6", "--workers", "2", "--checkpoint", str(state), "--every", "1", "--quiet"
    )
    pids, semaphores = kill_after(engine, state, 2)
    assert len(pids) >= 3
    assert gone(pids)
    assert semaphores
    assert removed(semaphores)
    assert list(scratch.iterdir())  # what nobody could remove

    # The workers of the next one are of a cluster that stays, and it is killed too.
    address = certified
    shards = tmp_path / "shards"
    shards.mkdir()
    options = ("--cluster", address, "--shard-dir", str(shards), "--every", "1", "--json", "--quiet")
    kill_after(command(scratch, "resume", str(state), *options), state, 4)
    engine = command(scratch, "resume", str(state), *options)
    out, err = engine.communicate()
    assert engine.returncode == 0, err
    found = json.loads(out)
    assert found["ledger"] == alone["ledger"]
    assert len(found["resumed_at"]) == 2
    with joined_cluster(address) as joined:
        assert joined.n_workers() == 3


def watched(engine: subprocess.Popen[str], until: float, ready: Path | None = None) -> set[int]:
    """Watch an engine until a time, its end, or a file's being there; return the processes it had."""
    pids: set[int] = set()
    while engine.poll() is None and time.monotonic() < until and not (ready and ready.exists()):
        pids |= set(family(engine.pid))
        time.sleep(0.01)
    return pids


@pytest.mark.slow
def test_engines_killed_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started, rng = time.monotonic(), random.Random(8)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    fresh = ("run", "cxl-promote", "--memory", "1GiB", "--ticks", "40", "--workers", "2", "--every", "1")
    whole, _ = command(scratch, *fresh[:6], "--json", "--quiet").communicate()
    n_killed, goes_on = 0, [0, 0]
    start_s = rest_s = 0.0  # until the first checkpoint, and from there to the end
    for number in range(1 + N_ENGINES):  # the first tells how long one takes
        state = tmp_path / str(number)
        for attempt in range(5):
            newest = max(generations(state), default=0) if state.exists() else 0
            arguments = ("resume", str(state)) if newest else (*fresh, "--checkpoint", str(state), "--force")
            goes_on[newest > 0] += 1
            born = time.monotonic()
            engine = command(scratch, *arguments, "--json", "--quiet")
            next_one = state / f"checkpoint-{newest + 1:08}"
            if not number:
                watched(engine, born + 60, next_one)
                start_s = time.monotonic() - born
            elif attempt < 4:
                has_started = attempt > 0
                if has_started:
                    pids = watched(engine, born + 60, next_one)
                    pids |= watched(engine, time.monotonic() + rng.uniform(0, rest_s / 3))
                else:
                    pids = watched(engine, born + rng.uniform(0, start_s))
                if engine.poll() is None:
                    semaphores = semaphores_of(pids)
                    engine.kill()
                    engine.communicate()
                    n_killed += 1
                    assert gone(list(pids))
                    if has_started:
                        assert semaphores
                        assert removed(semaphores)
                    # Else nobody may know of them: sem_open(3) links a file that it made beside, then Python
                    # tells its resource tracker.
                    continue
            out, err = engine.communicate()
            assert engine.returncode == 0, err
            assert json.loads(out)["ledger"] == json.loads(whole)["ledger"]
            rest_s = rest_s or time.monotonic() - born - start_s
            break
    assert len(list(scratch.iterdir())) <= 1  # each one removes what the one before could not
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{n_killed} engines with workers killed, {goes_on[1]} times resumed, "
            f"{time.monotonic() - started:.0f} s; ledgers as undisturbed, nobody left behind"
        )
    assert n_killed >= 3 * N_ENGINES
    assert goes_on[1] >= 3 * N_ENGINES - 1


@pytest.mark.slow
def test_kill_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n_killed = n_recovered = n_checkpoints = 0
    started = time.monotonic()
    with local_cluster(3) as (transport, _):
        for seed in range(N_RUNS):
            ticks = set(random.Random(seed).sample(range(1, 30), 10))
            log_bytes = (1 << 12, 1 << 17, 1 << 30)[seed % 3]
            found, killer = disturbed(transport, tmp_path / str(seed), 30, seed, ticks, log_bytes)
            assert_same_run(found, single(30, seed))
            n_killed += killer.n_killed
            n_recovered += len(found[0].recovery_s)
            # A checkpoint's number is how many its shard has written.
            newest = [max((tmp_path / str(seed) / f"shard-{shard}").glob("checkpoint-*")) for shard in (0, 1)]
            n_checkpoints += sum(int(path.name.rpartition("-")[2]) for path in newest)
            transport.close()
            with capsys.disabled():
                print(  # noqa: T201
                    f"\n{n_killed} workers killed, {n_recovered} shards made anew from {n_checkpoints} "
                    f"checkpoints and their logs, {time.monotonic() - started:.0f} s; plans and ledger as "
                    "undisturbed"
                )
    assert n_killed == 10 * N_RUNS
    # A worker that dies while its shard is made anew, or after the run, counts less.
    assert n_recovered >= 8 * N_RUNS
