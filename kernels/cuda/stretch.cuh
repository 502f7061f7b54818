/* What the two scans share: a warp's stretch, its stage, and what it reports at the end. */

/* The stage of a stretch: its places are [ends[stretch - 1], ends[stretch]). */
static __device__ __forceinline__ Stage open_stage(const i64* edges, const i64* ends, i64 stretch, u32* offsets,
                                                   record_t* words, u32* histogram, u64* added) {
  const i64 first = stretch == 0 ? 0 : ends[stretch - 1];
  return {edges[stretch], offsets + first, words + first, 0, (u32)(ends[stretch] - first), histogram, added};
}

/* Set to 0 what the warps of a block count in. All threads. */
static __device__ __forceinline__ void open_chunk(u32* histogram, u64* added) {
  for (u32 target = threadIdx.x; target < GS_N_NODES_MAX; target += GS_THREADS) histogram[target] = 0;
  if (threadIdx.x < GS_N_ADDED * GS_WARPS) added[threadIdx.x] = 0;
  __syncthreads();
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

/* Threads that sum up the counts of a target together, each of them so many, which are in flight at once. */
#define GS_ADDERS 8
#define GS_ADDENDS (GS_ROW_CHUNKS / GS_ADDERS)

/* Of up to GS_ROW_CHUNKS counts that lie n_targets apart, write what is before each in its place; return the sum, in the
 * last of the target's threads. All lanes. */
static __device__ __forceinline__ i64 sum_up_counts(i64* counts, u32 n_counts, u32 n_targets) {
  const u32 adder = threadIdx.x % GS_ADDERS;
  i64* const mine = counts + (i64)(adder * GS_ADDENDS) * n_targets;
  i64 seen[GS_ADDENDS];
  i64 sum = 0;
#pragma unroll
  for (u32 i = 0; i < GS_ADDENDS; ++i) seen[i] = adder * GS_ADDENDS + i < n_counts ? __ldcg(mine + i * n_targets) : 0;
#pragma unroll
  for (u32 i = 0; i < GS_ADDENDS; ++i) sum += seen[i];
  i64 up_to = sum;
#pragma unroll
  for (u32 step = 1; step < GS_ADDERS; step <<= 1) {
    const i64 other = __shfl_up_sync(GS_ALL_LANES, up_to, step, GS_ADDERS);
    if (adder >= step) up_to += other;
  }
  i64 before = up_to - sum;
#pragma unroll
  for (u32 i = 0; i < GS_ADDENDS; ++i) {
    if (adder * GS_ADDENDS + i < n_counts) __stcg(mine + i * n_targets, before);
    before += seen[i];
  }
  return up_to;
}

/* Add what the warps of this block noted to the totals. All threads. */
static __device__ __forceinline__ void add_to_totals(const u64* added, u64* totals) {
  if (threadIdx.x >= GS_N_ADDED) return;
  u64 sum = 0;
#pragma unroll
  for (u32 warp = 0; warp < GS_WARPS; ++warp) sum += added[threadIdx.x * GS_WARPS + warp];
  if (sum) atomicAdd(totals + GS_TOTAL_PAGES + threadIdx.x, sum);
}

/* Report this block's claims by target and what it adds to the totals, and sum up: the last block of a row its chunks,
 * the last of all the rows. No block waits for another. All threads. */
static __device__ __forceinline__ void close_chunk(const u32* histogram, const u64* added, const Places& places,
                                                   u64* totals) {
  __shared__ i64 warp_sums[GS_WARPS];
  __shared__ i64 ended;
  const u32 n_targets = places.n_targets;
  __syncthreads();
  add_to_totals(added, totals);
#pragma unroll 1
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS)
    __stcg(places.of_chunk + (i64)blockIdx.x * n_targets + target, (i64)histogram[target]);
  const u32 row = blockIdx.x / GS_ROW_CHUNKS;
  const u32 n_rows = (gridDim.x + GS_ROW_CHUNKS - 1) / GS_ROW_CHUNKS;
  const u32 first_chunk = row * GS_ROW_CHUNKS;
  const u32 n_chunks = min((u32)GS_ROW_CHUNKS, gridDim.x - first_chunk);
  if (!is_last_block(places.n_done + 1 + row, n_chunks)) return;
  const bool is_last_adder = threadIdx.x % GS_ADDERS == GS_ADDERS - 1;
#pragma unroll 1
  for (u32 first = 0; first < n_targets; first += GS_THREADS / GS_ADDERS) {
    const u32 target = first + threadIdx.x / GS_ADDERS;
    i64* const counts = places.of_chunk + (i64)first_chunk * n_targets + target;
    const i64 n_claims = sum_up_counts(counts, target < n_targets ? n_chunks : 0, n_targets);
    if (target < n_targets && is_last_adder) __stcg(places.of_row + (i64)row * n_targets + target, n_claims);
  }
  if (!is_last_block(places.n_done, n_rows)) return;
  if (threadIdx.x == 0) ended = 0;
  __syncthreads();
#pragma unroll 1
  for (u32 first = 0; first < n_targets; first += GS_THREADS / GS_ADDERS) {
    const u32 target = first + threadIdx.x / GS_ADDERS;
    const i64 n_claims = sum_up_counts(places.of_row + target, target < n_targets ? n_rows : 0, n_targets);
    const i64 up_to = ended + sum_up_to_thread(is_last_adder ? n_claims : 0, warp_sums);
    if (target < n_targets && is_last_adder) places.plan_offsets[target + 1] = up_to;
    __syncthreads();
    if (threadIdx.x == GS_THREADS - 1) ended = up_to;
    __syncthreads();
  }
  if (threadIdx.x == 0) places.plan_offsets[0] = 0;
}
