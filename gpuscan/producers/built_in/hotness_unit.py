"""Marks from the hot lists of CXL hotness monitoring units.

A list names units of device memory, and their counts. The host reads it when the device interrupts, at the
end of an epoch, and marks all folios that it finds in the units. Which CPU accessed them is not known:
guessed, the node that the device's memory is promoted to, the nearest of the top tier. Each guess is scored
against the node of the last access.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.base.values import Bytes, Share, TimeNs
from gpuscan.producers.contract import Observed, ProducerKind, Told
from gpuscan.producers.options import Options
from gpuscan.producers.source import NOBODY, Producer
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.sim.hotness_units import HotList, HotnessUnits, HotnessUnitSpec
from gpuscan.sim.interleave import GRANULARITIES, WAYS
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.topology.model import Topology

_SPEC = HotnessUnitSpec()
_UNIT_BYTES_MAX: Final = 2 << 30
"""Bit 23 of Supported Unit Sizes; the upper ones are reserved (cxl_hmu_pghot_attach())."""
_LIST_ENTRIES_MAX: Final = (1 << 16) - 1
"""CHMU_INST0_CAP0_HOTLIST_SIZE has 16 bits."""
_EPOCH_SCALES_NS: Final = (100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_EPOCH_MULTIPLIER_MAX: Final = 4095


def epoch_in_force_ns(asked_ns: int) -> int:
    """Return the epoch that a device is told: at most 4,095 times the finest scale that fits, rounded down.

    Of cxl_hmu_pghot_pick_epoch() in drivers/cxl/hmu.c (github.com/davidlohr/linux, 0f7fb6575690), on a device
    that takes all that can be encoded: 100 us to 4,095 s.
    """
    for scale_ns in _EPOCH_SCALES_NS:
        multiplier = max(asked_ns // scale_ns, int(scale_ns == _EPOCH_SCALES_NS[0]))
        if 1 <= multiplier <= _EPOCH_MULTIPLIER_MAX:
            return multiplier * scale_ns
    return _EPOCH_MULTIPLIER_MAX * _EPOCH_SCALES_NS[-1]


class HotnessUnitOptions(Options):
    """Hotness monitoring units of CXL devices, see :class:`gpuscan.sim.hotness_units.HotnessUnitSpec`."""

    unit_size: Bytes = _SPEC.unit_bytes
    epoch: Annotated[TimeNs, Field(gt=0)] = _SPEC.epoch_ns
    threshold: Annotated[int, Field(ge=1, lt=2**32)] = _SPEC.threshold
    list_entries: Annotated[int, Field(ge=1, lt=2**32)] = _SPEC.list_entries
    counter_bits: Annotated[int, Field(ge=1, le=32)] = _SPEC.counter_bits
    downsampling: Annotated[int, Field(ge=1, le=32_768)] = _SPEC.downsampling
    entry_cost: TimeNs = int(_SPEC.entry_ns)
    interleave_ways: int = _SPEC.ways
    interleave_granularity: Bytes = _SPEC.granularity_bytes
    interrupt_at: Share = _SPEC.interrupt_share
    page_cost: TimeNs = int(_SPEC.page_ns)

    @field_validator("unit_size")
    @classmethod
    def _is_a_power_of_two(cls, n_bytes: int) -> int:
        if n_bytes & (n_bytes - 1) or not PAGE_BYTES <= n_bytes <= _UNIT_BYTES_MAX:
            raise ValueError(
                f"{format_bytes(n_bytes)} is not a power of two from {format_bytes(PAGE_BYTES)} to "
                f"{format_bytes(_UNIT_BYTES_MAX)}; give one, such as 2MiB"
            )
        return n_bytes

    @field_validator("interleave_ways")
    @classmethod
    def _can_be_decoded(cls, ways: int) -> int:
        if ways not in WAYS:
            raise ValueError(
                f"memory cannot be interleaved over {ways} devices; give one of {', '.join(map(str, WAYS))}"
            )
        return ways

    @field_validator("interleave_granularity")
    @classmethod
    def _can_be_encoded(cls, n_bytes: int) -> int:
        if n_bytes not in GRANULARITIES:
            raise ValueError(
                f"{format_bytes(n_bytes)} is not a power of two from {format_bytes(GRANULARITIES[0])} to "
                f"{format_bytes(GRANULARITIES[-1])}; give one, such as 4KiB"
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

    def spec(self, topology: Topology) -> HotnessUnitSpec:
        """See :class:`gpuscan.producers.options.Options`."""
        return HotnessUnitSpec(
            unit_bytes=self.unit_size,
            epoch_ns=epoch_in_force_ns(self.epoch),
            threshold=self.threshold,
            list_entries=min(self.list_entries, _LIST_ENTRIES_MAX),
            counter_bits=self.counter_bits,
            downsampling=self.downsampling,
            entry_ns=self.entry_cost,
            ways=self.interleave_ways,
            granularity_bytes=self.interleave_granularity,
            interrupt_share=self.interrupt_at,
            page_ns=self.page_cost,
        )

    def turns_ns(self) -> dict[str, int]:
        """Return how long an epoch is."""
        return {"epoch": epoch_in_force_ns(self.epoch)}


class HotnessUnitSource(Producer):
    """The hotness monitoring units of a machine.

    Adds to the machine's metrics: ``unit_accesses`` (to the devices), ``list_entries`` (read),
    ``list_overflow`` (hot units that found no room), ``list_waiting`` (entries not read yet), ``interrupts``,
    ``ranges`` (stretches of host memory reported), ``epochs``; ``guessed_right`` and ``guessed_wrong``
    (targets, as with the node of the last access known, or not); ``seen_top_tier``, ``seen_no_target``,
    ``seen_at_home`` and ``marks``.

    Args:
        machine: where time passes.
        spec: of the units.

    Raises:
        InputError: the machine has no memory below the top tier, or pages of all tiers shall be marked.
    """

    def __init__(self, machine: SimulatedMachine, spec: HotnessUnitSpec) -> None:
        super().__init__(machine)
        self._spec = spec
        topology = machine.topology
        self._device_nids = [
            node.nid for node in topology.nodes if node.present_pages and not machine.top_tier[node.nid]
        ]
        if not self._device_nids or not machine.spec.hint_faults.only_lower_tier:
            raise InputError(
                f"hotness units count accesses to memory below the top tier, and {topology.name!r} has none "
                "or producer.only_lower_tier is false; choose another producer"
            )
        self._guess = np.full(N_NODES_MAX, NOBODY, dtype=np.int32)
        self._reader = np.zeros(N_NODES_MAX, dtype=np.int32)
        with_cpus = [node.nid for node in topology.nodes if node.cpus]
        for nid in self._device_nids:
            target = topology.promotion_target(nid)
            self._guess[nid] = NOBODY if target is None else target
            nearest = topology.nearest(nid, with_cpus)
            self._reader[nid] = with_cpus[0] if nearest is None else nearest
        self._units = HotnessUnits(
            spec, machine.space, machine.page_map, self._device_nids, machine.spec.seed
        )

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        """See :class:`gpuscan.producers.source.Producer`."""
        end_ns = now_ns + duration_ns
        epoch_ns = self._spec.epoch_ns
        ends = range((now_ns // epoch_ns + 1) * epoch_ns, end_ns + 1, epoch_ns)
        lists: list[HotList] = []
        listed_ns: list[int] = []
        elapsed = None
        for until_ns in sorted({*ends, end_ns}):
            part = self._machine.run(now_ns, until_ns - now_ns, self._units)
            elapsed = part if elapsed is None else elapsed.then(part)
            now_ns = until_ns
            if until_ns in ends:
                lists.append(self._units.end_epoch())
                listed_ns.append(until_ns)
        assert elapsed is not None
        folios = np.concatenate([np.empty(0, dtype=np.int64), *(found.folios for found in lists)])
        true_nids = np.concatenate([np.empty(0, dtype=np.int32), *(found.true_nids for found in lists)])
        counts = np.concatenate([np.empty(0, dtype=np.int64), *(found.counts for found in lists)])
        at_ns = np.repeat(np.array(listed_ns, dtype=np.int64), [len(found.folios) for found in lists])
        own = self._machine.page_map.nid_of_flat(self._machine.space.frame_of[folios].astype(np.int64))
        targets = self._guess[own]
        n_entries = sum(found.n_entries for found in lists)
        n_pages = sum(found.n_pages for found in lists)
        counted: dict[str, float] = {
            "epochs": len(lists),
            "unit_accesses": sum(found.n_counted for found in lists),
            "list_entries": n_entries,
            "list_overflow": sum(found.n_overflowed for found in lists),
            "list_waiting": self._units.n_waiting,
            "interrupts": sum(found.n_interrupts for found in lists),
            "ranges": sum(found.n_ranges for found in lists),
            **self._score(targets, true_nids),
            "producer_cost_ns": n_entries * self._spec.entry_ns + n_pages * self._spec.page_ns,
        }
        return self._observed(folios, targets, self._reader[own], at_ns, elapsed, counted, counts)

    def state(self) -> dict[str, Any]:
        """See :class:`gpuscan.producers.source.Producer`."""
        return {"units": self._units.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :class:`gpuscan.producers.source.Producer`."""
        self._units.restore(state["units"])


PRODUCER = ProducerKind(
    about="hot lists of the hotness monitoring units of CXL devices",
    options=HotnessUnitOptions,
    make=HotnessUnitSource,
    told=(
        Told("list_entries", "list entries"),
        Told("guessed_right", "of nodes guessed right", ("guessed_right", "guessed_wrong")),
    ),
)
