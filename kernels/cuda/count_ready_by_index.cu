/* count_ready_by_index: how many records are READY, of those that the bits name: 2 of a word's pages a lane, and of the
 * records no more than that are read. A warp counts section after section. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    count_ready_by_index(record_t* records, u64* ready_bits, u64* block_bits, i64 n_pages, u64* n_ready) {
  Store store;
  store.records = records;
  const i64 n_sections = n_pages >> GS_SECTION_SHIFT;
  const i64 n_warps = (i64)gridDim.x * GS_WARPS;
  u64 total = 0;
  for (i64 section = stretch_id(); section < n_sections; section += n_warps) {
    for (u64 blocks = __ldcg(block_bits + section); blocks; blocks &= blocks - 1) {
      const i64 block = (section << (GS_SECTION_SHIFT - GS_BLOCK_SHIFT)) + __ffsll((i64)blocks) - 1;
      for (i64 index = block * GS_WORDS_PER_BLOCK; index < (block + 1) * GS_WORDS_PER_BLOCK; ++index) {
        const u32 pair = (u32)(__ldcg(ready_bits + index) >> 2 * lane_id()) & 3u;
        for (u32 rest = pair; rest; rest &= rest - 1)
          total += is_ready(load_record(store, (index << 6) + 2 * lane_id() + __ffs((int)rest) - 1));
      }
    }
  }
  add_of_block(n_ready, total);
}
