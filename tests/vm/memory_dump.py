"""Hold ``gpuscan capture --core`` against what a kernel says of itself.

``python -m tests.vm.memory_dump FOLDER``: a guest of two nodes writes its own /proc/zoneinfo, kpageflags,
kpagecount and kpagecgroup to the host. Then it is stopped, QEMU dumps its memory, and drgn reads the dump.
The folder has Debian's cloud kernel, of 6.12 or later, and its debug information, 320 MB to fetch and 1.7 GB
unpacked; drgn has to be installed (the extra ``drgn``)::

    apt-get download linux-image-VERSION-cloud-amd64 linux-image-VERSION-cloud-amd64-dbg   # of backports
    for package in *.deb; do dpkg -x $package FOLDER; done

It takes half a minute. Whatever the guest does between the two reads differs: some dozen pages.
"""

from __future__ import annotations

import argparse
import json
import lzma
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpuscan.records.page_flags import Kpf, bits
from gpuscan.snapshot.drgn_kernel import open_kernel
from gpuscan.snapshot.kernel_memory import snapshot_of
from gpuscan.snapshot.procfs import capture
from gpuscan.snapshot.snapshot import Snapshot

from .guest import N_BOOTS
from .initramfs import initramfs
from .parts import Parts, find

INIT = Path(__file__).parent / "dump_init"
FILES = ("zoneinfo", "iomem", "kpageflags", "kpagecount", "kpagecgroup")
"""In the order of the guest's ports."""
LIMIT_S = 240.0
DIFFERING_SHARE_MAX = 0.01
"""Of folios: what the guest changed between its own words and the dump."""
NODES = {
    "sys/devices/system/node/online": "0-1\n",
    "sys/devices/system/node/node0/cpulist": "0\n",
    "sys/devices/system/node/node1/cpulist": "\n",
    "sys/devices/system/node/node0/distance": "10 20\n",
    "sys/devices/system/node/node1/distance": "20 10\n",
    "sys/devices/virtual/memory_tiering/memory_tier4/nodelist": "0-1\n",
}
"""What it does not write; firmware without HMAT puts both nodes into one tier."""


class NotReadyError(Exception):
    """The guest ended, or took too long; the message has the last of its console."""


def dump(kernel: Path, module: Path, place: Path) -> tuple[Path, list[int]]:
    """Boot the guest, and dump its memory once it has said all; return the dump and its cgroups' numbers.

    Raises:
        NotReadyError: it did not get so far.
    """
    parts = find()
    modules = place / "qemu_fw_cfg.ko"
    modules.write_bytes(
        lzma.decompress(module.read_bytes()) if module.suffix == ".xz" else module.read_bytes()
    )
    first = initramfs(Parts(parts.qemu, parts.busybox, kernel, (modules,)), INIT)
    (place / "initramfs").write_bytes(first)
    (place / "proc").mkdir()
    ports = []
    for number, name in enumerate(FILES, start=1):
        ports += ["-chardev", f"file,id=file{number},path={place}/proc/{name}"]
        ports += ["-device", f"virtserialport,chardev=file{number},nr={number}"]
    console, control, core = place / "console", place / "control", place / "core"
    with subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL", "--", str(parts.qemu)),
            *("-machine", "q35", "-accel", "tcg", "-cpu", "Nehalem", "-m", "448M", "-smp", "1"),
            *("-object", "memory-backend-ram,id=memory0,size=256M", "-numa", "node,memdev=memory0,cpus=0"),
            *("-object", "memory-backend-ram,id=memory1,size=192M", "-numa", "node,memdev=memory1"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-device", "vmcoreinfo"),
            *("-kernel", str(kernel), "-initrd", str(place / "initramfs"), "-serial", f"file:{console}"),
            *("-append", "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check"),
            *(
                "-qmp",
                f"unix:{control},server=on,wait=off",
                "-device",
                "virtio-serial-pci,max_ports=8",
                *ports,
            ),
        ]
    ) as qemu:
        try:
            until = time.monotonic() + LIMIT_S
            while "READY" not in (said := console.read_text(errors="replace") if console.exists() else ""):
                if qemu.poll() is not None or time.monotonic() > until:
                    raise NotReadyError(said[-2000:])
                time.sleep(0.5)
            with socket.socket(socket.AF_UNIX) as door:
                door.connect(str(control))
                _tell(door, "qmp_capabilities")
                _tell(door, "stop")
                _tell(door, "dump-guest-memory", paging=False, protocol=f"file:{core}")
        finally:
            qemu.kill()
    return core, [int(word) for word in said.partition("INODES ")[2].splitlines()[0].split()]


def _tell(door: socket.socket, command: str, **arguments: object) -> None:
    door.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    answer = b""
    while b'"return"' not in answer:
        answer = door.recv(1 << 16)
        if b'"error"' in answer or not answer:
            raise SystemExit(f"QEMU does not {command}: {answer.decode(errors='replace')}")


def compare(said: Snapshot, found: Snapshot) -> bool:
    """Print how two snapshots of one machine differ; return whether that is what a guest does in a moment."""
    _say(f"machines are equal: {said.topology.nodes == found.topology.nodes}")
    _say(f"distances are equal: {np.array_equal(said.topology.distance, found.topology.distance)}")
    own, ours = said.frames(), found.frames()
    differing = int(np.count_nonzero((own.eligible != ours.eligible) | (own.order != ours.order)))
    n_folios = int(np.count_nonzero(own.eligible))
    _say(f"folios: {n_folios:,}, of which {differing:,} differ")
    _say(f"mapcounts that differ: {np.count_nonzero(said.mapcounts != found.mapcounts):,}")
    for flag in (Kpf.LRU, Kpf.ANON, Kpf.SWAPBACKED, Kpf.DIRTY, Kpf.REFERENCED, Kpf.COMPOUND_TAIL, Kpf.SLAB):
        own_pages, our_pages = ((each.flags & bits(flag)) != 0 for each in (said, found))
        _say(f"{flag.name}: {own_pages.sum():,} pages, {np.count_nonzero(own_pages != our_pages):,} differ")
    both = own.eligible & ours.eligible
    assert said.cgroups is not None
    assert found.cgroups is not None
    names = [np.array(each.cgroups.names)[each.cgroups.of_page[both]] for each in (said, found)]  # type: ignore[union-attr]
    charged = int(np.count_nonzero(names[0] != names[1]))
    _say(f"folios charged elsewhere: {charged:,} of {np.count_nonzero(both):,}")
    return (
        bool(said.topology.nodes == found.topology.nodes)
        and max(differing, charged) <= DIFFERING_SHARE_MAX * n_folios
    )


def main() -> int:
    """Run it; return 0 where the two agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.memory_dump")
    parser.add_argument("folder", type=Path, help="where the two packages were unpacked")
    folder: Path = parser.parse_args().folder
    (kernel,) = folder.glob("boot/vmlinuz-*")
    (module,) = folder.glob("**/qemu_fw_cfg.ko*")
    (symbols,) = folder.glob("usr/lib/debug/boot/vmlinux-*")
    for attempt in range(1, N_BOOTS + 1):  # a kernel that patches itself may panic under QEMU: docs/guest.md
        try:
            return _checked(kernel, module, symbols)
        except NotReadyError as error:
            _say(f"attempt {attempt} of {N_BOOTS}, the guest did not get ready:\n{error}")
    return 1


def _checked(kernel: Path, module: Path, symbols: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="gpuscan-dump-") as name:
        place = Path(name)
        core, inodes = dump(kernel, module, place)
        for file, text in NODES.items():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(text)
        said = capture(place, with_cgroups=True)
        assert said.cgroups is not None
        paths = {f"inode {inode}": path for inode, path in zip(inodes, ("/", "/jobs"), strict=True)}
        said = _renamed(said, paths)
        begun = time.perf_counter()
        kernel_memory = open_kernel(core, symbols)
        opened = time.perf_counter()
        found = snapshot_of(kernel_memory, with_cgroups=True)
        _say(f"opened in {opened - begun:.2f} s, read in {time.perf_counter() - opened:.2f} s")
        _say(f"{found.kernel_release}, {found.captured_at}, HZ {found.hz}, lru_gen {found.lru_gen}")
        return 0 if compare(said, found) else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _renamed(snapshot: Snapshot, paths: dict[str, str]) -> Snapshot:
    assert snapshot.cgroups is not None
    names = tuple(paths.get(name, name) for name in snapshot.cgroups.names)
    return replace(snapshot, cgroups=replace(snapshot.cgroups, names=names))


if __name__ == "__main__":
    sys.exit(main())
