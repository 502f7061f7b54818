"""The runs of :mod:`gpuscan.compare.equal_cost`: a design at an interval, over the beginning of a list."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.compare.cost_model import CostModel
from gpuscan.compare.equal_cost import LEAST_REQUESTS, MOST_REQUESTS, EqualCost, search
from gpuscan.compare.open_loop import OpenResult, run_model
from gpuscan.compare.request_list import RequestList, write_request_list
from gpuscan.compare.settings import Settings
from gpuscan.compare.static_machine import StillPages
from gpuscan.compare.store_loop import StoreLoop
from gpuscan.compare.stream import Stream
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.contract import NotMeasured
from gpuscan.sim.machine import SimulatedMachine


@dataclass(frozen=True, slots=True)
class EqualCostJob:
    """All runs of a design, for a process of its own.

    Attributes:
        design: its name.
        settings, stream, requests: of the comparison.
        model: what steps cost.
        own: the run at the design's own interval.
        directory: where the beginnings of the list are written.
    """

    design: str
    settings: Settings
    stream: Stream
    requests: RequestList
    model: CostModel
    own: OpenResult
    directory: Path

    @property
    def name(self) -> str:
        """See :class:`gpuscan.compare.jobs.Job`."""
        return f"{self.design}, at equal cost"

    def run(self, on_share: Callable[[float], None]) -> EqualCost:
        """See :class:`gpuscan.compare.jobs.Job`."""
        design = DESIGNS.get(self.design)
        if isinstance(design.scan, NotMeasured):
            on_share(1)
            return EqualCost((), f"not measured: {design.scan.why}")
        times_ns = self.requests.entries()["time_ns"]
        list_ns = int(times_ns[min(MOST_REQUESTS, len(times_ns)) - 1])
        at = partial(self._at, self.stream.open().machine)
        return search(self.own, list_ns, at, self._spent_ns, self._takes, on_share)

    def _at(self, machine: SimulatedMachine, interval_ns: int, upto_ns: int) -> OpenResult:
        """Run the design at an interval over the entries up to a time, and some thousand at least."""
        entries = self.requests.entries()
        n = int(np.searchsorted(entries["time_ns"], upto_ns, side="right"))
        n = min(max(n, LEAST_REQUESTS), MOST_REQUESTS, len(entries))
        path = self.directory / f"{self.design}-{interval_ns}.npy"
        part = replace(write_request_list(np.array(entries[:n]), path), hint_faults=self.requests.hint_faults)
        settings = self._settings(interval_ns)
        if DESIGNS.get(self.design).runs_on_a_store:
            result = StoreLoop(self.design, settings, machine, part).run()
        else:
            costs = self.model.step_costs(self.design)
            pages = StillPages(machine)
            result = run_model(self.design, settings, pages, part, costs, waits_out=True)
        path.unlink()
        gc.collect()  # as between jobs
        return result

    def _settings(self, interval_ns: int) -> Settings:
        parameters = replace(self.settings.parameters, interval_ns=interval_ns)
        return replace(self.settings, parameters=parameters, n_threads=1)

    def _takes(self, interval_ns: int) -> bool:
        try:
            self._settings(interval_ns).check(self.design)
        except InputError:
            return False
        return True

    def _spent_ns(self, result: OpenResult) -> float:
        return self.model.spent_ns(self.design, self.settings.topology.page_map.n_pages, result)
