"""Reading a machine from /proc and /sys: hand-written trees, broken files, this machine."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.base.errors import TopologyError
from gpuscan.topology.model import Link, MemoryKind, Watermarks
from gpuscan.topology.resolve import resolve_topology
from gpuscan.topology.sysfs import from_host, parse_zoneinfo, read_host
from gpuscan.topology.toml import to_toml
from zone_texts import empty_zones, zone


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def blocks(nid, numbers, zone_name="none", state="online"):
    """Memory blocks of 128 MiB: the node's links (empty files do) and the blocks themselves."""
    files = {"sys/devices/system/memory/block_size_bytes": "8000000\n"}
    for number in numbers:
        files[f"sys/devices/system/node/node{nid}/memory{number}"] = ""
        files[f"sys/devices/system/memory/memory{number}/state"] = f"{state}\n"
        files[f"sys/devices/system/memory/memory{number}/valid_zones"] = f"{zone_name}\n"
    return files


ONE_NODE = {
    "proc/zoneinfo": "".join(
        (
            zone(0, "DMA", 1, 4095, 3998, 3840, "(0, 3018, 4426, 4426, 4426)", (57, 71, 85, 99)),
            zone(
                0,
                "DMA32",
                4096,
                1044480,
                782336,
                772808,
                "(0, 0, 1408, 1408, 1408)",
                (11483, 14353, 17223, 20093),
            ),
            zone(0, "Normal", 1048576, 65536, managed=60000),
            empty_zones(0, "Movable", "Device"),
        )
    ),
    "proc/iomem": """\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-000fffff : Reserved
  000f0000-000fffff : System ROM
00100000-bfffffff : System RAM
  01000000-02276f47 : Kernel code
c0001000-eebfffff : PCI Bus 0000:00
100000000-10fffffff : System RAM
""",
    "sys/devices/system/node/online": "0\n",
    "sys/devices/system/node/node0/cpulist": "0-1\n",
    "sys/devices/system/node/node0/distance": "10\n",
    "sys/devices/virtual/memory_tiering/memory_tier4/nodelist": "0\n",
    **blocks(0, [*range(24), 32, 33]),
}


def test_one_node_host(tmp_path):
    host = read_host(write(tmp_path, ONE_NODE))
    assert host.notes == ()
    (node,) = host.topology.nodes
    assert (node.nid, node.kind, node.tier, node.cpus) == (0, MemoryKind.DRAM, 0, (0, 1))
    dma, dma32, normal = node.zones
    # 0x9fbff ends inside page 0x9f, so that page is not RAM.
    assert dma.present == ((1, 0x9F), (0x100, 4096))
    assert dma.present_pages == 3998
    assert dma.watermarks == Watermarks(57, 71, 85, 99)
    assert dma.lowmem_reserve == (0, 3018, 4426, 4426, 4426)
    assert dma32.present == ((4096, 0xC0000),)
    assert normal.present == ((0x100000, 0x110000),)
    assert normal.managed_pages == 60000


def test_ram_counts_in_whole_pages(tmp_path):
    iomem = ONE_NODE["proc/iomem"].replace("00100000-bfffffff", "000ff001-bfffffff")
    dma = from_host(write(tmp_path, {**ONE_NODE, "proc/iomem": iomem})).nodes[0].zones[0]
    assert dma.present == ((1, 0x9F), (0x100, 4096))


def test_hidden_iomem_falls_back_to_memory_blocks_and_says_what_is_missing(tmp_path):
    hidden = re.sub(r"[0-9a-f]+-[0-9a-f]+", "00000000-00000000", ONE_NODE["proc/iomem"])
    host = read_host(write(tmp_path, {**ONE_NODE, "proc/iomem": hidden}))
    dma, dma32, normal = host.topology.nodes[0].zones
    assert dma.present == ((1, 4096),)
    assert dma32.present == ((4096, 0xC0000),)
    assert normal.present == ((0x100000, 0x110000),)
    assert "holes inside memory blocks" in host.notes[0]
    assert host.notes[1] == "zone DMA of node 0: 4095 pages found present, /proc/zoneinfo says 3998 (+97)"
    assert len(host.notes) == 2


def test_offline_memory_blocks_are_not_present(tmp_path):
    files = {**ONE_NODE, **blocks(0, [33], state="offline")}
    host = read_host(write(tmp_path, files))
    assert host.topology.nodes[0].zones[2].present == ((0x100000, 0x108000),)
    assert "(-32768)" in host.notes[0]


def test_memory_blocks_that_are_going_offline_are_present(tmp_path):
    """Their pages are in use and counted in the zone; where one cannot be moved the block stays online."""
    files = {**ONE_NODE, **blocks(0, [33], state="going-offline")}
    host = read_host(write(tmp_path, files))
    assert host == read_host(write(tmp_path, {**files, **blocks(0, [33])}))
    assert host.topology.nodes[0].zones[2].present == ((0x100000, 0x110000),)


def test_kernel_without_memory_hotplug_uses_spans_and_ram(tmp_path):
    files = {
        name: text for name, text in ONE_NODE.items() if "memory" not in name.replace("memory_tiering", "")
    }
    host = read_host(write(tmp_path, files))
    assert host.notes == ()
    assert host.topology.nodes[0].zones[1].present == ((4096, 0xC0000),)


def test_kernel_without_numa_is_one_node(tmp_path):
    files = {name: text for name, text in ONE_NODE.items() if name.startswith("proc/")}
    topology = from_host(write(tmp_path, {**files, "sys/devices/system/cpu/online": "0,2-3\n"}))
    assert [node.cpus for node in topology.nodes] == [(0, 2, 3)]
    assert topology.distance.tolist() == [[10]]


def hmat_guest() -> dict[str, str]:
    """Two DRAM nodes with CPUs, two CXL nodes onlined as Movable, HMAT figures, memory tiers."""
    zoneinfo = (
        zone(0, "DMA32", 0x8000, 0x8000)
        + zone(0, "Normal", 0x100000, 0x10000)
        + empty_zones(0, "Movable", "Device")
        + empty_zones(1, "DMA32")
        + zone(1, "Normal", 0x110000, 0x10000)
        + empty_zones(1, "Movable", "Device")
        + empty_zones(2, "DMA32", "Normal")
        + zone(2, "Movable", 0x200000, 0x10000, protection="(0, 0, 7, 0)")
        + empty_zones(2, "Device")
        + empty_zones(3, "DMA32", "Normal")
        + zone(3, "Movable", 0x210000, 0x8000)
        + empty_zones(3, "Device")
    ).replace("(0, 0, 0, 0, 0)", "(0, 0, 0, 0)")
    node = "sys/devices/system/node"
    files = {
        "proc/zoneinfo": zoneinfo,
        "proc/iomem": """\
08000000-0fffffff : System RAM
100000000-11fffffff : System RAM
200000000-3ffffffff : CXL Window 0
  200000000-20fffffff : region0
    200000000-20fffffff : dax0.0
      200000000-20fffffff : System RAM (kmem)
  210000000-217ffffff : dax1.0
    210000000-217ffffff : System RAM (kmem)
""",
        f"{node}/online": "0-3\n",
        "sys/devices/virtual/memory_tiering/memory_tier4/nodelist": "0-1\n",
        "sys/devices/virtual/memory_tiering/memory_tier22/nodelist": "2-3\n",
    }
    distances = ("10 21 14 24", "21 10 24 14", "14 24 10 26", "24 14 28 10")
    for nid, distance in enumerate(distances):
        files[f"{node}/node{nid}/distance"] = distance + "\n"
        files[f"{node}/node{nid}/cpulist"] = ("0-3\n", "4-7\n", "\n", "\n")[nid]
    for nid, initiator, latency, bandwidth in (
        (0, 0, 95, 200000),
        (1, 1, 96, 200000),
        (2, 0, 250, 30000),
        (3, 1, 260, 25000),
    ):
        for access in ("access0", "access1"):
            directory = f"{node}/node{nid}/{access}/initiators"
            files[f"{directory}/node{initiator}"] = ""
            files[f"{directory}/read_latency"] = f"{latency}\n"
            files[f"{directory}/read_bandwidth"] = f"{bandwidth}\n"
    files |= (
        blocks(0, [1, 32, 33])
        | blocks(1, [34, 35])
        | blocks(2, [64, 65], "Movable")
        | blocks(3, [66], "Movable")
    )
    return files


def test_hmat_guest(tmp_path):
    host = read_host(write(tmp_path, hmat_guest()))
    topology = host.topology
    assert host.notes == ()
    assert [(n.kind.value, n.tier, len(n.cpus)) for n in topology.nodes] == [
        ("dram", 0, 4),
        ("dram", 0, 4),
        ("cxl", 1, 0),
        ("cxl", 1, 0),
    ]
    assert topology.distance_between(2, 3) == 26
    assert topology.distance_between(3, 2) == 28
    assert topology.links[0, 2] == Link(250.0, 30e9)
    assert set(topology.links) == {(0, 0), (1, 1), (0, 2), (1, 3)}
    assert [n.zones[0].name for n in topology.nodes[2:]] == ["Movable", "Movable"]
    assert topology.nodes[2].zones[0].present == ((0x200000, 0x210000),)
    # Zones the kernel was built with are DMA32, Normal, Movable, Device: entry 2 is for Movable.
    assert topology.nodes[2].zones[0].lowmem_reserve == (0, 0, 0, 7, 0)
    assert topology.demotion_target(0) == 2
    assert topology.promotion_target(3) == 1


def test_cpu_initiator_figures_win_over_other_initiators(tmp_path):
    files = hmat_guest()
    files["sys/devices/system/node/node2/access1/initiators/read_latency"] = "255\n"
    assert from_host(write(tmp_path, files)).links[0, 2].latency_ns == 255.0


def test_without_memory_tiers_cpu_less_nodes_are_the_lower_tier(tmp_path):
    files = {name: text for name, text in hmat_guest().items() if "memory_tiering" not in name}
    topology = from_host(write(tmp_path, files))
    assert [node.tier for node in topology.nodes] == [0, 0, 1, 1]


def test_a_cpu_that_several_nodes_list_is_of_the_first(tmp_path):
    """numa=fake: every emulated node of a real one lists all CPUs of that."""
    files = hmat_guest()
    files |= {f"{NODE}/node0/cpulist": "0-3\n", f"{NODE}/node1/cpulist": "0-3,6\n"}
    for tiers in (True, False):
        some = {name: text for name, text in files.items() if tiers or "memory_tiering" not in name}
        topology = from_host(write(tmp_path / str(tiers), some))
        assert [node.cpus for node in topology.nodes] == [(0, 1, 2, 3), (6,), (), ()]
        assert [node.tier for node in topology.nodes] == [0, 0, 1, 1]
        path = tmp_path / f"{tiers}.toml"
        path.write_text(to_toml(topology))
        assert resolve_topology(str(path), None).nodes == topology.nodes


def test_where_no_cpu_has_memory_next_to_it_no_memory_is_far(tmp_path):
    files = {name: text for name, text in hmat_guest().items() if "memory_tiering" not in name}
    node = zone(3, "Movable", 0x210000, 0x8000, protection="(0, 0, 0, 0)")
    assert node in files["proc/zoneinfo"]
    files["proc/zoneinfo"] = files["proc/zoneinfo"].replace(
        node, empty_zones(3, "Movable").replace(", 0)", ")")
    )
    for nid in range(4):
        files[f"{NODE}/node{nid}/cpulist"] = "0-7\n" if nid == 3 else "\n"
    topology = from_host(write(tmp_path, files))
    assert [(node.kind, node.tier) for node in topology.nodes] == [(MemoryKind.DRAM, 0)] * 4
    assert topology.nodes[3].cpus == tuple(range(8))


@pytest.mark.parametrize("missing", [range(4), (1,), (3,)])
@pytest.mark.parametrize("tiers", [True, False])
def test_a_missing_cpulist_is_not_a_node_without_cpus(tmp_path, missing, tiers):
    files = {name: text for name, text in hmat_guest().items() if tiers or "memory_tiering" not in name}
    for nid in missing:
        del files[f"{NODE}/node{nid}/cpulist"]
    host = read_host(write(tmp_path, files))
    assert [node.kind for node in host.topology.nodes] == [MemoryKind.DRAM] * 4
    assert [node.tier for node in host.topology.nodes] == ([0, 0, 1, 1] if tiers else [0, 0, 0, 0])
    (note,) = (note for note in host.notes if "cpulist" in note)
    assert f"node{missing[0]}/cpulist is not there: no node's CPUs are known" in note


@pytest.mark.parametrize("missing", [range(4), (2,)])
def test_a_missing_distance_file_is_named(tmp_path, missing):
    files = hmat_guest()
    for nid in missing:
        del files[f"{NODE}/node{nid}/distance"]
    with pytest.raises(TopologyError, match=rf"node{missing[0]}/distance is not there; mount all of /sys"):
        read_host(write(tmp_path, files))


def test_cpu_less_node_in_a_dram_tier_is_dram(tmp_path):
    files = hmat_guest()
    files["sys/devices/virtual/memory_tiering/memory_tier4/nodelist"] = "0-2\n"
    files["sys/devices/virtual/memory_tiering/memory_tier22/nodelist"] = "3\n"
    topology = from_host(write(tmp_path, files))
    assert [node.kind.value for node in topology.nodes] == ["dram", "dram", "dram", "cxl"]


def test_cpu_less_node_faster_than_the_cpus_memory_is_not_cxl(tmp_path):
    files = hmat_guest()
    files["sys/devices/virtual/memory_tiering/memory_tier2/nodelist"] = "2\n"
    files["sys/devices/virtual/memory_tiering/memory_tier22/nodelist"] = "3\n"
    topology = from_host(write(tmp_path, files))
    assert [(node.kind.value, node.tier) for node in topology.nodes] == [
        ("dram", 1),
        ("dram", 1),
        ("dram", 0),
        ("cxl", 2),
    ]
    # node_is_toptier(): every tier down to the slowest that has CPUs is top tier.
    assert [topology.is_top_tier(nid) for nid in range(4)] == [True, True, True, False]


def test_memoryless_node(tmp_path):
    files = hmat_guest()
    files["proc/zoneinfo"] = files["proc/zoneinfo"].replace(
        zone(3, "Movable", 0x210000, 0x8000, protection="(0, 0, 0, 0)"),
        empty_zones(3, "Movable").replace(", 0)", ")"),
    )
    files["sys/devices/virtual/memory_tiering/memory_tier22/nodelist"] = "2\n"
    topology = from_host(write(tmp_path, files))
    assert topology.nodes[3].zones == ()
    assert topology.nodes[3].tier == 0
    assert topology.page_map.node_section_ranges(3) == []


def test_zones_of_a_node_whose_spans_overlap_are_told_apart_by_block(tmp_path):
    files = hmat_guest()
    # Normal was grown by hotplug behind Movable: its span now covers Movable's.
    files["proc/zoneinfo"] = (
        files["proc/zoneinfo"]
        .replace(
            zone(3, "Movable", 0x210000, 0x8000, protection="(0, 0, 0, 0)"),
            zone(3, "Movable", 0x210000, 0x8000, protection="(0, 0, 0, 0)"),
        )
        .replace(
            "".join(zone(3, "Normal", marks=(0, 0, 0, 0), protection="(0, 0, 0, 0)")),
            zone(3, "Normal", 0x208000, 0x18000, 0x8000, protection="(0, 0, 0, 0)"),
        )
    )
    files["proc/iomem"] += "218000000-21fffffff : System RAM\n"
    files |= blocks(3, [67], "Normal")
    host = read_host(write(tmp_path, files))
    assert host.notes == ()
    assert {z.name: z.present for z in host.topology.nodes[3].zones} == {
        "Normal": ((0x218000, 0x220000),),
        "Movable": ((0x210000, 0x218000),),
    }


def test_interleaved_nodes_do_not_share_a_pfn(tmp_path):
    files = hmat_guest()
    text = files["proc/zoneinfo"]
    text = text.replace(
        zone(0, "Normal", 0x100000, 0x10000, protection="(0, 0, 0, 0)"),
        zone(0, "Normal", 0x100000, 0x18000, 0x10000, protection="(0, 0, 0, 0)"),
    )
    files = {name: body for name, body in files.items() if "/memory" not in name or "tiering" in name}
    host = read_host(write(tmp_path, {**files, "proc/zoneinfo": text}))
    # Without memory blocks nobody can tell; what matters is one owner per PFN, and that it is said.
    assert host.topology.page_map.n_present_pages == 0x8000 + 0x20000 + 0x18000
    assert [note[-8:] for note in host.notes] == ["(+32768)", "(-32768)"]


NODE = "sys/devices/system/node"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("proc/zoneinfo", None, r"zoneinfo is not there"),
        ("proc/zoneinfo", "nonsense\n", r"zoneinfo, line 1: text before the first"),
        ("proc/iomem", "00001000-0009fbff : System RAM\ngarbage\n", r"iomem, line 2: 'garbage'"),
        (f"{NODE}/online", "0-x\n", r"online, line 1: 'x' is not a list"),
        (f"{NODE}/online", "1\n", r"online does not list node 0"),
        (f"{NODE}/node0/cpulist", "3-1\n", r"cpulist, line 1: '3-1'"),
        (f"{NODE}/node0/distance", "10 20\n", r"distance, line 1: '10 20'"),
        (f"{NODE}/node0/distance", "300\n", r"distance, line 1: '300'"),
        (f"{NODE}/node0/distance", "\n", r"distance, line 1: ''"),
        ("sys/devices/system/memory/block_size_bytes", "zz\n", r"block_size_bytes, line 1: 'zz'"),
        ("sys/devices/virtual/memory_tiering/memory_tier4/nodelist", "0,a\n", r"nodelist, line 1: 'a'"),
        ("proc/iomem", "200000000-20fffffff : System RAM\n", r"no memory block or System RAM range"),
    ],
)
def test_malformed_files_name_the_file_and_the_line(tmp_path, name, text, message):
    write(tmp_path, ONE_NODE)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(TopologyError, match=message) as caught:
        from_host(tmp_path)
    assert "\n" not in str(caught.value)


def test_unreadable_file_is_an_error_not_a_traceback(tmp_path):
    write(tmp_path, ONE_NODE)
    (tmp_path / "proc/zoneinfo").unlink()
    (tmp_path / "proc/zoneinfo").mkdir()
    with pytest.raises(TopologyError, match="cannot be read"):
        from_host(tmp_path)


def test_zoneinfo_fields():
    first, second = parse_zoneinfo(
        zone(3, "Normal", 4096, 100, 90, 80, "(0, 0, 7)", (1, 2, 3, 4)) + empty_zones(3, "Movable")
    )
    assert (first.nid, first.name, first.free, first.spanned, first.present, first.managed) == (
        3,
        "Normal",
        45,
        100,
        90,
        80,
    )
    assert (first.min, first.low, first.high, first.promo) == (1, 2, 3, 4)
    assert first.protection == (0, 0, 7)
    assert first.start_pfn == 4096
    assert (second.present, second.start_pfn) == (0, 0)


def test_zoneinfo_of_older_kernels_has_no_promo(tmp_path):
    text = re.sub(r" +promo +[0-9]+\n", "", ONE_NODE["proc/zoneinfo"])
    assert all(info.promo is None for info in parse_zoneinfo(text))
    topology = from_host(write(tmp_path, {**ONE_NODE, "proc/zoneinfo": text}))
    # high + (high - low)
    assert topology.nodes[0].zones[0].watermarks == Watermarks(57, 71, 85, 99)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("managed  90", "", r"line 1: zone Normal of node 0 lacks managed"),
        ("start_pfn:", "first_pfn:", r"line 1: .* lacks start_pfn"),
        ("spanned  100", "spanned  many", r"line 8: 'many' is not a page count"),
        ("(0, 0)", "(0, -1)", r"line 12: '-1'"),
        ("zone   Normal", "Normal", r"line 1: .* names no zone"),
        ("min      8", "min      " + "9" * 5000, r"line 4: "),
    ],
)
def test_malformed_zoneinfo(old, new, message):
    text = zone(0, "Normal", 4096, 100, 90, protection="(0, 0)")
    assert old in text
    with pytest.raises(TopologyError, match=message):
        parse_zoneinfo(text.replace(old, new), "zoneinfo")


def test_zone_given_twice():
    with pytest.raises(TopologyError, match="appears twice"):
        parse_zoneinfo(2 * zone(0, "Normal", 4096, 100))


@given(st.text())
def test_zoneinfo_of_any_text_is_zones_or_an_input_error(text):
    with contextlib.suppress(TopologyError):
        assert parse_zoneinfo(text)


@given(st.data())
def test_mutated_zoneinfo_is_zones_or_an_input_error(data):
    lines = ONE_NODE["proc/zoneinfo"].splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = data.draw(
        st.one_of(st.text(), st.just(lines[at][: len(lines[at]) // 2]), st.sampled_from(lines))
    )
    with contextlib.suppress(TopologyError):
        for info in parse_zoneinfo("\n".join(lines)):
            assert info.present >= 0


@pytest.mark.skipif(not Path("/proc/zoneinfo").exists(), reason="not a Linux machine")
def test_this_machine():
    host = read_host()
    assert host.topology.nodes
    told = {}
    for info in parse_zoneinfo(Path("/proc/zoneinfo").read_text()):
        if info.present:
            told[info.nid, info.name] = (info.present, info.managed, info.start_pfn)
    found = {
        (n.nid, z.name): (z.present_pages, z.managed_pages, z.present[0][0]) for n, z in host.topology.zones
    }
    assert found.keys() == told.keys()
    if not host.notes:
        assert {key: value[0] for key, value in found.items()} == {
            key: value[0] for key, value in told.items()
        }
    assert host.topology.page_map.n_present_pages == sum(pages for pages, _, _ in found.values())
