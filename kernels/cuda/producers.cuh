/* What request and record share: items in call order, and outcomes counted per block. */

/* Items of one call. With ordered, heads and order come from `resolve` and a stable sort: the items of a folio
 * stand together, in call order, and the first of them works for all. */
struct Items {
  const i64* pfns;
  const int* nids;
  i64 n_items;
  int ordered;
  const i64* heads;
  const i64* order;
};

/* Position in the sorted order: the item, the head (or -1 - outcome), and the end of the folio's run. */
struct Run {
  i64 item;
  i64 head;
  i64 end;
  bool is_first;
};

/* Head of the item at a position of the sorted order. */
static __device__ __forceinline__ i64 head_at(const Items& items, i64 position) {
  return items.heads[items.order[position]];
}

/* End of the run of a folio's items that begins at a position: steps that double, then a binary search, so that
 * a folio with a million items costs its thread 40 looks. */
static __device__ __forceinline__ i64 end_of_run(const Items& items, i64 first, i64 head) {
  i64 inside = first; /* the last position known to be the folio's, and the first known not to be */
  i64 outside = first + 1;
  while (outside < items.n_items && head_at(items, outside) == head) {
    inside = outside;
    outside = first + 2 * (outside - first);
  }
  outside = min(outside, items.n_items);
  while (outside - inside > 1) {
    const i64 middle = inside + (outside - inside) / 2;
    if (head_at(items, middle) == head)
      inside = middle;
    else
      outside = middle;
  }
  return outside;
}

static __device__ __forceinline__ Run run_at(const Store& store, const Machine& machine, const Items& items,
                                             i64 position, bool drop_top_tier) {
  Run run = {position, 0, position + 1, true};
  if (!items.ordered) {
    run.head = find_head(store, machine, items.pfns[position], items.nids[position], drop_top_tier);
    return run;
  }
  run.item = items.order[position];
  run.head = items.heads[run.item];
  if (run.head < 0) return run; /* dropped: nothing to do together */
  run.is_first = position == 0 || head_at(items, position - 1) != run.head;
  if (run.is_first) run.end = end_of_run(items, position, run.head);
  return run;
}

static __device__ __forceinline__ i64 item_at(const Items& items, i64 position) {
  return items.ordered ? items.order[position] : position;
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
