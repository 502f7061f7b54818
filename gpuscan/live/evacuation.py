"""``live --evacuate``: nobody is watched, every page of a node leaves, and what stays has a reason."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.engine.stages import MigrateResult, MigrateStatus, Migrator
from gpuscan.engine.tick import TickReport
from gpuscan.linux.numa import Allowance
from gpuscan.linux.process import Process
from gpuscan.linux.resident import PageFlags, pages_in
from gpuscan.linux.targets import Targets
from gpuscan.live.request import LiveRequest
from gpuscan.monitors.source import LARGER, SHARED, LiveSource
from gpuscan.monitors.touched import NOTHING, Touched, mapped
from gpuscan.records.page_map import PageMap

_PATIENCE_LOOKS = 20
"""Looks in a row in which nothing moved, after which what is left is given up: a folio that was refused was
tried four times by then. What waits for its turn under a rate limit was not tried, and does not count."""
_HELD_NS = 10_000_000_000
"""After so long without a claim the rate limit is too small for what waits: it keeps what is not used for a
second (:mod:`gpuscan.engine.rate_limit`), and a folio that is larger than that goes never."""


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
        refresh: looks who came and went, and has the source watch who is there; returns whether anybody did.
        waits_for_room: whether what finds no room is tried again, as room may be made.
    """

    def __init__(
        self,
        nid: int,
        source: LiveSource,
        targets: Targets,
        flags: PageFlags,
        page_map: PageMap,
        refusals: Refusals,
        refresh: Callable[[], bool],
        *,
        waits_for_room: bool = True,
    ) -> None:
        self.nid = nid
        self.left: Counter[str] = Counter()
        """Base pages of the processes that are on the node still, by reason; see :meth:`count_left`."""
        self._source = source
        self._targets = targets
        self._flags = flags
        self._page_map = page_map
        self._refusals = refusals
        self._refresh = refresh
        self._waits_for_room = waits_for_room
        self._idle_looks = self._held_looks = self._held_ns = 0

    def after(self, tick: TickReport) -> None:
        """Let the source end once nothing more is going to leave."""
        if self._source.finished():  # for another reason, and perhaps without a look at who is there
            return
        waits_for_room = self._waits_for_room and len(self._source.no_room) > 0
        if not tick.metrics.get("leaving_folios", 0) and not waits_for_room:
            self._finish(f"nothing that can move is left on node {self.nid}")
            return
        is_held = not tick.candidates and tick.pending > 0  # nothing was tried: a rate limit has it wait
        if tick.migrated_pages:
            self._idle_looks = 0
        elif not is_held:
            self._idle_looks += 1
        self._held_looks = self._held_looks + 1 if is_held else 0
        self._held_ns = self._held_ns + tick.duration_ns if is_held else 0
        if self._idle_looks >= _PATIENCE_LOOKS:
            self._finish(f"what is left on node {self.nid} does not move")
        elif self._held_looks >= _PATIENCE_LOOKS and self._held_ns >= _HELD_NS:
            self._finish(f"the rate limit is too small for what is left on node {self.nid}")

    def _finish(self, reason: str) -> None:
        """Let the source end, unless somebody came whom no look has seen: a forked child, say."""
        if self._refresh():
            self._idle_looks = self._held_looks = self._held_ns = 0
        else:
            self._source.finish(reason)

    def count_left(self) -> None:
        """Look once more at what is on the node, and why; a page counts once, whoever maps it."""
        self.left = Counter()
        counted = np.empty(0, dtype=np.int64)
        for member in self._source.members:
            if member.process.is_alive():
                counted = np.union1d(counted, self._count(member.process, member.allowance, counted))
        self.left = Counter({reason: n for reason, n in self.left.items() if n})

    def _count(self, process: Process, allowance: Allowance, counted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the pages of a process that were not yet; return int64[n], their PFNs."""
        pages = pages_in(process, mapped(process))
        flats = self._page_map.flat_of_pfn(pages.pfn)
        there = flats >= 0
        there[there] = self._page_map.nid_of_flat(flats[there]) == self.nid
        there &= ~np.isin(pages.pfn, counted)
        _, first = np.unique(pages.pfn[there], return_index=True)
        pages = pages.take(np.flatnonzero(there)[first])
        folios = self._flags.folios_of(pages.pfn)
        nids = np.full(len(pages), self.nid, dtype=np.int32)
        targets = self._targets.of_pages(nids, pages.address, allowance, way="out")
        refused = np.isin(folios.head, self._refusals.heads())
        open_to = ~folios.is_zero
        for reason, which in (
            ("not allowed elsewhere (cpuset or memory policy)", targets < 0),
            ("", refused),
            ("no node has room", np.isin(folios.head, self._source.no_room)),
            (SHARED, ~pages.exclusive),
            (LARGER, folios.hugetlb & ~folios.movable),
            ("not on an LRU list", ~folios.movable),
            ("not come to", np.ones(len(pages), dtype=np.bool_)),
        ):
            mine = open_to & which
            if reason:
                self.left[reason] += int(mine.sum())
            else:
                self.left.update(self._refusals.why(head) for head in folios.head[mine].tolist())
            open_to &= ~which
        return pages.pfn

    def document(self) -> dict[str, Any]:
        """Return what became of it."""
        return {"node": self.nid, "left_pages": self.left.total(), "left": dict(self.left.most_common())}
