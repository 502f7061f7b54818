/* What the two scans share: a warp's stretch, its stage, and what it reports at the end. */

/* The stage of a stretch: its places are [ends[stretch - 1], ends[stretch]). */
static __device__ __forceinline__ Stage open_stage(const i64* edges, const i64* ends, i64 stretch,
                                                   u32* offsets,
                                                   record_t* words, u32* histogram) {
  const i64 first = stretch == 0 ? 0 : ends[stretch - 1];
  return {edges[stretch], offsets + first, words + first, 0, (u32)(ends[stretch] - first), 0, histogram};
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

/* Set to 0 what a scan counts in. All threads. */
static __device__ __forceinline__ void clear_scan_totals(u64* totals) {
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  totals[GS_TOTAL_PAGES] = 0;
  totals[GS_TOTAL_BYTES] = 0;
  totals[GS_TOTAL_UNKNOWN] = 0;
}

/* Where claims go in the plan: those that a chunk has of a target begin at the target's offset and, from there, at the
 * place of the chunk's row and its own in the row. Before they are summed up these are the claims of each. */
struct Places {
  u32 n_targets;
  i64* of_chunk; /* [n_chunks][n_targets] */
  i64* of_row;   /* [n_rows][n_targets], GS_ROW_CHUNKS chunks are one */
  u32* n_done;   /* of all blocks, then of each row's; 0 before and afterwards */
  i64* plan_offsets;
};

#define GS_ADDENDS 8 /* that a thread has in flight */

/* Of up to GS_ROW_CHUNKS counts that lie n_targets apart, write what is before each in its place; return the sum. */
static __device__ __forceinline__ i64 sum_up_counts(i64* counts, u32 n_counts, u32 n_targets) {
  i64 before = 0;
#pragma unroll 1
  for (u32 first = 0; first < n_counts; first += GS_ADDENDS) {
    i64 seen[GS_ADDENDS];
#pragma unroll
    for (u32 i = 0; i < GS_ADDENDS; ++i)
      seen[i] = first + i < n_counts ? __ldcg(counts + (first + i) * n_targets) : 0;
#pragma unroll
    for (u32 i = 0; i < GS_ADDENDS; ++i) {
      if (first + i < n_counts) __stcg(counts + (first + i) * n_targets, before);
      before += seen[i];
    }
  }
  return before;
}

/* Write this block's claims by target, and sum up: the last block of a row its chunks, the last of all the rows. No
 * block waits for another. All threads. */
static __device__ __forceinline__ void sum_up_places(const u32* histogram, const Places& places) {
  __shared__ i64 warp_sums[GS_WARPS];
  __shared__ i64 ended;
  const u32 n_targets = places.n_targets;
  __syncthreads();
#pragma unroll 1
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS)
    __stcg(places.of_chunk + (i64)blockIdx.x * n_targets + target, (i64)histogram[target]);
  const u32 row = blockIdx.x / GS_ROW_CHUNKS;
  const u32 n_rows = (gridDim.x + GS_ROW_CHUNKS - 1) / GS_ROW_CHUNKS;
  const u32 first_chunk = row * GS_ROW_CHUNKS;
  const u32 n_chunks = min((u32)GS_ROW_CHUNKS, gridDim.x - first_chunk);
  if (!is_last_block(places.n_done + 1 + row, n_chunks)) return;
#pragma unroll 1
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS) {
    i64* const counts = places.of_chunk + (i64)first_chunk * n_targets + target;
    __stcg(places.of_row + (i64)row * n_targets + target, sum_up_counts(counts, n_chunks, n_targets));
  }
  if (!is_last_block(places.n_done, n_rows)) return;
  if (threadIdx.x == 0) ended = 0;
  __syncthreads();
#pragma unroll 1
  for (u32 first = 0; first < n_targets; first += GS_THREADS) {
    const u32 target = first + threadIdx.x;
    const i64 n_claims = target < n_targets ? sum_up_counts(places.of_row + target, n_rows, n_targets) : 0;
    const i64 up_to = ended + sum_up_to_thread(n_claims, warp_sums);
    if (target < n_targets) places.plan_offsets[target + 1] = up_to;
    __syncthreads();
    if (threadIdx.x == GS_THREADS - 1) ended = up_to;
    __syncthreads();
  }
  if (threadIdx.x == 0) places.plan_offsets[0] = 0;
}
