/* scatter: staged claims to their target's place in the plan, flat order kept.
 *
 * One block per chunk, one warp per stretch. The block's place in every group is what the scan summed up; that of a
 * warp comes from what the warps before it staged; that of a lane, from the lanes below. */

#define GS_CLAIMS_AHEAD 4 /* of a lane, in flight at once */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    scatter(int fixed_target, u32 n_targets, const i64* edges, i64 n_stretches, const i64* ends,
            const u32* staged_offsets, const record_t* staged_words, const i64* n_staged, const i64* chunk_places,
            const i64* row_places, const i64* plan_offsets, i64* plan_flats, record_t* plan_words) {
  __shared__ u32 next[GS_WARPS][GS_N_NODES_MAX];
  __shared__ i64 places[GS_N_NODES_MAX]; /* of the chunk's first claim of a target */
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
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS)
    places[target] = plan_offsets[target] + chunk_places[(i64)blockIdx.x * n_targets + target] +
                     row_places[(i64)(blockIdx.x / GS_ROW_CHUNKS) * n_targets + target];
  __syncwarp();
  for (i64 base = lane_id(); base - lane_id() < n_mine; base += GS_CLAIMS_AHEAD * GS_LANES) {
    record_t words[GS_CLAIMS_AHEAD];
#pragma unroll
    for (int ahead = 0; ahead < GS_CLAIMS_AHEAD; ++ahead) {
      const i64 claim = base + ahead * GS_LANES;
      words[ahead] = claim < n_mine ? staged_words[first + claim] : 0;
    }
#pragma unroll
    for (int ahead = 0; ahead < GS_CLAIMS_AHEAD; ++ahead) {
      const bool has_claim = base + ahead * GS_LANES < n_mine;
      const u32 target = has_claim ? target_of(store, words[ahead]) : GS_N_NODES_MAX;
      const u32 peers = __match_any_sync(GS_ALL_LANES, target);
      if (has_claim && (peers & lanes_below()) == 0) next[warp][target] += (u32)__popc(peers);
      __syncwarp();
    }
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
  const i64 start = has_stretch ? edges[stretch] : 0;
  for (i64 base = lane_id(); base - lane_id() < n_mine; base += GS_CLAIMS_AHEAD * GS_LANES) {
    record_t words[GS_CLAIMS_AHEAD];
    u32 offsets[GS_CLAIMS_AHEAD];
#pragma unroll
    for (int ahead = 0; ahead < GS_CLAIMS_AHEAD; ++ahead) {
      const i64 claim = base + ahead * GS_LANES;
      words[ahead] = claim < n_mine ? staged_words[first + claim] : 0;
      offsets[ahead] = claim < n_mine ? staged_offsets[first + claim] : 0;
    }
#pragma unroll
    for (int ahead = 0; ahead < GS_CLAIMS_AHEAD; ++ahead) {
      const bool has_claim = base + ahead * GS_LANES < n_mine;
      const u32 target = has_claim ? target_of(store, words[ahead]) : GS_N_NODES_MAX;
      const u32 peers = __match_any_sync(GS_ALL_LANES, target);
      const u32 n_before = has_claim ? next[warp][target] : 0;
      __syncwarp();
      if (has_claim) {
        if ((peers & lanes_below()) == 0) next[warp][target] = n_before + (u32)__popc(peers);
        const i64 place = places[target] + n_before + (u32)__popc(peers & lanes_below());
        plan_flats[place] = start + offsets[ahead];
        plan_words[place] = words[ahead];
      }
      __syncwarp();
    }
  }
}
