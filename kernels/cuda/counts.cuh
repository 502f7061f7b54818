/* What is counted of a range before it is scanned, in the index, and how stretches are cut by it.
 *
 * Counts are of sections, of the blocks of those that have candidates, and of cells of sections; those of cells are
 * summed up, so that a warp finds any place of the range in a few looks. They are what `popcounts` saw, all of them:
 * whoever cuts by them cuts alike, whatever is marked meanwhile. */

/* A tally is u64: candidates, blocks with their bit set and blocks that are wanted, added at once. Right for up to
 * 2^18 - 1 blocks, thus for cells of up to GS_CELL_SECTIONS. */
#define GS_TALLY_SET_SHIFT 28
#define GS_TALLY_WANTED_SHIFT 46
#define GS_TALLY_CANDIDATES ((1ull << GS_TALLY_SET_SHIFT) - 1)
#define GS_TALLY_SET ((1ull << (GS_TALLY_WANTED_SHIFT - GS_TALLY_SET_SHIFT)) - 1)
#define GS_BLOCK_SET 0x8000u /* in the u16 of a block, beside its candidates */
#define GS_SECTION_BLOCKS 64

/* What lies before a place of the range, or in a part of it. */
struct Counted {
  i64 n_candidates;
  i64 n_set;    /* blocks */
  i64 n_wanted; /* blocks, on the nodes asked for */
  i64 n_blocks; /* of all nodes */
};

/* What walking each of these takes, in any unit; see scan.py. */
struct Weights {
  i64 of_candidate;
  i64 of_set;
  i64 of_wanted;
  i64 of_block;
};

/* The counts of [lo, hi). Section 0 is that of lo. */
struct Counts {
  i64 lo;
  i64 hi;
  u32 cell_shift; /* sections of a cell, as a power of two */
  const u32* section_counts; /* candidates, from bit 16 set and from bit 24 wanted blocks */
  const u16* block_counts;   /* GS_SECTION_BLOCKS each, where a section has set blocks */
  const i64* cell_ends;      /* [3][n_cells], up to the end of each: candidates, set, wanted */
};

struct Edge {
  i64 flat;
  Counted before;
};

static __device__ __forceinline__ i64 first_section_of(const Counts& counts) {
  return counts.lo >> GS_SECTION_SHIFT;
}

static __device__ __forceinline__ i64 n_sections_of(const Counts& counts) {
  return ((counts.hi + (1 << GS_SECTION_SHIFT) - 1) >> GS_SECTION_SHIFT) - first_section_of(counts);
}

static __device__ __forceinline__ i64 n_cells_of(const Counts& counts) {
  return (n_sections_of(counts) + (1ll << counts.cell_shift) - 1) >> counts.cell_shift;
}

/* Blocks of the range before its section number `section`, which may be the one after its last. */
static __device__ __forceinline__ i64 blocks_before(const Counts& counts, i64 section) {
  const i64 flat = (first_section_of(counts) + section) << GS_SECTION_SHIFT;
  return (min(max(flat, counts.lo), counts.hi) - counts.lo) >> GS_BLOCK_SHIFT;
}

static __device__ __forceinline__ u64 tally_of(u32 n_candidates, u32 n_set, u32 n_wanted) {
  return n_candidates | (u64)n_set << GS_TALLY_SET_SHIFT | (u64)n_wanted << GS_TALLY_WANTED_SHIFT;
}

static __device__ __forceinline__ u64 tally_of_section(u32 packed) {
  return tally_of(packed & 0xffffu, packed >> 16 & 0xffu, packed >> 24);
}

/* What lies before a place: a tally more than before some other one, with n_blocks of all nodes before it. */
static __device__ __forceinline__ Counted counted_with(const Counted& before, u64 tally, i64 n_blocks) {
  return {before.n_candidates + (i64)(tally & GS_TALLY_CANDIDATES),
          before.n_set + (i64)(tally >> GS_TALLY_SET_SHIFT & GS_TALLY_SET),
          before.n_wanted + (i64)(tally >> GS_TALLY_WANTED_SHIFT), n_blocks};
}

static __device__ __forceinline__ i64 weight_of(const Weights& weights, const Counted& counted) {
  return weights.of_candidate * counted.n_candidates + weights.of_set * counted.n_set +
         weights.of_wanted * counted.n_wanted + weights.of_block * counted.n_blocks;
}

/* What lies before the end of a cell; -1 is that before the first. Other blocks of the kernel may have written it. */
static __device__ __forceinline__ Counted up_to_cell(const Counts& counts, i64 cell) {
  if (cell < 0) return {0, 0, 0, 0};
  const i64 n_cells = n_cells_of(counts);
  const i64* const ends = counts.cell_ends + cell;
  const i64 section = min((cell + 1) << counts.cell_shift, n_sections_of(counts));
  return {__ldcg(ends), __ldcg(ends + n_cells), __ldcg(ends + 2 * n_cells), blocks_before(counts, section)};
}

/* How many cells end at a weight of at most `most`, by looks at 32 of them at a time. All lanes. */
static __device__ __forceinline__ i64 cells_within(const Counts& counts, const Weights& weights, i64 most) {
  i64 n_within = 0;
  i64 n_left = n_cells_of(counts);
  while (n_left > 0) {
    const i64 step = (n_left + GS_LANES - 1) / GS_LANES;
    const i64 ahead = (lane_id() + 1) * step;
    const bool is_within =
        ahead <= n_left && weight_of(weights, up_to_cell(counts, n_within + ahead - 1)) <= most;
    const i64 n_passed = __popc(__ballot_sync(GS_ALL_LANES, is_within)) * step;
    n_within += n_passed;
    n_left = min(n_left - n_passed, step - 1);
  }
  return n_within;
}

/* The last block edge of the range before which there is a weight of at most `most`, which is not negative; with
 * kNearest the next one where that is nearer. All lanes. */
template <bool kNearest>
static __device__ __forceinline__ Edge edge_at(const Counts& counts, const Weights& weights, i64 most) {
  const i64 n_sections = n_sections_of(counts);
  const i64 cell = cells_within(counts, weights, most);
  Counted before = up_to_cell(counts, cell - 1);
  if (cell == n_cells_of(counts)) return {counts.hi, before};
  i64 section = cell << counts.cell_shift;
  u32 packed = 0; /* of the section that the weight is reached in */
  for (bool is_found = false; !is_found;) {
    const i64 mine = section + lane_id();
    packed = mine < n_sections ? counts.section_counts[mine] : 0;
    const u64 up_to = sum_up_to_lane(tally_of_section(packed));
    const Counted after = counted_with(before, up_to, blocks_before(counts, min(mine + 1, n_sections)));
    const bool is_within = mine < n_sections && weight_of(weights, after) <= most;
    const u32 n_within = (u32)__popc(__ballot_sync(GS_ALL_LANES, is_within));
    if (n_within > 0) {
      const u64 passed = __shfl_sync(GS_ALL_LANES, up_to, (int)n_within - 1);
      before = counted_with(before, passed, blocks_before(counts, section + n_within));
    }
    section += n_within;
    is_found = n_within < GS_LANES;
    packed = __shfl_sync(GS_ALL_LANES, packed, (int)(n_within & 31u));
  }
  /* Two blocks a lane. */
  const i64 first = (first_section_of(counts) + section) << GS_SECTION_SHIFT;
  const bool has_set = (packed >> 16 & 0xffu) != 0;
  const bool is_wanted = packed >> 24 != 0;
  u64 tallies[2];
#pragma unroll
  for (u32 half = 0; half < 2; ++half) {
    const u32 block = 2 * lane_id() + half;
    const i64 flat = first + ((i64)block << GS_BLOCK_SHIFT);
    const u32 seen = has_set ? counts.block_counts[section * GS_SECTION_BLOCKS + block] : 0;
    const bool is_inside = flat >= counts.lo && flat < counts.hi;
    tallies[half] = tally_of(seen & (GS_BLOCK_SET - 1), seen / GS_BLOCK_SET, is_wanted && is_inside);
  }
  const u64 up_to = sum_up_to_lane(tallies[0] + tallies[1]);
  u32 n_within = 0;
#pragma unroll
  for (u32 half = 0; half < 2; ++half) {
    const i64 start = first + ((i64)(2 * lane_id() + half) << GS_BLOCK_SHIFT);
    const i64 n_before = (min(max(start, counts.lo), counts.hi) - counts.lo) >> GS_BLOCK_SHIFT;
    const bool is_inside = start >= counts.lo && start < counts.hi;
    const u64 tally = half ? up_to : up_to - tallies[1];
    i64 weight = weight_of(weights, counted_with(before, tally, n_before + is_inside));
    if (kNearest) weight = (weight + weight_of(weights, counted_with(before, tally - tallies[half], n_before))) / 2;
    n_within += (u32)__popc(__ballot_sync(GS_ALL_LANES, weight <= most));
  }
  const u64 both = __shfl_sync(GS_ALL_LANES, up_to, (int)((n_within + 1) / 2 + 31) & 31);
  const u64 second = __shfl_sync(GS_ALL_LANES, tallies[1], (int)((n_within + 1) / 2 + 31) & 31);
  const u64 passed = n_within == 0 ? 0 : (n_within & 1u) ? both - second : both;
  const i64 flat = min(max(first + ((i64)n_within << GS_BLOCK_SHIFT), counts.lo), counts.hi);
  return {flat, counted_with(before, passed, (flat - counts.lo) >> GS_BLOCK_SHIFT)};
}
