"""What the service notes down as it goes, for whoever keeps it."""

from __future__ import annotations

from typing import Any, Literal, Protocol

Kind = Literal["start", "stop", "config", "control", "rest", "process", "moved", "kernel", "state", "memory"]


class Recorder(Protocol):
    """Keeps what was decided and done."""

    @property
    def lost(self) -> int:
        """Notes that could not be kept."""
        ...

    @property
    def problem(self) -> str:
        """Why not; empty where all are kept."""
        ...

    def note(self, kind: Kind, policy: str | None, body: dict[str, Any]) -> None:
        """Note something; it does not fail, and does not wait for a disk."""
        ...

    def flush(self) -> None:
        """Bring what was noted to where it stays, as far as that goes."""
        ...

    def close(self) -> None:
        """Flush, and end."""
        ...


class Nowhere:
    """A :class:`Recorder` that keeps nothing."""

    lost = 0
    problem = ""

    def note(self, kind: Kind, policy: str | None, body: dict[str, Any]) -> None:
        """Keep nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
