"""Marks from the hot lists of CXL hotness monitoring units.

A list names units of device memory. The host reads it when the epoch ends and marks all folios in
the units. Which CPU accessed them is not known: guessed, the node that the device's memory
is promoted to, the nearest of the top tier. Each guess is scored against the node of the last access.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES, format_bytes
from gpuscan.base.values import Bytes, TimeNs
from gpuscan.producers.contract import Observed, ProducerKind, Told
from gpuscan.producers.options import Options
from gpuscan.producers.source import NOBODY, Producer
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.hotness_units import HotList, HotnessUnits, HotnessUnitSpec
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.topology.model import Topology

_SPEC = HotnessUnitSpec()


class HotnessUnitOptions(Options):
    """Hotness monitoring units of CXL devices, see :class:`gpuscan.sim.hotness_units.HotnessUnitSpec`."""

    unit_size: Bytes = _SPEC.unit_bytes
    epoch: Annotated[TimeNs, Field(gt=0)] = _SPEC.epoch_ns
    threshold: Annotated[int, Field(ge=1, lt=2**32)] = _SPEC.threshold
    list_entries: Annotated[int, Field(ge=1, lt=2**32)] = _SPEC.list_entries
    counter_bits: Annotated[int, Field(ge=1, le=32)] = _SPEC.counter_bits
    downsampling: Annotated[int, Field(ge=1, le=32_768)] = _SPEC.downsampling
    entry_cost: TimeNs = int(_SPEC.entry_ns)

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

    def spec(self, topology: Topology) -> HotnessUnitSpec:
        """See :class:`gpuscan.producers.options.Options`."""
        return HotnessUnitSpec(
            unit_bytes=self.unit_size,
            epoch_ns=self.epoch,
            threshold=self.threshold,
            list_entries=self.list_entries,
            counter_bits=self.counter_bits,
            downsampling=self.downsampling,
            entry_ns=self.entry_cost,
        )

    def turns_ns(self) -> dict[str, int]:
        """Return how long an epoch is."""
        return {"epoch": self.epoch}


class HotnessUnitSource(Producer):
    """The hotness monitoring units of a machine.

    Adds to the machine's metrics: ``unit_accesses`` (to the devices), ``list_entries``,
    ``list_overflow`` (hot units that found no room), ``epochs``; ``guessed_right`` and ``guessed_wrong``
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
        at_ns = np.repeat(np.array(listed_ns, dtype=np.int64), [len(found.folios) for found in lists])
        own = self._machine.page_map.nid_of_flat(self._machine.space.frame_of[folios].astype(np.int64))
        targets = self._guess[own]
        n_entries = sum(found.n_entries for found in lists)
        counted: dict[str, float] = {
            "epochs": len(lists),
            "unit_accesses": sum(found.n_counted for found in lists),
            "list_entries": n_entries,
            "list_overflow": sum(found.n_overflowed for found in lists),
            **self._score(targets, true_nids),
            "producer_cost_ns": n_entries * self._spec.entry_ns,
        }
        return self._observed(folios, targets, self._reader[own], at_ns, elapsed, counted)

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
