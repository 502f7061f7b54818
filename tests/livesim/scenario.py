"""What one seed decides: who runs, what is asked for, and what happens at which system call."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

CHANGES = ("die", "reuse", "fork", "exec", "unmap", "remap", "map", "others", "offline", "jump", "fill")
"""What happens to the machine."""
SHARES = "share"
"""And one process maps what another one has, in the seeds from ``SHARING_FROM`` on."""
SHARING_FROM = 1 << 20
HELPING_FROM = 1 << 22
"""From here on the service has rules that the kernel carries out."""
HOTPLUG_FROM = 1 << 23
"""From here on the files tell of nodes that are offline, and the service goes by it."""
COMES = "spawn"
"""And somebody comes, where rules choose."""
FAULTS = ("errno", "short", "signal", "kill")
"""What happens to gpuscan at a system call."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens before a system call.

    Attributes:
        step: which one, counted over all of gpuscan's processes.
        kind: one of ``CHANGES`` or ``FAULTS``.
        choice: decides whom it hits and how.
    """

    step: int
    kind: str
    choice: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run.

    Attributes:
        seed: decides all else about the machine.
        source: the monitor.
        selection: ``pids``, ``cgroup`` or ``command``.
        n_pages: of each process at first.
        ms: how long the run is asked to take.
        demote: whether cold pages go down.
        has_trace, has_scan: whether the kernel has tracefs and PAGEMAP_SCAN.
        events: ascending by step.
        evacuate: a node that is to be emptied, whoever is hot; then ``source`` and ``demote`` say nothing.
        shares: whether there is memory that several processes map.
    """

    seed: int
    source: str
    selection: str
    n_pages: tuple[int, ...]
    ms: int
    demote: bool
    has_trace: bool
    has_scan: bool
    events: tuple[Event, ...]
    evacuate: int | None = None
    shares: bool = False

    def without(self, events: set[Event]) -> Scenario:
        """Return the same with fewer events."""
        return replace(self, events=tuple(event for event in self.events if event not in events))


def scenario(seed: int) -> Scenario:
    """Return what a seed decides."""
    chance = random.Random(seed)
    (source,) = chance.choices(
        ("kpageflags", "soft-dirty", "idle", "damon", "damon-paddr", "auto"), (30, 25, 25, 16, 1, 3)
    )
    selection = chance.choice(("pids", "pids", "cgroup", "command"))
    n_processes = 1 if selection == "command" else chance.randint(1, 3)
    reach = 80 + chance.randrange(4) * 150
    events = [
        Event(
            chance.randrange(reach),
            chance.choices((chance.choice(CHANGES), chance.choice(FAULTS)), (3, 1))[0],
            choice=chance.randrange(1 << 16),
        )
        for _ in range(chance.randrange(8))
    ]
    events += sharing_events(seed, reach)
    return Scenario(
        seed=seed,
        source=source,
        selection=selection,
        n_pages=tuple(chance.randint(4, 60) for _ in range(n_processes)),
        ms=chance.choice((250, 450, 1_300)),
        demote=chance.random() < 0.3,
        has_trace=chance.random() < 0.8,
        has_scan=chance.random() < 0.5,
        events=tuple(sorted(events, key=lambda event: event.step)),
        shares=seed >= SHARING_FROM,
    )


def evacuation(seed: int) -> Scenario:
    """Return the scenario of a seed in which a node is emptied of what processes have there that run."""
    one = scenario(seed)
    nid = random.Random(f"evacuate {seed}").choice((0, 1, 2, 2))
    selection = "pids" if one.selection == "command" else one.selection
    return replace(one, selection=selection, demote=False, evacuate=nid)


def newcomers(seed: int) -> Scenario:
    """Return a scenario in which processes come and go for seconds while each has a kdamond of DAMON."""
    chance = random.Random(f"newcomers {seed}")
    kinds = ("fork", "fork", "die", "reuse", chance.choice(FAULTS))
    events = [
        Event(chance.randrange(3_000), chance.choice(kinds), chance.randrange(1 << 16))
        for _ in range(chance.randint(4, 12))
    ]
    return replace(
        scenario(seed),
        source="damon",
        selection="cgroup",
        ms=chance.choice((2_500, 6_000)),
        events=tuple(sorted(events, key=lambda event: event.step)),
    )


def hotplug_events(seed: int, reach: int) -> list[Event]:
    """Return when nodes go offline and come online; never in the seeds before ``HOTPLUG_FROM``."""
    if seed < HOTPLUG_FROM:
        return []
    chance = random.Random(f"{seed} hotplugs")
    return [
        Event(chance.randrange(reach), "offline", chance.randrange(1 << 16))
        for _ in range(chance.randint(1, 5))
    ]


def sharing_events(seed: int, reach: int) -> list[Event]:
    """Return when processes map what others have; never in the seeds before ``SHARING_FROM``."""
    if seed < SHARING_FROM:
        return []
    chance = random.Random(f"{seed} shares")
    return [
        Event(chance.randrange(reach), SHARES, chance.randrange(1 << 16)) for _ in range(chance.randrange(4))
    ]
