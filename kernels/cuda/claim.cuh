/* The claim: one compare-exchange from an observed READY word to 0, if the budget allows it and the stage has
 * room. A warp claims up to 32 candidates at a time, one per lane, in flat order. */

/* What a budget leaves to claim, per target. Above the cut-off it is all that was counted; ties are claimed up to a
 * flat page, the first that no longer fits, on each side of resume_flat. So who is claimed does not depend on which
 * warp comes first. The quotas are of all warps: they bound what is claimed of pages that nobody has counted. */
struct Cuts {
  u32 now;
  const int* cut_key; /* as gpuscan.kernels.api.Cutoffs */
  const i64* resume_flat;
  const i64* stop_from; /* ties from resume_flat on are claimed before it, */
  const i64* stop_below; /* and those below before this one */
  u64* above_pages;
  u64* tie_pages_from;
  u64* tie_pages_below;
};

/* Where a warp stages the claims of its stretch, in flat order. All lanes hold the same. */
struct Stage {
  i64 stretch_lo;
  u32* offsets; /* from stretch_lo */
  record_t* words;
  u32 n_staged; /* folios, of a stretch's fewer than 2^32 */
  u32 room;
  u32* histogram; /* u32[1024] in shared memory: claims of this block per target */
  u64* added;     /* to the scan's totals: claims whose target is not below n_targets, in no group, so not staged */
};

/* Whether a word is at the cut-off of its target, which has a limit. */
static __device__ __forceinline__ bool is_tie(const Cuts& cuts, u32 word, u32 target) {
  return (int)hotness_key(word, cuts.now) == cuts.cut_key[target];
}

/* A claim's quota, or a null pointer where it needs none. */
static __device__ __forceinline__ u64* quota_of(const Store& store, const Cuts& cuts, i64 flat, u32 word,
                                                u32 target, bool* may_claim) {
  *may_claim = true;
  if (target >= store.n_targets || cuts.cut_key[target] < 0) return 0;
  if ((int)hotness_key(word, cuts.now) < cuts.cut_key[target]) return cuts.above_pages + target;
  if (is_tie(cuts, word, target)) {
    const bool is_from = flat >= cuts.resume_flat[target];
    if (flat < (is_from ? cuts.stop_from : cuts.stop_below)[target])
      return (is_from ? cuts.tie_pages_from : cuts.tie_pages_below) + target;
  }
  *may_claim = false;
  return 0;
}

/* Of lanes that want from the same quota, whose folios are `left` pages at most: whether this one's fits. They take in
 * lane order, each what fits; a tie that does not fit ends the ties. All lanes. */
static __device__ __forceinline__ bool fits_in_turn(u32 peers, u32 n_pages, u32 left, bool ends) {
  bool fits = false;
  for (u32 lane = 0; lane < GS_LANES; ++lane) {
    const u32 pages = __shfl_sync(GS_ALL_LANES, n_pages, (int)lane);
    if (peers >> lane & 1u) {
      const bool its_fits = pages <= left;
      fits = lane == lane_id() ? its_fits : fits;
      left = its_fits ? left - pages : ends ? 0 : left;
    }
  }
  return fits;
}

/* Pages that the peers want. All lanes. */
static __device__ __forceinline__ u32 wanted_by(const Store& store, u32 peers, u32 n_pages) {
  if (!store.has_large_folios) return (u32)__popc(peers) * n_pages;
  u32 wanted = 0; /* of 32 folios of at most a section */
  for (u32 lane = 0; lane < GS_LANES; ++lane) {
    const u32 pages = __shfl_sync(GS_ALL_LANES, n_pages, (int)lane);
    if (peers >> lane & 1u) wanted += pages;
  }
  return wanted;
}

/* Take the pages of the lanes out of their quotas, at once for those that draw on the same one; return whether this
 * lane's could be. Who does not claim gives them back. Other warps may find too little meanwhile, and claim less,
 * never more. is_tie: the quota is of ties. All lanes. */
static __device__ __forceinline__ bool reserve(const Store& store, u64* quota, u32 n_pages, bool is_tie) {
  const u32 peers = __match_any_sync(GS_ALL_LANES, (u64)quota);
  const u32 all = wanted_by(store, peers, n_pages);
  u32 left = 0; /* of what all want */
  if (quota && (peers & lanes_below()) == 0) {
    const i64 had = (i64)atomicAdd(quota, 0ull - all);
    left = had < 0 ? 0 : had < all ? (u32)had : all;
  }
  left = __shfl_sync(GS_ALL_LANES, left, __ffs((int)peers) - 1);
  bool fits = (u32)__popc(peers & lanes_below()) < left; /* a page each */
  if (store.has_large_folios) fits = fits_in_turn(peers, n_pages, left, is_tie);
  fits = fits || !quota;
  if (!fits) atomicAdd(quota, (u64)n_pages);
  return fits;
}

#if !GS_EXCLUSIVE && GS_RECORD_BITS == 8

/* All ones in the bytes of a word that are not 0. */
static __device__ __forceinline__ u32 bytes_set(u32 word) {
  word |= word >> 4;
  word |= word >> 2;
  word |= word >> 1; /* bit 0 of each byte is what any of its bits was */
  return (word & 0x01010101u) * 0xffu;
}

/* Store 0 to the records of lanes that may take theirs, where it is still what they saw, which is READY; return what
 * was there, with what is around it. Of lanes with records in one aligned word the first does it for all, or they would
 * take turns at it. It goes by what it saw itself: of a record that became READY later it says that it was not, and
 * whoever made it so has its bits to set, since they were taken before anybody looked. Lanes have ascending pages, but
 * for those behind, which may take nothing. All lanes. */
static __device__ __forceinline__ u32 take_records(const Store& store, i64 flat, u32 around, bool may_take) {
  const u32 peers = __match_any_sync(GS_ALL_LANES, (u32)(flat >> 2)); /* pages of a stretch, of fewer than 2^32 */
  u32 expected = may_take ? around & 0xffu << shift_in_word(flat) : 0;
  const u32 from_here = peers >> lane_id();
#pragma unroll
  for (u32 step = 1; step < 4; step <<= 1) {
    const u32 next = __shfl_down_sync(GS_ALL_LANES, expected, step);
    if (from_here >> step & 1u) expected |= next;
  }
  const int first = __ffs((int)peers) - 1;
  if (first == (int)lane_id() && expected) {
    const u32 wanted = (expected >> GS_READY_SHIFT & 0x01010101u) * 0xffu;
    for (;;) {
      const u32 differs = (around ^ expected) & wanted;
      const u32 same = differs ? wanted & ~bytes_set(differs) : wanted;
      if (same == 0) break;
      const u32 before = atomicCAS(word_around(store, flat), around, around & ~same);
      if (before == around) break;
      around = before;
    }
  }
  /* Every byte that was as expected went in that exchange, or there was none. */
  return __shfl_sync(GS_ALL_LANES, around, first);
}

#else

/* Store 0 to the records of lanes that may take theirs, where it is still what they saw; return what was there. */
static __device__ __forceinline__ u32 take_records(const Store& store, i64 flat, u32 around, bool may_take) {
  if (!may_take) return around;
#if GS_EXCLUSIVE
  store.records[flat] = 0; /* nobody else changes records while this kernel runs: the caller said so */
  return around;
#else
  return exchange_record_if(store, flat, around, 0);
#endif
}

#endif

/* Count the claims of the lanes that have one. One atomic per distinct target: at density 1 with one target 32 lanes
 * would queue for one counter. All lanes. */
static __device__ __forceinline__ void count_by_target(const Stage& stage, u32 target, bool is_one) {
  const u32 peers = __match_any_sync(GS_ALL_LANES, is_one ? target : GS_N_NODES_MAX);
  if (is_one && (peers & lanes_below()) == 0) atomicAdd(stage.histogram + target, (u32)__popc(peers));
}

/* Claim the candidates of the lanes and stage them in lane order. Their index bits were taken, so a page that
 * stays READY (over budget, or more than was counted before the scan) is indexed again. All lanes. */
template <bool kBudget>
static __device__ __forceinline__ void claim_candidates(const Store& store, const Cuts& cuts, Stage& stage,
                                                        i64 flat, bool is_candidate) {
  u32 around = is_candidate ? load_around(store, flat) : 0;
  u32 word = record_in(around, flat);
  u32 taken = 0;
  bool stays = false;
  u32 n_reserved = 0;
  bool is_open = is_ready(word);
#if GS_EXCLUSIVE
  __syncwarp(); /* other lanes read these records wide, and a vote orders no memory: now plain stores may follow */
#endif
  while (__any_sync(GS_ALL_LANES, is_open)) {
    const u32 target = target_of(store, word);
    bool may_claim = is_open;
    u64* quota = 0;
    u32 n_pages = 0;
    if (kBudget) {
      if (is_open) {
        quota = quota_of(store, cuts, flat, word, target, &may_claim);
        n_pages = quota ? (u32)folio_pages(store, flat) : 0;
      }
      const bool fits = reserve(store, quota, n_pages, quota != cuts.above_pages + target);
      if (!fits) quota = 0;
      may_claim = may_claim && fits;
    }
    /* Only what is staged needs room. */
    const bool is_known = target < store.n_targets;
    const u32 rivals = __ballot_sync(GS_ALL_LANES, may_claim && is_known);
    if (may_claim && is_known)
      may_claim = stage.n_staged + n_reserved + (u32)__popc(rivals & lanes_below()) < stage.room;
    stays = stays || (is_open && !may_claim);
    around = take_records(store, flat, around, may_claim);
    const u32 seen = record_in(around, flat);
    const bool has_taken = may_claim && seen == word;
    taken = has_taken ? word : taken;
    is_open = may_claim && !has_taken && is_ready(seen);
    word = seen; /* if somebody was faster, what is there now decides again */
    n_reserved += (u32)__popc(__ballot_sync(GS_ALL_LANES, has_taken && is_known));
    if (kBudget && quota && !has_taken) atomicAdd(quota, (u64)n_pages);
  }
  if (stays) set_index(store, flat);
  const u32 target = taken ? target_of(store, taken) : GS_N_NODES_MAX;
  const bool is_staged = taken && target < store.n_targets;
  const u32 staged = __ballot_sync(GS_ALL_LANES, is_staged);
  if (__any_sync(GS_ALL_LANES, taken && !is_staged)) { /* seldom, so not counted in every round */
    const u32 unknown = __ballot_sync(GS_ALL_LANES, taken && !is_staged);
    if (lane_id() == 0) note_total(stage.added, GS_TOTAL_UNKNOWN, (u64)__popc(unknown));
  }
  if (staged == 0) return;
  count_by_target(stage, target, is_staged);
  if (is_staged) {
    const u32 place = stage.n_staged + (u32)__popc(staged & lanes_below());
    stage.offsets[place] = (u32)(flat - stage.stretch_lo);
    stage.words[place] = (record_t)taken;
  }
  stage.n_staged += (u32)__popc(staged);
}
