"""Hot lists of CXL devices: where their units are, and when; held against the producer's own interleaving."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.interleave import Interleaving
from gpuscan.topology import MemoryKind, Topology
from gpuscan.traces import Samples, hot_lists, open_trace
from gpuscan.traces.text import LINE_BYTES_MAX, lines_of
from machines import node
from trace_texts import CASES

CASE = CASES["hot lists"]
AT_0 = {"unit": "4KiB", "base": "0", "epoch": "1ms"}


def dump(entries: list[tuple[int, int]], width: int = 16) -> str:
    """Return a list of (unit, count) as perf prints it."""
    words = "".join(f"{unit << width | count:016x}\n" for unit, count in entries)
    size = 8 * len(entries) + 16
    heading = f"Header 0: units: {len(entries):x} counter_width {width:x}\nHeader 1 : deadbeef\n"
    return f". ... CXL_HMU data: size {size} bytes\n{heading}{words}"


def read(path: Path, given: dict[str, str]) -> Samples:
    return Samples.joined(list(open_trace(path, given).blocks()))


@pytest.mark.parametrize(
    ("ways", "granularity", "unit"),
    [(1, 256, 4096), (2, 16384, 4096), (3, 4096, 65536), (4, 256, 4096), (8, 8192, 16384), (2, 1024, 65536)],
)
def test_units_lie_where_the_producers_do(tmp_path: Path, ways: int, granularity: int, unit: int) -> None:
    nodes = (node(0, (0, SECTION_PAGES), cpus=(0,)),)
    far = node(1, (SECTION_PAGES, 2 * SECTION_PAGES), kind=MemoryKind.CXL, tier=1)
    topology = Topology("two", (*nodes, far), np.array([[10, 20], [20, 10]], dtype=np.uint8))
    devices = Interleaving(topology.page_map, [1], ways, granularity, unit)
    path = tmp_path / "dump"
    units = [0, 1, 7, 100]
    path.write_text(dump([(number, 5) for number in units]))
    for device in devices.devices:
        runs = devices.pages_in(device, np.array(units))
        expected = topology.page_map.pfn_of_flat(runs.frames)
        given = {
            "unit": f"{unit}B",
            "base": str(SECTION_PAGES << 12),
            "epoch": "1ms",
            "ways": str(ways),
            "granularity": f"{granularity}B",
            "way": str(device.way),
        }
        found = read(path, given)
        pages = [pfn + i for pfn, n in zip(found.pfn, found.n_pages, strict=True) for i in range(n)]
        assert sorted(pages) == sorted(expected.tolist())
        assert set(found.weight.tolist()) == {5}


def test_units_smaller_than_a_page_and_regions_that_begin_later(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(dump([(0x100000, 3), (0x10000F, 4), (0x100010, 5)], width=8))
    found = read(path, {**AT_0, "unit": "256B", "base": "0x200000000", "skip": "0x10000000"})
    assert (found.pfn - (1 << 21)).tolist() == [0, 0, 1]
    assert (found.weight.tolist(), found.n_pages.tolist()) == ([3, 4, 5], [1, 1, 1])
    assert read(path, {**AT_0, "unit": "2MiB"}).n_pages.tolist() == [512] * 3


def test_lists_without_times_are_an_epoch_apart(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(dump([(1, 2)]) * 2 + dump([]) + dump([(3, 4)]))
    assert read(path, {**AT_0, "epoch": "400ms"}).time_ns.tolist() == [0, 400_000_000, 1_200_000_000]
    with pytest.raises(InputError, match=r"dump:2: the dump does not say when .*; give all .*--given epoch="):
        read(path, {"unit": "4KiB", "base": "0"})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, r"does not say where they are; give --given unit=.* --given base=.*regionN/resource"),
        ({"unit": "4KiB"}, r"give --given base=[^;]*$"),
        ({**AT_0, "ways": "2"}, r"give --given granularity=.*; --given way="),
        ({**AT_0, "ways": "5", "granularity": "4KiB", "way": "0"}, r"ways=5: give one of 1, 2, 3, 4, 6"),
        ({**AT_0, "ways": "2", "granularity": "4KiB", "way": "2"}, r"way=2: that is no number from 0 to 1"),
        ({**AT_0, "unit": "5KiB"}, r"unit=5KiB: that is no power of two"),
        ({**AT_0, "unit": "many"}, r"--given unit=many: "),
        ({**AT_0, "base": "010"}, r"base=010: that is no number"),
        ({**AT_0, "epoch": "0s"}, r"epoch=0s: that is too short"),
        ({**AT_0, "skip": "7"}, r"skip=7: no region begins there"),
        ({**AT_0, "pages": "x"}, r"pages=x: .* of which may be given: unit=.*; leave out pages"),
        (
            {**AT_0, "skip": "0x10000000"},
            r"dump:2: unit 0x1 .* is not in the region, .*; give the right unit",
        ),
        ({**AT_0, "base": "0xfffffffffff000"}, r"dump:2: unit 0x1 .* is not in the region"),
    ],
)
def test_what_is_given_has_to_fit(tmp_path: Path, given: dict[str, str], why: str) -> None:
    path = tmp_path / "dump"
    path.write_text(dump([(1, 2)]))
    with pytest.raises(InputError, match=why):
        read(path, given)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (dump([(1, 2), (3, 4)])[:-17], r"dump:2: the list that begins here is cut short"),
        (dump([(1, 2)]).replace("0002\n", "000g\n"), r"dump:4: the line is none of the hot list .* line 2 "),
        (dump([(1, 2)]).replace("0002\n", "00 2\n"), r"dump:4: the line is none of the hot list"),
        (dump([(1, 2)]).replace("Header 1", "Header 2"), r"dump:3: the line is none of the hot list"),
        (dump([(1, 2)]).replace("width 10", "width 40"), r"dump:2: counters have 64 of 64 bits"),
        ("0x10 [0x20]: event: 69\n.\n", r"without a hot list .*; record the event cxl_hmu_memX.Y.Z"),
        (
            CASE.text + "0 0 0x3 [0x30]: PERF_RECORD_AUXTRACE size: 0x48  offset: 0  ref: 0x5  idx: 1  "
            "tid: -1  cpu: 1\n.\n" + dump([(1, 2)]),
            r"hot lists of several units, .*; record one",
        ),
    ],
)
def test_what_is_wrong_with_a_dump_is_said(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "dump"
    path.write_text(text)
    with pytest.raises(InputError, match=why):
        read(path, AT_0)


def test_a_line_takes_time_by_its_length() -> None:
    line = b"0x1@" + b" [0x1]: PERF_RECORD_AUXTRACE size: 0 offset: 0  ref: 0x1 idx: " * 10_000
    began = time.process_time()
    assert not hot_lists._AUXTRACE.fullmatch(line)
    assert not hot_lists._AUX.search(line)
    assert time.process_time() - began < 1


def test_lines_are_as_long_as_they_may_be_wherever_they_end(tmp_path: Path) -> None:
    path = tmp_path / "text"
    longest = b"x" * LINE_BYTES_MAX + b"\n"
    path.write_bytes(longest * 3)
    assert sum(text.count(b"\n") for _, text in lines_of(path, lambda _: None)) == 3
    path.write_bytes(b"\n\nx" + longest * 3)
    with pytest.raises(InputError, match="text:3: the line is longer than 65,536 bytes"):
        list(lines_of(path, lambda _: None))


def test_a_run_by_what_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dump"
    path.write_text(CASE.text)
    options = ["--given", "unit=4KiB", "--given", "base=0x200000000"]
    machine = ["--topology", "two-socket-cxl", "--memory", "4GiB"]
    command = ["run", "--trace", str(path), *machine, *options]
    assert main(command) == 0
    assert "units of 4 KiB from 0x200000000 on, as given" in capsys.readouterr().out
    assert main(["inspect", str(path), *options, "--json"]) == 0
    assert '"samples": 4' in capsys.readouterr().out
    workload = tmp_path / "mine.toml"
    table = 'trace = "dump"\ngiven = { unit = "4KiB", base = 0x200000000 }'
    workload.write_text(
        f'shows = "hot"\n[source]\nkind = "trace"\n{table}\n[topology]\nmachine = "two-socket-cxl"\n'
    )
    assert main(["run", str(workload), "--memory", "4GiB", "--ticks", "2"]) == 0
    assert "units of 4 KiB from 0x200000000 on, as given" in capsys.readouterr().out
    assert main(command[:-2]) == 2
    assert "give --given base=" in capsys.readouterr().err
