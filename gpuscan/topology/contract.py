"""What a machine source declares: a kind of file or directory that says what a machine has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpuscan.base.units import PAGE_BYTES
from gpuscan.topology.model import Topology

START_BYTES = 4096
"""Of a file, by which its source is told."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that was read, with what could not be told for certain, one sentence each.

    Attributes:
        topology: counted in pages of :data:`gpuscan.base.units.PAGE_BYTES`, whatever those of its kernel are.
        notes: the sentences.
        page_bytes: of its kernel's base pages, as far as it says.
    """

    topology: Topology
    notes: tuple[str, ...]
    page_bytes: int = PAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSource:
    """What a machine source declares; all of it.

    Attributes:
        about: what to give, after "give": ``text of numactl -H``.
        knows: says by its path and its first :data:`START_BYTES` whether a file is one; of a directory there
            are no bytes. Must not raise, and must not take what another source knows.
        read: returns the machine. Raises an :class:`gpuscan.base.errors.InputError` (a
            :class:`gpuscan.base.errors.TopologyError` is one) that names line or key where the file is cut
            short, contradicts itself or is foreign. The file may be anybody's: what it says of itself is not
            believed, and what is read of it is bounded.
    """

    about: str
    knows: Callable[[Path, bytes], bool]
    read: Callable[[Path], Host]
