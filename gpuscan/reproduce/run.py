"""Runs experiments, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gpuscan.base.errors import InputError
from gpuscan.reproduce.catalogue import EXPERIMENTS
from gpuscan.reproduce.contract import Setting
from gpuscan.reproduce.judge import Judged, judge


@dataclass(frozen=True, slots=True)
class Reproduced:
    """An experiment, judged, and the seconds that it took."""

    judged: Judged
    seconds: float


def wanted(names: tuple[str, ...], *, with_topology: bool) -> tuple[str, ...]:
    """Return the names of experiments to run, all where none is given.

    Raises:
        InputError: there is none of a name, or a topology is given for one that has its own machine.
    """
    for name in names:
        EXPERIMENTS.require(name)
    chosen = tuple(dict.fromkeys(names)) or EXPERIMENTS.names
    if with_topology:
        fixed = [name for name in chosen if not EXPERIMENTS.get(name).takes_topology]
        if fixed:
            those = [name for name in EXPERIMENTS.names if EXPERIMENTS.get(name).takes_topology]
            raise InputError(
                f"the experiment {fixed[0]} has a machine of its own; leave out --topology, or name "
                f"{' or '.join(those)} alone"
            )
    return chosen


def reproduce(
    names: tuple[str, ...], setting: Setting, on_step: Callable[[str, float], None] = lambda what, share: None
) -> Iterator[Reproduced]:
    """Run experiments and yield each when it is done.

    Args:
        names: of them.
        setting: what each is given.
        on_step: called with what is being done, and the share of all that came to an end since the last call.
    """
    for name in names:
        done = 0.0

        def step(what: str, share: float, name: str = name) -> None:
            nonlocal done
            on_step(f"{name}: {what}", max(0.0, share - done) / len(names))
            done = max(done, share)

        experiment = EXPERIMENTS.get(name)
        began = time.perf_counter()
        outcome = experiment.run(replace(setting, on_step=step))
        step("done", 1.0)
        yield Reproduced(judge(name, experiment, outcome), time.perf_counter() - began)
