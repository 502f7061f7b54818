"""Snapshots on disk: what is written comes back, and what was cut, changed or half-written is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest

from gpuscan.base.errors import InputError, RunFailedError, SnapshotError, TopologyError
from gpuscan.records.page_flags import Kpf, bits
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.snapshot import snapshot as snapshot_module
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.topology import Topology
from hosts import HOST
from machines import node, tiered


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr(snapshot_module, "CHUNK_SECTIONS", 1)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def machine():
    rng = np.random.default_rng(1)
    topology = tiered(n_sections=2)
    n_pages = topology.page_map.n_pages
    return Snapshot(
        topology,
        rng.integers(0, 1 << 43, n_pages, dtype=np.uint64),
        rng.integers(0, 1 << 32, n_pages, dtype=np.uint32),
        kernel_release="6.18",
        hz=250,
        lru_gen=True,
        captured_at="2026-01-01T00:00:00+00:00",
        notes=("zone Normal of node 0: unsure",),
    )


def names(directory):
    return [entry.name for entry in directory.iterdir()]


def edit(path, change):
    """Apply ``change`` to the attributes in a zarr.json."""
    document = json.loads(path.read_text())
    change(document["attributes"])
    path.write_text(json.dumps(document))


def test_a_snapshot_comes_back_as_it_was(machine, tmp_path):
    machine.write(tmp_path / "a.zarr")
    again = Snapshot.read(tmp_path / "a.zarr")
    assert (again.flags == machine.flags).all()
    assert (again.mapcounts == machine.mapcounts).all()
    assert again.topology.nodes == machine.topology.nodes
    for fact in ("kernel_release", "hz", "lru_gen", "captured_at", "notes"):
        assert getattr(again, fact) == getattr(machine, fact)
    assert names(tmp_path) == ["a.zarr"]


def test_flags_and_topology_must_fit(machine):
    with pytest.raises(SnapshotError, match="do not fit the 262144 flat pages"):
        Snapshot(machine.topology, machine.flags[1:], machine.mapcounts, "6.18", None, False, "")


FLAGS, COUNTS = "node1/kpageflags", "node3/kpagecount"


def chunk(path, array=FLAGS):
    return path / array / "c/1"


def root(change):
    return lambda path: edit(path / "zarr.json", change)


def array(change):
    return lambda path: edit(path / FLAGS / "zarr.json", change)


def rewrite(text):
    return lambda path: (path / "zarr.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: chunk(p).unlink(), "node1/kpageflags: chunk 1 of 2 is missing or was changed"),
        (lambda p: chunk(p, COUNTS).unlink(), "node3/kpagecount: chunk 1 of 2 is missing"),
        (lambda p: chunk(p).write_bytes(chunk(p).read_bytes()[:100]), "chunk 1 of 2 is not of the size"),
        (lambda p: chunk(p).write_bytes(b""), "chunk 1 of 2 is cut short"),
        (lambda p: shutil.copy(chunk(p, "node0/kpageflags"), chunk(p)), "chunk 1 of 2 .* was changed"),
        (lambda p: shutil.rmtree(p / "node1"), "node1/kpageflags cannot be read .No such file"),
        (
            lambda p: (p / FLAGS / "zarr.json").write_text("{"),
            "kpageflags has a zarr.json that is cut short",
        ),
        (
            lambda p: shutil.copytree(p / COUNTS, p / FLAGS, dirs_exist_ok=True),
            "uint32, not uint64",
        ),
        (array(dict.clear), "node1/kpageflags has no CRC-32"),
        (array(lambda a: a.update(crc32=7)), "node1/kpageflags has no CRC-32"),
        (array(lambda a: a["crc32"].pop()), "no CRC-32 for each of its 2 chunks"),
        (rewrite('{"attributes": {"sche'), "zarr.json that is cut short or damaged"),
        (rewrite("[]"), "is not of Zarr format 3"),
        (lambda p: (p / "zarr.json").unlink(), "is not a snapshot: it has no zarr.json"),
        (shutil.rmtree, "is not there"),
        (root(lambda a: a.update(kind="trace")), "is not a snapshot of a machine"),
        (root(lambda a: a.update(schema=2)), "of schema 2, .* install a newer gpuscan"),
        (root(lambda a: a.pop("schema")), "of schema None"),
        (root(lambda a: a.pop("hz")), "hz is '', not a whole number"),
        (root(lambda a: a.update(lru_gen="yes")), "lru_gen is missing or neither"),
        (root(lambda a: a.pop("topology")), "stored topology is damaged"),
        (root(lambda a: a["topology"]["nodes"].pop()), "distances are"),
    ],
)
def test_a_damaged_snapshot_is_refused(machine, tmp_path, damage, says):
    path = tmp_path / "a.zarr"
    machine.write(path)
    damage(path)
    with pytest.raises(SnapshotError, match=says) as caught:
        Snapshot.read(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_is_not_a_snapshot(tmp_path):
    (tmp_path / "a.zarr").write_text("")
    with pytest.raises(SnapshotError, match="is a file, not a snapshot"):
        Snapshot.read(tmp_path / "a.zarr")


def test_a_chunk_of_zeros_need_not_be_stored(machine, tmp_path):
    machine.mapcounts[:] = 0
    machine.write(tmp_path / "a.zarr")
    assert not chunk(tmp_path / "a.zarr", "node0/kpagecount").exists()
    assert not Snapshot.read(tmp_path / "a.zarr").mapcounts.any()


def test_the_chunk_size_is_the_writers_choice(machine, tmp_path, monkeypatch):
    machine.write(tmp_path / "a.zarr")
    monkeypatch.setattr(snapshot_module, "CHUNK_SECTIONS", 5)
    assert (Snapshot.read(tmp_path / "a.zarr").flags == machine.flags).all()


def test_an_existing_path_is_replaced_only_by_force_and_only_a_snapshot(machine, tmp_path):
    path = tmp_path / "a.zarr"
    machine.write(path)
    with pytest.raises(InputError, match="holds an earlier result; give another place, or --force"):
        machine.write(path)
    machine.flags[0] = 42
    machine.write(path, force=True)
    assert Snapshot.read(path).flags[0] == 42
    assert names(tmp_path) == ["a.zarr"]
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter1").write_text("precious")
    with pytest.raises(InputError, match="holds files that gpuscan did not write"):
        machine.write(mine, force=True)
    (mine / "zarr.json").write_text("{}")  # somebody's Zarr group, but no snapshot
    with pytest.raises(InputError, match="holds chapter1, which gpuscan did not write"):
        machine.write(mine, force=True)
    assert (mine / "chapter1").read_text() == "precious"
    (mine / "chapter1").rename(mine / "node0")
    with pytest.raises(InputError, match="is not a snapshot, so it is not replaced"):
        machine.write(mine, force=True)
    assert (mine / "node0").read_text() == "precious"


@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_what_was_there(machine, tmp_path, monkeypatch, old):
    path = tmp_path / "a.zarr"
    if old:
        machine.write(path)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    machine.flags[0] ^= np.uint64(1)
    with pytest.raises(RunFailedError, match=r"cannot write .*a.zarr: No space left on device"):
        machine.write(path, force=True)
    assert names(tmp_path) == (["a.zarr"] if old else [])
    if old:
        assert Snapshot.read(path).flags[0] != machine.flags[0]


def test_a_disk_that_fills_inside_a_chunk(machine, tmp_path):
    resource = pytest.importorskip("resource")
    import signal

    # A file size limit is met where a full disk is: inside write(2), in Zarr's own threads.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunFailedError, match=r"cannot write .*a.zarr: File too large"):
            machine.write(tmp_path / "a.zarr")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == []


def test_an_interrupted_write_leaves_nothing(machine, tmp_path, monkeypatch):
    def interrupt(directory):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpuscan.files.writing.sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.write(tmp_path / "a.zarr")
    assert names(tmp_path) == []


@pytest.fixture(scope="module")
def host():
    return Snapshot.read(HOST)


def test_the_captured_host_names_nobody():
    attributes = json.loads((HOST / "zarr.json").read_text())["attributes"]
    assert set(attributes) == {
        "schema", "kind", "captured_at", "kernel_release", "hz", "lru_gen", "notes", "topology",
    }  # fmt: skip
    assert attributes["kernel_release"] == "6.18"
    assert attributes["topology"]["name"] == "host"
    assert sum(file.stat().st_size for file in HOST.rglob("*")) < 2 << 20


def test_the_captured_host_adds_up(host):
    frames = host.frames()
    zones = host.zone_pages(frames)
    assert [zone.zone for zone in zones] == ["DMA", "DMA32", "Normal"]
    page_map = host.topology.page_map
    for zone_id, zone in enumerate(zones):
        pages = zone.pages
        assert pages["lru"] == pages["anon"] + pages["shmem"] + pages["file"]
        n_flat = int((page_map.section_zone == zone_id).sum()) * SECTION_PAGES
        assert pages["no_page"] == n_flat - zone.present
        assert pages["free"] <= zone.managed
    assert int(frames.n_pages_of.sum()) == sum(zone.pages["lru"] for zone in zones) > 10_000
    assert (frames.order > 0).any()
    assert 0 < frames.hot.sum() < frames.eligible.sum()


def test_a_split_host_has_folios_to_promote_and_room_for_them(host):
    split = host.split_cxl(0.5)
    assert split.flags is host.flags
    assert (split.topology.page_map.section_pfn == host.topology.page_map.section_pfn).all()
    by_node = {nid: {"hot": 0, "free": 0} for nid in (0, 1)}
    for zone in split.zone_pages(split.frames()):
        for kind, counts in by_node[zone.nid].items():
            by_node[zone.nid][kind] = counts + zone.pages[kind]
    assert by_node[1]["hot"] > 1000
    assert by_node[0]["free"] > by_node[1]["hot"]


def test_a_split_counts_pages_in_use(machine, host):
    split = host.split_cxl(0.5)
    counts = [0, 0]
    unflagged = bits(Kpf.NOPAGE)
    for nid in (0, 1):
        for lo, hi in split.topology.page_map.node_section_ranges(nid):
            flags = split.flags[lo:hi]
            counts[nid] += int(((flags != 0) & (flags != unflagged)).sum())
    assert abs(counts[1] / sum(counts) - 0.5) < 0.03
    with pytest.raises(TopologyError, match="has 4; leave the split out"):
        machine.split_cxl(0.5)


def test_nodes_that_take_turns_or_have_no_memory(machine, tmp_path):
    size = SECTION_PAGES
    first = node(0, (0, size), (2 * size, 4 * size), (6 * size, 7 * size), cpus=(0,))
    second = node(1, (size, 2 * size), (4 * size, 6 * size), cpus=(1,))
    distance = np.array([[10, 20, 20], [20, 10, 20], [20, 20, 10]], dtype=np.uint8)
    topology = Topology("turns", (first, second, node(2, cpus=(2,))), distance)
    turns = dataclasses.replace(
        machine, topology=topology, flags=machine.flags[: 7 * size], mapcounts=machine.mapcounts[: 7 * size]
    )
    turns.write(tmp_path / "a.zarr")
    again = Snapshot.read(tmp_path / "a.zarr")
    assert (again.flags == turns.flags).all()
    assert (again.mapcounts == turns.mapcounts).all()
