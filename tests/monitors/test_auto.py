"""Which monitor is taken: the one asked for, or the first of auto that works."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gpuscan.base.catalogue import Catalogue
from gpuscan.base.errors import InputError
from gpuscan.monitors import catalogue
from gpuscan.monitors.contract import Circumstances, MonitorKind


def kind_of(name, place, *, opens=lambda here: None):
    def opened(here):
        opens(here)
        return SimpleNamespace(name=name, close=lambda: None)

    return MonitorKind(place_in_auto=place, opens=(), keeps=(), watches_frames=False, open=opened)


class Kinds(dict):
    """A catalogue of monitors that are given, or why one cannot be loaded."""

    usable = Catalogue.usable

    @property
    def names(self):
        return tuple(self)

    def get(self, name: Any, default: Any = None) -> Any:
        if isinstance(self[name], InputError):
            raise self[name]
        return self[name]


NO_MACHINE: Any = None
"""No monitor here looks at it."""


def refuse(here):
    raise InputError(f"not here, while one is {'looked for' if here.is_looking else 'asked for'}")


def test_auto_goes_by_places_and_passes_over_what_is_broken(monkeypatch):
    kinds = Kinds(
        last=kind_of("last", 30),
        never=kind_of("never", None),
        broken=InputError("cannot be loaded"),
        second=kind_of("second", 20),
        first=kind_of("first", 10, opens=refuse),
    )
    monkeypatch.setattr(catalogue, "MONITORS", kinds)
    here = Circumstances(NO_MACHINE, 1)
    assert catalogue.in_order()[0] == ["first", "second", "last", "never"]
    monitor, refused = catalogue.open_monitor("auto", here)
    assert monitor.name == "second"
    assert refused == ["broken: cannot be loaded", "first: not here, while one is looked for"]
    assert catalogue.open_monitor("never", here)[0].name == "never"
    with pytest.raises(InputError, match="while one is asked for"):
        catalogue.open_monitor("first", here)
    with pytest.raises(InputError, match="there is no monitor 'x'; --monitor takes auto, last, never"):
        catalogue.open_monitor("x", here)
    for name in ("last", "second"):
        kinds[name] = kinds["first"]
    with pytest.raises(InputError, match=r"no monitor works here \(.*\); run gpuscan as root"):
        catalogue.open_monitor("auto", here)


def test_a_monitor_has_one_name(monkeypatch):
    monkeypatch.setattr(catalogue, "MONITORS", Kinds(one=kind_of("other", 10)))
    with pytest.raises(InputError, match="the monitor one calls itself 'other' once it is open"):
        catalogue.open_monitor("one", Circumstances(NO_MACHINE, 1))
