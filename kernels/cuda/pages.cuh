/* Steps on one page, taken by one lane: find it, read and change its record, mark it in the index. */

/* The extent table of the page map, and what nodes may do. */
struct Machine {
  const i64* pfn_start;
  const i64* pfn_end;
  const i64* flat_offset;
  i64 n_extents;
  const u8* node_flags;
};

/* The store as scans and rankings see it. */
static __device__ __forceinline__ Store walked_store(record_t* records, u64* ready_bits, u64* block_bits,
                                                     const u8* folio_order, int has_large_folios,
                                                     const int* section_nid, int fixed_target, u32 n_targets) {
  Store store;
  store.records = records;
  store.ready_bits = ready_bits;
  store.block_bits = block_bits;
  store.folio_order = folio_order;
  store.has_large_folios = has_large_folios;
  store.section_nid = section_nid;
  store.fixed_target = fixed_target;
  store.n_targets = n_targets;
  return store;
}

/* The store as producers see it. */
static __device__ __forceinline__ Store marked_store(record_t* records, u64* ready_bits, u64* block_bits,
                                                     const u64* eligible_bits, const u8* folio_order,
                                                     int has_large_folios, u32* node_active, const int* section_nid,
                                                     int fixed_target) {
  Store store = walked_store(records, ready_bits, block_bits, folio_order, has_large_folios, section_nid,
                             fixed_target, 0);
  store.eligible_bits = eligible_bits;
  store.node_active = node_active;
  return store;
}

static __device__ __forceinline__ bool is_ready(u32 word) { return (word & GS_READY) != 0; }

static __device__ __forceinline__ u32 target_of(const Store& store, u32 word) {
#if GS_HAS_NID
  return (word >> GS_NID_SHIFT) & GS_NID_MAX;
#else
  return (u32)store.fixed_target;
#endif
}

static __device__ __forceinline__ i64 folio_pages(const Store& store, i64 flat) {
  return store.has_large_folios ? 1ll << store.folio_order[flat] : 1;
}

/* Rank key, 0 the hottest (gpuscan.records.formats.hotness_key); now is in TIME units. */
static __device__ __forceinline__ u32 hotness_key(u32 word, u32 now) {
  const u32 freq = (word >> GS_FREQ_SHIFT) & GS_FREQ_MAX;
  const u32 age = (now - ((word >> GS_TIME_SHIFT) & GS_TIME_MAX)) & GS_TIME_MAX;
  return (GS_FREQ_MAX - freq) * GS_N_AGE_BUCKETS + (age >> GS_AGE_BUCKET_SHIFT);
}

/* Records are read past the first-level cache, which is not coherent: a line that this SM read earlier would
 * hide what others wrote since. CUDA has no 8-bit atomics, so 1-byte records are changed, and read, in the
 * aligned 32-bit word they are in: one width per array. */
#if GS_RECORD_BITS == 8

static __device__ __forceinline__ u32* word_around(const Store& store, i64 flat) {
  return (u32*)store.records + (flat >> 2);
}

static __device__ __forceinline__ u32 shift_in_word(i64 flat) { return (u32)(flat & 3) * 8u; }

/* A record with what is changed together with it. */
static __device__ __forceinline__ u32 load_around(const Store& store, i64 flat) {
  return __ldcg(word_around(store, flat));
}

static __device__ __forceinline__ u32 record_in(u32 around, i64 flat) {
  return around >> shift_in_word(flat) & 0xffu;
}

/* Store desired where expected is; return what was there. A change of a neighbour is no reason to fail. */
static __device__ __forceinline__ u32 exchange_record_if(const Store& store, i64 flat, u32 expected,
                                                         u32 desired) {
  u32* const around = word_around(store, flat);
  const u32 shift = shift_in_word(flat);
  u32 seen = __ldcg(around);
  while (((seen >> shift) & 0xffu) == expected) {
    const u32 changed = (seen & ~(0xffu << shift)) | (desired << shift);
    const u32 before = atomicCAS(around, seen, changed);
    if (before == seen) return expected;
    seen = before;
  }
  return (seen >> shift) & 0xffu;
}

/* Store 0; return what was there. */
static __device__ __forceinline__ u32 clear_record(const Store& store, i64 flat) {
  const u32 shift = shift_in_word(flat);
  return (atomicAnd(word_around(store, flat), ~(0xffu << shift)) >> shift) & 0xffu;
}

#else

/* A record, which is changed alone. */
static __device__ __forceinline__ u32 load_around(const Store& store, i64 flat) {
  return __ldcg(store.records + flat);
}

static __device__ __forceinline__ u32 record_in(u32 around, i64 flat) { return around; }

/* Store desired where expected is; return what was there. */
static __device__ __forceinline__ u32 exchange_record_if(const Store& store, i64 flat, u32 expected,
                                                         u32 desired) {
  return atomicCAS(store.records + flat, expected, desired);
}

/* Store 0; return what was there. */
static __device__ __forceinline__ u32 clear_record(const Store& store, i64 flat) {
  return atomicExch(store.records + flat, 0u);
}

#endif

static __device__ __forceinline__ u32 load_record(const Store& store, i64 flat) {
  return record_in(load_around(store, flat), flat);
}

/* Index a READY page: ready bit, then block bit, each after a full fence. The fence orders the level below
 * before the bit, and it must order stores before loads too, because a bit that is set already is left alone
 * (docs/protocol.md): __threadfence() is sequentially consistent, so it does. */
static __device__ __forceinline__ void set_index(const Store& store, i64 head) {
  const u64 bit = 1ull << (head & 63);
  __threadfence();
  u64* const ready = store.ready_bits + (head >> 6);
  if ((__ldcg(ready) & bit) == 0) atomicOr(ready, bit);
  const u64 block_bit = 1ull << ((head >> GS_BLOCK_SHIFT) & 63);
  __threadfence();
  u64* const block = store.block_bits + (head >> GS_SECTION_SHIFT);
  if ((__ldcg(block) & block_bit) == 0) atomicOr(block, block_bit);
}

/* Clear a ready word; return what was taken, which is what was seen where nobody else changes it. A word belongs to
 * one warp of the scan. */
static __device__ __forceinline__ u64 take_ready_word(const Store& store, i64 index, u64 seen) {
#if GS_EXCLUSIVE
  store.ready_bits[index] = 0;
  return seen;
#else
  return atomicExch(store.ready_bits + index, 0ull);
#endif
}

/* Note that the node of a page has something to scan; after set_index. */
static __device__ __forceinline__ void activate_node(const Store& store, i64 head) {
  const u32 nid = (u32)store.section_nid[head >> GS_SECTION_SHIFT];
  const u32 flag = 1u << (nid & 3u) * 8u;
  __threadfence();
  u32* const active = store.node_active + (nid >> 2);
  if ((__ldcg(active) & flag) == 0) atomicOr(active, flag);
}

static __device__ __forceinline__ bool is_eligible(const Store& store, i64 head) {
  return (__ldcg(store.eligible_bits + (head >> 6)) >> (head & 63)) & 1ull;
}

/* Flat page of a PFN, -1 in a hole. */
static __device__ __forceinline__ i64 find_flat(const Machine& machine, i64 pfn) {
  i64 low = 0;
  i64 high = machine.n_extents;
  while (low < high) {
    const i64 middle = (low + high) >> 1;
    if (machine.pfn_start[middle] <= pfn)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0 || pfn >= machine.pfn_end[low - 1]) return -1;
  return pfn + machine.flat_offset[low - 1];
}

static __device__ __forceinline__ int wanted_target(const Store& store, int nid) {
#if GS_HAS_NID
  return nid;
#else
  return store.fixed_target;
#endif
}

/* Head of the folio that a producer may mark, or -1 - outcome for why it is dropped. */
static __device__ __forceinline__ i64 find_head(const Store& store, const Machine& machine, i64 pfn, int nid,
                                                bool drop_top_tier) {
  const int target = wanted_target(store, nid);
  if (target < 0 || target >= GS_N_NODES_MAX || !(machine.node_flags[target] & GS_NODE_HAS_MEMORY))
    return -1 - GS_UNKNOWN_TARGET;
  const i64 flat = find_flat(machine, pfn);
  if (flat < 0) return -1 - GS_UNKNOWN_PFN;
  const int own_nid = store.section_nid[flat >> GS_SECTION_SHIFT];
  if (drop_top_tier && (machine.node_flags[own_nid] & GS_NODE_TOP_TIER)) return -1 - GS_TOP_TIER;
  const i64 head = flat & -folio_pages(store, flat);
  if (!is_eligible(store, head)) return -1 - GS_INELIGIBLE;
  if (own_nid == target) return -1 - GS_OWN_NODE;
  return head;
}

/* Make a folio READY, for a target, and index it; return whether it was not READY. */
static __device__ __forceinline__ bool request_folio(const Store& store, i64 head, u32 target) {
  const u32 renewed = ((target & GS_NID_MAX) << GS_NID_SHIFT) | GS_READY;
  u32 word = load_record(store, head);
  for (;;) {
    const u32 marked = (word & ~(GS_NID_MAX << GS_NID_SHIFT)) | renewed;
    const u32 seen = exchange_record_if(store, head, word, marked);
    if (seen == word) break;
    word = seen;
  }
  /* Whoever made it READY owes the index bits: they are set, or about to be. */
  if (is_ready(word)) return false;
  set_index(store, head);
  activate_node(store, head);
  return true;
}

/* Restore a claimed word, indexed, unless the page is READY again; return whether it was restored. */
static __device__ __forceinline__ bool put_back(const Store& store, i64 flat, u32 claimed) {
  u32 word = load_record(store, flat);
  while (!is_ready(word)) {
    const u32 seen = exchange_record_if(store, flat, word, claimed);
    if (seen == word) {
      set_index(store, flat);
      return true;
    }
    word = seen;
  }
  return false;
}
