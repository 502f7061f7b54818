"""Migration throughput by folio size: a cost for each folio and each page, fitted on two sizes of six."""

from __future__ import annotations

from gpuscan.reproduce.contract import Experiment, Order, Outcome, Published, Setting
from gpuscan.reproduce.fitted import FITTED_ORDERS, FOLIO_GB_PER_S, cost_by_folio
from gpuscan.reproduce.moves import move

_NAMES = {0: "4K", 2: "16K", 4: "64K", 6: "256K", 8: "1M", 9: "2M"}
_MOVED_BYTES = 1 << 30
_BATCH_PAGES = 4096


def _run(setting: Setting) -> Outcome:
    cost = cost_by_folio()
    figures = {}
    for number, (order, name) in enumerate(_NAMES.items()):
        setting.on_step(f"1 GiB in folios of {name}", number / len(_NAMES))
        figures[name] = move(_MOVED_BYTES, order, cost, _BATCH_PAGES).gb_per_s
    return Outcome(figures)


EXPERIMENT = Experiment(
    about="move_pages() of 1 GB between two sockets, by folio size",
    source=(
        "S. Garg, Re: [PATCH 0/7] Accelerate page migration with batch copying and hardware offload, "
        "linux-kernel, 2026-05-08, table 1a; lkml.iu.edu/hypermail/linux/kernel/2605.1/00684.html"
    ),
    machine="two-socket AMD Zen 3, v7.1-rc1, one thread; here the preset two-socket, modelled time",
    published=tuple(
        Published(
            key=_NAMES[order],
            what=f"folios of {_NAMES[order]}",
            value=value,
            unit="GB/s",
            kind="rate",
            fitted=order in FITTED_ORDERS,
        )
        for order, value in FOLIO_GB_PER_S.items()
    ),
    orders=(Order("throughput by folio size", tuple(_NAMES.values())),),
    not_modelled=("the cache: a copied page is warm for whoever touches it next", "DMA offload"),
    fitted=(
        "cost of a folio and of a page, on the rows 4K and 1M; 16K, 64K and 256K are predicted",
        "cost of a page of a PMD-mapped folio, on the 10.67 GB/s of an earlier mail of the author "
        "(2025-09-23, table 1a, another kernel): the row 2M compares the two mails, through our rounds",
    ),
    scale="as published",
    takes_topology=False,
    draw=None,
    run=_run,
)
