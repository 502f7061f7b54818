/* request: producers ask for pages to be moved. One thread per item; with ordered, per folio. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    request(record_t* records, u64* ready_bits, u64* block_bits, const u64* eligible_bits,
            const u8* folio_order, int has_large_folios, u32* node_active, const int* section_nid,
            int fixed_target,
            const i64* pfn_start, const i64* pfn_end, const i64* flat_offset, i64 n_extents,
            const u8* node_flags, const i64* pfns, const int* nids, i64 n_items, int ordered,
            const i64* heads, const i64* order, u8* outcomes, int wants_outcomes, u64* counts) {
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
    const Run run = run_at(store, machine, items, position, false);
    u32 outcome = GS_REFRESHED;
    if (run.head < 0) {
      outcome = (u32)(-1 - run.head);
    } else if (run.is_first) {
      /* The last item's target stands, whatever those before it asked for. */
      const u32 target = (u32)wanted_target(store, nids[item_at(items, run.end - 1)]);
      const u32 renewed = ((target & GS_NID_MAX) << GS_NID_SHIFT) | GS_READY;
      u32 word = load_record(store, run.head);
      for (;;) {
        const u32 marked = (word & ~(GS_NID_MAX << GS_NID_SHIFT)) | renewed;
        const u32 seen = exchange_record_if(store, run.head, word, marked);
        if (seen == word) break;
        word = seen;
      }
      /* Whoever made it READY owes the index bits: they are set, or about to be. */
      if (!is_ready(word)) {
        set_index(store, run.head);
        activate_node(store, run.head);
        outcome = GS_ACCEPTED;
      }
    }
    atomicAdd(block_counts + outcome, 1u);
    if (wants_outcomes) outcomes[run.item] = (u8)outcome;
  }
  end_counts(block_counts, GS_N_OUTCOMES, counts);
}
