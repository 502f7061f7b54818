"""TLB flushes of migrate_pages() before and after they were batched."""

from __future__ import annotations

from dataclasses import replace

from gpuscan.reproduce.contract import Experiment, Order, Outcome, Published, Setting
from gpuscan.reproduce.fitted import flush_ns
from gpuscan.reproduce.moves import move
from gpuscan.sim.spec import MigrationCostSpec

_MOVED_BYTES = 32 << 20
_BATCH_PAGES = 1 << 14


def _run(setting: Setting) -> Outcome:
    page_ns = MigrationCostSpec().page_ns
    cost = MigrationCostSpec(round_ns=flush_ns(page_ns), page_ns=page_ns)
    setting.on_step("a flush for every page", 0.0)
    before = move(_MOVED_BYTES, 0, replace(cost, round_pages=1), _BATCH_PAGES)
    setting.on_step("a flush for every round", 0.8)
    after = move(_MOVED_BYTES, 0, cost, _BATCH_PAGES)
    left = after.n_rounds / before.n_rounds
    gain = after.gb_per_s / before.gb_per_s - 1.0
    return Outcome({"removed": 100 * (1 - left), "left": 100 * left, "gain": 100 * gain})


EXPERIMENT = Experiment(
    about="migratepages back and forth under pmbench: TLB flushes batched in rounds of 512 pages",
    source=(
        "Huang Ying, [PATCH -v5 8/9] migrate_pages: batch flushing TLB, linux-mm, 2023-02-13 "
        "(20230213123444.155149-9-ying.huang@intel.com), in v6.3"
    ),
    machine="two-socket Intel server; here the preset two-socket",
    published=(
        Published(key="removed", what="TLB flush IPIs removed", value=99.1, unit="%", kind="ratio"),
        Published(
            key="left",
            what="TLB flush IPIs left",
            value=0.9,
            unit="%",
            kind="ratio",
            missing=(
                "flushes of what is not migrated (page faults and unmapping of pmbench itself) are in the "
                "published count of IPIs, and so are folios flushed alone because their locks are taken"
            ),
        ),
        Published(
            key="gain", what="pages migrated a second, more", value=291.7, unit="%", kind="rate", fitted=True
        ),
    ),
    orders=(Order("what is left and what is removed", ("left", "removed")),),
    not_modelled=("pmbench's own accesses, faults and flushes", "folios that are locked by others"),
    fitted=("cost of a flush, on the published gain in pages a second; batch-size takes it from here",),
    scale="32 MiB are moved, once",
    takes_topology=False,
    draw=None,
    run=_run,
)
