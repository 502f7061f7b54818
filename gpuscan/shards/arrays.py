"""The arrays of all shards in a checkpoint: every worker writes its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuscan.shards.group import ShardGroup
from gpuscan.shards.messages import Op

if TYPE_CHECKING:
    from gpuscan.checkpoint.arrays import ArrayFacts, ArrayPlace, Written


class ArraysOfShards:
    """The arrays of all shards, part by part (:class:`gpuscan.checkpoint.state.ArraysElsewhere`)."""

    def __init__(self, group: ShardGroup) -> None:
        self._group = group

    def write_arrays(self, place: ArrayPlace, path: str) -> tuple[dict[str, ArrayFacts], Written]:
        """Let all shards write, side by side."""
        from gpuscan.checkpoint.arrays import Written

        ops = {
            shard: Op("write_part", (place.below(f"{path}.{shard}"), path))
            for shard in range(self._group.n_shards)
        }
        facts: dict[str, ArrayFacts] = {}
        written = Written()
        for mine, cost in self._group.ask_each(ops):
            facts |= mine
            written.add(cost)
        return facts, written
