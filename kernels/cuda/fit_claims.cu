/* fit_claims: room for what a budget lets claim of every stretch, where there are more candidates than the plan holds.
 * Cut before the first block whose candidates do not fit, in the first stretch whose claims do not; the stretches
 * after it become empty. One block, after `cut_stretches` and `count_claims`. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    fit_claims(i64 lo, i64 hi, u32 cell_shift, const u32* section_counts, const u16* block_counts,
               const i64* cell_ends, i64 capacity, const i64* most_claims, i64* edges, i64 n_stretches, i64* ends,
               u64* totals) {
  __shared__ i64 warp_sums[GS_WARPS];
  __shared__ i64 ended;  /* room, and candidates, of the stretches before */
  __shared__ i64 before;
  __shared__ i64 last; /* the stretch that does not fit, the room and the candidates before it */
  __shared__ i64 room_before;
  __shared__ i64 start;
  const Counts counts = {lo, hi, cell_shift, section_counts, block_counts, cell_ends};
  const Weights only_candidates = {1, 0, 0, 0};
  if (threadIdx.x == 0) {
    ended = 0;
    before = 0;
    last = n_stretches;
  }
  __syncthreads();
  for (i64 first = 0; first < n_stretches; first += GS_THREADS) {
    const i64 stretch = first + threadIdx.x;
    const bool has_stretch = stretch < n_stretches;
    const i64 end = has_stretch ? ends[stretch] : 0;
    const i64 its_start = threadIdx.x == 0 ? before : has_stretch ? ends[stretch - 1] : 0;
    const i64 room = has_stretch ? min(end - its_start, most_claims[stretch]) : 0;
    const i64 up_to = ended + sum_up_to_thread(room, warp_sums); /* and all have read their ends */
    if (has_stretch) ends[stretch] = min(up_to, capacity);
    if (has_stretch && up_to > capacity && up_to - room <= capacity) {
      last = stretch;
      room_before = up_to - room;
      start = its_start;
    }
    __syncthreads();
    if (threadIdx.x == GS_THREADS - 1) {
      ended = up_to;
      before = end;
    }
    __syncthreads();
  }
  if (last == n_stretches) return;
  const Edge edge = edge_at<false>(counts, only_candidates, start + capacity - room_before);
  const i64 room = min(edge.before.n_candidates - start, most_claims[last]);
  __syncthreads();
  for (i64 stretch = last + threadIdx.x; stretch < n_stretches; stretch += GS_THREADS) {
    edges[stretch + 1] = edge.flat;
    ends[stretch] = room_before + room;
  }
  if (threadIdx.x == 0) totals[GS_TOTAL_CURSOR] = (u64)edge.flat;
}
