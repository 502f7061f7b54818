"""What must hold of a simulated machine's memory at any time."""

from __future__ import annotations

import numpy as np

from gpuscan.sim.machine import SimulatedMachine


def assert_conserved(sim: SimulatedMachine) -> None:
    """Every managed frame is free or mapped exactly once, and the reverse map is the page table's inverse."""
    space = sim.space
    heads = space.frame_of.astype(np.int64)
    assert np.array_equal(space.folios_at(heads), np.arange(space.n_folios))
    assert np.count_nonzero(space.folio_of != space.nothing) == space.n_folios
    orders = space.orders_of(np.arange(space.n_folios))
    assert not (heads & ((1 << orders) - 1)).any()
    used = np.concatenate(
        [h + np.arange(1 << o) for h, o in zip(heads.tolist(), orders.tolist(), strict=True)]
    )
    free = np.concatenate([sim.frames.free_frames(n.nid) for n in sim.topology.nodes])
    everything = np.concatenate([used, free])
    assert len(np.unique(everything)) == len(everything)
    managed = sum(zone.managed_pages for _, zone in sim.topology.zones)
    assert len(everything) == managed
    assert not space.flags[space.slots_of(free)].any()
