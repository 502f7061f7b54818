"""What must hold when all threads of the claim protocol have ended, and the systems it is asked of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .checker import Program, System
from .protocol import (
    BLOCK,
    ELIGIBLE,
    FREQ_MAX,
    Event,
    Rules,
    counted,
    freq_of,
    is_ready,
    marked,
    nid_of,
    record,
)


def judge(
    rules: Rules, start: Mapping[str, int]
) -> Callable[[Mapping[str, int], Mapping[str, Any]], tuple[list[str], list[str]]]:
    """Return the judge of the ends that are reached from ``start``."""
    pages = range(len(rules.ready_words))

    def verdict(memory: Mapping[str, int], outcomes: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        events = [event for outcome in outcomes.values() for event in outcome]
        bad = [text for page in pages for text in _page_violations(rules, page, start, memory, events)]
        index_is_empty = not (memory[BLOCK] or any(memory[name] for name in rules.words_of(pages)))
        return bad, [event.what for event in events] + ["index empty"] * index_is_empty

    return verdict


def _page_violations(
    rules: Rules, page: int, start: Mapping[str, int], memory: Mapping[str, int], events: Sequence[Event]
) -> list[str]:
    first, last = start[record(page)], memory[record(page)]
    mine = [event for event in events if event.page == page]

    def nids(*kinds: str) -> list[int]:
        return [event.nid for event in mine if event.what in kinds]

    bad = []
    if is_ready(last):
        if not memory[rules.ready_location(page)] & rules.ready_bit(page):
            bad.append(f"lost: page {page} is READY, its ready bit is clear")
        elif not memory[BLOCK] & rules.block_bits((page,)):
            bad.append(f"lost: page {page} is READY, its block bit is clear")
    if is_ready(last) and not memory[ELIGIBLE]:
        bad.append(f"page {page} was freed and is READY")
    requests = is_ready(first) + len(nids("began", "restored"))
    ended = is_ready(last) + len(nids("claimed", "discarded", "withdrawn"))
    if requests != ended:
        bad.append(f"conservation: page {page} began {requests} requests, {ended} ended or are pending")
    requested = {nid_of(first), *nids("began", "refreshed", "accessed")}
    asked = [nid_of(first)] * is_ready(first) + nids("began", "refreshed")
    if nids("refreshed") and not (is_ready(first) or nids("began", "restored")):
        bad.append(f"page {page} was READY already to a request, and no request of it began")
    targets = nids("claimed") + [nid_of(last)] * is_ready(last)
    bad += [f"target {nid} of page {page} was never requested" for nid in sorted({*targets} - requested)]
    bad += [
        f"the request of page {page} to node {nid} was served twice"
        for nid in sorted({*targets})
        if targets.count(nid)
        > max(1, asked.count(nid) - nids("alike").count(nid)) + nids("restored").count(nid)
    ]
    bad += [
        f"page {page} was claimed with target {event.nid}, the plan says {event.told}"
        for event in mine
        if event.what == "claimed" and event.nid != event.told
    ]
    gone = nids("claimed", "discarded", "withdrawn")
    if not gone and freq_of(last) != min(freq_of(first) + len(nids("accessed")), FREQ_MAX):
        bad.append(f"page {page} was neither claimed nor freed and lost its FREQ")
    return bad


def system(
    rules: Rules,
    threads: Mapping[str, Callable[[], Program]],
    *,
    records: Mapping[int, int] | None = None,
    nids: Sequence[int] = (1, 2),
    indexed: Sequence[int] | None = None,
    possible_words: Iterable[int] | None = None,
) -> System:
    """Return a system of ``threads``.

    Args:
        rules: layout and protocol.
        threads: name -> start.
        records: words at the start, 0 where not given.
        nids: every target that a thread names.
        indexed: pages whose index bits are set at the start; by default the READY ones.
        possible_words: every word a record may hold; by default what requests, accesses
            and claims make of the words at the start.
    """
    pages = range(len(rules.ready_words))
    words = {page: (records or {}).get(page, 0) for page in pages}
    if indexed is None:
        indexed = [page for page in pages if is_ready(words[page])]
    memory = {record(page): words[page] for page in pages}
    memory |= dict.fromkeys(rules.words_of(pages), 0) | rules.words_of(indexed)
    memory |= {BLOCK: rules.block_bits(indexed), ELIGIBLE: 1}
    possible = {0, *words.values()} if possible_words is None else {*possible_words}
    while possible_words is None:
        more = possible | {mark(word, nid) for word in possible for nid in nids for mark in (marked, counted)}
        if more == possible:
            break
        possible = more
    domains = {
        name: frozenset(possible if name.startswith("record") else range(1 << len(pages))) for name in memory
    }

    def show(location: str, word: int) -> str:
        if not location.startswith("record"):
            return f"{word:0{len(pages)}b}"
        fields = ["READY"] * is_ready(word)
        fields += [
            f"{name} {value}" for name, value in (("nid", nid_of(word)), ("freq", freq_of(word))) if value
        ]
        return " ".join(fields) or "0"

    return System(memory, domains, threads, judge(rules, memory), show)
