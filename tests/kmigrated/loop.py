"""The closed loop of ``rfc-v1`` beside the kernel's: the share of hot memory that is near, each second.

``python -m tests.kmigrated.loop FILE...`` of files that :mod:`tests.guest.peers` printed on a kernel that has
kmigrated (``--patterns fixed``, to the end) runs ``rfc-v1`` on a simulated machine that is equal to the guest
as far as a workload can say, and prints both curves. docs/notes/kmigrated.md says what is not modelled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpuscan.engine.tick import TickReport
from gpuscan.run.scenario import build_scenario
from gpuscan.sim.patterns import SyntheticPattern
from gpuscan.topology.model import Topology
from gpuscan.topology.toml import parse_toml
from gpuscan.workload.files import workload_of

if TYPE_CHECKING:
    from vm.machine import Machine

NEAR = 0
N_SEEDS = 5
TOUCHES_PER_S = 100
"""Of each hot page. In the guest it is thousands; more change nothing, since the first one faults."""
PTE_COST = "90ns"
"""Of unmapping a page, on the metal (docs/workload.md). The scanner stays away for 32 times what it took."""

WORKLOAD = """
shows = "a process that keeps touching a quarter of its memory, all of which is far"
tick = "50ms"
demotion = {tiering}

[[processes]]
name = "touching"
memory = "128MiB"
cpus_of = [0]
placement = {{ 2 = "100%" }}
accesses_per_gib_s = {accesses_per_gib_s}

[processes.pattern]
kind = "zipf"
hot = "25%"
hot_accesses = "100%"
skew = 0
scattered = false

[producer]
kind = "hint-faults"
only_lower_tier = {tiering}

[producer.hint_faults]
scan_period = "adaptive"
scan_delay = "1ms"
pte_cost = "{pte_cost}"
"""
"""NUMA balancing as it is by default; the process has run for longer than its delay before that begins."""


def equal_machine(machine: Machine) -> Topology:
    """Return the guest's nodes, distances and links."""
    rows = ", ".join(f'"{" ".join(map(str, row))}"' for row in machine.distance)
    lines = [f"distances = [{rows}]"]
    for nid, mib in enumerate(machine.memory_mib):
        cpus = f'cpus = "{nid}"' if nid < 2 else 'kind = "cxl"'
        lines += ["[[nodes]]", f"nid = {nid}", cpus, f'memory = "{mib}MiB"']
    return parse_toml("\n".join(lines), "the guest's machine", "guest")


def simulated(topology: Topology, mode: int, for_s: int, seed: int, pte_cost: str = PTE_COST) -> list[float]:
    """Return the share of the hot pages that are near after each second."""
    text = WORKLOAD.format(
        tiering=str(mode == 2).lower(),
        accesses_per_gib_s=TOUCHES_PER_S * (1 << 30) // 4096 // 4,
        pte_cost=pte_cost,
    )
    document = tomllib.loads(text) | {"name": "touching", "ticks": for_s * 20, "seed": seed}
    scenario = build_scenario(workload_of("the loop", document), topology=topology, design="rfc-v1")
    machine = scenario.machine
    (process,) = machine.processes
    assert isinstance(process.pattern, SyntheticPattern)
    hot = process.first_folio + process.pattern.hot_folios(0)
    shares: list[float] = []

    def look(tick: TickReport) -> None:
        if (tick.tick + 1) % 20 == 0:
            frames = machine.space.frame_of[hot].astype(np.int64)
            shares.append(float((machine.page_map.nid_of_flat(frames) == NEAR).mean()))

    scenario.run(look)
    return shares


def measured(paths: Iterable[Path], mode: int) -> list[list[float]]:
    """Return the curves that a kernel's runs had, one for each round."""
    runs = [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.strip()]
    wanted = (f"kmigrated-{mode}", "fixed", False)
    return [
        run["hot_near_each_s"]
        for run in runs
        if (run["method"], run["pattern"], run["until_enough"]) == wanted and "failed" not in run
    ]


def curves_table(columns: dict[str, Sequence[Sequence[float]]]) -> str:
    """Return a row for each second: of every column's curves the median, and the range where there is one.

    The table ends with the first of the rows at its end that are all alike.
    """
    n_s = min(len(curve) for curves in columns.values() for curve in curves)
    cells = [
        [_cell([curve[second] for curve in curves]) for curves in columns.values()] for second in range(n_s)
    ]
    while len(cells) > 1 and cells[-1] == cells[-2]:
        cells.pop()
    rows = [["after", *columns], *([f"{second} s", *row] for second, row in enumerate(cells, 1))]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _cell(shares: Sequence[float]) -> str:
    least, most = (f"{share:.0%}" for share in (min(shares), max(shares)))
    return f"{statistics.median(shares):.1%}" + (f" ({least}-{most})" if least != most else "")


def main() -> None:
    """Run the model as long as the kernel was watched, and print the table."""
    if not TYPE_CHECKING:  # which knows it as vm.machine, as the tests do
        from tests.vm.machine import Machine

    parser = argparse.ArgumentParser(prog="python -m tests.kmigrated.loop", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--pte-cost", default=PTE_COST, help="of unmapping a page, in the model")
    options = parser.parse_args()
    columns: dict[str, Sequence[Sequence[float]]] = {}
    topology = equal_machine(Machine())
    for mode in (1, 2):
        real = measured(options.files, mode)
        if not real:
            sys.exit(f"no whole run of kmigrated-{mode} on the fixed pattern in {options.files[0]}")
        seeds = range(1, options.seeds + 1)
        columns[f"kernel, mode {mode}, {len(real)} rounds"] = real
        columns[f"rfc-v1, mode {mode}, {len(seeds)} seeds"] = [
            simulated(topology, mode, min(map(len, real)), seed, options.pte_cost) for seed in seeds
        ]
    sys.stdout.write(curves_table(columns) + "\n")


if __name__ == "__main__":
    main()
