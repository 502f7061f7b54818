"""The two loops of a comparison: what every design is given, and that neither loop leaks into the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError, RunFailedError
from gpuscan.compare.closed_loop import run_closed
from gpuscan.compare.discovery import TimedLedger, WalkPlace
from gpuscan.compare.jobs import run_jobs
from gpuscan.compare.open_loop import OpenLoop, OpenResult, StepCosts, run_model
from gpuscan.compare.overwritten_targets import WatchedStore
from gpuscan.compare.recording import record_accesses, replaying_machine
from gpuscan.compare.request_list import ENTRY, RequestList, make_request_list, write_request_list
from gpuscan.compare.settings import Parameters, Settings, ticks_within
from gpuscan.compare.static_machine import StillPages
from gpuscan.compare.store_loop import StoreLoop
from gpuscan.compare.stream import RecordedStream
from gpuscan.compare.suite import LoopJob
from gpuscan.designs.built_in.hot_list import HotList
from gpuscan.designs.catalogue import DESIGNS, make_model
from gpuscan.designs.requests import RequestLedger
from gpuscan.designs.rfc import RfcFixed
from gpuscan.engine.policy import Policy
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.sampler import SamplerSpec
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, MigrationCostSpec, PatternSpec, ProcessSpec
from machines import tiered

MS = 1_000_000
S = 1_000_000_000
COSTS = StepCosts(page_ns=4.0, entry_ns=20.0)


def settings(**policy: Any) -> Settings:
    process = ProcessSpec(
        "app", 8192, (0, 1), 60_000.0, ((2, 1.0),), pattern=PatternSpec(hot_share=0.2, shift_every_ns=S)
    )
    spec = MachineSpec((process,), HintFaultSpec(1 << 30, 200 * MS, hot_latency_ns=0), seed=3)
    return Settings(tiered(), spec, Policy(**policy), 2 * S, 1)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> RecordedStream:
    chosen = settings()
    directory = tmp_path_factory.mktemp("recording")
    recording = record_accesses(chosen.topology, chosen.spec, chosen.horizon_ns, directory)
    return RecordedStream(chosen.topology, chosen.spec, recording)


@pytest.fixture(scope="module")
def requests(stream: RecordedStream, tmp_path_factory: pytest.TempPathFactory) -> RequestList:
    return make_request_list(settings(), stream, tmp_path_factory.mktemp("list") / "r.npy", 4000)


def test_a_recording_is_what_the_machine_itself_would_access(stream: RecordedStream) -> None:
    chosen = settings()
    plain = SimulatedMachine(chosen.topology, chosen.spec)
    replayed, _ = replaying_machine(chosen.topology, chosen.spec, stream.recording)
    for now_ns in range(0, 2 * S, 700 * MS):  # across a shift of the hot set
        duration_ns = min(700 * MS, 2 * S - now_ns)
        mine, theirs = plain.run(now_ns, duration_ns), replayed.run(now_ns, duration_ns)
        assert mine.metrics == theirs.metrics
        np.testing.assert_array_equal(mine.faults.folios, theirs.faults.folios)
        np.testing.assert_array_equal(mine.faults.at_ns, theirs.faults.at_ns)
        assert now_ns <= mine.faults.at_ns.min() <= mine.faults.at_ns.max() <= now_ns + duration_ns


def test_a_recording_knows_every_page_s_last_access(stream: RecordedStream) -> None:
    accesses, last = stream.recording.accesses(0), stream.recording.last_access(0)
    assert len(accesses) == stream.n_accesses == 120_000
    assert last.max() == 120_000
    for folio in (int(accesses[-1]), int(accesses[7]), int(np.flatnonzero(last)[0])):
        assert last[folio] == np.flatnonzero(accesses == folio)[-1] + 1


@pytest.mark.parametrize("design", [design.name for design in DESIGNS.in_order])
def test_closed_loop_the_same_accesses_whatever_a_design_moves(
    stream: RecordedStream, requests: RequestList, design: str
) -> None:
    result = run_closed(design, settings(), stream)
    assert result.accesses_digest == stream.digest
    assert result.n_accesses == stream.n_accesses
    assert result.migrated > 500
    assert result.moved_used + result.moved_unused == result.migrated
    assert result.fast_before < 0.01
    assert result.fast_after > 0.3
    # It moved pages on a machine of its own: the open loop's list is of pages that never moved.
    assert requests.entries()["pfn"].min() >= 5 * SECTION_PAGES


def test_a_thread_that_waits_out_walks_once_a_period_and_else_begins_anew_while_marks_come(
    stream: RecordedStream, requests: RequestList
) -> None:
    slow = StepCosts(page_ns=500.0, entry_ns=20.0)
    chosen = replace(settings(), parameters=Parameters(interval_ns=60 * MS))
    posted, out = (
        run_model("rfc-fixed", chosen, StillPages(stream.open().machine), requests, slow, waits_out=waits_out)
        for waits_out in (False, True)
    )
    assert posted.interval_ns == out.interval_ns == 60 * MS
    period_ns = out.interval_ns + out.scan_ns / out.n_scans
    assert out.n_scans <= out.n_threads * out.end_ns / period_ns
    assert posted.n_scans > posted.n_threads * posted.end_ns / period_ns + 3
    assert out.pending == posted.pending == 0
    assert np.median(out.delays_ns) > np.median(posted.delays_ns)


@pytest.mark.parametrize("design", [design.name for design in DESIGNS.in_order])
def test_open_loop_the_same_bytes_for_every_design_and_nothing_moves(
    stream: RecordedStream, requests: RequestList, design: str
) -> None:
    before = requests.path.read_bytes()
    machine = stream.open().machine
    frames = machine.space.frame_of.copy()
    result = open_loop(design, machine, requests)
    assert result.list_digest == requests.digest
    assert requests.path.read_bytes() == before
    np.testing.assert_array_equal(machine.space.frame_of, frames)
    ended = result.found + result.pending + result.superseded + sum(result.lost.values())
    assert result.requested == ended
    assert result.requested + result.never_ready == requests.n or design == "hot-list"
    assert result.found > 100
    assert result.delays_ns.min() >= 0
    assert result.fills.sum() == result.found


def test_a_closed_loop_with_other_accesses_is_an_error(stream: RecordedStream) -> None:
    shorter = replace(settings(interval_ns=300 * MS), horizon_ns=2 * S)  # in whole ticks 1.8 s
    with pytest.raises(RunFailedError, match="rfc-fixed was given other accesses than were recorded"):
        run_closed("rfc-fixed", shorter, stream)


def open_loop(design: str, machine: SimulatedMachine, requests: RequestList) -> OpenResult:
    if design == "gpuscan":
        return StoreLoop("gpuscan", settings(), machine, requests).run()
    return run_model(design, settings(), StillPages(machine), requests, COSTS)


@pytest.mark.parametrize(("fmt", "lost"), [("rfc", {"overwritten nid": 3}), ("pghot-compact", {})])
def test_gpuscan_loses_what_another_node_s_request_overwrites_as_models_do(
    tmp_path: Path, fmt: str, lost: dict[str, int]
) -> None:
    chosen = settings(record_format=fmt)
    machine = SimulatedMachine(chosen.topology, chosen.spec)
    entries = np.zeros(7, dtype=ENTRY)
    # Before the first scan, at 100 ms, one page's node changes twice and the other's once.
    entries["pfn"] = 5 * SECTION_PAGES + np.array([3, 3, 3, 3, 4, 4, 3])
    entries["nid"] = [0, 0, 1, 0, 1, 0, 1]
    entries["time_ns"] = [1, 2, 3, 4, 5, 6, 150 * MS]
    requests = write_request_list(entries, tmp_path / "list.npy")
    result = StoreLoop("gpuscan", chosen, machine, requests).run()
    assert result.lost == lost
    assert result.requested == 7
    assert (result.found, result.superseded) == (3, 4 - sum(lost.values()))


@pytest.mark.parametrize("order", [0, 9])
@pytest.mark.parametrize("kind", ["request", "record"])
@pytest.mark.parametrize("fmt", ["rfc", "pghot", "pghot-compact"])
def test_overwritten_targets_of_a_store_are_those_of_a_ledger(fmt: str, kind: str, order: int) -> None:
    # Random marks from three nodes, a scan after every 300: the ledger of a model says what is lost.
    rng, ledger = np.random.default_rng(5), RequestLedger()
    keeps_nid = fmt != "pghot-compact"
    with WatchedStore(tiered(), fmt, "cpu", large_folios=order > 0, n_threads=2) as store:
        heads = 2 * SECTION_PAGES + (np.arange(8) << order)  # of node 2
        store.admit(heads, order)
        for now in range(20):
            which, nids = rng.integers(0, 8, 300), rng.choice([0, 1, 3], 300)
            pfns = store.page_map.pfn_of_flat(heads[which] + rng.integers(0, 1 << order, 300))
            ready = dict.fromkeys(ledger.pending_positions().tolist())
            if kind == "request":
                store.request(pfns, nids)
            else:
                store.record(pfns, nids, now_jiffies=now, window_jiffies=100, threshold=2)
            touched: set[int] = set()
            for folio, nid in zip(which.tolist(), nids.tolist(), strict=True):
                if kind == "request" or folio in ready or folio in touched:
                    ledger.ask(folio, nid, keeps_nid=keeps_nid)
                touched.add(folio)
            for plan in store.drain():
                for flat in plan.flat.tolist():
                    ledger.claim((flat - 2 * SECTION_PAGES) >> order)
        assert not ledger.pending
        assert store.n_overwritten == ledger.lost["overwritten nid"]
        assert (store.n_overwritten > 1000) == keeps_nid


def test_the_closed_loop_counts_overwritten_targets_of_gpuscan_too(tmp_path: Path) -> None:
    # Tasks on both sockets touch all 1,000 pages every 10 ms in turn, and the scanner comes as often; gpuscan
    # scans after 100 ms, so all requests but the first of a page find one of the other node.
    process = ProcessSpec(
        "app", 1000, (0, 1), 100_000.0, ((2, 1.0),), rotate_every_ns=10 * MS, pattern=PatternSpec(kind="scan")
    )
    spec = MachineSpec((process,), HintFaultSpec(1 << 30, 10 * MS, hot_latency_ns=0))
    chosen = replace(settings(), spec=spec, horizon_ns=100 * MS)
    recording = record_accesses(chosen.topology, spec, chosen.horizon_ns, tmp_path)
    result = run_closed("gpuscan", chosen, RecordedStream(chosen.topology, spec, recording))
    assert result.requested == 10_000
    assert result.lost["overwritten nid"] == 9_000
    assert result.migrated == 1000


def huge(n_folios: int = 40, **changes: Any) -> Settings:
    """Return settings with a process in folios of 2 MiB on node 2, accessed from node 0."""
    process = ProcessSpec("app", 512 * n_folios, (0,), 20_000.0, ((2, 1.0),), order=9)
    faults = HintFaultSpec(1 << 30, 200 * MS, hot_latency_ns=0)
    return replace(settings(), spec=replace(MachineSpec((process,), faults), **changes), horizon_ns=S)


def recorded(chosen: Settings, directory: Path) -> RecordedStream:
    recording = record_accesses(chosen.topology, chosen.spec, chosen.horizon_ns, directory)
    return RecordedStream(chosen.topology, chosen.spec, recording)


@pytest.mark.parametrize("design", ["rfc-v1", "hot-list"])
def test_the_closed_loop_counts_huge_pages_that_move_where_they_fault(tmp_path: Path, design: str) -> None:
    chosen = huge()
    result = run_closed(design, chosen, recorded(chosen, tmp_path))
    assert (result.migrated, result.moved_at_fault) == (0, 40)
    assert result.n_rounds == 40
    assert result.moved_used + result.moved_unused == 40
    assert result.fast_after > 0.9


def test_a_design_that_asks_for_huge_pages_has_none_moved_at_the_fault(tmp_path: Path) -> None:
    chosen = huge()
    result = run_closed("section-flag", chosen, recorded(chosen, tmp_path))
    assert (result.migrated, result.moved_at_fault) == (40, 0)
    assert result.moved_used + result.moved_unused == 40


def test_gpuscan_s_batches_are_as_full_as_their_base_pages_make_them(tmp_path: Path) -> None:
    chosen = huge()
    machine = SimulatedMachine(chosen.topology, chosen.spec)
    entries = np.zeros(6, dtype=ENTRY)
    entries["pfn"] = machine.page_map.pfn_of_flat(machine.space.frame_of[:6].astype(np.int64))
    result = StoreLoop("gpuscan", chosen, machine, write_request_list(entries, tmp_path / "list.npy")).run()
    assert (result.fill_unit, result.batch_limit) == ("base pages", 512)
    assert result.fills.tolist() == [512] * 6


def test_what_is_handed_over_for_a_node_that_is_not_there_went_to_the_wrong_one() -> None:
    loop = loop_of([1, 2, 3], [5, 6, 7])
    loop.marks.nids[:] = [0, 7, 0]
    loop.run()
    result = loop.result()
    assert result.lost == {"invalid nid": 1}
    assert result.wrong_node == 1


def test_both_loops_count_what_goes_to_the_wrong_node_as_it_is_handed_over(tmp_path: Path) -> None:
    # Tasks of both sockets touch the same pages in turn, so there are two targets, which rfc-v1 mixes.
    process = ProcessSpec("app", 8192, (0, 1), 60_000.0, ((2, 1.0),), rotate_every_ns=30 * MS)
    stuck = MigrationCostSpec(copy_failure_share=1.0)  # what is sent is sent, whether or not it arrives
    spec = MachineSpec((process,), HintFaultSpec(1 << 30, 200 * MS, hot_latency_ns=0), stuck)
    chosen = replace(settings(), spec=spec)
    stream = recorded(chosen, tmp_path)
    result = run_closed("rfc-v1", chosen, stream)
    assert result.migrated == 0
    assert result.wrong_node > 100
    assert run_closed("rfc-fixed", chosen, stream).wrong_node == 0


def test_a_list_says_whether_hint_faults_asked_for_it(
    tmp_path: Path, requests: RequestList, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert requests.hint_faults
    chosen = settings()
    chosen = replace(chosen, spec=replace(chosen.spec, producer=SamplerSpec(period=10)), horizon_ns=S)
    stream = recorded(chosen, tmp_path)
    sampled = make_request_list(chosen, stream, tmp_path / "list.npy", 4000)
    assert not sampled.hint_faults
    seen: list[bool] = []
    plain = HotList.mark_many

    def mark_many(self: HotList, pfns: np.ndarray, *others: np.ndarray) -> None:
        seen.extend([self.hint_faults] * len(pfns))
        plain(self, pfns, *others)

    monkeypatch.setattr(HotList, "mark_many", mark_many)
    for listed in (requests, sampled):
        seen.clear()
        open_loop("hot-list", stream.open().machine, listed)
        assert len(seen) == listed.n
        assert set(seen) == {listed.hint_faults}


def test_gpuscan_keeps_an_order_for_each_page_where_there_are_large_folios() -> None:
    policy, kept = Policy(), DESIGNS.get("gpuscan").metadata_bytes
    small, large = (SimulatedMachine(tiered(), chosen.spec) for chosen in (settings(), huge()))
    more = kept(large, policy, 0) - kept(small, policy, 0)
    assert more == tiered().page_map.n_pages
    with WatchedStore(tiered(), "rfc", "cpu", large_folios=True) as store:
        assert store.kernels.arrays.folio_order.nbytes == more


def test_every_entry_is_marked_as_it_stands_in_the_list(
    stream: RecordedStream, requests: RequestList, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked: list[tuple[int, int]] = []
    plain = RfcFixed.mark_many

    def mark_many(self: RfcFixed, pfns: Any, nids: Any, *others: Any, **more: Any) -> None:
        marked.extend(zip(pfns.tolist(), nids.tolist(), strict=True))
        plain(self, pfns, nids, *others, **more)

    monkeypatch.setattr(RfcFixed, "mark_many", mark_many)
    open_loop("rfc-fixed", stream.open().machine, requests)
    entries = requests.entries()
    assert sorted(marked) == sorted(zip(entries["pfn"].tolist(), entries["nid"].tolist(), strict=True))


def test_a_list_that_changes_under_the_designs_is_refused(tmp_path: Path) -> None:
    entries = np.zeros(3, dtype=ENTRY)
    requests = write_request_list(entries, tmp_path / "list.npy")
    entries["nid"] = 1
    np.save(requests.path, entries)
    with pytest.raises(InputError, match="was changed while designs read it; run the comparison again"):
        requests.entries()


def test_a_producer_that_asks_for_nothing_is_refused(tmp_path: Path) -> None:
    chosen = settings()
    (process,) = chosen.spec.processes
    at_home = replace(chosen.spec, processes=(replace(process, cpu_nids=(0,), placement=((0, 1.0),)),))
    recording = record_accesses(chosen.topology, at_home, S, tmp_path)
    still = RecordedStream(chosen.topology, at_home, recording)
    with pytest.raises(InputError, match="asks for no page at all"):
        make_request_list(replace(chosen, spec=at_home), still, tmp_path / "list.npy", 10)


def loop_of(pfns: list[int], times_ns: list[int], name: str = "rfc-fixed") -> OpenLoop:
    """Return a loop over requests for node 0 of pages of node 2, whose zone is the section 5."""
    chosen = settings()
    entries = np.zeros(len(pfns), dtype=ENTRY)
    entries["pfn"], entries["time_ns"] = np.array(pfns) + 5 * SECTION_PAGES, times_ns
    pages = StillPages(SimulatedMachine(chosen.topology, chosen.spec))
    policy = Policy()
    design = make_model(name, pages, policy)
    return OpenLoop(DESIGNS.get(name), design, chosen.topology, entries, COSTS, policy)


def test_a_page_is_found_when_the_walk_comes_to_it() -> None:
    loop = loop_of([0, 1000, 8000], [5, 6, 7])
    loop.run()
    # kmigrated walks after a second, 4 ns a page; in PFN order.
    assert loop.ledger.delays_ns.tolist() == [S - 5, S + 4000 - 6, S + 32_000 - 7]
    # Of nodes 0, 1 and 2: the timeout starts one, whatever is marked.
    assert loop.model.counters["walks"] == 3


def test_a_mark_during_a_walk_is_seen_ahead_of_it_and_not_behind() -> None:
    # The walk comes to page 5,000 after 20 us.
    loop = loop_of([10, 5000, 5000 - 100], [1, S + 10_000, S + 19_900])
    loop.run()
    delays = dict(zip(loop.ledger.positions, loop.ledger.delays_ns, strict=True))
    first = min(delays)
    assert delays[first] == S + 40 - 1
    assert delays[first + 4990] == 20_000 - 10_000  # marked ahead of the walk
    walk_ns = 4 * SECTION_PAGES
    # Behind it: the flag set meanwhile starts the next walk at once.
    assert delays[first + 4890] == walk_ns + 4 * 4900 - 19_900


def test_the_longest_stretch_without_a_resched_is_a_walk_without_a_flush() -> None:
    loop = loop_of(list(range(600)), [1] * 600)
    assert loop.threads.next_walk(S) == (S, 0)
    loop.threads.walk(S, 2)
    # The 512th folio flushes and reschedules; from there to the end of the zone nothing does.
    assert loop.place.longest_ns == pytest.approx(4 * (SECTION_PAGES - 511))


def test_a_list_is_drained_without_a_walk() -> None:
    loop = loop_of([7, 8, 7], [1, 2, 3], "percpu-list")
    loop.run()
    assert loop.ledger.delays_ns[0] == 100 * MS + 3 * 20 - 1
    assert loop.scan_ns == 60


def test_a_timed_ledger_counts_from_the_first_mark() -> None:
    chosen = settings()
    pages = StillPages(SimulatedMachine(chosen.topology, chosen.spec))
    design = make_model("rfc-fixed", pages, Policy())
    place = WalkPlace(design, "pfns_examined", 1.0)
    ledger = TimedLedger(place)
    for ledger.now_ns in (10, 20):
        ledger.ask(5, 0)
    place.begin(100)
    ledger.claim(5)
    assert ledger.delays_ns.tolist() == [90]
    assert ledger.superseded == 1


def test_jobs_in_processes_give_what_they_give_here(stream: RecordedStream, requests: RequestList) -> None:
    jobs = [LoopJob("percpu-list", loop, settings(), stream, requests, COSTS) for loop in ("closed", "open")]
    shares: dict[str, float] = {}

    def on_share(name: str, share: float) -> None:
        shares[name] = shares.get(name, 0.0) + share

    found = {job.loop: result for job, result in run_jobs(jobs, 2, on_share) if isinstance(job, LoopJob)}
    assert found["closed"] == run_closed("percpu-list", settings(), stream)
    here = open_loop("percpu-list", stream.open().machine, requests)
    np.testing.assert_array_equal(found["open"].delays_ns, here.delays_ns)
    assert shares == pytest.approx({job.name: 1.0 for job in jobs})


def test_a_job_s_error_ends_the_comparison(stream: RecordedStream, requests: RequestList) -> None:
    with pytest.raises(InputError, match="unknown design 'nobody'"):
        list(
            run_jobs([LoopJob("nobody", "open", settings(), stream, requests, COSTS)] * 2, 2, lambda *_: None)
        )


class Dies:
    """A job whose process is killed."""

    name = "the job that dies"

    def run(self, on_share: object) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_an_error_and_no_hang() -> None:
    with pytest.raises(RunFailedError, match=r"the job that dies died \(exit code -9\); memory may be short"):
        list(run_jobs([Dies(), Dies()], 2, lambda *_: None))


def test_a_closed_loop_is_cut_to_whole_ticks() -> None:
    spec = settings().spec  # 60,000 accesses a second
    assert ticks_within(spec, 100 * MS, 20, 10**9) == 20
    assert ticks_within(spec, 100 * MS, 20, 35_000) == 5
    assert ticks_within(spec, 100 * MS, 20, 10) == 1
