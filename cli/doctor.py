"""``gpuscan doctor``: what this machine offers, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from gpuscan.base.node_tiers import TIER_OPTION, parse_tiers

_PACKAGES = ("numpy", "numba", "llvmlite", "typer", "rich", "pydantic", "zarr", "pyarrow")
_OPTIONAL = {
    "distributed": ("cluster", "only --workers and --cluster need it"),
    "prometheus-client": ("live", "only live --metrics needs it"),
    "matplotlib": ("bench", "only plots need it"),
}
"""Package -> the extra that brings it, and who needs it."""
_CUPY = ("cupy-cuda13x", "cupy-cuda12x")
_CAP_SYS_ADMIN = 1 << 21


class Check(NamedTuple):
    """One finding; ``remedy`` is empty where there is nothing to do."""

    name: str
    found: str
    remedy: str = ""


def doctor(
    tiers: Annotated[
        list[str] | None, typer.Option(*TIER_OPTION.flags, metavar=TIER_OPTION.metavar, help=TIER_OPTION.help)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show versions, processors, memory, the devices a scan can run on, and what to install.

    Changes nothing and needs no rights. Send its output along with a bug report.
    """
    from rich.table import Table

    from gpuscan.cli.output import Output

    output = Output(as_json)
    declared = parse_tiers(tiers or ())
    parts = {"software": _software, "machine": _machine, "kernel cache": _numba_cache}
    parts["tiers"] = lambda: _tiers(declared)
    parts |= {"devices": _devices, "capture": _capture, "live": _live, "kinds": _kinds}
    checks = [check for name, part in parts.items() for check in _checked(name, part)]
    output.document({"checks": [check._asdict() for check in checks]})
    table = Table("what", "found", "to do", box=None, header_style="bold", pad_edge=False)
    for check in checks:
        table.add_row(*check)
    output.table(table)


def _checked(name: str, part: Callable[[], list[Check]]) -> list[Check]:
    """Return what a part found. One that fails is a finding: the others may explain it."""
    try:
        return part()
    except Exception as error:
        return [Check(name, f"cannot be checked: {type(error).__name__}: {error}", "send this row along")]


def _software() -> list[Check]:
    from gpuscan import __version__
    from gpuscan.base.installing import install_command
    from gpuscan.base.program import PROGRAM
    from gpuscan.bench.peers.catalogue import packages

    found = [
        Check(PROGRAM, __version__),
        Check("python", f"{platform.python_version()} ({sys.executable})"),
    ]
    for package in _PACKAGES:
        installed = _version(package)
        remedy = "" if installed else install_command(package=package)
        found.append(Check(package, installed or "not installed", remedy))
    of_peers = {package: (extra, "only bench needs it") for package, extra in packages().items()}
    for package, (extra, need) in (_OPTIONAL | of_peers).items():
        missing = f"not installed ({need}: {install_command(extra, package) if extra else 'install it'})"
        found.append(Check(package, _version(package) or missing))
    cupy = [f"{package} {installed}" for package in _CUPY if (installed := _version(package))]
    return [*found, Check("cupy", ", ".join(cupy) or "not installed (only a GPU needs it)")]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _machine() -> list[Check]:
    from gpuscan.base.units import format_bytes

    cores = len(os.sched_getaffinity(0))
    flags = _line_with("/proc/cpuinfo", "flags").split()
    model = _line_with("/proc/cpuinfo", "model name") or platform.machine()
    wide = [flag for flag in ("avx2", "avx512f") if flag in flags]
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total, free = (_kib_of(f"Mem{which}") * 1024 for which in ("Total", "Available"))
    return [
        Check("kernel", f"{platform.system()} {platform.release()}"),
        Check("processors", f"{cores} usable, {model}, {', '.join(wide) or 'no AVX2'}"),
        Check("memory", f"{format_bytes(total)}, {format_bytes(free)} available"),
        Check(
            "page size",
            format_bytes(page_bytes),
            "" if page_bytes == 4096 else "capture needs 4 KiB pages; simulated machines do not",
        ),
    ]


def _tiers(declared: Mapping[int, int]) -> list[Check]:
    """Return in which tiers the memory is, and whether anything can be promoted."""
    from gpuscan.topology.model import HOST
    from gpuscan.topology.resolve import resolve_machine
    from gpuscan.topology.tiers import has_lower_tier, tier_options, with_tiers

    topology = with_tiers(resolve_machine(HOST).topology, declared)
    nodes = [node for node in topology.nodes if node.present_pages]
    found = ", ".join(f"node {node.nid}: tier {node.tier} ({node.kind.value})" for node in nodes)
    if has_lower_tier(topology):
        return [Check("tiers", found)]
    if len(nodes) == 1:
        return [
            Check(
                "tiers",
                "one node has memory: nothing will be promoted",
                "capture it, and try it with --split-cxl 50%",
            )
        ]
    options = tier_options(topology)
    remedy = (
        f"give {options} if the memory without CPUs is slower"
        if options
        else "all memory has CPUs next to it"
    )
    return [
        Check(
            "tiers",
            f"all your nodes are in one tier: nothing will be promoted ({found})",
            f"{remedy}; live --to NID moves hot pages to one node",
        )
    ]


def _line_with(path: str, key: str) -> str:
    """Return the value of the first ``key : value`` line, empty without one."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _kib_of(key: str) -> int:
    value = _line_with("/proc/meminfo", key).split()
    return int(value[0]) if value else 0


def _numba_cache() -> list[Check]:
    import gpuscan.kernels
    from gpuscan.base.code_cache import cache_place

    kernels = Path(gpuscan.kernels.__path__[0]) / "cpu"
    place, why = cache_place(kernels, os.environ.get("NUMBA_CACHE_DIR", ""))
    if place is not None:
        return [Check("kernel cache", f"{place} is ours alone")]
    return [
        Check(
            "kernel cache",
            f"{why}: kernels are compiled in every run",
            "set NUMBA_CACHE_DIR to a directory that nobody else can write to",
        )
    ]


def _devices() -> list[Check]:
    from gpuscan.kernels.catalogue import BACKENDS
    from gpuscan.kernels.registry import available_devices

    found = [Check("devices", ", ".join(available_devices()))]
    backends, broken = BACKENDS.usable()
    for name, backend in backends.items():
        if says := backend.probe().says:
            found.append(Check(name, says))
    return found + [Check(name, str(error)) for name, error in broken.items()]


def _capture() -> list[Check]:
    capabilities = int(_line_with("/proc/self/status", "CapEff") or "0", 16)
    allowed = bool(capabilities & _CAP_SYS_ADMIN)
    rights = Check(
        "rights to capture",
        "CAP_SYS_ADMIN" if allowed else "no CAP_SYS_ADMIN",
        "" if allowed else "sudo gpuscan capture",
    )
    try:
        with Path("/proc/kpageflags").open("rb") as flags:
            flags.read(8)
    except FileNotFoundError:
        return [
            rights,
            Check("/proc/kpageflags", "not there", "run on Linux with CONFIG_PROC_PAGE_MONITOR"),
        ]
    except PermissionError:
        return [rights, Check("/proc/kpageflags", "not readable", "sudo gpuscan capture")]
    except OSError as error:
        return [rights, Check("/proc/kpageflags", f"not readable: {error.strerror}")]
    return [rights, Check("/proc/kpageflags", "readable")]


def _live() -> list[Check]:
    """Return which rights each monitor of ``gpuscan live`` needs, and which of them are missing here."""
    from gpuscan.linux.capabilities import missing
    from gpuscan.monitors.catalogue import in_order, rights_of

    found = []
    sources, unusable = in_order()
    for source in sources:
        rights = rights_of(source)
        always = dict.fromkeys(one.name for one in rights if not one.unless_root)
        others = dict.fromkeys(one.name for one in rights if one.name not in always)
        needs = ", ".join([*always, *(f"{name} (unless root)" for name in others)])
        lacking = missing(rights)
        found.append(
            Check(
                f"live --monitor {source}", f"needs {needs}", f"lacks {lacking}: use sudo" if lacking else ""
            )
        )
    return found + [
        Check(f"live --monitor {source}", "cannot be used", why) for source, why in unusable.items()
    ]


def _kinds() -> list[Check]:
    """Return what there is of each kind that takes nothing of this machine, and what of it is broken."""
    from gpuscan.bench.peers.catalogue import PEERS
    from gpuscan.compare.columns.catalogue import COLUMNS
    from gpuscan.designs.catalogue import DESIGNS
    from gpuscan.producers.catalogue import PRODUCERS
    from gpuscan.reproduce.catalogue import EXPERIMENTS
    from gpuscan.topology.catalogue import MACHINES
    from gpuscan.traces.catalogue import TRACES

    found = []
    for catalogue in (DESIGNS, PRODUCERS, MACHINES, TRACES, PEERS, COLUMNS, EXPERIMENTS):
        usable, broken = catalogue.usable()
        origins = {name: catalogue.origin(name) for name in usable}
        named = [f"{name} ({origin})" if origin else name for name, origin in origins.items()]
        found.append(Check(f"{catalogue.kind}s", ", ".join(named)))
        for name, error in broken.items():
            found.append(Check(f"{catalogue.kind} {name}", "cannot be used", str(error)))
    return found
