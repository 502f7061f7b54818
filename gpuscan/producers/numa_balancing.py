"""What a workload may say about NUMA balancing, which a machine has whatever marks its pages."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from gpuscan.base.errors import InputError
from gpuscan.base.units import format_time, parse_time_ns
from gpuscan.base.values import Memory, Rate, TimeNs, bytes_of
from gpuscan.producers.options import Options
from gpuscan.sim.spec import HintFaultSpec
from gpuscan.topology.model import Topology

_SPEC = HintFaultSpec()
_NS_PER_MS = 1_000_000


def _parse_scan_period(value: Any) -> Any:
    """Return nanoseconds, or ``adaptive``."""
    if value == "adaptive":
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit; write a string such as '1s', or 'adaptive'")
    try:
        period_ns = parse_time_ns(value)
    except InputError as error:
        raise ValueError(f"{error}, or 'adaptive'") from error
    if period_ns == 0:
        raise ValueError("a scanner that never pauses has no period; give a time above 0, or 'adaptive'")
    return period_ns


ScanPeriod = Annotated[int | Literal["adaptive"], BeforeValidator(_parse_scan_period)]
"""Nanoseconds, or ``adaptive``."""


class HintFaultOptions(Options):
    """NUMA hint faults, see :class:`gpuscan.sim.spec.HintFaultSpec`."""

    scan_size: Memory = _SPEC.scan_bytes
    scan_period: ScanPeriod = _SPEC.scan_period_ns
    scan_delay: TimeNs = _SPEC.scan_delay_ns
    scan_period_min: TimeNs = _SPEC.scan_period_min_ns
    scan_period_max: TimeNs = _SPEC.scan_period_max_ns
    failure_feedback: bool = _SPEC.failure_feedback
    hot_latency: TimeNs = _SPEC.hot_latency_ns
    promote_rate_limit: Rate = _SPEC.promote_bytes_per_s
    free_memory_bypass: bool = _SPEC.free_memory_bypass
    two_stage: bool = _SPEC.two_stage
    fault_cost: TimeNs = int(_SPEC.fault_ns)
    pte_cost: TimeNs = int(_SPEC.pte_ns)

    @model_validator(mode="after")
    def _fits_milliseconds(self) -> Self:
        """NUMA balancing counts in milliseconds, and a period that came to 0 would never end."""
        if self.scan_period_min < _NS_PER_MS or self.scan_period_max < self.scan_period_min:
            raise ValueError(
                f"scan_period_min ({format_time(self.scan_period_min)}) and scan_period_max "
                f"({format_time(self.scan_period_max)}) are not in order; give the first 1ms or more, the "
                "second no less"
            )
        if 0 < self.hot_latency < _NS_PER_MS:
            raise ValueError(
                f"hot_latency is {format_time(self.hot_latency)}, and faults are timed in milliseconds; "
                "give 1ms or more, or 0s"
            )
        if self.failure_feedback and self.scan_period != "adaptive":
            raise ValueError(
                "failure_feedback lengthens a pause that is adaptive; give scan_period = 'adaptive' too"
            )
        return self

    def numa_balancing(
        self, topology: Topology, mark: Literal["request", "record"], only_lower_tier: bool
    ) -> HintFaultSpec:
        """Return how NUMA balancing works on a machine.

        Args:
            topology: the machine's.
            mark, only_lower_tier: see :class:`gpuscan.sim.spec.HintFaultSpec`.
        """
        adaptive = self.scan_period == "adaptive"
        return HintFaultSpec(
            scan_bytes=bytes_of(self.scan_size, topology.memory_bytes),
            scan_period_ns=_SPEC.scan_period_ns if adaptive else int(self.scan_period),
            mark=mark,
            only_lower_tier=only_lower_tier,
            hot_latency_ns=self.hot_latency,
            two_stage=self.two_stage,
            adaptive=adaptive,
            scan_delay_ns=self.scan_delay,
            scan_period_min_ns=self.scan_period_min,
            scan_period_max_ns=self.scan_period_max,
            failure_feedback=self.failure_feedback,
            promote_bytes_per_s=self.promote_rate_limit,
            free_memory_bypass=self.free_memory_bypass,
            fault_ns=self.fault_cost,
            pte_ns=self.pte_cost,
        )

    def spec(self, topology: Topology) -> None:
        """Return None: the machine's NUMA balancing is what marks."""

    def turns_ns(self) -> dict[str, int]:
        """Return the pause of the scanner."""
        return {"scan_period": 0 if self.scan_period == "adaptive" else int(self.scan_period)}
