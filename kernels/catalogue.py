"""All backends: those in ``backends``, and others' by the entry points ``gpuscan.backends``."""

from __future__ import annotations

from gpuscan.base.catalogue import Catalogue
from gpuscan.kernels.contract import BackendKind

AUTO = "auto"
"""What ``--device`` takes beside the names of backends: the best that can be opened."""

BACKENDS = Catalogue("backend", "gpuscan.kernels.backends", BackendKind, "BACKEND")


def device_names() -> tuple[str, ...]:
    """Return all that ``--device`` takes."""
    return (AUTO, *BACKENDS.names)
