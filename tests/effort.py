"""How much of each campaign the slow tests go through: all, or the share that GPUSCAN_TEST_SHARE says."""

from __future__ import annotations

import os

SHARE = float(os.environ.get("GPUSCAN_TEST_SHARE", "1"))


def share_of(n_whole: int, *, at_least: int = 1) -> int:
    """Return how many of ``n_whole`` inputs, seeds or kills to go through."""
    return min(n_whole, max(at_least, round(n_whole * SHARE)))
