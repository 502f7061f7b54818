"""The migrator over move_pages(2): a small kernel aborts, refuses and splits as the real one does."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from gpuscan.engine.stages import MigrateStatus
from gpuscan.linux.address_map import AddressMap, Trait
from gpuscan.linux.hugetlb import free_huge_pages
from gpuscan.linux.sharing import Sharing, counts_all
from gpuscan.linux.system import System
from gpuscan.migrate.move_pages import DryRunMigrator, MovePagesMigrator
from gpuscan.migrate.steward import n_first
from machines import tiered
from procfs import FakeProcess
from two_nodes import BASE, FAR, FAR_PFN, NEAR, NEAR_PFN, Kernel, Room


@pytest.fixture
def bed(tmp_path):
    return Bed(tmp_path)


class Bed:
    def __init__(self, tmp_path, n=8, room=None):
        self.page_map = tiered().page_map
        self.process = FakeProcess(tmp_path)
        self.addresses = AddressMap()
        self.heads = np.arange(FAR_PFN, FAR_PFN + n)
        self.at = BASE + np.arange(n) * 4096
        self.process.map(BASE, self.heads)
        self.addresses.put(self.heads, self.at, np.zeros(n, dtype=np.int64), 0, tick=0)
        self.kernel = Kernel(self.process)
        self.room = room or Room()
        self.migrator = self.migrator_with()

    def migrator_with(self, **more):
        """Return a migrator of the process that has more than it must."""
        return MovePagesMigrator(
            {0: self.process}, self.addresses, self.page_map, self.room, self.kernel, **more
        )

    def migrate(self, n_pages=None):
        n = np.ones(len(self.heads), dtype=np.int64) if n_pages is None else n_pages
        return self.migrator.migrate(NEAR, self.heads, n)


def test_all_arrive_in_one_call_and_one_flush(bed):
    result = bed.migrate()
    assert (result.status == MigrateStatus.MOVED).all()
    assert result.reasons == {}
    assert bed.kernel.calls == [bed.at.tolist()]
    assert bed.kernel.flushes == 1
    assert bed.migrator.moved_pages == {NEAR: 8}
    assert len(bed.addresses) == 0
    (event,) = result.events
    assert event.freed.tolist() == bed.page_map.flat_of_pfn(bed.heads).tolist()


def test_a_call_has_512_pages_at_most(tmp_path, monkeypatch):
    bed = Bed(tmp_path, 1200)
    sizes = []

    def moves_all(pid, addresses, nodes, **more):
        sizes.append(len(addresses))
        return 0, np.full(len(addresses), NEAR, dtype=np.int32)

    monkeypatch.setattr(bed.kernel, "move_pages", moves_all)
    assert (bed.migrate().status == MigrateStatus.MOVED).all()
    assert sizes == [512, 512, 176]
    assert bed.room.left == (1 << 30) - 1200


def test_room_is_asked_for_before_each_call(tmp_path, monkeypatch):
    bed = Bed(tmp_path, 1200, Room(2000))

    def takes_some(pid, addresses, nodes, **more):
        bed.room.left -= 700  # somebody else, meanwhile
        return 0, np.full(len(addresses), NEAR, dtype=np.int32)

    monkeypatch.setattr(bed.kernel, "move_pages", takes_some)
    result = bed.migrate()
    # 2,000 - 700 - 512 are left for the second call's 512 and 176 more; 2,000 - 1,400 - 1,024 are none.
    assert (result.status == MigrateStatus.MOVED).sum() == 1024
    assert result.reasons == {"EAGAIN: target not balanced": 176}
    assert result.n_no_room == 176


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EACCES, "EACCES: mapped by several processes"),
        (errno.EBUSY, "EBUSY: busy, could not be isolated"),
        (errno.EFAULT, "EFAULT: zero page, or not mapped"),
        (errno.ENOENT, "ENOENT: no page there"),
        (errno.EIO, "EIO: a dirty file page could not be written"),
        (errno.EINVAL, "EINVAL: cannot be migrated"),
        (errno.ENOMEM, "ENOMEM: no free page on the target"),
    ],
)
def test_a_status_is_counted_by_its_meaning_and_the_others_move(bed, code, reason):
    bed.kernel.status[int(bed.at[3])] = -code
    result = bed.migrate()
    assert result.status.tolist() == [0, 0, 0, -code, 0, 0, 0, 0]
    assert result.reasons == {reason: 1}


def test_what_an_aborted_call_left_unwritten_is_looked_up_and_taken_up_again(bed):
    # The list before address 5 fails as a whole: 0 to 4 are not written, 6 and 7 not tried.
    bed.kernel.sticks = {int(bed.at[2])}
    bed.kernel.status[int(bed.at[5])] = -errno.EBUSY
    result = bed.migrate()
    assert result.status.tolist() == [0, 0, MigrateStatus.EAGAIN, 0, 0, -errno.EBUSY, 0, 0]
    assert result.reasons == {
        "EAGAIN: not migrated, the kernel does not say why": 1,
        "EBUSY: busy, could not be isolated": 1,
    }
    assert sum(result.reasons.values()) == int((result.status != 0).sum())
    assert bed.kernel.calls[1] == [int(address) for address in bed.at[[2, 6, 7]]]
    assert bed.migrator.moved_pages == {NEAR: 6}


def test_no_memory_on_the_target_keeps_what_arrived(bed):
    bed.kernel.sticks = {int(address) for address in bed.at[4:]}
    bed.kernel.sticky_errno = errno.ENOMEM
    result = bed.migrate()
    assert result.status.tolist() == [0] * 4 + [MigrateStatus.ENOMEM] * 4
    assert result.reasons == {"ENOMEM: no free page on the target": 4}
    assert result.n_no_room == 4


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (errno.ESRCH, MigrateStatus.ENOENT, "process ended"),
        (errno.EACCES, MigrateStatus.EACCES, "the cpuset of the process does not allow the target"),
        (errno.ENODEV, MigrateStatus.EINVAL, "the target node is not online"),
        (errno.EPERM, MigrateStatus.EINVAL, "not permitted"),
    ],
)
def test_a_call_refused_as_a_whole(bed, code, status, says):
    bed.kernel.fails = code
    result = bed.migrate()
    assert (result.status == status).all()
    ((reason, count),) = result.reasons.items()
    assert says in reason
    assert count == 8


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EINVAL])
def test_what_lies_on_the_target_of_a_refused_call_has_not_been_moved_by_it(bed, code):
    """Between the look and the call the process may have got other pages at its addresses."""

    class Refusing(Kernel):
        def move_pages(self, pid, addresses, nodes, **more):
            if nodes is not None:
                self.process.map(int(addresses[2]), [NEAR_PFN + 2])
            return super().move_pages(pid, addresses, nodes, **more)

    bed.kernel = Refusing(bed.process)
    bed.kernel.fails = code
    bed.migrator = bed.migrator_with()
    assert (bed.migrate().status != MigrateStatus.MOVED).all()
    assert sum(bed.migrator.moved_pages.values()) == 0


def test_a_process_that_ended_is_not_called_for(bed):
    bed.process.alive = False
    result = bed.migrate()
    assert result.reasons == {"ENOENT: process ended": 8}
    assert bed.kernel.calls == []


def test_pages_that_went_or_changed_since_they_were_seen_are_left_out(bed):
    bed.process.unmap(int(bed.at[1]))
    bed.process.map(int(bed.at[4]), [FAR_PFN + 5_000])
    result = bed.migrate()
    assert result.status.tolist() == [0, -2, 0, 0, -2, 0, 0, 0]
    assert result.reasons == {"ENOENT: page gone": 1, "ENOENT: moved or remapped": 1}
    assert bed.kernel.calls == [[int(address) for address in bed.at[[0, 2, 3, 5, 6, 7]]]]


def test_a_target_below_its_watermark_takes_what_fits_and_no_more(tmp_path):
    bed = Bed(tmp_path, room=Room(5))
    result = bed.migrate()
    assert result.status.tolist() == [0] * 5 + [MigrateStatus.EAGAIN] * 3
    assert result.reasons == {"EAGAIN: target not balanced": 3}
    assert result.n_no_room == 3
    assert bed.room.left == 0
    assert len(bed.addresses) == 3  # they are tried again


def test_one_address_for_a_large_folio_and_its_split_is_counted(tmp_path):
    bed = Bed(tmp_path, n=4)
    head = FAR_PFN + 512
    bed.process.map(0x400000, range(head, head + 512))
    bed.addresses.put(np.array([head]), np.array([0x403000]), np.array([9]), 0, tick=0)
    result = bed.migrator.migrate(NEAR, np.array([head]), np.array([512]))
    assert result.status.tolist() == [0]
    assert bed.kernel.calls == [[0x403000]]
    assert bed.migrator.moved_pages == {NEAR: 512}
    assert bed.migrator.n_split == 1  # the fake moved one page of it


def test_a_large_folio_that_is_mapped_at_an_odd_address_arrived_as_a_whole(tmp_path):
    bed = Bed(tmp_path, n=1)
    head, at = FAR_PFN + 512, 0x401000
    bed.process.map(at - 4096, [FAR_PFN + 300])  # what lies before it is none of it
    bed.process.map(at, range(head, head + 512))
    bed.addresses.put(np.array([head]), np.array([at + 0x3000]), np.array([9]), 0, tick=0)

    def moves_all(pid, addresses, nodes, *, of_all=False):
        bed.process.map(at, range(NEAR_PFN + 512, NEAR_PFN + 1024))
        return 0, nodes

    bed.kernel.move_pages = moves_all  # type: ignore[method-assign]
    assert bed.migrator.migrate(NEAR, np.array([head]), np.array([512])).status.tolist() == [0]
    assert bed.migrator.n_split == 0


def test_pages_of_a_process_that_was_taken_off(bed):
    del bed.migrator._processes[0]
    result = bed.migrate()
    assert result.reasons == {"ENOENT: process ended": 8}
    assert bed.kernel.calls == []


def test_what_went_down_is_told_from_what_went_up_by_where_it_was(tmp_path):
    bed = Bed(tmp_path)
    tiers = {0: 0, 1: 1, 2: 2}
    migrator = bed.migrator_with(tiers=tiers)
    one = np.ones(8, dtype=np.int64)
    migrator.migrate(NEAR, bed.heads, one)
    assert (migrator.demoted_pages, migrator.moved_pages) == (0, {NEAR: 8})
    near = np.array([bed.process.pfn_at(int(address)) for address in bed.at])
    bed.addresses.put(near, bed.at, np.zeros(8, dtype=np.int64), 0, tick=1)
    migrator.migrate(FAR, near, one)
    assert (migrator.demoted_pages, migrator.moved_pages) == (8, {NEAR: 8, FAR: 8})


def test_a_dry_run_calls_nothing_and_plans_each_folio_once(bed):
    migrator = DryRunMigrator(bed.addresses, bed.page_map)
    result = migrator.migrate(NEAR, bed.heads, np.ones(8, dtype=np.int64))
    assert (result.status == MigrateStatus.ECANCELED).all()
    assert result.reasons == {"ECANCELED: dry run": 8}
    assert bed.addresses.planned.tolist() == bed.heads.tolist()
    assert bed.kernel.calls == []


class Steward:
    """Grants so many pages, in calls of so many, and notes what it hears."""

    def __init__(self, most, chunk):
        self.left, self.chunk = most, chunk
        self.calls = []
        self.heard = []

    def grant(self, number, n_pages):
        n = int((np.cumsum(n_pages) <= self.left).sum())
        self.left -= int(n_pages[:n].sum())
        return n

    def chunk_pages(self):
        return self.chunk

    def called(self, n_pages, n_moved, busy_ns):
        self.calls.append((n_pages, n_moved))

    def settled(self, number, target_nid, n_pages, n_demoted, reasons, n_left_below):
        self.heard.append((number, target_nid, n_pages, n_demoted, dict(reasons)))
        self.left_below = n_left_below


def test_a_steward_holds_back_and_cuts_calls_and_hears_of_it(tmp_path):
    bed = Bed(tmp_path, n=8)
    steward = Steward(most=5, chunk=2)
    bed.migrator = bed.migrator_with(
        tiers={0: 0, 1: 0, 2: 1, 3: 1},
        steward=steward,
    )
    bed.kernel.status[int(bed.at[1])] = -errno.EBUSY
    result = bed.migrate()
    assert result.status.tolist() == [0, -errno.EBUSY, 0, 0, 0, *[MigrateStatus.EDQUOT] * 3]
    assert [len(call) for call in bed.kernel.calls] == [2, 2, 1]
    assert steward.calls == [(2, 1), (2, 2), (1, 1)]
    reasons = {"EBUSY: busy, could not be isolated": 1, "EDQUOT: held, a budget is used up": 3}
    assert result.reasons == reasons
    assert steward.heard == [(0, NEAR, 4, 0, reasons)]
    assert len(bed.addresses) == 4  # what is held or busy is still a candidate


class Stopping(Steward):
    """One for whom three calls were enough."""

    def chunk_pages(self):
        return 2 * (len(self.calls) < 3)


def test_a_steward_ends_the_moves_of_a_look_between_two_calls(tmp_path):
    bed = Bed(tmp_path, n=8)
    bed.migrator = bed.migrator_with(
        steward=Stopping(most=8, chunk=2),
    )
    result = bed.migrate()
    assert result.status.tolist() == [0] * 6 + [MigrateStatus.EDQUOT] * 2
    assert result.reasons == {"EDQUOT: held, a budget is used up": 2}
    assert len(bed.kernel.calls) == 3


@pytest.mark.parametrize(("tiers", "n_left_below"), [({NEAR: 0, FAR: 1}, 3), ({NEAR: 1, FAR: 0}, 0)])
def test_a_steward_hears_what_found_no_room_above_and_not_below(tmp_path, tiers, n_left_below):
    bed = Bed(tmp_path, n=8, room=Room(5))
    steward = Steward(most=8, chunk=8)
    bed.migrator = bed.migrator_with(tiers=tiers, steward=steward)
    result = bed.migrate()
    assert result.reasons == {"EAGAIN: target not balanced": 3}
    assert steward.left_below == n_left_below


def test_a_folio_that_is_larger_than_a_call_is_one_of_its_own():
    n_pages = np.array([1, 512, 1, 1], dtype=np.int64)
    assert [n_first(n_pages[i:], 2) for i in range(4)] == [1, 1, 2, 1]
    assert n_first(n_pages, 513) == 2


class Known(Sharing):
    """One that knows of which folios nobody else maps them."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def are_still(self, heads, orders, is_hugetlb=False):
        return np.isin(heads, self.heads) & counts_all(self.n_mapped(heads), is_hugetlb)

    def n_mapped(self, pfns):
        return np.where(pfns == self.heads[0], 1, 2)


def test_shared_folios_are_asked_about_again_and_moved_apart(bed):
    traits = np.array([0, Trait.SHARED, 0, Trait.SHARED, Trait.SHARED | Trait.ALWAYS, 0, 0, Trait.SHARED])
    bed.addresses.put(bed.heads, bed.at, np.zeros(8, dtype=np.int64), 0, 0, 0, traits.astype(np.int64))
    bed.migrator = bed.migrator_with(
        sharing=Known(bed.heads[[1, 7]]),
    )
    result = bed.migrate()
    assert result.status.tolist() == [0, 0, 0, -errno.EACCES, 0, 0, 0, 0]
    assert result.reasons == {"EACCES: mapped by processes that are not watched, too": 1}
    assert bed.kernel.calls == [bed.at[[0, 2, 5, 6]].tolist(), bed.at[[1, 4, 7]].tolist()]
    assert bed.kernel.of_all == [False, True]
    assert bed.migrator.moved_shared_pages == 3


def has_pool(root, free, *, all_free, reserved):
    """Give the near node so many free huge pages, and the machine."""
    of_node = root / f"sys/devices/system/node/node{NEAR}/hugepages/hugepages-2048kB"
    of_all = root / "sys/kernel/mm/hugepages/hugepages-2048kB"
    for pool, name, n in (
        (of_node, "free_hugepages", free),
        (of_all, "free_hugepages", all_free),
        (of_all, "resv_hugepages", reserved),
    ):
        pool.mkdir(parents=True, exist_ok=True)
        (pool / name).write_text(f"{n}\n")


def test_hugetlb_folios_that_several_map_and_that_count_once_stay(bed):
    has_pool(bed.kernel.root, 8, all_free=8, reserved=0)
    traits = np.full(8, Trait.HUGETLB | Trait.SHARED, dtype=np.int64)
    traits[7] = Trait.SHARED
    bed.addresses.put(bed.heads, bed.at, np.zeros(8, dtype=np.int64), 0, 0, 0, traits)
    bed.migrator = bed.migrator_with(
        sharing=Known(bed.heads[[2, 5, 7]]),
    )
    stay = -errno.EACCES
    assert bed.migrate().status.tolist() == [stay, stay, stay, stay, stay, 0, stay, 0]


@pytest.mark.parametrize(
    ("free", "all_free", "reserved", "n"), [(2, 9, 0, 2), (2, 9, 8, 1), (2, 2, 2, 0), (2, 2, 5, 0)]
)
def test_huge_pages_that_are_reserved_are_not_free(tmp_path, free, all_free, reserved, n):
    has_pool(tmp_path, free, all_free=all_free, reserved=reserved)
    assert free_huge_pages(NEAR, System(tmp_path)) == n


def test_hugetlb_folios_take_of_their_pool_and_not_of_the_room(bed):
    has_pool(bed.kernel.root, 2, all_free=5, reserved=0)
    traits = np.array([Trait.HUGETLB] * 3 + [0] * 5, dtype=np.int64)
    bed.addresses.put(bed.heads, bed.at, np.zeros(8, dtype=np.int64), 0, 0, 0, traits)
    bed.room.left = 4
    result = bed.migrate()
    assert result.status.tolist() == [0, 0, MigrateStatus.ENOMEM, 0, 0, 0, 0, MigrateStatus.EAGAIN]
    assert result.reasons == {
        "ENOMEM: no free page in the target's hugetlb pool": 1,
        "EAGAIN: target not balanced": 1,
    }
    assert bed.migrator.moved_hugetlb_pages == 2
    assert bed.room.left == 0


def test_how_long_a_folio_waited_counts_from_its_first_look(bed):
    orders = np.zeros(8, dtype=np.int64)
    bed.addresses.drop(bed.heads)
    bed.addresses.put(bed.heads, bed.at, orders, 0, tick=1, now_ns=bed.kernel.monotonic_ns() - 40_000_000_000)
    later_ns = bed.kernel.monotonic_ns()
    bed.addresses.put(bed.heads[4:], bed.at[4:], orders[4:], 0, tick=2, now_ns=later_ns)  # seen again
    bed.addresses.put(bed.heads[:1], bed.at[:1], orders[:1], 1, tick=2, now_ns=later_ns)  # another's now
    bed.addresses.put(bed.heads[:1], bed.at[:1], orders[:1], 0, tick=2, now_ns=later_ns)
    bed.migrate()
    waited = dict(bed.migrator.waited_s.cumulative())
    assert waited[10.0] == 1
    assert waited[60.0] == bed.migrator.waited_s.n == 8
