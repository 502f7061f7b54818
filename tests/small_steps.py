"""A comparison's steps on little memory, for tests of what becomes of the figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from gpuscan.compare import cost_rounds, side_costs
from gpuscan.compare.cost_fit import Fit, Measured, StepModel, modelled
from gpuscan.compare.cost_model import CostModel
from gpuscan.compare.steps import caches, scans
from gpuscan.designs.steps import ScanSize

_GIB_PAGES = 1 << 18
N_PAGES, N_MARKS = 1 << 19, 1 << 12
_SMALL = (
    (scans, "WALK_PAGES", 2 * _GIB_PAGES),
    (scans, "LIST_PAGES", 2 * _GIB_PAGES),
    (scans, "STORE_PAGES", 16 * _GIB_PAGES),
    (scans, "FEW_PAGES", 16 * _GIB_PAGES),
    (caches, "llc_bytes", lambda: 1 << 16),
    (cost_rounds, "LIMIT_S", 0.0),
    (cost_rounds, "LEAST_ROUNDS", 3),
    (side_costs, "N_PAGES", N_PAGES),
    (side_costs, "_N_MARKS", N_MARKS),
)


@contextmanager
def small_steps() -> Iterator[None]:
    """Measure every step of the table on a fraction of its sizes, and side costs on 2 GiB."""
    with ExitStack() as stack:
        for module, name, value in _SMALL:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def step_model(name: str, terms: tuple[str, ...], fixed_ns: float, *each_ns: float) -> StepModel:
    """Return the model of a step whose times are exactly these."""
    exact = Fit(terms, fixed_ns, each_ns)
    sizes = [ScanSize(n << 20, n << a, n << b, n << c) for n in (1, 2, 3, 5) for a, b, c in _MIXED]
    return modelled(name, terms, [Measured(size, exact.ns(size), 0.0, 9) for size in sizes])


_MIXED = ((3, 2, 1), (7, 2, 1), (7, 6, 1), (7, 6, 5))


def cost_model(*models: StepModel, wake_ns: float = 0.0) -> CostModel:
    """Return what a machine costs on which these were measured."""
    return CostModel({model.name: model for model in models}, wake_ns)
