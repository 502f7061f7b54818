"""The protocol as it is meant, in small systems that together exercise all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from .checker import Fence, Program, System
from .judge import system
from .protocol import (
    FENCES,
    PENDING,
    Rules,
    access,
    claim_by_halves,
    claim_together,
    discard,
    free,
    nid_of,
    request,
    request_eligible,
    request_looking,
    request_run,
    scan,
    take_by_stores,
    take_first_block,
    take_range,
    word_of,
)

ONE_PAGE = Rules(ready_words=(0,), blocks=(0,))
ONE_WORD = Rules(ready_words=(0, 0), blocks=(0, 0))
TWO_WORDS = Rules(ready_words=(0, 1), blocks=(0, 0))
TWO_BLOCKS = Rules(ready_words=(0, 1), blocks=(0, 1))
BOTH = (0, 1)

Threads = dict[str, Callable[[], Program]]


@dataclass(frozen=True, slots=True)
class Case:
    """A system that must be sound.

    Attributes:
        name: what it is about, and which savings its producers make.
        build: returns it.
        occurs: events that must occur in some execution, or the case shows nothing.
        large: relaxed order takes seconds.
    """

    name: str
    build: Callable[[], System]
    occurs: frozenset[str]
    large: bool = False


def _claim_and_restore(rules: Rules) -> System:
    """Two requests of one page, a scan, and a scan that may take one of two pages."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 0, 2),
        "scan": partial(scan, rules, BOTH),
        "bounded": partial(scan, rules, BOTH, limit=1),
    }
    return system(rules, threads, records={1: PENDING})


def _two_pages(rules: Rules) -> System:
    """A request of each page against the same scans."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 1, 2),
        "scan": partial(scan, rules, BOTH),
        "bounded": partial(scan, rules, BOTH, limit=1),
    }
    return system(rules, threads)


def _dense(rules: Rules) -> System:
    """A bounded dense scan, which reads every record, against an indexed one."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 1, 2),
        "dense": partial(scan, rules, BOTH, dense=True, limit=1),
        "scan": partial(scan, rules, BOTH),
    }
    return system(rules, threads, records={1: PENDING})


def _dense_blind(rules: Rules) -> System:
    """A dense scan that clears its range without looking."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 0, 2),
        "dense": partial(scan, rules, (0,), dense=True, take=take_range),
        "bounded": partial(scan, rules, (0,), limit=0),
    }
    return system(rules, threads, records={0: PENDING})


def _dense_by_stores(looks: bool, rules: Rules) -> System:
    """A bounded dense scan that clears ready words by stores, beside a request and an indexed scan."""
    take = partial(take_by_stores, looks=looks)
    threads: Threads = {
        "producer": partial(request, rules, 0, 1),
        "dense": partial(scan, rules, BOTH, dense=True, limit=1, take=take),
        "scan": partial(scan, rules, BOTH),
    }
    return system(rules, threads, records={1: PENDING}, possible_words=_REQUESTED)


def _two_dense_by_stores(looks: bool, rules: Rules) -> System:
    """Two dense scans that clear the word of a page by stores, beside two requests of it."""
    take = partial(take_by_stores, looks=looks)
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 0, 2),
        "dense 1": partial(scan, rules, (0,), dense=True, take=take),
        "dense 2": partial(scan, rules, (0,), dense=True, limit=0, take=take),
    }
    return system(rules, threads, indexed=(0,))


def _dense_over_budget(rules: Rules) -> System:
    """A dense scan that may take nothing, and two requests of one page."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 0, 2),
        "dense": partial(scan, rules, (0,), dense=True, limit=0),
        "scan": partial(scan, rules, (0,)),
    }
    return system(rules, threads)


def _release(rules: Rules) -> System:
    """A scan whose claims are all refused and put back, while the page is requested again."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 0, 2),
        "refused": partial(scan, rules, (0,), refuse=True),
        "bounded": partial(scan, rules, (0,), limit=0),
    }
    return system(rules, threads, records={0: PENDING})


def _two_releases(rules: Rules) -> System:
    """Two scans that put back what they claimed."""
    threads: Threads = {
        "producer": partial(request, rules, 0, 1),
        "refused 1": partial(scan, rules, (0,), refuse=True),
        "refused 2": partial(scan, rules, (0,), refuse=True),
    }
    return system(rules, threads, records={0: PENDING})


def _hot_page(rules: Rules) -> System:
    """Two accesses, the second makes the page READY; stale bits lead the scans to it before that."""
    threads: Threads = {
        "producer 1": partial(access, rules, 0, 1),
        "producer 2": partial(access, rules, 0, 2),
        "scan": partial(scan, rules, (0,)),
        "bounded": partial(scan, rules, (0,), limit=0),
    }
    return system(rules, threads, indexed=(0,))


def _discard(rules: Rules) -> System:
    """A page that is freed while it is requested, claimed and put back."""
    threads: Threads = {
        "producer": partial(request, rules, 0, 1),
        "discard": partial(discard, 0),
        "refused": partial(scan, rules, (0,), refuse=True),
        "scan": partial(scan, rules, (0,)),
    }
    return system(rules, threads, records={0: PENDING})


def _eligible(rules: Rules) -> System:
    """A page that becomes ineligible while it is requested."""
    threads: Threads = {
        "producer 1": partial(request_eligible, rules, 0, 1),
        "producer 2": partial(request_eligible, rules, 0, 2),
        "free": partial(free, 0),
        "scan": partial(scan, rules, (0,)),
    }
    return system(rules, threads)


def _part_of_a_word(rules: Rules) -> System:
    """Two blocks of one block word: a scan of both, bounded, and a scan of the second."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 1, 2),
        "bounded": partial(scan, rules, BOTH, limit=1),
        "scan of one": partial(scan, rules, (1,)),
    }
    return system(rules, threads, records={1: PENDING})


def _full_after_first_block(rules: Rules) -> System:
    """A scan whose plan is full after the first of two blocks."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 1, 2),
        "full": partial(scan, rules, BOTH, take=take_first_block),
        "scan": partial(scan, rules, BOTH),
    }
    return system(rules, threads, records={1: PENDING})


def _alike(rules: Rules) -> System:
    """A request of what was asked for with the same target, and one with another, beside scans."""
    threads: Threads = {
        "producer 1": partial(request_looking, rules, 0, nid_of(PENDING)),
        "producer 2": partial(request_looking, rules, 0, 1),
        "scan": partial(scan, rules, (0,)),
        "bounded": partial(scan, rules, (0,), limit=0),
    }
    return system(rules, threads, records={0: PENDING}, nids=(1, nid_of(PENDING)))


def _run(rules: Rules) -> System:
    """Two pages of a word that are indexed together, once both are READY, beside two scans."""
    threads: Threads = {
        "producer": partial(request_run, rules, {0: 1, 1: 2}),
        "dense": partial(scan, rules, BOTH, dense=True, limit=1),
        "scan": partial(scan, rules, BOTH),
    }
    return system(rules, threads, possible_words=_REQUESTED)


_REQUESTED = (0, PENDING, word_of(ready=True, nid=1), word_of(ready=True, nid=2))
"""All that a record holds where pages are requested and claimed only: fewer guesses, where two are loaded."""


def _together(rules: Rules) -> System:
    """A scan that claims both of two pages in one step if it can, beside a request and a bounded one."""
    threads: Threads = {
        "producer": partial(request, rules, 0, 1),
        "scan": partial(scan, rules, BOTH, claim_together=claim_together),
        "bounded": partial(scan, rules, BOTH, limit=1),
    }
    return system(rules, threads, records={1: PENDING}, indexed=BOTH, possible_words=_REQUESTED)


def _by_halves(rules: Rules) -> System:
    """A scan that claims both pages in one step, else each half, else each, beside requests and a free."""
    threads: Threads = {
        "producer 1": partial(request, rules, 0, 1),
        "producer 2": partial(request, rules, 0, 2),
        "discard": partial(discard, 1),
        "dense": partial(scan, rules, BOTH, dense=True, claim_together=claim_by_halves),
    }
    return system(rules, threads, records={0: PENDING, 1: PENDING}, possible_words=_REQUESTED)


def _together_dense(rules: Rules) -> System:
    """A dense scan that claims both in one step, against one that claims them one by one."""
    threads: Threads = {
        "producer": partial(request, rules, 0, 1),
        "dense": partial(scan, rules, BOTH, dense=True, claim_together=claim_together),
        "scan": partial(scan, rules, BOTH),
    }
    return system(rules, threads, records={0: PENDING, 1: PENDING}, possible_words=_REQUESTED)


def _together_refused(rules: Rules) -> System:
    """Both pages are claimed in one step and put back one by one, beside a request and a free."""
    threads: Threads = {
        "producer": partial(request, rules, 0, 1),
        "discard": partial(discard, 1),
        "refused": partial(scan, rules, BOTH, claim_together=claim_together, refuse=True),
        "bounded": partial(scan, rules, BOTH, limit=0),
    }
    return system(rules, threads, records={0: PENDING, 1: PENDING}, possible_words=_REQUESTED)


_SYSTEMS: tuple[tuple[str, Callable[[Rules], System], Rules, str], ...] = (
    ("claim and restore, one ready word", _claim_and_restore, ONE_WORD, "began refreshed claimed left"),
    ("claim and restore, two ready words", _claim_and_restore, TWO_WORDS, "began refreshed claimed left"),
    ("two pages, one ready word", _two_pages, ONE_WORD, "began claimed left"),
    ("two pages, two ready words", _two_pages, TWO_WORDS, "began claimed left"),
    ("dense", _dense, ONE_WORD, "began refreshed claimed left stale"),
    ("dense over budget", _dense_over_budget, ONE_PAGE, "began refreshed claimed left"),
    ("dense, blind", _dense_blind, ONE_PAGE, "began refreshed claimed left"),
    ("dense, words cleared by stores", partial(_dense_by_stores, True), ONE_WORD, "began claimed left stale"),
    (
        "two dense, words cleared by stores",
        partial(_two_dense_by_stores, True),
        ONE_PAGE,
        "began refreshed claimed left",
    ),
    ("dense, words stored over", partial(_dense_by_stores, False), ONE_WORD, "began claimed left stale"),
    (
        "two dense, words stored over",
        partial(_two_dense_by_stores, False),
        ONE_PAGE,
        "began refreshed claimed left",
    ),
    ("release", _release, ONE_PAGE, "began claimed restored superseded left"),
    ("two releases", _two_releases, ONE_PAGE, "claimed restored superseded"),
    ("hot page with stale bits", _hot_page, ONE_PAGE, "counted began stale claimed left"),
    ("request of what is requested", _alike, ONE_PAGE, "alike began refreshed claimed left"),
    ("run of requests", _run, ONE_WORD, "began claimed left stale"),
    ("claimed together", _together, ONE_WORD, "began claimed together stale left"),
    ("claimed together, dense", _together_dense, ONE_WORD, "began refreshed claimed together"),
    ("claimed by halves", _by_halves, ONE_WORD, "began refreshed claimed together"),
    (
        "release of pages claimed together",
        _together_refused,
        ONE_WORD,
        "claimed together restored superseded",
    ),
    ("discard", _discard, ONE_PAGE, "discarded claimed restored superseded stale"),
    ("freed while requested", _eligible, ONE_PAGE, "began discarded withdrawn claimed"),
    ("part of a block word", _part_of_a_word, TWO_BLOCKS, "began refreshed claimed left"),
    ("full after the first block", _full_after_first_block, TWO_BLOCKS, "began refreshed claimed"),
)

_LARGE = {
    "claim and restore, one ready word, skip set bits",
    "claim and restore, two ready words",
    "claim and restore, two ready words, skip set bits",
    "dense",
    "dense, skip set bits",
    "dense, skip set bits, skip when refreshed",
    "claimed by halves",
    "claimed by halves, skip set bits",
    "claimed by halves, skip when refreshed",
    "claimed by halves, skip set bits, skip when refreshed",
    "claimed together, dense",
    "claimed together, dense, skip set bits",
    "claimed together, dense, skip set bits, skip when refreshed",
    "release of pages claimed together",
    "release of pages claimed together, skip set bits",
    "release of pages claimed together, skip set bits, skip when refreshed",
}
"""Over half a second each in relaxed order, on one core."""


def _cases() -> Iterator[Case]:
    for name, build, layout, occurs in _SYSTEMS:
        for skip_set in (False, True):
            for refreshed_skips in (False, True):
                rules = replace(layout, skip_set=skip_set, refreshed_skips=refreshed_skips)
                full_name = name + ", skip set bits" * skip_set + ", skip when refreshed" * refreshed_skips
                events = frozenset(occurs.split())
                if "release" not in name:
                    events |= {"index empty"}  # or stale bits would pile up
                if skip_set and not refreshed_skips and "two pages" not in name:
                    events |= {"skipped"}
                yield Case(full_name, partial(build, rules), events, large=full_name in _LARGE)
    # Until somebody looks before setting, a producer needs its stores in order and no more.
    fences = {place: Fence.RELEASE if place.startswith("producer") else Fence.FULL for place in FENCES}
    for name, build, layout, occurs in _SYSTEMS:
        if name not in _LARGE:
            rules = replace(layout, fences=fences)
            yield Case(f"{name}, release fences", partial(build, rules), frozenset(occurs.split()))


CASES = tuple(_cases())
