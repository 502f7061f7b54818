"""DAMON's schemes: a kdamond for each node finds what is hot and cold there, and moves it.

Memory is told apart by the cgroup that it is charged to. DAMON asks neither cpuset nor memory policy, and
moves pages that several processes map like all others (mm/damon/paddr.c, v6.12).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux.cgroups import CGROUPS
from gpuscan.linux.damon_schemes import MigratingDamon, Scheme
from gpuscan.linux.damon_taken import SYSFS
from gpuscan.linux.targets import Targets
from gpuscan.service.helpers.contract import HelperKind, Moved, Place, Work

if TYPE_CHECKING:
    from gpuscan.service.config import Rule

MOST_CGROUPS = 64
_LEAST_SLOTS = 8
_ASK_NS = 10_000_000_000
"""The kernel is asked this often what it has moved: that takes a tenth of a second for each node."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """Memory that one rule is for: that of a cgroup, until it is removed; "" for all memory.

    A cgroup that is made anew under its name has another inode; the kernel's filter is for the one before.
    """

    rule: str
    cgroup: str
    inode: int


@dataclass(slots=True)
class _Node:
    """A node that pages leave: one kdamond.

    Attributes:
        ranges: its memory, ``[start, end)`` in bytes.
        ways: where pages go, and whether hot ones do.
        told_bytes: what each scheme has moved, as the kernel last said.
    """

    ranges: list[tuple[int, int]]
    ways: list[tuple[int, bool]]
    told_bytes: list[int] = field(default_factory=list)


class DamonSchemes:
    """DAMON, taken.

    Args:
        place: where.

    Raises:
        InputError: it cannot be had, or moves no pages.
    """

    name = "damon-schemes"

    def __init__(self, place: Place) -> None:
        self._system = place.system
        self._targets = Targets(place.topology)
        self._topology = place.topology
        self._damon = MigratingDamon(place.system)
        self._rules: dict[str, Rule] = {}
        self._nodes: list[_Node] = []
        self._slots: list[_Memory | None] = []
        """What the schemes at a place are for; None: they are idle, and what they moved is counted."""
        self._is_committed = True
        self._pages: Counter[tuple[str, bool]] = Counter()
        """Base pages moved, by rule and whether they were hot."""
        self._asked_ns = place.system.monotonic_ns()
        self._left_out: list[str] = []
        self._trouble = ""

    def use(self, works: Sequence[Work]) -> None:
        """See :class:`gpuscan.service.helpers.contract.Helper`."""
        rules = {work.rule.name: work.rule for work in works}
        wanted = self._wanted(works)
        if rules != self._rules or len(wanted) > len(self._slots):
            self._stop()
            self._rules = rules
            if wanted:
                self._start(wanted)
            return
        gone = [place for place, memory in enumerate(self._slots) if memory and memory not in wanted]
        new = [memory for memory in wanted if memory not in self._slots]
        if gone:  # counted before somebody else has their places
            self._commit([None if place in gone else memory for place, memory in enumerate(self._slots)])
            self._ask()
            for place in gone:
                self._slots[place] = None
        if new:
            for memory in new:
                self._slots[self._slots.index(None)] = memory
            self._is_committed = False
        if not self._is_committed:
            self._commit(self._slots)

    def _wanted(self, works: Sequence[Work]) -> list[_Memory]:
        """Return the memory that the rules are for; what is left out is kept for the status."""
        self._left_out = []
        found: list[_Memory] = []
        for work in works:
            if work.is_all:
                return [_Memory(work.rule.name, "", 0)]
            for cgroup in sorted(work.cgroups):
                place = self._system.root / CGROUPS / cgroup.lstrip("/")
                if not self._system.is_file(place / "memory.events"):
                    self._left_out.append(f"cgroup {cgroup} has no memory of its own (memory controller, v2)")
                elif len(found) == MOST_CGROUPS:
                    self._left_out.append(f"cgroup {cgroup} is one more than {MOST_CGROUPS}")
                else:
                    found.append(_Memory(work.rule.name, cgroup, self._system.inode(place)))
        return found

    def _start(self, wanted: Sequence[_Memory]) -> None:
        self._nodes = []
        for node in self._topology.nodes:
            ranges = [
                (start * PAGE_BYTES, end * PAGE_BYTES) for zone in node.zones for start, end in zone.present
            ]
            ways = [
                (targets[node.nid], is_hot)
                for is_hot, targets, is_asked in (
                    (True, self._targets.promotion, any(rule.promotes for rule in self._rules.values())),
                    (False, self._targets.demotion, any(rule.demotes for rule in self._rules.values())),
                )
                if is_asked and node.nid in targets
            ]
            if ranges and ways:
                self._nodes.append(_Node(sorted(ranges), ways))
        n_slots = max(_LEAST_SLOTS, 1 << (len(wanted) - 1).bit_length())
        if not wanted[0].cgroup:
            n_slots = 1
        slots = [*wanted, *[None] * (n_slots - len(wanted))]
        self._damon.start([node.ranges for node in self._nodes], self._schemes(slots))
        self._slots, self._is_committed = slots, True
        for each in self._nodes:
            each.told_bytes = [0] * (n_slots * len(each.ways))

    def _schemes(self, slots: Sequence[_Memory | None]) -> list[list[Scheme]]:
        """Return the schemes of each node: those of one place beside each other, one for each way."""
        n_schemes = Counter(
            memory.rule
            for memory in slots
            if memory is not None
            for node in self._nodes
            for _, is_hot in node.ways
            if self._moves(memory.rule, is_hot=is_hot)
        )
        return [
            [self._scheme(memory, *way, n_schemes) for memory in slots for way in node.ways]
            for node in self._nodes
        ]

    def _moves(self, rule: str, *, is_hot: bool) -> bool:
        return self._rules[rule].promotes if is_hot else self._rules[rule].demotes

    def _scheme(
        self, memory: _Memory | None, target_nid: int, is_hot: bool, n_schemes: Mapping[str, int]
    ) -> Scheme:
        if memory is None or not self._moves(memory.rule, is_hot=is_hot):
            return Scheme(target_nid, is_hot)
        rule = self._rules[memory.rule]
        rate = 0 if rule.rate is None else max(1, rule.rate // n_schemes[memory.rule])
        return Scheme(target_nid, is_hot, memory.cgroup, rule.cold_after or 0, rate)

    def _commit(self, slots: Sequence[_Memory | None]) -> None:
        self._is_committed = False
        self._damon.commit(self._schemes(slots))
        self._is_committed = True

    def _ask(self) -> None:
        """Ask the kernel what it has moved, and book it to whom the schemes were for."""
        self._asked_ns = self._system.monotonic_ns()
        told = self._damon.moved_bytes([len(node.told_bytes) for node in self._nodes])
        for node, now in zip(self._nodes, told, strict=True):
            for place, (n_bytes, before) in enumerate(zip(now, node.told_bytes, strict=True)):
                memory = self._slots[place // len(node.ways)]
                if memory is not None:
                    is_hot = node.ways[place % len(node.ways)][1]
                    self._pages[memory.rule, is_hot] += (n_bytes - before) // PAGE_BYTES
            node.told_bytes = now

    def _stop(self) -> None:
        """Stop the kdamonds; what they moved is counted first, while they move no more."""
        if not self._slots:
            return
        try:
            self._commit([None] * len(self._slots))
            self._ask()
        except InputError as error:  # what they moved since it was last asked is not known then
            self._trouble = str(error)
        finally:
            self._slots, self._nodes, self._is_committed = [], [], True
            self._damon.stop()

    def moved(self) -> Mapping[str, Moved]:
        """See :class:`gpuscan.service.helpers.contract.Helper`; as it was ten seconds ago at most."""
        if self._slots and self._system.monotonic_ns() - self._asked_ns >= _ASK_NS:
            try:
                self._ask()
                self._trouble = ""
            except InputError as error:
                self._trouble = str(error)
        rules = {rule for rule, _ in self._pages}
        return {rule: Moved(self._pages[rule, True], self._pages[rule, False]) for rule in rules}

    def trouble(self) -> str:
        """Return what was left out, and what the kernel refused."""
        n = len(self._left_out)
        left_out = f"{n} cgroups are left out, the first: {self._left_out[0]}" if n else ""
        return "; ".join(filter(None, (left_out, self._trouble)))

    def cpu_s(self) -> float:
        """Return the CPU time of the kdamonds."""
        return self._damon.cpu_s()

    def close(self) -> None:
        """Give DAMON back."""
        try:
            self._stop()
        finally:
            self._damon.close()


def _misfit(rule: Rule) -> str:
    if rule.demotes and rule.cold_after is None:
        return 'it has no cold_after = "auto"; give a time'
    return ""


HELPER = HelperKind(
    place=20,
    does="DAMON's schemes migrate_hot and migrate_cold",
    chooses_by=frozenset({"cgroup", "unit"}),
    goes_by=frozenset({"rate", "cold_after"}),
    heeds_tiers=True,
    misfit=_misfit,
    alone=SYSFS,
    keeps=(SYSFS,),
    open=DamonSchemes,
)
