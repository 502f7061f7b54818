"""``gpuscan bench tick``: the whole path, from marks to booked batches, with nothing simulated around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.bench.bed import Bed, StoreShape
from gpuscan.bench.floors import Floors
from gpuscan.bench.timing import Contestant, Kind, race, stopwatch
from gpuscan.engine.policy import Policy
from gpuscan.engine.stages import MigrateResult, Produced, Sampled
from gpuscan.engine.tick import Engine, TickReport


class RandomMarks:
    """A source that asks for the same random pages every tick; all of them moved away in between."""

    def __init__(self, pfns: NDArray[np.int64], nids: NDArray[np.int32]) -> None:
        self._sampled = Sampled((Produced("request", pfns, nids),))

    def sample(self, now_ns: int, duration_ns: int) -> Sampled:
        """Return the marks."""
        return self._sampled

    def finished(self) -> bool:
        """Never."""
        return False


class AcceptingMigrator:
    """A migrator that says every folio was moved, and takes no time."""

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        """Return that all were moved."""
        return MigrateResult(np.zeros(len(pfns), dtype=np.int16), {}, 0.0)


@dataclass(frozen=True, slots=True)
class TickSettings:
    """How ticks are measured: timed ``rounds``, ``density`` of pages marked per tick."""

    rounds: int
    density: float
    n_threads: int
    seed: int


def tick_case(
    shape: StoreShape, settings: TickSettings, floors: Floors, on_step: Callable[[str], None]
) -> dict[str, Any]:
    """Measure engine ticks: mark, scan, cut batches, migrate (a no-op), book.

    Args:
        shape: the store; its format must hold a target.
        settings: how many marks, how often.
        floors: the ceilings, with as many threads.
        on_step: called after each of ``settings.rounds + 1`` steps.

    Returns:
        One document.

    Raises:
        RunFailedError: marks were lost.
    """
    if shape.n_targets == 1:
        raise InputError("a tick is measured between targets; give at least 2")
    n_marks = max(1, round(shape.n_pages * settings.density))
    name = f"ticks of {n_marks:,} marks over {shape.n_pages:,} pages"
    with Bed(shape, settings.n_threads) as bed:
        rng = np.random.default_rng(settings.seed)
        pfns = rng.integers(0, shape.n_pages, n_marks)
        engine = Engine(
            bed.store,
            RandomMarks(pfns, bed.targets(pfns, rng)),
            AcceptingMigrator(),
            Policy(record_format=shape.format_name),
        )
        reports: list[TickReport] = []

        def tick() -> int:
            started = time.perf_counter_ns()
            report = engine.tick()
            elapsed_ns = time.perf_counter_ns() - started
            if report.migrated + report.refreshed != n_marks:
                raise RunFailedError(f"{report.migrated} of {n_marks} marks were moved; report it")
            reports.append(report)
            return elapsed_ns

        tick()
        floors.read(bed.records)
        on_step(name)
        reports.clear()
        contestants = [
            Contestant("read", Kind.FLOOR, "cold", stopwatch(lambda: floors.read(bed.records))),
            Contestant("gpuscan tick", Kind.OURS, "cold", tick),
        ]
        rows = race(contestants, settings.rounds, floors.flush_caches, lambda: on_step(name))
        scan_ns = float(np.median([report.scan_ns for report in reports]))
        rows[1] |= {
            "of_floor": rows[1]["median_ns"] / rows[0]["median_ns"],
            "scan_ns": scan_ns,
            "ns_per_mark": rows[1]["median_ns"] / n_marks,
        }
        return {
            "n_pages": shape.n_pages,
            "n_targets": shape.n_targets,
            "format": shape.format_name,
            "device": bed.store.backend.name,
            "density": settings.density,
            "n_marks": n_marks,
            "n_batches": reports[-1].n_batches,
            "path": reports[-1].path,
            "results": rows,
        }
