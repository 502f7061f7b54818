"""What a backend declares; what one does is in :mod:`gpuscan.kernels.api`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gpuscan.kernels.api import Backend


class Probe(NamedTuple):
    """What a backend would find on this machine.

    Attributes:
        usable: whether it can be opened, as far as can be told without opening it.
        is_there: whether the hardware is there, usable or not.
        says: one line about both; where it is not usable, why and what to do. Empty for what is always there.
    """

    usable: bool
    is_there: bool
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendKind:
    """What a backend declares; all of it.

    Attributes:
        place_in_auto: ``auto`` takes the first that can be opened, by ascending places; None: only taken by
            its name. The built-in ones have 10 and 20.
        because: why ``auto`` takes it where it does.
        extra: of gpuscan, that brings what it needs; empty where it needs nothing, or is of another package.
        can_fail: whether it may fail in the middle of a run, as a device does that is not the host itself. Of
            those that cannot, the first of ``auto`` takes over with ``--fallback``.
        probe: looks what is there; quick, starts nothing, imports nothing large.
        open: opens it, with so many threads where it has any (None: one per CPU that the process may use).
            Raises a :class:`DeviceError` where it cannot be had; its ``name`` is what it is asked for by.
        in_short: what to say of one that is open, beside its name: ``2 threads``; may be empty.
    """

    place_in_auto: int | None
    because: str
    extra: str
    can_fail: bool
    probe: Callable[[], Probe]
    open: Callable[[int | None], Backend]
    in_short: Callable[[Any], str]
