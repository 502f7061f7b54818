/* undo: the claims of a scan whose plan never reached the caller go back. One warp per stretch.
 * Eligibility is not asked: to everybody outside, these claims were never made. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    undo(record_t* records, u64* ready_bits, u64* block_bits, const i64* edges, i64 n_stretches,
         const i64* ends,
         const u32* staged_offsets, const record_t* staged_words, const i64* n_staged) {
  Store store;
  store.records = records;
  store.ready_bits = ready_bits;
  store.block_bits = block_bits;
  const i64 stretch = stretch_id();
  if (stretch >= n_stretches) return;
  const i64 first = stretch == 0 ? 0 : ends[stretch - 1];
  for (i64 index = lane_id(); index < n_staged[stretch]; index += GS_LANES)
    put_back(store, edges[stretch] + staged_offsets[first + index], staged_words[first + index]);
}
