/* What the two scans share: a warp's stretch, its stage, and what it reports at the end. */

/* The stage of a stretch: its places are [ends[stretch - 1], ends[stretch]). */
static __device__ __forceinline__ Stage open_stage(const i64* edges, const i64* ends, i64 stretch,
                                                   u32* offsets,
                                                   record_t* words, u32* histogram) {
  const i64 first = stretch == 0 ? 0 : ends[stretch - 1];
  return {edges[stretch], offsets + first, words + first, 0, ends[stretch] - first, 0, histogram};
}

static __device__ __forceinline__ void clear_histogram(u32* histogram) {
  for (u32 target = threadIdx.x; target < GS_N_NODES_MAX; target += GS_THREADS) histogram[target] = 0;
  __syncthreads();
}

/* Report one warp's claims and reads. */
static __device__ __forceinline__ void close_stage(const Stage& stage, i64 stretch, u64 n_pages, u64 n_bytes,
                                                   i64* n_staged, u64* totals) {
  if (lane_id() != 0) return;
  n_staged[stretch] = stage.n_staged;
  atomicAdd(totals + GS_TOTAL_PAGES, n_pages);
  atomicAdd(totals + GS_TOTAL_BYTES, n_bytes + n_pages * sizeof(record_t));
  if (stage.n_unknown) atomicAdd(totals + GS_TOTAL_UNKNOWN, (u64)stage.n_unknown);
}

/* Set to 0 what a scan counts in, where it is told how much it claims of each target and reads. All threads. */
static __device__ __forceinline__ void clear_scan_totals(u32 n_targets, u64* target_totals, u64* totals) {
  if (blockIdx.x != 0) return;
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS) target_totals[target] = 0;
  if (threadIdx.x == 0) {
    totals[GS_TOTAL_PAGES] = 0;
    totals[GS_TOTAL_BYTES] = 0;
    totals[GS_TOTAL_UNKNOWN] = 0;
  }
}

/* Write this block's column of counts, u32[n_targets][n_chunks], and add it to the scan's. All threads. */
static __device__ __forceinline__ void write_histogram(const u32* histogram, u32 n_targets, u32* counts,
                                                       u64* target_totals) {
  __syncthreads();
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS) {
    counts[(i64)target * gridDim.x + blockIdx.x] = histogram[target];
    if (histogram[target]) atomicAdd(target_totals + target, (u64)histogram[target]);
  }
}
