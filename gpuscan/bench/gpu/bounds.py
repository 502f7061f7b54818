"""How long a kernel takes, and what binds it, from what its warps do.

A scheduler and its resident warps are a closed queue: a warp is served (its instructions are issued, one a
cycle), then it is away (it waits for memory, or for its own last instruction), and comes back. With N warps,
D cycles served and Z away, Schweitzer's approximation has the time of one turn in closed form. What all warps
share (bytes, the second-level cache, one address) is a bound beside it, wave by wave: the warps that fit, and
then the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gpuscan.bench.gpu.assumptions import Assumptions
from gpuscan.bench.gpu.catalogue import MAX_WARPS, SCHEDULERS, SM_REGISTERS, SM_SHARED_BYTES, Gpu
from gpuscan.bench.gpu.counts import WARPS_PER_BLOCK, KernelCounts

_NEAR = 1e-7
"""How exact a time is found, relative."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What a warp does, one after the other: instructions, and waits for what it cannot go on without."""

    instructions: float = 0
    dram_waits: float = 0
    l2_waits: float = 0
    exchanges: float = 0
    fences: float = 0

    def __add__(self, other: Steps) -> Steps:
        return Steps(
            self.instructions + other.instructions,
            self.dram_waits + other.dram_waits,
            self.l2_waits + other.l2_waits,
            self.exchanges + other.exchanges,
            self.fences + other.fences,
        )

    def __mul__(self, times: float) -> Steps:
        return Steps(
            self.instructions * times,
            self.dram_waits * times,
            self.l2_waits * times,
            self.exchanges * times,
            self.fences * times,
        )


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many warps that do the same."""

    n_warps: float
    steps: Steps


@dataclass(frozen=True, slots=True)
class Work:
    """What one launch does.

    Attributes:
        kernel: its name.
        counts: of its machine code.
        crowds: its warps.
        dram_bytes: read from memory and written there.
        l2_bytes: between the SMs and the second-level cache.
        atomics: on addresses of their own.
        same_address: atomics on the address that has the most.
        tail: what one warp does when all others are done.
        n_launches: how often.
    """

    kernel: str
    counts: KernelCounts
    crowds: tuple[Crowd, ...]
    dram_bytes: float = 0
    l2_bytes: float = 0
    atomics: float = 0
    same_address: float = 0
    tail: Steps = Steps()
    n_launches: int = 1


@dataclass(frozen=True, slots=True)
class Modelled:
    """What a launch takes.

    Attributes:
        kernel: its name.
        ns: all of it.
        binds: ``bytes``, ``L2``, ``exchanges``, ``one address``, ``issue``, ``latency``, ``slowest warp``,
            ``last block`` or ``launch``.
        parts: nanoseconds of each of these alone.
    """

    kernel: str
    ns: float
    binds: str
    parts: Mapping[str, float]


def resident_warps(gpu: Gpu, counts: KernelCounts) -> int:
    """Return how many warps of a kernel an SM holds, in blocks of 8; the registers of a warp come in 256s."""
    of_warp = 32 * 8 * math.ceil(counts.registers / 8)
    by_registers = SM_REGISTERS // SCHEDULERS // of_warp * SCHEDULERS // WARPS_PER_BLOCK
    by_shared = SM_SHARED_BYTES // counts.shared_bytes if counts.shared_bytes else by_registers
    return WARPS_PER_BLOCK * min(MAX_WARPS // WARPS_PER_BLOCK, by_registers, by_shared)


def turn_cycles(n_warps: float, served: float, away: float) -> float:
    """Return the cycles of one turn of a warp among ``n_warps`` (1 or more) of a scheduler."""
    rest = away - served * n_warps
    queued = (math.sqrt(rest * rest + 4 * served * away) - rest) / 2
    return queued + away


def predict(gpu: Gpu, work: Work, assumed: Assumptions = Assumptions()) -> Modelled:  # noqa: B008 - frozen
    """Return what a launch takes on a GPU."""
    shared = _shared(gpu, work, assumed)
    # Memory is slower the more of it is used, and less of it is used the longer a launch takes.
    dram_ns = work.dram_bytes / gpu.dram_bytes_per_s * 1e9
    low, high = (_body(gpu, work, assumed, shared, used)[0] for used in (0.0, 1.0))
    while high - low > _NEAR * high:
        middle = (low + high) / 2
        if _body(gpu, work, assumed, shared, min(1.0, dram_ns / middle))[0] > middle:
            low = middle
        else:
            high = middle
    used = min(1.0, dram_ns / high) if high else 0.0
    body, latency, longest = _body(gpu, work, assumed, shared, used)
    issue = sum(crowd.n_warps * crowd.steps.instructions for crowd in work.crowds) / gpu.n_schedulers
    tail = _alone(gpu, work.tail, assumed)
    parts = {
        **shared,
        "issue": issue / gpu.clock_hz * 1e9,
        "latency": latency,
        "slowest warp": longest,
        "last block": tail,
        "launch": assumed.launch_ns,
    }
    ns = (assumed.launch_ns + body + tail) * work.n_launches
    return Modelled(
        work.kernel, ns, _binding(parts, body), {k: v * work.n_launches for k, v in parts.items()}
    )


def _shared(gpu: Gpu, work: Work, assumed: Assumptions) -> dict[str, float]:
    """Return what the things that all warps share take, in ns."""
    atomic_bytes = work.atomics * assumed.exchange_bytes
    return {
        "bytes": work.dram_bytes / gpu.read_bytes_per_s * 1e9,
        "L2": (work.l2_bytes + atomic_bytes) / gpu.l2_bytes_per_s * 1e9,
        "exchanges": atomic_bytes / gpu.l2_bytes_per_s * 1e9,
        "one address": work.same_address * assumed.same_address_cycles / gpu.clock_hz * 1e9,
    }


def _body(
    gpu: Gpu, work: Work, assumed: Assumptions, shared: Mapping[str, float], used: float
) -> tuple[float, float, float]:
    """Return ns of the warps: in all, by latency and occupancy alone, and of the slowest.

    Args:
        gpu, work, assumed, shared: as above.
        used: share of the published bandwidth of memory.
    """
    n_warps = sum(crowd.n_warps for crowd in work.crowds)
    whole = Steps()
    for crowd in work.crowds:
        whole += crowd.steps * crowd.n_warps
    mean = whole * (1 / n_warps)
    served, away = mean.instructions, _away(gpu, mean, assumed, used)
    slots = resident_warps(gpu, work.counts) * gpu.n_sms
    bound = max(shared.values())
    body = latency = 0.0
    left = n_warps
    while left > 0:
        now = min(left, slots)
        n_full = max(1, int(left // slots))
        turn = turn_cycles(max(1.0, now / gpu.n_schedulers), served, away) / gpu.clock_hz * 1e9
        latency += n_full * turn
        body += n_full * max(turn, bound * now / n_warps)
        left -= n_full * now
    longest = max(_chain(gpu, crowd.steps, assumed, used) for crowd in work.crowds)
    return max(body, longest), latency, longest


def _away(gpu: Gpu, steps: Steps, assumed: Assumptions, used: float) -> float:
    """Return the cycles that a warp is not waiting to be served."""
    loaded = gpu.dram_ns * (1 + assumed.loaded_latency * used)
    l2_waits = steps.l2_waits + steps.exchanges * assumed.exchange_waits + steps.fences * assumed.fence_waits
    return (
        (assumed.block_start_ns + steps.dram_waits * loaded) * gpu.clock_hz / 1e9
        + l2_waits * gpu.l2_cycles
        + (assumed.cycles_per_instruction - 1) * steps.instructions
    )


def _chain(gpu: Gpu, steps: Steps, assumed: Assumptions, used: float) -> float:
    return (steps.instructions + _away(gpu, steps, assumed, used)) / gpu.clock_hz * 1e9


def _alone(gpu: Gpu, steps: Steps, assumed: Assumptions) -> float:
    """Return what a warp takes that has the GPU to itself, in ns; its block has begun long ago."""
    return _chain(gpu, steps, assumed, 0.0) - assumed.block_start_ns


def _binding(parts: Mapping[str, float], body: float) -> str:
    if parts["launch"] >= body + parts["last block"]:
        return "launch"
    if parts["last block"] >= body:
        return "last block"
    shared = ("bytes", "L2", "exchanges", "one address", "issue")
    most = max(shared, key=lambda name: (parts[name], -shared.index(name)))
    if most == "L2" and parts["exchanges"] > parts["L2"] / 2:
        most = "exchanges"
    if body <= parts[most] * 1.05:
        return most
    return (
        "slowest warp"
        if body <= parts["slowest warp"] * 1.01 and parts["slowest warp"] > parts["latency"]
        else "latency"
    )
