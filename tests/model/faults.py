"""The claim protocol broken on purpose, one way at a time. Each fault must be found.

A broken step stands here in full, so that it can be read against its sound twin in
``protocol``; ``FAULTS`` puts each into the smallest system that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .checker import Fence, Order, Program, Step, System, Words, load, update, update_together
from .judge import system
from .protocol import (
    BLOCK,
    ELIGIBLE,
    FENCES,
    NID_MAX,
    NID_SHIFT,
    PENDING,
    READY,
    Claim,
    Event,
    Rules,
    Taken,
    all_taken,
    any_of,
    as_loaded,
    claim,
    claim_together,
    clear_bits,
    discard,
    free,
    is_ready,
    marked,
    nid_of,
    publish,
    ready_word,
    record,
    request,
    scan,
    set_bits,
    take_bits,
    take_blocks,
    take_by_stores,
    take_word,
    word_of,
)

ONE_PAGE = Rules(ready_words=(0,), blocks=(0,))
TWO_PAGES = Rules(ready_words=(0, 0), blocks=(0, 0))
TWO_BLOCKS = Rules(ready_words=(0, 1), blocks=(0, 1))


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken protocol.

    Attributes:
        name: what is wrong.
        build: returns the smallest system that shows it.
        finds: pattern of the violation.
        order: the order that shows it; program order hides a missing fence.
    """

    name: str
    build: Callable[[], System]
    finds: str
    order: Order = Order.PROGRAM


# --- scans ---------------------------------------------------------------------------------


def scan_that_clears_after_claims(rules: Rules, pages: Sequence[int], *, dense: bool) -> Program:
    """Look at the bits, claim, and clear the bits at the end, records first."""
    found = {}
    for location in rules.words_of(pages):
        found[location] = yield load(location, see=int)
    yield Fence.FULL
    events: tuple[Event, ...] = ()
    for page in pages:
        if dense or found[rules.ready_location(page)] & rules.ready_bit(page):
            claimed = yield from claim(page)
            if claimed is not None:
                events += (Event("claimed", page, nid_of(claimed.word), claimed.told),)
    yield Fence.FULL
    for location, bits in rules.words_of(pages).items():
        yield clear_bits(location, bits)
    yield Fence.FULL
    yield clear_bits(BLOCK, rules.block_bits(pages))
    return events


def take_ready_before_block(rules: Rules, pages: Sequence[int]) -> Generator[Step, Any, Taken]:
    """Clear the ready words, then the block word."""
    words = {}
    for location in rules.words_of(pages):
        words[location] = yield take_word(location)
    yield Fence.FULL
    blocks = yield take_blocks(rules.block_bits(pages))
    yield Fence.FULL
    return Taken(blocks, words)


def take_whole_block_word(rules: Rules, pages: Sequence[int]) -> Generator[Step, Any, Taken]:
    """Clear every bit of the block word, also those of blocks outside the range."""
    blocks = yield take_blocks(rules.block_bits(range(len(rules.blocks))))
    yield Fence.FULL
    words = {}
    for location in rules.words_of(pages):
        words[location] = yield take_word(location)
    yield Fence.FULL
    return Taken(blocks, words)


def put_nothing_back(rules: Rules, left: Sequence[int]) -> Generator[Step, Any, None]:
    """Leave pages READY without their bits."""
    yield from ()


def put_block_back_first(rules: Rules, left: Sequence[int]) -> Generator[Step, Any, None]:
    """Set the block bit, then the ready bits."""
    yield set_bits(BLOCK, rules.block_bits(left))
    yield Fence.FULL
    for location, bits in rules.words_of(left).items():
        yield set_bits(location, bits)


# --- claims --------------------------------------------------------------------------------

_Claiming = Generator[Step, Any, Claim | None]


def claim_with_a_store(page: int) -> _Claiming:
    """Load, test, store 0: not atomic."""
    word = yield load(record(page), see=ready_word)
    if word is None:
        return None
    yield update(record(page), "store 0", lambda old: 0)
    return Claim(page, word, told=nid_of(word))


def claim_for_the_loaded_target(page: int) -> _Claiming:
    """Claim atomically, but plan the target that the wide load saw."""
    hint = yield load(record(page), see=ready_word)
    claimed = None if hint is None else (yield from claim(page))
    return None if claimed is None else claimed._replace(told=nid_of(hint))


def claim_that_gives_up(page: int) -> _Claiming:
    """Try one compare-exchange; when it fails, go on to the next page."""
    hint = yield load(record(page), see=ready_word)
    if hint is None:
        return None
    done = yield update(
        record(page), "cas", lambda old: 0 if old == hint else old, see=lambda old: old == hint
    )
    return Claim(page, hint, told=nid_of(hint)) if done else None


def claim_with_an_exchange(page: int) -> _Claiming:
    """Exchange the record with 0, whatever it was."""
    word = yield update(record(page), "exchange", lambda old: 0, see=ready_word)
    return None if word is None else Claim(page, word, told=nid_of(word))


_ClaimingTogether = Generator[Step, Any, tuple[Claim, ...]]


def _load_all(pages: Sequence[int]) -> Generator[Step, Any, Words]:
    hint: Words = ()
    for page in pages:
        hint += ((yield load(record(page), see=int)),)
    return hint


def claim_together_with_a_store(pages: Sequence[int]) -> _ClaimingTogether:
    """Load all, store 0 to all: each store is one step, load and store are two."""
    hint = yield from _load_all(pages)
    if not all(is_ready(word) for word in hint):
        return ()
    yield update_together([record(page) for page in pages], "store 0", lambda words: (0,) * len(words))
    return tuple(Claim(page, word, told=nid_of(word)) for page, word in zip(pages, hint, strict=True))


def claim_together_if_any_is_ready(pages: Sequence[int]) -> _ClaimingTogether:
    """Compare and exchange all where only one of them is READY."""
    hint = yield from _load_all(pages)
    if not any(is_ready(word) for word in hint):
        return ()
    done = yield update_together(
        [record(page) for page in pages], "claim together", partial(all_taken, hint), partial(as_loaded, hint)
    )
    claims = zip(pages, hint, strict=True) if done else ()
    return tuple(Claim(page, word, told=nid_of(word)) for page, word in claims if is_ready(word))


def claim_together_in_halves(pages: Sequence[int]) -> _ClaimingTogether:
    """Take back nothing where the exchange of the first succeeded and that of the second did not."""
    hint = yield from _load_all(pages)
    if not all(is_ready(word) for word in hint):
        return ()
    done = True
    for page, word in zip(pages, hint, strict=True):
        done &= yield update_together(
            [record(page)], "claim half", partial(all_taken, (word,)), partial(as_loaded, (word,))
        )
    claims = zip(pages, hint, strict=True) if done else ()
    return tuple(Claim(page, word, told=nid_of(word)) for page, word in claims)


def scan_that_gives_up_together(rules: Rules, pages: Sequence[int]) -> Program:
    """Go on to the next pages when the exchange of all fails."""
    yield from take_bits(rules, pages)
    claims = yield from claim_together(pages)
    return tuple(Event("claimed", page, nid_of(word), told) for page, word, told in claims)


# --- producers -----------------------------------------------------------------------------


def request_block_before_ready(rules: Rules, page: int, nid: int) -> Program:
    """Set the block bit before the ready bit."""
    was_ready = yield update(record(page), f"mark nid {nid}", lambda word: marked(word, nid), see=is_ready)
    yield Fence.FULL
    yield set_bits(BLOCK, rules.block_bits((page,)))
    yield Fence.FULL
    yield set_bits(rules.ready_location(page), rules.ready_bit(page))
    return (Event("refreshed" if was_ready else "began", page, nid),)


def request_index_first(rules: Rules, page: int, nid: int) -> Program:
    """Set the index bits before the record."""
    yield from publish(rules, page)
    yield Fence.FULL
    was_ready = yield update(record(page), f"mark nid {nid}", lambda word: marked(word, nid), see=is_ready)
    return (Event("refreshed" if was_ready else "began", page, nid),)


def request_trusting_the_bit(rules: Rules, page: int, nid: int) -> Program:
    """Take a ready bit that is set for a request that stands, and leave the record alone."""
    is_set = yield load(rules.ready_location(page), see=partial(any_of, rules.ready_bit(page)))
    return (Event("refreshed", page, nid),) if is_set else (yield from request(rules, page, nid))


def request_run_indexed_early(rules: Rules, nids: Mapping[int, int]) -> Program:
    """Set the bits of a whole run once its first page is READY."""
    events: tuple[Event, ...] = ()
    for page, nid in nids.items():
        was_ready = yield update(record(page), f"mark nid {nid}", partial(_marked_for, nid), see=is_ready)
        if not events:
            events += yield from publish(rules, *nids)
            yield Fence.FULL
        events += (Event("refreshed" if was_ready else "began", page, nid),)
    return events


def _marked_for(nid: int, word: int) -> int:
    return marked(word, nid)


def release_over_anything(rules: Rules, page: int, word: int) -> Generator[Step, Any, tuple[Event, ...]]:
    """Put the old word back whatever is there now."""
    yield update(record(page), "store back", lambda old: word)
    events = yield from publish(rules, page)
    return (Event("restored", page, nid_of(word)), *events)


def release_without_index(rules: Rules, page: int, word: int) -> Generator[Step, Any, tuple[Event, ...]]:
    """Put the old word back and set no bits."""
    newer = yield update(record(page), "put back", lambda old: old if is_ready(old) else word, see=is_ready)
    return (Event("superseded" if newer else "restored", page, nid_of(word)),)


def request_looking_once(rules: Rules, page: int, nid: int) -> Program:
    """Look at the eligible bit, then mark, as if the page could not be freed in between."""
    may = yield load(ELIGIBLE, see=bool)
    return (yield from request(rules, page, nid)) if may else ()


def discard_with_bits(rules: Rules, page: int) -> Program:
    """Zero the record of a freed page, and clear its ready bit as well."""
    events = yield from discard(page)
    yield Fence.FULL
    yield clear_bits(rules.ready_location(page), rules.ready_bit(page))
    return events


# --- RFC v1: NID and READY are two atomics on each side, no index -----------------------------


def _with_nid(word: int, nid: int) -> int:
    return word & ~(NID_MAX << NID_SHIFT) | nid << NID_SHIFT


def rfc_add_pfn(page: int, nid: int) -> Program:
    """``page_ext_xchg_nid()``, then ``test_and_set_bit(PAGE_EXT_MIGRATE_READY)``."""
    yield update(record(page), f"xchg nid {nid}", lambda word: _with_nid(word, nid))
    was_ready = yield update(record(page), "set READY", lambda word: word | READY, see=is_ready)
    return (Event("refreshed" if was_ready else "began", page, nid),)


def rfc_get_nid(page: int, rounds: int) -> Program:
    """``test_and_clear_bit(PAGE_EXT_MIGRATE_READY)``, then ``page_ext_xchg_nid(NUMA_NO_NODE)``."""
    events: tuple[Event, ...] = ()
    for _ in range(rounds):
        was_ready = yield update(record(page), "clear READY", lambda word: word & ~READY, see=is_ready)
        if was_ready:
            nid = yield update(record(page), "xchg nid -1", lambda word: _with_nid(word, NID_MAX), see=nid_of)
            events += (Event("claimed", page, nid, told=nid),)
    return events


def rfc_two_steps() -> System:
    """Return two requests of one page and a thread that walks over it twice.

    Nobody clears the index, so the walk is a full one; NUMA_NO_NODE cut to the field is 7,
    as with the mask that was posted (1023 with one of ten bits).
    """
    threads = {
        "producer 1": partial(rfc_add_pfn, 0, 1),
        "producer 2": partial(rfc_add_pfn, 0, 2),
        "kmigrated": partial(rfc_get_nid, 0, 2),
    }
    return system(ONE_PAGE, threads, indexed=(0,), possible_words=range(2 << NID_MAX.bit_length()))


# --- each fault in the smallest system that shows it -----------------------------------------


def _one_scan(
    scanner: Callable[..., Program],
    *,
    rules: Rules = ONE_PAGE,
    producer: Callable[..., Program] = request,
    **start: Any,
) -> System:
    """Return a producer against a scan, on one page."""
    threads = {"producer": partial(producer, rules, 0, 1), "scan": partial(scanner, rules, (0,))}
    return system(rules, threads, **start)


def _two_scans(
    first: Callable[..., Program], second: Callable[..., Program], rules: Rules = ONE_PAGE
) -> System:
    """Return two scans of one page that is pending."""
    threads = {"scan 1": partial(first, rules, (0,)), "scan 2": partial(second, rules, (0,))}
    return system(rules, threads, records={0: PENDING})


def _two_ranges() -> System:
    threads = {
        "producer": partial(request, TWO_BLOCKS, 1, 1),
        "scan": partial(scan, TWO_BLOCKS, (0,), take=take_whole_block_word),
    }
    return system(TWO_BLOCKS, threads)


def _part_of_a_word(looks: bool) -> System:
    threads = {
        "producer": partial(request, TWO_PAGES, 1, 1),
        "scan": partial(scan, TWO_PAGES, (0,), dense=True, take=partial(take_by_stores, looks=looks)),
    }
    return system(TWO_PAGES, threads, records={0: PENDING})


def _stale_hot_page() -> System:
    threads = {"scan": partial(scan, ONE_PAGE, (0,), claim=claim_with_an_exchange)}
    return system(ONE_PAGE, threads, records={0: word_of(ready=False, nid=1, freq=1)}, indexed=(0,))


def _together(claim: Callable[[Sequence[int]], _ClaimingTogether], second: int = PENDING) -> System:
    """Return a request of one page against a scan that claims it together with its neighbour."""
    threads = {
        "producer": partial(request, TWO_PAGES, 1, 1),
        "scan": partial(scan, TWO_PAGES, (0, 1), dense=True, claim_together=claim),
    }
    return system(TWO_PAGES, threads, records={0: PENDING, 1: second}, indexed=(0, 1))


def _together_with_stores() -> System:
    scanner = partial(scan, TWO_PAGES, (0, 1), dense=True, claim_together=claim_together_with_a_store)
    return system(TWO_PAGES, {"scan 1": scanner, "scan 2": scanner}, records={0: PENDING, 1: PENDING})


def _given_up_together() -> System:
    rules = replace(TWO_PAGES, refreshed_skips=True)
    threads = {
        "producer": partial(request, rules, 1, 1),
        "scan": partial(scan_that_gives_up_together, rules, (0, 1)),
    }
    return system(rules, threads, records={0: PENDING, 1: PENDING})


def _run(producer: Callable[[Rules, Mapping[int, int]], Program]) -> System:
    """Return requests of two pages of a word, indexed together, against a scan of both."""
    threads = {
        "producer": partial(producer, TWO_PAGES, {0: 1, 1: 2}),
        "scan": partial(scan, TWO_PAGES, (0, 1)),
    }
    return system(TWO_PAGES, threads)


def _freed_and_requested() -> System:
    threads = {"free": partial(discard_with_bits, ONE_PAGE, 0), "producer": partial(request, ONE_PAGE, 0, 1)}
    return system(ONE_PAGE, threads)


def _freed_meanwhile() -> System:
    threads = {"free": partial(free, 0), "producer": partial(request_looking_once, ONE_PAGE, 0, 1)}
    return system(ONE_PAGE, threads)


def _freed_while_claimed() -> System:
    threads = {"free": partial(free, 0), "scan": partial(scan, ONE_PAGE, (0,), refuse=True)}
    return system(ONE_PAGE, threads, records={0: PENDING})


def _without_fence(place: str) -> System:
    rules = replace(ONE_PAGE, fences={name: Fence.FULL for name in FENCES if name != place})
    if place.startswith("restore"):
        return _two_scans(partial(scan, limit=0), scan, rules)
    # A missing fence next to the record shows only where a stale bit lets a scan in before the
    # block bit is set: otherwise the fence one level up covers for it.
    return _one_scan(scan, rules=rules, indexed=(0,) if "record" in place else ())


def _stores_without_fence(looks: bool) -> System:
    rules = replace(ONE_PAGE, fences={name: Fence.FULL for name in FENCES if name != "scan: ready | record"})
    scanner = partial(scan, dense=True, take=partial(take_by_stores, looks=looks))
    return _one_scan(scanner, rules=rules, indexed=(0,))


def _release_fences() -> System:
    fences = {place: Fence.RELEASE if place.startswith("producer") else Fence.FULL for place in FENCES}
    return _one_scan(scan, rules=replace(ONE_PAGE, skip_set=True, fences=fences), indexed=(0,))


LOST = "lost: page 0"

FAULTS = (
    Fault(
        "index bits cleared after the claims",
        partial(_one_scan, partial(scan_that_clears_after_claims, dense=False), indexed=(0,)),
        LOST,
    ),
    Fault(
        "index bits cleared after the claims, dense",
        partial(_one_scan, partial(scan_that_clears_after_claims, dense=True)),
        LOST,
    ),
    Fault(
        "ready words cleared before the block word",
        partial(_one_scan, partial(scan, take=take_ready_before_block)),
        LOST,
    ),
    Fault("whole block word cleared for a part of its blocks", _two_ranges, "lost: page 1"),
    Fault("ready word stored to for a part of its pages", partial(_part_of_a_word, True), "lost: page 1"),
    Fault("ready word stored over for a part of its pages", partial(_part_of_a_word, False), "lost: page 1"),
    Fault(
        "bits of pages left READY not restored",
        partial(_one_scan, partial(scan, limit=0, put_back=put_nothing_back)),
        LOST,
    ),
    Fault(
        "block bit restored before the ready bit",
        partial(_two_scans, partial(scan, limit=0, put_back=put_block_back_first), scan),
        LOST,
    ),
    Fault(
        "claim by load and store",
        partial(
            _two_scans,
            partial(scan, dense=True, claim=claim_with_a_store),
            partial(scan, dense=True, claim=claim_with_a_store),
        ),
        "node 3 was served twice",
    ),
    Fault(
        "target of the wide load trusted",
        partial(_one_scan, partial(scan, claim=claim_for_the_loaded_target), records={0: PENDING}),
        "claimed with target 1, the plan says 3",
    ),
    Fault(
        "claim gives up when its compare-exchange fails",
        partial(
            _one_scan,
            partial(scan, claim=claim_that_gives_up),
            rules=replace(ONE_PAGE, refreshed_skips=True),
            records={0: PENDING},
        ),
        LOST,
    ),
    Fault("pages claimed together give up when their exchange fails", _given_up_together, LOST),
    Fault(
        "pages claimed together by load and store",
        _together_with_stores,
        "node 3 was served twice",
    ),
    Fault(
        "pages claimed together where one is READY",
        partial(_together, claim_together_if_any_is_ready, word_of(ready=False, nid=1, freq=1)),
        "page 1 was neither claimed nor freed and lost its FREQ",
    ),
    Fault(
        "pages claimed together by an exchange of each",
        partial(_together, claim_together_in_halves),
        "conservation: page 0 began 1 requests, 0 ended",
    ),
    Fault("record that is not READY exchanged with 0", _stale_hot_page, "lost its FREQ"),
    Fault(
        "producer sets the block bit before the ready bit",
        partial(_one_scan, scan, producer=request_block_before_ready),
        LOST,
    ),
    Fault(
        "producer sets the index before the record",
        partial(_one_scan, scan, producer=request_index_first),
        LOST,
    ),
    Fault(
        "producer takes a ready bit for a request",
        partial(_one_scan, scan, producer=request_trusting_the_bit, indexed=(0,)),
        "was READY already to a request, and no request of it began",
    ),
    Fault(
        "run of requests indexed before its last record",
        partial(_run, request_run_indexed_early),
        "lost: page 1",
    ),
    Fault(
        "release overwrites a newer request",
        partial(_one_scan, partial(scan, refuse=True, release=release_over_anything), records={0: PENDING}),
        "conservation: page 0 began 3 requests, 2 ended",
    ),
    Fault(
        "release does not index the page",
        partial(_one_scan, partial(scan, refuse=True, release=release_without_index), records={0: PENDING}),
        LOST,
    ),
    Fault("discard clears the ready bit", _freed_and_requested, LOST),
    Fault("eligible bit not looked at by release", _freed_while_claimed, "page 0 was freed and is READY"),
    Fault("eligible bit looked at before the mark only", _freed_meanwhile, "page 0 was freed and is READY"),
    Fault(
        "NID and READY are two atomics (RFC v1)",
        rfc_two_steps,
        f"target {NID_MAX} of page 0 was never requested",
    ),
    *(Fault(f"no fence, {place}", partial(_without_fence, place), LOST, Order.RELAXED) for place in FENCES),
    Fault(
        "no fence, words cleared by stores | records",
        partial(_stores_without_fence, True),
        LOST,
        Order.RELAXED,
    ),
    Fault(
        "no fence, words stored over | records",
        partial(_stores_without_fence, False),
        LOST,
        Order.RELAXED,
    ),
    Fault("a release fence before a set bit is skipped", _release_fences, LOST, Order.RELAXED),
)
