"""Runs that survive their process: going on from a checkpoint.

What goes on is the run as it was asked for (workload, topology, captured machine, trace, and not
the files of the same names as they are now); inputs that are read again must be what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import items, table, text, whole, wholes
from gpuscan.base.errors import CheckpointError, InputError, TopologyError
from gpuscan.checkpoint.directory import CheckpointDirectory, find, load
from gpuscan.checkpoint.log import check, entries, position_of
from gpuscan.checkpoint.state import State
from gpuscan.engine.tick import N_TICKS_MAX, PlanSink
from gpuscan.run.checkpoints import KIND, PLANS_LOG, VIEWS, RunCheckpoints
from gpuscan.run.kept import KeptRequest
from gpuscan.run.out import OUT_FILES
from gpuscan.run.request import RunRequest
from gpuscan.run.scenario import Scenario
from gpuscan.run.states import LISTENING, is_made_of, restore_scenario
from gpuscan.run.tick_log import TICKS_LOG, tick_report
from gpuscan.topology.serialize import topology_from_dict

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


class ResumedRun(RunCheckpoints):
    """A run that goes on from a checkpoint, and goes on keeping them.

    Args:
        path: a directory of checkpoints, or one generation in it: what is newer than that is given up.

    Attributes:
        kept: what was asked for.
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
        needed = {name: value for name, value in state.items() if name not in (*LISTENING, VIEWS)}
        table(needed, "the checkpoint", _STATE)
        views = table(state.get(VIEWS, {}), "what is to be looked at")
        self.views = {text(name, "a view", 20): text(place, name) for name, place in views.items()}
        engine = table(state["engine"], "the engine")
        self.kept = KeptRequest.of(state["request"])
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
        for name, position in zip((TICKS_LOG, PLANS_LOG), self._positions, strict=True):
            if position.n_bytes:
                check(self.directory.path / name, position)
        ticks = entries(self.directory.path / TICKS_LOG, self._positions[0])
        self.earlier = [tick_report(entry, number) for number, entry in enumerate(ticks)]
        if len(self.earlier) != n_done:
            raise ValueError(f"{TICKS_LOG} has {len(self.earlier)} ticks, the checkpoint is after {n_done}")
        self._check_size(state)

    def _check_size(self, state: State) -> None:
        """Refuse a machine of another size than the arrays before it is built: it may be any size."""
        if self.kept.request.is_of_a_snapshot:
            return
        n_sections = topology_from_dict(self.kept.topology).page_map.n_sections
        edges = items(table(state["store"], "the store").get("section_edges"), "section_edges")
        if not edges or edges[-1] != n_sections:
            raise ValueError(f"the store is not of the {n_sections} sections of the topology")

    def keep_plans(self) -> PlanSink:
        """See :meth:`RunCheckpoints.keep_plans`."""
        from gpuscan.store.plan_file import PlanRows

        sink = super().keep_plans()
        self._rows = PlanRows(self._n_batches)
        return sink

    def begin(self, scenario: Scenario, kept: KeptRequest) -> None:
        """Put the state into a scenario built as :attr:`kept` says; what is newer than it is given up.

        Raises:
            CheckpointError: it is not the same scenario, because this gpuscan makes another of the request.
            RunFailedError: the system refused a write.
        """
        self._restore(scenario)
        self._begin(scenario, kept)
        self.directory.go_back_to(self._place)
        self._open_logs(*self._positions)

    def check_out(self, request: RunRequest) -> None:
        """Refuse to replace a result that may be this run's own.

        Raises:
            InputError: there is one, and nobody said --force.
        """
        out, place, n_done = request.out, self.directory.path, len(self.earlier)
        if out is None or request.force or not (out / OUT_FILES[-1]).is_file():
            return
        if n_done >= self.n_ticks:
            raise InputError(
                f"the run of {place} is complete, and its result is in {out}; --force writes that again"
            )
        raise InputError(
            f"{out} holds a result already, and the last checkpoint of {place} is after tick {n_done} of "
            f"{self.n_ticks}; --force goes on from there and replaces it"
        )

    def _restore(self, scenario: Scenario) -> None:
        state = self._state
        if not is_made_of(scenario, state["made"]):
            raise CheckpointError(
                f"{self._place} was written by gpuscan {self.kept.gpuscan}, and this one makes another "
                "machine or policy of the same workload; resume it with that version"
            )
        with _fits(self._place):
            restore_scenario(scenario, state)
        said = {"recorder": "map, nodes and waits begin", "timeline": "batches of the timeline begin"}
        for name in LISTENING:
            part = getattr(scenario, name)
            if part is not None and name not in state:
                part.begins_at_tick = len(self.earlier)
            if part is not None and part.begins_at_tick:
                begins = f"{said[name]} at tick {part.begins_at_tick}"
                scenario.notes += (f"{begins}: the checkpoint there has none",)
        del self._state  # arrays of the size of the machine


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
