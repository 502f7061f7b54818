"""The claim protocol as small threads: producers, scans, release, discard.

Each thread stands below the pseudo-code it follows. A record is a small word,
READY in bit 0, NID in bits 1-3, FREQ in bits 4-5; every request names a node of
its own, so a claimed word says whose request it was. A compare-exchange loop is
one update here: its failed rounds write nothing and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from .checker import Access, Fence, Program, Step, Words, load, update, update_together

READY = 1
NID_SHIFT, NID_MAX = 1, 7
FREQ_SHIFT, FREQ_MAX = 4, 3
HOT = 2
"""FREQ from which a recorded access makes the page READY."""


def word_of(*, ready: bool, nid: int = 0, freq: int = 0) -> int:
    """Return a record."""
    return int(ready) | nid << NID_SHIFT | freq << FREQ_SHIFT


PENDING = word_of(ready=True, nid=3)
"""A request that stands there, indexed, before the threads start."""


def is_ready(word: int) -> bool:
    """Return READY."""
    return bool(word & READY)


def nid_of(word: int) -> int:
    """Return NID."""
    return word >> NID_SHIFT & NID_MAX


def freq_of(word: int) -> int:
    """Return FREQ."""
    return word >> FREQ_SHIFT


def marked(word: int, nid: int) -> int:
    """Return a record after a request: READY, the new target, FREQ kept."""
    return word_of(ready=True, nid=nid, freq=freq_of(word))


def counted(word: int, nid: int) -> int:
    """Return a record after an access: FREQ one up, READY once hot, and READY stays."""
    freq = min(freq_of(word) + 1, FREQ_MAX)
    return word_of(ready=is_ready(word) or freq >= HOT, nid=nid, freq=freq)


def taken(word: int) -> int:
    """Return a record after a claim: 0, but only a READY one is taken."""
    return 0 if is_ready(word) else word


def ready_word(word: int) -> int | None:
    """Return the word if it is READY (what a claim is after), else None."""
    return word if is_ready(word) else None


def any_of(bits: int, word: int) -> bool:
    """Return whether any of ``bits`` is set."""
    return bool(word & bits)


def lacks(bits: int, word: int) -> bool:
    """Return whether any of ``bits`` is clear."""
    return bool(~word & bits)


class Event(NamedTuple):
    """What a thread did to a page, from what its atomics returned.

    ``began`` READY 0 -> 1, ``refreshed`` it was READY already, ``alike`` with the same target, so that
    nothing was written, ``accessed`` counted, ``claimed``, ``together`` in one step with its neighbour,
    ``restored`` and ``superseded`` (by release), ``discarded`` while READY, ``withdrawn`` by its producer,
    ``left`` READY by a bounded scan, ``stale`` index bit on a record that is not READY, ``skipped`` a bit
    that was set already. ``told``: the target that a plan was given.
    """

    what: str
    page: int
    nid: int = 0
    told: int = 0


FENCES = (
    "producer: record | ready",
    "producer: ready | block",
    "scan: block | ready",
    "scan: ready | record",
    "restore: ready | block",
)
"""Every place where the protocol has a fence."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How the protocol is carried out: where bits lie, what producers save, which fences stand.

    Attributes:
        ready_words: ready word of each page; two pages of one word have different bits.
        blocks: bit of each page's block in the (one) block word.
        skip_set: producers and restoring scans look first and leave a bit alone that is set.
        refreshed_skips: a producer that finds READY set leaves the index to whoever set it.
        fences: kind by place; a missing place has no fence.
    """

    ready_words: tuple[int, ...] = (0, 1)
    blocks: tuple[int, ...] = (0, 0)
    skip_set: bool = False
    refreshed_skips: bool = False
    fences: Mapping[str, Fence] = field(default_factory=lambda: dict.fromkeys(FENCES, Fence.FULL))

    def fence(self, place: str) -> Generator[Fence, None, None]:
        """Yield the fence of a place, if it is there."""
        if place in self.fences:
            yield self.fences[place]

    def ready_location(self, page: int) -> str:
        """Return the ready word that holds the page's bit."""
        return f"ready {self.ready_words[page]}"

    def ready_bit(self, page: int) -> int:
        """Return the page's bit in its ready word."""
        return 1 << page

    def block_bits(self, pages: Iterable[int]) -> int:
        """Return the block bits of pages."""
        bits = 0
        for page in pages:
            bits |= 1 << self.blocks[page]
        return bits

    def under(self, blocks: int, pages: Iterable[int]) -> list[int]:
        """Return those of ``pages`` whose block bit is among ``blocks``."""
        return [page for page in pages if blocks >> self.blocks[page] & 1]

    def words_of(self, pages: Iterable[int]) -> dict[str, int]:
        """Return ready word -> bits of ``pages`` in it."""
        words: dict[str, int] = {}
        for page in pages:
            location = self.ready_location(page)
            words[location] = words.get(location, 0) | self.ready_bit(page)
        return words


BLOCK = "block"
ELIGIBLE = "eligible"
"""Location of page 0's eligible bit; only the threads that free and check it care."""


def record(page: int) -> str:
    """Return the location of a page's record."""
    return f"record {page}"


def set_bits(location: str, bits: int) -> Access:
    """Return the atomic OR that sets bits and does not look at the old word."""
    return update(location, f"set {bits:#b}", lambda word: word | bits)


def clear_bits(location: str, bits: int) -> Access:
    """Return the atomic AND that clears bits and does not look at the old word."""
    return update(location, f"clear {bits:#b}", lambda word: word & ~bits)


def take_blocks(bits: int) -> Access:
    """Return the atomic AND that takes bits of the block word."""
    return update(BLOCK, f"take {bits:#b}", lambda word: word & ~bits, see=lambda word: word & bits)


def take_word(location: str) -> Access:
    """Return the exchange with 0 that takes all bits of a word."""
    return update(location, "take all", lambda word: 0, see=int)


# --- producers: record, then ready bit, then block bit ------------------------------------


def publish(rules: Rules, *pages: int) -> Generator[Step, Any, tuple[Event, ...]]:
    """Index pages that were just made READY, those of one ready word together.

    ::

        fence
        if not (skip_set and load(ready) has bits):   or(ready, bits)
        fence
        if not (skip_set and load(block) has bits):   or(block, bits)
    """
    events: tuple[Event, ...] = ()
    for place, words in (
        ("producer: record | ready", rules.words_of(pages)),
        ("producer: ready | block", {BLOCK: rules.block_bits(pages)}),
    ):
        yield from rules.fence(place)
        for location, bits in words.items():
            if rules.skip_set:
                is_needed = yield load(location, see=partial(lacks, bits))
                if not is_needed:
                    events += tuple(Event("skipped", page) for page in pages)
                    continue
            yield set_bits(location, bits)
    return events


def request(rules: Rules, page: int, nid: int) -> Program:
    """Ask for a page to be moved.

    ::

        do old = record while not cas(record, old, READY | nid | old.FREQ)
        if READY(old) and refreshed_skips: return REFRESHED
        publish
        return REFRESHED if READY(old) else ACCEPTED
    """
    was_ready = yield update(record(page), f"mark nid {nid}", lambda word: marked(word, nid), see=is_ready)
    if was_ready and rules.refreshed_skips:
        return (Event("refreshed", page, nid),)
    events = yield from publish(rules, page)
    return (Event("refreshed" if was_ready else "began", page, nid), *events)


def request_looking(rules: Rules, page: int, nid: int) -> Program:
    """Ask for a page, and write nothing where it was asked for with the same target.

    ::

        if record == READY | nid | record.FREQ: return REFRESHED
        as request
    """
    is_alike = yield load(record(page), see=lambda word: word == marked(word, nid))
    if is_alike:
        return Event("alike", page, nid), Event("refreshed", page, nid)
    return (yield from request(rules, page, nid))


def request_run(rules: Rules, nids: Mapping[int, int]) -> Program:
    """Ask for pages of one ready word: all their records first, then their bits by one OR.

    Args:
        rules: as ever.
        nids: the target of each page.
    """
    events: tuple[Event, ...] = ()
    to_index: list[int] = []
    for page, nid in nids.items():
        was_ready = yield update(record(page), f"mark nid {nid}", partial(_marked_for, nid), see=is_ready)
        events += (Event("refreshed" if was_ready else "began", page, nid),)
        if not (was_ready and rules.refreshed_skips):
            to_index.append(page)
    if to_index:
        events += yield from publish(rules, *to_index)
    return events


def _marked_for(nid: int, word: int) -> int:
    return marked(word, nid)


def access(rules: Rules, page: int, nid: int) -> Program:
    """Count an access; READY once FREQ reaches the threshold.

    ::

        do old = record while not cas(record, old, counted(old))
        if not READY(counted(old)): return COUNTED
        as request
    """

    def outcome(word: int) -> str:
        return "refreshed" if is_ready(word) else "began" if is_ready(counted(word, nid)) else "counted"

    what = yield update(record(page), f"count nid {nid}", lambda word: counted(word, nid), see=outcome)
    events: tuple[Event, ...] = ()
    if what == "began" or (what == "refreshed" and not rules.refreshed_skips):
        events = yield from publish(rules, page)
    return (Event("accessed", page, nid), Event(what, page, nid), *events)


def release(rules: Rules, page: int, word: int) -> Generator[Step, Any, tuple[Event, ...]]:
    """Put a claimed page back.

    ::

        do old = record; if READY(old): return SUPERSEDED while not cas(record, old, word)
        publish
        return RESTORED
    """
    newer = yield update(record(page), "put back", lambda old: old if is_ready(old) else word, see=is_ready)
    if newer:
        return (Event("superseded", page, nid_of(word)),)
    events = yield from publish(rules, page)
    return (Event("restored", page, nid_of(word)), *events)


def discard(page: int) -> Program:
    """Forget a page that was freed: ``old = xchg(record, 0)``. Its index bits stay behind."""
    word = yield update(record(page), "discard", lambda word: 0, see=ready_word)
    return () if word is None else (Event("discarded", page, nid_of(word)),)


def free(page: int) -> Program:
    """Make a page ineligible, then forget it.

    ::

        and(eligible, 0)
        fence
        discard
    """
    yield clear_bits(ELIGIBLE, 1)
    yield Fence.FULL
    return (yield from discard(page))


def request_eligible(rules: Rules, page: int, nid: int) -> Program:
    """Ask for a page that may be freed meanwhile: look at its eligible bit again after the mark.

    ::

        if not load(eligible): return INELIGIBLE
        mark
        fence
        if not load(eligible): claim the page back; return INELIGIBLE
        publish
    """
    may = yield load(ELIGIBLE, see=bool)
    if not may:
        return ()
    was_ready = yield update(record(page), f"mark nid {nid}", lambda word: marked(word, nid), see=is_ready)
    mark = Event("refreshed" if was_ready else "began", page, nid)
    yield Fence.FULL
    still = yield load(ELIGIBLE, see=bool)
    if not still:
        word = yield update(record(page), "withdraw", taken, see=ready_word)
        return (mark,) if word is None else (mark, Event("withdrawn", page, nid_of(word)))
    events = yield from publish(rules, page)
    return (mark, *events)


# --- scans: block word, then ready words, then records ------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """The bits that a scan took: of the block word, and of each ready word."""

    blocks: int
    words: Mapping[str, int]

    def has(self, rules: Rules, page: int) -> bool:
        """Return whether the page's ready bit was taken."""
        return any_of(rules.ready_bit(page), self.words.get(rules.ready_location(page), 0))


class Claim(NamedTuple):
    """A claimed page: the word that the atomic took, and the target that the plan is told."""

    page: int
    word: int
    told: int


def take_bits(rules: Rules, pages: Sequence[int]) -> Generator[Step, Any, Taken]:
    """Clear the index bits of the scan's range, top down, as far as they are set.

    ::

        if not load(block) & range: return nothing
        taken = and(block, ~range) & range
        fence
        for word in ready words under taken:  if load(word): bits = xchg(word, 0)
        fence
    """
    bits = rules.block_bits(pages)
    any_set = yield load(BLOCK, see=partial(any_of, bits))
    if not any_set:
        return Taken(0, {})
    blocks = yield take_blocks(bits)
    yield from rules.fence("scan: block | ready")
    words: dict[str, int] = {}
    for location in rules.words_of(rules.under(blocks, pages)):
        any_set = yield load(location, see=bool)
        if any_set:
            words[location] = yield take_word(location)
    yield from rules.fence("scan: ready | record")
    return Taken(blocks, words)


def take_range(rules: Rules, pages: Sequence[int]) -> Generator[Step, Any, Taken]:
    """Clear all index bits of the range without looking first, as a dense scan may."""
    blocks = yield take_blocks(rules.block_bits(pages))
    yield from rules.fence("scan: block | ready")
    words: dict[str, int] = {}
    for location in rules.words_of(pages):
        words[location] = yield take_word(location)
    yield from rules.fence("scan: ready | record")
    return Taken(blocks, words)


def take_by_stores(rules: Rules, pages: Sequence[int], *, looks: bool = True) -> Generator[Step, Any, Taken]:
    """Clear the index bits of a range as dense scans do: what ready words held is not asked.

    ::

        if not load(block) & range: go on with the records
        taken = and(block, ~range) & range
        fence
        for word in ready words under taken:  if load(word): word = 0
        fence

    Args:
        rules: how the protocol is carried out.
        pages: the range.
        looks: a word that is 0 is left alone (the CPU); else all are stored to (the GPU).
    """
    bits = rules.block_bits(pages)
    blocks = 0
    any_set = yield load(BLOCK, see=partial(any_of, bits))
    if any_set:
        blocks = yield take_blocks(bits)
    yield from rules.fence("scan: block | ready")
    for location in rules.words_of(rules.under(blocks, pages)):
        any_set = True
        if looks:
            any_set = yield load(location, see=bool)
        if any_set:
            yield update(location, "store 0", lambda word: 0)
    yield from rules.fence("scan: ready | record")
    return Taken(blocks, {})


def take_first_block(rules: Rules, pages: Sequence[int]) -> Generator[Step, Any, Taken]:
    """Take all block bits of the range, come to its first block only, and give the others back.

    ::

        taken = and(block, ~range) & range
        fence
        ready words of the first block
        or(block, taken & other blocks)
        fence
    """
    first = rules.block_bits(pages[:1])
    blocks = yield take_blocks(rules.block_bits(pages))
    yield from rules.fence("scan: block | ready")
    words: dict[str, int] = {}
    for location in rules.words_of(rules.under(blocks & first, pages)):
        words[location] = yield take_word(location)
    if blocks & ~first:
        yield set_bits(BLOCK, blocks & ~first)
    yield from rules.fence("scan: ready | record")
    return Taken(blocks & first, words)


def claim(page: int) -> Generator[Step, Any, Claim | None]:
    """Claim a page; None if its record is not READY (any more).

    ::

        old = load(record)
        while READY(old): if cas(record, old, 0): return old else old = what cas returned
    """
    looks_ready = yield load(record(page), see=is_ready)
    if not looks_ready:
        return None
    word = yield update(record(page), "claim", taken, see=ready_word)
    return None if word is None else Claim(page, word, told=nid_of(word))


def all_taken(hint: Words, words: Words) -> Words:
    """Return records after a claim of all of them in one step, which succeeds if they are still as loaded."""
    return (0,) * len(words) if words == hint else words


def as_loaded(hint: Words, words: Words) -> bool:
    """Return whether records are still as they were loaded."""
    return words == hint


def claim_together(pages: Sequence[int]) -> Generator[Step, Any, tuple[Claim, ...]]:
    """Claim neighbours in one step, if all are READY and still as they were loaded; else none of them.

    ::

        hint = the records, one load or several
        if all READY and cas of all(records, hint, 0):  return hint
        return nothing: whoever called claims each by itself
    """
    hint: Words = ()
    for page in pages:
        word = yield load(record(page), see=ready_word)
        if word is None:
            return ()
        hint += (word,)
    done = yield update_together(
        [record(page) for page in pages],
        "claim together",
        partial(all_taken, hint),
        see=partial(as_loaded, hint),
    )
    if not done:
        return ()
    return tuple(Claim(page, word, told=nid_of(word)) for page, word in zip(pages, hint, strict=True))


def claim_by_halves(pages: Sequence[int]) -> Generator[Step, Any, tuple[Claim, ...]]:
    """Claim neighbours in one step, and where that fails each half of them in one.

    ::

        return claim_together(pages) or claim_together(first half) + claim_together(second half)
    """
    claims = yield from claim_together(pages)
    if claims:
        return claims
    half = len(pages) // 2
    first = yield from claim_together(pages[:half])
    second = yield from claim_together(pages[half:])
    return first + second


def put_bits_back(rules: Rules, left: Sequence[int]) -> Generator[Step, Any, None]:
    """Index again what a scan leaves READY; what is set may be left alone, as by a producer.

    ::

        for word in ready words of the pages left: or(word, bits)
        fence
        or(block, bits)
    """
    for location, bits in (*rules.words_of(left).items(), (BLOCK, rules.block_bits(left))):
        if location == BLOCK:
            yield from rules.fence("restore: ready | block")
        if rules.skip_set:
            missing = yield load(location, see=partial(lacks, bits))
            if not missing:
                continue
        yield set_bits(location, bits)


def scan(
    rules: Rules,
    pages: Sequence[int],
    *,
    limit: int | None = None,
    dense: bool = False,
    refuse: bool = False,
    take: Callable[[Rules, Sequence[int]], Generator[Step, Any, Taken]] = take_bits,
    claim: Callable[[int], Generator[Step, Any, Claim | None]] = claim,
    claim_together: Callable[[Sequence[int]], Generator[Step, Any, tuple[Claim, ...]]] | None = None,
    put_back: Callable[[Rules, Sequence[int]], Generator[Step, Any, None]] = put_bits_back,
    release: Callable[[Rules, int, int], Generator[Step, Any, tuple[Event, ...]]] = release,
) -> Program:
    """Claim the READY pages of a range, at most ``limit``, and with ``refuse`` give them all back.

    ::

        take bits
        claim_together, and all of the range are candidates: try it, go on with those that it did not claim
        for page in range (dense: every one; indexed: those whose bit was taken):
            limit reached:  leave it; remember it if it is READY
            else:           claim it
        put back the bits of what was left
        if refuse: release every claimed page
    """
    found = yield from take(rules, pages)
    events: tuple[Event, ...] = ()
    claims: tuple[Claim, ...] = ()
    left: tuple[int, ...] = ()
    if claim_together is not None and (dense or all(found.has(rules, page) for page in pages)):
        claims = yield from claim_together(pages)
        for page, word, told in claims:
            events += (Event("claimed", page, nid_of(word), told), Event("together", page))
    for page in pages:
        if any(page == claimed.page for claimed in claims):
            continue
        has_bit = found.has(rules, page)
        if not (dense or has_bit):
            continue
        if limit is not None and len(claims) == limit:
            looks_ready = yield load(record(page), see=is_ready)
            if looks_ready:
                left += (page,)
                events += (Event("left", page),)
            continue
        claimed = yield from claim(page)
        if claimed is not None:
            claims += (claimed,)
            events += (Event("claimed", page, nid_of(claimed.word), claimed.told),)
        elif has_bit:
            events += (Event("stale", page),)
    if left:
        yield from put_back(rules, left)
    if refuse:
        for page, word, _ in claims:
            events += yield from release(rules, page, word)
    return events
