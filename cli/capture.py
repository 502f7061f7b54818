"""``gpuscan capture``: this machine's page flags, kept in a snapshot."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpuscan.base.described import Option, described
from gpuscan.base.node_tiers import TIER_OPTION, parse_tiers
from gpuscan.cli.options import takes_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from gpuscan.cli.output import Output, Progress
    from gpuscan.live.page_tables import Table as Columns
    from gpuscan.snapshot.snapshot import Snapshot, ZonePages

_SHOWN = ("lru", "anon", "shmem", "file", "dirty", "large", "hot", "free")


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """How a machine is captured."""

    pids: tuple[int, ...] = described(
        (),
        Option(
            "Hot is what this process uses, watched for a while first; can be repeated.", ("--pid",), low=1
        ),
    )
    for_time: str = described(
        "2s", Option("How long to watch the processes of --pid.", ("--for",), metavar="TIME")
    )
    monitor: str = described(
        "auto", Option("Who watches them, as for gpuscan live.", metavar="NAME", was=("--source",))
    )
    cgroup: Path | None = described(
        None, Option("Hot is only what is charged to this memory cgroup or one below it.", metavar="PATH")
    )
    cgroups: bool = described(
        False, Option("Keep which cgroup each page is charged to, and the names of the cgroups.")
    )
    core: Path | None = described(
        None,
        Option("Of the machine of this vmcore, or /proc/kcore, through drgn; needs [drgn].", metavar="FILE"),
    )
    symbols: Path | None = described(
        None, Option("The vmlinux of --core with debug information; else where drgn looks.", metavar="FILE")
    )
    pages: Path | None = described(
        None,
        Option(
            "Keep which page of those processes is in which frame there, .parquet or .csv: for their traces.",
            metavar="FILE",
        ),
    )
    tiers: tuple[str, ...] = described((), TIER_OPTION)
    force: bool = described(False, Option("Replace a snapshot that is there."))


@takes_options
def capture(
    out: Annotated[Path, typer.Argument(metavar="OUT.zarr", help="Directory to make.")],
    request: CaptureRequest,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Read this machine's page flags into a snapshot (root).

    Keeps the flags and mapcounts of all pages, the zones and the kernel's release and
    settings; nothing of what is in the pages. The machine goes on running meanwhile.

    With --pid the hot pages are those that the processes were seen to use, and no others:
    what gpuscan live would move. With --cgroup they are those that the kernel calls hot and has
    charged to that cgroup.

    \b
    gpuscan capture OUT.zarr --core vmcore           of another kernel's memory, by its debug information
    gpuscan scan OUT.zarr                            scans it
    gpuscan run cxl-promote --machine OUT.zarr       runs a workload on it
    gpuscan capture OUT.zarr --pid 4711 --pages p.parquet      and where its pages are
    gpuscan run --trace T --given pages=p.parquet --machine OUT.zarr      for a trace of its addresses
    """
    from gpuscan.base.errors import InputError
    from gpuscan.base.units import format_number, parse_time_ns
    from gpuscan.cli.cgroups import cgroup_table
    from gpuscan.cli.output import Output
    from gpuscan.records.page_flags import hot_rule
    from gpuscan.run.job import tiered
    from gpuscan.snapshot.cgroups import shares
    from gpuscan.snapshot.snapshot import check_free

    output = Output(as_json)
    for_ns = parse_time_ns(request.for_time)
    if not for_ns:
        raise InputError(
            f"--for {request.for_time}: nothing is seen in no time; give a time above 0, for example 2s"
        )
    check_free(out, force=request.force)
    if request.pages is not None:
        _check_pages(request.pages, request)
    tiers = parse_tiers(request.tiers)
    if request.pids and request.cgroup is not None:
        raise InputError("hot pages are chosen in one way only; give --pid or --cgroup")
    if request.core is not None and (request.pids or request.cgroup is not None):
        raise InputError(
            "--pid and --cgroup are of the machine that runs; leave them out with --core, or --core with them"
        )
    if request.symbols is not None and request.core is None:
        raise InputError("--symbols is of a dump; give that with --core")
    pages = None if request.pages is None else _PagesFile(request.pages)
    snapshot = tiered(_captured(output, request, for_ns, pages), tiers)
    snapshot.write(out, force=request.force)
    n_pages = None if pages is None else pages.n_pages
    frames = snapshot.frames()
    zones = snapshot.zone_pages(frames)
    charged = None if snapshot.cgroups is None else shares(snapshot.cgroups, frames)
    output.document(
        {
            "snapshot": out,
            "captured_at": snapshot.captured_at,
            "kernel_release": snapshot.kernel_release,
            "hz": snapshot.hz,
            "lru_gen": snapshot.lru_gen,
            "hot_rule": hot_rule(snapshot.lru_gen),
            "n_folios": int(frames.eligible.sum()),
            "n_torn_folios": frames.n_torn,
            "zones": [
                {
                    "nid": zone.nid,
                    "zone": zone.zone,
                    "present_pages": zone.present,
                    "managed_pages": zone.managed,
                    "pages": zone.pages,
                }
                for zone in zones
            ],
            **({} if charged is None else {"cgroups": [share.document() for share in charged]}),
            "notes": snapshot.notes,
            "pages": request.pages,
            "n_pages_written": n_pages,
        }
    )
    output.table(_table(zones))
    if charged is not None:
        output.line()
        output.table(cgroup_table(charged))
    output.line(f"\nIn pages of 4 KiB; {hot_rule(snapshot.lru_gen)}.")
    if frames.n_torn:
        output.line(f"{format_number(frames.n_torn, 'folio')} changed while read, so left out.")
    output.line(f"Written to {out}; scan it with: gpuscan scan {out}")
    if n_pages is not None:
        output.line(
            f"Written to {request.pages}: {format_number(n_pages, 'page')}; replay a trace of addresses "
            f"with: gpuscan run --trace FILE --given pages={request.pages} --machine {out}"
        )
    for note in snapshot.notes:
        output.note(f"gpuscan: note: {note}")
    if pages is not None and pages.failure is not None:
        raise pages.failure


def _captured(output: Output, request: CaptureRequest, for_ns: int, pages: _PagesFile | None) -> Snapshot:
    from gpuscan.live.capture import capture_processes
    from gpuscan.snapshot.procfs import capture as capture_machine

    n_before = 0
    bar: Progress | None = None
    with ExitStack() as stack:

        def advance(n_done: int, n_pages: int) -> None:
            nonlocal n_before, bar
            if bar is None:  # how many pages there are is known now
                bar = stack.enter_context(output.progress("reading page flags", n_pages, unit="pages"))
            bar.advance(n_done - n_before)
            n_before = n_done

        if request.pids:
            watching = f"watching {', '.join(map(str, request.pids))} for {for_ns / 1e9:g} s with"
            return capture_processes(
                request.pids,
                for_ns,
                monitor=request.monitor,
                progress=advance,
                on_watch=lambda name: output.note(f"{watching} {name}"),
                with_cgroups=request.cgroups,
                on_captured=None if pages is None else pages.write,
            )
        if request.core is not None:
            from gpuscan.snapshot.drgn_kernel import open_kernel
            from gpuscan.snapshot.kernel_memory import snapshot_of

            kernel = open_kernel(request.core, request.symbols)
            return snapshot_of(kernel, advance, with_cgroups=request.cgroups)
        if request.cgroup is not None:
            return _hot_of_cgroup(request.cgroup, advance, keep=request.cgroups)
        return capture_machine(progress=advance, with_cgroups=request.cgroups)


def _hot_of_cgroup(path: Path, progress: Callable[[int, int], None], *, keep: bool) -> Snapshot:
    """Capture the machine; only what is charged to a cgroup stays hot.

    Raises:
        InputError: there is no such cgroup, or no page is charged to it or one below it.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.linux.cgroups import MemoryCgroups, is_in
    from gpuscan.snapshot.cgroups import hot_of
    from gpuscan.snapshot.procfs import capture as capture_machine

    name = MemoryCgroups(Path("/")).name_of(path)
    machine = capture_machine(progress=progress, with_cgroups=True)
    if machine.cgroups is None or not any(is_in(other, name) for other in machine.cgroups.names):
        raise InputError(f"no page is charged to the cgroup {name}; give one that has memory")
    snapshot = hot_of(machine, lambda other: is_in(other, name))
    return replace(
        snapshot,
        cgroups=snapshot.cgroups if keep else None,
        notes=(*snapshot.notes, f"hot: only what is charged to the cgroup {name}, or to one below it"),
    )


def _check_pages(pages: Path, request: CaptureRequest) -> None:
    """Refuse a page table that could not be written, before anything is watched."""
    from gpuscan.base.errors import InputError
    from gpuscan.cli.pages import check_new
    from gpuscan.traces.table_file import check_suffix

    if not request.pids:
        raise InputError("--pages is of the processes of --pid; give one too, or leave it out")
    check_suffix(pages)
    check_new(pages, force=request.force)


class _PagesFile:
    """The page table beside a snapshot, which is there whether the table can be written or not.

    Attributes:
        n_pages: how many it has, None while it is not written.
        failure: why it could not be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.n_pages: int | None = None
        self.failure: Exception | None = None

    def write(self, tables: Iterator[Columns]) -> None:
        """Write it, or note why that cannot be done."""
        from gpuscan.base.errors import GpuscanError
        from gpuscan.traces.page_table_file import write_page_table

        try:
            self.n_pages = write_page_table(self._path, tables)
        except (GpuscanError, OSError) as error:
            self.failure = error


def _table(zones: list[ZonePages]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("node", "zone"):
        table.add_column(heading)
    for heading in ("present", "managed", *_SHOWN):
        table.add_column(heading, justify="right")
    rows = [
        (str(zone.nid), zone.zone, [zone.present, zone.managed, *(zone.pages[kind] for kind in _SHOWN)])
        for zone in zones
    ]
    sums = [sum(column) for column in zip(*(counts for _, _, counts in rows), strict=True)]
    for nid, zone_name, counts in [*rows, ("all", "", sums)]:
        table.add_row(nid, zone_name, *(f"{count:,}" for count in counts))
    return table
