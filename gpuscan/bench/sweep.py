"""Which cases a benchmark runs: grids of them, from options or a TOML file, run one after the other.

A file, with every key and its default but ``memory``, which must be given::

    rounds = 9
    seed = 1

    [[scan]]                      # every combination of the lists
    memory = ["1TiB"]
    density = [1e-4]
    targets = [16]
    clustering = ["uniform"]      # uniform, runs, hot
    format = ["rfc"]
    device = ["cpu"]
    peers = []                    # see gpuscan.bench.peers
    walk_pages = 67108864         # of the peer kernel-walk, 80 bytes each
    capacity = 4194304            # folios per plan; by default what the store takes: 1/64 of the pages

    [[request]]
    memory = ["1TiB"]
    targets = [16]
    format = ["rfc"]
    requests = 16777216

    [[tick]]
    memory = ["1TiB"]
    targets = [16]
    format = ["rfc"]
    density = [1e-4]
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gpuscan.base.complaints import first_complaint
from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, parse_bytes
from gpuscan.bench.bed import Case, Clustering, StoreShape
from gpuscan.bench.floors import Floors
from gpuscan.bench.host import describe_host
from gpuscan.bench.peers.catalogue import open_peer
from gpuscan.bench.request import RequestSettings, request_case
from gpuscan.bench.scan import ScanSettings, scan_cases
from gpuscan.bench.tick import TickSettings, tick_case
from gpuscan.records.page_map import BLOCK_PAGES

_SCRATCH_BYTES = 256 << 20


def _pages(value: Any) -> Any:
    return parse_bytes(value) // PAGE_BYTES if isinstance(value, str) else value


Memory = Annotated[int, BeforeValidator(_pages)]
"""A size with a unit, kept as pages."""


class _Grid(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    memory: tuple[Memory, ...] = Field(min_length=1)
    targets: tuple[int, ...] = (16,)
    format: tuple[str, ...] = ("rfc",)
    device: tuple[str, ...] = ("cpu",)

    def shapes(self) -> list[StoreShape]:
        """Return the store of every combination."""
        return [
            StoreShape(n_pages, n_targets, format_name, device)
            for format_name, n_targets, n_pages, device in product(
                self.format, self.targets, self.memory, self.device
            )
        ]


class ScanGrid(_Grid):
    """Scans to measure."""

    density: tuple[float, ...] = (1e-4,)
    clustering: tuple[Clustering, ...] = ("uniform",)
    peers: tuple[str, ...] = ()
    walk_pages: int = Field(1 << 26, ge=1, le=1 << 32)
    capacity: int | None = Field(None, ge=BLOCK_PAGES)

    def cases(self, shape: StoreShape, seed: int) -> list[Case]:
        """Return what to fill a store with, one after the other."""
        return [
            Case(shape, density, clustering, seed)
            for clustering, density in product(self.clustering, self.density)
        ]


class RequestGrid(_Grid):
    """Bulk requests to measure."""

    requests: int = Field(1 << 24, ge=1, le=1 << 32)


class TickGrid(_Grid):
    """Ticks to measure."""

    density: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1e-4,)


class Sweep(BaseModel):
    """All of one benchmark."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: int = Field(9, ge=1, le=10_000)
    seed: int = Field(1, ge=0)
    threads: int | None = Field(None, ge=1)
    scan: tuple[ScanGrid, ...] = ()
    request: tuple[RequestGrid, ...] = ()
    tick: tuple[TickGrid, ...] = ()

    def n_steps(self) -> int:
        """How often :func:`run_sweep` calls ``on_step``."""
        n_cases = sum(len(grid.shapes()) * len(grid.density) * len(grid.clustering) for grid in self.scan)
        n_cases += sum(len(grid.shapes()) for grid in self.request)
        n_cases += sum(len(grid.shapes()) * len(grid.density) for grid in self.tick)
        return n_cases * (self.rounds + 1)

    def check(self) -> None:
        """Refuse what could not be run before anything is: sizes, formats, peers.

        Raises:
            InputError: something is unknown, contradictory or not installed.
        """
        for grid in (*self.request, *self.tick):
            grid.shapes()
        for scan_grid in self.scan:
            for shape in scan_grid.shapes():
                scan_grid.cases(shape, self.seed)
            for name in scan_grid.peers:
                open_peer(name)


_GRIDS: dict[str, type[BaseModel]] = {"scan": ScanGrid, "request": RequestGrid, "tick": TickGrid}


def load_sweep(path: Path) -> Sweep:
    """Read a sweep from a TOML file.

    Raises:
        InputError: it cannot be read, or a key or value is wrong.
    """
    try:
        return make_sweep(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise InputError(f"cannot read the sweep {path}: {error.strerror}; give a TOML file") from error
    except ValueError as error:  # TOML or UTF-8
        raise InputError(f"{path}: {error}; fix the TOML there") from error


def make_sweep(document: dict[str, Any], where: str) -> Sweep:
    """Return the sweep that a document describes; ``where`` begins the sentence about a wrong value.

    Raises:
        InputError: a key or value is wrong.
    """
    try:
        return Sweep.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{where}: {first_complaint(error, 'the sweep', _unknown)}") from error


def _unknown(steps: Sequence[int | str]) -> str:
    """Return the end of a sentence about an unknown key: those that there are."""
    model = next((_GRIDS[step] for step in steps[:-1] if isinstance(step, str)), Sweep)
    return f"; choose from {', '.join(model.model_fields)}"


def run_sweep(sweep: Sweep, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Run everything and return the report (see :mod:`gpuscan.bench.report`).

    Args:
        sweep: what to run.
        on_step: called ``sweep.n_steps()`` times with the name of the case at hand.

    Raises:
        InputError: the sweep cannot be run.
        RunFailedError: somebody gave a wrong answer.
    """
    sweep.check()
    host = describe_host()
    n_threads = sweep.threads or len(os.sched_getaffinity(0))
    floors = Floors(n_threads, _SCRATCH_BYTES)
    ceilings = floors.ceilings()
    scans: list[dict[str, Any]] = []
    for grid in sweep.scan:
        settings = ScanSettings(sweep.rounds, grid.peers, grid.walk_pages, n_threads, grid.capacity)
        for shape in grid.shapes():
            scans += scan_cases(shape, grid.cases(shape, sweep.seed), settings, floors, on_step)
    requests = [
        request_case(
            shape, RequestSettings(sweep.rounds, grid.requests, n_threads, sweep.seed), floors, on_step
        )
        for grid in sweep.request
        for shape in grid.shapes()
    ]
    ticks = [
        tick_case(shape, TickSettings(sweep.rounds, density, n_threads, sweep.seed), floors, on_step)
        for tick_grid in sweep.tick
        for shape, density in product(tick_grid.shapes(), tick_grid.density)
    ]
    return {
        "kind": "bench",
        "host": host,
        "settings": {"rounds": sweep.rounds, "seed": sweep.seed, "n_threads": n_threads},
        "ceilings": ceilings,
        "scans": scans,
        "requests": requests,
        "ticks": ticks,
    }
