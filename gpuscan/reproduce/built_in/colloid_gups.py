"""GUPS under memory contention: packing hot pages into the default tier against balancing latencies."""

from __future__ import annotations

from collections.abc import Mapping

from gpuscan.migrate.placement import BalanceLatency, PromoteHot
from gpuscan.reproduce.contract import Experiment, Order, Outcome, Published, Setting, Table
from gpuscan.reproduce.gups import (
    BANDWIDTH,
    Load,
    antagonist_alone,
    run_gups,
)

_CORES = {"0x": 0, "1x": 5, "2x": 10, "3x": 15}
_UNLOADED_NS = (135, 148, 168, 192)
_SYSTEMS: Mapping[str, tuple[int, int, float]] = {"HeMem": (9, 8, 0.0), "TPP": (0, 64, 92.0)}
"""Folio order, what memory is divided by, and what an access takes beside the memory's latency, in ns."""
_GAIN = {
    ("HeMem", 135): (1.007752, 1.173469, 1.652047, 2.36087),
    ("HeMem", 148): (0.995732, 1.089532, 1.536287, 2.191315),
    ("HeMem", 168): (0.993329, 1.022539, 1.373172, 1.973035),
    ("HeMem", 192): (0.992476, 1.014174, 1.254353, 1.764588),
    ("TPP", 135): (1.025145, 1.101156, 1.424125, 1.805556),
    ("TPP", 148): (1.010675, 1.066978, 1.329049, 1.716613),
    ("TPP", 168): (1.016325, 1.015162, 1.226774, 1.58904),
    ("TPP", 192): (1.002607, 1.01176, 1.14426, 1.497136),
}
"""Tables of sosp24-artifact/hemem/README.md and sosp24-artifact/tpp/README.md, by load."""
_FITTED = ("TPP", 135, "2x")
_ALONE = {5: 51.0, 10: 65.0, 15: 70.0}
"""Of the theoretical bandwidth, in percent, what the antagonist takes alone: section 2 of the paper."""
_LOG = "sosp24-artifact/hemem/test.md"
_UPDATES_PER_S = 606.7e6
_RATIO_OF_LATENCIES = 1.302
"""``occ_remote / inserts_remote`` over ``occ_local / inserts_local`` of the same page."""
_CLOCK = (
    "the alternate tier was slowed by the clock of its uncore, which changes more than the unloaded latency; "
    "its queue is the same here for all four"
)


_AT_REST = (
    "without contention both policies do the same here, move for move, so both gain nothing; TPP's 2.5 % are "
    "of hint faults and kswapd, which Colloid changes and which are not modelled"
)


def _key(system: str, slow_ns: int, load: str) -> str:
    return f"{system} {slow_ns} {load}"


def _wanted() -> list[tuple[str, int, str]]:
    return [(system, slow_ns, load) for system, slow_ns in _GAIN for load in _CORES]


def _run(setting: Setting) -> Outcome:
    figures = {f"alone {cores}": 100 * antagonist_alone(cores) / BANDWIDTH for cores in _ALONE}
    rows: list[tuple[str | float, ...]] = []
    wanted = _wanted()
    for number, (system, slow_ns, load) in enumerate(wanted):
        setting.on_step(f"{system}, {load}, {slow_ns} ns", number / len(wanted))
        order, scale, think_ns = _SYSTEMS[system]
        how = Load(_CORES[load], float(slow_ns), order, scale, think_ns)
        packed = run_gups(how, PromoteHot(), setting.seed)
        balanced = run_gups(how, BalanceLatency(), setting.seed)
        figures[_key(system, slow_ns, load)] = balanced.updates_per_s / packed.updates_per_s
        if (system, slow_ns) == ("HeMem", _UNLOADED_NS[0]):
            if load == "0x":
                figures["updates"] = packed.updates_per_s / 1e6
                figures["ratio"] = packed.slow_ns / packed.fast_ns
            if load == "3x":
                figures["worst"] = packed.fast_ns / packed.slow_ns
        rows.append(
            (
                _key(system, slow_ns, load),
                *(
                    value
                    for one in (packed, balanced)
                    for value in (one.fast_ns, one.slow_ns, one.fast_share)
                ),
            )
        )
    headings = (
        "",
        *(f"{how}: {what}" for how in ("hot", "balanced") for what in ("near ns", "far ns", "share")),
    )
    return Outcome(
        figures, (Table("loaded latencies, and the share of GUPS that is near", headings, tuple(rows)),)
    )


def _published() -> tuple[Published, ...]:
    gains = [
        Published(
            key=_key(system, slow_ns, load),
            what=f"{system}: gain of balancing, {load}, far tier {slow_ns} ns",
            value=_GAIN[system, slow_ns][list(_CORES).index(load)],
            unit="",
            kind="ratio",
            fitted=(system, slow_ns, load) == _FITTED,
            missing="" if slow_ns == _UNLOADED_NS[0] else _CLOCK,
        )
        for system, slow_ns, load in _wanted()
    ]
    alone = [
        Published(
            key=f"alone {cores}",
            what=f"antagonist alone, {cores} cores, of the bandwidth",
            value=value,
            unit="%",
            kind="rate",
            fitted=cores != 10,
        )
        for cores, value in _ALONE.items()
    ]
    near = [
        Published(
            key="updates",
            what="GUPS, HeMem, 0x",
            value=_UPDATES_PER_S / 1e6,
            unit="M/s",
            kind="rate",
            fitted=True,
        ),
        Published(
            key="ratio",
            what="far over near latency, HeMem, 0x",
            value=_RATIO_OF_LATENCIES,
            unit="",
            kind="ratio",
            fitted=True,
        ),
        Published(key="worst", what="near over far latency, HeMem, 3x", value=2.5, unit="", kind="ratio"),
    ]
    return (*gains, *near, *alone)


def _orders() -> tuple[Order, ...]:
    def keys(*wanted: tuple[str, int, str]) -> tuple[str, ...]:
        return tuple(_key(*one) for one in wanted)

    near_ns = _UNLOADED_NS[0]
    found = []
    for system in _SYSTEMS:
        by_load = keys(*((system, near_ns, load) for load in _CORES))
        by_latency = [(system, slow_ns, "3x") for slow_ns in reversed(_UNLOADED_NS)]
        found += [
            Order(f"gain by load, {system}", by_load),
            Order(f"gain by latency of the far tier, {system}, 3x", keys(*by_latency)),
        ]
    loads = list(_CORES)[1:]
    found += [
        Order(f"TPP and HeMem, {load}", keys(("TPP", near_ns, load), ("HeMem", near_ns, load)))
        for load in loads
    ]
    found.append(Order("HeMem and TPP, 0x", keys(("HeMem", near_ns, "0x"), ("TPP", near_ns, "0x")), _AT_REST))
    return tuple(found)


EXPERIMENT = Experiment(
    about="GUPS on two tiers: what balancing the tiers' loaded latencies gains over packing hot pages near",
    source=(
        "M. Vuppalapati and R. Agarwal, Tiered Memory Management: Access Latency is the Key!, SOSP'24; "
        "artifact host-architecture/colloid, sosp24-artifact/{hemem,tpp}/README.md (tables), hemem/test.md "
        "(log), apps/gups, run_fig6.sh. The paper itself was not at hand: 70 ns, and what the antagonist "
        "takes alone, are quoted from it without a second look; 2.5 is in its abstract"
    ),
    machine="two-socket Ice Lake, 15 cores of GUPS, the other socket as the alternate tier; here its links",
    published=_published(),
    orders=_orders(),
    not_modelled=(
        "TPP itself: its hint faults and LRU lists are replaced by the same counted accesses as HeMem's PEBS",
        "migrations take no bandwidth, and nobody waits for a page that is moved",
        "UPI's own queue: the far tier has the queue of its DRAM only",
        "reads and writes that disturb each other's banks: one queue serves both alike",
    ),
    fitted=(
        "queue (54 ns, 180 GB/s) and the antagonist's requests under way (23.6 a core): the antagonist alone "
        f"on 5 and 15 cores, and the ratio of latencies of {_LOG}; 10 cores are predicted",
        f"requests of GUPS under way (4.41 a core): 606.7 million updates a second, {_LOG}",
        "92 ns beside memory for each access of 4 KiB pages (page walks): the row TPP 2x",
    ),
    scale="memory 1/8 in folios of 2 MiB (HeMem), 1/64 in folios of 4 KiB (TPP); rates and time as published",
    takes_topology=False,
    draw=None,
    run=_run,
)
