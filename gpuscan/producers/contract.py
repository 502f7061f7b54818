"""What a producer declares, and what it saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpuscan.engine.stages import FolioEvents
    from gpuscan.producers.options import Options
    from gpuscan.producers.source import Producer
    from gpuscan.sim.machine import SimulatedMachine


@dataclass(frozen=True, slots=True)
class Told:
    """A metric of a producer that a reader of a run wants to see.

    Attributes:
        metric: its name; nothing is said where a run has none of it.
        noun: what it counts: ``faults``; of a share, what that is of: ``of nodes guessed right``.
        share_of: metrics of which it is a share, added up; empty: it is a count.
        if_any: nothing is said of none.
    """

    metric: str
    noun: str
    share_of: tuple[str, ...] = ()
    if_any: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerKind:
    """What a producer declares; all of it.

    Attributes:
        about: what it is, for a person, in one line.
        options: what ``[producer.NAME]`` of a workload may say, the dashes of the name as underscores.
        make: of a machine and what :meth:`gpuscan.producers.options.Options.spec` returned for it (for NUMA
            balancing itself, the machine's ``hint_faults``). Raises an :class:`InputError` where it cannot
            work there.
        told: what a reader of a run wants to see of its metrics.
    """

    about: str
    options: type[Options]
    make: Callable[[SimulatedMachine, Any], Producer]
    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """Everything a producer saw in one tick, wanted or not, in its order per process.

    Attributes:
        pfns: int64[n], first pages of the folios.
        cpu_nids: int32[n], nodes of the CPUs that report.
        own_nids: int32[n], the nodes the folios are on.
        target_nids: int32[n], where the accessing CPUs would have them; -1 where nothing is in reach.
        wanted: bool[n], whether the producer asks for the move.
        at_ns: int64[n], when it knew; None where all it can say is in which tick.
        events, metrics: see :class:`gpuscan.engine.stages.Sampled`.
        at_fault: these are hint faults, met in do_numa_page().
        counts: int64[n], how many accesses each report is of, from a device that counts them and does not
            know who made them: ``target_nids`` are guesses then. None: each is of one access.
    """

    pfns: NDArray[np.int64]
    cpu_nids: NDArray[np.int32]
    own_nids: NDArray[np.int32]
    target_nids: NDArray[np.int32]
    wanted: NDArray[np.bool_]
    at_ns: NDArray[np.int64] | None
    events: tuple[FolioEvents, ...]
    metrics: dict[str, float]
    at_fault: bool = False
    counts: NDArray[np.int64] | None = None
