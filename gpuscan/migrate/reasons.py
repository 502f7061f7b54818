"""Why a folio was not moved, in words: all that the migrators of real processes say.

A reason is ``ERRNO: words``. Whoever shows reasons to a machine, as a label of a metric, needs to know that
there is no end of words neither from a user nor from the kernel.
"""

from __future__ import annotations

import errno

from gpuscan.engine.stages import MigrateStatus

NO_CANDIDATE = "no candidate any more"
PROCESS_ENDED = "process ended"
PAGE_GONE = "page gone"
REMAPPED = "moved or remapped"
NOT_BALANCED = "target not balanced"
HELD = "held, a budget is used up"
NOT_MOVED = "not moved"
NOT_SAID = "not migrated, the kernel does not say why"
NOT_ALLOWED = "the cpuset of the process does not allow the target"
OFFLINE = "the target node is not online"
NOT_PERMITTED = "not permitted (CAP_SYS_PTRACE, for another user's process)"
CALL_FAILED = "move_pages(2) failed with "
DRY = "dry run"
OTHERS_MAP = "mapped by processes that are not watched, too"
NO_HUGE_PAGE = "no free page in the target's hugetlb pool"
NO_FREE_PAGE = "no free page on the target"

NO_ROOM = (NOT_BALANCED, NO_FREE_PAGE)
"""Those for want of room on the target; an empty pool of huge pages says nothing of its other pages."""

OF_STATUS = {
    MigrateStatus.ENOENT: "no page there",
    MigrateStatus.EIO: "a dirty file page could not be written",
    MigrateStatus.ENOMEM: NO_FREE_PAGE,
    MigrateStatus.EACCES: "mapped by several processes",
    MigrateStatus.EFAULT: "zero page, or not mapped",
    MigrateStatus.EBUSY: "busy, could not be isolated",
    MigrateStatus.EINVAL: "cannot be migrated",
}
"""What a status of move_pages(2) means."""

OF_CALL = {
    errno.EACCES: NOT_ALLOWED,
    errno.ENODEV: OFFLINE,
    errno.EPERM: NOT_PERMITTED,
}
"""What move_pages(2) means that refuses a call as a whole."""

_WORDS = {
    *(NO_CANDIDATE, PROCESS_ENDED, PAGE_GONE, REMAPPED, NOT_BALANCED, HELD, NOT_MOVED, NOT_SAID, DRY),
    *(OTHERS_MAP, NO_HUGE_PAGE),
    *OF_STATUS.values(),
    *OF_CALL.values(),
}
OTHER = "other"


def label(reason: str) -> str:
    """Return a reason as a label: itself where it is one of those above, else :data:`OTHER`."""
    code, _, words = reason.partition(": ")
    return reason if words in _WORDS and code in errno.errorcode.values() else OTHER
