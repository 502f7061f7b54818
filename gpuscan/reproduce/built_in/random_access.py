"""Whether any movement pays where accesses are nearly random: cost of moves against latency gained."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuscan.reproduce.at_fault import promote_at_fault
from gpuscan.reproduce.contract import Experiment, Outcome, Setting, Table
from gpuscan.sim.frames import index_dtype
from gpuscan.sim.loops import warm
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.topology.toml import parse_toml

_FAST_MIB, _SLOW_MIB = 512, 4096
_MACHINE = f"""\
name = "small-tiers"
distances = ["10 14", "14 10"]
[[nodes]]
nid = 0
cpus = "0-15"
memory = "{_FAST_MIB}MiB"
[[nodes]]
nid = 1
kind = "cxl"
memory = "{_SLOW_MIB}MiB"
[[links]]
initiator = 0
memory = 0
latency = "110ns"
bandwidth = "200GB/s"
[[links]]
initiator = 0
memory = 1
latency = "250ns"
bandwidth = "30GB/s"
"""
_FAST, _SLOW = 0, 1
_PAGES_PER_MIB = 256
_SIZES = (0.5, 1.0, 2.0, 4.0)
"""Working sets, as multiples of the fast memory."""
_PATTERNS = {
    "uniform": PatternSpec("uniform"),
    "half takes 60 %": PatternSpec("zipf", 0.5, 0.2, skew=0.0),
    "a fifth takes 60 %": PatternSpec("zipf", 0.2, 0.5, skew=0.0),
    "a tenth takes 90 %": PatternSpec("zipf", 0.1, 0.889, skew=0.0),
}
"""The rest of the accesses goes to all pages, the hot ones among them."""
_TICK_NS = 500_000_000
_TICKS = 80
_COUNTED = 10
"""Ticks at the end, whose latency is compared with that of the first one."""
_TOUCHES_PER_PAGE_S = 1.0
_SCAN_BYTES = 128 << 20


@dataclass(slots=True)
class _Seen:
    """What the ticks of a run said."""

    latency_ns: list[float] = field(default_factory=list)
    producer_ns: float = 0.0
    demoted_pages: float = 0.0

    def tick(self, metrics: dict[str, float]) -> None:
        self.latency_ns.append(metrics["mean_latency_ns"])
        self.producer_ns += metrics["producer_cost_ns"]
        self.demoted_pages += metrics["demoted_pages"]


def _row(size: float, name: str, seed: int) -> tuple[str | float, ...]:
    n_pages = int(size * _FAST_MIB * _PAGES_PER_MIB)
    # What fits lies on the slow tier at first; what does not has filled the fast one.
    placement = ((_SLOW, 1.0),) if size < 1 else ((_FAST, 1.0),)
    rate = n_pages * _TOUCHES_PER_PAGE_S
    process = ProcessSpec("random", n_pages, (_FAST,), rate, placement, pattern=_PATTERNS[name])
    topology = parse_toml(_MACHINE, "the machine of random-access")
    warm(index_dtype(topology.page_map.n_pages))
    hint_faults = HintFaultSpec(scan_bytes=_SCAN_BYTES, free_memory_bypass=size < 1)
    spec = MachineSpec((process,), hint_faults, seed=seed)
    seen = _Seen()
    counters = promote_at_fault(
        SimulatedMachine(topology, spec), _TICKS, _TICK_NS, lambda tick, metrics: seen.tick(dict(metrics))
    )
    before = seen.latency_ns[0]
    after = sum(seen.latency_ns[-_COUNTED:]) / _COUNTED
    moved = counters["pgpromote_success"] + seen.demoted_pages
    cost_ns = counters["migrate_ns"] + seen.demoted_pages * spec.cost.page_ns + seen.producer_ns
    gain_ns = before - after
    # What is gained at an access pays what was spent so far, if nothing moves any more.
    pays = cost_ns / gain_ns / n_pages if gain_ns > 0.5 else "never"
    return (f"{size:g} x, {name}", moved / n_pages, before, after, gain_ns, cost_ns / n_pages, pays)


def _run(setting: Setting) -> Outcome:
    wanted = [(size, name) for name in _PATTERNS for size in _SIZES]
    rows = []
    for number, (size, name) in enumerate(wanted):
        setting.on_step(f"{size:g} x the fast memory, {name}", number / len(wanted))
        rows.append(_row(size, name, setting.seed))
    columns = (
        "working set",
        "moves per page",
        "ns before",
        "ns after",
        "gain, ns",
        "cost per page, ns",
        "pays after touches per page",
    )
    return Outcome(
        {}, (Table("40 s of NUMA balancing with promotion, kswapd demoting", columns, tuple(rows)),)
    )


EXPERIMENT = Experiment(
    about="does any movement pay for near-random access: cost of moves against latency gained",
    source=(
        "asked in the review of RFC v1 of kmigrated and of batched migration (linux-mm, 2025 and "
        "2026); nobody has "
        "published figures"
    ),
    machine=f"{_FAST_MIB} MiB of DRAM (110 ns) and {_SLOW_MIB} MiB of CXL memory (250 ns)",
    published=(),
    orders=(),
    not_modelled=(
        "time in which a thread waits for its own fault is in the cost, what it could not do "
        "meanwhile is not",
        "the bandwidth of moves",
    ),
    fitted=(),
    scale="none: nothing is measured",
    takes_topology=False,
    draw=None,
    run=_run,
)
