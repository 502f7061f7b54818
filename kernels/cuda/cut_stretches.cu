/* cut_stretches: a range into stretches that take the same to walk, cut before the first block that does not fit the
 * plan; and what the scan counts in, to 0. GS_EDGE_LANES threads per edge. */

extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_SCAN_BLOCKS_PER_SM)
    cut_stretches(i64 lo, i64 hi, u32 cell_shift, const u32* section_counts, const u16* block_counts,
                  const i64* cell_ends, i64 capacity, u32 of_candidate, u32 of_set, u32 of_wanted, u32 of_block,
                  i64* edges, i64 n_stretches, i64* ends, i64* n_staged, u64* totals) {
  const Counts counts = {lo, hi, cell_shift, section_counts, block_counts, cell_ends};
  const Weights weights = {of_candidate, of_set, of_wanted, of_block};
  const Weights only_candidates = {1, 0, 0, 0};
  clear_scan_totals(totals);
  const i64 number = ((i64)blockIdx.x * GS_THREADS + threadIdx.x) / GS_EDGE_LANES;
  const Counted all = up_to_cell(counts, n_cells_of(counts) - 1);
  Edge end = {hi, all};
  if (all.n_candidates > capacity) end = edge_at<false>(counts, only_candidates, capacity);
  /* Weights are below 2^50: 2^40 pages take less than 2^10 each. */
  const u64 share = (u64)weight_of(weights, end.before) * (u64)min(number, n_stretches) / (u32)n_stretches;
  Edge edge = edge_at<true>(counts, weights, (i64)share);
  if (number == 0) edge = {lo, {0, 0, 0, 0}};
  if (number >= n_stretches || edge.flat > end.flat) edge = end;
  if (edge_lane() != 0 || number > n_stretches) return;
  edges[number] = edge.flat;
  if (number > 0) ends[number - 1] = edge.before.n_candidates;
  if (number < n_stretches) n_staged[number] = 0;
  if (number == n_stretches) totals[GS_TOTAL_CURSOR] = (u64)end.flat;
}
