/* What request and record share: the items of one call by folio, and outcomes counted per block.
 *
 * Two items that name one folio end as if made in call order. So items are counted into a hash table by folio first
 * (`resolve`): the last item of a folio is known then, and works for all of them. No sort, and nobody waits. */

#define GS_DROPPED 0xffffff00u /* slots from here on say why an item is dropped: ~outcome */

/* A table of the folios of one call, all 0 before. Slots are at least twice as many as items. */
struct Folios {
  u64* heads; /* + 1; 0 where a slot is free */
  u32* lasts; /* number of the last item, + 1 */
  u32* notes; /* request: ~number of the first item; record: how many there are */
  u32 n_slots;
};

/* The items of one call; without ordered each is a folio of its own, and the hardware picks the order. */
struct Items {
  const i64* pfns;
  const int* nids;
  i64 n_items;
  int ordered;
  const u32* slots;
  Folios folios;
};

/* What one thread has to do. */
struct Turn {
  i64 head; /* or -1 - outcome where the item is dropped; 0 where another one works */
  u32 slot;
  bool works; /* for all items of its folio */
};

/* The slot of a folio, taken where it has none. */
static __device__ __forceinline__ u32 slot_of(const Folios& folios, i64 head) {
  const u64 key = (u64)head + 1;
  const u64 hash = key * 0x9e3779b97f4a7c15ull >> 32;
  u32 slot = (u32)(hash * folios.n_slots >> 32);
  for (;;) {
    u64 seen = __ldcg(folios.heads + slot);
    if (seen == 0) seen = atomicCAS(folios.heads + slot, 0ull, key);
    if (seen == 0 || seen == key) return slot;
    slot = slot + 1 == folios.n_slots ? 0 : slot + 1;
  }
}

static __device__ __forceinline__ Turn turn_of(const Store& store, const Machine& machine, const Items& items,
                                               i64 item, bool drop_top_tier) {
  if (!items.ordered)
    return {find_head(store, machine, items.pfns[item], items.nids[item], drop_top_tier), 0, true};
  const u32 slot = items.slots[item];
  if (slot >= GS_DROPPED) return {-1 - (i64)~slot, 0, false};
  if (items.folios.lasts[slot] != (u32)item + 1) return {0, slot, false};
  return {(i64)items.folios.heads[slot] - 1, slot, true};
}

/* Where each block counts outcomes before it adds them to the call's. */
static __device__ __forceinline__ void begin_counts(u32* block_counts, u32 n_counts) {
  if (threadIdx.x < n_counts) block_counts[threadIdx.x] = 0;
  __syncthreads();
}

static __device__ __forceinline__ void end_counts(const u32* block_counts, u32 n_counts, u64* counts) {
  __syncthreads();
  if (threadIdx.x < n_counts && block_counts[threadIdx.x] != 0)
    atomicAdd(counts + threadIdx.x, (u64)block_counts[threadIdx.x]);
}
