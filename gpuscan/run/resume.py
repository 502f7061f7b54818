"""Runs that survive their process: checkpoints of a scenario while it runs, and going on from one.

In a directory of checkpoints (:mod:`gpuscan.checkpoint.directory`) a run keeps::

    checkpoint-N/   what was asked for, and the states of engine, store, machine, source, migrator
    ticks.log       the reports of all ticks, one JSON text each
    plans.log       with ``--out``: the plans, as Arrow record batches

What goes on is the run as it was asked for (workload, topology, captured machine, trace, and not
the files of the same names as they are now); inputs that are read again must be what they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import TIME_NS_MAX, flag, items, shown, table, text, whole, wholes
from gpuscan.base.documents import number as decimal
from gpuscan.base.errors import CheckpointError, DeviceError, DeviceFailedError, InputError, TopologyError
from gpuscan.base.program import PROGRAM
from gpuscan.base.units import format_number, format_time, parse_time_ns
from gpuscan.checkpoint.directory import CheckpointDirectory, find, generations, load
from gpuscan.checkpoint.log import Log, Position, check, entries, position_of
from gpuscan.checkpoint.state import State, canonical
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.engine.stages import Resumable
from gpuscan.engine.tick import N_TICKS_MAX, Engine, PlanSink, TickReport
from gpuscan.files.chunks import said
from gpuscan.files.reading import UnfitError, open_file, parse_json
from gpuscan.kernels.catalogue import device_names
from gpuscan.kernels.registry import Device
from gpuscan.run.scenario import Scenario
from gpuscan.store.plan import Batches, Plan
from gpuscan.topology.serialize import topology_from_dict

if TYPE_CHECKING:
    import pyarrow as pa

    from gpuscan.snapshot.snapshot import Snapshot
    from gpuscan.store.plan_file import PlanRows
    from gpuscan.workload.files import Workload

KIND = "run"
_TICKS_LOG, _PLANS_LOG = "ticks.log", "plans.log"
_STATE = (
    "request",
    "resumed_at",
    "made",
    "ticks",
    "plans",
    "engine",
    "store",
    "machine",
    "source",
    "migrator",
)
_PROCESSES_MAX = 1 << 12
"""Of threads and workers that a checkpoint may ask for."""
_NAME_MAX = 100
_METRIC_MAX = 1e300


@dataclass(frozen=True, slots=True)
class Every:
    """How often a checkpoint is written: after so many ticks, or so much wall time (when a tick ends)."""

    n_ticks: int = 0
    wall_ns: int = 0

    @classmethod
    def parse(cls, text: str) -> Every:
        """Return what a number (ticks) or a time with a unit says.

        Raises:
            InputError: it is neither, or nothing.
        """
        every = cls(n_ticks=int(text)) if text.isdecimal() else cls(wall_ns=parse_time_ns(text))
        if not (every.n_ticks or every.wall_ns):
            raise InputError(f"--every {text}: a checkpoint cannot be written all the time; give 10, or 30s")
        return every


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, enough to build the same scenario again.

    Attributes:
        where: what to call the workload's file in a complaint.
        workload: its keys, overrides applied.
        topology: of the machine, as :func:`gpuscan.topology.serialize.topology_to_dict`.
        device: the one asked for, None for the workload's; n_threads: of the CPU backend.
        fallback: whether the CPU takes over when the device fails.
        machine: the captured machine, None without; split_cxl: its share of CXL memory, None = not split.
        inputs: SHA-256 of what is read again, by what it is.
        out: where the result goes, None = nowhere; force: it may replace an earlier one.
        every: see :class:`Every`.
        workers, cluster, shard_dir: where the shards were, None without.
        gpuscan: the version that was asked.

    In a checkpoint this is whoever's who made that: ``force``, ``cluster`` and ``shard_dir`` were for the
    run that was asked, and are not taken from there (docs/checkpoint.md, *Somebody else's checkpoint*).
    """

    where: str
    workload: dict[str, Any]
    topology: dict[str, Any]
    device: Device | None
    n_threads: int | None
    fallback: bool
    machine: str | None
    split_cxl: str | None
    inputs: dict[str, str]
    out: str | None
    force: bool
    every: str
    workers: int | None
    cluster: str | None
    shard_dir: str | None
    gpuscan: str

    @classmethod
    def of(cls, document: Any) -> Request:
        """Return what a checkpoint says was asked for, each value of its type.

        Raises:
            ValueError: one is not.
        """
        names = tuple(place.name for place in fields(cls))
        found = dict(table(document, "the request", names))
        for name in ("where", "every", PROGRAM):
            text(found[name], name)
        for name in ("machine", "split_cxl", "out", "cluster", "shard_dir"):
            if found[name] is not None:
                text(found[name], name)
        for name in ("fallback", "force"):
            flag(found[name], name)
        for name in ("workload", "topology", "inputs"):
            table(found[name], name)
        for name, lowest in (("n_threads", 1), ("workers", 0)):
            if found[name] is not None:
                whole(found[name], lowest, _PROCESSES_MAX, name)
        if found["device"] is not None and found["device"] not in device_names():
            raise ValueError(f"device is {shown(found['device'])}, which is none")
        for what, sha256 in found["inputs"].items():
            text(what, "an input")
            text(sha256, "the SHA-256 of an input", 64)
        return cls(**found)


class RunCheckpoints:
    """The checkpoints of one run.

    Args:
        path: their directory.
        force: replace the checkpoints of another run.

    Attributes:
        directory: where they are.
        resumed_at: ticks at which the run was resumed, so far.
        earlier: ticks that were run by processes before this one.
        n_saved, saved_ns: checkpoints written, and the time that took.

    Raises:
        InputError: ``path`` holds another run's checkpoints, or something else; or somebody writes there.
        RunFailedError: the system refused it.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self._prepare(CheckpointDirectory(path, KIND))
        if generations(self.directory.path) and not force:
            self.directory.close()
            raise InputError(
                f"{path} holds the checkpoints of another run; go on with it by 'gpuscan resume {path}', "
                "give another place, or --force to begin anew"
            )

    def _prepare(self, directory: CheckpointDirectory) -> None:
        self.directory = directory
        self.resumed_at: list[int] = []
        self.earlier: list[TickReport] = []
        self.n_saved = 0
        self.saved_ns = 0
        self._ticks: Log | None = None
        self._plans: Log | None = None
        self._rows: PlanRows | None = None

    def keep_plans(self) -> PlanSink:
        """Return a plan sink for the engine: plans are kept with the checkpoints."""
        from gpuscan.store.plan_file import PlanRows

        self._rows = PlanRows()
        return self._keep_plan

    def _keep_plan(self, tick: int, plan: Plan, batches: Batches) -> None:
        if self._rows is None or self._plans is None:
            raise RuntimeError("plans come before begin()")
        rows = self._rows.rows(tick, plan, batches)
        if len(plan):
            self._plans.append(rows.serialize().to_pybytes())

    def begin(self, scenario: Scenario, request: Request) -> None:
        """Write the first checkpoint, before the first tick; other runs' are gone then.

        Raises:
            InputError: the scenario's source or migrator has no state.
            RunFailedError: the system refused a write.
        """
        self._begin(scenario, request)
        _parts(scenario)
        self.directory.go_back_to(None)
        self._open_logs(Position(), Position())
        self._save()

    def _begin(self, scenario: Scenario, request: Request) -> None:
        self._scenario = scenario
        self._request = asdict(request)
        self._every = Every.parse(request.every)
        self._last_tick, self._last_ns = _engine_of(scenario).n_ticks, time.monotonic_ns()

    def _open_logs(self, ticks: Position, plans: Position) -> None:
        self._ticks = Log(self.directory.path / _TICKS_LOG, ticks)
        if self._rows is not None:
            self._plans = Log(self.directory.path / _PLANS_LOG, plans)

    def on_tick(self, report: TickReport) -> None:
        """Keep the report of a tick, and write a checkpoint when it is time, or a device failed in it.

        Raises:
            DeviceFailedError: one did, and nobody asked for a fallback; a checkpoint has all up to here.
            RunFailedError: the system refused a write; the checkpoint before is whole.
        """
        self._tick_log.append(json.dumps(asdict(report), default=_plain).encode())
        n_ticks = report.tick + 1 - self._last_tick
        wall_ns = time.monotonic_ns() - self._last_ns
        every = self._every
        if (every.n_ticks and n_ticks >= every.n_ticks) or (every.wall_ns and wall_ns >= every.wall_ns):
            self._save()
        failures = _engine_of(self._scenario).store.device_failures()
        if failures and not self._request["fallback"]:
            if self._last_tick <= report.tick:
                self._save()
            raise DeviceFailedError(f"{failures[-1]}, to the end of the tick")

    def _save(self) -> None:
        started_ns = time.monotonic_ns()
        engine = _engine_of(self._scenario)
        plans = Position() if self._plans is None else position_of(self._plans.sync())
        self.directory.save(
            {
                "request": self._request,
                "resumed_at": self.resumed_at,
                "made": _made(self._scenario),
                "ticks": self._tick_log.sync(),
                "plans": {**asdict(plans), "n_batches": 0 if self._rows is None else self._rows.n_batches},
                **scenario_state(self._scenario),
            }
        )
        self.n_saved += 1
        self._last_tick, self._last_ns = engine.n_ticks, time.monotonic_ns()
        self.saved_ns += self._last_ns - started_ns

    @property
    def _tick_log(self) -> Log:
        if self._ticks is None:
            raise RuntimeError("ticks come before begin()")
        return self._ticks

    @contextmanager
    def after_device_failure(self) -> Iterator[None]:
        """Say, when a device fails or somebody interrupts inside the block, where the run can go on.

        Raises:
            DeviceFailedError, KeyboardInterrupt: as met, with what to do.
        """
        try:
            yield
        except KeyboardInterrupt as error:
            error.add_note(f"go on from tick {self._last_tick} with 'gpuscan resume {self.directory.path}'")
            raise
        except (DeviceError, DeviceFailedError) as error:
            raise DeviceFailedError(
                f"{error}; go on from tick {self._last_tick} with 'gpuscan resume {self.directory.path} "
                "--device cpu'"
            ) from error

    def plans(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of every plan of the run, those before it was resumed too, plan by plan."""
        from gpuscan.store.plan_file import parse_rows

        if self._plans is not None:
            for entry in entries(self._plans.path, position_of(self._plans.sync())):
                yield parse_rows(entry)

    def close(self) -> None:
        """Let go of the files; the last checkpoint stays."""
        for log in (self._ticks, self._plans):
            if log is not None:
                log.close()
        self.directory.close()


class ResumedRun(RunCheckpoints):
    """A run that goes on from a checkpoint, and goes on keeping them.

    Args:
        path: a directory of checkpoints, or one generation in it: what is newer than that is given up.

    Attributes:
        request: what was asked for.
        n_ticks: that the run has in all.

    Raises:
        CheckpointError: it is damaged, of a newer schema, or no run's.
        InputError: somebody writes there.
    """

    def __init__(self, path: Path) -> None:
        self._prepare(CheckpointDirectory(find(path).parent, KIND))
        try:
            self._state, self._place = load(path, KIND, later="store.parts")
            with _fits(self._place):
                self._read(self._state)
        except BaseException:
            self.directory.close()
            raise

    def _read(self, state: State) -> None:
        table(state, "the checkpoint", _STATE)
        engine = table(state["engine"], "the engine")
        self.request = Request.of(state["request"])
        made = table(state["made"], "what was made", ("policy", "spec", "ticks"))
        self.n_ticks = whole(made["ticks"], 1, N_TICKS_MAX, "ticks")
        n_done = whole(engine.get("n_ticks"), 0, N_TICKS_MAX, "n_ticks")
        self.resumed_at = [*wholes(state["resumed_at"], 0, n_done, "resumed_at"), n_done]
        plans = table(state["plans"], "the plans", ("n_bytes", "crc32", "n_batches"))
        self._n_batches = whole(plans["n_batches"], 0, INT64_MAX, "n_batches")
        self._positions = (
            position_of(table(state["ticks"], "the ticks", ("n_bytes", "crc32"))),
            position_of(plans),
        )
        for name, position in zip((_TICKS_LOG, _PLANS_LOG), self._positions, strict=True):
            if position.n_bytes:
                check(self.directory.path / name, position)
        ticks = entries(self.directory.path / _TICKS_LOG, self._positions[0])
        self.earlier = [_tick_report(entry, number) for number, entry in enumerate(ticks)]
        if len(self.earlier) != n_done:
            raise ValueError(f"{_TICKS_LOG} has {len(self.earlier)} ticks, the checkpoint is after {n_done}")
        self._check_size(state)

    def _check_size(self, state: State) -> None:
        """Refuse a machine of another size than the arrays before it is built: it may be any size."""
        if self.request.machine is not None:
            return
        n_sections = topology_from_dict(self.request.topology).page_map.n_sections
        edges = items(table(state["store"], "the store").get("section_edges"), "section_edges")
        if not edges or edges[-1] != n_sections:
            raise ValueError(f"the store is not of the {n_sections} sections of the topology")

    def keep_plans(self) -> PlanSink:
        """See :meth:`RunCheckpoints.keep_plans`."""
        from gpuscan.store.plan_file import PlanRows

        sink = super().keep_plans()
        self._rows = PlanRows(self._n_batches)
        return sink

    def begin(self, scenario: Scenario, request: Request) -> None:
        """Put the state into a scenario built as :attr:`request` says; what is newer than it is given up.

        Raises:
            CheckpointError: it is not the same scenario, because this gpuscan makes another of the request.
            RunFailedError: the system refused a write.
        """
        self._restore(scenario)
        self._begin(scenario, request)
        self.directory.go_back_to(self._place)
        self._open_logs(*self._positions)

    def _restore(self, scenario: Scenario) -> None:
        state = self._state
        if canonical(_made(scenario)) != canonical(state["made"]):
            raise CheckpointError(
                f"{self._place} was written by gpuscan {self.request.gpuscan}, and this one makes another "
                "machine or policy of the same workload; resume it with that version"
            )
        with _fits(self._place):
            restore_scenario(scenario, state)
        del self._state  # arrays of the size of the machine


def scenario_state(scenario: Scenario) -> State:
    """Return the states of a scenario's parts, between two ticks.

    Raises:
        InputError: a part has none.
    """
    return {name: part.state() for name, part in _parts(scenario).items()}


def restore_scenario(scenario: Scenario, state: State) -> None:
    """Put the states into the parts of a scenario that was built alike and has not run.

    Raises:
        InputError: a part takes none.
        KeyError, TypeError, ValueError: they are of something else.
    """
    for name, part in _parts(scenario).items():
        part.restore(state[name])


def check_resumable(design: str) -> None:
    """Refuse what has no states to keep.

    Raises:
        InputError: a design that is a model.
    """
    if not DESIGNS.get(design).runs_on_a_store:
        raise InputError(
            f"the design {design} is a model whose state is not kept; leave out --checkpoint or --design"
        )


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with os.fdopen(open_file(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (UnfitError, OSError) as error:
        raise InputError(f"{said(error, path)}; check the file") from error


def inputs_of(workload: Workload, snapshot: Snapshot | None) -> dict[str, str]:
    """Return the SHA-256 of what a run reads, by what it is."""
    inputs = {}
    if workload.source.kind == "trace":
        trace = Path(workload.source.trace)
        trace = trace.parent.resolve() / trace.name
        inputs[f"the trace {trace}"] = digest_of_file(trace)
    if snapshot is not None:
        digest = hashlib.sha256(snapshot.flags.data)
        digest.update(snapshot.mapcounts.data)
        inputs["the captured machine"] = digest.hexdigest()
    return inputs


def check_inputs(request: Request, inputs: dict[str, str]) -> None:
    """Refuse to go on with inputs that are not what they were.

    Raises:
        InputError: one was changed.
    """
    for what, digest in request.inputs.items():
        if inputs.get(what) != digest:
            raise InputError(f"{what} was changed since the run began; bring it back, or run again")


def saved_sentence(checkpoints: RunCheckpoints) -> str:
    """Return one line about what the checkpoints of a run cost."""
    mean_ns = checkpoints.saved_ns / max(1, checkpoints.n_saved)
    return (
        f"{format_number(checkpoints.n_saved, 'checkpoint')} in {checkpoints.directory.path}, "
        f"{format_time(mean_ns)} each"
    )


@contextmanager
def _fits(place: Path) -> Iterator[None]:
    """Turn what a state that is not of this run's kind raises into one sentence."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, TopologyError) as error:
        why = str(error) if isinstance(error, (ValueError, TopologyError)) else repr(error)
        raise CheckpointError(
            f"{place} does not fit the run it is of ({why}); resume it with the gpuscan that wrote it"
        ) from error


def _made(scenario: Scenario) -> State:
    """Return what the request was made into: a later gpuscan may have other defaults."""
    return {
        "policy": asdict(scenario.engine.policy),
        "spec": asdict(scenario.machine.spec),
        "ticks": scenario.workload.ticks,
    }


def _engine_of(scenario: Scenario) -> Engine:
    if not isinstance(scenario.engine, Engine):
        raise InputError("a model's state is not kept; leave out --checkpoint or --design")
    return scenario.engine


def _parts(scenario: Scenario) -> dict[str, Resumable]:
    engine = _engine_of(scenario)
    parts = {
        "engine": engine,
        "store": engine.store,
        "machine": scenario.machine,
        "source": engine.source,
        "migrator": engine.migrator,
    }
    resumable: dict[str, Resumable] = {}
    for name, part in parts.items():
        if not isinstance(part, Resumable):
            raise InputError(
                f"the {name} {type(part).__name__} has no state that a checkpoint could keep; "
                "leave out --checkpoint"
            )
        resumable[name] = part
    return resumable


def _tick_report(entry: bytes, number: int) -> TickReport:
    """Return the report of a tick that :meth:`RunCheckpoints.on_tick` kept.

    Raises:
        ValueError: it is not that of this tick.
    """
    found = table(parse_json(entry), "a tick", tuple(place.name for place in fields(TickReport)))
    for name, value in found.items():
        if name == "path":
            text(value, name, _NAME_MAX)
        elif name == "metrics":
            for metric, measured in table(value, name).items():
                text(metric, "a metric", _NAME_MAX)
                decimal(measured, -_METRIC_MAX, _METRIC_MAX, metric)
        elif name == "migrate_busy_ns":
            decimal(value, 0, TIME_NS_MAX, name)
        else:
            whole(value, 0, INT64_MAX, name)
    if found["tick"] != number:
        raise ValueError(f"{_TICKS_LOG} has tick {found['tick']} where {number} should be")
    return TickReport(**found)


def _plain(value: Any) -> Any:
    return value.tolist()  # a NumPy number among a source's metrics
