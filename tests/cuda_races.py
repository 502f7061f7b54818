"""Races planted in the CUDA kernels, one at a time, and a small system of :mod:`cuda_orders` that shows each.

All stand in one source, behind ``planted``; 0 is sound. What a line becomes is beside it, so that it can be
read against the line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from cuda_orders import (
    BOTH,
    IS_CROWDED,
    TWICE,
    Accesses,
    Discards,
    P,
    Q,
    Releases,
    Requests,
    Resolves,
    Scan,
    System,
    source_of,
)
from emulator.explorer import Exploration, ExploredModule
from emulator.presence import need
from gpuscan.records.formats import FORMATS

_STORE_0 = "__stcg(store.ready_bits + index, (u64)0)"
EDITS: dict[str, str] = {
    # Producers
    "  const u64 bit = 1ull << (head & 63);\n  __threadfence();\n": """\
  const u64 bit = 1ull << (head & 63);
  __threadfence();
  if (planted == block_bit_first) {
    atomicOr(store.block_bits + (head >> GS_SECTION_SHIFT), 1ull << ((head >> GS_BLOCK_SHIFT) & 63));
    __threadfence();
  }
""",
    "  if ((__ldcg(ready) & bit) == 0) atomicOr(ready, bit);\n": """\
  if (planted == ready_bit_stored) __stcg(ready, __ldcg(ready) | bit);
  else if ((__ldcg(ready) & bit) == 0) atomicOr(ready, bit);
""",
    "  const u64 block_bit = 1ull << ((head >> GS_BLOCK_SHIFT) & 63);\n  __threadfence();\n": """\
  const u64 block_bit = 1ull << ((head >> GS_BLOCK_SHIFT) & 63);
  if (planted == block_bit_first) return;
  if (planted != block_bit_unfenced) __threadfence();
""",
    "  if ((__ldcg(block) & block_bit) == 0) atomicOr(block, block_bit);\n": """\
  if (planted == block_bit_stored) __stcg(block, __ldcg(block) | block_bit);
  else if ((__ldcg(block) & block_bit) == 0) atomicOr(block, block_bit);
""",
    "  if ((__ldcg(active) & flag) == 0) atomicOr(active, flag);\n": """\
  if (planted == node_flag_stored) __stcg(active, __ldcg(active) | flag);
  else if ((__ldcg(active) & flag) == 0) atomicOr(active, flag);
""",
    "  u32 word = load_record(store, head);\n  for (;;) {\n    const u32 marked": """\
  if (planted == stale_bit_trusted && __ldcg(store.ready_bits + (head >> 6)) >> (head & 63) & 1) return false;
  if (planted == index_first) set_index(store, head);
  u32 word = load_record(store, head);
  for (;;) {
    const u32 marked""",
    "    const u32 seen = exchange_record_if(store, head, word, marked);\n": """\
    if (planted == request_stored) __stcg(store.records + head, (record_t)marked);
    const u32 seen = planted == request_stored ? word : exchange_record_if(store, head, word, marked);
""",
    "  if (is_ready(word)) return false;\n  set_index(store, head);\n": """\
  if (is_ready(word)) return false;
  if (planted != index_first) set_index(store, head);
""",
    "      const u32 seen = exchange_record_if(store, turn.head, word, counted);\n": """\
      if (planted == access_stored) __stcg(store.records + turn.head, (record_t)counted);
      const u32 seen = planted == access_stored ? word : exchange_record_if(store, turn.head, word, counted);
""",
    "  while (!is_ready(word)) {\n"
    "    const u32 seen = exchange_record_if(store, flat, word, claimed);\n": """\
  while (planted == released_over_requests || !is_ready(word)) {
    if (planted == release_stored) __stcg(store.records + flat, (record_t)claimed);
    const u32 seen = planted == release_stored ? word : exchange_record_if(store, flat, word, claimed);
""",
    "  return atomicExch(store.records + flat, 0u);\n": """\
  if (planted == free_stored) {
    const u32 seen = load_around(store, flat);
    __stcg(store.records + flat, (record_t)0);
    return seen;
  }
  return atomicExch(store.records + flat, 0u);
""",
    # Scans
    "  return atomicExch(store.ready_bits + index, 0ull);\n": f"""\
  if (planted == ready_word_stored) {{
    seen = __ldcg(store.ready_bits + index);
    {_STORE_0};
    return seen;
  }}
  return atomicExch(store.ready_bits + index, 0ull);
""",
    "    if (kTake && group.blocks) "
    "group.blocks = atomicAnd(store.block_bits + section, ~wanted) & wanted;\n": """\
    if (kTake && group.blocks && planted == block_word_stored)
      __stcg(store.block_bits + section, __ldcg(store.block_bits + section) & ~wanted);
    else if (kTake && group.blocks && planted == blocks_of_others_taken)
      group.blocks = atomicExch(store.block_bits + section, 0ull) & wanted;
    else if (kTake && group.blocks && planted != ready_words_first)
      group.blocks = atomicAnd(store.block_bits + section, ~wanted) & wanted;
""",
    "  if (exchanges) {\n": "  if (exchanges && planted != bits_after_claims) {\n",
    "    if (kTake && !exchanges) take_ready_word(store, first_word + i, words[i]);\n": """\
    if (kTake && !exchanges && planted != bits_after_claims) take_ready_word(store, first_word + i, words[i]);
""",
    "    n_served += serve_queue(queue, &n_queued, lo, is_last, visit);\n": """\
    n_served += serve_queue(queue, &n_queued, lo, is_last, visit);
    if (kTake && planted == bits_after_claims && is_last) {
      for (i64 i = (lo >> 6) + lane_id(); i < hi >> 6; i += GS_LANES) take_ready_word(store, i, 0);
    }
""",
    "    if (taken) taken = atomicAnd(word, ~blocks) & blocks;\n": """\
    if (taken && planted == block_word_stored) __stcg(word, __ldcg(word) & ~blocks);
    else if (taken && planted == blocks_of_others_taken) taken = atomicExch(word, 0ull) & blocks;
    else if (taken) taken = atomicAnd(word, ~blocks) & blocks;
""",
    "        const u64 taken = is_wanted ? take_index(store, tile, end) : 0;\n": """\
        const u64 taken = is_wanted && planted != bits_after_records ? take_index(store, tile, end) : 0;
""",
    "      ready = ready_of_tile(store, tile, end);\n": """\
      ready = ready_of_tile(store, tile, end);
      if (planted == bits_after_records) take_index(store, tile, end);
""",
    "  return exchange_record_if(store, flat, around, 0);\n": """\
  if (planted == claim_stored) {
    __stcg(store.records + flat, (record_t)0);
    return around;
  }
  if (planted == claim_exchanged) return clear_record(store, flat);
  return exchange_record_if(store, flat, around, 0);
""",
    "      const u32 same = differs ? wanted & ~bytes_set(differs) : wanted;\n": """\
      const u32 same = differs && planted != changed_record_taken ? wanted & ~bytes_set(differs) : wanted;
""",
    "      const u32 before = atomicCAS(word_around(store, flat), around, around & ~same);\n"
    "      if (before == around) break;\n": """\
      if (planted == neighbours_stored) __stcg(word_around(store, flat), around & ~same);
      u32 before = around;
      if (planted != neighbours_stored) before = atomicCAS(word_around(store, flat), around, around & ~same);
      if (before == around || planted == neighbours_unchecked) break;
""",
    "    const bool has_taken = may_claim && seen == word;\n": """\
    const bool has_taken = may_claim && (planted == claim_unchecked || seen == word);
""",
    "    is_open = may_claim && !has_taken && is_ready(seen);\n": """\
    is_open = planted != claim_gives_up && may_claim && !has_taken && is_ready(seen);
""",
    "  if (stays) set_index(store, flat);\n": """\
  if (stays && planted != left_without_index) set_index(store, flat);
""",
    "    const i64 had = (i64)atomicAdd(quota, 0ull - all);\n": """\
    const u64 found = planted == quota_stored ? __ldcg(quota) : 0;
    if (planted == quota_stored) __stcg(quota, found - all);
    const i64 had = planted == quota_stored ? (i64)found : (i64)atomicAdd(quota, 0ull - all);
""",
    "      if (first_word >= 0) n_set = load_ready_words<kTake>(store, first_word, words);\n": """\
      if (first_word >= 0) n_set = load_ready_words<kTake>(store, first_word, words);
      if (kTake && first_word >= 0 && planted == ready_words_first)
        atomicAnd(store.block_bits + (first_word >> (GS_SECTION_SHIFT - 6)),
                  ~(1ull << (first_word / GS_WORDS_PER_BLOCK & 63)));
""",
    IS_CROWDED: f"  if (in_rows) return true;\n{IS_CROWDED}",
    "  return atomicCAS(word, seen, seen & ~mask);\n": """\
  if (planted == row_stored) {
    __stcg(word, seen & ~mask);
    return seen;
  }
  if (planted == row_unchecked) {
    atomicCAS(word, seen, seen & ~mask);
    return seen;
  }
  return atomicCAS(word, seen, seen & ~mask);
""",
    "      taken[row] &= ready_records(words[row]);\n": """\
      if (planted != row_taken_again) taken[row] &= ready_records(words[row]);
""",
    "        set_index(store, first + row * GS_ROW_PAGES + lane_id() * GS_RECORDS_PER_WORD + i);\n": """\
        if (planted != row_left_without_index)
          set_index(store, first + row * GS_ROW_PAGES + lane_id() * GS_RECORDS_PER_WORD + i);
""",
    # What a block and all blocks count
    "(peers & lanes_below()) == 0) atomicAdd(stage.histogram + target, (u32)__popc(peers));\n": """\
(peers & lanes_below()) == 0) {
    if (planted == claims_of_block_stored) stage.histogram[target] += (u32)__popc(peers);
    else atomicAdd(stage.histogram + target, (u32)__popc(peers));
  }
""",
    "added[threadIdx.x] = 0;\n  __syncthreads();\n": """\
added[threadIdx.x] = 0;
  if (planted != no_barrier_after_clearing) __syncthreads();
""",
    "  if (sum) atomicAdd(totals + GS_TOTAL_PAGES + threadIdx.x, sum);\n": """\
  u64* const total = totals + GS_TOTAL_PAGES + threadIdx.x;
  if (planted == totals_stored) __stcg(total, __ldcg(total) + sum);
  else if (sum) atomicAdd(total, sum);
""",
    "  const u32 n_targets = places.n_targets;\n  __syncthreads();\n": """\
  const u32 n_targets = places.n_targets;
  if (planted != no_barrier_before_counts) __syncthreads();
""",
    "  __threadfence();\n  __syncthreads();\n"
    "  if (threadIdx.x == 0) n_before = atomicAdd(n_done, 1u);\n": """\
  if (planted != block_done_unfenced) __threadfence();
  if (planted != block_done_early) __syncthreads();
  if (threadIdx.x == 0) {
    if (planted == block_done_stored) {
      n_before = __ldcg(n_done);
      __stcg(n_done, n_before + 1);
    } else {
      n_before = atomicAdd(n_done, 1u);
    }
  }
""",
    "  __syncthreads();\n  if (n_before != n_blocks - 1) return false;\n": """\
  if (planted != block_done_untold) __syncthreads();
  if (n_before != n_blocks - 1) return false;
""",
    "  if (threadIdx.x < n_counts) block_counts[threadIdx.x] = 0;\n  __syncthreads();\n": """\
  if (threadIdx.x < n_counts) block_counts[threadIdx.x] = 0;
  if (planted != no_barrier_before_outcomes) __syncthreads();
""",
    "  __syncthreads();\n  if (threadIdx.x < n_counts && block_counts": """\
  if (planted != no_barrier_after_outcomes) __syncthreads();
  if (threadIdx.x < n_counts && block_counts""",
    "    atomicAdd(counts + threadIdx.x, (u64)block_counts[threadIdx.x]);\n": """\
    if (planted == outcomes_stored)
      __stcg(counts + threadIdx.x, __ldcg(counts + threadIdx.x) + block_counts[threadIdx.x]);
    else
      atomicAdd(counts + threadIdx.x, (u64)block_counts[threadIdx.x]);
""",
    "    if (seen == 0) seen = atomicCAS(folios.heads + slot, 0ull, key);\n": """\
    if (seen == 0 && planted == slot_stored) __stcg(folios.heads + slot, key);
    else if (seen == 0) seen = atomicCAS(folios.heads + slot, 0ull, key);
""",
    "    atomicMax(folio_lasts + slot, (u32)item + n_after + 1);\n": """\
    if (planted == last_item_stored)
      __stcg(folio_lasts + slot, max(__ldcg(folio_lasts + slot), (u32)item + n_after + 1));
    else
      atomicMax(folio_lasts + slot, (u32)item + n_after + 1);
""",
}
"""Lines of the sources, and what each becomes."""


@dataclass(frozen=True)
class Race:
    """A planted race.

    Attributes:
        system: the smallest that shows it.
        finds: pattern of the complaint of a shortest schedule.
        stores_may_be_late: a fence is left out.
        format_name: of the records.
        in_rows: the dense scan claims row by row, also without the race.
    """

    system: System
    finds: str
    stores_may_be_late: bool = False
    format_name: str = "rfc"
    in_rows: bool = False


_BYTES = "pghot-compact"
"""Four of its records are in one word, and P's and Q's are."""
_ONE = Requests(((Q, 1),))
_LOST = "READY, its (ready|block) bit is clear"
_ENDED = r"began \d requests, ended \d"
_BLOCKS = System((Scan("dense", n_blocks=2),))
_CLAIMS = System((Scan("dense"), _ONE), {P: 3})
_WALK = System((Scan("indexed"), _ONE), {P: 3})
_STALE = System((Scan("indexed"), _ONE), {P: 3}, (Q,))
_COUNTS = "counts .* its outcomes are"
_NOWHERE = "blocks begin at|plan's offsets|counters of blocks|diverges"

RACES: dict[str, Race] = {
    "request_stored": Race(System((Requests(TWICE),)), _ENDED),
    "access_stored": Race(System((Accesses(TWICE),)), "no serial order"),
    "index_first": Race(_WALK, _LOST),
    "stale_bit_trusted": Race(_STALE, "no serial order"),
    "block_bit_first": Race(_WALK, _LOST),
    "ready_bit_stored": Race(System((Requests(BOTH),)), _LOST),
    "block_bit_stored": Race(System((Requests(((P, 1), (P + 512, 2))),)), _LOST),
    "node_flag_stored": Race(
        System((Requests(((P, 1), (P + (1 << 15), 2))),), far=True), "node is not active"
    ),
    "release_stored": Race(System((Releases(((Q, 1),)), _ONE)), _ENDED),
    "released_over_requests": Race(System((Releases(((Q, 1),)), Requests(((Q, 2),)))), _ENDED),
    "free_stored": Race(System((Discards(Q), _ONE)), _ENDED),
    "ready_word_stored": Race(_WALK, _LOST),
    "block_word_stored": Race(System((Scan("indexed"), Requests(((P + 512, 1),))), {P: 3}), _LOST),
    "blocks_of_others_taken": Race(System((Scan("indexed"),), {P: 3, P + 512: 3}), _LOST),
    "bits_after_claims": Race(_WALK, _LOST),
    "ready_words_first": Race(_WALK, _LOST),
    "bits_after_records": Race(_CLAIMS, _LOST),
    "claim_stored": Race(System((Scan("dense"), Scan("indexed")), {P: 3}), _ENDED),
    "claim_exchanged": Race(System((Scan("dense"), Requests(((P, 1),))), {P: 3}), _ENDED),
    "claim_unchecked": Race(System((Scan("dense"), Requests(((P, 1),))), {P: 3}), _LOST),
    "claim_gives_up": Race(System((Scan("dense"), Requests(((P, 1),))), {P: 3}), _LOST),
    "neighbours_stored": Race(_CLAIMS, _ENDED, format_name=_BYTES),
    "neighbours_unchecked": Race(_CLAIMS, _LOST, format_name=_BYTES),
    "changed_record_taken": Race(
        System((Scan("dense"), Accesses(((P, 0),))), {P: 3}), _ENDED, format_name=_BYTES
    ),
    "row_stored": Race(System((Scan("dense"), Scan("indexed")), {P: 3}), _ENDED, in_rows=True),
    "row_unchecked": Race(_CLAIMS, _LOST, format_name=_BYTES, in_rows=True),
    "row_taken_again": Race(
        System((Scan("dense"), Discards(P)), {P: 3}), "which nobody asked for", in_rows=True
    ),
    "row_left_without_index": Race(
        System((Scan("dense", room=1), _ONE), {P: 3, P + 1: 3}), _LOST, in_rows=True
    ),
    "left_without_index": Race(System((Scan("dense", room=1), _ONE), {P: 3, P + 1: 3}), _LOST),
    "quota_stored": Race(System((Scan("dense", quota=1),), {P: 2, P + 512: 2}, like_serial=False), "quota"),
    "claims_of_block_stored": Race(System((Scan("dense"),), {P: 2, P + 512: 2}), _NOWHERE),
    "no_barrier_after_clearing": Race(System((Scan("dense"),), {P: 2, P + 512: 2}), _NOWHERE),
    "no_barrier_before_counts": Race(System((Scan("dense"),), {P: 2, P + 512: 2}), _NOWHERE),
    "totals_stored": Race(_BLOCKS, "pages were read"),
    "block_done_stored": Race(_BLOCKS, _NOWHERE),
    "block_done_early": Race(_BLOCKS, _NOWHERE),
    "block_done_untold": Race(_BLOCKS, _NOWHERE),
    "no_barrier_before_outcomes": Race(System((Requests(TWICE),)), _COUNTS),
    "no_barrier_after_outcomes": Race(System((Requests(TWICE),)), _COUNTS),
    "outcomes_stored": Race(System((Requests(((P, 1), (Q, 1), (P, 1)), n_blocks=2),)), _COUNTS),
    "slot_stored": Race(System((Resolves(((1, 0), (4, 0))),), like_serial=False), r"slot \d of page \d has"),
    "last_item_stored": Race(
        System((Resolves(((1, 0), (1, 0))),), like_serial=False), r"slot \d of page \d has"
    ),
    "block_bit_unfenced": Race(_WALK, _LOST, stores_may_be_late=True),
    "block_done_unfenced": Race(_BLOCKS, _NOWHERE, stores_may_be_late=True),
}


@cache
def planted_module(format_name: str) -> ExploredModule:
    """Return the kernels with all races, none of which is there until :func:`planted` is entered."""
    need("explored")
    source = source_of(FORMATS[format_name])
    for line, instead in EDITS.items():
        if source.count(line) != 1:  # no assertion: a check that fails is what tests wait for
            raise ValueError(f"{line!r} stands {source.count(line)} times in the sources, not once")
        # Lines keep their numbers.
        source = source.replace(line, instead.replace("\n", " ") + "\n" * line.count("\n"))
    names = ", ".join(["sound", *RACES])
    head = f'#line 1 "planted"\nenum {{ {names} }};\nstatic int planted, in_rows;\n'
    head += 'extern "C" void plant(int race) { planted = race; }\n'
    head += 'extern "C" void claim_in_rows(int is) { in_rows = is; }\n'
    return ExploredModule(head + source)


@contextmanager
def planted(race: str, format_name: str = "rfc") -> Iterator[ExploredModule]:
    """Give the kernels of a format with one race, ``sound`` for none."""
    module = planted_module(format_name)
    module.call("plant", ["sound", *RACES].index(race))
    try:
        yield module
    finally:
        module.call("plant", 0)


def explore_planted(name: str, which: str, **options: Any) -> Exploration:
    """Run the system of a race with the race ``which`` in it."""
    race = RACES[name]
    with planted(which, race.format_name) as module:
        module.call("claim_in_rows", int(race.in_rows))
        try:
            return race.system.explore(
                module,
                FORMATS[race.format_name],
                stores_may_be_late=race.stores_may_be_late,
                **options,
            )
        finally:
            module.call("claim_in_rows", 0)


if __name__ == "__main__":
    for each in sys.argv[1:] or RACES:
        sys.stdout.write(f"{each}\n{explore_planted(each, each).wrong[0].told()}\n\n")
