/* cut_stretches: a range into stretches that take the same to walk, cut before the first block that does not fit the
 * plan; and what the scan counts in, to 0. One warp per edge. */

extern "C" __global__ void __launch_bounds__(GS_THREADS, GS_BLOCKS_PER_SM)
    cut_stretches(i64 lo, i64 hi, u32 cell_shift, const u32* section_counts, const u16* block_counts,
                  const i64* cell_ends, i64 capacity, i64 of_candidate, i64 of_set, i64 of_wanted, i64 of_block,
                  u32 n_targets, i64* edges, i64 n_stretches, i64* ends, i64* n_staged, u64* target_totals,
                  u64* totals) {
  const Counts counts = {lo, hi, cell_shift, section_counts, block_counts, cell_ends};
  const Weights weights = {of_candidate, of_set, of_wanted, of_block};
  const Weights only_candidates = {1, 0, 0, 0};
  clear_scan_totals(n_targets, target_totals, totals);
  const i64 number = stretch_id();
  if (number > n_stretches) return;
  const Counted all = up_to_cell(counts, n_cells_of(counts) - 1);
  Edge end = {hi, all};
  if (all.n_candidates > capacity) end = edge_at<false>(counts, only_candidates, capacity);
  const i64 weight = weight_of(weights, end.before);
  Edge edge = {lo, {0, 0, 0, 0}};
  if (number == n_stretches) {
    edge = end;
  } else if (number > 0) {
    edge = edge_at<true>(counts, weights, weight / n_stretches * number + weight % n_stretches * number / n_stretches);
    if (edge.flat > end.flat) edge = end;
  }
  if (lane_id() != 0) return;
  edges[number] = edge.flat;
  if (number > 0) ends[number - 1] = edge.before.n_candidates;
  if (number < n_stretches) n_staged[number] = 0;
  if (number == n_stretches) totals[GS_TOTAL_CURSOR] = (u64)end.flat;
}
