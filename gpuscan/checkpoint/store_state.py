"""The state of one store: records, index, cursors, and whatever its owner wants to go with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuscan.base.errors import CheckpointError
from gpuscan.checkpoint.arrays import Written
from gpuscan.checkpoint.directory import CheckpointDirectory, load
from gpuscan.checkpoint.state import State
from gpuscan.store.single import Store

KIND = "store"


def save_store(
    directory: CheckpointDirectory, store: Store, extra: Mapping[str, Any] | None = None
) -> Written:
    """Write a store at rest as the newest generation of a directory (opened with :data:`KIND`).

    When this returns, the state is on the disk: what was kept to get there again may go.

    Args:
        directory: where to; it writes again only what changed since the generation before.
        store: nobody uses it meanwhile.
        extra: a state of the owner's own (a sequence number, folios it has claimed): both are from one
            moment, or neither is there. See :mod:`gpuscan.checkpoint.state`.

    Raises:
        RunFailedError: the system refused a write; the generations that were there are as they were.
    """
    return directory.save({"store": store.state(), "extra": dict(extra or {})})


def load_store(path: Path, store: Store) -> State:
    """Put the newest generation of ``path`` into a store, at rest, and return what went with it.

    Args:
        path: a directory that :func:`save_store` wrote to, or one of its generations.
        store: of the same machine and record format; its device may be another.

    Raises:
        CheckpointError: there is none, it is damaged, of a newer schema, or of a different store.
    """
    state, place = load(path, KIND)
    try:
        store.restore(state["store"])
        extra: State = state["extra"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{place} does not fit this store ({error}); open it for the machine and format it was written of"
        ) from None
    return extra
