"""What is known without our own measurement, beside what the model says of it.

- ``fitted``: the file that two assumptions are from (gpu-stream/gh200.txt of gpu-benches at 1038c5d).
- ``free``: nothing of it is in the model. The same kernel on another card (gpu-stream/h100_pcie.txt), and the
  ratios of a cycle-level simulator, which executed ``scan_dense`` on 2^21 pages, on some other GPU: its times
  are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuscan.bench.gpu.assumptions import Assumptions
from gpuscan.bench.gpu.bounds import Crowd, Steps, Work, predict
from gpuscan.bench.gpu.catalogue import GPUS, SM_SHARED_BYTES, Gpu
from gpuscan.bench.gpu.counts import WARPS_PER_BLOCK, KernelCounts
from gpuscan.bench.gpu.layouts import Filled, share_hit
from gpuscan.bench.gpu.scans import Counts, dense

_READ_WARPS = 1 << 23
"""A warp reads 256 bytes, one load of 8 bytes a lane: 2^28 doubles."""
_READ_INSTRUCTIONS = 12
"""Not read from its machine code: an index, a look, a comparison."""
_GH200 = replace(GPUS["h200"], dram_bytes_per_s=4.0e12, attained_share=3.94 / 4.0)  # 96 GB of HBM3; init
_READ_GB_PER_S = {
    "GH200": {512: 935, 1024: 1715, 1536: 2314, 2048: 2775},
    "H100 PCIe": {512: 702, 1024: 1261, 1536: 1680, 2048: 1942},
}
"""``read`` by threads of an SM."""
_SIMULATED_PAGES = 1 << 21
_OLD_ROUND = 137
"""Instructions of a round of claims when 32 records with a hit were one each: (690 - 88) / 4.4, at 1e-2."""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure that is known, in its unit, and what the model says."""

    what: str
    kind: str
    unit: str
    known: float
    modelled: float

    @property
    def error(self) -> float:
        """The model's, relative."""
        return self.modelled / self.known - 1


def checks(counts: Counts, assumed: Assumptions) -> list[Check]:
    """Return all of them; ``counts`` are those of the format ``rfc`` on sm_90."""
    found = []
    for name, gpu, kind in (("GH200", _GH200, "fitted"), ("H100 PCIe", GPUS["h100-pcie"], "free")):
        for threads, rate in _READ_GB_PER_S[name].items():
            what = f"{name}, one load of 8 bytes a thread, {threads:,} threads an SM"
            found.append(Check(what, kind, "GB/s", rate, _read_gb_per_s(gpu, threads, assumed)))
    plain = _simulated(counts, 0, assumed, old=True)
    for density, known in ((1e-3, 107 / 75), (1e-2, 311 / 75)):
        what = f"a simulator, claims a tile at a time, {density:g} of reading only"
        found.append(Check(what, "free", "x", known, _simulated(counts, density, assumed, old=True) / plain))
    old, new = (_simulated(counts, 7.8e-3, assumed, old=each) for each in (True, False))
    found.append(
        Check("a simulator, queued claims at 7.8e-3 of those before", "free", "x", 67 / 158, new / old)
    )
    return found


def _read_gb_per_s(gpu: Gpu, threads: int, assumed: Assumptions) -> float:
    n_blocks = threads // (32 * WARPS_PER_BLOCK)
    counts = KernelCounts(registers=16, shared_bytes=SM_SHARED_BYTES // n_blocks, ways={})
    n_bytes = _READ_WARPS * 256
    crowd = Crowd(_READ_WARPS, Steps(_READ_INSTRUCTIONS, dram_waits=1))
    return n_bytes / predict(gpu, Work("read", counts, (crowd,), n_bytes, n_bytes), assumed).ns


def _simulated(counts: Counts, density: float, assumed: Assumptions, *, old: bool) -> float:
    """Return ns of a dense scan without its launch; ``old``: claims by 32 records with a hit."""
    filled = Filled(_SIMULATED_PAGES, "rfc", density)
    if old:
        work = dense(counts, replace(filled, density=0.0), assumed)
        (crowd,) = work.crowds
        rounds = _SIMULATED_PAGES / 32 * share_hit(density, 32) / crowd.n_warps
        claims = Steps(_OLD_ROUND, l2_waits=1, exchanges=1) * rounds
        work = replace(work, crowds=(Crowd(crowd.n_warps, crowd.steps + claims),))
    else:
        work = dense(counts, filled, assumed)
    # Nor did the kernel that was simulated say that its blocks are done, or sum up what they claimed.
    (crowd,) = work.crowds
    crowd = Crowd(crowd.n_warps, crowd.steps + Steps(exchanges=-1, fences=-1))
    work = replace(work, crowds=(crowd,), tail=Steps())
    return predict(GPUS["h200"], work, assumed).ns - assumed.launch_ns
