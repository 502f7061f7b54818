"""Snapshots: the page flags of a real machine, captured once, as a Zarr directory.

A snapshot holds flags and mapcounts of PFNs, the machine's zones and a handful of
facts about its kernel; nothing of what is in the pages, and no name of the
machine or its users. On disk (Zarr v3)::

    OUT.zarr/zarr.json              attributes: schema, kind, facts, topology
             node0/kpageflags       uint64[n], one per flat page of node 0
             node0/kpagecount       uint32[n]
             node1/...

Zarr reads a chunk that is not there as zeros and says nothing, so every array
carries the CRC-32 of each of its chunks; a chunk that was cut off or damaged is
found when the snapshot is read.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.errors import InputError, SnapshotError, TopologyError
from gpuscan.pageflags import Frames, count_pages, find_frames
from gpuscan.pagemap import SECTION_PAGES
from gpuscan.settled import settled
from gpuscan.topology import Topology
from gpuscan.topology.serialize import topology_from_dict, topology_to_dict
from gpuscan.topology.split import split_cxl
from gpuscan.writing import Contents, check_place, new_directory

SCHEMA = 1
"""Goes up when a reader of the old layout would misread the new one."""
KIND = "machine"
CHUNK_SECTIONS = 128
"""Sections per chunk: 4 Mi pages, 32 MiB of flags before compression."""

_ROOT = "zarr.json"
_CONTENTS = Contents(_ROOT, ("node[0-9]*",))
_ARRAYS = {"kpageflags": np.dtype(np.uint64), "kpagecount": np.dtype(np.uint32)}
_FACTS: dict[str, type | tuple[type, ...]] = {
    "captured_at": str,
    "kernel_release": str,
    "hz": (int, type(None)),
    "lru_gen": bool,
    "notes": list,
}
# What Zarr, its codecs and the file system raise over damaged metadata and chunks.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError)


@dataclass(frozen=True, slots=True)
class ZonePages:
    """What is in a zone. ``pages``: base pages by kind (``gpuscan.pageflags.PAGE_KINDS``)."""

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
            ``gpuscan.pageflags.NO_PAGE`` where no page is present.
        mapcounts: uint32[n_pages], words of /proc/kpagecount, saturated.
        kernel_release: as ``uname -r`` prints it.
        hz: jiffies per second (CONFIG_HZ), None where the kernel does not tell.
        lru_gen: whether the multi-generation LRU was on.
        captured_at: UTC, ISO 8601, to the second.
        notes: what could not be told for certain, one sentence each.
    """

    topology: Topology
    flags: NDArray[np.uint64]
    mapcounts: NDArray[np.uint32]
    kernel_release: str
    hz: int | None
    lru_gen: bool
    captured_at: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_pages = self.topology.page_map.n_pages
        if self.flags.shape != (n_pages,) or self.mapcounts.shape != (n_pages,):
            raise SnapshotError(
                f"{len(self.flags)} flags and {len(self.mapcounts)} mapcounts do not fit the {n_pages} flat "
                f"pages of {self.topology.name!r}; give one of each per flat page"
            )

    def frames(self) -> Frames:
        """Return the folios on LRU lists, with order and hotness."""
        return find_frames(self.flags, lru_gen=self.lru_gen)

    def zone_pages(self, frames: Frames) -> list[ZonePages]:
        """Return what each zone holds, in the order of ``topology.zones`` (``frames``: of :meth:`frames`)."""
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
        check_free(path, force=force)
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

    @classmethod
    def read(cls, path: Path) -> Snapshot:
        """Read a snapshot and check it whole.

        Raises:
            SnapshotError: it is not a snapshot, was cut short or damaged, or is of a newer schema.
        """
        attributes = _root_attributes(path)
        topology, facts = _facts(path, attributes)
        page_map = topology.page_map
        flat = {name: np.empty(page_map.n_pages, dtype) for name, dtype in _ARRAYS.items()}
        for node in topology.nodes:
            sections = np.flatnonzero(page_map.section_nid == node.nid)
            for name, pages in flat.items():
                _read_array(path, node.nid, name, sections, pages.reshape(-1, SECTION_PAGES))
        return cls(topology, flat["kpageflags"], flat["kpagecount"], **facts)


def check_free(path: Path, *, force: bool = False) -> None:
    """Refuse a ``path`` that :meth:`Snapshot.write` would refuse: asked before a long capture, not after it.

    Raises:
        InputError: as :func:`gpuscan.writing.check_place`; or what is there is not a snapshot.
    """
    check_place(path, _CONTENTS, force=force)
    if not path.exists() or not any(path.iterdir()):
        return
    try:
        _root_attributes(path)
    except SnapshotError:
        raise InputError(
            f"{path} is not a snapshot, so it is not replaced; give another name or remove it yourself"
        ) from None


def _root_attributes(path: Path) -> dict[str, Any]:
    root = path / _ROOT
    try:
        document = json.loads(root.read_bytes())
    except FileNotFoundError:
        missing = (
            f"{path} is not there" if not path.exists() else f"{path} is not a snapshot: it has no {_ROOT}"
        )
        raise SnapshotError(f"{missing}; make one with 'gpuscan capture'") from None
    except NotADirectoryError:
        raise SnapshotError(f"{path} is a file, not a snapshot; make one with 'gpuscan capture'") from None
    except OSError as error:
        raise SnapshotError(f"cannot read {root}: {error.strerror}; check its permissions") from None
    except ValueError as error:
        raise SnapshotError(f"{root} is cut short or damaged ({error}); capture the machine again") from None
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or attributes.get("kind") != KIND:
        raise SnapshotError(f"{path} is not a snapshot of a machine; make one with 'gpuscan capture'")
    return attributes


def _facts(path: Path, attributes: dict[str, Any]) -> tuple[Topology, dict[str, Any]]:
    schema = attributes.get("schema")
    if type(schema) is not int or schema > SCHEMA:
        raise SnapshotError(
            f"{path} is of schema {schema}, and this gpuscan reads up to {SCHEMA}; install a newer gpuscan"
        )
    for key, expected in _FACTS.items():
        if key not in attributes or not isinstance(attributes[key], expected):
            raise SnapshotError(
                f"{path / _ROOT}: {key} is missing or of the wrong type; capture the machine again"
            )
    facts = {key: attributes[key] for key in _FACTS}
    facts["notes"] = tuple(str(note) for note in facts["notes"])
    try:
        return topology_from_dict(attributes.get("topology")), facts
    except TopologyError as error:
        raise SnapshotError(f"{path / _ROOT}: {error}") from None


def _read_array(
    path: Path, nid: int, name: str, sections: NDArray[np.intp], by_section: NDArray[Any]
) -> None:
    """Read one node's array into rows ``sections`` of ``by_section``, checking every chunk."""
    import zarr

    place = f"{path}/node{nid}/{name}"
    again = "copy it again or capture the machine again"
    try:
        array = zarr.open_array(place, mode="r")
        shape, dtype, crcs = array.shape, array.dtype, list(array.attrs["crc32"])
        chunks = list(_chunks(len(sections), array.chunks[0] // SECTION_PAGES))
    except _UNREADABLE as error:
        raise SnapshotError(f"{place} is missing or damaged ({_first_line(error)}); {again}") from None
    if shape != (len(sections) * SECTION_PAGES,) or dtype != by_section.dtype or len(crcs) != len(chunks):
        raise SnapshotError(
            f"{place} holds {shape} of {dtype} in {len(crcs)} chunks, and the topology needs "
            f"({len(sections) * SECTION_PAGES},) of {by_section.dtype} in {len(chunks)}; {again}"
        )
    for number, (part, crc) in enumerate(zip(chunks, crcs, strict=True)):
        where = f"{place}: chunk {number} of {len(chunks)}"
        try:
            pages = array[part.start * SECTION_PAGES : part.stop * SECTION_PAGES]
        except _UNREADABLE as error:
            raise SnapshotError(f"{where} is damaged ({_first_line(error)}); {again}") from None
        if zlib.crc32(pages.data) != crc:
            raise SnapshotError(f"{where} is missing or was changed (its CRC-32 is wrong); {again}")
        by_section[sections[part]] = pages.reshape(-1, SECTION_PAGES)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _chunks(n_sections: int, chunk_sections: int) -> Iterator[slice]:
    for start in range(0, n_sections, chunk_sections):
        yield slice(start, min(start + chunk_sections, n_sections))
