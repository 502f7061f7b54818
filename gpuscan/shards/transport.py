"""How messages reach shards: the five calls that a distributed engine must offer, and the plainest one.

A shard works on one message at a time: between :meth:`Transport.send` and
:meth:`Transport.receive` no other is sent to it. Different shards work side by side
where the engine can.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpuscan.shards.messages import Frames, ShardLostError, ShardSpec, pack, unpack
from gpuscan.shards.shard import Shard


@dataclass(slots=True)
class Traffic:
    """What went over a network, without the engine's own envelopes.

    Attributes:
        n_calls: messages sent.
        sent_bytes, received_bytes: of messages and their replies.
    """

    n_calls: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        """Both ways."""
        return self.sent_bytes + self.received_bytes


class Transport(Protocol):
    """A way to places that hold shards.

    Attributes:
        traffic: counted so far.
    """

    traffic: Traffic

    def create(self, spec: ShardSpec, state: Path | None) -> None:
        """Make a shard somewhere, for the first time or anew, from a checkpoint where ``state`` is one.

        Raises:
            RunFailedError: there is no place left for it.
        """
        ...

    def send(self, shard: int, frames: Frames) -> Any:
        """Hand a packed :class:`gpuscan.shards.messages.Message` over; return a ticket for the reply."""
        ...

    def receive(self, ticket: Any) -> Frames:
        """Wait for a packed :class:`gpuscan.shards.messages.Reply`.

        Raises:
            ShardLostError: its process is gone; whether the message was done is not known.
            What the shard raised: it is as good as lost, and so is the run.
        """
        ...

    def describe(self) -> str:
        """Return one line saying where the shards are."""
        ...

    def close(self) -> None:
        """Let go of all shards, and end what was started. Idempotent."""
        ...


class InProcessTransport:
    """Shards in this process, one after the other: nothing is copied and nothing goes over a network."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._shards: dict[int, Shard] = {}

    def create(self, spec: ShardSpec, state: Path | None) -> None:
        """Make a shard here."""
        earlier = self._shards.pop(spec.shard, None)
        if earlier is not None:
            earlier.close()
        self._shards[spec.shard] = Shard(spec, state)

    def send(self, shard: int, frames: Frames) -> Frames:
        """Do what the message says at once."""
        if shard not in self._shards:
            raise ShardLostError(shard)
        return pack(self._shards[shard].handle(unpack(frames)))

    def receive(self, ticket: Frames) -> Frames:
        """Return the reply."""
        return ticket

    def describe(self) -> str:
        """Return that they are here."""
        return "in this process"

    def close(self) -> None:
        """Free the shards."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()
