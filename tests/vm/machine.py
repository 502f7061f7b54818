"""The emulated machine: two sockets with a CPU each, and a CPU-less memory expander beside each of them."""

from __future__ import annotations

from dataclasses import dataclass

MODULE_VARIABLE = "GPUSCAN_GUEST_MODULE"
"""Environment variable of commands in the guest: the node that is a module, where there is one."""


@dataclass(frozen=True)
class Machine:
    """Nodes 0 and 1 have a CPU each; nodes 2 and 3 have none, which is how the kernel sees CXL memory.

    Attributes:
        memory_mib: memory of each node.
        distance: node distances, as ``numactl -H`` would show them.
        latency_ns: access latency from a node with a CPU to itself, to the other socket, to an expander.
        bandwidth_gbps: access bandwidth likewise, GB/s.
        module_mib: memory of a node 4 that is a module to be plugged, and so can go offline as a whole; 0:
            there is none. The kernel has pages of its own on all the others.
        module_distance: of each node to it, itself the last.

    Without latencies and bandwidths (ACPI HMAT) the kernel puts all nodes into one memory tier, and neither
    demotion nor NUMA balancing in mode 2 does anything (``mt_perf_to_adistance``, mm/memory-tiers.c, v6.12).
    """

    memory_mib: tuple[int, int, int, int] = (768, 384, 512, 384)
    distance: tuple[tuple[int, ...], ...] = (
        (10, 20, 24, 34),
        (20, 10, 34, 24),
        (24, 34, 10, 40),
        (34, 24, 40, 10),
    )
    latency_ns: tuple[int, int, int] = (100, 150, 400)
    bandwidth_gbps: tuple[int, int, int] = (100, 50, 20)
    module_mib: int = 0
    module_distance: tuple[int, ...] = (30, 40, 44, 44, 10)

    def variables(self) -> dict[str, str]:
        """Return what the environment of commands in the guest says of it."""
        return {MODULE_VARIABLE: str(len(self.memory_mib))} if self.module_mib else {}

    def qemu_arguments(self) -> list[str]:
        """Return the arguments that make QEMU build this machine."""
        # avx2=off: QEMU 7.2 emulates wrongly what NumPy sorts with on AVX2 (tests/doors/test_vm.py).
        arguments = [
            *("-machine", "q35,hmat=on", "-accel", "tcg,thread=multi", "-cpu", "max,avx2=off"),
            *("-m", self._memory(), "-smp", "cpus=2,sockets=2,cores=1,threads=1"),
        ]
        for nid, mib in enumerate(self.memory_mib):
            arguments += ["-object", f"memory-backend-ram,id=memory{nid},size={mib}M"]
            arguments += ["-numa", f"node,nodeid={nid},memdev=memory{nid},initiator={nid % 2}"]
        distance = self.distance
        if self.module_mib:
            *to_it, _ = self.module_distance
            distance = (
                *((*row, far) for row, far in zip(distance, to_it, strict=True)),
                self.module_distance,
            )
            arguments += ["-numa", f"node,nodeid={len(to_it)},initiator=0"]
            arguments += ["-object", f"memory-backend-ram,id=module,size={self.module_mib}M"]
            arguments += ["-device", f"pc-dimm,memdev=module,node={len(to_it)}"]
        for nid in (0, 1):
            arguments += ["-numa", f"cpu,node-id={nid},socket-id={nid}"]
        for source, row in enumerate(distance):
            for target, value in enumerate(row):
                arguments += ["-numa", f"dist,src={source},dst={target},val={value}"]
        for initiator in (0, 1):
            for target in range(len(distance)):
                where = 2 if target > 1 else int(target != initiator)
                pair = f"hmat-lb,initiator={initiator},target={target},hierarchy=memory"
                latency, bandwidth = self.latency_ns[where], self.bandwidth_gbps[where]
                arguments += ["-numa", f"{pair},data-type=access-latency,latency={latency}"]
                arguments += ["-numa", f"{pair},data-type=access-bandwidth,bandwidth={bandwidth}G"]
        return arguments

    def _memory(self) -> str:
        total = sum(self.memory_mib)
        return f"{total}M,slots=1,maxmem={total + self.module_mib}M" if self.module_mib else f"{total}M"
