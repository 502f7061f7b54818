/* cut_ties: the flat page up to which ties are claimed, on each side of resume_flat: that of the first which no longer
 * fits. It is found in the counts of `rank_ties`, then in the one stretch where these pass what is left. One warp per
 * target. */

#define GS_NO_STOP ((i64)(~0ull >> 1))

/* The ties of one target on one side of resume_flat, in the order in which they are served. */
struct TieSide {
  u32 target;
  bool is_from;
  u64 left; /* pages */
};

struct FindStop {
  const Store& store;
  const Cuts& cuts;
  const TieSide& side;
  u64 taken; /* pages that fit */
  i64 stop;
  __device__ __forceinline__ void operator()(i64 flat, bool is_candidate) {
    const u32 word = is_candidate ? load_record(store, flat) : 0;
    const bool is_mine = is_ready(word) && target_of(store, word) == side.target && is_tie(cuts, word, side.target) &&
                         (flat >= cuts.resume_flat[side.target]) == side.is_from;
    const u64 pages = is_mine ? (u64)folio_pages(store, flat) : 0;
    const u64 up_to = taken + sum_up_to_lane(pages);
    const u32 over = __ballot_sync(GS_ALL_LANES, is_mine && up_to > side.left);
    if (stop != GS_NO_STOP) return;
    const int last = over ? __ffs((int)over) - 1 : GS_LANES - 1;
    taken = __shfl_sync(GS_ALL_LANES, over ? up_to - pages : up_to, last);
    if (over) stop = __shfl_sync(GS_ALL_LANES, flat, last);
  }
};

/* Find the stop of a side, whose ties are counted of stretches [first, last), then in *wrapped of the stretch `last`.
 * Return the pages that fit. All lanes. */
static __device__ __forceinline__ u64 cut_side(const Store& store, const Cuts& cuts, const TieSide& side,
                                               const u8* node_mask, const i64* edges, const u32* ties, i64 first,
                                               i64 last, u32 wrapped, u32* queue, i64* stop) {
  *stop = GS_NO_STOP;
  u64 taken = 0;
  i64 passed = -1; /* the stretch in which the ties are too many */
  for (i64 base = first; base < last && passed < 0; base += GS_LANES) {
    const i64 stretch = base + lane_id();
    const u64 up_to = taken + sum_up_to_lane((u64)(stretch < last ? ties[stretch] : 0));
    const u32 within = __ballot_sync(GS_ALL_LANES, up_to <= side.left);
    const int n_within = __popc(within);
    if (n_within > 0) taken = __shfl_sync(GS_ALL_LANES, up_to, n_within - 1);
    if (n_within < GS_LANES) passed = base + n_within;
  }
  if (passed < 0 && wrapped > 0) {
    if (taken + wrapped <= side.left)
      taken += wrapped;
    else
      passed = last;
  }
  if (passed < 0) return taken;
  FindStop find = {store, cuts, side, taken, GS_NO_STOP};
  walk_index<false, true>(store, node_mask, edges[passed], edges[passed + 1], queue, 0, find);
  *stop = find.stop == GS_NO_STOP ? edges[passed + 1] : find.stop; /* some of them went meanwhile */
  return find.taken;
}

/* is_shared: what tie_pages_from has is for both sides; else each has its own. They become what ties take. */
extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_BUDGET_BLOCKS_PER_SM)
    cut_ties(record_t* records, u64* ready_bits, u64* block_bits, const u8* folio_order, int has_large_folios,
             const int* section_nid, int fixed_target, u32 n_targets, const u8* node_mask, const i64* edges,
             i64 n_stretches, u32 now, const int* cut_key, const i64* resume_flat, u64* tie_pages_from,
             u64* tie_pages_below, const u32* ties, const u32* wrapped_ties, int is_shared, i64* stop_from,
             i64* stop_below) {
  __shared__ u32 queues[GS_WARPS][GS_WALK_QUEUE];
  const Store store = walked_store(records, ready_bits, block_bits, folio_order, has_large_folios, section_nid,
                                   fixed_target, n_targets);
  const i64 target = stretch_id();
  if (target >= n_targets) return;
  const Cuts cuts = {now, cut_key, resume_flat, 0, 0, 0, tie_pages_from, tie_pages_below};
  const bool has_ties = cut_key[target] >= 0 && cut_key[target] < GS_N_KEYS;
  i64 resumed = 0; /* the stretch of resume_flat: the first that ends after it */
  for (i64 above = n_stretches; resumed < above;) {
    const i64 middle = (resumed + above) >> 1;
    if (edges[middle + 1] > resume_flat[target])
      above = middle;
    else
      resumed = middle + 1;
  }
  u64 left = has_ties ? tie_pages_from[target] : 0;
  const u64 left_below = has_ties ? tie_pages_below[target] : 0;
  __syncwarp(); /* before the first lane writes what all of them read */
  for (int below = 0; below < 2; ++below) {
    i64 stop = 0;
    u64 taken = 0;
    if (left > 0) {
      const TieSide side = {(u32)target, !below, left};
      taken = cut_side(store, cuts, side, node_mask, edges, ties + target * n_stretches, below ? 0 : resumed,
                       below ? resumed : n_stretches, below ? wrapped_ties[target] : 0, queues[threadIdx.x >> 5],
                       &stop);
    }
    if (lane_id() == 0) {
      (below ? stop_below : stop_from)[target] = stop;
      (below ? tie_pages_below : tie_pages_from)[target] = taken;
    }
    /* A strict prefix: after one that does not fit, none does. */
    left = !is_shared ? left_below : stop == GS_NO_STOP ? left - taken : 0;
  }
}
