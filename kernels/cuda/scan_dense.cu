/* scan_dense: read every record once, 16 bytes a load, 4 loads a lane; claim what is READY.
 *
 * One warp walks one stretch in order. Ready bits are taken, not looked at, and only under set block bits: where
 * a producer marks a page just now, the record may be claimed here before its bits are set, which leaves bits
 * that say too much, never too little. */

#define GS_LOADS 4
#define GS_LOAD_PAGES (GS_LANES * GS_RECORDS_PER_LOAD) /* of one load of the warp: 512 bytes */
#define GS_TILE_PAGES (GS_LOADS * GS_LOAD_PAGES)
#define GS_STEPS (GS_LOAD_PAGES / GS_LANES) /* claims of 32 records in one load */

/* Take the index bits of [lo, hi), inside one section; return how many blocks were set. All lanes. */
static __device__ __forceinline__ u32 take_index(const Store& store, i64 lo, i64 hi) {
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
  for (i64 index = (lo >> 6) + lane_id(); taken && index < hi >> 6; index += GS_LANES) {
    const bool is_taken = taken >> ((index / GS_WORDS_PER_BLOCK) & 63) & 1ull;
    const u64 seen = is_taken ? __ldcg(store.ready_bits + index) : 0;
    if (seen) take_ready_word(store, index, seen);
  }
  fence_warp(); /* ready words before records */
  return (u32)__popcll(taken);
}

/* Which steps of 32 records of a tile have READY ones: bit s is for records 32 s to 32 s + 31. A hint, and
 * read after the ready words were taken, so a page marked before that is seen. All lanes. */
static __device__ __forceinline__ u64 steps_of_tile(const Store& store, i64 tile, i64 end) {
  u32 hits[GS_LOADS];
  u32 any = 0;
#pragma unroll
  for (int load = 0; load < GS_LOADS; ++load) {
    const i64 first = tile + load * GS_LOAD_PAGES;
    hits[load] = 0;
    if (first < end) {
      const uint4 wide = __ldcg((const uint4*)(store.records + first) + lane_id());
      hits[load] = (wide.x | wide.y | wide.z | wide.w) & GS_WIDE_READY;
    }
    any |= hits[load];
  }
  if (!__any_sync(GS_ALL_LANES, any)) return 0;
  const u32 lanes_per_step = GS_LANES / GS_STEPS;
  const u32 lanes_of_step = (1u << lanes_per_step) - 1u;
  u64 steps = 0;
#pragma unroll
  for (int load = 0; load < GS_LOADS; ++load) {
    const u32 lanes = __ballot_sync(GS_ALL_LANES, hits[load]);
#pragma unroll
    for (int step = 0; step < GS_STEPS; ++step) {
      if (lanes >> (step * lanes_per_step) & lanes_of_step) steps |= 1ull << (load * GS_STEPS + step);
    }
  }
  return steps;
}

template <bool kBudget>
static __device__ __forceinline__ void scan_dense_stretch(const Store& store, const Cuts& cuts,
                                                          const u8* node_mask, i64 lo, i64 hi, Stage& stage,
                                                          u64* n_pages, u64* n_bytes) {
  i64 end = lo; /* of what the ready bits were taken of: this stretch's part of a section */
  for (i64 tile = lo; tile < hi; tile = min(tile + GS_TILE_PAGES, end)) {
    if (tile == end) {
      end = min(hi, ((tile >> GS_SECTION_SHIFT) + 1) << GS_SECTION_SHIFT);
      *n_bytes += 8;
      if (!node_mask[store.section_nid[tile >> GS_SECTION_SHIFT]]) {
        tile = end;
        continue;
      }
      *n_pages += (u64)(end - tile);
      *n_bytes += 64ull * take_index(store, tile, end);
    }
    for (u64 steps = steps_of_tile(store, tile, end); steps; steps &= steps - 1)
      claim_candidates<kBudget>(store, cuts, stage, tile + (__ffsll((i64)steps) - 1) * GS_LANES + lane_id(),
                                true);
  }
}

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    scan_dense(record_t* records, u64* ready_bits, u64* block_bits, const int* section_nid, int fixed_target,
               u32 n_targets, const u8* node_mask, const i64* edges, i64 n_stretches, const i64* ends,
               u32* staged_offsets, record_t* staged_words, i64* n_staged, u32* target_counts, u64* totals) {
  __shared__ u32 histogram[GS_N_NODES_MAX];
  Store store;
  store.records = records;
  store.ready_bits = ready_bits;
  store.block_bits = block_bits;
  store.section_nid = section_nid;
  store.fixed_target = fixed_target;
  store.n_targets = n_targets;
  const Cuts no_cuts = {};
  const i64 stretch = stretch_id();
  clear_histogram(histogram);
  if (stretch < n_stretches) {
    u64 n_pages = 0;
    u64 n_bytes = 0;
    Stage stage = open_stage(edges, ends, stretch, staged_offsets, staged_words, histogram);
    scan_dense_stretch<false>(store, no_cuts, node_mask, edges[stretch], edges[stretch + 1], stage, &n_pages,
                              &n_bytes);
    close_stage(stage, stretch, n_pages, n_bytes, n_staged, totals);
  }
  write_histogram(histogram, n_targets, target_counts);
}

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    scan_dense_budget(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order,
                      int has_large_folios,
                      const int* section_nid, int fixed_target, u32 n_targets, const u8* node_mask,
                      const i64* edges, i64 n_stretches, const i64* ends, u32* staged_offsets,
                      record_t* staged_words, i64* n_staged, u32* target_counts, u64* totals, u32 now,
                      const int* cut_key, const i64* resume_flat, u64* above_pages, u64* tie_pages_from,
                      u64* tie_pages_below) {
  __shared__ u32 histogram[GS_N_NODES_MAX];
  Store store;
  store.records = records;
  store.ready_bits = ready_bits;
  store.block_bits = block_bits;
  store.folio_order = folio_order;
  store.has_large_folios = has_large_folios;
  store.section_nid = section_nid;
  store.fixed_target = fixed_target;
  store.n_targets = n_targets;
  const i64 stretch = stretch_id();
  clear_histogram(histogram);
  if (stretch < n_stretches) {
    u64 n_pages = 0;
    u64 n_bytes = 0;
    Stage stage = open_stage(edges, ends, stretch, staged_offsets, staged_words, histogram);
    const Cuts cuts = cuts_of_stretch(now, cut_key, resume_flat, above_pages, tie_pages_from, tie_pages_below,
                                      stretch, n_targets);
    scan_dense_stretch<true>(store, cuts, node_mask, edges[stretch], edges[stretch + 1], stage, &n_pages,
                             &n_bytes);
    close_stage(stage, stretch, n_pages, n_bytes, n_staged, totals);
  }
  write_histogram(histogram, n_targets, target_counts);
}
