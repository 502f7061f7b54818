/* popcounts: candidates of a range by section, block and cell, counted in the index: ready bits under set block bits.
 * What the path is picked by, and what stretches are cut by. Takes nothing.
 *
 * A warp has sections that lie n_walkers apart, one a lane, so that a hot region is spread over many warps. The last
 * block sums up the cells, and leaves their tallies at 0 for the next scan. */

#define GS_CELLS_OF_THREAD 4 /* that it sums up at once */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    popcounts(u64* ready_bits, u64* block_bits, const int* section_nid, const u8* node_mask, i64 lo, i64 hi,
              i64 n_walkers, u32 cell_shift, u32* section_counts, u16* block_counts, u64* cell_tallies,
              i64* cell_ends, u32* n_done, u64* totals) {
  __shared__ u32 candidates[GS_WARPS][GS_LANES];
  __shared__ i64 warp_sums[3][GS_WARPS];
  __shared__ i64 ended[3];
  Store store;
  store.ready_bits = ready_bits;
  store.block_bits = block_bits;
  store.section_nid = section_nid;
  const Counts counts = {lo, hi, cell_shift, section_counts, block_counts, cell_ends};
  const i64 first_section = first_section_of(counts);
  const i64 n_sections = n_sections_of(counts);
  u32* const of_lane = candidates[threadIdx.x >> 5];
  for (i64 first = stretch_id(); first < n_sections && stretch_id() < n_walkers; first += GS_LANES * n_walkers) {
    const i64 section = first + (i64)lane_id() * n_walkers;
    u32 n_wanted;
    const LaneBlocks group = set_blocks<false>(store, node_mask, lo, hi, first_section + section, &n_wanted);
    of_lane[lane_id()] = 0;
    if (group.blocks) {
#pragma unroll
      for (int i = 0; i < GS_SECTION_BLOCKS / 8; ++i)
        ((uint4*)(block_counts + section * GS_SECTION_BLOCKS))[i] = make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
    const u32 n_blocks = n_blocks_of(group);
    for (u32 number = 0; number < n_blocks; number += GS_LANES) {
      u32 source;
      const int block = block_of(group, number + lane_id(), &source);
      if (block >= 0) {
        const i64 its_section = first + (i64)source * n_walkers;
        const i64 first_word = ((first_section + its_section) << (GS_SECTION_SHIFT - 6)) + block * GS_WORDS_PER_BLOCK;
        u64 words[GS_WORDS_PER_BLOCK];
        const u32 n_ready = load_ready_words<false>(store, first_word, words);
        block_counts[its_section * GS_SECTION_BLOCKS + block] = (u16)(GS_BLOCK_SET | n_ready);
        if (n_ready) atomicAdd(of_lane + source, n_ready);
      }
    }
    __syncwarp();
    if (section < n_sections) {
      const u32 packed = of_lane[lane_id()] | (u32)__popcll(group.blocks) << 16 | n_wanted << 24;
      section_counts[section] = packed;
      if (packed) atomicAdd(cell_tallies + (section >> cell_shift), tally_of_section(packed));
    }
    __syncwarp();
  }
  if (!is_last_block(n_done, gridDim.x)) return;
  const i64 n_cells = n_cells_of(counts);
  if (threadIdx.x < 3) ended[threadIdx.x] = 0;
#pragma unroll 1
  for (i64 first = 0; first < n_cells; first += GS_THREADS * GS_CELLS_OF_THREAD) {
    const i64 cell = first + threadIdx.x * GS_CELLS_OF_THREAD;
    u64 tallies[GS_CELLS_OF_THREAD];
#pragma unroll
    for (int i = 0; i < GS_CELLS_OF_THREAD; ++i) tallies[i] = cell + i < n_cells ? __ldcg(cell_tallies + cell + i) : 0;
    const Counted none = {0, 0, 0, 0};
    Counted of_thread = none;
#pragma unroll
    for (int i = 0; i < GS_CELLS_OF_THREAD; ++i) {
      of_thread = counted_with(of_thread, tallies[i], 0);
      if (cell + i < n_cells) __stcg(cell_tallies + cell + i, (u64)0);
    }
    const i64 parts[3] = {of_thread.n_candidates, of_thread.n_set, of_thread.n_wanted};
    i64 up_to[3];
#pragma unroll
    for (int part = 0; part < 3; ++part) up_to[part] = sum_up_to_thread(parts[part], warp_sums[part]);
#pragma unroll
    for (int part = 0; part < 3; ++part) up_to[part] += ended[part]; /* which is there since the barriers in between */
    Counted end = {up_to[0] - parts[0], up_to[1] - parts[1], up_to[2] - parts[2], 0};
#pragma unroll
    for (int i = 0; i < GS_CELLS_OF_THREAD; ++i) {
      end = counted_with(end, tallies[i], 0);
      if (cell + i >= n_cells) continue;
      __stcg(cell_ends + cell + i, end.n_candidates);
      __stcg(cell_ends + n_cells + cell + i, end.n_set);
      __stcg(cell_ends + 2 * n_cells + cell + i, end.n_wanted);
    }
    __syncthreads();
    if (threadIdx.x == GS_THREADS - 1) {
      for (int part = 0; part < 3; ++part) ended[part] = up_to[part];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    totals[GS_TOTAL_CANDIDATES] = (u64)ended[0];
    totals[GS_TOTAL_SET_BLOCKS] = (u64)ended[1];
    totals[GS_TOTAL_BLOCKS] = (u64)ended[2];
  }
}
