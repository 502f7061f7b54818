"""What every run of a comparison shares: the machine, the policy, and the parameters of one grid cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from gpuscan.compare.steps.look_up import check_steps
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.model import Model
from gpuscan.designs.tunables import Tuning
from gpuscan.engine.policy import Policy
from gpuscan.sim.spec import MachineSpec
from gpuscan.topology import Topology

if TYPE_CHECKING:
    from gpuscan.compare.start import FrameFiles
    from gpuscan.compare.stream import TraceStream


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
            mark: what the producer does; some designs count only accesses that are recorded.
        """
        takes = DESIGNS.get(design).takes_threshold(mark)
        return replace(self, threshold=self.threshold if takes else None)


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
        frames: of a captured machine.
    """

    topology: Topology
    spec: MachineSpec
    policy: Policy
    horizon_ns: int
    n_threads: int
    parameters: Parameters = Parameters()
    trace: TraceStream | None = None
    frames: FrameFiles | None = None

    @property
    def mark(self) -> Literal["request", "record"]:
        """What the producer asks gpuscan for."""
        return self.spec.hint_faults.mark if self.trace is None else self.trace.workload.producer.mark

    def policy_of(self, design: str) -> Policy:
        """Return the policy a design runs under: with a model, ``interval_ns`` is the tick of its machine."""
        policy, wanted = self.policy, self.parameters
        if wanted.threshold is not None:
            policy = replace(policy, freq_threshold=wanted.threshold)
        if DESIGNS.get(design).runs_on_a_store:
            if wanted.interval_ns is not None:
                policy = replace(policy, interval_ns=wanted.interval_ns)
            if wanted.batch_folios is not None:
                policy = replace(policy, batch_pages=wanted.batch_folios)
            return policy
        return replace(policy, interval_ns=self.model_tick_ns)

    @property
    def model_tick_ns(self) -> int:
        """The tick of a model's machine: a thread walks once a tick at most, so none may be longer than its
        sleep."""
        wanted_ns = self.parameters.interval_ns
        return self.policy.interval_ns if wanted_ns is None else min(self.policy.interval_ns, wanted_ns)

    def check(self, design: str) -> None:
        """Refuse parameters and a policy that a design does not take.

        Raises:
            InputError: the kernel, or gpuscan's record, would not hold one of them.
        """
        wanted = self.parameters
        tuning = Tuning(self.policy_of(design), self.mark, wanted.interval_ns, wanted.batch_folios)
        DESIGNS.get(design).check(tuning)

    def tune(self, model: Model) -> None:
        """Give a model the parameters that it shares with all of them."""
        if self.parameters.interval_ns is not None:
            model.sleep_ns = self.parameters.interval_ns
        if self.parameters.batch_folios is not None:
            model.batch_folios = self.parameters.batch_folios


def ticks_within(spec: MachineSpec, tick_ns: int, ticks: int, n_accesses: int) -> int:
    """Return how many of ``ticks`` make ``n_accesses`` at most, at least one."""
    per_tick = sum(process.accesses_per_s for process in spec.processes) * tick_ns / 1e9
    return max(1, min(ticks, int(n_accesses / per_tick))) if per_tick else ticks


def wanted_designs(names: str) -> tuple[str, ...]:
    """Return the designs in a list such as ``rfc-v1,per-folio``, or ``all`` of them.

    Raises:
        InputError: one is unknown, cannot be used, or declares a step that is none.
    """
    listed = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip())) or ("",)
    wanted = DESIGNS.in_order if names.strip() == "all" else tuple(map(DESIGNS.get, listed))
    for design in wanted:
        check_steps(design)
    return tuple(design.name for design in wanted)
