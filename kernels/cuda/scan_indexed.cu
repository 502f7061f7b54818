/* scan_indexed: block bits, ready bits, then the records of candidates only. One warp walks one stretch. */

extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_BLOCKS_PER_SM)
    scan_indexed(record_t* records, u64* ready_bits, u64* block_bits, const int* section_nid,
                 int fixed_target,
                 u32 n_targets, const u8* node_mask, const i64* edges, i64 n_stretches, const i64* ends,
                 u32* staged_offsets, record_t* staged_words, i64* n_staged, u32* target_counts, u64* target_totals,
               u64* totals) {
  __shared__ u32 histogram[GS_N_NODES_MAX];
  __shared__ u32 queues[GS_WARPS][GS_WALK_QUEUE];
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
    Claim<false> claim = {store, no_cuts, stage};
    walk_index<true, true>(store, node_mask, edges[stretch], edges[stretch + 1], queues[threadIdx.x >> 5], &n_pages,
                     &n_bytes, claim);
    close_stage(stage, stretch, n_pages, n_bytes, n_staged, totals);
  }
  write_histogram(histogram, n_targets, target_counts, target_totals);
}

extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_BLOCKS_PER_SM)
    scan_indexed_budget(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order,
                        int has_large_folios,
                        const int* section_nid, int fixed_target, u32 n_targets, const u8* node_mask,
                        const i64* edges, i64 n_stretches, const i64* ends, u32* staged_offsets,
                        record_t* staged_words, i64* n_staged, u32* target_counts, u64* target_totals,
               u64* totals, u32 now,
                        const int* cut_key, const i64* resume_flat, const i64* stop_from, const i64* stop_below,
                        u64* above_pages, u64* tie_pages_from, u64* tie_pages_below) {
  __shared__ u32 histogram[GS_N_NODES_MAX];
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
  clear_histogram(histogram);
  if (stretch < n_stretches) {
    u64 n_pages = 0;
    u64 n_bytes = 0;
    Stage stage = open_stage(edges, ends, stretch, staged_offsets, staged_words, histogram);
    const Cuts cuts = {now, cut_key, resume_flat, stop_from, stop_below, above_pages, tie_pages_from,
                       tie_pages_below};
    Claim<true> claim = {store, cuts, stage};
    walk_index<true, false>(store, node_mask, edges[stretch], edges[stretch + 1], queues[threadIdx.x >> 5], &n_pages,
                     &n_bytes, claim);
    close_stage(stage, stretch, n_pages, n_bytes, n_staged, totals);
  }
  write_histogram(histogram, n_targets, target_counts, target_totals);
}
