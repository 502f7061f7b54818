/* rank: how many READY base pages each target has per hotness key; rank_ties: how many at its cut-off, by stretch, where
 * not all of them fit; count_claims: how many folios of a stretch a budget lets claim. All of them read through the
 * index, which stays as it is. One warp per stretch. */

/* A block's counts, until it adds them to those of all: a hash table of counters by their number. */
#define GS_SLOTS_SHIFT 10
#define GS_SLOTS (1 << GS_SLOTS_SHIFT)
#define GS_NO_COUNTER 0xffffffffu
#define GS_LOOKS_FOR_SLOT 4 /* then the page is added to those of all at once */
#define GS_FLUSHED_FROM 0x80000000u /* 32 lanes add less than that, so no count wraps around */

struct BlockCounts {
  u32* numbers; /* u32[GS_SLOTS] each, in shared memory */
  u32* counts;
  u64* all;
};

static __device__ __forceinline__ void open_block_counts(const BlockCounts& block) {
  for (u32 slot = threadIdx.x; slot < GS_SLOTS; slot += GS_THREADS) {
    block.numbers[slot] = GS_NO_COUNTER;
    block.counts[slot] = 0;
  }
  __syncthreads();
}

static __device__ __forceinline__ void add_to_counter(const BlockCounts& block, u32 number, u32 n) {
  u32 slot = number * 2654435761u >> (32 - GS_SLOTS_SHIFT);
  for (int look = 0; look < GS_LOOKS_FOR_SLOT; ++look) {
    const u32 has = atomicCAS(block.numbers + slot, GS_NO_COUNTER, number);
    if (has == GS_NO_COUNTER || has == number) {
      if (atomicAdd(block.counts + slot, n) + n >= GS_FLUSHED_FROM)
        atomicAdd(block.all + number, (u64)atomicExch(block.counts + slot, 0u));
      return;
    }
    slot = (slot + 1) & (GS_SLOTS - 1);
  }
  atomicAdd(block.all + number, (u64)n);
}

/* All threads. */
static __device__ __forceinline__ void close_block_counts(const BlockCounts& block) {
  __syncthreads();
  for (u32 slot = threadIdx.x; slot < GS_SLOTS; slot += GS_THREADS) {
    if (block.counts[slot]) atomicAdd(block.all + block.numbers[slot], (u64)block.counts[slot]);
  }
}

struct CountKeys {
  const Store& store;
  u32 now;
  const BlockCounts& block;
  __device__ __forceinline__ void operator()(i64 flat, bool is_candidate) {
    const u32 word = is_candidate ? load_record(store, flat) : 0;
    const u32 target = target_of(store, word);
    const bool counts = is_ready(word) && target < store.n_targets;
    const u32 number = counts ? target * GS_N_KEYS + hotness_key(word, now) : GS_NO_COUNTER;
    if (store.has_large_folios) {
      if (counts) add_to_counter(block, number, (u32)folio_pages(store, flat));
      return;
    }
    const u32 peers = __match_any_sync(GS_ALL_LANES, number);
    if (counts && (peers & lanes_below()) == 0) add_to_counter(block, number, (u32)__popc(peers));
  }
};

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    rank(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order, int has_large_folios,
         const int* section_nid, int fixed_target, u32 n_targets, const u8* node_mask, const i64* edges,
         i64 n_stretches, u32 now, u64* pages_of_key) {
  __shared__ u32 queues[GS_WARPS][GS_WALK_QUEUE];
  __shared__ u32 numbers[GS_SLOTS];
  __shared__ u32 counts[GS_SLOTS];
  const Store store = walked_store(records, ready_bits, block_bits, folio_order, has_large_folios, section_nid,
                                   fixed_target, n_targets);
  const BlockCounts block = {numbers, counts, pages_of_key};
  open_block_counts(block);
  const i64 stretch = stretch_id();
  if (stretch < n_stretches) {
    CountKeys count = {store, now, block};
    walk_index<false, true>(store, node_mask, edges[stretch], edges[stretch + 1], queues[threadIdx.x >> 5], 0, count);
  }
  close_block_counts(block);
}

struct CountTies {
  const Store& store;
  const Cuts& cuts;
  i64 stretch;
  i64 n_stretches;
  i64 end; /* of the stretch */
  u32* ties;
  u32* wrapped_ties;
  __device__ __forceinline__ void operator()(i64 flat, bool is_candidate) {
    const u32 word = is_candidate ? load_record(store, flat) : 0;
    const u32 target = target_of(store, word);
    u32* counter = 0;
    if (is_ready(word) && target < store.n_targets && is_tie(cuts, word, target) &&
        (cuts.tie_pages_from[target] | cuts.tie_pages_below[target])) {
      const i64 resume = cuts.resume_flat[target];
      counter = flat < resume && resume < end ? wrapped_ties + target : ties + (i64)target * n_stretches + stretch;
    }
    if (store.has_large_folios) {
      if (counter) atomicAdd(counter, (u32)folio_pages(store, flat));
      return;
    }
    const u32 peers = __match_any_sync(GS_ALL_LANES, (u64)counter);
    if (counter && (peers & lanes_below()) == 0) atomicAdd(counter, (u32)__popc(peers));
  }
};

/* ties is u32[n_targets][n_stretches]; in the stretch that resume_flat lies in, those below it are in wrapped_ties,
 * u32[n_targets]. Both are 0 before. */
extern "C" __global__ void __launch_bounds__(GS_THREADS)
    rank_ties(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order, int has_large_folios,
              const int* section_nid, int fixed_target, u32 n_targets, const u8* node_mask, const i64* edges,
              i64 n_stretches, u32 now, const int* cut_key, const i64* resume_flat, u64* tie_pages_from,
              u64* tie_pages_below, u32* ties, u32* wrapped_ties) {
  __shared__ u32 queues[GS_WARPS][GS_WALK_QUEUE];
  __shared__ int any_cut;
  if (threadIdx.x == 0) any_cut = 0;
  __syncthreads();
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS) {
    if (tie_pages_from[target] | tie_pages_below[target]) atomicOr(&any_cut, 1);
  }
  __syncthreads();
  const i64 stretch = stretch_id();
  if (!any_cut || stretch >= n_stretches) return;
  const Store store = walked_store(records, ready_bits, block_bits, folio_order, has_large_folios, section_nid,
                                   fixed_target, n_targets);
  const Cuts cuts = {now, cut_key, resume_flat, 0, 0, 0, tie_pages_from, tie_pages_below};
  CountTies count = {store, cuts, stretch, n_stretches, edges[stretch + 1], ties, wrapped_ties};
  walk_index<false, true>(store, node_mask, edges[stretch], edges[stretch + 1], queues[threadIdx.x >> 5], 0, count);
}

struct CountClaims {
  const Store& store;
  const Cuts& cuts;
  u32 n_claims;
  __device__ __forceinline__ void operator()(i64 flat, bool is_candidate) {
    const u32 word = is_candidate ? load_record(store, flat) : 0;
    const u32 target = target_of(store, word);
    bool may_claim = is_ready(word) && target < store.n_targets;
    if (may_claim) quota_of(store, cuts, flat, word, target, &may_claim);
    n_claims += (u32)__popc(__ballot_sync(GS_ALL_LANES, may_claim));
  }
};

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    count_claims(record_t* records, u64* ready_bits, u64* block_bits, const int* section_nid, int fixed_target,
                 u32 n_targets, const u8* node_mask, const i64* edges, i64 n_stretches, u32 now, const int* cut_key,
                 const i64* resume_flat, const i64* stop_from, const i64* stop_below, i64* most_claims) {
  __shared__ u32 queues[GS_WARPS][GS_WALK_QUEUE];
  const Store store = walked_store(records, ready_bits, block_bits, 0, 0, section_nid, fixed_target, n_targets);
  const i64 stretch = stretch_id();
  if (stretch >= n_stretches) return;
  const Cuts cuts = {now, cut_key, resume_flat, stop_from, stop_below, 0, 0, 0};
  CountClaims count = {store, cuts, 0};
  walk_index<false, true>(store, node_mask, edges[stretch], edges[stretch + 1], queues[threadIdx.x >> 5], 0, count);
  if (lane_id() == 0) most_claims[stretch] = count.n_claims;
}
