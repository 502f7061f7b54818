"""What happened since it was last asked: time, CPU time, and what policies did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gpuscan.linux.system import System
from gpuscan.service.governor import PolicyState


class Since:
    """Differences.

    Args:
        system: whose clocks count.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._looked_ns = self._budget_at_ns = system.monotonic_ns()
        self._cpu_s = self._noted_cpu_s = system.process_time()
        self._noted_ns = self._looked_ns
        self._before: dict[str, tuple[Counter[int], int, Counter[str]]] = {}

    def look(self) -> tuple[int, int]:
        """Return the CPU time of this process, and the time, since the last call; in ns."""
        now_ns, cpu_s = self._system.monotonic_ns(), self._system.process_time()
        found = int(1e9 * (cpu_s - self._cpu_s)), now_ns - self._looked_ns
        self._looked_ns, self._cpu_s = now_ns, cpu_s
        return found

    def budget_ns(self) -> int:
        """Return the time since the last call of this one."""
        now_ns = self._system.monotonic_ns()
        found, self._budget_at_ns = now_ns - self._budget_at_ns, now_ns
        return found

    def cost(self) -> dict[str, float]:
        """Return the CPU time of this process, and within how much time, since the last call; in seconds."""
        now_ns, cpu_s = self._system.monotonic_ns(), self._system.process_time()
        found = {
            "cpu_s": round(cpu_s - self._noted_cpu_s, 6),
            "within_s": round((now_ns - self._noted_ns) / 1e9, 6),
        }
        self._noted_ns, self._noted_cpu_s = now_ns, cpu_s
        return found

    def changes(self, policies: Mapping[str, PolicyState]) -> dict[str, dict[str, Any]]:
        """Return what each policy did since the last call, those that did nothing left out."""
        found: dict[str, dict[str, Any]] = {}
        self._before = {name: before for name, before in self._before.items() if name in policies}
        for name, state in policies.items():
            moved, demoted, refused = self._before.get(name, (Counter(), 0, Counter()))
            new_moved, new_refused = state.moved_to - moved, state.refused - refused
            if new_moved or new_refused:
                found[name] = {
                    "moved_pages_to": {str(nid): n for nid, n in sorted(new_moved.items())},
                    "demoted_pages": state.demoted_pages - demoted,
                    "refused": dict(new_refused.most_common()),
                }
            self._before[name] = state.moved_to.copy(), state.demoted_pages, state.refused.copy()
        return found
