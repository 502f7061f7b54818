"""What callers of a store name (pages, nodes, capacities, budgets), as kernels take it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuscan.base.arguments import INT64_MAX, integers, is_on_gpu, whole
from gpuscan.base.errors import ArgumentError, InputError
from gpuscan.kernels.signatures import Door
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import BLOCK_PAGES
from gpuscan.topology import Topology


def pages_and_nodes(
    pfns: ArrayLike, nids: ArrayLike, *, may_be_on_gpu: bool
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return PFNs and a target nid for each; those on a GPU as they are, where kernels check them.

    Raises:
        ArgumentError: they are no whole numbers, or neither one nid for all nor one for each.
    """
    if may_be_on_gpu and (is_on_gpu(pfns) or is_on_gpu(nids)):
        return cast(NDArray[np.int64], pfns), cast(NDArray[np.int32], nids)
    pfn, nid = np.atleast_1d(integers("PFNs", pfns)), integers("target nids", nids)
    if pfn.ndim != 1:
        raise ArgumentError(f"PFNs come as one dimension, not {pfn.ndim}; flatten the array")
    if nid.shape not in ((), pfn.shape):
        raise ArgumentError(
            f"{len(pfn)} PFNs come with {nid.size} target nids; give one for each, or one for all"
        )
    if nid.dtype != np.int32:  # a plain cast would turn node 2**32 into node 0
        nid = np.where((nid < 0) | (nid >= N_NODES_MAX), -1, nid).astype(np.int32)
    if nid.shape != pfn.shape:
        nid = np.full(pfn.shape, nid, dtype=np.int32)  # a broadcast view is read-only: backends copy it
    return np.ascontiguousarray(pfn, dtype=np.int64), np.ascontiguousarray(nid)


def mask_of_nodes(
    place: str,
    nodes: Iterable[int] | None,
    node_mask: NDArray[np.uint8] | None,
    door: Door,
    topology: Topology,
) -> NDArray[np.uint8] | None:
    """Return which nodes are asked for, as uint8[1024]; None = all.

    Args:
        place: the operation, for the sentence.
        nodes, node_mask: the two ways to name them.
        door: the store's.
        topology: the machine.

    Raises:
        ArgumentError: both are given, or one is no such thing.
        TopologyError: the machine has no such node.
    """
    if nodes is None:
        if node_mask is None:
            return None
        (mask,) = door.arrays("scan", node_mask)
        given: NDArray[np.uint8] | None = mask
        return given
    if node_mask is not None:
        raise ArgumentError(f"{place}: nodes and node_mask are two ways to name nodes; give one of them")
    if isinstance(nodes, Iterable) and not isinstance(nodes, np.ndarray | str | bytes):
        nodes = list(islice(nodes, N_NODES_MAX + 1))
    nids = integers(f"{place}: nodes", nodes)
    if nids.ndim != 1:
        raise ArgumentError(f"{place}: nodes have {nids.ndim} dimensions; give nids, as in nodes=[0, 2]")
    if len(np.unique(nids)) != len(nids):
        raise ArgumentError(
            f"{place}: nodes name one node twice; give nids, each once, or a mask of nodes as node_mask="
        )
    chosen = np.zeros(N_NODES_MAX, dtype=np.uint8)
    for nid in nids.tolist():
        topology.node(nid)
        chosen[nid] = 1
    return chosen


def capacity_of_plan(capacity: int) -> int:
    """Return how many folios a plan may hold.

    Raises:
        InputError: one block of pages may not fit.
    """
    capacity = whole("the capacity of a plan", capacity, -INT64_MAX)
    if capacity < BLOCK_PAGES:
        raise InputError(
            f"a plan of {capacity} folios may not hold one block of {BLOCK_PAGES} pages; "
            f"give a capacity of at least {BLOCK_PAGES}"
        )
    return capacity


def limits_of_targets(
    budget_pages: Mapping[int, int] | int, n_targets: int, check_target: Callable[[int], None]
) -> NDArray[np.int64]:
    """Return int64[n_targets], what a budget allows each target; -1 = no limit.

    Raises:
        ArgumentError: a number of pages is negative, or none.
        TopologyError: as ``check_target``.
    """
    limits = np.full(n_targets, -1, dtype=np.int64)
    if not isinstance(budget_pages, Mapping):
        limits[:] = _pages(budget_pages)
        return limits
    for nid, pages in budget_pages.items():
        n_pages = _pages(pages)
        check_target(nid)
        limits[nid] = n_pages
    return limits


def _pages(pages: int) -> int:
    n_pages = whole("a budget", pages, -INT64_MAX)
    if n_pages < 0:
        raise ArgumentError(
            f"a budget of {n_pages} pages is negative; leave the target out to lift its limit"
        )
    return n_pages


def moment(now_jiffies: int) -> int:
    """Return a moment in jiffies.

    Raises:
        ArgumentError: it is no whole number, or negative.
    """
    return whole("now_jiffies", now_jiffies)
