/* group: where each chunk's claims of each target begin in the plan, and where each target's do. A prefix sum over
 * (target, chunk): every block sums up the targets' totals, then a warp has a target and sums up its chunks. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    group(u32 n_targets, i64 n_chunks, const u32* target_counts, const u64* target_totals, i64* places,
          i64* plan_offsets) {
  __shared__ i64 warp_sums[GS_WARPS];
  __shared__ i64 starts[GS_N_NODES_MAX];
  __shared__ i64 ended;
  if (threadIdx.x == 0) ended = 0;
  __syncthreads();
  for (u32 first = 0; first < n_targets; first += GS_THREADS) {
    const u32 target = first + threadIdx.x;
    const i64 n_claims = target < n_targets ? (i64)target_totals[target] : 0;
    const i64 up_to = ended + sum_up_to_thread(n_claims, warp_sums);
    if (target < n_targets) starts[target] = up_to - n_claims;
    if (target < n_targets && blockIdx.x == 0) plan_offsets[target + 1] = up_to;
    __syncthreads();
    if (threadIdx.x == GS_THREADS - 1) ended = up_to;
    __syncthreads();
  }
  if (threadIdx.x == 0 && blockIdx.x == 0) plan_offsets[0] = 0;
  const i64 target = stretch_id();
  if (target >= n_targets) return;
  i64 place = starts[target];
  for (i64 first = 0; first < n_chunks; first += GS_LANES) {
    const i64 column = target * n_chunks + first + lane_id();
    const u32 n_claims = first + lane_id() < n_chunks ? target_counts[column] : 0;
    const u64 up_to = sum_up_to_lane((u64)n_claims);
    if (first + lane_id() < n_chunks) places[column] = place + (i64)(up_to - n_claims);
    place += (i64)__shfl_sync(GS_ALL_LANES, up_to, GS_LANES - 1);
  }
}
