/* Following the index down a stretch: block words, 32 at a time, then the ready words of set blocks, then the
 * candidates, in flat order, 32 at a time. */

/* More candidates of a block than this are queued by all lanes together, a block at a time: at most 4 are, and a lane
 * alone would queue them one after the other while the rest waits. */
#define GS_CROWDED 128
#define GS_WALK_QUEUE (GS_BLOCK_PAGES + GS_LANES) /* a block fits when under 32 wait */

/* The set blocks of a section per lane. */
struct LaneBlocks {
  u64 blocks;
  u32 n_up_to_lane; /* set blocks of the sections up to this lane's */
};

static __device__ __forceinline__ u32 n_blocks_of(const LaneBlocks& group) {
  return __shfl_sync(GS_ALL_LANES, group.n_up_to_lane, GS_LANES - 1);
}

/* Set block number `number` of the group, counted in its section, and the lane that has it; -1 if there are not so
 * many. All lanes. */
static __device__ __forceinline__ int block_of(const LaneBlocks& group, u32 number, u32* source_lane) {
  u32 source = 0; /* the first lane with n_up_to_lane > number, by binary search */
  for (u32 width = GS_LANES / 2; width > 0; width >>= 1) {
    const u32 n_before = __shfl_sync(GS_ALL_LANES, group.n_up_to_lane, (int)(source + width - 1));
    if (n_before <= number) source += width;
  }
  const u64 blocks = __shfl_sync(GS_ALL_LANES, group.blocks, (int)source);
  const u32 n_up_to = __shfl_sync(GS_ALL_LANES, group.n_up_to_lane, (int)source);
  const u32 n_blocks = (u32)__popcll(blocks);
  *source_lane = source;
  if (number >= n_up_to) return -1;
  return (int)nth_set_bit(blocks, number - (n_up_to - n_blocks));
}

/* First ready word of set block number `number`, where lanes have sections in a row, or -1 if there are not so many.
 * All lanes. */
static __device__ __forceinline__ i64 first_word_of(const LaneBlocks& group, i64 first_section, u32 number) {
  u32 source;
  const int block = block_of(group, number, &source);
  if (block < 0) return -1;
  return ((first_section + source) << (GS_SECTION_SHIFT - 6)) + (i64)block * GS_WORDS_PER_BLOCK;
}

/* Set blocks of [lo, hi) in a section per lane, on the nodes asked for; with kTake they are taken out of the index. All
 * lanes. */
template <bool kTake>
static __device__ __forceinline__ LaneBlocks set_blocks(const Store& store, const u8* node_mask, i64 lo,
                                                        i64 hi, i64 section, u32* n_wanted_blocks) {
  const i64 start = max(lo, section << GS_SECTION_SHIFT);
  const i64 end = min(hi, (section + 1) << GS_SECTION_SHIFT);
  LaneBlocks group = {0, 0};
  *n_wanted_blocks = 0;
  if (start < end && node_mask[store.section_nid[section]]) {
    const u64 wanted = blocks_between(start, end);
    *n_wanted_blocks = (u32)__popcll(wanted);
    group.blocks = __ldcg(store.block_bits + section) & wanted;
    /* Other warps own other blocks of the word: an atomic whatever the claim mode. */
    if (kTake && group.blocks) group.blocks = atomicAnd(store.block_bits + section, ~wanted) & wanted;
  }
  group.n_up_to_lane = sum_up_to_lane((u32)__popcll(group.blocks));
  return group;
}

/* The 8 ready words of a block, with kTake exchanged with 0. All 8 are on their way before the first is looked at,
 * and none is read first to see whether it needs to be taken: that would be one wait more, and a branch for each
 * word, at which ptxas waits for the one before. All lanes' words lie in lines of their own. */
template <bool kTake>
static __device__ __forceinline__ u32 load_ready_words(const Store& store, i64 first_word, u64* words) {
#if GS_EXCLUSIVE
  const bool exchanges = false;
#else
  const bool exchanges = kTake;
#endif
  u32 n_set = 0;
  if (exchanges) {
#pragma unroll
    for (int i = 0; i < GS_WORDS_PER_BLOCK; ++i) words[i] = take_ready_word(store, first_word + i, 0);
  } else {
#pragma unroll
    for (int i = 0; i < GS_WORDS_PER_BLOCK; i += 2) {
      const ulonglong2 pair = __ldcg((const ulonglong2*)(store.ready_bits + first_word + i));
      words[i] = pair.x;
      words[i + 1] = pair.y;
    }
  }
#pragma unroll
  for (int i = 0; i < GS_WORDS_PER_BLOCK; ++i) {
    if (kTake && !exchanges) take_ready_word(store, first_word + i, words[i]);
    n_set += (u32)__popcll(words[i]);
  }
  return n_set;
}

/* Have a block's records brought to the second-level cache, all of them at once: where most of them are candidates,
 * each round of claims would wait for memory again. All lanes. */
static __device__ __forceinline__ void bring_records(const Store& store, i64 first_flat) {
  const char* const sector = (const char*)(store.records + first_flat) + lane_id() * GS_SECTOR_BYTES;
  const u32 n_sectors = GS_BLOCK_PAGES * sizeof(record_t) / GS_SECTOR_BYTES;
  if (n_sectors < GS_LANES && lane_id() >= n_sectors) return;
#pragma unroll
  for (u32 before = 0; before < n_sectors; before += GS_LANES) prefetch(sector + before * GS_SECTOR_BYTES);
}

/* Queue the candidates of one lane's block, a word at a time, by all lanes. All lanes. */
static __device__ __forceinline__ void queue_block(u32* queue, u32 place, u32 first, const u64* words, int source) {
#pragma unroll
  for (int half = 0; half < 2 * GS_WORDS_PER_BLOCK; ++half) {
    const u32 mine = (u32)(words[half / 2] >> half % 2 * GS_LANES);
    const u32 bits = __shfl_sync(GS_ALL_LANES, mine, source);
    if (bits >> lane_id() & 1u)
      queue[place + (u32)__popc(bits & lanes_below())] = first + (u32)half * GS_LANES + lane_id();
    place += (u32)__popc(bits);
  }
}

/* Give every candidate of [lo, hi) to visit(flat, is_candidate), which all lanes call together, in flat order.
 * kCrowds: crowded blocks are queued by all lanes, which takes registers that scans with a budget do not have.
 * queue is this warp's u32[GS_WALK_QUEUE] in shared memory. With kTake what is read is noted in added. All lanes. */
template <bool kTake, bool kCrowds, typename Visit>
static __device__ __forceinline__ void walk_index(const Store& store, const u8* node_mask, i64 lo, i64 hi,
                                                  u32* queue, u64* added, Visit& visit) {
  const i64 first_section = lo >> GS_SECTION_SHIFT;
  const u32 n_sections = (u32)(((hi + (1 << GS_SECTION_SHIFT) - 1) >> GS_SECTION_SHIFT) - first_section);
  u32 n_looked = 0; /* sections whose blocks were looked at, 32 at once */
  LaneBlocks group = {0, 0};
  u32 n_blocks = 0; /* set blocks of the group, and how many of them were come to */
  u32 n_come_to = 0;
  u32 first = 0; /* this lane's block, its ready words, and candidates in them that are not queued */
  u64 words[GS_WORDS_PER_BLOCK] = {0, 0, 0, 0, 0, 0, 0, 0};
  u32 n_set = 0;
  u32 n_queued = 0;
  u32 n_served = 0;
  bool is_last = false;
  while (!is_last) {
    if (!__any_sync(GS_ALL_LANES, n_set > 0)) {
      while (n_come_to >= n_blocks && n_looked < n_sections) {
        u32 n_wanted;
        group = set_blocks<kTake>(store, node_mask, lo, hi, first_section + n_looked + lane_id(), &n_wanted);
        n_blocks = n_blocks_of(group);
        n_come_to = 0;
        if (kTake && lane_id() == 0) {
          const u32 n_sections_now = min(n_sections - n_looked, (u32)GS_LANES);
          note_total(added, GS_TOTAL_BYTES, 8ull * n_sections_now + 64ull * n_blocks);
        }
        n_looked += GS_LANES;
        fence_warp(); /* block words before ready words */
      }
      is_last = n_come_to >= n_blocks;
      /* -1 in every lane if there is none */
      const i64 first_word = first_word_of(group, first_section + n_looked - GS_LANES, n_come_to + lane_id());
      first = (u32)(first_word * 64 - lo);
      n_come_to += GS_LANES;
      if (first_word >= 0) n_set = load_ready_words<kTake>(store, first_word, words);
      fence_warp(); /* ready words before records */
    }
    /* The longest row of lanes whose candidates all fit queues them. */
    const u32 n_up_to = sum_up_to_lane(n_set);
    const bool queues = n_set > 0 && n_queued + n_up_to <= GS_WALK_QUEUE;
    const u32 queuing = __ballot_sync(GS_ALL_LANES, queues);
    u32 place = n_queued + n_up_to - n_set;
    const u32 n_new = __shfl_sync(GS_ALL_LANES, n_up_to, 31 - __clz((int)(queuing | 1u)));
    if (queuing) n_queued += n_new;
    const bool is_crowded = kCrowds && queues && n_set > GS_CROWDED;
    for (u32 rest = kCrowds ? __ballot_sync(GS_ALL_LANES, is_crowded) : 0; rest; rest &= rest - 1) {
      const int source = __ffs((int)rest) - 1;
      const u32 its_first = __shfl_sync(GS_ALL_LANES, first, source);
      bring_records(store, lo + its_first);
      queue_block(queue, __shfl_sync(GS_ALL_LANES, place, source), its_first, words, source);
    }
    const bool queues_alone = queues && !is_crowded;
#pragma unroll
    for (int i = 0; i < GS_WORDS_PER_BLOCK; ++i) {
      for (u64 rest = queues_alone ? words[i] : 0; rest; rest &= rest - 1)
        queue[place++] = first + (u32)(i << 6) + (u32)__ffsll((i64)rest) - 1u;
    }
    n_set = queues ? 0 : n_set;
    __syncwarp();
    n_served += serve_queue(queue, &n_queued, lo, is_last, visit);
  }
  if (kTake && lane_id() == 0) {
    note_total(added, GS_TOTAL_PAGES, n_served);
    note_total(added, GS_TOTAL_BYTES, (u64)n_served * sizeof(record_t));
  }
}
