"""A comparison's steps on little memory, for tests of what becomes of the figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from gpuscan.base.program import PROGRAM
from gpuscan.compare import cost_model, side_costs
from gpuscan.compare.steps import look_up, scans
from gpuscan.designs import steps

_GIB_PAGES = 1 << 18
_SIZES = {"pages": (_GIB_PAGES, 3 * _GIB_PAGES, 2 * _GIB_PAGES), "entries": (1 << 12, 1 << 14, 1 << 13)}
_STORE_SIZES = (4 * _GIB_PAGES, 12 * _GIB_PAGES, 8 * _GIB_PAGES)
N_PAGES, N_MARKS = 1 << 19, 1 << 12


@contextmanager
def small_steps() -> Iterator[None]:
    """Measure every step of the table on a fraction of its sizes, and side costs on 2 GiB."""
    small = {
        name: replace(step, sizes=_STORE_SIZES if name == PROGRAM else _SIZES.get(step.unit, step.sizes))
        for name, step in scans.SCAN_STEPS.items()
    }
    with (
        mock.patch.object(scans, "SPREAD_PAGES", 1 << 14),
        mock.patch.object(steps, "ROUNDS", 3),
        mock.patch.object(cost_model, "SCAN_STEPS", small),
        mock.patch.object(look_up, "SCAN_STEPS", small),
        mock.patch.object(side_costs, "N_PAGES", N_PAGES),
        mock.patch.object(side_costs, "_N_MARKS", N_MARKS),
    ):
        yield
