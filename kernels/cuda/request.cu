/* request: producers ask for pages to be moved. One thread per item; with ordered, the last of a folio works for all. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    request(record_t* records, u64* ready_bits, u64* block_bits, const u64* eligible_bits,
            const u8* folio_order, int has_large_folios, u32* node_active, const int* section_nid,
            int fixed_target,
            const i64* pfn_start, const i64* pfn_end, const i64* flat_offset, i64 n_extents,
            const u8* node_flags, const i64* pfns, const int* nids, i64 n_items, int ordered, const u32* slots,
            u64* folio_heads, u32* folio_lasts, u32* folio_notes, u32 n_slots, u8* outcomes, int wants_outcomes,
            u64* counts) {
  __shared__ u32 block_counts[GS_N_OUTCOMES];
  const Store store = marked_store(records, ready_bits, block_bits, eligible_bits, folio_order, has_large_folios,
                                   node_active, section_nid, fixed_target);
  const Machine machine = {pfn_start, pfn_end, flat_offset, n_extents, node_flags};
  const Items items = {pfns, nids, n_items, ordered, slots, {folio_heads, folio_lasts, folio_notes, n_slots}};
  begin_counts(block_counts, GS_N_OUTCOMES);
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (item < n_items) {
    const Turn turn = turn_of(store, machine, items, item, false);
    u32 outcome = GS_REFRESHED;
    i64 first = item; /* what the record was when the call began is that item's to tell */
    if (turn.head < 0) {
      outcome = (u32)(-1 - turn.head);
    } else if (ordered) {
      first = ~folio_notes[turn.slot];
    }
    if (turn.head >= 0 && turn.works) {
      /* The last item's target stands, whatever those before it asked for. */
      if (request_folio(store, turn.head, (u32)wanted_target(store, nids[item]))) outcome = GS_ACCEPTED;
      if (first != item) {
        atomicAdd(block_counts + outcome, 1u);
        if (wants_outcomes) outcomes[first] = (u8)outcome;
        outcome = GS_REFRESHED;
      }
    }
    if (turn.works || first != item || turn.head < 0) {
      atomicAdd(block_counts + outcome, 1u);
      if (wants_outcomes) outcomes[item] = (u8)outcome;
    }
  }
  end_counts(block_counts, GS_N_OUTCOMES, counts);
}
