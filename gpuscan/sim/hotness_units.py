"""Hotness monitoring units of CXL devices: a counter for each unit of memory, and a list of the hot ones.

The interface is CXL 3.2's (the specification leaves the tracking to the device), as the driver and its
documentation have it: drivers/cxl/hmu.c of github.com/davidlohr/linux at 0f7fb6575690 and
Documentation/trace/cxl-hmu.rst at 7432d5e44eb6, after J. Cameron, "[RFC PATCH 0/4] CXL Hotness Monitoring
Unit perf driver", linux-cxl, 2024-11-21.

This device is ideal: a counter for every unit, epochs of all of them together. When an epoch ends, units
that reached the threshold are listed in the order of their addresses, from the one after the last that was
listed before, until the list is full; then all counters are cleared.

A list is a ring that is empty where head and tail meet (cxl_hmu_pghot_thread()), so that one of its entries
stays free. The driver reads it when it is told to: by an interrupt once more than a share of it is filled
(half of it, set in cxl_hmu_hw_start()), or once a unit found no room. What is listed below that waits,
epoch after epoch. That it is more than the share, and that the whole list is written at the end of an
epoch, is QEMU's emulation (hw/cxl/cxl-chmu.c, J. Cameron, "[RFC QEMU 0/3] cxl/plugins", 2025).

A device knows units of its own memory: not which CPU accessed them, and not which of the pages in a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import array, items, table, whole
from gpuscan.base.units import PAGE_BYTES
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import PageMap
from gpuscan.sim.address_space import AddressSpace
from gpuscan.sim.interleave import Device, Interleaving
from gpuscan.sim.loops import Pages, Units, count_units, remember_nid
from gpuscan.sim.patterns import stream_key
from gpuscan.sim.process import Process, Stretch
from gpuscan.sim.spec import ProducerSpec

_CHUNK_PAGES = 1 << 20
"""Pages of listed units that are looked at together."""


@dataclass(frozen=True, slots=True)
class HotnessUnitSpec(ProducerSpec):
    """Hotness monitoring units of CXL 3.2 devices, in epoch mode, for each node below the top tier.

    Attributes:
        unit_bytes: device memory that shares a counter, a power of two, a page or more.
        epoch_ns: after which the counters are compared with the threshold, listed and cleared.
        threshold: count that makes a unit hot.
        list_entries: of each hot list, one of which stays free; what does not fit is lost.
        counter_bits: width of a counter, which stops at its maximum.
        downsampling: one access in so many is counted.
        entry_ns: CPU time of an entry: assumed, one uncached read over PCIe.
        ways: devices that a node's memory is interleaved over.
        granularity_bytes: of the interleaving.
        interrupt_share: of a list; the host reads it when more than this is filled, or a unit found no room.
        page_ns: CPU time of a page of a listed unit, assumed: its address is translated, its folio found.
    """

    kind = "hotness-unit"

    unit_bytes: int = 4096
    epoch_ns: int = 1_000_000_000
    threshold: int = 2
    list_entries: int = 1024
    counter_bits: int = 16
    downsampling: int = 1
    entry_ns: float = 1000.0
    ways: int = 1
    granularity_bytes: int = 4096
    interrupt_share: float = 0.5
    page_ns: float = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class HotList:
    """What the host reads of all devices at the end of an epoch.

    Attributes:
        folios: int64[n], virtual folios that lie in the units read, ascending.
        true_nids: int32[n], where the last access to each came from, -1 for none.
        counts: int64[n], accesses reported for each: those of every range that it lies in, added up.
        n_entries: units read.
        n_overflowed: hot units that found no room.
        n_interrupts: lists read.
        n_ranges: stretches of host memory that the units read lie in.
        n_pages: pages of device memory whose addresses were translated.
        n_counted: accesses to the devices since the last epoch.
    """

    folios: NDArray[np.int64]
    true_nids: NDArray[np.int32]
    counts: NDArray[np.int64]
    n_entries: int
    n_overflowed: int
    n_interrupts: int
    n_ranges: int
    n_pages: int
    n_counted: int


class _Ring(NamedTuple):
    """What a device has listed and the host has not read: int64[n] each, its units and their counts."""

    units: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> _Ring:
        none = np.empty(0, dtype=np.int64)
        return cls(none, none)


class HotnessUnits:
    """An :class:`gpuscan.sim.observer.Observer`: the units of all devices of a machine.

    Args:
        spec: of each.
        space: whose memory.
        page_map: of the machine.
        device_nids: nodes with devices.
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
        self._interleaving = Interleaving(
            page_map, device_nids, spec.ways, spec.granularity_bytes, spec.unit_bytes
        )
        self._counters = np.zeros(self._interleaving.n_units, dtype=np.uint32)
        self._last_nid = np.full(space.n_folios, -1, dtype=np.int16)
        devices = self._interleaving.devices
        self._next_unit = [0] * len(devices)
        self._rings = [_Ring.empty()] * len(devices)
        self._n_counted = 0

    @property
    def n_waiting(self) -> int:
        """Entries of all lists that the host has not read yet."""
        return sum(len(ring.units) for ring in self._rings)

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
        pages = Pages(
            self._space.frame_of,
            self._page_map.section_nid,
            np.array([mapping.first_folio for mapping in process.mappings], dtype=np.int64),
            np.array([mapping.order for mapping in process.mappings], dtype=np.int64),
        )
        counter_max = (1 << self._spec.counter_bits) - 1
        units = Units(self._spec.downsampling, self._counters, counter_max)
        key = stream_key(self._seed, 4, base)
        regions = self._interleaving.regions
        self._n_counted += count_units(folios, base, first_access, key, pages, regions, units)

    def end_epoch(self) -> HotList:
        """List the hot units, clear all counters, and read the lists that the host is told to read."""
        n_counted, self._n_counted = self._n_counted, 0
        read = _Read(self._space)
        n_overflowed = n_interrupts = 0
        for number, device in enumerate(self._interleaving.devices):
            n_lost = self._list_hot(number, device)
            ring = self._rings[number]
            if n_lost or len(ring.units) > int(self._spec.list_entries * self._spec.interrupt_share):
                self._read(device, ring, read)
                self._rings[number] = _Ring.empty()
                n_interrupts += 1
            n_overflowed += n_lost
        self._counters[:] = 0
        folios, counts = read.folios()
        return HotList(
            folios,
            self._last_nid[folios].astype(np.int32),
            counts,
            read.n_entries,
            n_overflowed,
            n_interrupts,
            read.n_ranges,
            read.n_pages,
            n_counted,
        )

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`; the arrays themselves."""
        return {
            "counters": self._counters,
            "last_nid": self._last_nid,
            "next_unit": list(self._next_unit),
            "n_counted": self._n_counted,
            "n_listed": [len(ring.units) for ring in self._rings],
            "listed_units": np.concatenate([ring.units for ring in self._rings]),
            "listed_counts": np.concatenate([ring.counts for ring in self._rings]),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, units of an equal machine.

        Raises:
            ValueError: it was of another.
        """
        found = table(state, "the hotness units", tuple(self.state()))
        devices, n_folios = self._interleaving.devices, len(self._last_nid)
        counters = array(found["counters"], np.uint32, "counters", n=len(self._counters))
        last_nid = array(found["last_nid"], np.int16, "last_nid", n=n_folios, lowest=-1, end=N_NODES_MAX)
        next_unit = [
            whole(unit, 0, device.n_units, "next_unit")
            for unit, device in zip(
                items(found["next_unit"], "next_unit", n=len(devices)), devices, strict=True
            )
        ]
        n_listed = [
            whole(n, 0, self._room, "n_listed") for n in items(found["n_listed"], "n_listed", n=len(devices))
        ]
        listed = array(found["listed_units"], np.int64, "listed_units", n=sum(n_listed), lowest=0)
        counts = array(found["listed_counts"], np.int64, "listed_counts", n=sum(n_listed), lowest=0)
        ends = np.cumsum(n_listed)[:-1]
        rings = list(map(_Ring, np.split(listed, ends), np.split(counts, ends)))
        if any((ring.units >= device.n_units).any() for ring, device in zip(rings, devices, strict=True)):
            raise ValueError("listed_units has units that a device does not have")
        self._n_counted = whole(found["n_counted"], 0, INT64_MAX, "n_counted")
        self._next_unit, self._rings = next_unit, rings
        self._counters[:] = counters
        self._last_nid[:] = last_nid

    @property
    def _room(self) -> int:
        """Entries of a list that can be filled."""
        return max(1, self._spec.list_entries - 1)

    def _list_hot(self, number: int, device: Device) -> int:
        """Put the hot units of a device on its list; return how many found no room."""
        counters = self._counters[device.first_unit : device.first_unit + device.n_units]
        hot = np.flatnonzero(counters >= self._spec.threshold)
        turn = int(np.searchsorted(hot, self._next_unit[number]))
        hot = np.concatenate([hot[turn:], hot[:turn]])
        ring = self._rings[number]
        listed = hot[: self._room - len(ring.units)]
        if len(listed):
            self._next_unit[number] = int(listed[-1]) + 1
            counts = counters[listed].astype(np.int64)
            self._rings[number] = _Ring(
                np.concatenate([ring.units, listed]), np.concatenate([ring.counts, counts])
            )
        return len(hot) - len(listed)

    def _read(self, device: Device, ring: _Ring, read: _Read) -> None:
        """Read a device's list: cxl_hmu_pghot_report() for each entry."""
        step = max(1, _CHUNK_PAGES * PAGE_BYTES // self._spec.unit_bytes)
        for start in range(0, len(ring.units), step):
            units, counts = ring.units[start : start + step], ring.counts[start : start + step]
            runs = self._interleaving.pages_in(device, units)
            read.n_pages += runs.n_translated
            read.n_ranges += int(runs.starts_run.sum())
            read.add(runs.frames, runs.starts_run, counts[runs.of_unit])
        read.n_entries += len(ring.units)


class _Read:
    """Folios that the host finds while it reads lists.

    Args:
        space: whose folios.

    Attributes:
        n_entries, n_ranges, n_pages: see :class:`HotList`.
    """

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._orders = sorted({mapping.order for mapping in space.mappings})
        self._folios = [np.empty(0, dtype=np.int64)]
        self._counts = [np.empty(0, dtype=np.int64)]
        self.n_entries = self.n_ranges = self.n_pages = 0

    def add(
        self, frames: NDArray[np.int64], starts_run: NDArray[np.bool_], counts: NDArray[np.int64]
    ) -> None:
        """Report each run folio by folio, every folio with the count of the unit: pghot_record_range()."""
        for order in self._orders:
            heads = frames >> order << order
            first = starts_run.copy()
            first[1:] |= heads[1:] != heads[:-1]
            folios = self._space.folios_at(heads[first])
            mine = (folios >= 0) & (self._space.orders_of(folios) == order)
            self._folios.append(folios[mine])
            self._counts.append(counts[first][mine])

    def folios(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return int64[n] each: all folios, ascending, and the accesses reported for each."""
        folios, which = np.unique(np.concatenate(self._folios), return_inverse=True)
        counts = np.zeros(len(folios), dtype=np.int64)
        np.add.at(counts, which, np.concatenate(self._counts))
        return folios, counts
