/* Claims where they lie: in a tile where many records are READY, a warp takes row after row, a word of 32 bits a lane,
 * and queues nothing. Nobody shares a word, so a lane claims its records by one exchange, and those of four rows are in
 * flight at once. Exchanges have the width of those of producers (docs/protocol.md). Without a budget only. */

#define GS_ROWS 4 /* at once */
#define GS_RECORDS_PER_WORD (32 / GS_RECORD_BITS)
#define GS_ROW_PAGES (GS_LANES * GS_RECORDS_PER_WORD)
#define GS_ROWS_PAGES (GS_ROWS * GS_ROW_PAGES)

/* All ones in the records of a word that are READY. */
static __device__ __forceinline__ u32 ready_records(u32 word) {
#if GS_RECORD_BITS == 8
  return (word >> GS_READY_SHIFT & 0x01010101u) * 0xffu;
#else
  return is_ready(word) ? ~0u : 0;
#endif
}

static __device__ __forceinline__ u32 n_records(u32 mask) { return (u32)__popc(mask) / GS_RECORD_BITS; }

/* Store 0 to the records of a word that are in a mask, if all of it is what was seen; return what was there. */
static __device__ __forceinline__ u32 take_word(u32* word, u32 seen, u32 mask) {
#if GS_EXCLUSIVE
  *word = seen & ~mask; /* nobody else changes records while this kernel runs: the caller said so */
  return seen;
#else
  return atomicCAS(word, seen, seen & ~mask);
#endif
}

/* Where the records of masks, one a row, go: in flat order, that is by row, then by lane. A byte for each row. */
struct RowRanks {
  u32 before; /* this lane's records of the row */
  u32 all;    /* records of the row */
};

static __device__ __forceinline__ u32 in_row(u32 packed, int row) { return packed >> 8 * row & 0xffu; }

/* All lanes. */
static __device__ __forceinline__ RowRanks ranks_of(const u32* masks) {
  u32 n_packed = 0; /* at most 128 in a row */
#pragma unroll
  for (int row = 0; row < GS_ROWS; ++row) n_packed |= n_records(masks[row]) << 8 * row;
  const u32 up_to = sum_up_to_lane(n_packed);
  return {up_to - n_packed, __shfl_sync(GS_ALL_LANES, up_to, GS_LANES - 1)};
}

/* Take out of the masks what finds no place in the stage, and index it again: it stays READY. Records of unknown
 * targets are counted, too, although they are not staged: what the word is when it is taken may be of a known one. So
 * less than there is room for may be claimed, never more. All lanes. */
static __device__ __forceinline__ void leave_without_room(const Store& store, const Stage& stage, i64 first,
                                                          u32* masks) {
  const RowRanks ranks = ranks_of(masks);
  u32 before = stage.n_staged;
#pragma unroll
  for (int row = 0; row < GS_ROWS; ++row) {
    u32 place = before + in_row(ranks.before, row);
#pragma unroll
    for (int i = 0; i < GS_RECORDS_PER_WORD; ++i) {
      const u32 record = (u32)(0xffffffffull >> (32 - GS_RECORD_BITS)) << i * (GS_RECORD_BITS & 31);
      if (masks[row] & record && place++ >= stage.room) {
        masks[row] &= ~record;
        set_index(store, first + row * GS_ROW_PAGES + lane_id() * GS_RECORDS_PER_WORD + i);
      }
    }
    before += in_row(ranks.all, row);
  }
}

/* Stage records that were taken, the masks, out of words. All lanes. */
static __device__ __forceinline__ void stage_rows(const Store& store, Stage& stage, i64 first, const u32* words,
                                                  const u32* masks) {
  u32 known[GS_ROWS]; /* those whose target is no node's are in no group */
  u32 n_unknown = 0;
#pragma unroll
  for (int row = 0; row < GS_ROWS; ++row) {
    known[row] = target_of(store, words[row]) < store.n_targets ? masks[row] : 0;
    n_unknown += n_records(masks[row] ^ known[row]);
  }
  if (__any_sync(GS_ALL_LANES, n_unknown != 0)) {
    const u32 all = __shfl_sync(GS_ALL_LANES, sum_up_to_lane(n_unknown), GS_LANES - 1);
    if (lane_id() == 0) note_total(stage.added, GS_TOTAL_UNKNOWN, all);
  }
  const RowRanks ranks = ranks_of(known);
  const u32 offset = (u32)(first - stage.stretch_lo) + lane_id() * GS_RECORDS_PER_WORD;
  const u32 n_before = stage.n_staged;
#pragma unroll
  for (int row = 0; row < GS_ROWS; ++row) {
#if GS_HAS_NID
    count_by_target(stage, target_of(store, words[row]), known[row] != 0);
#endif
    u32 place = stage.n_staged + in_row(ranks.before, row);
#pragma unroll
    for (int i = 0; i < GS_RECORDS_PER_WORD; ++i) {
      if (known[row] >> i * (GS_RECORD_BITS & 31) & 1u) {
        stage.offsets[place] = offset + row * GS_ROW_PAGES + i;
        stage.words[place++] = (record_t)(words[row] >> i * (GS_RECORD_BITS & 31));
      }
    }
    stage.n_staged += in_row(ranks.all, row);
  }
#if !GS_HAS_NID
  if (lane_id() == 0 && stage.n_staged != n_before)
    atomicAdd(stage.histogram + store.fixed_target, stage.n_staged - n_before);
#endif
}

/* Claim what is READY of GS_ROWS_PAGES records from a page on, whose index bits were taken. All lanes. */
static __device__ __forceinline__ void claim_rows(const Store& store, Stage& stage, i64 first) {
  u32* const mine = (u32*)store.records + first / GS_RECORDS_PER_WORD + lane_id();
  u32 words[GS_ROWS], taken[GS_ROWS], seen[GS_ROWS];
#pragma unroll
  for (int row = 0; row < GS_ROWS; ++row) words[row] = __ldcg(mine + row * GS_LANES);
#pragma unroll
  for (int row = 0; row < GS_ROWS; ++row) taken[row] = ready_records(words[row]);
  if (stage.n_staged + GS_ROWS_PAGES > stage.room) leave_without_room(store, stage, first, taken);
#if GS_EXCLUSIVE
  __syncwarp(); /* other lanes read these records wide: now plain stores may follow */
#endif
#pragma unroll
  for (int row = 0; row < GS_ROWS; ++row)
    seen[row] = taken[row] ? take_word(mine + row * GS_LANES, words[row], taken[row]) : words[row];
  /* If somebody was faster, what is there now decides again, of what has its place. What became READY since is its
   * producer's to index: the bits were taken before. */
#pragma unroll
  for (int row = 0; row < GS_ROWS; ++row) {
    while (seen[row] != words[row]) {
      words[row] = seen[row];
      taken[row] &= ready_records(words[row]);
      if (taken[row]) seen[row] = take_word(mine + row * GS_LANES, words[row], taken[row]);
    }
  }
  stage_rows(store, stage, first, words, taken);
}
