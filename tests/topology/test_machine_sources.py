"""Machines from trees, archives, numactl and lstopo; what is hostile in them; pages of other sizes; GPUs."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.cli.main import main
from gpuscan.linux.targets import Targets
from gpuscan.run.job import read_job
from gpuscan.run.request import RunRequest, is_captured
from gpuscan.snapshot.procfs import capture
from gpuscan.topology.contract import Host
from gpuscan.topology.model import MemoryKind, Topology
from gpuscan.topology.page_size import check_page_size
from gpuscan.topology.resolve import resolve_machine, resolve_topology
from gpuscan.topology.sysfs import read_host
from gpuscan.topology.tiers import with_tiers
from gpuscan.topology.toml import parse_toml, to_toml
from machine_trees import LSTOPO, NODE, NUMACTL, archive, gathered, meminfo, write_tree, zoned

TWO = gathered({0: ("0-3", 4_000_004), 1: ("", 2_000_000)}, {0: "10 20", 1: "20 10"})
POWER9 = gathered(
    {0: ("0-87", 129_839_104), 8: ("88-175", 133_952_000), 255: ("", 15_728_640)},
    {0: "10 40 80", 8: "40 10 80", 255: "80 80 10"},
    page_bytes=65536,
)


SMALL = ("processes.0.cpus_of=[0]", "processes.0.placement=spill", "processes.0.memory=64MiB")


def managed_kib(topology: Topology) -> dict[int, int]:
    return {node.nid: sum(zone.managed_pages for zone in node.zones) * 4 for node in topology.nodes}


def cpus(topology: Topology) -> dict[int, tuple[int, ...]]:
    return {node.nid: node.cpus for node in topology.nodes}


def read_back(host: Host) -> None:
    """A machine is written as TOML without loss."""
    machine = host.topology
    again = parse_toml(to_toml(machine), "m.toml", machine.name)
    assert (again.name, again.nodes, again.links) == (machine.name, machine.nodes, machine.links)
    assert np.array_equal(again.distance, machine.distance)


def test_a_tree_without_zoneinfo_has_the_sizes_of_its_nodes(tmp_path: Path) -> None:
    host = resolve_machine(str(write_tree(tmp_path / "server7", TWO)))
    assert host.topology.name == "server7"
    assert managed_kib(host.topology) == {0: 4_000_004, 1: 2_000_000}
    assert cpus(host.topology) == {0: (0, 1, 2, 3), 1: ()}
    assert host.topology.distance.tolist() == [[10, 20], [20, 10]]
    assert [(node.kind.value, node.tier) for node in host.topology.nodes] == [("dram", 0), ("cxl", 1)]
    assert "it is laid out" in host.notes[0]
    read_back(host)


def test_memory_blocks_say_where_it_is(tmp_path: Path) -> None:
    files = gathered({0: ("0-3", 500_000), 1: ("", 262_144)}, {0: "10 20", 1: "20 10"})
    files["sys/devices/system/memory/block_size_bytes"] = "8000000\n"
    for number, nid, zones in (
        (32, 0, "Normal"),
        (33, 0, "none"),
        (34, 0, ""),
        (35, 0, ""),
        (64, 1, "Movable"),
    ):
        files[f"{NODE}/node{nid}/memory{number}"] = ""
        files[f"sys/devices/system/memory/memory{number}/valid_zones"] = f"{zones}\n"
    files[f"{NODE}/node1/memory65"] = ""
    host = resolve_machine(str(write_tree(tmp_path, files)))
    assert not any("laid out" in note for note in host.notes)
    near, far = host.topology.nodes
    assert [(zone.name, zone.present) for zone in near.zones] == [("Normal", ((32 << 15, 36 << 15),))]
    assert [(zone.name, zone.present) for zone in far.zones] == [("Movable", ((64 << 15, 66 << 15),))]
    assert managed_kib(host.topology) == {0: 500_000, 1: 262_144}
    read_back(host)


def test_blocks_that_cannot_hold_the_memory_are_not_believed(tmp_path: Path) -> None:
    files = TWO | {"sys/devices/system/memory/block_size_bytes": "8000000\n", f"{NODE}/node0/memory40": ""}
    host = resolve_machine(str(write_tree(tmp_path, files)))
    assert managed_kib(host.topology) == {0: 4_000_004, 1: 2_000_000}
    assert "laid out" in host.notes[0]


def test_old_trees_have_masks_of_cpus_and_no_list_of_nodes(tmp_path: Path) -> None:
    files = {name: text for name, text in TWO.items() if "cpulist" not in name and "online" not in name}
    files |= {f"{NODE}/node0/cpumap": "00000001,0000000f\n\0", f"{NODE}/node1/cpumap": "0\n"}
    assert cpus(resolve_topology(str(write_tree(tmp_path, files)))) == {0: (0, 1, 2, 3, 32), 1: ()}


def test_where_no_node_has_distances_it_is_said_what_is_taken(tmp_path: Path) -> None:
    files = gathered({0: ("0", 1 << 20), 3: ("1", 1 << 20)})
    host = resolve_machine(str(write_tree(tmp_path, files)))
    assert host.topology.distance.tolist() == [[10, 20], [20, 10]]
    assert any("no node has a distance file: 20" in note for note in host.notes)
    one_lacks = files | {f"{NODE}/node3/distance": "20 10\n"}
    with pytest.raises(TopologyError, match="node0/distance is not there"):
        resolve_machine(str(write_tree(tmp_path, one_lacks)))


def test_without_distances_a_kernels_own_tree_is_refused(tmp_path: Path) -> None:
    files = zoned({0: ("0-1", 16_384), 1: ("2-3", 16_384)}, {0: "10 20", 1: "20 10"})
    del files[f"{NODE}/node1/distance"]
    with pytest.raises(TopologyError, match="node1/distance is not there; mount all of /sys"):
        read_host(write_tree(tmp_path, files))


def test_a_row_has_a_column_for_nodes_that_are_offline_where_the_tree_says_so(tmp_path: Path) -> None:
    files = gathered({1: ("1", 1 << 20), 2: ("2", 1 << 20)}, {1: "21 10 15", 2: "31 15 10"})
    files[f"{NODE}/possible"] = "0-2\n"
    assert resolve_topology(str(write_tree(tmp_path, files))).distance.tolist() == [[10, 15], [15, 10]]


@pytest.mark.parametrize(("kind", "below"), [("bz2", "server7/"), ("gz", "a/fsroot/"), ("", "")])
def test_an_archive_is_read_as_the_tree_in_it(tmp_path: Path, kind: str, below: str) -> None:
    path = tmp_path / "server7.tar.bz2"
    path.write_bytes(archive(TWO, below, kind))
    packed = resolve_machine(str(path))
    assert packed.topology.name == "server7"
    write_tree(tmp_path / "tree" / below, TWO)
    unpacked = resolve_machine(str(tmp_path / "tree"))
    assert packed.topology.nodes == unpacked.topology.nodes
    assert sorted(each.name for each in tmp_path.iterdir()) == ["server7.tar.bz2", "tree"]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_links_and_names_that_lead_elsewhere_are_not_followed(tmp_path: Path) -> None:
    hostile = (
        link(f"server7/{NODE}/node0/distance", "/etc/passwd"),
        link(f"server7/{NODE}/node0/cpumap", f"server7/{NODE}/online", tarfile.LNKTYPE),
        link(f"../../{NODE}/node7/meminfo", "", tarfile.REGTYPE),
        link(f"/{NODE}/node8/meminfo", "", tarfile.REGTYPE),
        link(f"server7/{NODE}/node0/cpu", "", tarfile.CHRTYPE),
    )
    files = {name: text for name, text in TWO.items() if "distance" not in name}
    path = tmp_path / "evil.tar.bz2"
    path.write_bytes(archive(files, more=hostile))
    host = resolve_machine(str(path))
    assert sorted(managed_kib(host.topology)) == [0, 1]
    assert any("no node has a distance file" in note for note in host.notes)
    assert [each.name for each in tmp_path.iterdir()] == ["evil.tar.bz2"]


def huge(name: str, size: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:bz2") as tar:
        member = tarfile.TarInfo(name)
        member.size = size
        tar.addfile(member, io.BytesIO(bytes(size)))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (huge(f"s/{NODE}/node0/meminfo", (16 << 20) + 1), "has more than 16,777,216 bytes"),
        (archive(TWO)[:-20], "cannot be inflated"),
        (
            archive(TWO, kind="")[:3000],
            "cut short or damaged|neither sys/devices|no node has memory|has no line",
        ),
        (archive({"readme": "hello"}), "neither sys/devices/system/node nor proc/zoneinfo in it"),
        (archive(TWO | {f"other/{name}": text for name, text in TWO.items()}), "several machines in it"),
        (b"BZh91AY&SY garbage", "cannot be inflated"),
    ],
)
def test_archives_that_are_none_or_too_large(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "m.tar.bz2"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        resolve_machine(str(path))


def test_what_inflates_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuscan.topology.built_in.tree_archive.BYTES_MAX", 1 << 20)
    path = tmp_path / "bomb.tar.bz2"
    path.write_bytes(huge("zeros", 2 << 20))
    with pytest.raises(InputError, match="inflates to more than 1 MiB"):
        resolve_machine(str(path))


def test_numactl(tmp_path: Path) -> None:
    path = tmp_path / "there.txt"
    path.write_text(NUMACTL)
    host = resolve_machine(str(path))
    assert managed_kib(host.topology) == {0: 2048 << 10, 1: 2047 << 10, 2: 4096 << 10}
    assert cpus(host.topology) == {0: (0, 1, 2, 3), 1: (4, 5, 6, 7), 2: ()}
    assert host.topology.distance.tolist() == [[10, 21, 17], [21, 10, 27], [17, 27, 10]]
    assert [node.kind.value for node in host.topology.nodes] == ["dram", "dram", "cxl"]
    read_back(host)


@pytest.mark.parametrize(
    ("changes", "cpus_of", "far", "said"),
    [
        # numa=fake: node 1 is another part of node 0's memory.
        ({"node 1 cpus: 4 5 6 7": "node 1 cpus: 0 1 2 3"}, [(0, 1, 2, 3), (), ()], [2], ""),
        # All CPUs are on a node without memory.
        (
            {"0 cpus: 0 1 2 3": "0 cpus:", "1 cpus: 4 5 6 7": "1 cpus: 0 1", "1 size: 2047": "1 size: 0"},
            [(), (0, 1), ()],
            [],
            "",
        ),
        (
            {NUMACTL[NUMACTL.index("node distances") :]: ""},
            [(0, 1, 2, 3), (4, 5, 6, 7), ()],
            [2],
            "20 is taken between all nodes",
        ),
    ],
)
def test_machines_that_are_odd_in_a_tree_are_no_others_in_numactl(
    tmp_path: Path, changes: dict[str, str], cpus_of: list[tuple[int, ...]], far: list[int], said: str
) -> None:
    path = tmp_path / "there.txt"
    text = NUMACTL
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    host = resolve_machine(str(path))
    assert [node.cpus for node in host.topology.nodes] == cpus_of
    assert [node.nid for node in host.topology.nodes if node.kind is MemoryKind.CXL] == far
    assert [node.nid for node in host.topology.nodes if node.tier] == far
    assert any(said in note for note in host.notes)
    read_back(host)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("node 2 size: 4096 MB\n", "", "node 2 lacks its cpus or its size"),
        ("  2:  17  27  10\n", "", "the distances are not of the nodes with a size"),
        ("  2:  17  27  10", "  2:  17  27", "line 15: 2 distances for 3 nodes"),
        ("node 1 size", "node 0 size", "line 6: the size of node 0 stand"),
        ("node 0 cpus: 0 1", "node 0 cpus: 0 99999", "CPU 99999 is not below"),
        ("size: 4096 MB", "size: 99999999999999 MB", "more memory than 52-bit addresses"),
    ],
)
def test_numactl_that_is_cut_short_or_changed(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "there.txt"
    path.write_text(NUMACTL.replace(old, new))
    with pytest.raises(InputError, match=said):
        resolve_machine(str(path))


def test_lstopo(tmp_path: Path) -> None:
    path = tmp_path / "m.xml"
    path.write_text(LSTOPO)
    host = resolve_machine(str(path))
    sizes = {0: 2 << 20, 1: (2 << 20) - 4, 2: 4 << 20, 9: 1 << 20}
    assert managed_kib(host.topology) == sizes
    assert cpus(host.topology) == {0: (0, 1, 2, 3), 1: (4, 5, 6, 7), 2: (), 9: ()}
    assert host.topology.distance.tolist() == [
        [10, 21, 17, 80],
        [21, 10, 27, 80],
        [17, 27, 10, 80],
        [80, 80, 80, 10],
    ]
    assert [node.kind.value for node in host.topology.nodes] == ["dram", "dram", "cxl", "gpu"]
    assert host.page_bytes == 65536
    read_back(host)


def test_lstopo_of_hwloc_1_has_relative_latencies(tmp_path: Path) -> None:
    path = tmp_path / "old.xml"
    path.write_text(
        '<topology><object type="Machine">'
        '<object type="NUMANode" os_index="0" cpuset="0x00000003" local_memory="1073741824"/>'
        '<object type="NUMANode" os_index="1" cpuset="0x1,,0x0000000c" local_memory="1073741824"/>'
        '<distances nbobjs="2" relative_depth="1" latency_base="10.000000">'
        '<latency value="1.000000"/><latency value="2.100000"/><latency value="2.0"/><latency value="1.0"/>'
        "</distances></object></topology>"
    )
    topology = resolve_topology(str(path))
    assert topology.distance.tolist() == [[10, 21], [20, 10]]
    assert cpus(topology) == {0: (0, 1), 1: (2, 3, 64)}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'SYSTEM "hwloc2.dtd">',
            '[<!ENTITY a "1"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]>',
            "declares an entity, which lstopo never does",
        ),
        ('SYSTEM "hwloc2.dtd">', '[<!ENTITY x SYSTEM "file:///etc/passwd">]>', "declares an entity"),
        ("</topology>", "", "line 22: no element found"),
        (
            'os_index="1" cpuset="0x000000f0" local',
            'os_index="0" cpuset="0x1" local',
            "node 0 is there twice",
        ),
        ('local_memory="4294967296"', 'local_memory="4e9"', "local_memory is '4e9', not a number"),
        ('cpuset="0x000000f0" local', 'cpuset="0xf...f" local', "is not a set of CPUs"),
        ("80 80 80 80 10 ", "80 80 80 80 ", "latency matrix has 15 values for 4 nodes"),
        ("10 17 21 80", "10 17 21 800", "none from 10 to 255"),
        ('<object type="Package" os_index="1"', "<x>" * 300 + "<object", "nested more than 256 deep"),
    ],
)
def test_xml_that_is_hostile_or_cut_short(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "m.xml"
    assert old in LSTOPO
    path.write_text(LSTOPO.replace(old, new))
    with pytest.raises(InputError, match=said):
        resolve_machine(str(path))


def test_pages_of_64_kib_are_counted_anew(tmp_path: Path) -> None:
    """A zoneinfo counts pages of its kernel; read as 4 KiB ones the machine would have a sixteenth."""
    files = zoned({0: ("0-3", 8_192), 1: ("", 4_096)}, {0: "10 40", 1: "40 10"})
    ours = read_host(write_tree(tmp_path / "ours", files)).topology
    for nid, n_pages in ((0, 8_192), (1, 4_096)):
        files[f"{NODE}/node{nid}/meminfo"] = meminfo(nid, n_pages * 64)
    host = resolve_machine(str(write_tree(tmp_path / "theirs", files)))
    assert host.page_bytes == 65536
    assert "pages of 64 KiB" in " ".join(host.notes)
    assert "1/16 of a page" in " ".join(host.notes)
    assert host.topology.memory_bytes == 16 * ours.memory_bytes == 12_288 * 65536
    for theirs, mine in zip(host.topology.nodes, ours.nodes, strict=True):
        for zone, other in zip(theirs.zones, mine.zones, strict=True):
            assert zone.present == tuple((start * 16, end * 16) for start, end in other.present)
            assert zone.watermarks.low == 16 * other.watermarks.low
    read_back(host)


@pytest.mark.parametrize("stated", [None, 16384])
def test_pages_that_do_not_fit_the_memory_are_refused(tmp_path: Path, stated: int | None) -> None:
    files = zoned({0: ("0-3", 8_192)}, {0: "10"}) | {f"{NODE}/node0/meminfo": meminfo(0, 8_192 * 64)}
    if stated is None:
        files[f"{NODE}/node0/meminfo"] = meminfo(0, 8_192 * 7)
    else:
        files["proc/hwloc-nofile-info"] = f"PageSize: {stated}\n"
    with pytest.raises(TopologyError, match="which are no pages of"):
        resolve_machine(str(write_tree(tmp_path, files)))


def test_capture_refuses_pages_of_another_size_at_the_door(tmp_path: Path) -> None:
    files = zoned({0: ("0-3", 8_192)}, {0: "10"}) | {f"{NODE}/node0/meminfo": meminfo(0, 8_192 * 64)}
    root = write_tree(tmp_path, files | {"proc/kpageflags": "", "proc/kpagecount": ""})
    with pytest.raises(TopologyError, match="pages of 64 KiB and capture counts in 4 KiB"):
        capture(root)
    check_page_size(PAGE_BYTES, "capture")


@st.composite
def machines(draw: st.DrawFn) -> dict[str, str]:
    """Draw a tree: odd numbers of nodes, CPUs that several list, nodes without memory, tiers in any order."""
    nids = sorted(draw(st.sets(st.sampled_from((0, 1, 2, 3, 8, 250, 255, 1023)), min_size=1, max_size=5)))
    lists = st.sampled_from(("", "0-3", "4-7", "0-7", "2,9-11"))
    nodes = {nid: (draw(lists), draw(st.integers(0, 3)) << 15) for nid in nids}
    if not any(size for _, size in nodes.values()):
        nodes[nids[0]] = ("0-3", 1 << 15)
    distances = st.integers(10, 255)
    rows = {nid: " ".join("10" if nid == other else str(draw(distances)) for other in nids) for nid in nids}
    if draw(st.booleans()):
        files = zoned(nodes, rows)
        if draw(st.booleans()):
            files |= {
                f"{NODE}/node{nid}/meminfo": meminfo(nid, 64 * size) for nid, (_, size) in nodes.items()
            }
    else:
        files = gathered(nodes, rows, draw(st.sampled_from((4096, 16384, 65536))))
    top = "sys/devices/virtual/memory_tiering/memory_tier"
    for number in draw(st.sets(st.sampled_from((2, 4, 961)), max_size=2)):
        files[f"{top}{number}/nodelist"] = f"{draw(st.sampled_from(nids))}\n"
    access = f"{NODE}/node{nids[-1]}/access1/initiators"
    if draw(st.booleans()):
        files |= {f"{access}/read_latency": "251\n", f"{access}/read_bandwidth": "30001\n"}
        files[f"{access}/node{nids[0]}"] = ""
    return files


@settings(max_examples=15, deadline=None)
@given(machines())
def test_whatever_can_be_read_is_written_without_loss(files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as made:
        host = read_host(write_tree(Path(made), files))
    renamed = replace(host, topology=replace(host.topology, name="m"))
    read_back(renamed)
    listed = [cpu for node in host.topology.nodes for cpu in node.cpus]
    assert len(set(listed)) == len(listed)


def test_memory_of_gpus_is_no_target_unless_it_is_put_into_a_tier(tmp_path: Path) -> None:
    host = resolve_machine(str(write_tree(tmp_path, POWER9)))
    machine = host.topology
    assert [node.kind for node in machine.nodes] == [MemoryKind.DRAM, MemoryKind.DRAM, MemoryKind.GPU]
    assert host.page_bytes == 65536
    assert machine.demotion_targets(0) == ()
    assert Targets(machine).demotion == {}
    assert Targets(machine, to_nid=255).promotion == {}  # asked for, but it is a lower tier
    asked = with_tiers(machine, {255: 1})
    assert asked.node(255).kind is MemoryKind.DRAM
    assert asked.demotion_targets(0) == (255,)
    assert Targets(asked).demotion == {0: 255, 8: 255}
    read_back(host)


def test_a_top_tier_of_gpus_is_no_target_either(tmp_path: Path) -> None:
    files = gathered(
        {0: ("", 1 << 20), 1: ("", 1 << 20), 2: ("0-3", 0)}, {0: "10 20 20", 1: "20 10 20", 2: "20 20 10"}
    )
    files["proc/driver/nvidia/gpus/0009:01:00.0/numa_status"] = "Node:      1\nStatus:    online\n"
    tiers = "sys/devices/virtual/memory_tiering/memory_tier"
    files |= {f"{tiers}4/nodelist": "1\n", f"{tiers}22/nodelist": "0\n"}
    machine = resolve_topology(str(write_tree(tmp_path, files)))
    assert [(node.kind.value, node.tier) for node in machine.nodes] == [("cxl", 1), ("gpu", 0), ("dram", 0)]
    assert machine.promotion_target(0) is None
    assert Targets(machine).promotion == {}
    assert with_tiers(machine, {1: 0}).promotion_target(0) == 1


def test_a_file_is_told_from_a_name_and_from_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_tree(tmp_path, {"there": NUMACTL, "single": NUMACTL, "a.zarr/zarr.json": "{}"}))
    write_tree(tmp_path / "tree", TWO)
    assert resolve_topology("there").name == "there"
    assert len(resolve_topology("single").nodes) == 1  # a preset, whatever lies here
    assert len(resolve_topology("./single").nodes) == 3
    assert is_captured(Path("a.zarr"))
    assert not is_captured(Path("tree"))
    with pytest.raises(InputError, match=r"is a captured machine; give it to --machine"):
        resolve_topology("a.zarr")
    with pytest.raises(InputError, match=r"no.such cannot be read"):
        resolve_topology("no.such")
    os.mkfifo("pipe.txt")
    with pytest.raises(InputError, match="is a FIFO"):
        resolve_topology("pipe.txt")
    (tmp_path / "words.txt").write_text("hello")
    with pytest.raises(
        InputError, match="no machine that can be read; give XML of lstopo, text of numactl -H"
    ):
        resolve_topology("words.txt")


def test_every_command_takes_them_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, packed = tmp_path / "there.txt", tmp_path / "server7.tar.bz2"
    path.write_text(NUMACTL)
    packed.write_bytes(archive(TWO))
    for machine in (path, packed, write_tree(tmp_path / "tree", TWO)):
        for option in ("machine", "topology"):
            job = read_job(RunRequest("uniform", overrides=SMALL, **{option: _as(option, machine)}))
            assert job.topology.name == machine.name.partition(".")[0]
            assert any("it is laid out" in note for note in job.notes)
        assert main(["topology", str(machine), "--json"]) == 0
        assert "it is laid out" in capsys.readouterr().err
    assert main(["inspect", str(packed), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["what"].startswith("a machine: an archive of /proc and /sys")
    assert [node["kind"] for node in document["topology"]["nodes"]] == ["dram", "cxl"]


@pytest.mark.slow  # 1 s
def test_a_run_on_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "server7.tar.bz2"
    packed.write_bytes(archive(TWO))
    run = ["run", "uniform", "--machine", str(packed), "--ticks", "1", "--device", "cpu", "--quiet"]
    assert main([*run, *(word for one in SMALL for word in ("--set", one))]) == 0
    assert "server7" in capsys.readouterr().out


def _as(option: str, machine: Path) -> Any:
    return machine if option == "machine" else str(machine)


def test_the_size_of_a_machine_of_fixed_size_is_not_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_tree(tmp_path, {"there": NUMACTL}))
    large = ("processes.0.cpus_of=[0]", "processes.0.placement=spill", "processes.0.memory=1TiB")
    job = read_job(RunRequest("uniform", topology="there", overrides=large))
    with pytest.raises(InputError, match="or take a machine that has more") as refused:
        job.workload.machine_spec(job.topology)
    assert "--memory" not in str(refused.value)
    preset = read_job(RunRequest("uniform", overrides=("processes.0.memory=900TiB",)))
    with pytest.raises(InputError, match="give a larger --memory"):
        preset.workload.machine_spec(preset.topology)
