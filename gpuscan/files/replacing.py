"""Whether this process may put aside and remove what has a name: asked before a long job, not after it.

A writer makes what is new beside the old, which takes the right to write to their directory. To take the old
one's name takes more: in a directory with the sticky bit, such as /tmp, only who owns one of the two may, or
who has CAP_FOWNER (__check_sticky(), fs/namei.c, v6.12); and a directory that comes to another one must be
writable itself (vfs_rename(), fs/namei.c, v6.12). Root that gave up its capabilities is a user like others.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gpuscan.base.status_text import effective_capabilities

_CAP_FOWNER = 3
"""include/uapi/linux/capability.h"""


def why_not_ours_to_replace(path: Path) -> str:
    """Say why this thread may not take a name from what has it; empty if it may, or if nothing has it.

    Args:
        path: absolute; a link is not followed.
    """
    try:
        found, parent = path.lstat(), path.parent.stat()
    except FileNotFoundError:
        return ""
    me = os.geteuid()
    is_sticky = bool(parent.st_mode & stat.S_ISVTX)
    if is_sticky and me not in (found.st_uid, parent.st_uid) and not _may_as_if_owner():
        return f"it belongs to another user, in {path.parent}, where only owners replace"
    if stat.S_ISDIR(found.st_mode) and not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        return "it may not be written"
    return ""


def _may_as_if_owner() -> bool:
    text = Path("/proc/thread-self/status").read_text(errors="replace")
    return bool(effective_capabilities(text) >> _CAP_FOWNER & 1)
