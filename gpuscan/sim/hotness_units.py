"""Hotness monitoring units of CXL devices: a counter for each unit of memory, and a list of the hot ones.

The interface is CXL 3.2's (the specification leaves the tracking to the device), as the driver's
documentation describes it: J. Cameron, "[RFC PATCH 0/4] CXL Hotness Monitoring Unit perf driver", linux-cxl,
2024-11-21. This device is ideal: a counter for every unit, epochs of all of them together. When an
epoch ends, units that reached the threshold are listed in the order of their addresses, from the one
after the last that was listed before, until the list is full; then all counters are cleared.

A device knows units of its own memory: not which CPU accessed them, and not which of the pages in a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import array, pairs, table, whole
from gpuscan.base.units import PAGE_BYTES
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import PageMap
from gpuscan.sim.address_space import AddressSpace
from gpuscan.sim.loops import Orders, Tracked, Units, count_units, remember_nid
from gpuscan.sim.patterns import stream_key
from gpuscan.sim.process import Process, Stretch
from gpuscan.sim.spec import HotnessUnitSpec

_CHUNK_PAGES = 1 << 20
"""Pages of listed units that are looked at together."""


@dataclass(frozen=True, slots=True, eq=False)
class HotList:
    """The lists of all devices at the end of an epoch.

    Attributes:
        folios: int64[n], virtual folios that lie in the units listed, ascending.
        true_nids: int32[n], where the last access to each came from, -1 for none.
        n_entries: units listed.
        n_overflowed: hot units that found no room.
        n_counted: accesses to the devices since the last epoch.
    """

    folios: NDArray[np.int64]
    true_nids: NDArray[np.int32]
    n_entries: int
    n_overflowed: int
    n_counted: int


class HotnessUnits:
    """An :class:`gpuscan.sim.observer.Observer`: the units of all devices of a machine.

    Args:
        spec: of each.
        space: whose memory.
        page_map: of the machine.
        device_nids: nodes with a device.
        seed: of the machine.
    """

    def __init__(
        self,
        spec: HotnessUnitSpec,
        space: AddressSpace,
        page_map: PageMap,
        device_nids: list[int],
        seed: int,
    ) -> None:
        self._spec = spec
        self._space = space
        self._page_map = page_map
        self._seed = seed
        self._shift = (spec.unit_bytes // PAGE_BYTES).bit_length() - 1
        self._counters = np.zeros(-(-page_map.n_pages >> self._shift), dtype=np.uint32)
        self._tracked = np.zeros(1024, dtype=np.uint8)
        self._tracked[device_nids] = 1
        self._last_nid = np.full(space.n_folios, -1, dtype=np.int16)
        self._next_unit = dict.fromkeys(device_nids, 0)
        self._n_counted = 0

    def visits_ns(self, process: Process, start_ns: int, end_ns: int) -> Iterable[int]:
        """Return nothing: page tables are not looked at."""
        return ()

    def visit(self, process: Process, now_ns: int) -> None:
        """See :meth:`visits_ns`."""

    def accessed(
        self,
        process: Process,
        stretch: Stretch,
        first_access: int,
        folios: NDArray[np.int64],
        faulted: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.sim.observer.Observer`."""
        base = process.first_folio
        remember_nid(folios, base, stretch.cpu_nid, self._last_nid)
        self._n_counted += count_units(
            folios,
            base,
            first_access,
            stream_key(self._seed, 4, base),
            Tracked(self._space.frame_of, self._page_map.section_nid, self._tracked),
            Orders(
                np.array([mapping.first_folio for mapping in process.mappings], dtype=np.int64),
                np.array([mapping.order for mapping in process.mappings], dtype=np.int64),
            ),
            Units(
                self._shift,
                self._spec.downsampling,
                self._counters,
                (1 << self._spec.counter_bits) - 1,
            ),
        )

    def end_epoch(self) -> HotList:
        """Read the lists and clear all counters."""
        n_counted, self._n_counted = self._n_counted, 0
        listed = [np.empty(0, dtype=np.int64)]
        n_overflowed = 0
        for nid in self._next_unit:
            hot = self._hot_units(nid)
            listed.append(hot[: self._spec.list_entries])
            n_overflowed += max(0, len(hot) - self._spec.list_entries)
            if len(listed[-1]):
                self._next_unit[nid] = int(listed[-1][-1]) + 1
        self._counters[:] = 0
        units = np.concatenate(listed)
        folios = self._folios_in(units)
        return HotList(folios, self._last_nid[folios].astype(np.int32), len(units), n_overflowed, n_counted)

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`; the arrays themselves."""
        return {
            "counters": self._counters,
            "last_nid": self._last_nid,
            "next_unit": list(self._next_unit.items()),
            "n_counted": self._n_counted,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, units of an equal machine.

        Raises:
            ValueError: it was of another.
        """
        found = table(state, "the hotness units", ("counters", "last_nid", "next_unit", "n_counted"))
        n_units, n_folios = len(self._counters), len(self._last_nid)
        counters = array(found["counters"], np.uint32, "counters", n=n_units)
        last_nid = array(found["last_nid"], np.int16, "last_nid", n=n_folios, lowest=-1, end=N_NODES_MAX)
        next_unit = pairs(found["next_unit"], "next_unit")
        if {nid for nid, _ in next_unit} != self._next_unit.keys():
            raise ValueError("the hotness units are of other nodes")
        self._next_unit = {nid: whole(unit, 0, n_units, "next_unit") for nid, unit in next_unit}
        self._n_counted = whole(found["n_counted"], 0, INT64_MAX, "n_counted")
        self._counters[:] = counters
        self._last_nid[:] = last_nid

    def _hot_units(self, nid: int) -> NDArray[np.int64]:
        """Return the hot units of a device in the order they are listed."""
        parts = [np.empty(0, dtype=np.int64)]
        for low, high in self._page_map.node_section_ranges(nid):
            counters = self._counters[low >> self._shift : high >> self._shift]
            parts.append((low >> self._shift) + np.flatnonzero(counters >= self._spec.threshold))
        hot = np.concatenate(parts)
        turn = int(np.searchsorted(hot, self._next_unit[nid]))
        return np.concatenate([hot[turn:], hot[:turn]])

    def _folios_in(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the folios that lie in units, in whole or in part."""
        orders = sorted({mapping.order for mapping in self._space.mappings})
        step = max(1, _CHUNK_PAGES >> self._shift)
        found = [np.empty(0, dtype=np.int64)]
        for start in range(0, len(units), step):
            first = units[start : start + step] << self._shift
            frames = (first[:, None] + np.arange(1 << self._shift)).ravel()
            for order in orders:
                folios = self._space.folios_at(np.unique(frames >> order << order))
                folios = folios[folios >= 0]
                found.append(folios[self._space.orders_of(folios) == order])
        return np.unique(np.concatenate(found))
