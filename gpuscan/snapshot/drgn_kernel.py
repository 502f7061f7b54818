"""A kernel's memory through drgn: zones, nodes, the array of ``struct page``, cgroups.

drgn (https://drgn.readthedocs.io) reads vmcores and /proc/kcore, and needs the kernel's debug information;
the extra ``drgn`` brings it. Names are the kernel's, v6.12.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpuscan.base.documents import TEXT_MAX
from gpuscan.base.errors import InputError
from gpuscan.base.installing import install_command
from gpuscan.snapshot.kernel_memory import KernelMemory
from gpuscan.snapshot.struct_pages import FLAG_NAMES, PageLayout
from gpuscan.topology.file_tree import IOMEM, NODES, ZONEINFO, Files

_TYPE_VALUE = re.compile(r"^NUMBER\(PAGE_([A-Z]+)_MAPCOUNT_VALUE\)=(-?[0-9]{1,11})$", re.MULTILINE)
"""Types of pages, as those who filter dumps are told (crash_save_vmcoreinfo_init(), kernel/vmcore_info.c)."""
_CUT = "the dump was cut short, or leaves out the kernel's records of pages; make it again"
_LISTED_MAX = 1 << 20
"""Of nodes, stretches of memory, resources: more than any machine has."""
_DEPTH_MAX = 1 << 12
"""Of cgroups."""
_TYPES = ("buddy", "offline", "slab", "hugetlb")


def open_kernel(path: Path, symbols: Path | None = None) -> KernelMemory:
    """Open a dump, or the running kernel's memory.

    Args:
        path: of a vmcore (ELF or kdump), or /proc/kcore.
        symbols: the kernel's vmlinux with debug information; None: where drgn looks for it.

    Raises:
        InputError: drgn is not installed, the file is no such dump, or debug information is missing.
    """
    try:
        import drgn
    except ImportError as error:
        raise InputError(
            f"{path} would be read through drgn, which is not installed: {install_command('drgn', 'drgn')}"
        ) from error
    if symbols is not None and not symbols.is_file():
        raise InputError(f"{symbols} is not there; give the vmlinux of the kernel in {path}")
    logging.getLogger("drgn").setLevel(logging.CRITICAL)  # what it would say is in what is raised
    program = drgn.Program()
    try:
        program.set_core_dump(str(path))
        if not program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
            raise InputError(f"{path} is the dump of a process, not of a kernel; give a vmcore")
        if symbols is None:
            program.load_default_debug_info()
        else:
            program.load_debug_info([str(symbols)])
            if not _has_symbols(program):
                raise InputError(
                    f"{symbols} is not the vmlinux of the kernel in {path}, or has no debug information; "
                    "give that of its build"
                )
        return _Kernel(program, path).memory()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a dump that may be read") from error
    except drgn.MissingDebugInfoError as error:
        raise InputError(
            f"{path}: the kernel's debug information is not there; "
            "install it, or give its vmlinux with --symbols"
        ) from error
    except drgn.FaultError as error:
        raise InputError(f"{path}: {_first_line(error)}: {_CUT}") from error
    except (LookupError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: {_first_line(error)}: the kernel is one that gpuscan does not know; "
            "make a snapshot of it with gpuscan capture while it runs"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is no dump of a kernel's memory ({_first_line(error)}); give a vmcore"
        ) from error


def _has_symbols(program: Any) -> bool:
    import drgn

    try:
        found: bool = program.main_module().debug_file_status == drgn.ModuleFileStatus.HAVE
    except LookupError:
        return False
    return found


def _first_line(error: Exception) -> str:
    return (str(error.args[0]) if error.args else str(error)).partition("\n")[0][:200]


class _Kernel:
    def __init__(self, program: Any, path: Path) -> None:
        self._prog = program
        self._path = path

    def memory(self) -> KernelMemory:
        from drgn.helpers.linux.mm import for_each_valid_page_range
        from drgn.helpers.linux.timekeeping import ktime_get_real_seconds

        prog = self._prog
        arrays = [
            (start, end, int(mem_map) + start * prog.type("struct page").size)
            for start, end, mem_map in self._listed(for_each_valid_page_range(prog))
        ]
        texts = dict(self._texts())
        seconds = int(ktime_get_real_seconds(prog))
        return KernelMemory(
            files=Files(str(self._path), texts, frozenset()),
            page_bytes=int(prog["PAGE_SIZE"]),
            layout=self._layout(),
            arrays=arrays,
            read=self._read,
            cgroup_of=self._cgroup_of,
            kernel_release=prog["UTS_RELEASE"].string_().decode(errors="replace"),
            hz=self._hz(),
            lru_gen=self._lru_gen(),
            captured_at=datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds"),
        )

    def _listed(self, found: Iterable[Any]) -> Iterator[Any]:
        """Yield what is in a list of the kernel's, which in a damaged or made-up dump may have no end."""
        for number, each in enumerate(found):
            if number == _LISTED_MAX:
                raise InputError(f"{self._path}: a list of the kernel's has no end: {_CUT}")
            yield each

    def _read(self, address: int, n_bytes: int) -> bytes:
        import drgn

        try:
            found: bytes = self._prog.read(address, n_bytes)
        except drgn.FaultError as error:
            raise InputError(f"{self._path}: {_first_line(error)}: {_CUT}") from error
        return found

    def _layout(self) -> PageLayout:
        import drgn

        prog = self._prog
        page = prog.type("struct page")

        def offset(member: str) -> int | None:
            try:
                return int(drgn.offsetof(page, member))
            except LookupError:
                return None

        def needed(member: str) -> int:
            found = offset(member)
            if found is None:
                raise LookupError(f"struct page has no {member}")
            return found

        bits = dict(prog.type("enum pageflags").enumerators)
        said = prog["VMCOREINFO"].string_().decode(errors="replace")
        types = {name.lower(): int(value) & 0xFFFFFFFF for name, value in _TYPE_VALUE.findall(said)}
        with suppress(LookupError):  # before v6.12 it is a macro
            types["table"] = int(prog.constant("PGTY_table")) << 24
        if "buddy" not in types:
            raise LookupError("the kernel does not say which pages are free")
        entire = None
        with suppress(LookupError):
            entire = int(drgn.offsetof(prog.type("struct folio"), "_entire_mapcount"))
        return PageLayout(
            size=page.size,
            flags=needed("flags"),
            compound_head=needed("compound_head"),
            mapping=needed("mapping"),
            mapcount=needed("_mapcount"),
            private=needed("private"),
            memcg_data=offset("memcg_data"),
            entire_mapcount=entire,
            bits={name: bits[name] for name in FLAG_NAMES if name in bits},
            types={name: types[name] for name in (*_TYPES, "table") if name in types},
        )

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Yield what /proc and /sys would say of zones and nodes, by file."""
        from drgn.helpers.linux.mmzone import for_each_online_pgdat

        nodes = {int(node.node_id): node for node in self._listed(for_each_online_pgdat(self._prog))}
        yield (
            ZONEINFO,
            "".join(
                _zone_text(nid, zone) for nid, node in nodes.items() for zone in self._listed(_zones(node))
            ),
        )
        yield IOMEM, "".join(self._ram())
        yield f"{NODES}/online", ",".join(map(str, nodes)) + "\n"
        tiers: dict[int, list[int]] = {}
        for nid, node in nodes.items():
            yield f"{NODES}/node{nid}/cpulist", f"{self._cpus_of(nid)}\n"
            yield f"{NODES}/node{nid}/distance", " ".join(str(self._distance(nid, to)) for to in nodes) + "\n"
            with suppress(LookupError, AttributeError):  # before v6.1, or without CONFIG_MIGRATION
                if node.memtier:
                    tiers.setdefault(int(node.memtier.adistance_start), []).append(nid)
        for start, members in tiers.items():
            name = f"sys/devices/virtual/memory_tiering/memory_tier{start}/nodelist"
            yield name, ",".join(map(str, members)) + "\n"

    def _ram(self) -> Iterator[str]:
        from drgn.helpers.linux.ioport import for_each_resource

        for resource in self._listed(for_each_resource(self._prog["iomem_resource"].address_of_())):
            name = resource.name.string_().decode(errors="replace") if resource.name else ""
            if name.startswith("System RAM"):
                yield f"{int(resource.start):08x}-{int(resource.end):08x} : {name}\n"

    def _cpus_of(self, nid: int) -> str:
        from drgn.helpers.linux.cpumask import cpu_online_mask, cpumask_to_cpulist

        try:
            mask = self._prog["node_to_cpumask_map"][nid]
        except LookupError:  # no CONFIG_NUMA
            mask = cpu_online_mask(self._prog)
        return str(cpumask_to_cpulist(mask))

    def _distance(self, nid: int, to: int) -> int:
        try:
            n_nodes = int(self._prog["numa_distance_cnt"])
            if nid < n_nodes and to < n_nodes:
                return int(self._prog["numa_distance"][nid * n_nodes + to])
        except LookupError:
            pass
        return 10 if nid == to else 20  # __node_distance() without a table

    def _hz(self) -> int | None:
        try:
            clock = self._prog["clocksource_jiffies"]
            return round(10**9 * (1 << int(clock.shift)) / int(clock.mult))  # of TICK_NSEC
        except (LookupError, ZeroDivisionError):
            return None

    def _lru_gen(self) -> bool:
        try:
            return int(self._prog["lru_gen_caps"][0].key.enabled.counter) > 0
        except LookupError:  # no CONFIG_LRU_GEN
            return False

    def _cgroup_of(self, address: int) -> str:
        """Return the path of a memory cgroup, or where it was removed of the next above that is there."""
        import drgn
        from drgn.helpers.linux.cgroup import cgroup_path

        unnamed = f"mem_cgroup {address:#x}"
        try:
            memcg = drgn.Object(self._prog, "struct mem_cgroup *", value=address)
            state = memcg.css.address_of_()
            for _ in range(_DEPTH_MAX):
                if not state.parent or state.flags & self._prog.constant("CSS_ONLINE"):
                    path = str(cgroup_path(state.cgroup).decode(errors="replace"))
                    return path if len(path) <= TEXT_MAX else unnamed
                state = state.parent
        except (LookupError, drgn.FaultError):
            pass
        return unnamed


def _zones(node: Any) -> Iterator[Any]:
    for index in range(len(node.node_zones)):  # those without memory, too, as in the file
        yield node.node_zones[index]


def _zone_text(nid: int, zone: Any) -> str:
    """Return what /proc/zoneinfo says of a zone, as far as it is read (zoneinfo_show_print())."""
    boost = int(zone.watermark_boost)
    marks = [int(mark) + boost for mark in zone._watermark]
    names = ("min", "low", "high", "promo")
    free = int(zone.vm_stat[zone.prog_.constant("NR_FREE_PAGES")].counter)
    lines = [
        f"Node {nid}, zone {zone.name.string_().decode(errors='replace'):>8}",
        f"  pages free     {free}",
        *(f"        {name:<8} {mark}" for name, mark in zip(names, marks, strict=False)),
        f"        spanned  {int(zone.spanned_pages)}",
        f"        present  {int(zone.present_pages)}",
        f"        managed  {int(zone.managed_pages.counter)}",
        f"        protection: ({', '.join(str(int(each)) for each in zone.lowmem_reserve)})",
        f"  start_pfn:           {int(zone.zone_start_pfn)}",
    ]
    return "\n".join(lines) + "\n"
