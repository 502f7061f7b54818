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
  u32 of_candidate;
  u32 of_set;
  u32 of_wanted;
  u32 of_block;
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

/* GS_EDGE_LANES lanes look for an edge together: a warp has four such groups, each with a weight of its own. */
static __device__ __forceinline__ u32 edge_lane() { return lane_id() & (GS_EDGE_LANES - 1); }

/* In how many of a group's lanes it is so. All lanes. */
static __device__ __forceinline__ u32 n_in_group(bool is_so) {
  const u32 lanes = __ballot_sync(GS_ALL_LANES, is_so);
  return (u32)__popc(lanes >> (lane_id() & ~(GS_EDGE_LANES - 1u)) & ((1u << GS_EDGE_LANES) - 1u));
}

/* Sum of the values of a group's lanes up to this one. All lanes. */
template <typename T>
static __device__ __forceinline__ T sum_up_in_group(T value) {
#pragma unroll
  for (u32 step = 1; step < GS_EDGE_LANES; step <<= 1) {
    const T other = __shfl_up_sync(GS_ALL_LANES, value, step, GS_EDGE_LANES);
    if (edge_lane() >= step) value += other;
  }
  return value;
}

template <typename T>
static __device__ __forceinline__ T of_edge_lane(T value, u32 lane) {
  return __shfl_sync(GS_ALL_LANES, value, (int)lane, GS_EDGE_LANES);
}

/* How many cells end at a weight of at most `most`, by looks at a cell a lane of the group. All lanes. */
static __device__ __forceinline__ i64 cells_within(const Counts& counts, const Weights& weights, i64 most) {
  i64 n_within = 0;
  i64 n_left = n_cells_of(counts);
  while (__any_sync(GS_ALL_LANES, n_left > 0)) {
    const i64 step = (n_left + GS_EDGE_LANES - 1) / GS_EDGE_LANES;
    const i64 ahead = (edge_lane() + 1) * step;
    const bool is_within =
        n_left > 0 && ahead <= n_left && weight_of(weights, up_to_cell(counts, n_within + ahead - 1)) <= most;
    const i64 n_passed = n_in_group(is_within) * step;
    n_within += n_passed;
    n_left = min(n_left - n_passed, step - 1);
  }
  return n_within;
}

/* What eight blocks have, as a section's counts are packed: of_block is theirs, two in a word. */
static __device__ __forceinline__ u32 packed_of_blocks(const uint4& of_block) {
  const u32 mask = (GS_BLOCK_SET - 1) * 0x10001u;
  const u32 candidates = (of_block.x & mask) + (of_block.y & mask) + (of_block.z & mask) + (of_block.w & mask);
  const u32 set = (of_block.x >> 15 & 0x10001u) + (of_block.y >> 15 & 0x10001u) + (of_block.z >> 15 & 0x10001u) +
                  (of_block.w >> 15 & 0x10001u);
  return ((candidates & 0xffffu) + (candidates >> 16)) | ((set & 0xffffu) + (set >> 16)) << 16;
}

/* The last block edge of the range before which there is a weight of at most `most`, which is not negative; with
 * kNearest the next one where that is nearer. The lanes of a group have one weight. All lanes. */
template <bool kNearest>
static __device__ __forceinline__ Edge edge_at(const Counts& counts, const Weights& weights, i64 most) {
  const i64 n_sections = n_sections_of(counts);
  const i64 cell = cells_within(counts, weights, most);
  const bool is_end = cell == n_cells_of(counts);
  Counted before = up_to_cell(counts, cell - 1);
  i64 section = cell << counts.cell_shift;
  u32 packed = 0; /* of the section that the weight is reached in */
  for (bool is_found = is_end; __any_sync(GS_ALL_LANES, !is_found);) {
    const i64 mine = section + edge_lane();
    const u32 its = !is_found && mine < n_sections ? counts.section_counts[mine] : 0;
    const u64 up_to = sum_up_in_group(tally_of_section(its));
    const Counted after = counted_with(before, up_to, blocks_before(counts, min(mine + 1, n_sections)));
    const bool is_within = !is_found && mine < n_sections && weight_of(weights, after) <= most;
    const u32 n_within = n_in_group(is_within);
    const u64 passed = of_edge_lane(up_to, (n_within - 1) & (GS_EDGE_LANES - 1));
    const u32 reached = of_edge_lane(its, n_within & (GS_EDGE_LANES - 1));
    if (n_within > 0) before = counted_with(before, passed, blocks_before(counts, section + n_within));
    section += n_within;
    if (!is_found) packed = reached;
    is_found = is_found || n_within < GS_EDGE_LANES;
  }
  /* Eight blocks a lane; then those of the lane in which the weight is reached, one a lane. */
  const u32 of_lane = GS_SECTION_BLOCKS / GS_EDGE_LANES;
  const i64 first = (first_section_of(counts) + section) << GS_SECTION_SHIFT;
  const bool is_wanted = packed >> 24 != 0;
  uint4 of_block = {0, 0, 0, 0};
  if (packed >> 16 & 0xffu)
    of_block = *((const uint4*)(counts.block_counts + section * GS_SECTION_BLOCKS) + edge_lane());
  const i64 start = first + ((i64)(edge_lane() * of_lane) << GS_BLOCK_SHIFT);
  const i64 n_before = (min(max(start, counts.lo), counts.hi) - counts.lo) >> GS_BLOCK_SHIFT;
  const i64 end = start + ((i64)of_lane << GS_BLOCK_SHIFT);
  const i64 n_up_to = (min(max(end, counts.lo), counts.hi) - counts.lo) >> GS_BLOCK_SHIFT;
  const u32 of_lanes_blocks = packed_of_blocks(of_block) | (is_wanted ? (u32)(n_up_to - n_before) : 0) << 24;
  const u32 up_to = sum_up_in_group(of_lanes_blocks);
  const bool fits = !is_end && weight_of(weights, counted_with(before, tally_of_section(up_to), n_up_to)) <= most;
  const u32 lane = min(n_in_group(fits), GS_EDGE_LANES - 1u);
  const u32 pair = edge_lane() >> 1;
  const u32 low = of_edge_lane(of_block.x, lane), high = of_edge_lane(of_block.z, lane);
  const u32 low_next = of_edge_lane(of_block.y, lane), high_next = of_edge_lane(of_block.w, lane);
  const u32 both = pair & 2u ? (pair & 1u ? high_next : high) : (pair & 1u ? low_next : low);
  const u32 seen = both >> (edge_lane() & 1u) * 16u & 0xffffu;
  const i64 flat = first + ((i64)(lane * of_lane + edge_lane()) << GS_BLOCK_SHIFT);
  const bool is_inside = flat >= counts.lo && flat < counts.hi;
  const u32 of_its_block = (seen & (GS_BLOCK_SET - 1)) | seen / GS_BLOCK_SET << 16 | (u32)(is_wanted && is_inside) << 24;
  const u32 up_to_lane = of_edge_lane(up_to - of_lanes_blocks, lane);
  const u32 up_to_block = up_to_lane + sum_up_in_group(of_its_block);
  const i64 n_blocks = ((min(max(flat, counts.lo), counts.hi) - counts.lo) >> GS_BLOCK_SHIFT) + is_inside;
  i64 weight = weight_of(weights, counted_with(before, tally_of_section(up_to_block), n_blocks));
  if (kNearest) {
    const Counted block = counted_with({0, 0, 0, 0}, tally_of_section(of_its_block), is_inside);
    weight -= (weight_of(weights, block) + 1) / 2;
  }
  const u32 n_within = n_in_group(weight <= most);
  const u32 passed = of_edge_lane(up_to_block, (n_within - 1) & (GS_EDGE_LANES - 1));
  if (is_end) return {counts.hi, before};
  const i64 edge = first + ((i64)(lane * of_lane + n_within) << GS_BLOCK_SHIFT);
  const i64 inside = min(max(edge, counts.lo), counts.hi);
  const u64 tally = tally_of_section(n_within > 0 ? passed : up_to_lane);
  return {inside, counted_with(before, tally, (inside - counts.lo) >> GS_BLOCK_SHIFT)};
}
