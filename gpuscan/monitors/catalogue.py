"""All monitors, and the one to take: that which was asked for, or the first that works here.

They are those in ``built_in``, and those of other packages by the entry points ``gpuscan.monitors``.
"""

from __future__ import annotations

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.linux.capabilities import FLAGS, FRAMES, KEPT, Right
from gpuscan.monitors.contract import Circumstances, Monitor, MonitorKind

AUTO = "auto"
"""What ``--monitor`` takes beside the names of monitors: the first that works."""

MONITORS = Catalogue("monitor", "gpuscan.monitors.built_in", MonitorKind, "MONITOR")


def in_order() -> tuple[list[str], dict[str, str]]:
    """Return the monitors as ``auto`` tries them, those that it never takes at the end.

    Returns:
        Names, and why each of those of other packages that cannot be used is not among them, by name.
    """
    kinds, broken = MONITORS.usable()
    places = {
        name: float("inf") if kind.place_in_auto is None else kind.place_in_auto
        for name, kind in kinds.items()
    }
    return sorted(places, key=lambda name: (places[name], name)), {
        name: str(error) for name, error in broken.items()
    }


def rights_of(source: str) -> list[Right]:
    """Return the rights that a live run with a monitor needs, for processes of whomever.

    Args:
        source: the name of a monitor.

    Raises:
        InputError: there is no such monitor.
    """
    if source not in MONITORS:
        raise InputError(f"there is no monitor {source!r}; give one of {', '.join(MONITORS.names)}")
    kind = MONITORS.get(source)
    return list(dict.fromkeys([FRAMES, FLAGS, *KEPT, *kind.opens, *kind.keeps]))


def open_monitor(asked: str, here: Circumstances) -> tuple[Monitor, list[str]]:
    """Open a monitor.

    Args:
        asked: the name of a monitor, or :data:`AUTO`.
        here: on what.

    Returns:
        The monitor, and why each one before it does not work here.

    Raises:
        InputError: the one that was asked for does not work, or none does.
    """
    if asked != AUTO:
        if asked not in MONITORS:
            raise InputError(
                f"there is no monitor {asked!r}; --monitor takes {', '.join([AUTO, *MONITORS.names])}"
            )
        return _opened(asked, here), []
    names, unusable = in_order()
    refused = [f"{name}: {why}" for name, why in unusable.items()]
    for name in names:
        if MONITORS.get(name).place_in_auto is None:
            continue
        try:
            return _opened(name, here.looking()), refused
        except (InputError, OSError) as error:
            refused.append(f"{name}: {error}")
    raise InputError(f"no monitor works here ({'; '.join(refused)}); run gpuscan as root")


def _opened(name: str, here: Circumstances) -> Monitor:
    monitor = MONITORS.get(name).open(here)
    if monitor.name != name:
        monitor.close()
        raise InputError(
            f"the monitor {name} calls itself {monitor.name!r} once it is open; let it have one name"
        )
    return monitor
