"""Snapshots: the page flags of a real machine, captured once, as a Zarr directory.

A snapshot holds flags and mapcounts of PFNs, the machine's zones and a handful of
facts about its kernel; nothing of what is in the pages, and no name of the
machine or its users. Names of cgroups may be names of users: they are there where
somebody asked for them. On disk (Zarr v3)::

    OUT.zarr/zarr.json              attributes: schema, kind, facts, topology
             node0/kpageflags       uint64[n], one per flat page of node 0
             node0/kpagecount       uint32[n]
             node0/kpagecgroup      uint16[n], where cgroups were captured: an index of the attribute cgroups
             node1/...

A chunk of zeros has no file, so every array carries the CRC-32 of each of its chunks; one
that was lost, cut off or damaged is found when the snapshot is read. A snapshot may be
somebody else's: :mod:`gpuscan.files.chunks` and :mod:`gpuscan.files.reading` are how it is read.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.arguments import (
    ArraySpec,
    check_arrays,
    flag,
    instance,
    items,
    place_of,
    real,
    settle,
    text,
    whole,
)
from gpuscan.base.errors import InputError, SnapshotError, TopologyError
from gpuscan.files.chunks import ChunkReader, read_metadata, said
from gpuscan.files.reading import JSON_BYTES_MAX, Folder, UnfitError, check_room
from gpuscan.files.settled import settled
from gpuscan.files.writing import Contents, check_place, new_directory
from gpuscan.records.page_flags import Frames, count_pages, find_frames
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.snapshot.cgroups import N_CGROUPS_MAX, PageCgroups
from gpuscan.topology import Topology
from gpuscan.topology.serialize import topology_from_dict, topology_to_dict
from gpuscan.topology.split import split_cxl

SCHEMA = 1
"""Goes up when a reader of the old layout would misread the new one."""
KIND = "machine"
CHUNK_SECTIONS = 128
"""Sections per chunk: 4 Mi pages, 32 MiB of flags before compression."""
CHUNK_SECTIONS_MAX = 128
"""Sections in a chunk that is read: more of them would take more memory than any writer of ours asks for."""

_ROOT = "zarr.json"
_CONTENTS = Contents(_ROOT, ("node[0-9]*",))
_WORDS = (ArraySpec("flags", "uint64", ("flags",)), ArraySpec("mapcounts", "uint32", ("mapcounts",)))
_ARRAYS = {"kpageflags": np.dtype(np.uint64), "kpagecount": np.dtype(np.uint32)}
_CGROUP = "kpagecgroup"
ARRAY_BYTES = 14
"""Of all arrays, for a page."""
_HZ_MAX = 1_000_000
_NOTES_MAX = 10_000
_AGAIN = "copy it again or capture the machine again"


@dataclass(frozen=True, slots=True)
class ZonePages:
    """What is in a zone. ``pages``: base pages by kind (``gpuscan.records.page_flags.PAGE_KINDS``)."""

    nid: int
    zone: str
    present: int
    managed: int
    pages: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The page flags of a machine at one time.

    The flags were read while the machine ran: neighbouring pages may be from moments
    apart, a folio may have been split or freed half-way (``Frames.n_torn``).

    Attributes:
        topology: its nodes and zones.
        flags: uint64[n_pages], words of /proc/kpageflags by flat index of ``topology.page_map``;
            ``gpuscan.records.page_flags.NO_PAGE`` where no page is present.
        mapcounts: uint32[n_pages], words of /proc/kpagecount, saturated.
        kernel_release: as ``uname -r`` prints it.
        hz: jiffies per second (CONFIG_HZ), None where the kernel does not tell.
        lru_gen: whether the multi-generation LRU was on.
        captured_at: UTC, ISO 8601, to the second.
        notes: what could not be told for certain, one sentence each.
        cgroups: which memory cgroup each page is charged to; None where that was not captured.
    """

    topology: Topology
    flags: NDArray[np.uint64]
    mapcounts: NDArray[np.uint32]
    kernel_release: str
    hz: int | None
    lru_gen: bool
    captured_at: str
    notes: tuple[str, ...] = ()
    cgroups: PageCgroups | None = None

    def __post_init__(self) -> None:
        instance("snapshot: topology", self.topology, Topology, "give what resolve_topology() returns")
        if self.hz is not None:
            whole("snapshot: hz", self.hz, 1)
        flag("snapshot: lru_gen", self.lru_gen)
        text("snapshot: kernel_release", self.kernel_release)
        text("snapshot: captured_at", self.captured_at)
        notes = items("snapshot: notes", self.notes, str, "give sentences")
        checked.texts(notes, "snapshot: notes", _NOTES_MAX)  # as they are read
        flags, mapcounts = check_arrays("snapshot", _WORDS, (self.flags, self.mapcounts), {})
        settle(self, flags=flags, mapcounts=mapcounts, notes=notes)
        n_pages = self.topology.page_map.n_pages
        if self.flags.shape != (n_pages,) or self.mapcounts.shape != (n_pages,):
            raise SnapshotError(
                f"{len(self.flags)} flags and {len(self.mapcounts)} mapcounts do not fit the {n_pages} flat "
                f"pages of {self.topology.name!r}; give one of each per flat page"
            )
        if self.cgroups is None:
            return
        instance("snapshot: cgroups", self.cgroups, PageCgroups, "give which cgroup each page is of, or None")
        if self.cgroups.of_page.shape != (n_pages,):
            raise SnapshotError(
                f"cgroups of {len(self.cgroups.of_page)} pages do not fit the {n_pages} flat pages of "
                f"{self.topology.name!r}; give one per flat page"
            )

    def frames(self) -> Frames:
        """Return the folios on LRU lists, with order and hotness."""
        return find_frames(self.flags, lru_gen=self.lru_gen)

    def zone_pages(self, frames: Frames) -> list[ZonePages]:
        """Return what each zone holds, in the order of ``topology.zones`` (``frames``: of :meth:`frames`)."""
        instance("zone_pages: frames", frames, Frames, "give what frames() returns")
        per_section = count_pages(self.flags, frames)
        section_zone = self.topology.page_map.section_zone
        zones = []
        for zone_id, (node, zone) in enumerate(self.topology.zones):
            mine = section_zone == zone_id
            pages = {kind: int(counts[mine].sum()) for kind, counts in per_section.items()}
            zones.append(ZonePages(node.nid, zone.name, zone.present_pages, zone.managed_pages, pages))
        return zones

    def split_cxl(self, share: float) -> Snapshot:
        """Return the same pages on a machine whose upper ``share`` is a CXL node (:func:`split_cxl`).

        The share is counted in pages that show any flag. Memory that is present but not in
        use, such as a virtual machine's unplugged half, shows none, and a share of present
        pages could leave the CXL node without a single page of anybody.

        Raises:
            TopologyError: the machine has several nodes, or a side would be empty.
        """
        share = real("split_cxl: share", share)
        counts = count_pages(self.flags, self.frames())
        in_use = SECTION_PAGES - counts["unflagged"] - counts["no_page"]
        return dataclasses.replace(self, topology=split_cxl(self.topology, share, in_use))

    def write(self, path: Path, *, force: bool = False) -> None:
        """Write the snapshot: whole, or not at all.

        Args:
            path: the directory to make.
            force: replace a snapshot that is there.

        Raises:
            InputError: ``path`` is there and is not to be replaced, or is not a snapshot.
            RunFailedError: the system refused a write, for instance on a full disk.
        """
        path = place_of("write: path", path)
        check_free(path, force=flag("write: force", force))
        with new_directory(path, _CONTENTS, force=force) as beside, settled():
            self._fill(beside)

    def _fill(self, directory: Path) -> None:
        import zarr
        from zarr.codecs import BloscCodec

        attributes = {
            "schema": SCHEMA,
            "kind": KIND,
            "captured_at": self.captured_at,
            "kernel_release": self.kernel_release,
            "hz": self.hz,
            "lru_gen": self.lru_gen,
            "notes": list(self.notes),
            "topology": topology_to_dict(self.topology),
        }
        if self.cgroups is not None:
            attributes["cgroups"] = list(self.cgroups.names)
        root = zarr.create_group(directory, attributes=attributes, zarr_format=3)
        for nid, name, flat in self._arrays():
            crcs = []
            # Bytes of equal rank side by side: flags are runs of equal words.
            codec = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=flat.itemsize)
            sections = np.flatnonzero(self.topology.page_map.section_nid == nid)
            array = root.create_array(
                f"node{nid}/{name}",
                shape=(len(sections) * SECTION_PAGES,),
                chunks=(min(CHUNK_SECTIONS, max(1, len(sections))) * SECTION_PAGES,),
                dtype=flat.dtype,
                compressors=codec,
                fill_value=0,
            )
            by_section = flat.reshape(-1, SECTION_PAGES)
            for part in _chunks(len(sections), CHUNK_SECTIONS):
                pages = by_section[sections[part]].ravel()
                array[part.start * SECTION_PAGES : part.stop * SECTION_PAGES] = pages
                crcs.append(zlib.crc32(pages.data))
            array.attrs["crc32"] = crcs

    def _arrays(self) -> Iterator[tuple[int, str, NDArray[Any]]]:
        for node in self.topology.nodes:
            yield node.nid, "kpageflags", self.flags
            yield node.nid, "kpagecount", self.mapcounts
            if self.cgroups is not None:
                yield node.nid, _CGROUP, self.cgroups.of_page

    @classmethod
    def read(cls, path: Path) -> Snapshot:
        """Read a snapshot and check it whole.

        Raises:
            SnapshotError: it is not a snapshot, was cut short or damaged, or is of a newer schema.
        """
        path = place_of("read: path", path)
        with _opened(path) as folder:
            topology, cgroups, facts = _facts(path, _root_attributes(path, folder))
            page_map = topology.page_map
            dtypes = _ARRAYS if cgroups is None else {**_ARRAYS, _CGROUP: np.dtype(np.uint16)}
            flat = {name: np.empty(page_map.n_pages, dtype) for name, dtype in dtypes.items()}
            for node in topology.nodes:
                sections = np.flatnonzero(page_map.section_nid == node.nid)
                for name, pages in flat.items():
                    _read_array(folder, node.nid, name, sections, pages.reshape(-1, SECTION_PAGES))
        try:
            of_pages = None if cgroups is None else PageCgroups(cgroups, flat[_CGROUP])
        except SnapshotError as error:
            raise SnapshotError(f"{path}: {error}; {_AGAIN}") from None
        return cls(topology, flat["kpageflags"], flat["kpagecount"], cgroups=of_pages, **facts)


def check_free(path: Path, *, force: bool = False) -> None:
    """Refuse a ``path`` that :meth:`Snapshot.write` would refuse: asked before a long capture, not after it.

    Raises:
        InputError: as :func:`gpuscan.files.writing.check_place`; or what is there is not a snapshot.
    """
    check_place(path, _CONTENTS, force=force)
    if not path.exists() or not any(path.iterdir()):
        return
    try:
        with _opened(path) as folder:
            _root_attributes(path, folder)
    except SnapshotError:
        raise InputError(
            f"{path} is not a snapshot, so it is not replaced; give another name or remove it yourself"
        ) from None


def _opened(path: Path) -> Folder:
    try:
        return Folder(path)
    except FileNotFoundError:
        raise SnapshotError(f"{path} is not there; make one with 'gpuscan capture'") from None
    except NotADirectoryError:
        raise SnapshotError(f"{path} is a file, not a snapshot; make one with 'gpuscan capture'") from None
    except OSError as error:
        raise SnapshotError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    except ValueError as error:  # a NUL byte in the name
        raise SnapshotError(f"{str(path)!r} is not a file name ({error}); give a snapshot") from None


def _root_attributes(path: Path, folder: Folder) -> dict[str, Any]:
    try:
        document = read_metadata(folder, JSON_BYTES_MAX)
    except FileNotFoundError:
        raise SnapshotError(
            f"{path} is not a snapshot: it has no {_ROOT}; make one with 'gpuscan capture'"
        ) from None
    except OSError as error:
        raise SnapshotError(f"cannot read {path / _ROOT}: {error.strerror}; check its permissions") from None
    except UnfitError as error:
        raise SnapshotError(f"{path} {error}; {_AGAIN}") from None
    attributes: dict[str, Any] = document["attributes"]
    if attributes.get("kind") != KIND:
        raise SnapshotError(f"{path} is not a snapshot of a machine; make one with 'gpuscan capture'")
    return attributes


def _facts(path: Path, attributes: dict[str, Any]) -> tuple[Topology, tuple[str, ...] | None, dict[str, Any]]:
    """Return the machine, the names of cgroups where they were captured, and the rest."""
    schema = attributes.get("schema")
    if type(schema) is not int or not 0 < schema <= SCHEMA:
        raise SnapshotError(
            f"{path} is of schema {str(schema)[:20]}, and this gpuscan reads up to {SCHEMA}; "
            "install a newer gpuscan"
        )
    place = path / _ROOT
    try:
        lru_gen, hz = attributes.get("lru_gen"), attributes.get("hz", "")
        if type(lru_gen) is not bool:
            raise ValueError("lru_gen is missing or neither true nor false")
        facts = {
            "captured_at": checked.text(attributes.get("captured_at"), "captured_at"),
            "kernel_release": checked.text(attributes.get("kernel_release"), "kernel_release"),
            "hz": None if hz is None else checked.whole(hz, 1, _HZ_MAX, "hz"),
            "lru_gen": lru_gen,
            "notes": tuple(checked.texts(attributes.get("notes"), "notes", _NOTES_MAX)),
        }
        listed = attributes.get("cgroups")
        cgroups = None if listed is None else tuple(checked.texts(listed, "cgroups", N_CGROUPS_MAX))
        topology = topology_from_dict(attributes.get("topology"))
        check_room(topology.page_map.n_pages * ARRAY_BYTES)
        return topology, cgroups, facts
    except TopologyError as error:
        raise SnapshotError(f"{place}: {error}") from None
    except UnfitError as error:
        raise SnapshotError(f"{path} {error}; free memory, or use a machine that has more") from None
    except ValueError as error:
        raise SnapshotError(f"{place}: {error}; capture the machine again") from None


def _read_array(
    folder: Folder, nid: int, name: str, sections: NDArray[np.intp], by_section: NDArray[Any]
) -> None:
    """Read one node's array into rows ``sections`` of ``by_section``, checking every chunk."""
    place = f"{folder.path}/node{nid}/{name}"
    n_pages = len(sections) * SECTION_PAGES
    names = (f"node{nid}", name)
    try:
        with ChunkReader(
            folder, names, by_section.dtype, n_pages, chunk_max=CHUNK_SECTIONS_MAX * SECTION_PAGES
        ) as array:
            _read_chunks(array, place, sections, by_section)
    except (UnfitError, OSError) as error:
        raise SnapshotError(f"{said(error, place)}; {_AGAIN}") from None


def _read_chunks(
    array: ChunkReader, place: str, sections: NDArray[np.intp], by_section: NDArray[Any]
) -> None:
    crcs = array.attributes.get("crc32")
    n_chunks = array.n_chunks
    if array.chunk % SECTION_PAGES or not isinstance(crcs, list) or len(crcs) != n_chunks:
        raise UnfitError(f"has no CRC-32 for each of its {n_chunks} chunks")
    parts = _chunks(len(sections), array.chunk // SECTION_PAGES)
    for number, (part, crc) in enumerate(zip(parts, crcs, strict=True)):
        where = f"{place}: chunk {number} of {n_chunks}"
        try:
            pages = array.read(number)
        except (UnfitError, OSError) as error:
            raise SnapshotError(f"{said(error, where)}; {_AGAIN}") from None
        if zlib.crc32(pages.data) != crc:
            raise SnapshotError(f"{where} is missing or was changed (its CRC-32 is wrong); {_AGAIN}")
        by_section[sections[part]] = pages.reshape(-1, SECTION_PAGES)


def _chunks(n_sections: int, chunk_sections: int) -> Iterator[slice]:
    for start in range(0, n_sections, chunk_sections):
        yield slice(start, min(start + chunk_sections, n_sections))
