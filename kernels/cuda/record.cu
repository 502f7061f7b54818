/* record: producers count accesses; a page that is hot enough becomes READY. One thread per item; with ordered,
 * per folio. Times are in TIME units. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    record(record_t* records, u64* ready_bits, u64* block_bits, const u64* eligible_bits,
           const u8* folio_order, int has_large_folios, u32* node_active, const int* section_nid,
           int fixed_target,
           const i64* pfn_start, const i64* pfn_end, const i64* flat_offset, i64 n_extents,
           const u8* node_flags, const i64* pfns, const int* nids, i64 n_items, int ordered, const i64* heads,
           const i64* order, u8* outcomes, int wants_outcomes, u64* counts, u32 now, u32 window,
           i64 threshold, int drop_top_tier) {
  __shared__ u32 block_counts[GS_N_OUTCOMES];
  Store store;
  store.records = records;
  store.ready_bits = ready_bits;
  store.block_bits = block_bits;
  store.eligible_bits = eligible_bits;
  store.folio_order = folio_order;
  store.has_large_folios = has_large_folios;
  store.node_active = node_active;
  store.section_nid = section_nid;
  store.fixed_target = fixed_target;
  const Machine machine = {pfn_start, pfn_end, flat_offset, n_extents, node_flags};
  const Items items = {pfns, nids, n_items, ordered, heads, order};
  begin_counts(block_counts, GS_N_OUTCOMES);
  const i64 position = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (position < n_items) {
    const Run run = run_at(store, machine, items, position, drop_top_tier != 0);
    if (run.head < 0) {
      const u32 outcome = (u32)(-1 - run.head);
      atomicAdd(block_counts + outcome, 1u);
      if (wants_outcomes) outcomes[run.item] = (u8)outcome;
    } else if (run.is_first) {
      const u32 target = (u32)wanted_target(store, nids[item_at(items, run.end - 1)]);
      const u32 renewed = ((target & GS_NID_MAX) << GS_NID_SHIFT) | (now << GS_TIME_SHIFT);
      const i64 more = run.end - position - 1; /* accesses after the first: their age is 0, each counts one up */
      i64 first_freq;
      i64 last_freq;
      u32 word = load_record(store, run.head);
      for (;;) {
        const u32 age = (now - ((word >> GS_TIME_SHIFT) & GS_TIME_MAX)) & GS_TIME_MAX;
        const i64 freq = (word >> GS_FREQ_SHIFT) & GS_FREQ_MAX;
        first_freq = age > window ? 1 : min(freq + 1, (i64)GS_FREQ_MAX);
        last_freq = min(first_freq + more, (i64)GS_FREQ_MAX);
        const u32 ready = last_freq >= threshold ? GS_READY : word & GS_READY;
        const u32 counted = renewed | ((u32)last_freq << GS_FREQ_SHIFT) | ready;
        const u32 seen = exchange_record_if(store, run.head, word, counted);
        if (seen == word) break;
        word = seen;
      }
      const bool ready = is_ready(word);
      if (!ready && last_freq >= threshold) {
        set_index(store, run.head);
        activate_node(store, run.head);
      }
      /* The first `below` accesses leave the folio below the threshold, the next makes it READY. */
      const i64 n_accesses = run.end - position;
      const i64 below = ready ? 0 : last_freq < threshold ? n_accesses : max((i64)0, threshold - first_freq);
      const i64 accepted = !ready && below < n_accesses ? 1 : 0;
      const i64 refreshed = n_accesses - below - accepted;
      if (below) atomicAdd(block_counts + GS_COUNTED, (u32)below);
      if (accepted) atomicAdd(block_counts + GS_ACCEPTED, (u32)accepted);
      if (refreshed) atomicAdd(block_counts + GS_REFRESHED, (u32)refreshed);
      for (i64 access = 0; wants_outcomes && access < n_accesses; ++access) {
        const u32 outcome = access < below ? GS_COUNTED
                            : access < below + accepted ? GS_ACCEPTED
                                                        : GS_REFRESHED;
        outcomes[item_at(items, position + access)] = (u8)outcome;
      }
    }
  }
  end_counts(block_counts, GS_N_OUTCOMES, counts);
}
