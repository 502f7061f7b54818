"""What a workload file may say about its producer: which kind, and the options of each."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from gpuscan.base.units import PAGE_BYTES, format_bytes, format_time
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.spec import ABitSpec, HintFaultSpec, HotnessUnitSpec, ProducerSpec, SamplerSpec
from gpuscan.topology.model import Topology
from gpuscan.workload.values import Bytes, Memory, Model, Rate, ScanPeriod, Share, TimeNs, bytes_of

_FAULTS, _SAMPLER, _A_BIT, _UNIT = HintFaultSpec(), SamplerSpec(), ABitSpec(), HotnessUnitSpec()
_NS_PER_MS = 1_000_000


class HintFaults(Model):
    """NUMA hint faults, see :class:`gpuscan.sim.spec.HintFaultSpec`."""

    scan_size: Memory = _FAULTS.scan_bytes
    scan_period: ScanPeriod = _FAULTS.scan_period_ns
    scan_delay: TimeNs = _FAULTS.scan_delay_ns
    scan_period_min: TimeNs = _FAULTS.scan_period_min_ns
    scan_period_max: TimeNs = _FAULTS.scan_period_max_ns
    failure_feedback: bool = _FAULTS.failure_feedback
    hot_latency: TimeNs = _FAULTS.hot_latency_ns
    promote_rate_limit: Rate = _FAULTS.promote_bytes_per_s
    free_memory_bypass: bool = _FAULTS.free_memory_bypass
    two_stage: bool = _FAULTS.two_stage
    fault_cost: TimeNs = int(_FAULTS.fault_ns)
    pte_cost: TimeNs = int(_FAULTS.pte_ns)

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


class Sampler(Model):
    """An access sampler, see :class:`gpuscan.sim.spec.SamplerSpec`."""

    period: Annotated[int, Field(ge=1, lt=2**40)] = _SAMPLER.period
    min_latency: TimeNs = int(_SAMPLER.min_latency_ns)
    useless: Share = _SAMPLER.useless_share
    sample_cost: TimeNs = int(_SAMPLER.sample_ns)


class ABit(Model):
    """Walks over page tables, see :class:`gpuscan.sim.spec.ABitSpec`."""

    walk_size: Memory = _A_BIT.walk_bytes
    walk_period: Annotated[TimeNs, Field(gt=0)] = _A_BIT.walk_period_ns
    pte_cost: TimeNs = int(_A_BIT.pte_ns)


class HotnessUnit(Model):
    """Hotness monitoring units of CXL devices, see :class:`gpuscan.sim.spec.HotnessUnitSpec`."""

    unit_size: Bytes = _UNIT.unit_bytes
    epoch: Annotated[TimeNs, Field(gt=0)] = _UNIT.epoch_ns
    threshold: Annotated[int, Field(ge=1, lt=2**32)] = _UNIT.threshold
    list_entries: Annotated[int, Field(ge=1, lt=2**32)] = _UNIT.list_entries
    counter_bits: Annotated[int, Field(ge=1, le=32)] = _UNIT.counter_bits
    downsampling: Annotated[int, Field(ge=1, le=32_768)] = _UNIT.downsampling
    entry_cost: TimeNs = int(_UNIT.entry_ns)

    @field_validator("unit_size")
    @classmethod
    def _is_a_power_of_two(cls, n_bytes: int) -> int:
        section_bytes = SECTION_PAGES * PAGE_BYTES
        if n_bytes & (n_bytes - 1) or not PAGE_BYTES <= n_bytes <= section_bytes:
            raise ValueError(
                f"{format_bytes(n_bytes)} is not a power of two from {format_bytes(PAGE_BYTES)} to "
                f"{format_bytes(section_bytes)}; give one, such as 2MiB"
            )
        return n_bytes

    @field_validator("downsampling")
    @classmethod
    def _is_a_factor(cls, factor: int) -> int:
        if factor & (factor - 1):
            raise ValueError(f"{factor} is not a power of two; give one from 1 to 32768")
        return factor

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.threshold >= 1 << self.counter_bits:
            raise ValueError(
                f"a counter of {self.counter_bits} bits never reaches the threshold {self.threshold}; "
                "lower threshold or raise counter_bits"
            )
        return self


class Producer(Model):
    """How accesses become marks. ``kind`` picks one of the tables; the others wait for ``--producer``.
    Of a trace, whose samples are what marks pages, ``mark`` and ``only_lower_tier`` count."""

    kind: Literal["hint-faults", "sampler", "a-bit", "hotness-unit"] = "hint-faults"
    mark: Literal["request", "record"] = _FAULTS.mark
    only_lower_tier: bool = _FAULTS.only_lower_tier
    hint_faults: HintFaults = HintFaults()
    sampler: Sampler = Sampler()
    a_bit: ABit = ABit()
    hotness_unit: HotnessUnit = HotnessUnit()

    def numa_balancing(self, topology: Topology) -> HintFaultSpec:
        """Return how NUMA balancing works on a machine."""
        faults = self.hint_faults
        adaptive = faults.scan_period == "adaptive"
        return HintFaultSpec(
            scan_bytes=bytes_of(faults.scan_size, topology),
            scan_period_ns=_FAULTS.scan_period_ns if adaptive else int(faults.scan_period),
            mark=self.mark,
            only_lower_tier=self.only_lower_tier,
            hot_latency_ns=faults.hot_latency,
            two_stage=faults.two_stage,
            adaptive=adaptive,
            scan_delay_ns=faults.scan_delay,
            scan_period_min_ns=faults.scan_period_min,
            scan_period_max_ns=faults.scan_period_max,
            failure_feedback=faults.failure_feedback,
            promote_bytes_per_s=faults.promote_rate_limit,
            free_memory_bypass=faults.free_memory_bypass,
            fault_ns=faults.fault_cost,
            pte_ns=faults.pte_cost,
        )

    def turns_ns(self) -> dict[str, int]:
        """Return pauses by key, of what costs a loop of its own each time; 0 where nothing comes by."""
        period = self.hint_faults.scan_period
        turns: dict[str, dict[str, int]] = {
            "hint-faults": {"hint_faults.scan_period": 0 if period == "adaptive" else int(period)},
            "sampler": {},
            "a-bit": {"a_bit.walk_period": self.a_bit.walk_period},
            "hotness-unit": {"hotness_unit.epoch": self.hotness_unit.epoch},
        }
        return turns[self.kind]

    def spec(self, topology: Topology) -> ProducerSpec | None:
        """Return what watches instead of the scanner of NUMA balancing, None for hint faults."""
        if self.kind == "hint-faults":
            return None
        if self.kind == "sampler":
            sampler = self.sampler
            return SamplerSpec(sampler.period, sampler.min_latency, sampler.useless, sampler.sample_cost)
        if self.kind == "a-bit":
            walk = self.a_bit
            return ABitSpec(bytes_of(walk.walk_size, topology), walk.walk_period, walk.pte_cost)
        unit = self.hotness_unit
        return HotnessUnitSpec(
            unit_bytes=unit.unit_size,
            epoch_ns=unit.epoch,
            threshold=unit.threshold,
            list_entries=unit.list_entries,
            counter_bits=unit.counter_bits,
            downsampling=unit.downsampling,
            entry_ns=unit.entry_cost,
        )


PRODUCER_MODELS: dict[str, type[BaseModel]] = {
    "producer": Producer,
    "hint_faults": HintFaults,
    "sampler": Sampler,
    "a_bit": ABit,
    "hotness_unit": HotnessUnit,
}
"""Model of each key that is a table."""
