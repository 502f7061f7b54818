"""Checkpoints of a scenario while it runs. :mod:`gpuscan.run.resume` goes on from one.

In a directory of checkpoints (:mod:`gpuscan.checkpoint.directory`) a run keeps::

    checkpoint-N/   what was asked for, and the states of engine, store, machine, source, migrator
    ticks.log       the reports of all ticks, one JSON text each
    plans.log       with ``--out``: the plans, as Arrow record batches
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gpuscan.base.errors import DeviceError, DeviceFailedError, InputError
from gpuscan.base.units import format_number, format_time
from gpuscan.checkpoint.directory import CheckpointDirectory, generations
from gpuscan.checkpoint.log import Log, Position, entries, position_of
from gpuscan.engine.tick import PlanSink, TickReport
from gpuscan.run.kept import KeptRequest
from gpuscan.run.scenario import Scenario
from gpuscan.run.states import engine_of, made_of, parts_of, scenario_state
from gpuscan.run.tick_log import TICKS_LOG, tick_entry
from gpuscan.store.plan import Batches, Plan

if TYPE_CHECKING:
    import pyarrow as pa

    from gpuscan.store.plan_file import PlanRows

KIND = "run"
PLANS_LOG = "plans.log"
VIEWS = "views"
"""Of a state: where what is to be looked at is made, by what it is; an earlier gpuscan's has none."""


class RunCheckpoints:
    """The checkpoints of one run.

    Args:
        path: their directory.
        force: replace the checkpoints of another run.

    Attributes:
        directory: where they are.
        resumed_at: ticks at which the run was resumed, so far.
        earlier: ticks that were run by processes before this one.
        views: where somebody wants a page and a timeline of the run, by what it is.
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
        self.views: dict[str, str] = {}
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

    def begin(self, scenario: Scenario, kept: KeptRequest) -> None:
        """Write the first checkpoint, before the first tick; other runs' are gone then.

        Raises:
            InputError: the scenario's source or migrator has no state.
            RunFailedError: the system refused a write.
        """
        self._begin(scenario, kept)
        parts_of(scenario)
        self.directory.go_back_to(None)
        self._open_logs(Position(), Position())
        self._save()

    def _begin(self, scenario: Scenario, kept: KeptRequest) -> None:
        self._scenario = scenario
        self._request = kept.document()
        self._every = kept.request.pace
        self._last_tick, self._last_ns = engine_of(scenario).n_ticks, time.monotonic_ns()

    def _open_logs(self, ticks: Position, plans: Position) -> None:
        self._ticks = Log(self.directory.path / TICKS_LOG, ticks)
        if self._rows is not None:
            self._plans = Log(self.directory.path / PLANS_LOG, plans)

    def on_tick(self, report: TickReport) -> None:
        """Keep the report of a tick, and write a checkpoint when it is time, or a device failed in it.

        Raises:
            DeviceFailedError: one did, and nothing goes on in its place; a checkpoint has all up to here.
            RunFailedError: the system refused a write; the checkpoint before is whole.
        """
        self._tick_log.append(tick_entry(report))
        n_ticks = report.tick + 1 - self._last_tick
        wall_ns = time.monotonic_ns() - self._last_ns
        every = self._every
        if (every.n_ticks and n_ticks >= every.n_ticks) or (every.wall_ns and wall_ns >= every.wall_ns):
            self._save()
        failures = engine_of(self._scenario).store.device_failures()
        if failures and not self._scenario.goes_on:
            if self._last_tick <= report.tick:
                self._save()
            raise DeviceFailedError(f"{failures[-1]}, to the end of the tick")

    def _save(self) -> None:
        started_ns = time.monotonic_ns()
        engine = engine_of(self._scenario)
        plans = Position() if self._plans is None else position_of(self._plans.sync())
        self.directory.save(
            {
                "request": self._request,
                VIEWS: self.views,
                "resumed_at": self.resumed_at,
                "made": made_of(self._scenario),
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


def saved_sentence(checkpoints: RunCheckpoints) -> str:
    """Return one line about what the checkpoints of a run cost."""
    mean_ns = checkpoints.saved_ns / max(1, checkpoints.n_saved)
    return (
        f"{format_number(checkpoints.n_saved, 'checkpoint')} in {checkpoints.directory.path}, "
        f"{format_time(mean_ns)} each"
    )
