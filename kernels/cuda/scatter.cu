/* scatter: staged claims to their target's place in the plan, flat order kept.
 *
 * One block per chunk, one warp per stretch. The block's place in every group is what the scan summed up; that of a
 * warp comes from what the warps before it staged; that of a lane, from the lanes below. */

#define GS_CLAIMS_AHEAD 4 /* of a lane, in flight at once */
#define GS_CLAIMS_AT_ONCE (GS_CLAIMS_AHEAD * GS_LANES)

/* This lane's claims of GS_CLAIMS_AT_ONCE of a stretch: number base, base + GS_LANES and so on. */
struct Ahead {
  record_t words[GS_CLAIMS_AHEAD];
  u32 offsets[GS_CLAIMS_AHEAD];
};

static __device__ __forceinline__ void load_ahead(const record_t* words, const u32* offsets, u32 base, u32 n_mine,
                                                  Ahead* ahead) {
#pragma unroll
  for (int i = 0; i < GS_CLAIMS_AHEAD; ++i) {
    const u32 claim = base + i * GS_LANES;
    ahead->words[i] = claim < n_mine ? words[claim] : 0;
    ahead->offsets[i] = claim < n_mine ? offsets[claim] : 0;
  }
}

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    scatter(int fixed_target, u32 n_targets, const i64* edges, i64 n_stretches, const i64* ends,
            const u32* staged_offsets, const record_t* staged_words, const i64* n_staged, const i64* chunk_places,
            const i64* row_places, const i64* plan_offsets, i64* plan_flats, record_t* plan_words) {
  __shared__ u32 next[GS_WARPS][GS_N_NODES_MAX];
  __shared__ i64 places[GS_N_NODES_MAX]; /* of the chunk's first claim of a target */
  __shared__ int any_staged;
  Store store;
  store.fixed_target = fixed_target;
  const u32 warp = threadIdx.x >> 5;
  const i64 stretch = stretch_id();
  const bool has_stretch = stretch < n_stretches;
  const u32 n_mine = has_stretch ? (u32)n_staged[stretch] : 0; /* of fewer than 2^32 pages */
  if (threadIdx.x == 0) any_staged = 0;
  __syncthreads();
  if (lane_id() == 0 && n_mine > 0) atomicOr(&any_staged, 1);
  __syncthreads();
  if (!any_staged) return;
  const i64 first = has_stretch && stretch > 0 ? ends[stretch - 1] : 0;
  const record_t* const words = staged_words + first;
  const u32* const offsets = staged_offsets + first;
  /* The first of them are kept until they are placed: in most stretches there are no others. */
  Ahead kept;
  load_ahead(words, offsets, lane_id(), n_mine, &kept);
  for (u32 target = lane_id(); target < n_targets; target += GS_LANES) next[warp][target] = 0;
  for (u32 target = threadIdx.x; target < n_targets; target += GS_THREADS)
    places[target] = plan_offsets[target] + chunk_places[(i64)blockIdx.x * n_targets + target] +
                     row_places[(i64)(blockIdx.x / GS_ROW_CHUNKS) * n_targets + target];
  __syncwarp();
  for (u32 begin = 0; begin < n_mine; begin += GS_CLAIMS_AT_ONCE) {
    Ahead ahead = kept;
    if (begin > 0) load_ahead(words, offsets, begin + lane_id(), n_mine, &ahead);
#pragma unroll
    for (int i = 0; i < GS_CLAIMS_AHEAD; ++i) {
      if (begin + i * GS_LANES >= n_mine) break; /* all lanes */
      const bool has_claim = begin + i * GS_LANES + lane_id() < n_mine;
      const u32 target = has_claim ? target_of(store, ahead.words[i]) : GS_N_NODES_MAX;
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
  for (u32 begin = 0; begin < n_mine; begin += GS_CLAIMS_AT_ONCE) {
    Ahead ahead = kept;
    if (begin > 0) load_ahead(words, offsets, begin + lane_id(), n_mine, &ahead);
#pragma unroll
    for (int i = 0; i < GS_CLAIMS_AHEAD; ++i) {
      if (begin + i * GS_LANES >= n_mine) break; /* all lanes */
      const bool has_claim = begin + i * GS_LANES + lane_id() < n_mine;
      const u32 target = has_claim ? target_of(store, ahead.words[i]) : GS_N_NODES_MAX;
      const u32 peers = __match_any_sync(GS_ALL_LANES, target);
      const u32 n_before = has_claim ? next[warp][target] : 0;
      __syncwarp();
      if (has_claim) {
        if ((peers & lanes_below()) == 0) next[warp][target] = n_before + (u32)__popc(peers);
        const i64 place = places[target] + n_before + (u32)__popc(peers & lanes_below());
        plan_flats[place] = start + ahead.offsets[i];
        plan_words[place] = ahead.words[i];
      }
      __syncwarp();
    }
  }
}
