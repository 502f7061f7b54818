"""Text of ``perf script``, as tools/perf/builtin-script.c prints it, and all that it might be instead."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from gpuscan.traces import Samples, open_trace, perf_lines
from gpuscan.traces.built_in import perf

DATA = Path(__file__).parents[1] / "data/traces"


def read(path: Path) -> list[tuple[int, int, int, int]]:
    """Return (time_ns, cpu, pfn, weight) of every sample."""
    found = []
    for block in open_trace(path).blocks():
        assert (block.n_pages == 1).all()
        found += list(
            zip(*(a.tolist() for a in (block.time_ns, block.cpu, block.pfn, block.weight)), strict=True)
        )
    return found


def complaint(path: Path) -> str:
    """Return what is said of a trace, empty where it can be read."""
    try:
        read(path)
    except InputError as error:
        return str(error)
    return ""


def unresolved(path: Path) -> int:
    return sum(block.n_unresolved for block in open_trace(path).blocks())


def test_the_shortest_output() -> None:
    path = DATA / "perf-cpu-time-weight-phys.txt"
    assert read(path) == [
        (1_234_567_890_000, 3, 0x1A2B3C, 42),
        (1_234_567_891_000, 0, 0x100000, 7),
        (1_234_567_891_000, 127, 0x1A2B3C, 1201),
        (1_235_000_000_000, 3, 0xFFFFF, 5),
    ]
    assert unresolved(path) == 1


@pytest.mark.parametrize("events", ["", "l1d-access: ", "tlb-access: "])
def test_the_events_of_one_access_are_one(tmp_path: Path, events: str) -> None:
    """Arm SPE prints a line for each event of an access, all of one instant; other CPUs' come in between."""
    path = tmp_path / "spe.txt"
    line = "[{:03d}]  5496.73347{}: " + events + "{:16d} {:>16x}\n"
    once = [
        (34, 5, 12, 0x410203040),
        (3, 5, 12, 0x410203040),
        (34, 5, 12, 0x410203080),
        (34, 9, 19, 0x410305000),
    ]
    lines = (*once[:3], *once[:3], once[0], once[3], once[3], *once[3:])
    path.write_text("".join(line.format(*each) for each in lines))
    assert [(cpu, weight) for _, cpu, _, weight in read(path)] == [(34, 12), (3, 12), (34, 12), (34, 19)]
    assert sum(block.n_repeated for block in open_trace(path).blocks()) == 6


def test_an_access_is_one_over_the_end_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "_BLOCK_BYTES", 64)
    path = tmp_path / "spe.txt"
    path.write_text("[000] 1.000000: 12 1000\n" * 50 + "[000] 2.000000: 12 1000\n" * 50)
    assert read(path) == [(10**9, 0, 1, 12), (2 * 10**9, 0, 1, 12)]


def test_more_at_one_instant_than_are_remembered_all_count(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"[000] 1.000000: 12 {page << 12:x}\n" for page in range(1, 201)))
    assert len(read(path)) == 200


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        (f" {100_003:10d} ", 1),  # -F cpu,time,period,phys_addr
        (f" {7:10d} ", 1),
        (f" {1_234_567_890:10d} ", 1),
        (f" {12_345_678_901:10d} ", 1),
        (f" {100_003:10d} {42:16d}", 42),
        (f" {12_345_678_901:10d} {42:16d}", 42),
        (f" {42:16d}", 42),
        (f" {100_003:16d}", 100_003),
        (f" {10**16:16d}", 10**16),
        (" 42", 42),  # blanks were squeezed
        (f" {100_003:10d} mem-loads: {42:16d}", 42),
        (f" mem-loads: {42:16d}", 42),
    ],
)
def test_a_period_is_no_weight(tmp_path: Path, fields: str, weight: int) -> None:
    path = tmp_path / "period.txt"
    path.write_text(f"[003]  1234.567890:{fields} {0x410203040:>16x}\n")
    assert read(path) == [(1_234_567_890_000, 3, 0x410203, weight)]


def test_with_command_pid_period_and_event() -> None:
    # A command may be called anything, also like the fields behind it.
    assert read(DATA / "perf-comm-pid-event.txt") == [
        (83_001_123_456_789, 12, 0x2F921BE, 311),
        (83_001_123_456_790, 1, 0x10, 1),
        (83_001_200_000_000, 999, 0x3FFFFFFFFF, 999_999_999_999_999_999),
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"[000] 0.000000: 1\n", (0, 0, 0, 1)),
        (b"[000] 0.000000000: 4 1000\n", (0, 0, 1, 4)),
        (b"[007] 9000000000.999999: 4 1fff\n", (9_000_000_000_999_999_000, 7, 1, 4)),
        (b"\t [0]\t1.000001:  0 fffffffffffff \r\n", (1_000_001_000, 0, (1 << 40) - 1, 0)),
        (b"[00] [0] [2] 1.000000: mem-loads:ppp: 9 3000\n", (10**9, 2, 3, 9)),
    ],
)
def test_one_line(tmp_path: Path, line: bytes, found: tuple[int, int, int, int]) -> None:
    path = tmp_path / "t"
    path.write_bytes(line)
    assert read(path) == [found]


GOOD = b"[000] 1.000000: 4 1000\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"hello world\n", "physical address"),
        (b"[000] 1.000000: 4 ffff802f921be0d0\n", "physical address"),
        (b"[000] 1.000000: 4 0x1000\n", "physical address"),
        (b"[000] 1.000000: 4 1000 4K\n", "physical address"),  # data_page_size
        (b"[000] 1.000000: ab 1000\n", "weight"),
        (b"[000] 1.000000: 1234567890123456789 1000\n", "weight"),
        (b"[000] 1.000000: 4 5 1000\n", "no time"),  # ins_lat, or addr
        (b"[000] 1.000000: 4 1000 7f5 (/usr/bin/x)\n", "physical address"),
        (b"[000] 1.000000: 7ff0 |OP LOAD|LVL L1 hit| 4 1000\n", "no time"),  # data_src
        (b"[000] 1.00000: 4 1000\n", "no time"),
        (b"[000] 1.0000000: 4 1000\n", "no time"),
        (b"[000] 1: 4 1000\n", "no time"),
        (b"[000] -1.000000: 4 1000\n", "no time"),
        (b"[000] 9000000001.000000: 4 1000\n", "no time"),
        (b"[000] 1.000000 4 1000\n", "no time"),
        (b"4 1000\n", "no time"),
        (b"1000\n", "no time"),
        (b"1.000000: 4 1000\n", "no CPU"),
        (b"000 1.000000: 4 1000\n", "no CPU"),
        (b"[-01] 1.000000: 4 1000\n", "no CPU"),
        (b"[] 1.000000: 4 1000\n", "no CPU"),
        (b"[12345678] 1.000000: 4 1000\n", "no CPU"),
        (b"[000] 0.999999: 4 1000\n", "earlier than the line before"),
        (b"[000] 0.999999999: 4 0\n", "earlier than the line before"),
        (
            b"kdamond.0 4452 [000] 2.000000: damon:damon_aggregated: target_id=0 nr_regions=17 1-2: 0 3\n",
            "no time",
        ),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: bytes, why: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"# comment\n\n" + GOOD + line + GOOD)
    with pytest.raises(InputError, match=rf"t\.txt:4: .*{why}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n_bytes", range(1, len(GOOD)))
def test_a_file_cut_anywhere_in_a_line(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(2 * GOOD + GOOD[:n_bytes])
    with pytest.raises(InputError, match=r"t\.txt:3: the trace ends in the middle of this line"):
        read(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"t\.txt:1: the trace is empty"),
        (b"PERFILE2\x68\0\0\0", "turn it into text: perf script -i"),
        (b"\x7fELF\x02\x01\x01\0\n", r"t\.txt:1: "),
        (b"\0" * 4096 + b"\n", r"t\.txt:1: "),
        (b"\0" * 70_000, r"t\.txt:1: .*longer than"),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=why):
        read(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the trace .*: No such file or directory; give"):
        open_trace(tmp_path / "none")
    with pytest.raises(InputError, match="not a file, and a trace is read twice"):
        open_trace(tmp_path)


samples = st.lists(
    st.tuples(
        st.integers(0, 10**9),
        st.integers(0, 9_999_999),
        st.integers(0, (1 << 56) - 1),
        st.integers(0, 10**18 - 1),
        st.sampled_from(["", "{cpu}", "app 1/2 ", "a:b [1] 2.000000: c "]),
        st.sampled_from(["", "mem-loads:p: ", "  1000   cpu/mem-loads,ldlat=30/P: "]),
    ),
    max_size=40,
)


@given(samples, st.booleans(), st.integers(24, 400))
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, listed: list, ns: bool, block: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.txt"
    now = n_unresolved = 0
    lines, expected, seen = ["# captured on: today"], [], set()
    for gap, cpu, address, weight, comm, event in listed:
        now += gap if ns else gap // 1000 * 1000
        fraction = f"{now % 10**9:09d}" if ns else f"{now % 10**9 // 1000:06d}"
        comm = comm.format(cpu=f"[{cpu:03d}] ")
        lines.append(f"{comm}[{cpu:03d}] {now // 10**9:5d}.{fraction}: {event}{weight:16d}{address:16x}")
        n_unresolved += not address
        is_new = address and (now, cpu, address) not in seen
        seen.add((now, cpu, address))
        expected += [(now, cpu, address >> 12, weight)] if is_new else []
    path.write_text("\n".join(lines) + "\n")
    # Blocks of any size cut lines anywhere.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perf, "_BLOCK_BYTES", block)
        assert read(path) == expected
        assert unresolved(path) == n_unresolved


@given(st.binary(max_size=300), st.integers(0, 3))
@example(b"[", 0)
@example(b"x", 0)
@example(b"x\x9c\n", 0)
@settings(max_examples=300, deadline=None)
def test_anything_is_read_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, n_good: int
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.txt"
    path.write_bytes(GOOD * n_good + junk)
    said = complaint(path)
    assert "\n" not in said
    if said and n_good and b"\n" not in junk:
        assert f"t.txt:{n_good + 1}: " in said


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_a_damaged_trace_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n_changes: int
) -> None:
    rng = random.Random(seed)
    text = bytearray((DATA / "perf-comm-pid-event.txt").read_bytes())
    for _ in range(n_changes):
        text[rng.randrange(len(text))] = rng.choice(b" \n:.[]0fz\0\xff")
    path = tmp_path_factory.mktemp("t") / "t.txt"
    path.write_bytes(text)
    said = complaint(path)
    assert "\n" not in said
    if not said:
        times = [time_ns for time_ns, *_ in read(path)]
        assert times == sorted(times)


@pytest.mark.parametrize("first", range(60, 70))
def test_lines_swapped_in_or_between_later_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(perf, "_BLOCK_BYTES", 100)  # four lines of 27 bytes, nearly
    lines = [f"[000] {second}.000000: 4 1000\n" for second in range(1000, 1100)]
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    path = tmp_path / "t.txt"
    path.write_text("".join(lines))
    with pytest.raises(InputError, match=rf"t\.txt:{first + 2}: the line is earlier"):
        read(path)


padded = st.tuples(
    st.sampled_from(["", " ", "app 1/2 ", "redis-server   4711/4711 ", "#", "[1] ", "a[003] "]),
    st.sampled_from(["[{:03d}]", "[{:03d}] ", "[{:d}] ", "{:03d} "]),
    st.sampled_from(["{:5d}.{:06d}:", "{:d}.{:06d}000:", "{:12d}.{:06d}:", "{:5d}.{:06d}"]),
    st.sampled_from(
        ["", " ld:", "     100003", "     1000 cpu/mem-loads,ldlat=30/P:", " 1.000000:", " a.b.c.d.e:"]
    ),
    st.sampled_from(["", " {:16d}", " {:>16d}", " {:d}", "{:17d}", " {:016d}"]),
    st.sampled_from(["{:17x}", " {:16x}", " {:016x}", " {:x}", "{:16x}"]),
    st.integers(0, 1100),
    st.integers(0, 20_000_000_000),
    st.integers(0, 10**17),
    st.integers(0, 1 << 62),
)


@given(st.lists(padded, min_size=1, max_size=12), st.integers(0, 2**32), st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_lines_eight_characters_at_a_time_are_what_they_are_by_words(
    listed: list, seed: int, n_changes: int
) -> None:
    rng = random.Random(seed)
    text = bytearray()
    for comm, cpu, when, event, weight, address, number, seconds, heavy, where in listed:
        digits = rng.randrange(1, 16)
        parts = (cpu.format(number), when.format(seconds >> rng.randrange(35), number), event)
        text += (comm + "".join(parts)).encode()
        text += (weight.format(heavy % 10**digits) + address.format(where % 16**digits)).encode() + b"\n"
    for _ in range(n_changes):
        text[rng.randrange(len(text) - 1)] = rng.choice(b" \n:.[]09afg\0\xff()#-")
    found = []
    for is_slow in (False, True):
        padded = np.frombuffer(bytes(text) + bytes(perf_lines.PAD_BYTES), dtype=np.uint8)
        columns = [np.zeros(len(text), dtype=dtype) for dtype in (np.int64, np.int32, np.int64, np.int64)]
        instant = np.full((perf_lines.N_OF_INSTANT, 2), -1, dtype=np.int64)
        state = np.zeros(perf_lines.N_STATE, dtype=np.int64)
        state[perf_lines.LAST_NS] = -1
        parse: Any = perf_lines.parse_lines
        parse(padded, len(text), *columns, instant, state, is_slow)
        found.append([state.tolist(), *(column.tolist() for column in columns)])
    assert found[0] == found[1]


def test_progress_counts_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "_BLOCK_BYTES", 100)
    path = tmp_path / "t.txt"
    path.write_bytes(GOOD * 50)
    seen: list[int] = []
    for _ in open_trace(path).blocks(seen.append):
        pass
    assert sum(seen) == path.stat().st_size
    assert max(seen) <= 100


def test_part_of_the_samples() -> None:
    whole = np.arange(5)
    part = Samples(whole, whole.astype(np.int32), whole, whole, whole, n_unresolved=3)[1:3]
    assert (len(part), part.pfn.tolist(), part.n_unresolved) == (2, [1, 2], 0)


@pytest.mark.slow
@pytest.mark.alone
def test_a_trace_of_ten_million_samples_is_read_at_eight_million_a_second(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    n_samples = 10_000_000
    with path.open("w") as file:
        for low in range(0, n_samples, 100_000):
            file.write(
                "".join(
                    f"[{i % 64:03d}] {1000 + i // 1_000_000:5d}.{i % 1_000_000:06d}: "
                    f"{i % 700:16d}{(i * 28_672) % (1 << 36) + 4096:16x}\n"
                    for i in range(low, low + 100_000)
                )
            )
    seconds = []
    for _ in range(3):
        start = time.process_time()
        n_read = sum(len(block) for block in open_trace(path).blocks())
        seconds.append(time.process_time() - start)
        assert n_read == n_samples
    # Compiling the parser, where nothing is cached yet, falls on the first.
    rate = n_samples / min(seconds)
    sys.stdout.write(f"{rate / 1e6:.2f} M samples/s, of {[round(n_samples / s / 1e6, 2) for s in seconds]}\n")
    assert rate >= 8e6  # 20 alone; other work on the machine takes half of it
