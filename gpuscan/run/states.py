"""The states of a scenario's parts, between two ticks: all that a run is then."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.checkpoint.state import State, canonical
from gpuscan.engine.stages import Resumable
from gpuscan.engine.tick import Engine
from gpuscan.run.scenario import Scenario

LISTENING = ("recorder", "timeline")
"""Parts that count for a map or a timeline; the state of a run without one, or of an earlier gpuscan's, has
none."""


def scenario_state(scenario: Scenario) -> State:
    """Return the states of a scenario's parts, between two ticks.

    Raises:
        InputError: a part has none.
    """
    return {name: part.state() for name, part in parts_of(scenario).items()}


def restore_scenario(scenario: Scenario, state: State) -> None:
    """Put the states into the parts of a scenario that was built alike and has not run.

    A recorder or timeline that the state knows nothing of begins here.

    Raises:
        InputError: a part takes none.
        KeyError, TypeError, ValueError: they are of something else.
    """
    for name, part in parts_of(scenario).items():
        if name not in LISTENING or name in state:
            part.restore(state[name])
    if scenario.recorder is not None and "recorder" in state:
        scenario.recorder.check_until(scenario.engine.now_ns)


def made_of(scenario: Scenario) -> State:
    """Return what the request was made into: a later gpuscan may have other defaults."""
    return {
        "policy": asdict(scenario.engine.policy),
        "spec": asdict(scenario.machine.spec),
        "ticks": scenario.workload.ticks,
    }


def is_made_of(scenario: Scenario, kept: Any) -> bool:
    """Whether a request was made into the same before: what :func:`made_of` kept, maybe long ago.

    An earlier gpuscan knew nothing of fields that came later. It did what these do where nobody gives them:
    whoever adds a field gives it such a default.
    """
    if not isinstance(kept, dict) or kept.keys() != {"policy", "spec", "ticks"}:
        return False
    now = {"policy": scenario.engine.policy, "spec": scenario.machine.spec, "ticks": scenario.workload.ticks}
    return all(_same(value, kept[name]) for name, value in now.items())


def _same(now: Any, kept: Any) -> bool:
    if is_dataclass(now):
        known = {place.name: place for place in fields(now)}
        return (
            isinstance(kept, dict)
            and kept.keys() <= known.keys()
            and all(
                _same(getattr(now, name), kept[name])
                if name in kept
                else place.default is not MISSING and getattr(now, name) == place.default
                for name, place in known.items()
            )
        )
    if isinstance(now, tuple):
        return (
            isinstance(kept, list | tuple)
            and len(now) == len(kept)
            and all(_same(ours, theirs) for ours, theirs in zip(now, kept, strict=True))
        )
    return canonical({"value": now}) == canonical({"value": kept})


def engine_of(scenario: Scenario) -> Engine:
    """Return the engine of a scenario.

    Raises:
        InputError: it is a model of another design.
    """
    if not isinstance(scenario.engine, Engine):
        raise InputError("a model's state is not kept; leave out --checkpoint or --design")
    return scenario.engine


def parts_of(scenario: Scenario) -> dict[str, Resumable]:
    """Return what has a state, by name.

    Raises:
        InputError: a part has none.
    """
    engine = engine_of(scenario)
    parts: dict[str, Any] = {
        "engine": engine,
        "store": engine.store,
        "machine": scenario.machine,
        "source": engine.source,
        "migrator": engine.migrator,
    }
    parts |= {name: part for name in LISTENING if (part := getattr(scenario, name)) is not None}
    resumable: dict[str, Resumable] = {}
    for name, part in parts.items():
        if not isinstance(part, Resumable):
            raise InputError(
                f"the {name} {type(part).__name__} has no state that a checkpoint could keep; "
                "leave out --checkpoint"
            )
        resumable[name] = part
    return resumable
