"""What a command does that has its process for itself and gives up rights in it."""

from __future__ import annotations

import os
from importlib import import_module

_OPENBLAS_THREADS = "OPENBLAS_NUM_THREADS"


def import_without_threads() -> None:
    """Import NumPy with no threads beside this one: theirs would be the rights that are to be given up.

    OpenBLAS starts one per CPU when it is loaded; gpuscan has no use for them.
    """
    before = os.environ.get(_OPENBLAS_THREADS)
    os.environ[_OPENBLAS_THREADS] = "1"
    import_module("numpy")
    if before is None:
        del os.environ[_OPENBLAS_THREADS]  # nor shall the command see it
    else:
        os.environ[_OPENBLAS_THREADS] = before
