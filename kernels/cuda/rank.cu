/* rank: how many READY base pages each target has per hotness key, then per stretch above and at the cut-off;
 * read through the index, which stays as it is. One warp per stretch. */

/* Add a folio's pages to a counter. Lanes with one counter add once, if all add 1. All lanes. */
static __device__ __forceinline__ void add_pages(const Store& store, u64* counter, u32 n_pages) {
  if (store.has_large_folios) {
    if (counter) atomicAdd(counter, (u64)n_pages);
    return;
  }
  const u32 peers = __match_any_sync(GS_ALL_LANES, (u64)counter);
  if (counter && (peers & lanes_below()) == 0) atomicAdd(counter, (u64)__popc(peers) * n_pages);
}

struct CountKeys {
  const Store& store;
  u32 now;
  u64* pages_of_key; /* u64[n_targets][GS_N_KEYS] */
  __device__ __forceinline__ void operator()(i64 flat, bool is_candidate) {
    const u32 word = is_candidate ? load_record(store, flat) : 0;
    const u32 target = target_of(store, word);
    const bool counts = is_ready(word) && target < store.n_targets;
    u64* const counter = counts ? pages_of_key + (i64)target * GS_N_KEYS + hotness_key(word, now) : 0;
    add_pages(store, counter, counts ? (u32)folio_pages(store, flat) : 0);
  }
};

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    rank(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order, int has_large_folios,
         const int* section_nid,
         int fixed_target, u32 n_targets, const u8* node_mask, const i64* edges, i64 n_stretches, u32 now,
         u64* pages_of_key) {
  __shared__ u32 queues[GS_WARPS][GS_WALK_QUEUE];
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
  if (stretch >= n_stretches) return;
  u64 n_pages = 0;
  u64 n_bytes = 0;
  CountKeys count = {store, now, pages_of_key};
  walk_index<false, true>(store, node_mask, edges[stretch], edges[stretch + 1], queues[threadIdx.x >> 5], &n_pages,
                    &n_bytes, count);
}

struct CountSides {
  const Store& store;
  const Cuts& cuts;
  __device__ __forceinline__ void operator()(i64 flat, bool is_candidate) {
    const u32 word = is_candidate ? load_record(store, flat) : 0;
    bool may_claim;
    bool is_tie;
    u64* counter = 0;
    const u32 target = target_of(store, word);
    if (is_ready(word)) counter = quota_of(store, cuts, flat, word, target, &may_claim, &is_tie);
    add_pages(store, counter, counter ? (u32)folio_pages(store, flat) : 0);
  }
};

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    rank_stretches(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order,
                   int has_large_folios,
                   const int* section_nid, int fixed_target, u32 n_targets, const u8* node_mask,
                   const i64* edges, i64 n_stretches, u32 now, const int* cut_key, const i64* resume_flat,
                   u64* above_pages, u64* tie_pages_from, u64* tie_pages_below) {
  __shared__ u32 queues[GS_WARPS][GS_WALK_QUEUE];
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
  if (stretch >= n_stretches) return;
  u64 n_pages = 0;
  u64 n_bytes = 0;
  const Cuts cuts = cuts_of_stretch(now, cut_key, resume_flat, above_pages, tie_pages_from, tie_pages_below,
                                    stretch, n_targets);
  CountSides count = {store, cuts};
  walk_index<false, true>(store, node_mask, edges[stretch], edges[stretch + 1], queues[threadIdx.x >> 5], &n_pages,
                    &n_bytes, count);
}
