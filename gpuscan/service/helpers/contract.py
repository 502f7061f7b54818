"""What a helper of the kernel offers: to carry out rules in gpuscan's place.

There is one per mechanism of the kernel; :mod:`gpuscan.service.helpers.catalogue` finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gpuscan.linux.capabilities import Right
from gpuscan.linux.system import System

if TYPE_CHECKING:
    from gpuscan.service.config import Rule
    from gpuscan.topology.model import Topology


@dataclass(frozen=True, slots=True)
class Work:
    """A rule to carry out.

    Attributes:
        rule: which.
        cgroups: those that its processes are in now, ``/`` for the top.
        is_all: it is for all processes, and there is no other rule.
    """

    rule: Rule
    cgroups: frozenset[str]
    is_all: bool


class Moved(NamedTuple):
    """Base pages that the kernel moved for a rule since the helper was opened."""

    promoted_pages: int = 0
    demoted_pages: int = 0


class Helper(Protocol):
    """A mechanism of the kernel, open.

    Attributes:
        name: as ``backend`` of a rule takes it.
    """

    name: str

    def use(self, works: Sequence[Work]) -> None:
        """Have the kernel carry out these rules and no others; with none, all is as it was found.

        Called often; what is so already stays untouched.

        Raises:
            InputError: the kernel does not take it.
            OSError: it refuses.
        """
        ...

    def moved(self) -> Mapping[str, Moved]:
        """Return what the kernel moved, by name of the rule; never less than before."""
        ...

    def trouble(self) -> str:
        """Return what keeps it from doing all that it was told, in words; empty for nothing."""
        ...

    def cpu_s(self) -> float:
        """Return the CPU time that kernel threads of its own took, in seconds."""
        ...

    def close(self) -> None:
        """Leave the kernel as it was found."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a helper is opened.

    Attributes:
        topology: of the machine, in the tiers of the configuration.
        system: its kernel.
    """

    topology: Topology
    system: System


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperKind:
    """What a helper declares; all of it.

    Attributes:
        place: of those that can carry out a rule, the one with the lowest is taken where none is named.
        does: what it is, in a few words.
        chooses_by: keys of a rule by which it tells processes apart; none: it is one for all of them.
        goes_by: other keys that it goes by, of a rule; what it does not go by may not be said.
        heeds_tiers: whether it goes by ``service.tiers``; else it knows the kernel's own tiers only.
        misfit: returns why it cannot carry out a rule whose keys it goes by; empty where it can.
        alone: what it needs for itself, by the right for that: no monitor that needs it may be named beside
            it. None: nothing.
        keeps: rights that it needs once it is open, beside those of every service.
        open: opens it. Raises an :class:`InputError` that says why where it does not work; it has changed
            nothing then.
    """

    place: int
    does: str
    chooses_by: frozenset[str]
    goes_by: frozenset[str]
    heeds_tiers: bool
    misfit: Callable[[Rule], str]
    alone: Right | None
    keeps: Sequence[Right]
    open: Callable[[Place], Helper]
