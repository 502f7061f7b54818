"""What happens to the machine while gpuscan works."""

from __future__ import annotations

import random
from collections.abc import Callable

from .world import NIDS, REUSE_STEPS, SPAN_PAGES, Proc, World

_MS = 1_000_000


def change(world: World, kind: str, choice: int, step: int) -> None:
    """Let something happen to one of the processes, or to the machine."""
    chance = random.Random(choice)
    running = world.running()
    if kind in _OF_MACHINE:
        _OF_MACHINE[kind](world, chance)
    elif running:
        proc = chance.choice(running)
        world.log.append(f"  {kind} of process {proc.pid}")
        if kind == "reuse":
            world.end(proc)
            if not proc.is_zombie:
                world.waiting.append((step + REUSE_STEPS, proc.pid))
        else:
            _OF_PROCESS[kind](world, proc, chance)


def give_pids_again(world: World, step: int) -> None:
    """Give freed PIDs to processes that nobody asked for."""
    for at, pid in [one for one in world.waiting if one[0] <= step]:
        world.waiting.remove((at, pid))
        world.log.append(f"  process {pid} is another one now")
        world.spawn(20, is_target=False, pid=pid, command="stranger")


def _fork(world: World, proc: Proc, chance: random.Random) -> None:
    if world.forks_share:
        child = world.spawn(0, is_target=proc.is_target, parent=proc, command=proc.command)
        world.share(child, proc)
        return
    world.spawn(chance.randint(1, 20), is_target=proc.is_target, parent=proc, command=proc.command)


def _exec(world: World, proc: Proc, chance: random.Random) -> None:
    while proc.mappings:
        world.unmap(proc, 0)
    world.map(proc, chance.randint(1, 40))


def _unmap(world: World, proc: Proc, chance: random.Random) -> None:
    if proc.mappings:
        world.unmap(proc, chance.randrange(len(proc.mappings)))


def _remap(world: World, proc: Proc, chance: random.Random) -> None:
    """mremap(2): the same frames at other addresses."""
    if not proc.mappings:
        return
    first, n = proc.mappings.pop(chance.randrange(len(proc.mappings)))
    place = max((start + length for start, length in proc.mappings), default=0) + chance.randint(1, 9)
    place = max(place, first + 1)
    if place + n > SPAN_PAGES:
        place = first
    words, hot = proc.words[first : first + n].copy(), proc.hot[first : first + n].copy()
    proc.words[first : first + n] = 0
    proc.words[place : place + n], proc.hot[place : place + n] = words, hot
    proc.mappings = sorted([*proc.mappings, (place, n)])


def _share(world: World, proc: Proc, chance: random.Random) -> None:
    """Somebody maps what another one has."""
    others = [other for other in world.running() if other is not proc and other.mappings]
    if others:
        world.share(proc, chance.choice(others))


def _others(world: World, proc: Proc, chance: random.Random) -> None:
    """NUMA balancing, compaction, or whoever: pages go somewhere else."""
    for page in proc.words.nonzero()[0].tolist():
        if chance.random() < 0.3:
            world.move(proc, page, chance.choice(NIDS))


def _offline(world: World, chance: random.Random) -> None:
    nid = chance.choice(NIDS[1:] if world.hotplugs else NIDS)
    world.offline ^= {nid}
    if world.hotplugs and nid in world.offline:
        world.empty(nid)
    world.log.append(f"  offline are {sorted(world.offline)}")


def _jump(world: World, chance: random.Random) -> None:
    """Nobody was scheduled for a while."""
    world.now_ns += chance.choice((1, 50, 900, 3_000)) * _MS


def _fill(world: World, chance: random.Random) -> None:
    nid = chance.choice(NIDS)
    world.pressure[nid] = chance.choice((0, 32_700, 32_768))


def _spawn(world: World, chance: random.Random) -> None:
    """Somebody starts a program."""
    command = chance.choice(COMMANDS)
    proc = world.spawn(chance.randint(4, 60), is_target=world.is_chosen(command), command=command)
    world.log.append(f"  process {proc.pid} ({command}) comes")


COMMANDS = ("worker", "database", "cache", "stranger")
_OF_MACHINE: dict[str, Callable[[World, random.Random], None]] = {
    "spawn": _spawn,
    "offline": _offline,
    "jump": _jump,
    "fill": _fill,
}
_OF_PROCESS: dict[str, Callable[[World, Proc, random.Random], None]] = {
    "die": lambda world, proc, chance: world.end(proc, chance.choice((0, 1, -9))),
    "fork": _fork,
    "exec": _exec,
    "unmap": _unmap,
    "remap": _remap,
    "map": lambda world, proc, chance: world.map(proc, chance.randint(1, 40)),
    "others": _others,
    "share": _share,
}
