"""What a kernel of somebody else's needs to mark pages of a store on its device; see ``request.cuh``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.api import Kernels
from gpuscan.kernels.cuda.backend import CudaKernels
from gpuscan.kernels.cuda.source import definitions
from gpuscan.records.formats import RecordFormat

_FOLDER = Path(__file__).parent
_FILES = ("common.cuh", "pages.cuh", "request.cuh")
_POINTERS = (
    *("records", "ready_bits", "block_bits", "eligible_bits", "folio_order", "node_active", "section_nid"),
    *("pfn_start", "pfn_end", "flat_offset", "node_flags"),
)
_NUMBERS = ("n_extents", "has_large_folios", "fixed_target")
VIEW = (*_POINTERS, *_NUMBERS)
"""Fields of ``View``, in the order of ``request.cuh``."""


def header(fmt: RecordFormat) -> str:
    """Return the text to put before a source that calls ``gpuscan::request``, for stores of a format.

    All of it is in the namespace ``gpuscan``; its macros begin with ``GS_``.
    """
    files = "".join(f'#line 1 "{name}"\n{(_FOLDER / name).read_text()}' for name in _FILES)
    return f"namespace gpuscan {{\n{definitions(fmt, exclusive=False)}{files}}}\n#line 1\n"


def view_of(kernels: Kernels) -> Any:
    """Return the ``View`` of a store, device uint64[len(VIEW)]; it is right until the store is closed.

    Args:
        kernels: a store of :class:`CudaBackend`, or ``Store.kernels`` of one on it.

    Raises:
        ArgumentError: the store was closed; it is not on a GPU; another backend watches over it, which would
            not know what is marked past it.
    """
    if not isinstance(kernels, CudaKernels):
        raise ArgumentError(
            f"view_of: {type(kernels).__name__} is no store that kernels of one's own may mark pages of; "
            "give one of CudaBackend, or Store.kernels of a Store(device=CudaBackend())"
        )
    with kernels.working():
        given, address = kernels.own, kernels.device.address
        words = [address(given[name]) for name in _POINTERS]
        words += [int(given[name]) for name in _NUMBERS]
        return kernels.device.upload(np.array(words, dtype=np.int64).view(np.uint64))
