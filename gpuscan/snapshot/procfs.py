"""This machine's page flags, mapcounts and cgroups, from /proc/kpageflags, kpagecount and kpagecgroup (root).

Each file is one u64 per PFN (Linux Documentation/admin-guide/mm/pagemap.rst,
fs/proc/page.c) and end at the last PFN, rounded up to a section. They are mode
0400 and owned by root; no other capability is asked for.

Nothing stops the machine while it is read. The words of one stretch of 4 MiB are read right after each
other, but a page may be freed, split or moved between two words;
:func:`gpuscan.records.page_flags.find_frames` leaves out what does not fit together and counts it.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.linux.cgroups import MemoryCgroups
from gpuscan.linux.resident import masked
from gpuscan.linux.system import System
from gpuscan.records.page_flags import NO_PAGE
from gpuscan.snapshot.cgroups import N_CGROUPS_MAX, UNCHARGED, PageCgroups
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.topology.page_size import check_page_size
from gpuscan.topology.sysfs import read_host

WORD_BYTES = 8
_STRETCH_PAGES = 1 << 19
"""Pages per read, 4 MiB. The kernel makes 9 M words a second or more; a read returns in well under 0.1 s."""
_LRU_GEN_CORE = 1
"""The main switch in lru_gen/enabled (Documentation/admin-guide/mm/multigen_lru.rst)."""

Progress = Callable[[int, int], None]
"""Called with the pages read by now and the pages there are."""


def capture(
    root: Path = Path("/"), progress: Progress | None = None, *, with_cgroups: bool = False
) -> Snapshot:
    """Read the machine whose /proc and /sys lie under ``root``.

    Takes 12 bytes of memory per page, 0.3 % of what the machine has; 14 with cgroups.

    Args:
        root: of the machine.
        progress: told how far it is.
        with_cgroups: keep which memory cgroup each page is charged to.

    Raises:
        InputError: the page flags cannot be opened (not root, or a kernel without them), or are masked.
        TopologyError: zones or nodes cannot be read, or pages are not 4 KiB.
        RunFailedError: a read failed midway.
    """
    with ExitStack() as stack:
        flags_fd = stack.enter_context(_open(root / "proc/kpageflags"))
        counts_fd = stack.enter_context(_open(root / "proc/kpagecount"))
        host = read_host(root)
        check_page_size(host.page_bytes, "capture")
        page_map = host.topology.page_map
        charged = stack.enter_context(_charged(root, page_map.n_pages)) if with_cgroups else None
        flags = np.full(page_map.n_pages, NO_PAGE)
        mapcounts = np.zeros(page_map.n_pages, dtype=np.uint32)
        words = np.empty(_STRETCH_PAGES, dtype=np.uint64)
        n_done = n_beyond = 0
        shows_flags = False
        offsets = page_map.extent_flat_offset.tolist()
        for (start, end), offset in zip(page_map.extent_flat_ranges(), offsets, strict=True):
            for low in range(start, end, _STRETCH_PAGES):
                high = min(low + _STRETCH_PAGES, end)
                n_words = _read(flags_fd, low - offset, flags[low:high], root / "proc/kpageflags")
                n_beyond += high - low - n_words
                shows_flags = shows_flags or bool(flags[low : low + n_words].any())
                counts = words[: high - low]
                n_words = _read(counts_fd, low - offset, counts, root / "proc/kpagecount")
                mapcounts[low : low + n_words] = np.minimum(counts[:n_words], np.iinfo(np.uint32).max)
                if charged is not None:
                    charged.read(low, low - offset, words[: high - low])
                n_done += high - low
                if progress is not None:
                    progress(n_done, page_map.n_present_pages)
    if not shows_flags:
        raise masked(root / "proc/kpageflags")
    if not mapcounts.any():
        raise masked(root / "proc/kpagecount", "mapping")
    notes = list(host.notes)
    if n_beyond:
        notes.append(f"{n_beyond} present pages lie past the end of /proc/kpageflags, taken as no page")
    release = _text(root / "proc/sys/kernel/osrelease") or "unknown"
    return Snapshot(
        topology=host.topology,
        flags=flags,
        mapcounts=mapcounts,
        kernel_release=release,
        hz=_hz(root, release),
        lru_gen=lru_gen_is_on(System(root)),
        captured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=tuple(notes),
        cgroups=None if charged is None else charged.named(MemoryCgroups(root)),
    )


class _Charged:
    """What /proc/kpagecgroup says: the inode number of each page's memory cgroup, 0 for none.

    Args:
        fd: of the file, and its path.
        n_pages: of the machine, by flat index.
    """

    def __init__(self, fd: int, path: Path, n_pages: int) -> None:
        self._fd, self._path = fd, path
        self._of_page = np.zeros(n_pages, dtype=np.uint16)
        self._number_of = {0: 0}

    def read(self, flat: int, pfn: int, words: NDArray[np.uint64]) -> None:
        """Read the words of a stretch of pages; ``words`` is room for them."""
        n_words = _read(self._fd, pfn, words, self._path)
        starts = np.flatnonzero(np.diff(words[:n_words], prepend=~words[:1]))  # neighbours are mostly of one
        inodes, which = np.unique(words[starts], return_inverse=True)
        numbers = [self._number_of.setdefault(inode, len(self._number_of)) for inode in inodes.tolist()]
        if len(self._number_of) > N_CGROUPS_MAX:
            raise RunFailedError(
                f"{self._path} names more than {N_CGROUPS_MAX - 1:,} cgroups, which no kernel has; "
                "capture again"
            )
        runs = np.diff(starts, append=n_words)
        self._of_page[flat : flat + n_words] = np.repeat(np.array(numbers, dtype=np.uint16)[which], runs)

    def named(self, there: MemoryCgroups) -> PageCgroups:
        """Return it with the paths of the cgroups that are there now; those of one name are one.

        Raises:
            InputError: no page is charged to any, not even to that at the top.
        """
        if len(self._number_of) == 1:
            raise InputError(
                f"{self._path} shows no cgroup of any page: it is masked, as container runtimes do, or the "
                "kernel was started with cgroup_disable=memory; run gpuscan on the host itself, or capture "
                "without cgroups"
            )
        names = [there.path_of.get(inode, f"inode {inode}") for inode in self._number_of if inode]
        return PageCgroups.merged((UNCHARGED, *names), self._of_page)


@contextmanager
def _charged(root: Path, n_pages: int) -> Iterator[_Charged]:
    path = root / "proc/kpagecgroup"
    if not path.exists():
        raise InputError(
            f"{path} is not there: the kernel counts no memory by cgroup (CONFIG_MEMCG); "
            "capture without cgroups"
        )
    with _open(path) as fd:
        yield _Charged(fd, path, n_pages)


@contextmanager
def _open(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:
        raise InputError(
            f"{path} cannot be opened: the kernel shows page flags to root only; run it with sudo, "
            "in a container with the host's root"
        ) from None
    except FileNotFoundError:
        raise InputError(
            f"{path} is not there: the kernel has no CONFIG_PROC_PAGE_MONITOR, or /proc is not mounted; "
            "capture on a machine that has it"
        ) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _read(fd: int, pfn: int, into: NDArray[np.uint64], path: Path) -> int:
    """Read words from ``pfn`` on and return how many there were before the file's end."""
    n_bytes = 0
    view = into.data.cast("B")
    while n_bytes < len(view):
        try:
            n_read = os.preadv(fd, [view[n_bytes:]], pfn * WORD_BYTES + n_bytes)
        except OSError as error:
            raise RunFailedError(
                f"{path} cannot be read at PFN {pfn + n_bytes // WORD_BYTES}: {error.strerror}; try again"
            ) from error
        if n_read == 0:
            break
        n_bytes += n_read
    return n_bytes // WORD_BYTES


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def lru_gen_is_on(system: System) -> bool:
    """Whether the multi-generation LRU of a machine is on."""
    try:
        text = system.read_text(system.root / "sys/kernel/mm/lru_gen/enabled")
    except OSError:  # no CONFIG_LRU_GEN
        return False
    return bool(int(text, 16) & _LRU_GEN_CORE)


def _hz(root: Path, release: str) -> int | None:
    """Return CONFIG_HZ, which no file under /proc/sys tells."""
    config = _text(root / "boot" / f"config-{release}")
    with suppress(OSError, EOFError):
        config = gzip.decompress((root / "proc/config.gz").read_bytes()).decode("ascii", "replace")
    found = re.search(r"^CONFIG_HZ=([0-9]+)$", config or "", re.MULTILINE)
    return int(found[1]) if found else None
