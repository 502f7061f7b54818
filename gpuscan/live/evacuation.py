"""``live --evacuate``: nobody is watched, every page of a node leaves, and what stays has a reason."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.engine.stages import MigrateResult, MigrateStatus, Migrator
from gpuscan.engine.tick import TickReport
from gpuscan.linux.numa import Allowance
from gpuscan.linux.process import Process
from gpuscan.linux.resident import PageFlags, pages_in
from gpuscan.linux.targets import NO_ROOM, NO_TARGET, NOT_ALLOWED, Targets
from gpuscan.live.request import LiveRequest
from gpuscan.monitors.source import LiveSource
from gpuscan.monitors.touched import NOTHING, Touched, mapped
from gpuscan.records.page_map import PageMap

_PATIENCE_LOOKS = 20
"""Looks in a row in which nothing moved, after which what is left is given up: a folio that was refused was
tried four times by then."""


class NobodyWatches:
    """A :class:`gpuscan.monitors.contract.Monitor` that sees nothing: pages leave, used or not."""

    name = "none"
    sees = "nothing, every page of the node leaves it"

    def __init__(self) -> None:
        self._n_processes = 0

    def watch(self, processes: Sequence[Process]) -> None:
        """See :class:`gpuscan.monitors.contract.Monitor`."""
        self._n_processes = len(processes)

    def observe(self, now_ns: int) -> list[Touched]:
        """Return that nothing was touched."""
        return [NOTHING] * self._n_processes

    def cpu_s(self) -> float:
        """Return 0: no thread of the kernel's works for it."""
        return 0.0

    def close(self) -> None:
        """Do nothing: nothing was changed."""


def check_request(request: LiveRequest) -> None:
    """Refuse what does not go together with emptying a node.

    Raises:
        InputError: something does not.
    """
    others = {
        "--demote": request.demote,
        "--to": request.to_nid is not None,
        "--monitor": request.monitor != "auto",
        "-- COMMAND": bool(request.command),
    }
    for name, is_given in others.items():
        if is_given:
            raise InputError(
                f"--evacuate moves every page of processes that run, wherever they are used; leave {name} out"
            )


class Refusals:
    """A :class:`gpuscan.engine.stages.Migrator` that remembers why each folio that is left was refused last.

    Args:
        migrator: moves them.
    """

    def __init__(self, migrator: Migrator) -> None:
        self._migrator = migrator
        self._why: dict[int, str] = {}

    def migrate(self, target_nid: int, pfns: NDArray[np.int64], n_pages: NDArray[np.int64]) -> MigrateResult:
        """See :class:`gpuscan.engine.stages.Migrator`."""
        result = self._migrator.migrate(target_nid, pfns, n_pages)
        # Of several reasons with one status that which most have; a batch has rarely more.
        said = {
            reason.split(":")[0]: reason
            for reason, _ in sorted(result.reasons.items(), key=lambda each: each[1])
        }
        for pfn, status in zip(pfns.tolist(), result.status.tolist(), strict=True):
            name = errno.errorcode.get(-status, str(status))
            if status == MigrateStatus.MOVED:
                self._why.pop(pfn, None)
            else:
                self._why[pfn] = said.get(name, name)
        return result

    def heads(self) -> NDArray[np.int64]:
        """Return int64[n]: the first pages of the folios that were refused and not moved since."""
        return np.fromiter(self._why, dtype=np.int64, count=len(self._why))

    def why(self, head: int) -> str:
        """Return why one of them was refused last."""
        return self._why[head]


class Evacuation:
    """The emptying of a node: when it is over, and what is left.

    Args:
        nid: the node.
        source: of the pages that leave.
        targets: where they go.
        flags: /proc/kpageflags.
        page_map: of the machine.
        refusals: of the pages that were tried.
    """

    def __init__(
        self,
        nid: int,
        source: LiveSource,
        targets: Targets,
        flags: PageFlags,
        page_map: PageMap,
        refusals: Refusals,
    ) -> None:
        self.nid = nid
        self.left: Counter[str] = Counter()
        """Base pages of the processes that are on the node still, by reason; see :meth:`count_left`."""
        self._source = source
        self._targets = targets
        self._flags = flags
        self._page_map = page_map
        self._refusals = refusals
        self._idle_looks = 0

    def after(self, tick: TickReport) -> None:
        """Let the source end once nothing more is going to leave."""
        if self._source.finished():  # for another reason, and perhaps without a look at who is there
            return
        if not tick.metrics.get("leaving_folios", 0):
            self._source.finish(f"nothing that can move is left on node {self.nid}")
            return
        self._idle_looks = 0 if tick.migrated_pages else self._idle_looks + 1
        if self._idle_looks >= _PATIENCE_LOOKS:
            self._source.finish(f"what is left on node {self.nid} does not move")

    def count_left(self) -> None:
        """Look once more at what is on the node, and why."""
        self._targets.begin_look()
        self.left = Counter()
        for member in self._source.members:
            if member.process.is_alive():
                self._count(member.process, member.allowance)
        self.left = Counter({reason: n for reason, n in self.left.items() if n})

    def _count(self, process: Process, allowance: Allowance) -> None:
        pages = pages_in(process, mapped(process))
        flats = self._page_map.flat_of_pfn(pages.pfn)
        nids = self._page_map.nid_of_flat(np.maximum(flats, 0))
        there = (flats >= 0) & (nids == self.nid)
        pages, nids = pages.take(there), nids[there]
        targets = self._targets.of_pages(nids, pages.address, allowance, way="out")
        folios = self._flags.folios_of(pages.pfn)
        open_to: NDArray[np.bool_] = np.ones(len(pages), dtype=np.bool_)
        for reason, which in (
            (
                "not allowed elsewhere (cpuset or memory policy)",
                (targets == NOT_ALLOWED) | (targets == NO_TARGET),
            ),
            ("mapped by several processes", ~pages.exclusive),
            ("not on an LRU list", ~folios.movable),
        ):
            self.left[reason] += int((open_to & which).sum())
            open_to &= ~which
        heads = folios.head[open_to]
        refused = np.isin(heads, self._refusals.heads())
        self.left.update(self._refusals.why(head) for head in heads[refused].tolist())
        no_room = (targets[open_to] == NO_ROOM) & ~refused
        self.left["no node has room"] += int(no_room.sum())
        self.left["not come to"] += int((~refused & ~no_room).sum())

    def document(self) -> dict[str, Any]:
        """Return what became of it."""
        return {"node": self.nid, "left_pages": self.left.total(), "left": dict(self.left.most_common())}
