/* scan_indexed: block bits, ready bits, then the records of candidates only. One warp walks one stretch. */

/* What a block does. All threads. */
template <bool kBudget>
static __device__ __forceinline__ void scan_indexed_chunk(const Store& store, const Cuts& cuts, const u8* node_mask,
                                                          const i64* edges, i64 n_stretches, const i64* ends,
                                                          u32* staged_offsets, record_t* staged_words, i64* n_staged,
                                                          const Places& places, u64* totals) {
  __shared__ u32 histogram[GS_N_NODES_MAX];
  __shared__ u64 added[GS_N_ADDED * GS_WARPS];
  __shared__ u32 queues[GS_WARPS][GS_WALK_QUEUE];
  const i64 stretch = stretch_id();
  open_chunk(histogram, added);
  if (stretch < n_stretches) {
    Stage stage = open_stage(edges, ends, stretch, staged_offsets, staged_words, histogram, added);
    Claim<kBudget> claim = {store, cuts, stage};
    walk_index<true, !kBudget>(store, node_mask, edges[stretch], edges[stretch + 1], queues[threadIdx.x >> 5], added,
                               claim);
    if (lane_id() == 0) n_staged[stretch] = stage.n_staged;
  }
  close_chunk(histogram, added, places, totals);
}

extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_SCAN_BLOCKS_PER_SM)
    scan_indexed(record_t* records, u64* ready_bits, u64* block_bits, const int* section_nid, int fixed_target,
                 u32 n_targets, const u8* node_mask, const i64* edges, i64 n_stretches, const i64* ends,
                 u32* staged_offsets, record_t* staged_words, i64* n_staged, i64* chunk_places, i64* row_places,
                 u32* n_done, i64* plan_offsets, u64* totals) {
  const Store store = walked_store(records, ready_bits, block_bits, 0, 0, section_nid, fixed_target, n_targets);
  const Cuts no_cuts = {};
  scan_indexed_chunk<false>(store, no_cuts, node_mask, edges, n_stretches, ends, staged_offsets, staged_words,
                            n_staged, {n_targets, chunk_places, row_places, n_done, plan_offsets}, totals);
}

extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_BUDGET_BLOCKS_PER_SM)
    scan_indexed_budget(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order,
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
  scan_indexed_chunk<true>(store, cuts, node_mask, edges, n_stretches, ends, staged_offsets, staged_words, n_staged,
                           {n_targets, chunk_places, row_places, n_done, plan_offsets}, totals);
}
