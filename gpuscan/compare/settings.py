"""What every run of a comparison shares: the machine, the policy, and the parameters of one grid cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from gpuscan.designs.design import Design
from gpuscan.designs.registry import DESIGNS, require_design
from gpuscan.designs.tunables import Bound, check_tunables
from gpuscan.engine.policy import Policy
from gpuscan.records.formats import record_format
from gpuscan.sim.spec import MachineSpec
from gpuscan.topology import Topology

if TYPE_CHECKING:
    from gpuscan.compare.stream import TraceStream

OURS = "gpuscan"
UNTIMED = frozenset({"hot-list"})
"""Designs none of whose steps is measured: what a producer takes that searches a chain and sifts a heap, and
a thread that takes from it, depends on how long both are."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters that a grid varies; None leaves a design what it was published with.

    Attributes:
        interval_ns: pause between two scans of a node.
        batch_folios: folios per batch.
        threshold: accesses that make a page READY.
    """

    interval_ns: int | None = None
    batch_folios: int | None = None
    threshold: int | None = None

    def applying_to(self, design: str, mark: Literal["request", "record"] = "request") -> Parameters:
        """Return these without what a design does not have: only some have a threshold.

        Args:
            design: its name.
            mark: what the producer does; gpuscan counts accesses that are recorded.
        """
        counts = design in COUNTING_DESIGNS or (design == OURS and mark == "record")
        return replace(self, threshold=self.threshold if counts else None)


COUNTING_DESIGNS = frozenset({"section-flag"})
"""Models that count accesses up to a threshold that can be set. kpromoted's is a constant; all others act on
the first access."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One comparison.

    Attributes:
        topology, spec: the machine.
        policy: of the workload; its interval is the tick.
        horizon_ns: simulated time of the closed loop.
        n_threads: threads of gpuscan's scans.
        parameters: of this cell.
        trace: replayed instead of the processes' accesses.
    """

    topology: Topology
    spec: MachineSpec
    policy: Policy
    horizon_ns: int
    n_threads: int
    parameters: Parameters = Parameters()
    trace: TraceStream | None = None

    @property
    def mark(self) -> Literal["request", "record"]:
        """What the producer asks gpuscan for."""
        return self.spec.hint_faults.mark if self.trace is None else self.trace.workload.producer.mark

    def policy_of(self, design: str) -> Policy:
        """Return the policy a design runs under: with a model, ``interval_ns`` is the tick of its machine."""
        policy, wanted = self.policy, self.parameters
        if wanted.threshold is not None:
            policy = replace(policy, freq_threshold=wanted.threshold)
        if design == OURS:
            if wanted.interval_ns is not None:
                policy = replace(policy, interval_ns=wanted.interval_ns)
            if wanted.batch_folios is not None:
                policy = replace(policy, batch_pages=wanted.batch_folios)
        elif wanted.interval_ns is not None:
            # A thread walks once a tick at most, so no tick may be longer than its sleep.
            policy = replace(policy, interval_ns=min(policy.interval_ns, wanted.interval_ns))
        return policy

    def check(self, design: str) -> None:
        """Refuse parameters and a policy that a design does not take.

        Raises:
            InputError: the kernel, or gpuscan's record, would not hold one of them.
        """
        policy, wanted = self.policy_of(design), self.parameters
        if design != OURS:
            check_tunables(design, policy, sleep_ns=wanted.interval_ns, batch_folios=wanted.batch_folios)
        elif self.mark == "record":
            fmt = record_format(policy.record_format)
            what = f"what {fmt.name} records count to"
            Bound("policy.freq_threshold", policy.freq_threshold, 1, fmt.freq.max, "", what).check(design)

    def tune(self, design: Design) -> None:
        """Give a model the parameters that it shares with all of them."""
        if self.parameters.interval_ns is not None:
            design.sleep_ns = self.parameters.interval_ns
        if self.parameters.batch_folios is not None:
            design.batch_folios = self.parameters.batch_folios


def ticks_within(spec: MachineSpec, tick_ns: int, ticks: int, n_accesses: int) -> int:
    """Return how many of ``ticks`` make ``n_accesses`` at most, at least one."""
    per_tick = sum(process.accesses_per_s for process in spec.processes) * tick_ns / 1e9
    return max(1, min(ticks, int(n_accesses / per_tick))) if per_tick else ticks


def wanted_designs(names: str) -> tuple[str, ...]:
    """Return the designs in a list such as ``rfc-v1,gpuscan``, or ``all`` of them.

    Raises:
        InputError: one is unknown.
    """
    if names.strip() == "all":
        return (*DESIGNS, OURS)
    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in wanted or ("",):
        if name != OURS:
            require_design(name)
    return wanted
