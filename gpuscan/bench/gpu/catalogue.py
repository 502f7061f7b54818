"""GPUs that the model knows: published limits of each, and where every number is from.

A GPU more is an entry more. Sources, by their mark in the comments:

- [sheet] NVIDIA's data sheets: H100 (SXM: 3.35 TB/s, 67 TFLOPS of FP32), H200 (4.8 TB/s, 67 TFLOPS).
- [tuning] NVIDIA's tuning guides for Hopper and Blackwell (docs.nvidia.com/cuda/hopper-tuning-guide and
  blackwell-tuning-guide), 1.4.1: 64 warps, 65,536 registers and 228 KiB of shared memory an SM. The white
  paper of the H100 has its 4 schedulers, each of which issues one warp instruction a cycle.
- [latency] github.com/markdewing/AI_kernels, latency/README.md at 0d701ad: a pointer chase, in cycles.
- [benches] github.com/RRZE-HPC/gpu-benches at 1038c5d: measured, the file is named.
- [driver] github.com/pytorch/ao/pull/4002: what the driver says of a B200.
- [copy] github.com/NVIDIA/cuda-samples/issues/392: p2pBandwidthLatencyTest, a copy inside one H100.
- [chips] chipsandcheese.com, "Nvidia's H100: Funny L2, and Tons of Bandwidth" (2023).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from gpuscan.base.errors import InputError

MAX_WARPS = 64
SM_REGISTERS = 65_536
SM_SHARED_BYTES = 228 << 10
SCHEDULERS = 4
"""Of an SM, each with a quarter of its warps and registers. All four [tuning], for sm_90 and sm_100."""
_COPY_SHARE = 2.96 / 3.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as the command is given it.
        device: how the driver's name of it begins.
        architecture: compute capability x 10, whose machine code it runs.
        n_sms: that are enabled.
        clock_hz: of the SMs, boosted.
        dram_bytes_per_s: published bandwidth of its memory.
        attained_share: of that, what a plain read or copy was measured to reach.
        l2_bytes: second-level cache.
        l2_bytes_per_s: read from it by all SMs.
        dram_ns: latency of an idle memory, of a load that misses the caches.
        l2_cycles: latency of a load that hits the second-level cache.
    """

    name: str
    device: str
    architecture: int
    n_sms: int
    clock_hz: float
    dram_bytes_per_s: float
    attained_share: float
    l2_bytes: int
    l2_bytes_per_s: float
    dram_ns: float
    l2_cycles: float

    @property
    def n_schedulers(self) -> int:
        """Of the whole GPU."""
        return self.n_sms * SCHEDULERS

    @property
    def read_bytes_per_s(self) -> float:
        """What a plain read reaches."""
        return self.dram_bytes_per_s * self.attained_share


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="h100",
            device="NVIDIA H100 80GB HBM3",
            architecture=90,
            n_sms=132,  # [sheet] white paper, SXM5
            clock_hz=1.98e9,  # [sheet] 67 TFLOPS are 132 SMs x 128 lanes x 2 x this
            dram_bytes_per_s=3.35e12,  # [sheet]
            attained_share=_COPY_SHARE,  # [copy] 2,959 GB/s
            l2_bytes=50 << 20,  # [sheet]
            l2_bytes_per_s=9.7e12,  # the H200's: the same die and clock
            dram_ns=700 / 1.98,  # [latency] H100 SXM
            l2_cycles=291,  # [latency]
        ),
        Gpu(
            name="h200",
            device="NVIDIA H200",
            architecture=90,
            n_sms=132,  # [sheet] the H100's die; 12,693 kB in 1,056 blocks of [benches] agree
            clock_hz=1.98e9,  # [benches] gpu-roofline/h200.txt says it while it runs
            dram_bytes_per_s=4.8e12,  # [sheet]
            attained_share=3.888 / 4.8,  # [benches] gpu-l2-cache/h200.txt, data sets of 128 MB and more
            l2_bytes=50 << 20,  # [sheet]; the same file falls off from 48 MB on
            l2_bytes_per_s=9.7e12,  # [benches] gpu-l2-cache/h200.txt, data sets of 25 to 40 MB
            dram_ns=690 / 1.98,  # [latency] GH200: the same die; gpu-latency/gh200.txt has 688 [benches]
            l2_cycles=281,  # [latency] GH200
        ),
        Gpu(
            name="b200",
            device="NVIDIA B200",
            architecture=100,
            n_sms=148,  # [driver]
            clock_hz=1.965e9,  # about an H100 SXM's: Chips and Cheese, "Nvidia's B200" (2025)
            dram_bytes_per_s=7.672e12,  # [driver] 7,680 bits at 3,996 MHz; the sheet rounds it to 8 TB/s
            attained_share=_COPY_SHARE,  # the H100's: none was found
            l2_bytes=126 << 20,  # [driver]
            l2_bytes_per_s=9.7e12 * 148 / 132,  # as much an SM as the H200's: none was found
            dram_ns=860 / 1.965,  # [latency]
            l2_cycles=295,  # [latency]
        ),
        Gpu(
            name="h100-pcie",
            device="NVIDIA H100 PCIe",
            architecture=90,
            n_sms=114,  # [chips]
            clock_hz=1.755e9,  # [chips]
            dram_bytes_per_s=2.039e12,  # [chips] 5,120 bits at 1,593 MHz
            attained_share=2.018 / 2.039,  # [benches] gpu-stream/h100_pcie.txt, init
            l2_bytes=50 << 20,  # [chips]
            l2_bytes_per_s=9.7e12 * 114 / 132 * 1.755 / 1.98,  # as much an SM and cycle as the H200's
            dram_ns=700 / 1.98,  # that of the SXM card, which has other memory: none was found
            l2_cycles=291,  # [latency] H100 SXM
        ),
    )
}


def gpu_named(name: str) -> Gpu:
    """Return a GPU by its name.

    Raises:
        InputError: there is none.
    """
    if name not in GPUS:
        close = difflib.get_close_matches(name, GPUS, 1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"unknown GPU {name!r}{meant}; choose {', '.join(GPUS)}")
    return GPUS[name]


def gpu_of_device(device: str) -> Gpu | None:
    """Return the GPU that the driver calls so, or None."""
    return next((gpu for gpu in GPUS.values() if device.startswith(gpu.device)), None)
