"""Whether a configuration fits the nodes of a machine."""

from __future__ import annotations

from gpuscan.base.errors import InputError
from gpuscan.linux.targets import Targets
from gpuscan.service.config import Config, Settings
from gpuscan.topology import Topology
from gpuscan.topology.tiers import tier_options, with_tiers


def tiered(config: Config, topology: Topology) -> Topology:
    """Return a machine with its nodes in the tiers of a configuration.

    Raises:
        TopologyError: there is no such node.
    """
    return with_tiers(topology, dict(_pair(text) for text in config.service.tiers))


def still_tiered(settings: Settings, topology: Topology) -> Topology:
    """Return the same of a machine that has changed since the start: some of the nodes may be gone."""
    nids = {node.nid for node in topology.nodes}
    pairs = (_pair(text) for text in settings.tiers)
    return with_tiers(topology, {nid: tier for nid, tier in pairs if nid in nids})


def check_nodes(config: Config, topology: Topology) -> None:
    """Refuse a configuration for a machine that has not the nodes that it names, or nowhere to move pages to.

    Args:
        config: what it is to be.
        topology: of the machine, its nodes in the tiers that the configuration wants.

    Raises:
        InputError: it cannot start there.
    """
    nids = [node.nid for node in topology.nodes if node.present_pages]
    if len(nids) < 2:
        raise InputError(
            "this machine has one node with memory, so there is nowhere to move pages to; "
            "gpuscan live --dry-run shows what would be moved if there were two"
        )
    for rule in config.rule:
        for nid in rule.nodes:
            if nid not in nids:
                known = ", ".join(map(str, nids))
                raise InputError(
                    f"rule {rule.name}: nodes names {nid}, which has no memory here; give some of {known}"
                )
    targets = Targets(topology)
    if not targets.promotion and not targets.demotion:
        options = tier_options(topology)
        example = options.split()[-1] if options else "2=1"
        raise InputError(
            "all nodes with memory are in one tier, so nothing is to be moved; put the slower memory "
            f'into a lower one, in [service]: tiers = ["{example}"]'
        )


def _pair(text: str) -> tuple[int, int]:
    nid, _, tier = text.partition("=")
    return int(nid), int(tier)
