"""Calls the public surface with spoilt arguments, in a process of its own: a crash is seen from outside.

``python surface_child.py SEED N_CASES PLACE``; PLACE is a file that always has the case under way. Says on
standard output what went wrong, and how many cases ended how.
"""

from __future__ import annotations

import json
import mmap
import random
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import surface
from gpuscan.base.arguments import shown
from gpuscan.base.errors import GpuscanError
from gpuscan.kernels.api import Cutoffs, StoreArrays
from gpuscan.store.plan import Plan

CASE_S = 20
"""A case that takes longer hangs: the alarm ends the process."""
MORE_BYTES = 3 << 30
"""What a case may allocate: more is a huge allocation, and a MemoryError."""
CASES_PER_WORLD = 2000
PLACE_BYTES = 4096
COMPARED = ("records", "eligible_bits", "folio_order")


class Place:
    """A file that outlives a crash."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(PLACE_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), PLACE_BYTES)

    def note(self, said: str) -> None:
        encoded = said.encode("utf-8", "backslashreplace")[:PLACE_BYTES]
        self._map[: len(encoded)] = encoded
        self._map[len(encoded) :] = bytes(PLACE_BYTES - len(encoded))


def plain(result: Any) -> Any:
    """Return a result as something that can be compared."""
    if isinstance(result, Plan):
        return [result.offsets.tolist(), result.flat.tolist(), result.words.tolist()]
    if isinstance(result, Cutoffs):
        return result.seen_pages.tolist()
    if isinstance(result, Iterator):
        plans = list(result)
        return sorted(
            (flat, word) for plan in plans for flat, word in zip(plan.flat, plan.words, strict=True)
        )
    return result.tolist() if isinstance(result, np.ndarray) else result


def outcome(entry: surface.Entry, target: Any, given: dict[str, Any]) -> tuple[Any, Exception | None]:
    """Return what a call returned, or raised."""
    try:
        result = target(**given)
        return plain(result) if entry.owner in (
            "Store",
            "ShardedStore",
        ) and entry.name != "__init__" else result, None
    except Exception as error:
        return None, error


def is_a_sentence(entry: surface.Entry, error: Exception) -> bool:
    allowed = surface.OWN_ERRORS.get(entry.owner, GpuscanError)
    said = str(error)
    return isinstance(error, GpuscanError | allowed) and len(said.split()) > 4 and len(said) < 5000


class Run:
    """Cases of one seed."""

    def __init__(self, seed: int, place: Place) -> None:
        self.rng = random.Random(seed)
        self.place = place
        self.ended: Counter[str] = Counter()
        self.faults: list[str] = []
        self.entries = surface.entries()
        self.by_store = [entry for entry in self.entries if entry.owner in ("Store", "ShardedStore")]
        self._begin()

    def _begin(self) -> None:
        self.made = surface.world()
        self.initial = self.made.store.dump()

    def case(self) -> None:
        """Do one."""
        entry = self.rng.choice(self.by_store if self.rng.random() < 0.4 else self.entries)
        given = surface.spoiled(self.rng, self.made, entry)
        said = f"{entry}: " + ", ".join(f"{name}={shown(value)}" for name, value in given.items())
        self.place.note(said)
        on_store = entry.owner == "Store" and entry.name != "__init__"
        if on_store:
            for store in (self.made.store, self.made.twin):
                store.cursor = 0
        # What a call writes may be memory of its other arguments; the reference is given them as they were.
        arrays = [value for value in given.values() if isinstance(value, np.ndarray)]
        before = [(value, value.copy()) for value in arrays if value.flags.writeable]
        n_ready = self.made.sharded.count_ready() if entry.owner == "ShardedStore" else 0
        result, error = outcome(entry, entry.target(self.made), given)
        if error is not None and not is_a_sentence(entry, error):
            self.faults.append(f"{said}: {type(error).__name__}: {str(error)[:300]}")
        self.ended[("refused" if error else "accepted") + (" by a store" if on_store else "")] += 1
        if on_store:
            for value, content in before:
                value[...] = content
            self._compare(entry, given, said, result, error)
        is_sharded = entry.owner == "ShardedStore" and entry.name != "__init__"
        if is_sharded and error is not None and self.made.sharded.count_ready() != n_ready:
            self.faults.append(f"{said}: refused, and changed what is READY")
        with suppress(Exception):  # a store, an engine: whatever was made
            if entry.name == "__init__":
                result.close()

    def _compare(
        self, entry: surface.Entry, given: dict[str, Any], said: str, result: Any, error: Exception | None
    ) -> None:
        """Hold a call of the CPU store against the same one of the reference."""
        store, twin = self.made.store, self.made.twin
        if error is not None and self._differs(self.initial, store.dump(), StoreArrays.__slots__):
            self.faults.append(f"{said}: refused, and changed the store")
            store.kernels.load(self.initial)
        again, also = outcome(entry, getattr(twin, entry.name), given)
        if type(error) is not type(also) or (error is not None and str(error) != str(also)):
            self.faults.append(f"{said}: {error!r} on the CPU, {also!r} by the reference")
        elif error is None and entry.name not in ("state", "default_capacity") and result != again:
            self.faults.append(f"{said}: {str(result)[:200]}, by the reference {str(again)[:200]}")
        if error is None or also is None:
            if self._differs(store.dump(), twin.dump(), COMPARED):
                self.faults.append(f"{said}: left another store than the reference")
            for each in (store, twin):
                each.kernels.load(self.initial)
                each.take_ended_ahead()

    @staticmethod
    def _differs(one: StoreArrays, other: StoreArrays, names: Any) -> bool:
        return any(not np.array_equal(getattr(one, name), getattr(other, name)) for name in names)

    def run(self, n_cases: int) -> None:
        for number in range(n_cases):
            if number % CASES_PER_WORLD == CASES_PER_WORLD - 1:
                self.made.close()
                self._begin()
            signal.alarm(CASE_S)
            self.case()
            signal.alarm(0)
            if len(self.faults) >= 20:
                break


def main() -> None:
    seed, n_cases, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    warnings.simplefilter("ignore")  # NumPy's over casts of the cases
    place = Place(path)
    place.note("making the objects")
    run = Run(seed, place)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_BYTES, resource.RLIM_INFINITY))
    run.run(n_cases)
    sys.stdout.write(json.dumps({"ended": run.ended, "faults": run.faults}))


if __name__ == "__main__":
    main()
