"""Snapshots of a kernel's memory: its ``struct page`` against its own words, machines, and what drgn finds.

``data/struct_pages.npz`` has pages of a guest with Linux 6.12.95 (Debian's, x86-64, 448 MiB): what a dump of
its memory has of them (``raw``), and what /proc/kpageflags and /proc/kpagecount said before it was stopped.
``tests/vm/memory_dump.py`` does that again, with drgn; here drgn is made up.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.cli.main import main
from gpuscan.files import reading
from gpuscan.records.page_flags import NO_PAGE, Kpf, bits
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.snapshot import drgn_kernel, kernel_memory
from gpuscan.snapshot.drgn_kernel import open_kernel
from gpuscan.snapshot.kernel_memory import KernelMemory, snapshot_of
from gpuscan.snapshot.struct_pages import FLAG_NAMES, PageLayout, page_words
from gpuscan.topology.file_tree import Files

DATA = Path(__file__).parents[1] / "data/struct_pages.npz"
VMEMMAP = 0xFFFFFB4D40000000
NUMBERS = (0, 2, 3, 4, 5, 8, None, 1, 16, 17, 18, 19, 20, 13, 6, 10)
"""Of ``FLAG_NAMES`` in that kernel; it has no PG_slab."""
LAYOUT = PageLayout(
    size=64,
    flags=0,
    compound_head=8,
    mapping=24,
    mapcount=48,
    private=40,
    memcg_data=56,
    entire_mapcount=84,
    bits={name: number for name, number in zip(FLAG_NAMES, NUMBERS, strict=True) if number is not None},
    types={
        "buddy": 0xF0000000,
        "offline": 0xF1000000,
        "table": 0xF2000000,
        "hugetlb": 0xF4000000,
        "slab": 0xF5000000,
    },
)
NOT_MADE = bits(
    *(flag for flag in Kpf if flag >= Kpf.OWNER_2), Kpf.KSM, Kpf.THP, Kpf.ZERO_PAGE, Kpf.IDLE, Kpf.ERROR
)


def test_pages_are_what_their_kernel_says() -> None:
    with np.load(DATA) as data:
        found = dict(data)
    at = 0
    seen = np.uint64(0)
    for first, n_pages in found["windows"].tolist():
        part = slice(at, at + n_pages)
        at += n_pages
        words = page_words(found["raw"][part].tobytes(), VMEMMAP + 64 * first, LAYOUT)
        said = found["flags"][part] & ~NOT_MADE
        assert (words.flags == said).all(), first
        assert (words.mapcounts == found["counts"][part]).all(), first
        seen |= np.bitwise_or.reduce(said)
    assert at == len(found["raw"])
    for flag in (Kpf.LRU, Kpf.ANON, Kpf.SWAPBACKED, Kpf.BUDDY, Kpf.COMPOUND_TAIL, Kpf.PGTABLE, Kpf.RESERVED):
        assert seen & bits(flag), flag


def page(
    flags: int = 0,
    *,
    compound: int = 0,
    mapping: int = 0,
    private: int = 0,
    mapcount: int = -1,
    memcg: int = 0,
    entire: int = -1,
) -> bytes:
    """Return a ``struct page``; ``entire`` is of the first page of a folio, and lies in its second one."""
    return struct.pack(
        "<QQ4xiQQQIIQ", flags, compound, entire, mapping, 0, private, mapcount & 0xFFFFFFFF, 1, memcg
    )


LRU, HEAD, ACTIVE = 1 << 5, 1 << 6, 1 << 8


def words(*pages: bytes, layout: PageLayout = LAYOUT) -> tuple[list[int], list[int], list[int]]:
    found = page_words(b"".join(pages), VMEMMAP, layout)
    return found.flags.tolist(), found.mapcounts.tolist(), found.memcg.tolist()


def flags_of(*flags: Kpf) -> int:
    return int(bits(*flags))


def test_a_folio_is_what_its_first_page_says() -> None:
    tail = VMEMMAP + 64 + 1
    flags, counts, memcg = words(
        page(LRU, mapping=8, memcg=0x1000),
        page(LRU | HEAD | ACTIVE, mapping=9, memcg=0x2000, mapcount=-1),
        page(compound=tail, mapcount=2, entire=1, memcg=0x3000),
    )
    assert flags == [
        flags_of(Kpf.LRU),
        flags_of(Kpf.LRU, Kpf.ACTIVE, Kpf.ANON, Kpf.COMPOUND_HEAD, Kpf.MMAP),
        flags_of(Kpf.LRU, Kpf.ACTIVE, Kpf.ANON, Kpf.COMPOUND_TAIL, Kpf.MMAP),
    ]
    assert counts == [0, 2, 5]  # mapped as a whole twice
    assert memcg == [0x1000, 0x2000, 0]
    assert words(page(memcg=0x1001), page(memcg=0x1002))[2] == [0, 0]  # a slab's, the kernel's own


def test_types_of_before_are_told_too() -> None:
    """Before v6.12 a type cleared one bit of the word; PG_slab was a flag."""
    old = replace(
        LAYOUT,
        types={"buddy": 0xFFFFFF7F},
        bits={**LAYOUT.bits, "PG_slab": 9},
        entire_mapcount=None,
        memcg_data=None,
    )
    flags, counts, memcg = words(
        page(mapcount=-129, private=1), page(), page(1 << 9), page(mapcount=0), layout=old
    )
    assert flags == [flags_of(Kpf.BUDDY)] * 2 + [flags_of(Kpf.SLAB), flags_of(Kpf.MMAP)]
    assert counts == [0, 0, 0, 1]
    assert memcg == [0, 0, 0, 0]


def test_free_blocks_end_where_the_piece_does() -> None:
    free = page(mapcount=-(1 << 28), private=3)
    assert words(page(), free, page())[0] == [0, flags_of(Kpf.BUDDY), flags_of(Kpf.BUDDY)]
    mad = page(mapcount=-(1 << 28), private=1 << 63)
    assert words(mad, page())[0] == [flags_of(Kpf.BUDDY)] * 2


def test_swap_needs_both_bits_and_a_gigantic_page_goes_over_the_edge() -> None:
    swapcache, swapbacked = 1 << 10, 1 << 17
    assert words(page(swapcache), page(swapcache | swapbacked))[0] == [
        0,
        flags_of(Kpf.SWAPBACKED, Kpf.SWAPCACHE),
    ]
    before = VMEMMAP - 64 * 1000 + 1
    behind = VMEMMAP + 64 * 1000 + 1
    assert (
        words(page(compound=before), page(compound=behind))[0] == [flags_of(Kpf.COMPOUND_TAIL, Kpf.HUGE)] * 2
    )


ZONE = """\
Node {nid}, zone   Normal
  pages free     100
        min      3
        low      5
        high     7
        promo    9
        spanned  {n}
        present  {n}
        managed  {n}
        protection: (0)
  start_pfn:           {start}
"""
FILES = {
    "proc/zoneinfo": ZONE.format(nid=0, start=SECTION_PAGES, n=SECTION_PAGES)
    + ZONE.format(nid=1, start=4 * SECTION_PAGES, n=SECTION_PAGES),
    "proc/iomem": f"{SECTION_PAGES << 12:x}-{(2 * SECTION_PAGES << 12) - 1:x} : System RAM\n"
    f"{4 * SECTION_PAGES << 12:x}-{(5 * SECTION_PAGES << 12) - 1:x} : System RAM (kmem)\n",
    "sys/devices/system/node/online": "0-1\n",
    "sys/devices/system/node/node0/cpulist": "0\n",
    "sys/devices/system/node/node1/cpulist": "\n",
    "sys/devices/system/node/node0/distance": "10 30\n",
    "sys/devices/system/node/node1/distance": "30 10\n",
}


def kernel(**changed: Any) -> KernelMemory:
    """Return the memory of a kernel of two nodes; the upper half of node 1 is offline."""
    free = page(mapcount=-(1 << 28))
    first = [free] * SECTION_PAGES
    first[7] = page(LRU, mapping=1, memcg=0xA000)
    second = [free] * (SECTION_PAGES // 2)
    second[:3] = [page(LRU | 4, memcg=address) for address in (0xA000, 0xB000, 0xC000)]
    memory = {
        VMEMMAP + 64 * SECTION_PAGES: b"".join(first),
        VMEMMAP + 64 * 4 * SECTION_PAGES: b"".join(second),
    }

    def read(address: int, n_bytes: int) -> bytes:
        for start, content in memory.items():
            if start <= address and address + n_bytes <= start + len(content):
                return content[address - start : address - start + n_bytes]
        raise InputError(f"nothing at {address:#x}")

    facts: dict[str, Any] = {
        "files": Files("vmcore", FILES, frozenset()),
        "page_bytes": 4096,
        "layout": LAYOUT,
        "arrays": [
            (SECTION_PAGES, 2 * SECTION_PAGES, VMEMMAP + 64 * SECTION_PAGES),
            (4 * SECTION_PAGES, 9 * SECTION_PAGES // 2, VMEMMAP + 64 * 4 * SECTION_PAGES),
        ],
        "read": read,
        "cgroup_of": lambda address: {0xA000: "/a", 0xB000: "/b", 0xC000: "/a"}[address],
        "kernel_release": "6.12",
        "hz": 250,
        "lru_gen": False,
        "captured_at": "2026-01-01T00:00:00+00:00",
    }
    return KernelMemory(**{**facts, **changed})


def test_a_dump_is_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    found = snapshot_of(kernel(), lambda done, of: seen.append((done, of)), with_cgroups=True)
    assert [(node.nid, node.kind.value, node.present_pages) for node in found.topology.nodes] == [
        (0, "dram", SECTION_PAGES),
        (1, "cxl", SECTION_PAGES),
    ]
    assert found.topology.distance.tolist() == [[10, 30], [30, 10]]
    frames = found.frames()
    assert np.flatnonzero(frames.eligible).tolist() == [
        7,
        SECTION_PAGES,
        SECTION_PAGES + 1,
        SECTION_PAGES + 2,
    ]
    assert np.flatnonzero(frames.hot).tolist() == [SECTION_PAGES, SECTION_PAGES + 1, SECTION_PAGES + 2]
    assert (found.flags[SECTION_PAGES + SECTION_PAGES // 2 :] == NO_PAGE).all()
    assert found.cgroups is not None
    assert found.cgroups.names == ("none", "/a", "/b")  # a removed one counts as the one above it
    heads = np.flatnonzero(frames.eligible)
    assert found.cgroups.of_page[heads].tolist() == [1, 1, 2, 1]
    assert found.notes == ("16384 present pages have no struct page, taken as no page",)
    assert (found.kernel_release, found.hz, found.captured_at) == ("6.12", 250, "2026-01-01T00:00:00+00:00")
    assert seen[-1] == (3 * SECTION_PAGES // 2, 2 * SECTION_PAGES)
    monkeypatch.setattr(kernel_memory, "_STRETCH_PAGES", 1000)
    again = snapshot_of(kernel())
    assert again.cgroups is None
    assert (again.flags == found.flags).all()
    assert (again.mapcounts == found.mapcounts).all()


def test_what_is_no_machine_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TopologyError, match="64 KiB"):
        snapshot_of(kernel(page_bytes=65536))
    with pytest.raises(InputError, match="nothing at"):
        snapshot_of(kernel(arrays=[(SECTION_PAGES, 2 * SECTION_PAGES, VMEMMAP)]))
    monkeypatch.setattr(kernel_memory, "N_CGROUPS_MAX", 3)
    with pytest.raises(InputError, match="more than 2 cgroups, which no kernel has"):
        snapshot_of(kernel(), with_cgroups=True)


class Named:
    """A text in the kernel's memory."""

    def __init__(self, text: str) -> None:
        self.text = text

    def string_(self) -> bytes:
        return self.text.encode()


CONSTANTS = {"NR_FREE_PAGES": 0, "PGTY_table": 0xF2, "CSS_ONLINE": 2}
OFFSETS = {
    "struct page": {
        "flags": 0,
        "compound_head": 8,
        "mapping": 24,
        "_mapcount": 48,
        "private": 40,
        "memcg_data": 56,
    },
    "struct folio": {"_entire_mapcount": 84},
}
VMCOREINFO = """\
OSRELEASE=6.12
NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456
NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-251658240
"""


def constant(name: str) -> int:
    if name not in CONSTANTS:
        raise LookupError(f"could not find {name!r}")
    return CONSTANTS[name]


def zone(name: str, start: int, n: int, boost: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        name=Named(name),
        zone_start_pfn=start,
        spanned_pages=n,
        present_pages=n,
        managed_pages=SimpleNamespace(counter=n),
        watermark_boost=boost,
        _watermark=[3, 5, 7, 9],
        lowmem_reserve=[0, 0],
        vm_stat=[SimpleNamespace(counter=n // 2)],
        prog_=SimpleNamespace(constant=constant),
    )


def cgroup(path: str, parent: Any = None, flags: int = 2) -> SimpleNamespace:
    state: SimpleNamespace = SimpleNamespace(
        cgroup=path, flags=flags, parent=parent, address_of_=lambda: state
    )
    return state


CGROUPS = {0xA000: cgroup("/a"), 0xB000: cgroup("/gone", cgroup("/b"), flags=0)}
RAM = SimpleNamespace(
    start=SECTION_PAGES << 12,
    end=(2 * SECTION_PAGES << 12) - 1,
    name=Named("System RAM"),
    address_of_=lambda: None,
)


class Program:
    """A kernel of one node and one section, as drgn shows it."""

    def __init__(self) -> None:
        self.flags = 1
        self.status = "have"
        self.objects: dict[str, Any] = {
            "PAGE_SIZE": 4096,
            "UTS_RELEASE": Named("6.12"),
            "VMCOREINFO": Named(VMCOREINFO),
            "iomem_resource": RAM,
            "node_to_cpumask_map": ["0-1"],
            "clocksource_jiffies": SimpleNamespace(shift=8, mult=4_000_000 << 8),
            "lru_gen_caps": [SimpleNamespace(key=SimpleNamespace(enabled=SimpleNamespace(counter=1)))],
            "numa_distance_cnt": 1,
            "numa_distance": [10],
        }
        self.zones = [zone("DMA32", 0, 0), zone("Normal", SECTION_PAGES, SECTION_PAGES, boost=2)]
        self.symbols: list[str] = []
        self.fails: Exception | None = None

    def set_core_dump(self, path: str) -> None:
        self.symbols = []
        if self.fails is not None:
            raise self.fails

    def load_default_debug_info(self) -> None:
        self.symbols.append("default")

    def load_debug_info(self, paths: list[str]) -> None:
        self.symbols += paths

    def main_module(self) -> SimpleNamespace:
        return SimpleNamespace(debug_file_status=self.status)

    def __getitem__(self, name: str) -> Any:
        if name not in self.objects:
            raise LookupError(f"could not find {name!r}")
        return self.objects[name]

    def type(self, name: str) -> SimpleNamespace:
        names = [(flag, number) for flag, number in LAYOUT.bits.items()]
        return SimpleNamespace(name=name, size=64, enumerators=names)

    constant = staticmethod(constant)

    def read(self, address: int, n_bytes: int) -> bytes:
        assert (address, n_bytes) == (VMEMMAP + 64 * SECTION_PAGES, 64 * SECTION_PAGES)
        pages = [page(mapcount=-(1 << 28))] * SECTION_PAGES
        pages[:2] = page(LRU, memcg=0xA000), page(LRU | 4, memcg=0xB000)
        return b"".join(pages)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """Let drgn be one that shows a made-up kernel."""
    made = Program()

    def offset_of(kind: SimpleNamespace, member: str) -> int:
        if member not in OFFSETS[kind.name]:
            raise LookupError(f"{kind.name} has no member {member!r}")
        return OFFSETS[kind.name][member]

    class Fault(Exception):
        pass

    class Missing(Exception):
        pass

    def node() -> SimpleNamespace:
        return SimpleNamespace(node_id=0, node_zones=made.zones, memtier=SimpleNamespace(adistance_start=512))

    modules: dict[str, dict[str, Any]] = {
        "drgn": {
            "Program": lambda: made,
            "FaultError": Fault,
            "MissingDebugInfoError": Missing,
            "ProgramFlags": SimpleNamespace(IS_LINUX_KERNEL=1),
            "ModuleFileStatus": SimpleNamespace(HAVE="have"),
            "offsetof": offset_of,
            "Object": lambda program, kind, value: SimpleNamespace(css=CGROUPS[value]),
        },
        "drgn.helpers": {},
        "drgn.helpers.linux": {},
        "drgn.helpers.linux.mm": {
            "for_each_valid_page_range": lambda program: [(SECTION_PAGES, 2 * SECTION_PAGES, VMEMMAP)]
        },
        "drgn.helpers.linux.timekeeping": {"ktime_get_real_seconds": lambda program: 1_767_225_600},
        "drgn.helpers.linux.mmzone": {"for_each_online_pgdat": lambda program: [node()]},
        "drgn.helpers.linux.ioport": {"for_each_resource": lambda root: [RAM, SimpleNamespace(name=None)]},
        "drgn.helpers.linux.cpumask": {"cpu_online_mask": lambda program: "0-7", "cpumask_to_cpulist": str},
        "drgn.helpers.linux.cgroup": {"cgroup_path": str.encode},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_drgn_shows_a_kernel(program: Program, tmp_path: Path) -> None:
    found = snapshot_of(open_kernel(Path("vmcore")), with_cgroups=True)
    assert program.symbols == ["default"]
    (node,) = found.topology.nodes
    (normal,) = node.zones
    assert (node.cpus, node.tier, normal.name, normal.present) == (
        (0, 1),
        0,
        "Normal",
        ((SECTION_PAGES, 2 * SECTION_PAGES),),
    )
    assert (normal.watermarks.min, normal.watermarks.promo) == (5, 11)  # boosted
    assert (found.hz, found.lru_gen, found.kernel_release) == (250, True, "6.12")
    assert found.captured_at == "2026-01-01T00:00:00+00:00"
    assert np.flatnonzero(found.frames().hot).tolist() == [1]
    assert found.cgroups is not None
    assert found.cgroups.names == ("none", "/a", "/b")
    symbols = tmp_path / "vmlinux"
    symbols.touch()
    open_kernel(Path("vmcore"), symbols)
    assert program.symbols == [str(symbols)]


def test_a_machine_that_does_not_fit_into_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SMALL_BYTES", 0)
    monkeypatch.setattr(reading, "room_bytes", lambda: 14 * SECTION_PAGES)
    with pytest.raises(InputError, match=r"the machine of the dump takes .* of memory to read"):
        snapshot_of(kernel())


def test_lists_of_a_kernel_that_go_round(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = cgroup("/ring", flags=0)
    ring.parent = ring
    for made in (ring, cgroup("/" + 4096 * "a")):
        monkeypatch.setitem(CGROUPS, 0xA000, made)
        assert open_kernel(Path("vmcore")).cgroup_of(0xA000) == "mem_cgroup 0xa000"
    monkeypatch.setattr(drgn_kernel, "_LISTED_MAX", 1000)
    ioport = sys.modules["drgn.helpers.linux.ioport"]
    monkeypatch.setattr(ioport, "for_each_resource", lambda root: itertools.repeat(RAM))
    with pytest.raises(InputError, match="a list of the kernel's has no end: the dump was cut short"):
        open_kernel(Path("vmcore"))


def test_kernels_that_lack_something(program: Program) -> None:
    for name in ("node_to_cpumask_map", "clocksource_jiffies", "lru_gen_caps", "numa_distance_cnt"):
        del program.objects[name]
    found = snapshot_of(open_kernel(Path("vmcore")))
    assert (found.hz, found.lru_gen, found.topology.nodes[0].cpus) == (None, False, tuple(range(8)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda made, drgn: setattr(made, "flags", 0), "is the dump of a process"),
        (
            lambda made, drgn: setattr(made, "fails", OSError(2, "No such file")),
            "cannot be read .No such file",
        ),
        (
            lambda made, drgn: setattr(made, "fails", ValueError("not an ELF core file")),
            "is no dump of a kernel's",
        ),
        (
            lambda made, drgn: setattr(made, "fails", drgn.FaultError("short read")),
            "short read: the dump was cut",
        ),
        (
            lambda made, drgn: setattr(made, "fails", drgn.MissingDebugInfoError("x")),
            "give its vmlinux with --sym",
        ),
        (lambda made, drgn: made.objects.update(VMCOREINFO=Named("")), "does not say which pages are free"),
        (
            lambda made, drgn: made.objects.pop("UTS_RELEASE"),
            "could not find 'UTS_RELEASE': the kernel is one",
        ),
        (lambda made, drgn: setattr(made, "status", "want"), "is not the vmlinux of the kernel in vmcore"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    program: Program, tmp_path: Path, change: Callable[[Program, Any], Any], says: str
) -> None:
    symbols = tmp_path / "vmlinux"
    symbols.touch()
    change(program, sys.modules["drgn"])
    with pytest.raises(InputError, match=says):
        open_kernel(Path("vmcore"), symbols)


def test_the_command_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "drgn", None)
    out = str(tmp_path / "a.zarr")
    for arguments, says in (
        (["--core", "vmcore"], "vmcore would be read through drgn, which is not installed: "),
        (["--core", "vmcore", "--pid", "1"], "--pid and --cgroup are of the machine that runs"),
        (["--core", "vmcore", "--cgroup", "a"], "--pid and --cgroup are of the machine that runs"),
        (["--symbols", "vmlinux"], "--symbols is of a dump; give that with --core"),
    ):
        assert main(["capture", out, *arguments]) == 2
        assert says in capsys.readouterr().err


def test_the_command_reads_a_dump(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capture", str(tmp_path / "a.zarr"), "--core", "vmcore", "--cgroups"]) == 0
    shown = capsys.readouterr().out
    assert "0     Normal   32,768   32,768    2" in shown
    assert "/b           1      1  50.0%    1" in shown
    missing = str(tmp_path / "none")
    assert main(["capture", str(tmp_path / "b.zarr"), "--core", "vmcore", "--symbols", missing]) == 2
    assert "none is not there; give the vmlinux of the kernel in vmcore" in capsys.readouterr().err
