"""Which pages of running processes are in which frames, as :mod:`gpuscan.traces.page_table` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.linux.process import Process
from gpuscan.linux.resident import Pages, pages_in
from gpuscan.linux.system import HERE, System
from gpuscan.live.members import Pids, Roster
from gpuscan.monitors.touched import mapped


def page_tables(pids: Sequence[int], system: System = HERE) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Yield the pages of processes that have frames, mapping by mapping: pages one behind the other in frames
    one behind the other are one row.

    Args:
        pids: of the processes.
        system: where they run.

    Raises:
        InputError: there is no such process.
        OSError: its pagemap may not be opened.
    """
    roster = Roster(Pids(pids), system)
    try:
        for _, process in roster.alive():
            for mapping in mapped(process):
                pages = pages_in(process, mapping[None])
                if len(pages):
                    yield _rows(process, pages)
    finally:
        roster.close()


def _rows(process: Process, pages: Pages) -> dict[str, NDArray[np.int64]]:
    page, pfn = pages.address >> PAGE_SHIFT, pages.pfn
    begins = np.flatnonzero(np.append(True, (np.diff(page) != 1) | (np.diff(pfn) != 1)))
    return {
        "pid": np.full(len(begins), process.pid, dtype=np.int64),
        "virtual_page": page[begins],
        "pfn": pfn[begins],
        "n_pages": np.diff(np.append(begins, len(page))),
    }
