"""The processes that rules choose, among all of the machine.

All of /proc is listed each time; what rules ask of a process is three files more. So it is kept. It is read
anew each time of those that are watched and of those that just came, who may yet execute another program,
and of all others by turns: a process may be put into another cgroup later.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter, deque
from collections.abc import Sequence

from gpuscan.linux.process import read_stat
from gpuscan.linux.system import System
from gpuscan.service.config import Rule
from gpuscan.service.rules import Facts, Verdict, verdict

_AGAIN_AT_A_TIME = 64
_YOUNG_LOOKS = 4
_UIDS = re.compile(r"^Uid:\s+[0-9]+\s+([0-9]+)", re.MULTILINE)
_PARENT = re.compile(r"^PPid:\s+([0-9]+)", re.MULTILINE)
_MEMORY = "memory"
MOST_PROCESSES = 512
"""Each that is watched takes a descriptor; of more, those with the lowest PIDs are."""


def read_facts(pid: int, system: System, *, but_children_of: int = 0) -> Facts | None:
    """Return what rules ask of a process; None where there is none, or it is a thread of the kernel's.

    The user is the one in effect, as ``ps`` shows it.

    Args:
        pid: of it.
        system: where it runs.
        but_children_of: whose children are as if they were not there.
    """
    stat = read_stat(pid, system)
    if stat is None or stat.is_kernel_thread or stat.state == "Z":
        return None
    try:
        cgroups = system.read_text(system.root / f"proc/{pid}/cgroup")
        status = system.read_text(system.root / f"proc/{pid}/status")
    except (FileNotFoundError, ProcessLookupError):
        return None
    parent = _PARENT.search(status)
    if parent is not None and int(parent[1]) == but_children_of:
        return None
    uid = _UIDS.search(status)
    number = int(uid[1]) if uid else -1
    return Facts(pid, stat.comm, system.user_name(number), number, cgroup_of(cgroups))


def cgroup_of(text: str) -> str:
    """Return the cgroup in /proc/PID/cgroup: that of v2, else of v1's memory controller (cgroups(7))."""
    found = "/"
    for line in text.split("\n"):  # names of cgroups may have other ends of lines in them
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers and path != "/":
            return path
        if _MEMORY in controllers.split(","):
            found = path
    return found


class RuleSelection:
    """A :class:`gpuscan.live.members.Selection`: those processes for which a rule has work.

    Args:
        rules: in their order.
        system: where they run.
    """

    changes = True

    def __init__(self, rules: Sequence[Rule], system: System) -> None:
        self._rules = tuple(rules)
        self._system = system
        self._facts: dict[int, Facts | None] = {}
        self._again: deque[int] = deque()
        self._n_read: Counter[int] = Counter()
        self.verdicts: dict[int, Verdict] = {}
        """Of those that are selected, by PID."""
        self.helped: dict[str, dict[int, str]] = {}
        """The cgroup of each process of which the kernel moves the pages, by rule and PID."""
        self.n_left_out = 0
        """Processes that a rule is for, beyond those that can be watched."""

    def use(self, rules: Sequence[Rule]) -> None:
        """Go by other rules from now on."""
        self._rules = tuple(rules)

    def pids(self) -> list[int]:
        """Return the PIDs of those that a rule is for by which gpuscan itself does something."""
        listed = {int(name) for name in self._system.names_in(self._system.root / "proc") if name.isdigit()}
        listed.discard(self._system.getpid())
        for pid in self._facts.keys() - listed:
            del self._facts[pid], self._n_read[pid]
        for pid in self._due(listed):
            self._facts[pid] = self._read(pid)
            self._n_read[pid] += 1
        self.verdicts, self.helped = {}, {}
        for pid, facts in self._facts.items():
            if facts is None:
                continue
            found = verdict(self._rules, facts)
            if found.rule is None or found.rule.policy == "off":
                continue
            if found.rule.is_own:
                self.verdicts[pid] = found
            else:
                self.helped.setdefault(found.rule.name, {})[pid] = facts.cgroup
        chosen = sorted(self.verdicts)
        self.n_left_out = len(chosen[MOST_PROCESSES:])
        return chosen[:MOST_PROCESSES]

    def _due(self, listed: set[int]) -> set[int]:
        """Return whom to read: those that are new or selected, and some of the others."""
        due = {pid for pid in listed if self._n_read[pid] < _YOUNG_LOOKS or pid in self.verdicts}
        if not self._again:
            self._again.extend(sorted(listed - due))
        for _ in range(min(_AGAIN_AT_A_TIME, len(self._again))):
            pid = self._again.popleft()
            if pid in listed:
                due.add(pid)
        return due

    def _read(self, pid: int) -> Facts | None:
        with contextlib.suppress(OSError):  # hidepid: not ours to see; or a file of it fails
            return read_facts(pid, self._system, but_children_of=self._system.getpid())
        return None
