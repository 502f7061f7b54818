/* scan_dense: read every record once, 16 bytes a load, 4 loads a lane; queue what is READY, and claim it when all
 * lanes have one: a claim is a look and an exchange, one after the other, and costs the same for one lane as for 32.
 *
 * One warp walks one stretch in order. Ready bits are cleared, not looked at, and only under set block bits: where
 * a producer marks a page just now, the record may be claimed here before its bits are set, which leaves bits
 * that say too much, never too little. */

#define GS_LOADS 4
#define GS_LOAD_PAGES (GS_LANES * GS_RECORDS_PER_LOAD) /* of one load of the warp: 512 bytes */
#define GS_TILE_PAGES (GS_LOADS * GS_LOAD_PAGES)
/* Loads whose candidates are queued before full warps are served, and the room that takes: 5.2 KiB a warp, with
 * records of 1 byte as with those of 4. */
#define GS_QUEUED_LOADS (GS_RECORD_BITS == 8 ? 2 : GS_LOADS)
#define GS_DENSE_QUEUE (GS_QUEUED_LOADS * GS_LOAD_PAGES + GS_LANES)
/* READY records of a lane in a tile from which on, in half of the lanes, they are claimed row by row: where that takes
 * fewer instructions than to queue them (docs/notes/cuda-machine-code.md). */
#define GS_ROWS_FROM (GS_RECORD_BITS == 8 ? 9 : 8)
#define GS_PAIRS_OF_BLOCK (GS_WORDS_PER_BLOCK / 2) /* of ready words, 16 bytes each */
#if GS_READY_MAX != 1
#error READY has one bit, which is all that is looked at here
#endif

/* Take the index bits of [lo, hi), inside one section; return which blocks were set. All lanes.
 *
 * Ready words are stored to, not exchanged: nobody here asks what they had, and what such a store overwrites is what an
 * exchange would have returned. So none is read from memory first, and none is waited for. */
static __device__ __forceinline__ u64 take_index(const Store& store, i64 lo, i64 hi) {
  const u64 blocks = blocks_between(lo, hi);
  u64* const word = store.block_bits + (lo >> GS_SECTION_SHIFT);
  u64 taken = 0;
  if (lane_id() == 0) {
    taken = __ldcg(word) & blocks;
    /* Other warps own other blocks of the word: an atomic whatever the claim mode. */
    if (taken) taken = atomicAnd(word, ~blocks) & blocks;
  }
  taken = __shfl_sync(GS_ALL_LANES, taken, 0);
  fence_warp(); /* block words before ready words */
  const i64 first_word = (lo >> GS_SECTION_SHIFT) << (GS_SECTION_SHIFT - 6);
  ulonglong2* pair = (ulonglong2*)(store.ready_bits + first_word) + lane_id();
  for (u64 mine = taken >> lane_id() / GS_PAIRS_OF_BLOCK; mine; mine >>= GS_LANES / GS_PAIRS_OF_BLOCK) {
    if (mine & 1ull) __stcg(pair, make_ulonglong2(0, 0));
    pair += GS_LANES;
  }
  fence_warp(); /* ready words before records */
  return taken;
}

/* READY of the records in 16 bytes, one bit each, the first in bit 0. */
static __device__ __forceinline__ u32 ready_of_load(const uint4& wide) {
#if GS_RECORD_BITS == 8
  const u32 parts[4] = {wide.x, wide.y, wide.z, wide.w};
  u32 ready = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    /* Bits 0, 8, 16, 24 to bits 24 to 27; no two of the 10 partial products share a place. */
    const u32 spread = parts[i] >> GS_READY_SHIFT & 0x01010101u;
    ready |= (spread * 0x01020408u >> 24 & 0xfu) << 4 * i;
  }
  return ready;
#else
  return (wide.x >> GS_READY_SHIFT & 1u) | (wide.y >> GS_READY_SHIFT & 1u) << 1 |
         (wide.z >> GS_READY_SHIFT & 1u) << 2 | (wide.w >> GS_READY_SHIFT & 1u) << 3;
#endif
}

/* READY of this lane's records of a tile, GS_RECORDS_PER_LOAD bits for each load in turn, 0 if no lane has one. A
 * hint, and read after the ready words were taken, so a page marked before that is seen. All lanes. */
static __device__ __forceinline__ u64 ready_of_tile(const Store& store, i64 tile, i64 end) {
  uint4 wide[GS_LOADS];
  /* No load waits for another, and none for a branch. */
#pragma unroll
  for (int load = 0; load < GS_LOADS; ++load) {
    i64 first = tile + load * GS_LOAD_PAGES;
#if GS_TILE_PAGES > GS_BLOCK_PAGES /* else a tile that begins before the end ends before it */
    first = min(first, end - GS_LOAD_PAGES);
#endif
    wide[load] = __ldcg((const uint4*)(store.records + first) + lane_id());
  }
  u32 any = 0;
#pragma unroll
  for (int load = 0; load < GS_LOADS; ++load)
    any |= wide[load].x | wide[load].y | wide[load].z | wide[load].w;
  if (!__any_sync(GS_ALL_LANES, any & GS_WIDE_READY)) return 0;
  u64 ready = 0;
#pragma unroll
  for (int load = 0; load < GS_LOADS; ++load) {
    const bool is_inside = GS_TILE_PAGES <= GS_BLOCK_PAGES || tile + load * GS_LOAD_PAGES < end;
    if (is_inside) ready |= (u64)ready_of_load(wide[load]) << load * GS_RECORDS_PER_LOAD;
  }
  return ready;
}

/* Queue the READY records of GS_QUEUED_LOADS loads, in flat order; first is the first one's offset from the
 * stretch's first page. All lanes. */
static __device__ __forceinline__ void queue_ready(u32* queue, u32* n_queued, u32 first, u64 ready) {
  const u32 records_of_load = (1u << GS_RECORDS_PER_LOAD) - 1u;
  /* Counts of up to 4 loads in one sum over the lanes. */
  u32 n_packed = 0;
  const int bits = 32 / GS_QUEUED_LOADS;
#pragma unroll
  for (int load = 0; load < GS_QUEUED_LOADS; ++load)
    n_packed |= (u32)__popc((u32)(ready >> load * GS_RECORDS_PER_LOAD) & records_of_load) << load * bits;
  const u32 up_to = sum_up_to_lane(n_packed);
  const u32 all = __shfl_sync(GS_ALL_LANES, up_to, GS_LANES - 1);
  const u32 before = up_to - n_packed;
  const u32 count = bits == 32 ? ~0u : (1u << bits % 32) - 1u;
  for (int load = 0; load < GS_QUEUED_LOADS; ++load) {
    u32 place = *n_queued + (before >> load * bits & count);
    const u32 record = first + load * GS_LOAD_PAGES + lane_id() * GS_RECORDS_PER_LOAD;
    for (u32 rest = (u32)(ready >> load * GS_RECORDS_PER_LOAD) & records_of_load; rest; rest &= rest - 1)
      queue[place++] = record + (u32)__ffs((int)rest) - 1u;
    *n_queued += all >> load * bits & count;
  }
  __syncwarp();
}

/* Whether half of the lanes have so much that is READY in a tile that it is claimed row by row. All lanes. */
static __device__ __forceinline__ bool is_crowded(u64 ready) {
  return __popc(__ballot_sync(GS_ALL_LANES, __popcll(ready) >= GS_ROWS_FROM)) >= GS_LANES / 2;
}

template <bool kBudget>
static __device__ __forceinline__ void scan_dense_stretch(const Store& store, const Cuts& cuts,
                                                          const u8* node_mask, i64 lo, i64 hi, u32* queue,
                                                          Stage& stage) {
  Claim<kBudget> claim = {store, cuts, stage};
  u32 n_queued = 0;
  i64 end = lo; /* of what the ready bits were taken of: this stretch's part of a section */
  i64 tile = lo;
  bool is_last = false;
  while (!is_last) {
    is_last = tile == hi;
    u64 ready = 0;
    if (!is_last) {
      if (tile == end) {
        end = min(hi, ((tile >> GS_SECTION_SHIFT) + 1) << GS_SECTION_SHIFT);
        const bool is_wanted = node_mask[store.section_nid[tile >> GS_SECTION_SHIFT]];
        const u64 taken = is_wanted ? take_index(store, tile, end) : 0;
        const u64 n_pages = is_wanted ? (u64)(end - tile) : 0;
        if (lane_id() == 0) {
          note_total(stage.added, GS_TOTAL_PAGES, n_pages);
          note_total(stage.added, GS_TOTAL_BYTES, 8 + 64ull * __popcll(taken) + n_pages * sizeof(record_t));
        }
        if (!is_wanted) {
          tile = end;
          continue;
        }
      }
      ready = ready_of_tile(store, tile, end);
    }
    u32 first = (u32)(tile - lo);
    const i64 tile_end = min(tile + GS_TILE_PAGES, end);
    const bool has_some = __any_sync(GS_ALL_LANES, ready != 0);
    const bool in_rows = !kBudget && has_some && is_crowded(ready);
    if (in_rows) ready = 0;
    /* What waits lies before the rows. And once more at the end: a second copy of the claim would cost registers. */
    const bool serves_all = is_last || in_rows;
    for (bool serves = in_rows ? n_queued != 0 : is_last || has_some; serves;
         serves = __any_sync(GS_ALL_LANES, ready != 0)) {
      queue_ready(queue, &n_queued, first, ready);
      serve_queue(queue, &n_queued, lo, serves_all, claim);
      ready >>= GS_QUEUED_LOADS * GS_RECORDS_PER_LOAD;
      first += GS_QUEUED_LOADS * GS_LOAD_PAGES;
    }
    if (in_rows) {
#pragma unroll 1 /* it is long */
      for (i64 row = tile; row < tile_end; row += GS_ROWS_PAGES) claim_rows(store, stage, row);
    }
    tile = tile_end;
  }
}

/* What a block does. All threads. */
template <bool kBudget>
static __device__ __forceinline__ void scan_dense_chunk(const Store& store, const Cuts& cuts, const u8* node_mask,
                                                        const i64* edges, i64 n_stretches, const i64* ends,
                                                        u32* staged_offsets, record_t* staged_words, i64* n_staged,
                                                        const Places& places, u64* totals) {
  __shared__ u32 histogram[GS_N_NODES_MAX];
  __shared__ u64 added[GS_N_ADDED * GS_WARPS];
  __shared__ u32 queues[GS_WARPS][GS_DENSE_QUEUE];
  const i64 stretch = stretch_id();
  open_chunk(histogram, added);
  if (stretch < n_stretches) {
    Stage stage = open_stage(edges, ends, stretch, staged_offsets, staged_words, histogram, added);
    scan_dense_stretch<kBudget>(store, cuts, node_mask, edges[stretch], edges[stretch + 1],
                                queues[threadIdx.x >> 5], stage);
    if (lane_id() == 0) n_staged[stretch] = stage.n_staged;
  }
  close_chunk(histogram, added, places, totals);
}

extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_SCAN_BLOCKS_PER_SM)
    scan_dense(record_t* records, u64* ready_bits, u64* block_bits, const int* section_nid, int fixed_target,
               u32 n_targets, const u8* node_mask, const i64* edges, i64 n_stretches, const i64* ends,
               u32* staged_offsets, record_t* staged_words, i64* n_staged, i64* chunk_places, i64* row_places,
               u32* n_done, i64* plan_offsets, u64* totals) {
  const Store store = walked_store(records, ready_bits, block_bits, 0, 0, section_nid, fixed_target, n_targets);
  const Cuts no_cuts = {};
  scan_dense_chunk<false>(store, no_cuts, node_mask, edges, n_stretches, ends, staged_offsets, staged_words, n_staged,
                          {n_targets, chunk_places, row_places, n_done, plan_offsets}, totals);
}

extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_BUDGET_BLOCKS_PER_SM)
    scan_dense_budget(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order,
                      int has_large_folios, const int* section_nid, int fixed_target, u32 n_targets,
                      const u8* node_mask, const i64* edges, i64 n_stretches, const i64* ends, u32* staged_offsets,
                      record_t* staged_words, i64* n_staged, i64* chunk_places, i64* row_places, u32* n_done,
                      i64* plan_offsets, u64* totals, u32 now, const int* cut_key, const i64* resume_flat,
                      const i64* stop_from, const i64* stop_below, u64* above_pages, u64* tie_pages_from,
                      u64* tie_pages_below) {
  const Store store = walked_store(records, ready_bits, block_bits, folio_order, has_large_folios, section_nid,
                                   fixed_target, n_targets);
  const Cuts cuts = {now,         cut_key,        resume_flat,    stop_from, stop_below,
                     above_pages, tie_pages_from, tie_pages_below};
  scan_dense_chunk<true>(store, cuts, node_mask, edges, n_stretches, ends, staged_offsets, staged_words, n_staged,
                         {n_targets, chunk_places, row_places, n_done, plan_offsets}, totals);
}
