"""NUMA balancing between memory tiers: faults tell what is hot, and reclaim moves down what is not.

It is one for the whole machine. A rate holds for what goes up, and of each node by itself; nothing bounds
what reclaim moves down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gpuscan.base.errors import InputError
from gpuscan.linux.capabilities import Right
from gpuscan.linux.kernel_settings import DEMOTION, NUMA_BALANCING, PROMOTION_RATE, KernelSettings
from gpuscan.linux.targets import Targets
from gpuscan.linux.vmstat import moved_by_kernel
from gpuscan.service.helpers.contract import HelperKind, Moved, Place, Work

if TYPE_CHECKING:
    from gpuscan.service.config import Rule

_BETWEEN_TIERS = 2
_MIB = 1 << 20
_SYSCTL = Right("CAP_SYS_ADMIN", "to set kernel.numa_balancing")
"""And root, whatever the capabilities are (test_perm(), fs/proc/proc_sysctl.c)."""
_SYSFS = Right("CAP_DAC_OVERRIDE", "to set /sys/kernel/mm/numa, which root owns", unless_root=True)


class NumaBalancing:
    """The settings, taken.

    Args:
        place: where.

    Raises:
        InputError: this kernel cannot, or they may not be set.
    """

    name = "numa-balancing"

    def __init__(self, place: Place) -> None:
        self._system = place.system
        self._n_targets = len(set(Targets(place.topology).promotion.values()))
        if not self._n_targets:
            raise InputError(
                "NUMA balancing moves pages to nodes with CPUs of the top tier, and nothing is below one "
                "here; let gpuscan move them"
            )
        self._settings = KernelSettings(place.system)
        try:
            for name in (NUMA_BALANCING, DEMOTION):
                self._settings.check(name)
            self._since = moved_by_kernel(self._system)
        except BaseException:
            self._settings.close()
            raise
        self._works: tuple[Work, ...] = ()
        self._moved: dict[str, Moved] = {}

    def use(self, works: Sequence[Work]) -> None:
        """See :class:`gpuscan.service.helpers.contract.Helper`; of two rules none could be told apart."""
        rules = [work.rule for work in works]
        if rules == [work.rule for work in self._works]:
            return
        if not self._works:
            self._count()  # before it is set, and after it is put back: what moves between counts
        try:
            self._settings.set(self._wanted(rules[0]) if rules else {})
            if self._works:
                self._count()
        finally:
            self._works = tuple(works)

    def _wanted(self, rule: Rule) -> dict[str, str]:
        wanted: dict[str, str] = {}
        if rule.rate is not None:
            wanted[PROMOTION_RATE] = str(rule.rate // (self._n_targets * _MIB))
            if wanted[PROMOTION_RATE] == "0":
                raise InputError(
                    f"rule {rule.name}: the kernel keeps a rate in whole MiB/s of each of "
                    f"{self._n_targets} nodes, and this is less than one; give more, or none"
                )
        if rule.demotes:
            wanted[DEMOTION] = "true"
        if rule.promotes:  # with what balances between nodes with CPUs, where that is on
            before = int(self._settings.read(NUMA_BALANCING))
            wanted[NUMA_BALANCING] = str(before | _BETWEEN_TIERS)
        return wanted

    def _count(self) -> None:
        """Add what was moved since that was last asked to the rule that is carried out."""
        now = moved_by_kernel(self._system)
        for work in self._works:
            promoted, demoted = self._moved.get(work.rule.name, Moved())
            if work.rule.promotes:
                promoted += now.promoted_pages - self._since.promoted_pages
            if work.rule.demotes:
                demoted += now.demoted_pages - self._since.demoted_pages
            self._moved[work.rule.name] = Moved(promoted, demoted)
        self._since = now

    def moved(self) -> Mapping[str, Moved]:
        """See :class:`gpuscan.service.helpers.contract.Helper`; all that moved since it was told."""
        self._count()
        return self._moved

    def trouble(self) -> str:
        """Return which settings somebody else changed: they meant it, so it is not set again."""
        return "; ".join(self._settings.changed_by_others())

    def cpu_s(self) -> float:
        """Return 0: the processes themselves take the time."""
        return 0.0

    def close(self) -> None:
        """Put the settings back."""
        self._settings.close()


def _misfit(rule: Rule) -> str:
    if rule.rate is not None and rule.demotes:
        return 'a rate bounds what goes up, and nothing what goes down; write policy = "promote", or no rate'
    return ""


HELPER = HelperKind(
    place=10,
    does="NUMA balancing between memory tiers, and demotion by reclaim",
    chooses_by=frozenset(),
    goes_by=frozenset({"rate"}),
    heeds_tiers=False,
    misfit=_misfit,
    alone=None,
    keeps=(_SYSCTL, _SYSFS),
    open=NumaBalancing,
)
