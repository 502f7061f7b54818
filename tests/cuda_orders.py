"""Small systems of the CUDA kernels, for the explorer: what runs at once, from what, and what must hold.

Two blocks of two warps, of one kernel or of two. An item is one warp's, worked on by its first lane; a
stretch is one block of 512 pages, its records one tile of the dense scan. Of a machine there is as much as
these touch.
"""

from __future__ import annotations

import re
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulated import of_files
from emulator.explorer import Arrays, Exploration, ExploredModule, Launch
from emulator.presence import need
from gpuscan.kernels.api import N_OUTCOMES, N_RELEASE_OUTCOMES, NODE_HAS_MEMORY, Outcome, ReleaseOutcome
from gpuscan.kernels.cuda.launches import NUMBER_TYPES, PARAMETERS
from gpuscan.kernels.cuda.source import Total, kernel_source
from gpuscan.records.formats import FORMATS, RecordFormat, pack, unpack

WARPS = 2
N_NODES = 8
N_TARGETS = 4
SECTION_PAGES = 1 << 15
STRETCH_PAGES = 512
_FILES = {"scan_dense", "scan_indexed", "request", "record", "release", "discard", "resolve"}


def source_of(fmt: RecordFormat) -> str:
    """Return the kernels for blocks of two warps and a few nodes."""
    source = of_files(kernel_source(fmt, exclusive=False), _FILES)
    for name, value in (("WARPS", WARPS), ("N_NODES_MAX", N_NODES)):
        source, n_found = re.subn(rf"(?m)^#define GS_{name} \d+$", f"#define GS_{name} {value}", source)
        assert n_found == 1
    return source


class Event(NamedTuple):
    """What a kernel did to a page: ``began``, ``claimed``, ``discarded``; the target of the request."""

    what: str
    page: int
    nid: int


@dataclass(frozen=True)
class Work(ABC):
    """One launch. Arrays that it has for itself are called by its number and their name.

    Attributes:
        n_blocks: of two warps.
    """

    n_blocks: int = field(default=1, kw_only=True)

    @property
    @abstractmethod
    def kernel(self) -> str:
        """The kernel's name."""

    @abstractmethod
    def own(self, fmt: RecordFormat) -> dict[str, NDArray[Any]]:
        """Return its own arrays."""

    @property
    def numbers(self) -> dict[str, int]:
        """What it is given beside arrays."""
        return {}

    @abstractmethod
    def events(self, own: Arrays, fmt: RecordFormat) -> Iterator[Event]:
        """Yield what it says that it did."""

    @abstractmethod
    def result(self, own: Arrays) -> Any:
        """Return what of its results must be as in a serial order."""

    def complaint(self, own: Arrays, fmt: RecordFormat) -> str | None:
        """Return what is wrong with what it says about itself."""
        return None


def _of_lanes(items: Mapping[int, Any], n_threads: int, fill: int, dtype: Any) -> NDArray[Any]:
    array = np.full(n_threads, fill, dtype=dtype)
    for thread, item in items.items():
        array[thread] = item
    return array


@dataclass(frozen=True)
class Items(Work):
    """A call of a producer.

    Attributes:
        items: pages and nodes, one a warp.
        in_lanes: items are those of a warp's first lanes instead.
    """

    items: tuple[tuple[int, int], ...]
    in_lanes: bool = False

    @property
    def n_threads(self) -> int:
        return 64 * self.n_blocks

    def threads(self) -> Iterator[tuple[int, int, int]]:
        """Yield thread, page and node of each item."""
        for number, (page, nid) in enumerate(self.items):
            yield number if self.in_lanes else 32 * number, page, nid

    def result(self, own: Arrays) -> Any:
        return own["outcomes"].tobytes()

    def complaint(self, own: Arrays, fmt: RecordFormat) -> str | None:
        counts = np.bincount(own["outcomes"], minlength=len(own["counts"]))
        if counts.tolist() == own["counts"].tolist():
            return None
        return f"{self.kernel} counts {own['counts'].tolist()}, its outcomes are {counts.tolist()}"


@dataclass(frozen=True)
class Requests(Items):
    """``request``: each item a folio of its own, so that the kernel's threads race."""

    @property
    def kernel(self) -> str:
        return "request"

    @property
    def numbers(self) -> dict[str, int]:
        return {"n_items": self.n_threads, "ordered": 0, "n_slots": 1, "wants_outcomes": 1}

    def own(self, fmt: RecordFormat) -> dict[str, NDArray[Any]]:
        return {
            "pfns": _of_lanes({at: page for at, page, _ in self.threads()}, self.n_threads, -1, np.int64),
            "nids": _of_lanes({at: nid for at, _, nid in self.threads()}, self.n_threads, 1, np.int32),
            "slots": np.zeros(1, dtype=np.uint32),
            "folio_heads": np.zeros(1, dtype=np.uint64),
            "folio_lasts": np.zeros(1, dtype=np.uint32),
            "folio_notes": np.zeros(1, dtype=np.uint32),
            "outcomes": np.full(self.n_threads, 99, dtype=np.uint8),
            "counts": np.zeros(N_OUTCOMES, dtype=np.uint64),
        }

    def events(self, own: Arrays, fmt: RecordFormat) -> Iterator[Event]:
        for at, page, nid in self.threads():
            if own["outcomes"][at] == Outcome.ACCEPTED:
                yield Event("began", page, nid)


@dataclass(frozen=True)
class Accesses(Requests):
    """``record``: the second access makes a page READY."""

    @property
    def kernel(self) -> str:
        return "record"

    @property
    def numbers(self) -> dict[str, int]:
        return {**super().numbers, "now": 1, "window": 8, "threshold": 2, "drop_top_tier": 0}


@dataclass(frozen=True)
class Releases(Items):
    """``release``: claims that were made before go back."""

    @property
    def kernel(self) -> str:
        return "release"

    @property
    def numbers(self) -> dict[str, int]:
        return {"n_items": self.n_threads, "wants_outcomes": 1}

    def own(self, fmt: RecordFormat) -> dict[str, NDArray[Any]]:
        words = {at: word_of(fmt, nid) for at, _, nid in self.threads()}
        return {
            "flats": _of_lanes({at: page for at, page, _ in self.threads()}, self.n_threads, -1, np.int64),
            "words": _of_lanes(words, self.n_threads, 0, fmt.dtype),
            "outcomes": np.full(self.n_threads, 99, dtype=np.uint8),
            "counts": np.zeros(N_RELEASE_OUTCOMES, dtype=np.uint64),
        }

    def events(self, own: Arrays, fmt: RecordFormat) -> Iterator[Event]:
        for at, page, nid in self.threads():
            if own["outcomes"][at] == ReleaseOutcome.RESTORED:
                yield Event("began", page, nid)


@dataclass(frozen=True)
class Discards(Work):
    """``discard`` of one page, which is freed."""

    page: int

    @property
    def kernel(self) -> str:
        return "discard"

    @property
    def numbers(self) -> dict[str, int]:
        return {"n_items": 1}

    def own(self, fmt: RecordFormat) -> dict[str, NDArray[Any]]:
        return {"flats": np.array([self.page]), "n_ready": np.zeros(1, dtype=np.uint64)}

    def events(self, own: Arrays, fmt: RecordFormat) -> Iterator[Event]:
        yield from [Event("discarded", self.page, -1)] * int(own["n_ready"][0])

    def result(self, own: Arrays) -> Any:
        return int(own["n_ready"][0])


@dataclass(frozen=True)
class Resolves(Items):
    """``resolve``: the items of a call by folio. Slots are so few that folios meet in one."""

    n_slots: int = 4

    @property
    def kernel(self) -> str:
        return "resolve"

    @property
    def numbers(self) -> dict[str, int]:
        return {"n_items": self.n_threads, "n_slots": self.n_slots, "drop_top_tier": 0, "notes_count": 0}

    def own(self, fmt: RecordFormat) -> dict[str, NDArray[Any]]:
        asked = Requests.own(Requests(self.items, self.in_lanes, n_blocks=self.n_blocks), fmt)
        return {
            **{name: asked[name] for name in ("pfns", "nids")},
            "folio_heads": np.zeros(self.n_slots, dtype=np.uint64),
            "folio_lasts": np.zeros(self.n_slots, dtype=np.uint32),
            "folio_notes": np.zeros(self.n_slots, dtype=np.uint32),
            "slots": np.zeros(self.n_threads, dtype=np.uint32),
        }

    def events(self, own: Arrays, fmt: RecordFormat) -> Iterator[Event]:
        yield from ()

    def result(self, own: Arrays) -> Any:
        return None

    def complaint(self, own: Arrays, fmt: RecordFormat) -> str | None:
        of_page: dict[int, list[int]] = {}
        for at, page, _ in self.threads():
            of_page.setdefault(page, []).append(at)
        for page, threads in of_page.items():
            slots = {int(own["slots"][at]) for at in threads}
            if len(slots) > 1:
                return f"items of page {page} have slots {sorted(slots)}"
            slot = slots.pop()
            told = (int(own["folio_heads"][slot]) - 1, int(own["folio_lasts"][slot]) - 1)
            first = 0xFFFFFFFF ^ int(own["folio_notes"][slot])
            if (*told, first) != (page, max(threads), min(threads)):
                return f"slot {slot} of page {page} has {told}, first item {first}; its items are {threads}"
        return None


@dataclass(frozen=True)
class Scan(Work):
    """A scan, a warp a stretch.

    Attributes:
        path: of the index or of all records.
        room: claims that each stretch has room for.
        quota: pages of each target that it may claim; -1: as many as there are.
    """

    path: Literal["dense", "indexed"]
    room: int = 4
    quota: int = -1

    @property
    def kernel(self) -> str:
        return f"scan_{self.path}" + ("_budget" if self.quota >= 0 else "")

    @property
    def n_stretches(self) -> int:
        return WARPS * self.n_blocks

    @property
    def numbers(self) -> dict[str, int]:
        return {"n_stretches": self.n_stretches, "now": 0}

    def own(self, fmt: RecordFormat) -> dict[str, NDArray[Any]]:
        n = self.n_stretches
        return {
            "edges": STRETCH_PAGES * np.arange(n + 1),
            "ends": self.room * np.arange(1, n + 1),
            "staged_offsets": np.zeros(n * self.room, dtype=np.uint32),
            "staged_words": np.zeros(n * self.room, dtype=fmt.dtype),
            "n_staged": np.full(n, -1),
            "chunk_places": np.full(self.n_blocks * N_TARGETS, -1),
            "row_places": np.full(N_TARGETS, -1),
            "n_done": np.zeros(2, dtype=np.uint32),
            "plan_offsets": np.full(N_TARGETS + 1, -1),
            "totals": np.zeros(len(Total), dtype=np.uint64),
            # Everything is above its cut-off, and draws on the quota.
            "cut_key": np.full(N_TARGETS, 1 << 30, dtype=np.int32),
            **{
                name: np.zeros(N_TARGETS, dtype=np.int64)
                for name in ("resume_flat", "stop_from", "stop_below")
            },
            "above_pages": np.full(N_TARGETS, max(self.quota, 0), dtype=np.uint64),
            "tie_pages_from": np.zeros(N_TARGETS, dtype=np.uint64),
            "tie_pages_below": np.zeros(N_TARGETS, dtype=np.uint64),
        }

    def claims(self, own: Arrays) -> list[tuple[int, int, int]]:
        """Return stretch, page and word of each claim."""
        return [
            (
                stretch,
                int(own["edges"][stretch] + own["staged_offsets"][place]),
                int(own["staged_words"][place]),
            )
            for stretch in range(self.n_stretches)
            for place in range(
                self.room * stretch, self.room * stretch + max(0, int(own["n_staged"][stretch]))
            )
        ]

    def events(self, own: Arrays, fmt: RecordFormat) -> Iterator[Event]:
        for _, page, word in self.claims(own):
            yield Event("claimed", page, nid_of(fmt, word))

    def result(self, own: Arrays) -> Any:
        return tuple(self.claims(own))

    def complaint(self, own: Arrays, fmt: RecordFormat) -> str | None:
        if max(own["n_staged"]) > self.room or min(own["n_staged"]) < 0:
            return f"stretches of {self.room} places have {own['n_staged'].tolist()} claims"
        claims = self.claims(own)
        if [page for _, page, _ in claims] != sorted({page for _, page, _ in claims}):
            return f"claims are not in order: {claims}"
        of_block = np.zeros((self.n_blocks, N_TARGETS), dtype=np.int64)
        for stretch, _, word in claims:
            of_block[stretch // WARPS, nid_of(fmt, word)] += 1
        before = np.cumsum(of_block, axis=0) - of_block
        if own["chunk_places"].tolist() != before.ravel().tolist() or own["row_places"].any():
            return f"blocks begin at {own['chunk_places'].tolist()}, their claims are {of_block.tolist()}"
        offsets = np.concatenate(([0], np.cumsum(of_block.sum(axis=0))))
        if own["plan_offsets"].tolist() != offsets.tolist():
            return f"the plan's offsets are {own['plan_offsets'].tolist()}, its claims {of_block.tolist()}"
        if own["n_done"].any():
            return "the counters of blocks that are done are not 0 afterwards"
        if self.path == "dense" and own["totals"][Total.PAGES] != STRETCH_PAGES * self.n_stretches:
            return f"{own['totals'][Total.PAGES]} pages were read, of {STRETCH_PAGES * self.n_stretches}"
        if self.quota >= 0:
            left = np.full(N_TARGETS, self.quota) - of_block.sum(axis=0)
            if own["above_pages"].view(np.int64).tolist() != left.tolist():
                return f"quotas left are {own['above_pages'].view(np.int64).tolist()}, not {left.tolist()}"
            if left.min() < 0:
                return f"a quota of {self.quota} is overdrawn: {of_block.sum(axis=0).tolist()}"
        return None


def word_of(fmt: RecordFormat, nid: int, *, ready: bool = True, freq: int = 0) -> int:
    """Return a record."""
    return int(pack(fmt, ready=int(ready), nid=nid if fmt.has_nid else 0, freq=freq, time=0))


def nid_of(fmt: RecordFormat, word: int) -> int:
    """Return the target of a record, 0 where the format has none."""
    return int(unpack(fmt, np.array(word, dtype=fmt.dtype)).nid) if fmt.has_nid else 0


@dataclass(frozen=True)
class System:
    """What runs at once.

    Attributes:
        work: the launches.
        ready: pages that are READY at the start, indexed, and their targets.
        stale: pages that have their index bits and are not READY, with a FREQ.
        far: the first pages of a second section are there too, on node 7.
        like_serial: records, plans and outcomes must be those of an order of warps, each of which runs on
            until it waits.
    """

    work: tuple[Work, ...]
    ready: Mapping[int, int] = field(default_factory=dict)
    stale: tuple[int, ...] = ()
    far: bool = False
    like_serial: bool = True

    @property
    def n_pages(self) -> int:
        return SECTION_PAGES + STRETCH_PAGES if self.far else 4 * STRETCH_PAGES

    def arrays(self, fmt: RecordFormat) -> dict[str, NDArray[Any]]:
        """Return memory at the start."""
        n_pages = self.n_pages
        n_sections = -(-n_pages // SECTION_PAGES)
        ready_bits = np.zeros(n_pages // 64, dtype=np.uint64)
        block_bits = np.zeros(n_sections, dtype=np.uint64)
        records = np.zeros(n_pages, dtype=fmt.dtype)
        for page in (*self.ready, *self.stale):
            ready_bits[page // 64] |= np.uint64(1 << page % 64)
            block_bits[page // SECTION_PAGES] |= np.uint64(1 << page % SECTION_PAGES // STRETCH_PAGES)
        for page, nid in self.ready.items():
            records[page] = word_of(fmt, nid)
        for page in self.stale:
            records[page] = word_of(fmt, 0, ready=False, freq=1)
        section_nid = np.array([6, 7][:n_sections], dtype=np.int32)
        node_active = np.zeros(N_NODES, dtype=np.uint8)
        node_active[section_nid[0]] = bool(self.ready)
        arrays: dict[str, NDArray[Any]] = {
            "records": records,
            "ready_bits": ready_bits,
            "block_bits": block_bits,
            "eligible_bits": np.full(n_pages // 64, ~np.uint64(0)),
            "folio_order": np.zeros(1, dtype=np.uint8),
            "node_active": node_active,
            "section_nid": section_nid,
            "pfn_start": np.zeros(1, dtype=np.int64),
            "pfn_end": np.array([n_pages]),
            "flat_offset": np.zeros(1, dtype=np.int64),
            "node_flags": np.full(N_NODES, NODE_HAS_MEMORY, dtype=np.uint8),
            "node_mask": np.ones(N_NODES, dtype=np.uint8),
        }
        for number, work in enumerate(self.work):
            arrays |= {f"{number}.{name}": array for name, array in work.own(fmt).items()}
        return arrays

    def launches(self, arrays: Arrays) -> list[Launch]:
        """Return the launches on ``arrays``."""
        shared = {
            "has_large_folios": 0,
            "fixed_target": 0,
            "n_targets": N_TARGETS,
            "n_extents": 1,
            "n_pages": self.n_pages,
        }
        launches = []
        for number, work in enumerate(self.work):
            numbers = {**shared, **work.numbers}
            args = tuple(
                NUMBER_TYPES[name](numbers[name])
                if name in NUMBER_TYPES
                else (f"{number}.{name}" if f"{number}.{name}" in arrays else name)
                for name in PARAMETERS[work.kernel]
            )
            launches.append(Launch(work.kernel, work.n_blocks, 32 * WARPS, args))
        return launches

    def own(self, number: int, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Return the arrays of one launch, by name."""
        mark = f"{number}."
        return {name.removeprefix(mark): array for name, array in arrays.items() if name.startswith(mark)}

    def complaint(self, fmt: RecordFormat, arrays: Arrays) -> str | None:
        """Return what is wrong with memory at the end, whatever the order was."""
        ready = unpack(fmt, arrays["records"]).ready.astype(bool)
        for page in np.flatnonzero(ready).tolist():
            if not arrays["ready_bits"][page // 64] >> np.uint64(page % 64) & np.uint64(1):
                return f"page {page} is READY, its ready bit is clear"
            block = page % SECTION_PAGES // STRETCH_PAGES
            if not arrays["block_bits"][page // SECTION_PAGES] >> np.uint64(block) & np.uint64(1):
                return f"page {page} is READY, its block bit is clear"
            if not arrays["node_active"][arrays["section_nid"][page // SECTION_PAGES]]:
                return f"page {page} is READY, its node is not active"
        began = Counter(dict.fromkeys(self.ready, 1))
        asked = {(page, nid if fmt.has_nid else 0) for page, nid in self.ready.items()}
        for work in self.work:
            if isinstance(work, Items):
                asked |= {(page, nid if fmt.has_nid else 0) for _, page, nid in work.threads()}
        ended = Counter(np.flatnonzero(ready).tolist())
        for number, work in enumerate(self.work):
            own = self.own(number, arrays)
            problem = work.complaint(own, fmt)
            if problem:
                return problem
            for what, page, nid in work.events(own, fmt):
                (began if what == "began" else ended)[page] += 1
                if what == "claimed" and (page, nid) not in asked:
                    return f"page {page} was claimed for node {nid}, which nobody asked for"
        for page in sorted(began | ended):
            if began[page] != ended[page]:
                return f"page {page}: began {began[page]} requests, ended {ended[page]}"
        return None

    def result(self, arrays: Arrays) -> Any:
        """Return what must be as in a serial order."""
        works = tuple(work.result(self.own(number, arrays)) for number, work in enumerate(self.work))
        return arrays["records"].tobytes(), works

    def explore(self, module: ExploredModule, fmt: RecordFormat, **options: Any) -> Exploration:
        """Run it in every order, and ask everything of each end."""
        arrays = self.arrays(fmt)
        launches = self.launches(arrays)
        serial = None
        if self.like_serial:
            in_series = module.explore(arrays, launches, orders="serial", seed=options.get("seed", 0))
            assert in_series.is_exhausted
            serial = {self.result(end.arrays) for end in in_series.ends}

        def judge(then: Arrays) -> str | None:
            problem = self.complaint(fmt, {**arrays, **then})
            if problem is None and serial is not None and self.result({**arrays, **then}) not in serial:
                return "records, plans or outcomes are those of no serial order"
            return problem

        return module.explore(arrays, launches, judge, **options)


IS_CROWDED = (
    "  return __popc(__ballot_sync(GS_ALL_LANES, __popcll(ready) >= GS_ROWS_FROM)) >= GS_LANES / 2;\n"
)
"""What decides whether a tile of the dense scan is claimed row by row: a few pages never are."""


def explored_module(format_name: str = "rfc", *, in_rows: bool = False) -> ExploredModule:
    """Return the kernels of a format, unchanged but for their sizes; ``in_rows``: all tiles are crowded."""
    need("explored")
    source = source_of(FORMATS[format_name])
    assert source.count(IS_CROWDED) == 1
    return ExploredModule(source.replace(IS_CROWDED, "  return true;\n") if in_rows else source)


P, Q = 5, 7
"""Two pages of one ready word."""
TWICE = ((Q, 1), (Q, 2))
BOTH = ((P, 1), (Q, 2))
_PATHS: tuple[Literal["dense", "indexed"], ...] = ("dense", "indexed")

SYSTEMS: dict[str, System] = {
    "four requests of a page": System((Requests(((Q, 0), (Q, 1), (Q, 2), (Q, 3)), n_blocks=2),)),
    "requests of pages that share words": System(
        (Requests(((P, 0), (Q, 1), (P + 64, 2), (Q + 512, 3)), n_blocks=2),)
    ),
    "requests on two nodes": System((Requests(((P, 1), (P + SECTION_PAGES, 2))),), far=True),
    "accesses of a page": System((Accesses(((Q, 0), (Q, 1), (Q, 2), (P, 3)), n_blocks=2),)),
    "releases against requests": System((Releases(BOTH), Requests(((P, 3), (Q, 3))))),
    "two folios in one slot": System(
        (Resolves(((1, 0), (1, 0), (4, 0), (4, 0)), n_blocks=2),), like_serial=False
    ),
}
for _path in _PATHS:
    SYSTEMS |= {
        f"{_path} scan": System(
            (Scan(_path, n_blocks=2),), {P: 2, P + 512: 3, P + 1030: 2, P + 1600: 1}, (Q,)
        ),
        f"{_path} scan against requests of a page": System((Scan(_path), Requests(TWICE)), {P: 3}),
        f"{_path} scan against requests of a stale page": System(
            (Scan(_path), Requests(TWICE)), {P: 3}, (Q,)
        ),
        f"{_path} scan against requests of what it claims": System((Scan(_path), Requests(TWICE)), {Q: 3}),
        f"{_path} scan against requests of two pages": System((Scan(_path), Requests(BOTH)), {P: 3}),
        f"{_path} scan against requests of two blocks": System(
            (Scan(_path), Requests(((P, 1), (P + 512, 2))))
        ),
        f"{_path} scan against releases": System((Scan(_path), Releases(BOTH)), {P + 1: 3}),
        f"{_path} scan against accesses": System((Scan(_path), Accesses(TWICE)), {P: 3}, (Q,)),
        f"{_path} scan against a free": System((Scan(_path), Discards(P)), {P: 3, Q: 2}),
        f"{_path} scan without room": System((Scan(_path, room=1), Requests(BOTH)), {P: 3, Q + 1: 2}),
        f"{_path} scan within a quota": System(
            (Scan(_path, quota=1, n_blocks=2),),
            {P: 2, P + 1030: 2},
            like_serial=False,
        ),
    }
SYSTEMS |= {
    # They share out the pages of a stretch, which no serial order does.
    "two scans": System((Scan("dense"), Scan("indexed")), {P: 3, Q: 2, P + 512: 3}, like_serial=False),
    "two dense scans": System((Scan("dense"), Scan("dense")), {P: 3, P + 512: 3}),
}


def rows() -> Iterator[str]:
    """Yield what was run of each system, as Markdown: docs/notes/cuda.md has it."""
    for name, system in SYSTEMS.items():
        begin = time.process_time()
        explored = system.explore(explored_module(), FORMATS["rfc"])
        assert explored.is_exhausted
        assert not explored.wrong
        spent = time.process_time() - begin
        counts = (
            f"{explored.n_executions:,}",
            f"{explored.n_cut:,}",
            str(len(explored.ends)),
            f"{spent:.2f}",
        )
        yield f"| {name} | {' | '.join(counts)} |\n"


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write(row)
        sys.stdout.flush()
