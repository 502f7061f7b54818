"""Zarr writes in threads of its own, and goes on there when one of several writes has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

_WITHIN_S = 60.0


@contextmanager
def settled() -> Iterator[None]:
    """Leave the block by an error only when Zarr does nothing more.

    An operation of several writes raises at the first that fails, and the others, under way, make directories
    anew that were removed meanwhile (``LocalStore._put()``, ``asyncio.gather()`` in ``_save_metadata()``,
    zarr 3.1.6).
    """
    try:
        yield
    except BaseException:
        from zarr.core.sync import sync

        sync(_others())
        raise


async def _others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=_WITHIN_S)
