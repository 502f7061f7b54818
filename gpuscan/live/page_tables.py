"""Which pages of running processes are in which frames, as :mod:`gpuscan.traces.page_table` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.linux.process import Process
from gpuscan.linux.resident import Pages, pages_in
from gpuscan.monitors.touched import mapped

Table = dict[str, NDArray[np.int64]]
"""Columns ``pid``, ``virtual_page``, ``pfn`` and ``n_pages``, int64[n]."""


def page_tables(processes: Iterable[Process]) -> Iterator[Table]:
    """Yield the pages of processes that have frames, mapping by mapping: pages one behind the other in frames
    one behind the other are one row.

    Args:
        processes: whose; what is read of one that ended meanwhile may be another's, and is left out.

    Raises:
        OSError: a pagemap may not be opened.
    """
    for process in processes:
        for mapping in mapped(process):
            pages = pages_in(process, mapping[None])
            if not process.is_alive():
                break
            if len(pages):
                yield _rows(process, pages)


def _rows(process: Process, pages: Pages) -> Table:
    page, pfn = pages.address >> PAGE_SHIFT, pages.pfn
    begins = np.flatnonzero(np.append(True, (np.diff(page) != 1) | (np.diff(pfn) != 1)))
    return {
        "pid": np.full(len(begins), process.pid, dtype=np.int64),
        "virtual_page": page[begins],
        "pfn": pfn[begins],
        "n_pages": np.diff(np.append(begins, len(page))),
    }
