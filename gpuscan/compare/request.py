"""What a comparison is asked to be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gpuscan.base.described import Option, described, like, values_like
from gpuscan.base.errors import InputError
from gpuscan.run.request import RunRequest
from gpuscan.workload import DEFAULT_COMPARISON, DEFAULT_COMPARISON_MEMORY

ALL_DESIGNS = "all"


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What was asked for: one run's workload and machine, and what is to be compared on them."""

    workload: str = like(RunRequest, "workload", default=DEFAULT_COMPARISON)
    designs: str = described(ALL_DESIGNS, Option("Designs, with commas between, or all.", metavar="NAMES"))
    trace: Path | None = like(RunRequest, "trace")
    given: tuple[str, ...] = like(RunRequest, "given")
    machine: Path | None = like(RunRequest, "machine", help="Compare on a captured machine.")
    topology: str | None = like(
        RunRequest,
        "topology",
        help="Compare on a preset, a file that describes a machine or host, not the workload's machine.",
    )
    split_cxl: str | None = like(RunRequest, "split_cxl")
    tiers: tuple[str, ...] = like(RunRequest, "tiers")
    memory: str | None = like(RunRequest, "memory")
    ticks: int | None = like(RunRequest, "ticks", help="Ticks of simulated time, instead of the workload's.")
    seed: int | None = like(RunRequest, "seed", help="First seed.")
    n_seeds: int = described(
        1, Option("Run so many seeds and show the spread.", ("--seeds",), low=1, high=1000)
    )
    n_requests: int | None = described(
        None,
        Option("Requests of the open loop's list at most, instead of all of them.", ("--requests",), low=1),
    )
    n_accesses: int | None = described(
        None, Option("Accesses at most, instead of all that the workload makes.", ("--accesses",), low=1)
    )
    grid: tuple[str, ...] = described(
        (),
        Option("Try interval, batch or threshold values; can be repeated.", metavar="KEY=VALUES"),
    )
    objective: str | None = described(
        None,
        Option("What the best cell of a grid is best in.  [default: fast_share]", metavar="COLUMN"),
    )
    explain: str | None = described(
        None, Option("Say what a row of the table means (all: every row), and end.", metavar="ROW")
    )
    overrides: tuple[str, ...] = like(RunRequest, "overrides")
    jobs: int | None = described(
        None, Option("Models that run at once; by default one per CPU.", metavar="N", low=1)
    )
    side_costs: bool = described(
        True, Option("Measure producers, a neighbour, and delays at equal cost too.", has_no=True)
    )
    out: Path | None = described(
        None, Option("Keep the table, every point (Parquet) and plots there.", metavar="DIR")
    )
    plots: bool = described(True, Option("Draw plots into --out (needs matplotlib).", has_no=True))
    force: bool = described(False, Option("Replace an earlier comparison at --out."))
    markdown: bool = described(False, Option("Print the table as Markdown."))

    def run_request(self) -> RunRequest:
        """Return the run whose workload and machine it is.

        A topology may be given under the name of a captured machine, as in earlier versions.
        """
        run = RunRequest(**values_like(RunRequest, self)).with_named_machine()
        asked = (self.memory, self.machine, self.topology, self.trace)
        is_sized = any(asked) or any(each.startswith("topology.") for each in self.overrides)
        if self.workload == DEFAULT_COMPARISON and not is_sized:
            return replace(run, memory=DEFAULT_COMPARISON_MEMORY)
        return run

    @property
    def all_designs(self) -> bool:
        """Whether those that do not apply are left out, since nobody named one."""
        return self.designs.strip() == ALL_DESIGNS

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            InputError: some do.
        """
        if self.objective is not None and not self.grid:
            raise InputError("--objective says what the best cell of a grid is; leave it out, or add --grid")
        if self.n_seeds > 1 and (self.grid or self.trace is not None):
            raise InputError("--seeds goes with neither --grid nor --trace; leave one of them out")
