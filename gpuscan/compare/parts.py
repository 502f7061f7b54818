"""The parts of a comparison, and what each usually takes: what its progress is told in.

Seconds are of one core of an AMD EPYC (Zen 4), as loops of cxl-promote take them at 64 and 256 GiB. How a
machine differs, or what else runs there, is found out as the first parts end (:mod:`gpuscan.compare.pace`):
a loop goes through accesses as the making of the list does, so it is as much slower than usual as that was.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpuscan.compare.cost_model import measured_steps
from gpuscan.compare.pace import Pace, Part
from gpuscan.compare.settings import Settings
from gpuscan.compare.side_costs import co_runners, n_cpus
from gpuscan.designs.catalogue import DESIGNS

RECORDING, LISTING = "recording accesses", "listing requests"
_OPEN, _CLOSED = "open loop", "closed loop"
_REQUESTS_PER_ACCESS = 0.05
"""Of cxl-interleave; known once the list is made."""
_STEP_S, _MEASURE_S = 1.5, 10.0
_RECORD_NS, _LIST_NS, _CLOSED_NS = 85, 65, 80
"""For each access."""
_REQUEST_NS, _STORE_REQUEST_NS = 2000, 1000
"""For each request, of a model and of a store."""
_EQUAL_COST_S = 3.0
_BEGIN_S = 0.5
"""What a loop takes however little there is to do."""


def parts_of(designs: Sequence[str], settings: Settings, n_requests: int | None, of: str = "") -> list[Part]:
    """Return the parts of :func:`gpuscan.compare.suite.make_inputs` and ``run_seed``, of which they tell.

    Args:
        designs, settings: as there.
        n_requests: of the list at most.
        of: in front of each name, where there are several seeds or cells.
    """
    n_accesses = n_accesses_of(settings)
    n_listed = _REQUESTS_PER_ACCESS * n_accesses
    n_listed = n_listed if n_requests is None else min(n_listed, n_requests)
    parts = [
        Part(f"{of}{RECORDING}", RECORDING, _BEGIN_S + n_accesses * _RECORD_NS * 1e-9),
        Part(f"{of}{LISTING}", LISTING, _BEGIN_S + n_accesses * _LIST_NS * 1e-9),
    ]
    for name in designs:
        is_model = not DESIGNS.get(name).runs_on_a_store
        parts += [
            Part(f"{of}{name}, {loop}", _kind(loop, is_model), usual_s, is_model or loop == _CLOSED, LISTING)
            for loop, usual_s in (
                (_CLOSED, _closed_s(n_accesses, n_listed, is_model)),
                (_OPEN, _open_s(n_listed, is_model)),
            )
        ]
    return parts


def measuring_parts(designs: Sequence[str]) -> list[Part]:
    """Return the parts of :func:`gpuscan.compare.cost_model.measure_model`."""
    return [Part(f"measuring: {step.name}", "measuring", _MEASURE_S) for step in measured_steps(designs)]


def side_cost_parts(designs: Sequence[str]) -> list[Part]:
    """Return the parts of what is measured beside the loops: producers, and a neighbour of the scan."""
    runners = co_runners(designs) if n_cpus() > 1 else ()
    return [
        *(Part(f"producer of {name}", "producers", _STEP_S) for name in designs),
        *(Part(f"beside: {runner.name}", "neighbours", _STEP_S) for runner in runners),
    ]


def equal_cost_parts(designs: Sequence[str], of: str = "") -> list[Part]:
    """Return the parts of ``run_seed`` that run each design at other intervals.

    Args:
        designs: as there.
        of: in front of each name.
    """
    models = {name: not DESIGNS.get(name).runs_on_a_store for name in designs}
    return [
        Part(f"{of}{name}, at equal cost", "at equal cost", _EQUAL_COST_S, models[name]) for name in designs
    ]


def list_is_made(pace: Pace, settings: Settings, n_requests: int) -> None:
    """Say how long the list is, which is known now."""
    n_accesses = n_accesses_of(settings)
    for is_model in (True, False):
        pace.resize(_kind(_OPEN, is_model), _open_s(n_requests, is_model))
        pace.resize(_kind(_CLOSED, is_model), _closed_s(n_accesses, n_requests, is_model))


def n_accesses_of(settings: Settings) -> float:
    """Return how many accesses a comparison is of."""
    if settings.trace is not None:
        return max(1.0, settings.trace.n_accesses)
    per_s = sum(process.accesses_per_s for process in settings.spec.processes)
    return max(1.0, per_s * settings.horizon_ns / 1e9)


def _kind(loop: str, is_model: bool) -> str:
    return f"{loop} of a {'model' if is_model else 'store'}"


def _open_s(n_requests: float, is_model: bool) -> float:
    return _BEGIN_S + n_requests * (_REQUEST_NS if is_model else _STORE_REQUEST_NS) * 1e-9


def _closed_s(n_accesses: float, n_requests: float, is_model: bool) -> float:
    return n_accesses * _CLOSED_NS * 1e-9 + _open_s(n_requests, is_model)
