"""``gpuscan scan``: what one scan of a captured machine would migrate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from gpuscan.base.described import Option, described
from gpuscan.base.node_tiers import TIER_OPTION, parse_tiers
from gpuscan.base.residency import RECORDS_DIR_OPTION, RESIDENCY_OPTION, Residency, check_options
from gpuscan.base.units import parse_share
from gpuscan.cli.options import takes_options
from gpuscan.kernels.catalogue import device_names
from gpuscan.records.formats import N_NODES_MAX, STORE_FORMATS

if TYPE_CHECKING:
    from gpuscan.cli.output import Output
    from gpuscan.kernels.api import ScanPath
    from gpuscan.records.page_flags import Frames
    from gpuscan.snapshot.cgroups import PageCgroups
    from gpuscan.snapshot.snapshot import Snapshot
    from gpuscan.store.plan import Batches, Plan
    from gpuscan.store.plan_file import PatientPlanWriter
    from gpuscan.store.single import Store

_PLAN_FILE, _REPORT_FILE = "plan.parquet", "scan.json"
_N_CGROUPS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a scan of a captured machine is asked to be."""

    split_share: float | None = described(
        None,
        Option(
            "Declare the upper share of a one-node machine a CXL node.",
            ("--split-cxl",),
            metavar="SHARE",
            parse=parse_share,
        ),
    )
    tiers: tuple[str, ...] = described((), TIER_OPTION)
    target: int | None = described(
        None,
        Option(
            "Where all hot pages below the top tier go; else to the nearest top-tier node.",
            metavar="NID",
            low=0,
            high=N_NODES_MAX - 1,
        ),
    )
    record_format: str = described("rfc", Option(f"{', '.join(STORE_FORMATS)}.", ("--format",)))
    device: str = described("auto", Option(f"Among {', '.join(device_names())}."))
    residency: Residency = described("device", RESIDENCY_OPTION)
    records_dir: Path | None = described(None, RECORDS_DIR_OPTION)
    scan_path: str = described("auto", Option("auto, dense or indexed.", ("--path",)))
    batch_pages: int = described(512, Option("Base pages per batch.", low=1, high=1 << 20))
    out: Path | None = described(None, Option("Keep the plan and this report.", metavar="DIR"))
    force: bool = described(False, Option("Replace an earlier result at --out."))


@takes_options
def scan(
    path: Annotated[Path, typer.Argument(metavar="SNAPSHOT", help="Made by gpuscan capture.")],
    request: ScanOptions,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Scan a captured machine once and show what would be migrated; nothing is moved.

    Every hot folio below the top tier is recorded as accessed, then scanned, grouped by
    target node and cut into batches.

    \b
    gpuscan scan host.zarr --split-cxl 50%       try a one-node machine as two tiers
    """
    from gpuscan.base.errors import RunFailedError
    from gpuscan.cli.output import Output
    from gpuscan.files.writing import create_json

    output = Output(as_json)
    snapshot = _snapshot(path, request)
    frames = snapshot.frames()
    facts = {"kind": "scan", "snapshot": path, **_facts(snapshot, frames, request)}
    document: dict[str, Any] | None = None
    failure: RunFailedError | None = None
    try:
        with ExitStack() as stack:
            writer, out_file = _plan_file(stack, request)
            found, answers = _scanned(stack, snapshot, frames, request, writer, output)
            document = {**facts, **answers, **found.document(request.batch_pages)}
            if snapshot.cgroups is not None:
                document["cgroups"] = [{"cgroup": name, "pages": n} for name, n in found.by_cgroup()]
            if writer is not None and out_file is not None:
                writer.check()
                create_json(out_file, document)
    except RunFailedError as error:
        if document is None:
            raise
        failure = error  # --out could not be kept: what the scan found is shown all the same
    output.document(document)
    _show(output, snapshot, found, document)
    if failure is not None:
        raise failure
    if request.out is not None:
        output.line(f"Written to {request.out}: {_PLAN_FILE}, {_REPORT_FILE}")


def _snapshot(path: Path, request: ScanOptions) -> Snapshot:
    """Read the captured machine.

    Raises:
        InputError: it is none, or cannot be scanned like that.
    """
    from gpuscan.base.errors import InputError
    from gpuscan.kernels.api import ScanPath
    from gpuscan.kernels.residency import check_path
    from gpuscan.run.job import tiered
    from gpuscan.snapshot.snapshot import Snapshot

    if request.scan_path not in get_args(ScanPath):
        choices = ", ".join(get_args(ScanPath))
        raise InputError(f"unknown --path {request.scan_path!r}; choose one of {choices}")
    check_options(request.residency, request.records_dir)
    if request.residency == "index":
        check_path(cast("ScanPath", request.scan_path))
    snapshot = Snapshot.read(path)
    if request.split_share is not None:
        snapshot = snapshot.split_cxl(request.split_share)
    return tiered(snapshot, parse_tiers(request.tiers))


def _facts(snapshot: Snapshot, frames: Frames, request: ScanOptions) -> dict[str, Any]:
    from gpuscan.records.page_flags import hot_rule

    return {
        "topology": snapshot.topology.name,
        "hot_rule": hot_rule(snapshot.lru_gen),
        "n_folios": int(frames.eligible.sum()),
        "n_torn_folios": frames.n_torn,
        "record_format": request.record_format,
        "batch_pages": request.batch_pages,
    }


def _scanned(
    stack: ExitStack,
    snapshot: Snapshot,
    frames: Frames,
    request: ScanOptions,
    writer: PatientPlanWriter | None,
    output: Output,
) -> tuple[_Found, dict[str, Any]]:
    """Record the hot folios, and scan; return what was found, and how each record was taken."""
    from gpuscan.cli.devices import RESERVING, note_if_compiling

    path = cast("ScanPath", request.scan_path)
    with ExitStack() as preparing:
        preparing.enter_context(note_if_compiling(output))
        on_reserved = None
        if request.records_dir is not None:
            on_reserved = preparing.enter_context(output.progress(RESERVING, None, unit="bytes")).advance
        store = stack.enter_context(_store(snapshot, frames, request, on_reserved))
        for _ in store.drain(path=path):
            pass  # nothing is READY: loads the kernels, which is no part of what a scan costs
    answers = {
        "device": {"name": store.backend.name, "reason": store.device_reason},
        "recorded": _record(store, snapshot, frames, request.target),
    }
    return _drain(store, path, request.batch_pages, writer, snapshot.cgroups), answers


@dataclass(slots=True)
class _Found:
    """What the plans held, in folios and base pages."""

    folios: Counter[tuple[int, int]] = field(default_factory=Counter)
    pages: Counter[tuple[int, int]] = field(default_factory=Counter)
    batches: Counter[int] = field(default_factory=Counter)
    cgroups: Counter[str] = field(default_factory=Counter)
    n_plans: int = 0
    scan_ns: int = 0
    examined_pages: int = 0
    examined_bytes: int = 0
    path: str = ""
    why: str = ""

    def add(self, plan: Plan, batches: Batches, store: Store, charged: PageCgroups | None) -> None:
        """Count a plan; pages by cgroup, too, where it is known which they are charged to."""
        import numpy as np

        self.n_plans += 1
        self.scan_ns += plan.scan_ns
        self.examined_pages += plan.examined_pages
        self.examined_bytes += plan.examined_bytes
        if not self.path:
            self.path, self.why = plan.path, plan.why
        self.batches.update(batches.target_nid.tolist())
        pairs = np.stack([store.page_map.nid_of_flat(plan.flat), plan.target_of_folio()])
        distinct, inverse = np.unique(pairs, axis=1, return_inverse=True)
        folio_pages = plan.folio_pages
        for index, pair in enumerate(distinct.T.tolist()):
            mine = inverse == index
            self.folios[tuple(pair)] += int(mine.sum())
            self.pages[tuple(pair)] += int(folio_pages[mine].sum())
        if charged is not None:
            of_folio = charged.of_page[plan.flat]
            for index in np.unique(of_folio).tolist():
                self.cgroups[charged.names[index]] += int(folio_pages[of_folio == index].sum())

    def by_cgroup(self) -> list[tuple[str, int]]:
        """Return the pages of each cgroup, the largest first."""
        return sorted(self.cgroups.items(), key=lambda item: (-item[1], item[0]))

    def document(self, batch_pages: int) -> dict[str, Any]:
        """Return the counts for JSON."""
        routes = [
            {"source_nid": source, "target_nid": target, "folios": n, "pages": self.pages[source, target]}
            for (source, target), n in sorted(self.folios.items())
        ]
        targets = []
        for nid, n_batches in sorted(self.batches.items()):
            pages = sum(n for (_, target), n in self.pages.items() if target == nid)
            fill = pages / (n_batches * batch_pages)
            targets.append({"nid": nid, "pages": pages, "batches": n_batches, "fill": fill})
        return {
            "routes": routes,
            "targets": targets,
            "scan": {
                "plans": self.n_plans,
                "time_ns": self.scan_ns,
                "path": self.path,
                "why": self.why,
                "examined_pages": self.examined_pages,
                "examined_bytes": self.examined_bytes,
            },
        }


def _plan_file(stack: ExitStack, request: ScanOptions) -> tuple[PatientPlanWriter | None, Path | None]:
    """Open what goes under ``--out``, where it is given: the plan, and the name of the report."""
    if request.out is None:
        return None, None
    from gpuscan.files.writing import Contents, new_directory
    from gpuscan.store.plan_file import PatientPlanWriter, PlanWriter

    contents = Contents(_REPORT_FILE, (_PLAN_FILE,))
    directory = stack.enter_context(new_directory(request.out, contents, force=request.force))
    writer = stack.enter_context(
        PlanWriter(directory / _PLAN_FILE, request.record_format, request.batch_pages)
    )
    return PatientPlanWriter(writer), directory / _REPORT_FILE


def _store(
    snapshot: Snapshot, frames: Frames, request: ScanOptions, on_reserved: Callable[[int], None] | None
) -> Store:
    import numpy as np

    from gpuscan.store.single import Store

    large = bool(frames.order.any())
    store = Store(
        snapshot.topology,
        request.record_format,
        request.device,
        fixed_target=request.target,
        large_folios=large,
        residency=request.residency,
        records_dir=request.records_dir,
        on_reserved=on_reserved,
    )
    eligible_bits = np.packbits(frames.eligible, bitorder="little").view(np.uint64)
    store.load_pages(eligible_bits, frames.order if large else None)
    return store


def _record(store: Store, snapshot: Snapshot, frames: Frames, target: int | None) -> dict[str, int]:
    """Record every hot folio below the top tier once; return how many ended which way."""
    from gpuscan.snapshot.folios import hot_on_lower_tiers

    if target is not None:
        store.check_target(target)
    hot = hot_on_lower_tiers(snapshot, frames, target)
    counts = store.record(hot.pfns, hot.nids, now_jiffies=0, window_jiffies=0, threshold=1)
    return {outcome.name.lower(): n for outcome, n in counts.items() if n}


def _drain(
    store: Store,
    path: ScanPath,
    batch_pages: int,
    writer: PatientPlanWriter | None,
    charged: PageCgroups | None,
) -> _Found:
    found = _Found()
    for plan in store.drain(path=path):
        batches = plan.batches(batch_pages)
        found.add(plan, batches, store, charged)
        if writer is not None:
            writer.append(0, plan, batches)
    return found


def _show(output: Output, snapshot: Snapshot, found: _Found, document: dict[str, Any]) -> None:
    from rich.table import Table

    from gpuscan.base.units import format_bytes, format_number, format_time
    from gpuscan.topology.tiers import has_lower_tier, lower_tier_remedy

    topology = snapshot.topology
    if not has_lower_tier(topology):
        output.line(
            f"Every page of {topology.name!r} is on the top tier, so there is nothing to promote; "
            f"{lower_tier_remedy(topology, is_captured=True)}."
        )
        return
    if not document["routes"]:
        output.line(_why_nothing(document["recorded"]))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("from node", "to node", "folios", "pages", "size"):
        table.add_column(heading, justify="right")
    for route in document["routes"]:
        size = format_bytes(route["pages"] << 12)
        table.add_row(*(f"{route[key]:,}" for key in ("source_nid", "target_nid", "folios", "pages")), size)
    if document["routes"]:
        output.table(table)
    for target in document["targets"]:
        output.line(
            f"Node {target['nid']} gets {format_number(target['batches'], 'batch')} of up to "
            f"{document['batch_pages']:,} pages, {target['fill']:.0%} full."
        )
    n_all = found.cgroups.total()
    for name, n_pages in found.by_cgroup()[:_N_CGROUPS_SHOWN]:
        output.line(f"{n_pages / n_all:.1%} of these pages, {n_pages:,}, are charged to the cgroup {name}.")
    output.line(
        f"Scanned {topology.page_map.n_present_pages:,} pages in {format_time(found.scan_ns)} on "
        f"{document['device']['name']}, {found.path} path ({found.why}); {document['hot_rule']}."
    )
    if document["n_torn_folios"]:
        output.line(
            f"{format_number(document['n_torn_folios'], 'folio')} changed in the capture, so left out."
        )


def _why_nothing(recorded: dict[str, int]) -> str:
    """Say why no folio is to be migrated, from the outcomes of recording the hot ones."""
    from gpuscan.base.units import format_number

    n_hot = sum(recorded.values())
    if not n_hot:
        return "No folio below the top tier is hot, so there is nothing to migrate."
    if recorded.get("own_node") == n_hot:
        return f"All {format_number(n_hot, 'hot folio')} below the top tier are on the target node already."
    reasons = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in recorded.items())
    return f"None of the {format_number(n_hot, 'hot folio')} below the top tier can be migrated: {reasons}."
