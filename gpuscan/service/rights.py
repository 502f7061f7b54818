"""The capabilities that the service is started with, from what its parts say they need."""

from __future__ import annotations

from gpuscan.linux.capabilities import FLAGS, KEPT, Right
from gpuscan.migrate.move_pages import MovePagesMigrator
from gpuscan.monitors.catalogue import MONITORS
from gpuscan.service.helpers.catalogue import HELPERS

_AT_THE_START = (
    Right("CAP_CHOWN", "to give the socket to its group, once"),
    Right("CAP_SETPCAP", "to give up all others, once"),
)


def started_with() -> dict[str, str]:
    """Return each capability, and all that it is for; whatever the configuration asks for."""
    monitors, _ = MONITORS.usable()
    of_monitors = (right for kind in monitors.values() for right in (*kind.keeps, *kind.opens))
    helpers, _ = HELPERS.usable()
    of_helpers = (right for kind in helpers.values() for right in kind.keeps)
    found: dict[str, list[str]] = {}
    for right in (*KEPT, FLAGS, *of_monitors, *of_helpers, *MovePagesMigrator.keeps, *_AT_THE_START):
        reasons = found.setdefault(right.name, [])
        if right.why not in reasons:
            reasons.append(right.why)
    return {name: "; ".join(reasons) for name, reasons in found.items()}
