"""Which memory is online: blocks of it go and come while the service runs (memory hotplug)."""

from __future__ import annotations

from typing import Any

from gpuscan.base.errors import TopologyError
from gpuscan.linux.system import System
from gpuscan.topology import Topology


class OnlineMemory:
    """Tells when the machine's memory is laid out in another way than it was.

    What is asked often is one line of /proc/meminfo: the kernel counts a block's pages in when it comes
    online and out when it goes (adjust_managed_page_count(), mm/memory_hotplug.c, v6.12). Where that has
    changed the machine is read anew; a balloon changes it, too, and nothing of what counts here.

    Args:
        topology: as the machine was read.
        system: the machine.
    """

    def __init__(self, topology: Topology, system: System) -> None:
        self._layout = _layout(topology)
        self._system = system
        self._told = self._total()

    def changed(self) -> Topology | None:
        """Return the machine as it is now, where its nodes, zones or CPUs have changed; else None."""
        told = self._total()
        if told in ("", self._told):
            return None
        try:
            topology = self._system.read_host().topology
        except (TopologyError, OSError):  # it was in the middle of a change: asked again
            return None
        self._told = told
        before, self._layout = self._layout, _layout(topology)
        return None if self._layout == before else topology

    def _total(self) -> str:
        """Return the line; empty where the kernel does not say."""
        try:
            return self._system.read_text(self._system.root / "proc/meminfo").partition("\n")[0]
        except OSError:
            return ""


def _layout(topology: Topology) -> list[Any]:
    """Return what pages are found and placed by: not watermarks, nor how much a zone gives out."""
    return [
        (node.nid, node.kind, node.tier, node.cpus, [(zone.name, zone.present) for zone in node.zones])
        for node in topology.nodes
    ]
