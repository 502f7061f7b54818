/* fit_chunks: room for the claims of every chunk of a budget, which are its stretches: its candidates, or what its
 * quotas allow where that is less. Cut before the first block that does not fit the plan, where the chunks after it
 * become empty. A warp per chunk edge, of whole sections but for lo and hi; then the last block sums up. */

/* Candidates before an edge. All lanes. */
static __device__ __forceinline__ i64 candidates_before(const Counts& counts, i64 edge) {
  if (edge == counts.lo) return 0;
  if (edge == counts.hi) return up_to_cell(counts, n_cells_of(counts) - 1).n_candidates;
  const i64 end = (edge >> GS_SECTION_SHIFT) - first_section_of(counts);
  const i64 cell = end >> counts.cell_shift;
  u64 n_here = 0;
  for (i64 section = (cell << counts.cell_shift) + lane_id(); section < end; section += GS_LANES)
    n_here += counts.section_counts[section] & 0xffffu;
  return up_to_cell(counts, cell - 1).n_candidates + (i64)sum_of_warp(n_here);
}

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    fit_chunks(i64 lo, i64 hi, u32 cell_shift, const u32* section_counts, const u16* block_counts,
               const i64* cell_ends, i64 capacity, u32 n_targets, const i64* most_claims, i64* n_before, i64* edges,
               i64 n_stretches, i64* ends, i64* n_staged, u64* target_totals, u64* totals, u32* n_done) {
  __shared__ i64 warp_sums[GS_WARPS];
  __shared__ i64 ended;
  __shared__ i64 last; /* the chunk that does not fit, and the room of those before */
  __shared__ i64 room_before;
  const Counts counts = {lo, hi, cell_shift, section_counts, block_counts, cell_ends};
  const Weights only_candidates = {1, 0, 0, 0};
  clear_scan_totals(n_targets, target_totals, totals);
  const i64 number = stretch_id();
  if (number <= n_stretches) {
    const i64 before = candidates_before(counts, edges[number]);
    if (lane_id() == 0) __stcg(n_before + number, before);
    if (lane_id() == 0 && number < n_stretches) n_staged[number] = 0;
  }
  if (!is_last_block(n_done)) return;
  if (threadIdx.x == 0) {
    ended = 0;
    last = n_stretches;
  }
  __syncthreads();
  for (i64 first = 0; first < n_stretches; first += GS_THREADS) {
    const i64 chunk = first + threadIdx.x;
    i64 room = 0;
    if (chunk < n_stretches)
      room = min(__ldcg(n_before + chunk + 1) - __ldcg(n_before + chunk), most_claims[chunk]);
    const i64 up_to = ended + sum_up_to_thread(room, warp_sums);
    if (chunk < n_stretches) ends[chunk] = min(up_to, capacity);
    if (up_to > capacity && up_to - room <= capacity) {
      last = chunk;
      room_before = up_to - room;
    }
    __syncthreads();
    if (threadIdx.x == GS_THREADS - 1) ended = up_to;
    __syncthreads();
  }
  i64 cursor = hi;
  if (last < n_stretches) {
    const i64 start = __ldcg(n_before + last);
    const Edge edge = edge_at<false>(counts, only_candidates, start + capacity - room_before);
    const i64 room = min(__ldcg(n_before + last + 1) - start, most_claims[last]);
    const i64 end = room_before + min(room, edge.before.n_candidates - start);
    cursor = edge.flat;
    for (i64 chunk = last + threadIdx.x; chunk < n_stretches; chunk += GS_THREADS) {
      edges[chunk + 1] = cursor;
      ends[chunk] = end;
    }
  }
  if (threadIdx.x == 0) totals[GS_TOTAL_CURSOR] = (u64)cursor;
}
