"""Which memory is online: blocks of it go and come while the service runs (memory hotplug)."""

from __future__ import annotations

from typing import Any

from gpuscan.base.errors import TopologyError
from gpuscan.linux.system import System
from gpuscan.topology import Topology
from gpuscan.topology.contract import Host


class OnlineMemory:
    """Tells when the machine's memory is laid out in another way than what is gone by.

    What is asked often is one line of /proc/meminfo: the kernel counts a block's pages in when it comes
    online and out when it goes (adjust_managed_page_count(), mm/memory_hotplug.c, v6.12). The block's state
    and the zone's pages follow a moment later. So the machine is read anew where the line has changed, and
    until a second reading agrees with the one before; that of the start counts as the first. A balloon
    changes the line, too, and nothing of what counts here.

    Args:
        system: the machine.

    Attributes:
        is_settled: two readings agreed, with what is gone by, too.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._in_force: list[Any] = []
        self._seen: list[Any] = []
        self._told = ""
        self.is_settled = False

    def read(self) -> Host:
        """Return the machine as it is at the start, which is gone by from now on."""
        self._told = self._total()  # before: what changes meanwhile is told of then
        host = self._system.read_host()
        self._in_force = self._seen = _layout(host.topology)
        return host

    def changed(self) -> Topology | None:
        """Return the machine as it is now, where it is not what is gone by; else None."""
        told = self._total()
        if not told or (self.is_settled and told == self._told):
            return None
        try:
            topology = self._system.read_host().topology
        except (TopologyError, OSError):  # it was in the middle of a change: asked again
            return None
        seen = _layout(topology)
        is_used = seen == self._in_force
        self.is_settled = is_used and seen == self._seen and told == self._told
        self._told, self._seen = told, seen
        return None if is_used else topology

    def use(self, topology: Topology) -> None:
        """Take what was returned for what is gone by; as long as it is not, it is returned again."""
        self._in_force = _layout(topology)

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
