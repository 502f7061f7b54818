"""The commands that write something, small, and what each leaves: whole, as it was before, or either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq

from faults.command import (
    RUN,
    Command,
    as_command,
    earlier,
    nothing,
    quietly,
    room_for_temporary_files,
    whole_or_earlier,
)
from faults.views import VIEWS
from gpuscan.base.errors import GpuscanError
from gpuscan.heatmap.map import read_map
from gpuscan.heatmap.nodes import read_nodes
from gpuscan.heatmap.waits import read_waits
from gpuscan.snapshot.snapshot import Snapshot
from hosts import small_host


def run_is_whole(path: Path) -> str:
    """Say what is wrong with the directory of a run."""
    expected = {"ledger.json", "map.parquet", "nodes.parquet", "plan.parquet", "report.json"}
    try:
        names = {entry.name for entry in path.iterdir()}
        if names != expected | {"series.parquet", "waits.parquet"}:
            return f"it holds {sorted(names)}"
        read_map(path / "map.parquet")
        read_nodes(path / "nodes.parquet")
        read_waits(path / "waits.parquet")
        pq.read_table(path / "plan.parquet")
        assert len(pq.read_table(path / "series.parquet")) == 2
        json.loads((path / "ledger.json").read_text())
        json.loads((path / "report.json").read_text())
    except Exception as error:
        return f"half a result: {error!r}"
    return ""


def run_out(directory: Path, *options: str) -> int:
    """Run with ``--out``."""
    return quietly(*RUN, "--out", directory / "out", *options)


def run_out_forced(directory: Path) -> int:
    """Run and replace what is there."""
    return run_out(directory, "--force", "--seed", "2")


def run_checkpoint(directory: Path, *options: str) -> int:
    """Run with checkpoints."""
    state = directory / "state"
    return run_out(directory, "--checkpoint", str(state), "--every", "1", "--force", *options)


def checkpoint_wrong(directory: Path, state: str) -> str:
    """Say what is wrong with checkpoints: the newest must be whole, if there is one."""
    from gpuscan.checkpoint.directory import generations, load

    path = directory / "state"
    try:
        if path.exists() and generations(path):
            load(path, "run")
        elif state == "whole":
            return "there is no checkpoint"
    except GpuscanError as error:
        return f"the newest checkpoint is not whole: {error}"
    out = directory / "out"
    return run_is_whole(out) if state == "whole" or out.exists() else ""


def checkpoint_names(path: Path) -> list[str]:
    """Return what is in a directory of checkpoints beside two generations, the lock and two logs."""
    if not path.exists():
        return []
    names = sorted(entry.name for entry in path.iterdir())
    generations = [name for name in names if name.startswith("checkpoint-") and name[11:].isdigit()]
    return [*sorted(set(names) - {*generations, "lock", "ticks.log", "plans.log"}), *generations[:-2]]


def killed_at_tick_1(directory: Path) -> None:
    """Leave a run that was killed after its first tick."""
    from gpuscan.run.checkpoints import RunCheckpoints

    class Stop(BaseException):
        pass

    on_tick = RunCheckpoints.on_tick

    def stop(self: RunCheckpoints, report: Any) -> None:
        on_tick(self, report)
        raise KeyboardInterrupt

    with mock.patch.object(RunCheckpoints, "on_tick", stop):
        assert run_checkpoint(directory) == 130


def resume(directory: Path) -> int:
    """Go on with it."""
    return quietly("resume", directory / "state", "-q", "--force")


SNAPSHOT: list[Snapshot] = []


def small_snapshot() -> Snapshot:
    """Return a snapshot of two sections."""
    if not SNAPSHOT:
        SNAPSHOT.append(small_host(2))
    return SNAPSHOT[0]


def capture(directory: Path, *options: str) -> int:
    """Capture a machine; reading it is not what this is about."""
    with mock.patch("gpuscan.cli.capture._captured", return_value=small_snapshot()):
        return quietly("capture", directory / "a.zarr", *options)


def snapshot_is_whole(path: Path) -> str:
    """Say what is wrong with a snapshot."""
    try:
        assert (Snapshot.read(path).flags == small_snapshot().flags).all()
    except Exception as error:
        return f"half a snapshot: {error!r}"
    return ""


def captured(directory: Path) -> None:
    """Make a snapshot to be scanned."""
    assert capture(directory) == 0


def scan(directory: Path) -> int:
    """Scan it."""
    options = ("--device", "cpu", "--force")
    return quietly("scan", directory / "a.zarr", *options, "--out", directory / "found")


def scan_is_whole(path: Path) -> str:
    """Say what is wrong with the result of a scan."""
    try:
        assert sorted(entry.name for entry in path.iterdir()) == ["plan.parquet", "scan.json"]
        pq.read_table(path / "plan.parquet")
        json.loads((path / "scan.json").read_text())
    except Exception as error:
        return f"half a result: {error!r}"
    return ""


def scale(directory: Path, *more: str) -> int:
    """Keep a measurement; the measuring is not what this is about."""
    with (
        mock.patch("gpuscan.bench.scale.scale_case", return_value={"rows": list(range(2000))}),
        mock.patch("gpuscan.cli.bench._print_scale"),
    ):
        return quietly("bench", "scale", "--out", directory / "x", "-q", *more)


def scale_is_whole(path: Path) -> str:
    """Say what is wrong with it."""
    try:
        assert [entry.name for entry in path.iterdir()] == ["scale.json"]
        assert json.loads((path / "scale.json").read_text())["rows"] == list(range(2000))
    except Exception as error:
        return f"half a document: {error!r}"
    return ""


MEASURED = Path(__file__).parent.parent.parent / "benchmarks/results/bench.json"


def bench(directory: Path, *more: str) -> int:
    """Keep a report of what was measured before."""
    document = json.loads(MEASURED.read_text())
    document |= {"scans": document["scans"][:1], "requests": document["requests"][:1], "ticks": []}
    document.pop("schema")
    with (
        mock.patch("gpuscan.bench.sweep.run_sweep", return_value=document),
        mock.patch("gpuscan.cli.bench._print"),
    ):
        return quietly("bench", "scan", "--quick", "--out", directory / "b", "--no-plots", "-q", *more)


def bench_is_whole(path: Path) -> str:
    """Say what is wrong with a report."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
        assert names == ["bench.json", "runs.parquet"]
        json.loads((path / "bench.json").read_text())
        pq.read_table(path / "runs.parquet")
    except Exception as error:
        return f"half a report: {error!r}"
    return ""


COMPARED: list[Any] = []
COMPARE = (
    *("compare", "--designs", "gpuscan,per-folio", "--memory", "512MiB", "--ticks", "2"),
    *("--no-side-costs", "--jobs", "1", "-q"),
)


def compare(directory: Path) -> int:
    """Compare designs; what was measured once is measured no more, and scratch files are made again."""
    from dataclasses import replace

    from gpuscan.compare.request_list import write_request_list
    from gpuscan.compare.suite import Inputs

    temporary = directory / "tmp"
    if not COMPARED:
        _record_comparison()
    model, run, entries = COMPARED

    def again(seeded: Any, place: Path, *_: Any) -> Any:
        return Inputs(run.stream, write_request_list(entries, place / "requests.npy"))

    def ran(names: Any, seeded: Any, inputs: Inputs, *_: Any, **__: Any) -> Any:
        return replace(run, requests=inputs.requests)

    with (
        mock.patch("tempfile.tempdir", str(temporary)),
        mock.patch("gpuscan.compare.cost_model.measure_model", return_value=model),
        mock.patch("gpuscan.compare.suite.make_inputs", again),
        mock.patch("gpuscan.compare.suite.run_seed", ran),
    ):
        return quietly(*COMPARE, "--out", directory / "c", "--no-plots", "--force")


def _record_comparison() -> None:
    from gpuscan.compare import cost_model, suite
    from small_steps import small_steps

    measure, run_seed = cost_model.measure_model, suite.run_seed
    kept: dict[str, Any] = {}

    def measured(*arguments: Any) -> Any:
        kept["model"] = measure(*arguments)
        return kept["model"]

    def ran(*arguments: Any, **more: Any) -> Any:
        kept["run"] = run_seed(*arguments, **more)
        kept["entries"] = kept["run"].requests.entries().copy()
        return kept["run"]

    with (
        small_steps(),
        mock.patch("gpuscan.compare.cost_model.measure_model", measured),
        mock.patch("gpuscan.compare.suite.run_seed", ran),
    ):
        assert quietly(*COMPARE) == 0
    COMPARED.extend((kept["model"], kept["run"], kept["entries"]))


def compare_is_whole(path: Path) -> str:
    """Say what is wrong with a comparison."""
    try:
        for name in ("cells", "requests", "delays", "fills", "series", "model"):
            pq.read_table(path / f"{name}.parquet")
        json.loads((path / "compare.json").read_text())
        assert len(list(path.iterdir())) == 7
    except Exception as error:
        return f"half a comparison: {error!r}"
    return ""


def shards(directory: Path) -> int:
    """Protect a store of two shards, mark and drain."""
    import numpy as np

    from gpuscan.shards.sharded_store import ShardedStore
    from gpuscan.shards.transport import InProcessTransport
    from sharded_runs import machine

    def protected() -> None:
        with ShardedStore(
            machine(1), device="cpu", n_shards=2, transport=InProcessTransport(), n_threads=1
        ) as store:
            store.load_pages(store.page_map.present_bits())
            store.protect(directory / "shards", log_bytes=1 << 14)
            for start in (0, 1):
                store.request(store.page_map.pfn_of_flat(np.arange(start, store.n_pages, 40)), 1)
                for _ in store.drain():
                    pass

    return as_command(protected)


def shards_wrong(directory: Path, state: str) -> str:
    """Say what is wrong with what shards keep: checkpoints are whole, and at the end all is there."""
    from gpuscan.checkpoint.directory import generations, load

    path = directory / "shards"
    for shard in (0, 1):
        try:
            if (path / f"shard-{shard}").exists() and generations(path / f"shard-{shard}"):
                load(path / f"shard-{shard}", "store")
        except GpuscanError as error:
            return f"the checkpoint of shard {shard} is not whole: {error}"
    if state == "whole":
        names = {entry.name for entry in path.iterdir()}
        if not {"shard-0", "shard-0.log", "shard-1", "shard-1.log"} <= names:
            return f"not all is kept of the shards: {names}"
    return ""


def left_in_shards(directory: Path) -> list[str]:
    """Return what is among shards and in them and should not be."""
    path = directory / "shards"
    if not path.exists():
        return []
    kept = {"shard-0", "shard-0.log", "shard-1", "shard-1.log"}
    names = sorted({entry.name for entry in path.iterdir()} - kept)
    return names + checkpoint_names(path / "shard-0") + checkpoint_names(path / "shard-1")


def kernel_again(directory: Path) -> None:
    """Let a kernel that is a folder, and is there already, take what is written to it."""
    from damon_kernel import DamonKernel
    from gpuscan.linux import damon_state

    kernel = DamonKernel.__new__(DamonKernel)
    kernel.root, kernel.admin = directory, directory / damon_state.ADMIN
    kernel.operations, kernel.written = ("vaddr", "paddr"), []
    kernel.regions, kernel.refuses, kernel._next_pid, kernel._have_run = {}, {}, 5_000, set()
    damon_state.write = kernel.write


def live(directory: Path) -> int:
    """Take DAMON of a kernel that is a folder, note it in the state file, and give it back."""
    from damon_kernel import DamonKernel
    from gpuscan.linux import damon_state
    from gpuscan.linux.damon import Damon, Intervals, Watched
    from gpuscan.linux.system import System

    with mock.patch.object(Damon, "_start_watchdog"):
        if (directory / damon_state.ADMIN).exists():
            kernel_again(directory)
        else:
            patcher = mock.MagicMock()
            patcher.setattr = lambda owner, name, value: setattr(owner, name, value)
            DamonKernel(directory, patcher)

        def watched() -> None:
            damon = Damon("vaddr", System(directory))
            try:
                damon.start([Watched(pid=1234)], Intervals(), least_accesses=1)
            finally:
                damon.close()

        return as_command(watched)


def live_wrong(directory: Path, state: str) -> str:
    """Say whether DAMON is as it was; a killed one leaves that to the next, a failed one to its watchdog."""
    from gpuscan.linux import damon_state
    from gpuscan.linux.system import System

    if not (directory / damon_state.ADMIN).exists() or state == "either":
        return ""
    if state == "earlier":
        kernel_again(directory)
        watchdog = damon_state.StateFile(System(directory))  # as damon_state._watch() does
        damon_state.restore(System(directory), watchdog)
        watchdog.close()
    n = damon_state.n_kdamonds(System(directory))
    return f"{n} kdamonds are left" if n else ""


COMMANDS = (
    Command(
        "run --out",
        nothing,
        run_out,
        lambda directory: run_out(directory, "--force"),
        whole_or_earlier("out", run_is_whole, has_earlier=False),
        ("out",),
    ),
    Command(
        "run --out --force",
        earlier(run_out, "out"),
        run_out_forced,
        run_out_forced,
        whole_or_earlier("out", run_is_whole, has_earlier=True),
        ("out", "EARLIER"),
    ),
    Command(
        "run --checkpoint",
        nothing,
        run_checkpoint,
        run_checkpoint,
        checkpoint_wrong,
        ("out", "state"),
        inside=lambda directory: checkpoint_names(directory / "state"),
    ),
    Command(
        "resume",
        killed_at_tick_1,
        resume,
        resume,
        checkpoint_wrong,
        ("out", "state"),
        inside=lambda directory: checkpoint_names(directory / "state"),
    ),
    Command(
        "capture",
        nothing,
        capture,
        lambda directory: capture(directory, "--force"),
        whole_or_earlier("a.zarr", snapshot_is_whole, has_earlier=False),
        ("a.zarr",),
    ),
    Command(
        "capture --force",
        earlier(capture, "a.zarr"),
        lambda directory: capture(directory, "--force"),
        lambda directory: capture(directory, "--force"),
        whole_or_earlier("a.zarr", snapshot_is_whole, has_earlier=True),
        ("a.zarr", "EARLIER"),
    ),
    Command(
        "scan --out",
        captured,
        scan,
        scan,
        whole_or_earlier("found", scan_is_whole, has_earlier=False),
        ("a.zarr", "found"),
    ),
    Command(
        "bench scan --out",
        nothing,
        bench,
        lambda directory: bench(directory, "--force"),
        whole_or_earlier("b", bench_is_whole, has_earlier=False),
        ("b",),
    ),
    Command(
        "bench scale --out",
        nothing,
        scale,
        lambda directory: scale(directory, "--force"),
        whole_or_earlier("x", scale_is_whole, has_earlier=False),
        ("x",),
    ),
    Command(
        "bench scale --out, again",
        earlier(scale, "x"),
        lambda directory: scale(directory, "--force"),
        lambda directory: scale(directory, "--force"),
        whole_or_earlier("x", scale_is_whole, has_earlier=True),
        ("x", "EARLIER"),
    ),
    Command(
        "compare --out",
        room_for_temporary_files,
        compare,
        compare,
        whole_or_earlier("c", compare_is_whole, has_earlier=False),
        ("c", "tmp"),
        inside=lambda directory: sorted(entry.name for entry in (directory / "tmp").iterdir()),
    ),
    Command("shards", nothing, shards, shards, shards_wrong, ("shards",), inside=left_in_shards),
    Command("live", nothing, live, live, live_wrong, ("proc", "run", "sys"), below="run"),
    *VIEWS,
)
