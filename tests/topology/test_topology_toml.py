"""Machines as TOML: what they mean, what is refused and where, and that nothing else ever happens."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.topology.model import Link, MemoryKind, Node, Topology, Watermarks, Zone
from gpuscan.topology.presets import preset
from gpuscan.topology.resolve import resolve_topology
from gpuscan.topology.toml import from_toml, parse_toml, to_toml

DOCS = Path(__file__).parents[2] / "docs" / "topology.md"
EXAMPLE = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[0]

SMALL = """\
name = "small"
distances = ["10 21", "20 10"]
[[nodes]]
nid = 0
cpus = "0-3"
[[nodes.zones]]
name = "Normal"
present = [[0, 100], [200, 300]]
[[nodes.zones]]
name = "Movable"
present = [[100, 200]]
[[nodes]]
nid = 1
kind = "cxl"
memory = "1GiB"
[[links]]
initiator = 0
memory = 1
latency = "250ns"
bandwidth = "30GB/s"
"""


def same(left: Topology, right: Topology) -> bool:
    return (
        left.name == right.name
        and left.nodes == right.nodes
        and np.array_equal(left.distance, right.distance)
        and left.links == right.links
    )


def test_small():
    topology = parse_toml(SMALL, "small.toml")
    dram, cxl = topology.nodes
    assert topology.name == "small"
    assert (dram.kind, dram.tier, dram.cpus) == (MemoryKind.DRAM, 0, (0, 1, 2, 3))
    assert dram.zones[0].present == ((0, 100), (200, 300))
    assert (cxl.kind, cxl.tier, cxl.cpus) == (MemoryKind.CXL, 1, ())
    assert [zone.name for zone in cxl.zones] == ["Movable"]
    assert cxl.present_pages == 1 << 18
    assert cxl.zones[0].present[0][0] > 300
    assert topology.distance.tolist() == [[10, 21], [20, 10]]
    assert topology.links == {(0, 1): Link(250.0, 30e9)}


def test_documented_example(tmp_path):
    path = tmp_path / "lab.toml"
    path.write_text(EXAMPLE)
    topology = resolve_topology(str(path))
    assert topology.name == "lab-machine"
    assert topology.nodes[0].cpus == (*range(32), *range(64, 96))
    assert [zone.name for zone in topology.nodes[0].zones] == ["DMA", "DMA32", "Normal"]
    assert topology.nodes[2].zones[0].watermarks.low == 33649
    assert topology.page_map.n_present_pages


def test_a_sized_node_gets_the_x86_map():
    text = '[[nodes]]\nnid = 3\nmemory = "4GiB"\n'
    (node,) = parse_toml(text, "x.toml").nodes
    assert [zone.name for zone in node.zones] == ["DMA", "DMA32", "Normal"]
    assert parse_toml(text, "x.toml", "x").name == "x"
    assert node.present_pages == (1 << 20) - 98


def test_distances_default_to_the_kernels():
    text = '[[nodes]]\nnid = 0\nmemory = "1GiB"\n[[nodes]]\nnid = 7\n'
    topology = parse_toml(text, "x.toml")
    assert topology.distance.tolist() == [[10, 20], [20, 10]]
    assert topology.nodes[1].zones == ()


def test_nodes_may_come_in_any_order():
    text = '[[nodes]]\nnid = 4\nmemory = "1GiB"\n[[nodes]]\nnid = 2\nmemory = "2GiB"\n'
    topology = parse_toml(text, "x.toml")
    assert [node.nid for node in topology.nodes] == [2, 4]
    assert topology.nodes[0].present_pages == (1 << 19) - 98
    topology.page_map.flat_of_pfn(0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "small"', 'name = "small', r"^m.toml:1:\d+: .*; fix the TOML there$"),
        ("nid = 1\n", "nid = 1\nnid = 1\n", r"^m.toml:14:8: .*; fix the TOML there$"),
        ("nid = 1\n", "", r"^m.toml: key nodes.1.nid is missing; add it$"),
        ("nid = 1\n", "nid = 1\ncolor = 3\n", r"^m.toml: unknown key nodes.1.color; "),
        ("nid = 1\n", "nid = 0\n", r"^m.toml: nodes.1.nid: node 0 appears twice"),
        ("nid = 1\n", "nid = 1024\n", r"^m.toml: nodes.1.nid must be below 1024, not 1024$"),
        ("nid = 1\n", "nid = true\n", r"^m.toml: nodes.1.nid must be a whole number, not True$"),
        ("nid = 1\n", 'nid = 1\ncpus = "3"\n', r"^m.toml: nodes.1.cpus: CPU 3 is on node 0 too"),
        ('cpus = "0-3"', 'cpus = "0-3,2"', r"^m.toml: nodes.0.cpus: '0-3,2' names a CPU twice"),
        ('cpus = "0-3"', 'cpus = "3-0"', r"^m.toml: nodes.0.cpus: '3-0' is not"),
        ('kind = "cxl"', 'kind = "hbm"', r"^m.toml: nodes.1.kind must be 'dram', 'cxl' or 'gpu', not 'hbm'$"),
        ('memory = "1GiB"', 'memory = "1 lot"', r"^m.toml: nodes.1.memory: .*unknown unit"),
        ('memory = "1GiB"', 'memory = "0B"', r"^m.toml: nodes.1.memory: '0B' is not from one page"),
        ('memory = "1GiB"', 'memory = "4PiB"', r"^m.toml: nodes.1.memory: ends above 52-bit"),
        ('memory = "1GiB"', "memory = 5", r"^m.toml: nodes.1.memory must be a string, not 5$"),
        (
            "[[100, 200]]",
            "[[100, 201]]",
            r"^m.toml: nodes.0.zones.0.present: PFN 200 is in nodes.0.zones.1 too",
        ),
        ("[[0, 100], [200, 300]]", "[[200, 300], [0, 100]]", r"^m.toml: nodes.0.zones.0: .*not above"),
        ("[[100, 200]]", "[[200, 200]]", r"^m.toml: nodes.0.zones.1: .*is empty"),
        (
            "[[100, 200]]",
            "[[100, 200]]\nwatermarks = { min = 3, low = 4, high = 2, promo = 5 }",
            r"^m.toml: nodes.0.zones.1.watermarks: min 3, low 4, high 2, promo 5 do not ascend",
        ),
        ("[[100, 200]]", "[[100, 200, 300]]", r"^m.toml: nodes.0.zones.1.present.0 has 3 items; give 2$"),
        ("[[100, 200]]", "[[-1, 200]]", r"^m.toml: nodes.0.zones.1.present.0.0 must be at least 0, not -1$"),
        ('"Movable"', '"HighMem"', r"^m.toml: nodes.0.zones.1.name must be 'DMA', .*not 'HighMem'"),
        ('"Movable"', '"Normal"', r"^m.toml: nodes.0: a zone appears twice"),
        (
            '"Movable"',
            '"Movable"\nmanaged_pages = 101',
            r"^m.toml: nodes.0.zones.1: managed_pages 101 is more",
        ),
        ('cpus = "0-3"', 'memory = "1GiB"', r"^m.toml: nodes.0: both memory and zones"),
        ('"10 21", "20 10"', '"10 21"', r"^m.toml: distances: 1 rows for 2 nodes"),
        ('"10 21", "20 10"', '"10 21", "20"', r"^m.toml: distances.1: 1 entries for 2 nodes"),
        ('"10 21", "20 10"', '"10 21", "20 11"', r"^m.toml: distances.1: 11 from node 1 to itself"),
        ('"10 21", "20 10"', '"10 9", "20 10"', r"^m.toml: distances.0: '10 9' is not a row"),
        ('"10 21", "20 10"', '"10 256", "20 10"', r"^m.toml: distances.0: '10 256' is not a row"),
        ('"10 21", "20 10"', '"", "20 10"', r"^m.toml: distances.0: '' is not a row"),
        ("initiator = 0", "initiator = 5", r"^m.toml: links.0.initiator: there is no node 5"),
        ("memory = 1\n", "memory = 5\n", r"^m.toml: links.0.memory: there is no node 5"),
        ("250ns", "250", r"^m.toml: links.0.latency: '250' has no unit"),
        ("250ns", "0ns", r"^m.toml: links.0.latency: '0ns' is not above 0"),
        ("250ns", "1e999ns", r"^m.toml: links.0.latency: '1e999ns' is not above 0"),
        ("250ns", "1-1ns", r"^m.toml: links.0.latency: '1-1ns' is not a number"),
        ("30GB/s", "30GB", r"^m.toml: links.0.bandwidth: '30GB' has the unknown unit 'GB'"),
    ],
)
def test_errors_name_the_file_and_the_key(old, new, message):
    assert SMALL.count(old) == 1
    with pytest.raises(InputError, match=message) as caught:
        parse_toml(SMALL.replace(old, new), "m.toml")
    assert "\n" not in str(caught.value)


def test_duplicate_link():
    link = SMALL[SMALL.index("[[links]]") :]
    with pytest.raises(TopologyError, match=r"links.1: 0 -> 1 appears twice"):
        parse_toml(SMALL + link, "m.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key nodes is missing"),
        ("nodes = []", "nodes is empty; give at least one"),
        ("[[nodes]]\nnid = 0\n", "no node has memory"),
        (
            "schema = 2\n[[nodes]]\nnid = 0\n",
            r"schema: 2 is newer than the 1 read here; install a newer gpuscan",
        ),
        ("a = " + "[" * 5000, "^m.toml: TOML that cannot be read"),
        ("a = " + "9" * 5000, "^m.toml: TOML that cannot be read"),
    ],
)
def test_documents_that_are_no_machine(text, message):
    with pytest.raises(InputError, match=message):
        parse_toml(text, "m.toml")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        from_toml(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is a directory, not a file"):
        from_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(InputError, match=r"is not UTF-8 text \(byte 8\)"):
        from_toml(tmp_path / "latin.toml")


@pytest.mark.parametrize("name", ["single", "two-socket-cxl", "eight-socket"])
def test_presets_round_trip(name, tmp_path):
    topology = preset(name, 3 << 30)
    path = tmp_path / "m.toml"
    path.write_text(to_toml(topology), encoding="utf-8")
    assert same(from_toml(path), topology)


@st.composite
def topologies(draw) -> Topology:
    nids = sorted(draw(st.sets(st.integers(0, 1023), min_size=1, max_size=4)))
    pages = st.integers(0, 1 << 30)
    next_pfn, next_cpu, nodes = 0, 0, []
    for nid in nids:
        zones = []
        names = draw(st.sets(st.sampled_from(("DMA", "DMA32", "Normal", "Movable")), max_size=2))
        for zone_name in sorted(names) or (["Normal"] if nid == nids[0] else []):
            present = []
            for gap, length in draw(
                st.lists(st.tuples(st.integers(0, 9), st.integers(1, 1 << 20)), min_size=1, max_size=3)
            ):
                present.append((next_pfn + gap, next_pfn + gap + length))
                next_pfn += gap + length
            total = sum(end - start for start, end in present)
            marks = Watermarks(*sorted(draw(st.tuples(pages, pages, pages, pages))))
            reserve = draw(st.tuples(*[pages] * 5))
            zones.append(Zone(zone_name, tuple(present), draw(st.integers(0, total)), marks, reserve))
        cpus = tuple(cpu + next_cpu for cpu in sorted(draw(st.sets(st.integers(0, 20)))))
        next_cpu += 21
        kind = draw(st.sampled_from(MemoryKind))
        nodes.append(Node(nid, kind, draw(st.integers(0, 5)), cpus, tuple(zones)))
    n = len(nids)
    flat = draw(st.lists(st.integers(10, 255), min_size=n * n, max_size=n * n))
    distance = np.array(flat, dtype=np.uint8).reshape(n, n)
    np.fill_diagonal(distance, 10)
    figure = st.floats(1e-3, 1e15) | st.integers(1, 1 << 50).map(float)
    links = draw(
        st.dictionaries(
            st.tuples(st.sampled_from(nids), st.sampled_from(nids)),
            st.builds(Link, figure, figure),
            max_size=4,
        )
    )
    name = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8))
    return Topology(name, tuple(nodes), distance, links)


@settings(max_examples=50)
@given(topologies())
def test_any_topology_round_trips_exactly(topology):
    assert same(parse_toml(to_toml(topology), "m.toml"), topology)


def topology_or_input_error(text: str) -> None:
    try:
        memory_bytes = parse_toml(text, "m.toml").memory_bytes
    except InputError:
        return
    assert memory_bytes


@given(st.text())
def test_any_text_is_a_topology_or_an_input_error(text):
    topology_or_input_error(text)


SCRAPS = [
    "[[nodes]]",
    "[nodes]",
    "[[nodes.zones]]",
    "= ",
    '"',
    "]",
    "[",
    "-1",
    "1e400",
    "nan",
    "2024-01-01",
    "true",
    '"1TiB"',
    "nid",
    "\x00",
    "{}",
    "99999999999999999999",
]


@settings(max_examples=150)
@given(st.data())
def test_mutated_documents_are_topologies_or_input_errors(data):
    text = data.draw(st.sampled_from([SMALL, EXAMPLE]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.sampled_from(SCRAPS) | st.text(max_size=4)) + text[end:]
    topology_or_input_error(text)


@settings(max_examples=150)
@given(st.data())
def test_documents_with_one_value_replaced_are_topologies_or_input_errors(data):
    lines = data.draw(st.sampled_from([SMALL, EXAMPLE])).splitlines()
    at = data.draw(st.sampled_from([n for n, line in enumerate(lines) if " = " in line and "[" not in line]))
    value = data.draw(
        st.sampled_from(
            [
                "0",
                "-1",
                "1.5",
                '""',
                '"x"',
                "[]",
                "{}",
                "[[]]",
                "true",
                "1979-05-27",
                "1e9",
                '"0B"',
                '"9EiB"',
                str(1 << 70),
            ]
        )
    )
    lines[at] = lines[at].split(" = ")[0] + " = " + value
    topology_or_input_error("\n".join(lines))
