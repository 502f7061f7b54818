"""What the model needs and no document says of a GPU: one value each, printed, and varied."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace


def _assumed(value: float, why: str) -> float:
    return field(default=value, metadata={"why": why})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """The values; `why` of each is in its field's metadata."""

    launch_ns: float = _assumed(
        2500, "a kernel in a queue, at least: gpu-small-kernels/h200.txt of gpu-benches, 64 kB; a graph 1,360"
    )
    block_start_ns: float = _assumed(
        180, "before a block's first load: what gpu-stream/gh200.txt has over the latency at 1 % of occupancy"
    )
    loaded_latency: float = _assumed(
        1.0, "memory's latency grows by this share x the used share of its bandwidth: fitted to the same file"
    )
    cycles_per_instruction: float = _assumed(
        4,
        "from an instruction to the next of its warp: arithmetic since Volta (arXiv:1804.06826); no overlap",
    )
    exchange_waits: float = _assumed(1, "an exchange takes as long as a load from the second-level cache")
    exchange_bytes: float = _assumed(64, "an exchange takes that cache's time as this many bytes read do")
    sector_mates: float = _assumed(
        1, "exchanges of a warp in a sector that has one count so much: 1 each by itself, 0 all in one go"
    )
    fence_waits: float = _assumed(1, "a fence takes as long as a load from that cache")
    same_address_cycles: float = _assumed(
        1, "between two atomics on one address (GK110 white paper: one a clock)"
    )
    random_bytes: float = _assumed(64, "what a look at one record moves from memory; 32 are written back")


def varied() -> dict[str, Assumptions]:
    """Return what is tried for sensitivity, by name: each value doubled, or what else it could be."""
    plain = Assumptions()
    tried = {
        each.name: replace(plain, **{each.name: getattr(plain, each.name) * 2})
        for each in fields(Assumptions)
    }
    tried["sector_mates"] = replace(plain, sector_mates=0)
    tried["random_bytes"] = replace(plain, random_bytes=plain.random_bytes / 2)
    tried["launch_ns"] = replace(plain, launch_ns=1360)
    return tried


def reasons() -> dict[str, str]:
    """Return why each value is what it is, by name."""
    return {each.name: str(each.metadata["why"]) for each in fields(Assumptions)}
