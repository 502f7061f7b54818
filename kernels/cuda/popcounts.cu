/* popcounts: candidates per stretch, counted in the index: ready bits under set block bits. What the path is
 * picked by, and what the room for claims is cut by. One warp per stretch; takes nothing. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    popcounts(u64* ready_bits, u64* block_bits, const int* section_nid, const u8* node_mask, const i64* edges,
              i64 n_stretches, u64* n_candidates, u64* totals) {
  Store store;
  store.ready_bits = ready_bits;
  store.block_bits = block_bits;
  store.section_nid = section_nid;
  const i64 stretch = stretch_id();
  if (stretch >= n_stretches) return;
  const i64 lo = edges[stretch];
  const i64 hi = edges[stretch + 1];
  u32 n_wanted = 0;
  u64 n_set_blocks = 0;
  u64 n_ready = 0;
  const i64 end_section = (hi + (1 << GS_SECTION_SHIFT) - 1) >> GS_SECTION_SHIFT;
  for (i64 section = lo >> GS_SECTION_SHIFT; section < end_section; section += GS_LANES) {
    u32 n_wanted_here;
    const LaneBlocks group = set_blocks<false>(store, node_mask, lo, hi, section, &n_wanted_here);
    n_wanted += n_wanted_here;
    const u32 n_blocks = n_blocks_of(group);
    n_set_blocks += n_blocks;
    for (u32 first = 0; first < n_blocks; first += GS_LANES) {
      const i64 first_word = first_word_of(group, first + lane_id());
      u64 words[GS_WORDS_PER_BLOCK];
      if (first_word >= 0) n_ready += load_ready_words<false>(store, first_word, words);
    }
  }
  n_ready = sum_of_warp(n_ready);
  const u64 n_blocks_wanted = sum_of_warp(n_wanted);
  if (lane_id() != 0) return;
  n_candidates[stretch] = n_ready;
  atomicAdd(totals + GS_TOTAL_CANDIDATES, n_ready);
  atomicAdd(totals + GS_TOTAL_SET_BLOCKS, n_set_blocks);
  atomicAdd(totals + GS_TOTAL_BLOCKS, n_blocks_wanted);
}
