"""How full nodes were and how long pages waited: as the machine and the plans have it; and their files."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.heatmap.nodes import NODES_FILE, Full, create_nodes, empty_nodes, read_nodes
from gpuscan.heatmap.recorder import MOMENTS_MAX, MapRecorder
from gpuscan.heatmap.waits import (
    FOUND_MAX,
    PAGES_ONE_IN,
    WAITS_FILE,
    Waits,
    create_waits,
    followed,
    read_waits,
)
from gpuscan.topology.resolve import resolve_topology
from results import small_result


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_result(tmp_path_factory.mktemp("nodes"))


def test_nodes_fill_and_empty_by_what_is_moved(result: Path) -> None:
    nodes = read_nodes(result / NODES_FILE)
    moved = pq.read_table(result / "series.parquet")["migrated_pages"].to_numpy()
    assert {name: len(node.now_ns) for name, node in nodes.items()} == {0: 13, 1: 13, 2: 13, 3: 13}
    assert nodes[0].now_ns == [tick * 10**8 for tick in range(13)]
    # Free memory is looked at at the end of a tick, when what it marked has moved.
    assert np.diff(nodes[2].free_pages).tolist() == moved.tolist()
    near = np.array(nodes[0].free_pages) + nodes[1].free_pages
    assert np.diff(near).tolist() == (-moved).tolist()
    assert len(set(nodes[3].free_pages)) == 1


def test_watermarks_are_the_sums_of_a_nodes_zones(result: Path) -> None:
    topology = resolve_topology("two-socket-cxl", 1 << 30)
    zones = topology.node(0).zones
    assert len(zones) > 1
    marks = read_nodes(result / NODES_FILE)[0].marks
    for mark in ("min", "low", "high", "promo"):
        assert marks[mark] == sum(getattr(zone.watermarks, mark) for zone in zones)


def test_a_wait_is_from_the_first_mark_to_the_claim() -> None:
    waits = Waits()
    flats = np.arange(100_000, dtype=np.int64)
    waits.marked(0, flats)
    waits.marked(5, flats)
    waits.claimed(30, flats[::2])
    waits.claimed(50, flats)
    waits.claimed(60, flats)  # claimed without a mark that was seen
    waits.marked(70, np.array([-1, *flats[:1000]]))
    waits.claimed(70, flats[:1000])
    early, late, none = (len(followed(part)) for part in (flats[::2], flats[1::2], flats[:1000]))
    assert waits.found == Counter({30: early, 50: late, 0: none})
    assert 0.9 < (early + late) * PAGES_ONE_IN / len(flats) < 1.1


def test_heads_of_huge_pages_are_followed_as_often_as_others() -> None:
    heads = np.arange(0, 1 << 24, 512, dtype=np.int64)
    assert 0.8 < len(followed(heads)) * PAGES_ONE_IN / len(heads) < 1.2


def test_waits_of_a_run_are_of_pages_in_its_plan(result: Path) -> None:
    waits, plan = read_waits(result / WAITS_FILE), pq.read_table(result / "plan.parquet")
    assert 0 < sum(waits.values()) <= len(plan)
    assert all(ns % 10**8 == 0 for ns in waits)


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    nodes = empty_nodes(resolve_topology("two-socket-cxl", 1 << 30))
    for nid, node in nodes.items():
        node.now_ns.extend([10, 20])
        node.free_pages.extend([nid, nid + 100])
        node.room_pages.extend([-3, nid])
        node.no_room.extend([0, nid])
    create_nodes(tmp_path / NODES_FILE, nodes)
    assert read_nodes(tmp_path / NODES_FILE) == nodes
    assert pq.read_table(tmp_path / NODES_FILE)["now_ns"].to_pylist() == [10] * 4 + [20] * 4
    create_waits(tmp_path / WAITS_FILE, {30: 2, 10: 5})
    assert read_waits(tmp_path / WAITS_FILE) == {10: 5, 30: 2}
    create_waits(tmp_path / "none.parquet", {})
    assert read_waits(tmp_path / "none.parquet") == {}


@pytest.mark.parametrize(
    "said", [b"", b"{}", b'{"nodes": [[0, 1, 2, {}]]}', b'{"nodes": [[9999, "a", 2, {}]]}']
)
def test_damaged_nodes_are_refused(result: Path, tmp_path: Path, said: bytes) -> None:
    good = pq.read_table(result / NODES_FILE)
    pq.write_table(
        good.replace_schema_metadata({**good.schema.metadata, b"gpuscan.nodes": said}), tmp_path / NODES_FILE
    )
    with pytest.raises(InputError, match=r"nodes\.parquet is damaged"):
        read_nodes(tmp_path / NODES_FILE)


def test_damaged_waits_are_refused(result: Path, tmp_path: Path) -> None:
    good = pq.read_table(result / WAITS_FILE)
    bad = good.set_column(1, "n", pa.array([0] * len(good), pa.int64()))
    pq.write_table(bad.replace_schema_metadata(good.schema.metadata), tmp_path / WAITS_FILE)
    with pytest.raises(InputError, match=r"waits\.parquet is damaged"):
        read_waits(tmp_path / WAITS_FILE)
    with pytest.raises(InputError):
        read_waits(result / NODES_FILE)


def test_a_long_run_keeps_every_second_moment_then_every_fourth_and_always_the_last() -> None:
    topology = resolve_topology("two-socket-cxl", 1 << 30)
    recorder = MapRecorder(topology, 10)
    free = dict.fromkeys(recorder.nodes, 7)
    for tick in range(5 * MOMENTS_MAX):
        recorder.no_room(0, 1)
        recorder.filled(tick, free, free)
        assert len(recorder.nodes[0].now_ns) <= MOMENTS_MAX + 1
    kept = recorder.nodes[0].now_ns
    assert kept == [*range(0, 5 * MOMENTS_MAX, 8), 5 * MOMENTS_MAX - 1]
    assert len(recorder.nodes[0].free_pages) == len(recorder.nodes[0].room_pages) == len(kept)
    assert recorder.nodes[0].no_room == [tick + 1 for tick in kept]  # nothing is lost with a moment


def test_in_real_time_waits_are_rounded_up_when_too_many_differ() -> None:
    waits, (flat, *_) = Waits(), followed(np.arange(1 << 12))
    page, exact = np.array([flat]), []
    for at in range(FOUND_MAX + 3000):
        now_ns = at * 10**9
        exact.append(10**6 + at * 997)
        waits.marked(now_ns, page)
        waits.claimed(now_ns + exact[-1], page)
    assert sum(waits.found.values()) == FOUND_MAX + 3000
    assert len(waits.found) < 500
    ascending = [wait for wait, n in sorted(waits.found.items()) for _ in range(n)]
    assert all(wait <= told <= wait * 65 / 64 for wait, told in zip(exact, ascending, strict=True))


def test_a_page_that_was_not_marked_again_waits_no_more_where_frames_are_given_out_again() -> None:
    (one, other, *many) = followed(np.arange(1 << 12)).tolist()
    waits = Waits(lapse_ns=100)
    for now_ns in (0, 90, 180):  # in force all the time
        waits.marked(now_ns, np.array([one]))
    waits.marked(0, np.array([other]))
    waits.marked(170, np.array([other]))  # that of 0 had lapsed
    waits.claimed(200, np.array([one, other]))
    assert waits.found == Counter({200: 1, 30: 1})
    assert len(many) > 10


def test_those_that_lapsed_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuscan.heatmap.waits._FOLLOWED_MAX", 4)
    pages = followed(np.arange(1 << 12))[:8]
    waits = Waits(lapse_ns=100)
    waits.marked(0, pages[:4])
    waits.marked(50, pages[4:])  # no room
    waits.claimed(60, pages[4:])
    assert not waits.found
    waits.marked(200, pages[4:])
    waits.claimed(260, pages)
    assert waits.found == Counter({60: 4})


def test_as_many_accesses_are_looked_at_as_there_are_on_average() -> None:
    recorder = MapRecorder(resolve_topology("two-socket-cxl", 1 << 30), 1)
    for n in (0, 7, 32, 45, 64):
        seen = [recorder.sampled(n) for _ in range(2000)]
        assert all(len(one) == 0 or (one[-1] < n and (np.diff(one) > 0).all()) for one in seen)
        assert sum(map(len, seen)) * 32 == pytest.approx(2000 * n, rel=0.15)


def told_recorder() -> MapRecorder:
    topology = resolve_topology("two-socket-cxl", 1 << 30)
    recorder = MapRecorder(topology, 10)
    recorder.marked(50, topology.page_map.pfn_of_flat(np.arange(1 << 10)))
    recorder.filled(40, dict.fromkeys(recorder.nodes, 7), dict.fromkeys(recorder.nodes, -2))
    recorder.no_room(2, 5)
    recorder.filled(60, dict.fromkeys(recorder.nodes, 8), dict.fromkeys(recorder.nodes, 4))
    recorder.no_room(2, 6)
    return recorder


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("waits", "flats", lambda old: old + (1 << 40), "pages that wait has .*, which is not below"),
        ("waits", "found", lambda _: [[ns, 1] for ns in range(FOUND_MAX + 1)], "not a list of up to 4096"),
        ("waits", "found", lambda _: [[5, 1 << 50]], "pages of a wait"),
        (None, "filled_ns", lambda old: old[::-1].copy(), "one after the other"),
        (None, "filled_ns", lambda _: np.arange(MOMENTS_MAX + 2), "one after the other"),
    ],
)
def test_a_state_that_cannot_have_come_about_is_refused(part, name, value, said) -> None:
    state = told_recorder().state()
    MapRecorder(resolve_topology("two-socket-cxl", 1 << 30), 10).restore(state)
    inner = state if part is None else state[part]
    inner[name] = value(inner[name])
    with pytest.raises(ArgumentError, match=said):
        MapRecorder(resolve_topology("two-socket-cxl", 1 << 30), 10).restore(state)


def test_a_node_is_full_without_room_for_a_page_or_when_it_had_none_for_a_folio() -> None:
    fill = empty_nodes(resolve_topology("two-socket-cxl", 1 << 30))[0]
    fill.now_ns.extend(range(0, 80, 10))
    fill.room_pages.extend([9, 2, 1, -4, 600, 600, 600, 600])
    fill.no_room.extend([0, 0, 0, 30, 32, 32, 40, 40])  # huge pages find none where single ones would
    assert fill.full() == [Full(20, 40, 3, 32), Full(60, 60, 1, 8)]


def test_what_was_told_comes_back_from_a_checkpoint_and_an_earlier_one_begins_anew() -> None:
    state = told_recorder().state()
    topology = resolve_topology("two-socket-cxl", 1 << 30)
    recorder, earlier = MapRecorder(topology, 10), MapRecorder(topology, 10)
    recorder.restore(state)
    recorder.filled(70, dict.fromkeys(recorder.nodes, 8), dict.fromkeys(recorder.nodes, 4))
    assert recorder.nodes[2].full() == [Full(40, 70, 3, 11)]
    assert recorder.nodes[1].full() == [Full(40, 40, 1, 0)]
    earlier.restore({key: value for key, value in state.items() if "room" not in key})
    assert earlier.nodes == empty_nodes(topology)


def test_of_an_earlier_file_nobody_knows_when_nodes_were_full(result: Path, tmp_path: Path) -> None:
    good = pq.read_table(result / NODES_FILE)
    metadata = {**good.schema.metadata, b"gpuscan.schema": b"1"}
    earlier = good.drop_columns(["room_pages", "no_room"]).replace_schema_metadata(metadata)
    pq.write_table(earlier, tmp_path / NODES_FILE)
    assert read_nodes(tmp_path / NODES_FILE) == {}


def test_what_is_told_of_the_future_is_refused() -> None:
    recorder = told_recorder()
    recorder.check_until(60)
    with pytest.raises(ArgumentError, match="what happens at 60 ns, and it is 59 ns"):
        recorder.check_until(59)
    state = recorder.state()
    state["waits"]["since_ns"] += 100
    recorder.restore(state)
    with pytest.raises(ArgumentError, match="at 150 ns"):
        recorder.check_until(60)


def test_threads_that_sort_end_with_the_map_and_what_is_told_later_counts() -> None:
    topology = resolve_topology("two-socket-cxl", 1 << 30)
    recorder, alone = (MapRecorder(topology, 10, is_aside=is_aside) for is_aside in (True, False))
    before = set(threading.enumerate())
    for end_ns in (100, 200, 300):
        for each in (recorder, alone):
            each.accessed(end_ns - 50, np.arange(1 << 10))
        maps = [each.map(end_ns).layers["accesses"] for each in (recorder, alone)]
        assert maps[0].says_same(maps[1])
        assert maps[0].counts.sum() == 32 * (1 << 10) * end_ns // 100
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
