/* scatter: staged claims to their target's place in the plan, flat order kept.
 *
 * One block per chunk, one warp per stretch. The block's place in every group is what `group` summed up; that of a
 * warp comes from what the warps before it staged; that of a lane, from the lanes below. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    scatter(int fixed_target, u32 n_targets, const i64* edges, i64 n_stretches, const i64* ends,
            const u32* staged_offsets, const record_t* staged_words, const i64* n_staged,
            const i64* places, i64* plan_flats, record_t* plan_words) {
  __shared__ u32 next[GS_WARPS][GS_N_NODES_MAX];
  __shared__ int any_staged;
  Store store;
  store.fixed_target = fixed_target;
  store.n_targets = n_targets;
  const u32 warp = threadIdx.x >> 5;
  const i64 stretch = stretch_id();
  const bool has_stretch = stretch < n_stretches;
  const i64 n_mine = has_stretch ? n_staged[stretch] : 0;
  if (threadIdx.x == 0) any_staged = 0;
  __syncthreads();
  if (lane_id() == 0 && n_mine > 0) atomicOr(&any_staged, 1);
  __syncthreads();
  if (!any_staged) return;
  const i64 first = has_stretch && stretch > 0 ? ends[stretch - 1] : 0;
  for (u32 target = lane_id(); target < n_targets; target += GS_LANES) next[warp][target] = 0;
  __syncwarp();
  for (i64 base = 0; base < n_mine; base += GS_LANES) {
    const bool has_claim = base + lane_id() < n_mine;
    const u32 target = has_claim ? target_of(store, staged_words[first + base + lane_id()]) : GS_N_NODES_MAX;
    const u32 peers = __match_any_sync(GS_ALL_LANES, target);
    if (has_claim && (peers & lanes_below()) == 0) next[warp][target] += (u32)__popc(peers);
    __syncwarp();
  }
  __syncthreads();
  /* Counts per warp become each warp's first place inside the chunk's part of the group. */
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS) {
    u32 n_before = 0;
    for (u32 other = 0; other < GS_WARPS; ++other) {
      const u32 n_of_warp = next[other][target];
      next[other][target] = n_before;
      n_before += n_of_warp;
    }
  }
  __syncthreads();
  for (i64 base = 0; base < n_mine; base += GS_LANES) {
    const bool has_claim = base + lane_id() < n_mine;
    const i64 from = first + base + lane_id();
    const record_t word = has_claim ? staged_words[from] : 0;
    const u32 target = has_claim ? target_of(store, word) : GS_N_NODES_MAX;
    const u32 peers = __match_any_sync(GS_ALL_LANES, target);
    u32 place_in_chunk = 0;
    if (has_claim) place_in_chunk = next[warp][target] + (u32)__popc(peers & lanes_below());
    __syncwarp();
    if (has_claim) {
      if ((peers & lanes_below()) == 0) next[warp][target] += (u32)__popc(peers);
      const i64 column = (i64)target * gridDim.x + blockIdx.x;
      const i64 place = places[column] + place_in_chunk;
      plan_flats[place] = edges[stretch] + staged_offsets[from];
      plan_words[place] = word;
    }
    __syncwarp();
  }
}
