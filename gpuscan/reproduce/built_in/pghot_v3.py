"""The micro-benchmark of pghot v3: 8 GiB on a CXL node, promoted by NUMA balancing and by pghot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.designs.engine import design_engine
from gpuscan.engine.policy import Policy
from gpuscan.reproduce.at_fault import promote_at_fault
from gpuscan.reproduce.contract import Experiment, Order, Outcome, Published, Setting
from gpuscan.sim.frames import PMD_ORDER, index_dtype
from gpuscan.sim.loops import warm
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.topology.toml import parse_toml

_SCALE = 16
"""What memory is divided by: machine, benchmark and what a visit of the scanner unmaps."""
_MACHINE = f"""\
name = "zen5-cxl"
distances = ["10 32 50", "32 10 60", "255 255 10"]
[[nodes]]
nid = 0
cpus = "0-95,192-287"
memory = "{128460 // _SCALE}MiB"
[[nodes]]
nid = 1
cpus = "96-191,288-383"
memory = "{128893 // _SCALE}MiB"
[[nodes]]
nid = 2
kind = "cxl"
memory = "{257993 // _SCALE}MiB"
"""
_THREADS_NID, _MEMORY_NID = 0, 2
_PAGES = (8 << 30) // _SCALE >> PAGE_SHIFT
_SCANNED_BYTES = (256 << 20) // _SCALE
_TICK_NS = 100_000_000
_TICKS = 500
"""50 s: NUMA balancing is through the benchmark's memory after 32, at 256 MiB a second."""
_ACCESSES_PER_S = 1_500_000.0 / _SCALE
"""Sampled: a page is touched within 1.4 s in the mean. 64 threads touch it far more often."""
_DESIGN = "section-flag"
_KINDS = {"anon": "anonymous pages", "file": "file pages", "thp": "THP"}


def _machine(kind: str, seed: int) -> SimulatedMachine:
    process = ProcessSpec(
        "micro-benchmark",
        _PAGES,
        (_THREADS_NID,),
        _ACCESSES_PER_S,
        ((_MEMORY_NID, 1.0),),
        order=PMD_ORDER if kind == "thp" else 0,
        file_share=1.0 if kind == "file" else 0.0,
        pattern=PatternSpec("uniform"),
    )
    topology = parse_toml(_MACHINE, "the machine of pghot-v3")
    warm(index_dtype(topology.page_map.n_pages))
    spec = MachineSpec((process,), HintFaultSpec(scan_bytes=_SCANNED_BYTES), seed=seed)
    return SimulatedMachine(topology, spec)


def _pghot(machine: SimulatedMachine, on_tick: Callable[[int], None]) -> Counter[str]:
    # One access promotes, as in the published runs with hint faults as the source.
    policy = Policy(record_format="pghot-compact", interval_ns=_TICK_NS, freq_threshold=1)
    engine = design_engine(_DESIGN, machine, policy)
    return Counter(engine.run(_TICKS, lambda report: on_tick(report.tick)).counters)


def _numa_balancing(machine: SimulatedMachine, on_tick: Callable[[int], None]) -> Counter[str]:
    return promote_at_fault(machine, _TICKS, _TICK_NS, lambda tick, metrics: on_tick(tick))


_WAYS = {"numab": ("NUMA balancing", _numa_balancing), "pghot": ("pghot", _pghot)}


def _run(setting: Setting) -> Outcome:
    figures: dict[str, float] = {}
    wanted = [(kind, way) for kind in _KINDS for way in _WAYS]
    for number, (kind, way) in enumerate(wanted):
        what, run = _WAYS[way]

        def on_tick(tick: int, said: str = f"{_KINDS[kind]}, {what}", number: int = number) -> None:
            setting.on_step(said, (number + (tick + 1) / _TICKS) / len(wanted))

        counters = run(_machine(kind, setting.seed), on_tick)
        counted = "thp_migration_success" if kind == "thp" else "pgpromote_success"
        figures[f"{kind} {way}"] = counters[counted] * _SCALE
    return Outcome(figures)


_THP_UNKNOWN = (
    "how many of the 8 GiB were still huge when the benchmark began, after its memory had been put "
    "on the CXL "
    "node, is not published; here all 4,096 are, and both ways move all of them"
)
_NOBODY_HOLDS = (
    "nobody holds a page here when it faults, so NUMA balancing moves all, as pghot does; on the "
    "real machine it "
    "missed 8 pages of memory and 17,024 of a file"
)


def _count(key: str, what: str, value: int, missing: str = "") -> Published:
    return Published(key=key, what=what, value=value, unit="", kind="count", missing=missing)


EXPERIMENT = Experiment(
    about="8 GiB on a CXL node, touched at random by 64 threads of node 0: what is promoted",
    source=(
        "B. Rao, Re: [RFC PATCH v3 0/8] mm: Hot page tracking and promotion infrastructure, linux-mm, "
        "2025-11-10; that mail was not at hand. The machine is that of his mails of 2026-02-23 and "
        "2026-05-05, "
        "too (lkml.iu.edu/hypermail/linux/kernel/2605.0/05085.html)"
    ),
    machine=(
        "AMD Zen 5, three nodes, 128460, 128893 and 257993 MB, distances 10 32 50 / 32 10 60 / 255 255 10"
    ),
    published=(
        _count("anon numab", "pages promoted, NUMA balancing", 2_097_144),
        _count("anon pghot", "pages promoted, pghot", 2_097_152),
        _count("file numab", "file pages promoted, NUMA balancing", 2_080_128),
        _count("file pghot", "file pages promoted, pghot", 2_097_152),
        _count("thp numab", "THP migrated, NUMA balancing", 3_754, _THP_UNKNOWN),
        _count("thp pghot", "THP migrated, pghot", 1_278, _THP_UNKNOWN),
    ),
    orders=(
        Order("pages promoted", ("anon numab", "anon pghot"), _NOBODY_HOLDS),
        Order("file pages promoted", ("file numab", "file pghot"), _NOBODY_HOLDS),
        Order("THP migrated", ("thp pghot", "thp numab"), _THP_UNKNOWN),
    ),
    not_modelled=(
        "pages that are off the LRU, locked or referenced by others just when they are wanted",
        "dirty file pages that are written back meanwhile: all are clean here",
        "v3 itself: section-flag is v7, with hint faults as the only source and one access to promote",
        "the adaptive scan period: 256 MiB a second here",
    ),
    fitted=(),
    scale=(
        f"machine and memory by 1/{_SCALE}, and counts times {_SCALE}; 50 s, a pass of NUMA "
        f"balancing takes 32"
    ),
    takes_topology=False,
    draw=None,
    run=_run,
)
