"""What a run is asked to tell for its map: counted as it happens, in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.errors import ArgumentError
from gpuscan.heatmap.counting import N_CELLS_MAX, Counting
from gpuscan.heatmap.gathering import Spares
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import HeatMap
from gpuscan.heatmap.nodes import COUNTS, empty_nodes
from gpuscan.heatmap.space import Space
from gpuscan.heatmap.waits import Waits
from gpuscan.topology import Topology

ACCESSES_ONE_IN = 32
"""Of so many accesses one is looked at: to look at all of them would cost more than a tenth of a run."""

_STATE = (
    *("begins_at_tick", "random", "layers", "waits"),
    *("n_filled", "fills_each", "filled_ns", *COUNTS, "no_room_now"),
)

MOMENTS_MAX = 2048
"""Of how full nodes were; then every second one is kept, then every fourth, and so on, and the last one."""


class MapRecorder:
    """A :class:`gpuscan.engine.stages.Witness`, and one of a simulated machine's accesses.

    Args:
        topology: the machine's.
        step_ns: the finest step of time, a tick.
        n_cells_max: cells that each layer keeps.
        seed: of which accesses are looked at.
        waits: that follow pages in another way than by default.
        is_aside: what was told is sorted by threads of its own, beside the one that tells.

    Attributes:
        nodes: how full each node was; empty where nobody told.
        waits: how long pages waited from mark to claim.
        begins_at_tick: what happened before that tick is not in it.
    """

    def __init__(
        self,
        topology: Topology,
        step_ns: int,
        *,
        n_cells_max: int = N_CELLS_MAX,
        seed: int = 0,
        waits: Waits | None = None,
        is_aside: bool = False,
    ) -> None:
        self._topology = topology
        self._page_map = topology.page_map
        self._step_ns = step_ns
        self._random = np.random.default_rng([seed, 19])
        self.nodes = empty_nodes(topology)
        self.begins_at_tick = 0
        self.waits = Waits() if waits is None else waits
        self._n_filled, self._fills_each = 0, 1
        self._no_room = dict.fromkeys(self.nodes, 0)
        n_pages = self._page_map.n_pages
        self._pool = pool = ThreadPoolExecutor(2) if is_aside else None
        spares = Spares()
        one_in = {"accesses": ACCESSES_ONE_IN, "marks": 1, "claims": 1, "moves": 1}
        self._layers = {
            name: Counting(n_pages, n_cells_max, each, pool, spares=spares) for name, each in one_in.items()
        }

    def sampled(self, n: int) -> NDArray[np.int64]:
        """Return which of ``n`` accesses to look at, ascending: one of each thirty-two, at random.

        Of fewer than that at the end it is one with as much less of a chance.
        """
        first = np.arange(0, n, ACCESSES_ONE_IN)
        chosen = first + self._random.integers(0, ACCESSES_ONE_IN, len(first), dtype=np.uint8)
        return chosen if not n % ACCESSES_ONE_IN or chosen[-1] < n else chosen[:-1]

    def accessed(self, now_ns: int, flats: NDArray[np.int64]) -> None:
        """See the pages of accesses that :meth:`sampled` chose."""
        self._layers["accesses"].add(now_ns // self._step_ns, flats)

    def filled(self, now_ns: int, free_pages: Mapping[int, int], room_pages: Mapping[int, int]) -> None:
        """See how many pages of each node are free, by nid, and for how many it has room."""
        is_last_alone = self._n_filled and (self._n_filled - 1) % self._fills_each
        self._n_filled += 1
        for nid, node in self.nodes.items():
            now = now_ns, free_pages[nid], room_pages[nid], self._no_room[nid]
            for values, value in zip(node.series, now, strict=True):
                if is_last_alone and values:  # it was kept while it was the last one
                    del values[-1]
                values.append(value)
        if self._n_filled > MOMENTS_MAX * self._fills_each:  # then the last one is of those that are kept
            self._fills_each *= 2
            for node in self.nodes.values():
                for values in node.series:
                    del values[1::2]

    def marked(self, now_ns: int, pfns: NDArray[np.int64]) -> None:
        """See pages that a source wants marked."""
        flats = self._page_map.flat_of_pfn(pfns)
        self._layers["marks"].add(now_ns // self._step_ns, flats)
        self.waits.marked(now_ns, flats)

    def claimed(self, now_ns: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """See folios that a scan claimed."""
        self._layers["claims"].add(now_ns // self._step_ns, flats, n_pages)
        self.waits.claimed(now_ns, flats)

    def moved(self, now_ns: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """See folios that were moved, at the place that they left."""
        self._layers["moves"].add(now_ns // self._step_ns, flats, n_pages)

    def no_room(self, target_nid: int, n_folios: int) -> None:
        """See how many folios a node had no room for."""
        self._no_room[target_nid] += n_folios

    def state(self) -> dict[str, Any]:
        """Return all that it was told so far, in as much room as it has: 130 MiB at most, mostly a few."""
        nodes = list(self.nodes.values())
        return {
            "begins_at_tick": self.begins_at_tick,
            "random": self._random.bit_generator.state,
            "layers": {name: counting.state() for name, counting in self._layers.items()},
            "waits": self.waits.state(),
            "n_filled": self._n_filled,
            "fills_each": self._fills_each,
            "filled_ns": np.array(nodes[0].now_ns if nodes else [], dtype=np.int64),
            **{
                name: np.array([getattr(node, name) for node in nodes], dtype=np.int64).reshape(-1)
                for name in COUNTS
            },
            "no_room_now": np.array(list(self._no_room.values()), dtype=np.int64),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, on the same machine.

        Raises:
            ArgumentError: that was something else.
        """
        state = checked.table(state, "the map")
        found = checked.table(self._known_now(state), "the map", _STATE)
        self.begins_at_tick = checked.whole(found["begins_at_tick"], 0, INT64_MAX, "begins_at_tick")
        layers = checked.table(found["layers"], "layers of the map", tuple(self._layers))
        self._random.bit_generator.state = checked.random_state(found["random"], "the map's random numbers")
        for name, counting in self._layers.items():
            counting.restore(layers[name])
        self.waits.restore(found["waits"], self._page_map.n_pages)
        self._n_filled = checked.whole(found["n_filled"], 0, INT64_MAX, "n_filled")
        self._fills_each = checked.whole(found["fills_each"], 1, INT64_MAX, "fills_each")
        nodes = list(self.nodes.values())
        filled_ns = checked.array(found["filled_ns"], np.int64, "filled_ns", lowest=0)
        if len(filled_ns) > MOMENTS_MAX + 1 or (np.diff(filled_ns) < 0).any():
            raise ArgumentError(f"filled_ns are not up to {MOMENTS_MAX + 1} moments, one after the other")
        for name in COUNTS:
            lowest = -self._page_map.n_pages if name == "room_pages" else 0
            values = checked.array(found[name], np.int64, name, n=len(filled_ns) * len(nodes), lowest=lowest)
            for node, pages in zip(nodes, values.reshape(len(nodes), -1), strict=True):
                node.now_ns[:], getattr(node, name)[:] = filled_ns.tolist(), pages.tolist()
        now = checked.array(found["no_room_now"], np.int64, "no_room_now", n=len(nodes), lowest=0)
        self._no_room = dict(zip(self.nodes, now.tolist(), strict=True))

    def _known_now(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return a state with what that of an earlier gpuscan lacks: it knew less of how full nodes were, and
        of the moments that it kept none is left."""
        if "room_pages" in state:
            return {"begins_at_tick": 0, **state}
        nothing = dict.fromkeys(("filled_ns", *COUNTS), np.empty(0, dtype=np.int64))
        nothing["no_room_now"] = np.zeros(len(self.nodes), dtype=np.int64)
        return {"begins_at_tick": 0, **state, **nothing}

    def check_until(self, now_ns: int) -> None:
        """Refuse what was restored if it says what happens after ``now_ns``.

        Raises:
            ArgumentError: it does.
        """
        moments = [counting.latest_ns(self._step_ns) for counting in self._layers.values()]
        moments += [node.now_ns[-1] for node in self.nodes.values() if node.now_ns]
        latest_ns = max(self.waits.latest_ns(), *moments)
        if latest_ns > now_ns:
            raise ArgumentError(f"the map says what happens at {latest_ns} ns, and it is {now_ns} ns")

    def map(self, end_ns: int) -> HeatMap:
        """Return the map of what happened until ``end_ns``; what nothing was told of is not in it.

        The threads end with it: what is told later is sorted by the one that tells.
        """
        space = Space.of(self._topology, self._step_ns, max(1, -(-end_ns // self._step_ns)))
        for counting in self._layers.values():
            counting.settle()  # one beside the other
        layers: dict[str, Layer] = {}
        for name, counting in self._layers.items():  # all that was marked is often claimed and moved at once
            alike = (layers[other] for other in layers if counting.says_same(self._layers[other]))
            layers[name] = next(alike, None) or counting.layer()
        if self._pool is not None:
            for counting in self._layers.values():
                counting.leave_pool()
            self._pool.shutdown(wait=False)
            self._pool = None
        return HeatMap(space, {name: layer for name, layer in layers.items() if layer.n_cells})
