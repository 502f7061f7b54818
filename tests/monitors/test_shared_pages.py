"""Who is asked about shared folios, and when."""

from __future__ import annotations

import numpy as np
import pytest

from gpuscan.linux.address_map import Trait
from gpuscan.linux.numa import Allowance
from gpuscan.linux.sharing import Sharing
from gpuscan.linux.system import System
from gpuscan.monitors.shared import SharedPages, Sharer
from gpuscan.monitors.treatment import Treatment
from gpuscan.monitors.wanted import Wanted
from procfs import FakeProcess

AT = 0x10000
FRAMES = np.arange(40, 48)


class Bed:
    """Processes of a server that map the same pages, and what a look finds of one of them."""

    def __init__(self, root, monkeypatch):
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/status").write_text("CapEff:\tffffffffffffffff\n")
        self.root = root
        self.sharing = Sharing(System(root))
        self.pages = SharedPages(self.sharing)
        self.processes = {}
        self.asked: list[list[int]] = []
        look_again = Sharing.look_again

        def asked(sharing, pfns, addresses, processes):
            self.asked.append(pfns.tolist())
            look_again(sharing, pfns, addresses, processes)

        monkeypatch.setattr(Sharing, "look_again", asked)

    def map(self, *numbers):
        """Have these processes map the pages, too."""
        for number in numbers:
            process = self.processes[number] = FakeProcess(self.root, 70 + number)
            process.map(AT, FRAMES, exclusive=False)
            (process.proc / "maps").write_text(f"{AT:x}-{AT + 0x8000:x} rw-s 00000000 00:00 0 \n")
        counts = np.zeros(64, dtype=np.uint64)
        counts[FRAMES] = len(self.processes)
        (self.root / "proc/kpagecount").write_bytes(counts.tobytes())

    def begin(self, treatment, cold=()):
        """Begin a look at all of them, who have these cold pages."""
        allowance = Allowance(frozenset({0, 1}), np.array([0]), (None,), {}, np.array([AT]))
        sharers = [Sharer(number, one, allowance, treatment) for number, one in self.processes.items()]
        self.pages.begin(sharers, cold)
        self.pages.bring_up_to_date()

    def judge(self, number):
        """Return which pages are known, of those that one process was seen with."""
        return self.verdict(number, "up").is_known

    def verdict(self, number, way):
        """Return what is to be done with the pages."""
        folios = Wanted(
            FRAMES,
            np.zeros(8, dtype=np.int64),
            AT + 0x1000 * np.arange(8),
            np.ones(8, dtype=np.int32),
            np.full(8, number),
            np.full(8, int(Trait.SHARED)),
        )
        return self.pages.judge(number, folios, way)


@pytest.fixture
def bed(tmp_path, monkeypatch):
    bed = Bed(tmp_path, monkeypatch)
    yield bed
    bed.sharing.close()


def test_what_all_judged_is_looked_for_once_when_the_next_look_begins(bed):
    bed.map(1, 2, 3)
    bed.begin(Treatment())
    bed.map(4)
    assert not any(bed.judge(number).any() for number in (1, 2, 3))
    bed.begin(Treatment())
    assert all(bed.judge(number).all() for number in (1, 2, 3, 4))
    assert bed.asked == [[], 3 * FRAMES.tolist()]


def test_what_was_judged_is_looked_for_when_somebody_asks_again(bed):
    bed.map(1, 2, 3)
    bed.begin(Treatment())
    bed.map(4)
    assert not bed.judge(1).any()
    for _ in range(3):  # looks that find no shared page
        bed.pages.begin([], [])
    bed.begin(Treatment())
    assert bed.judge(1).all()
    bed.pages.begin([], [])
    bed.begin(Treatment())
    assert bed.asked == [[], FRAMES.tolist(), FRAMES.tolist()]


def test_cold_for_all_is_found_however_the_pages_of_each_are_ordered(bed):
    bed.map(1, 2)
    for cold, expected in (([FRAMES[::-1], FRAMES[:4][::-1]], 4), ([FRAMES[::-1], FRAMES[:0]], 0)):
        bed.begin(Treatment(demotes=True), cold)
        assert bed.verdict(1, "down").is_cold.sum() == expected


def test_page_tables_are_read_once_a_look_and_only_if_somebody_asks(bed, monkeypatch):
    read = []
    monkeypatch.setattr(Sharing, "read", lambda _sharing, processes: read.append(len(list(processes))))
    bed.map(1, 2)
    bed.begin(Treatment())
    bed.pages.bring_up_to_date()
    assert read == [2]
    bed.pages.begin([], [])
    assert read == [2]


def test_whose_pages_always_move_does_not_ask(bed):
    bed.map(1, 2, 3)
    bed.begin(Treatment(shared="always"))
    bed.map(4)
    assert bed.judge(1).all()
    bed.begin(Treatment(shared="always"))
    assert bed.asked == [[], []]
