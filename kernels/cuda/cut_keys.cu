/* cut_keys: the key at which each target's budget ends, what lies above it, and what is left for ties: which is in
 * tie_pages_from, whichever side of resume_flat they are on, until `cut_ties` knows. One warp per target. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    cut_keys(u32 n_targets, const i64* limit_pages, const u64* pages_of_key, int* cut_key, u64* above_pages,
             u64* tie_pages_from, u64* tie_pages_below, i64* seen_pages) {
  const i64 target = stretch_id();
  if (target >= n_targets) return;
  const i64 limit = limit_pages[target];
  i64 seen = 0;
  i64 above = 0;
  int n_within = 0;
  for (u32 first = 0; first < GS_N_KEYS; first += GS_LANES) {
    const u32 key = first + lane_id();
    const i64 up_to = seen + (i64)sum_up_to_lane(key < GS_N_KEYS ? pages_of_key[target * GS_N_KEYS + key] : 0ull);
    const int n_here = __popc(__ballot_sync(GS_ALL_LANES, key < GS_N_KEYS && up_to <= limit));
    if (n_here > 0) above = __shfl_sync(GS_ALL_LANES, up_to, n_here - 1);
    n_within += n_here;
    seen = __shfl_sync(GS_ALL_LANES, up_to, GS_LANES - 1);
  }
  if (lane_id() != 0) return;
  const bool is_cut = limit >= 0 && n_within < GS_N_KEYS;
  cut_key[target] = limit < 0 ? -1 : n_within;
  above_pages[target] = (u64)above;
  tie_pages_from[target] = is_cut ? (u64)(limit - above) : 0;
  tie_pages_below[target] = 0;
  seen_pages[target] = seen;
}
