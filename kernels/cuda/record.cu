/* record: producers count accesses; a page that is hot enough becomes READY. One thread per item; with ordered,
 * the last of a folio works for all, and leaves in its note how many accesses came before it was hot enough, from bit 31
 * whether it was before the call. Times are in TIME units. */

#define GS_WAS_READY 0x80000000u

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    record(record_t* records, u64* ready_bits, u64* block_bits, const u64* eligible_bits,
           const u8* folio_order, int has_large_folios, u32* node_active, const int* section_nid,
           int fixed_target,
           const i64* pfn_start, const i64* pfn_end, const i64* flat_offset, i64 n_extents,
           const u8* node_flags, const i64* pfns, const int* nids, i64 n_items, int ordered, const u32* slots,
           u64* folio_heads, u32* folio_lasts, u32* folio_notes, u32 n_slots, u8* outcomes, int wants_outcomes,
           u64* counts, u32 now, u32 window, i64 threshold, int drop_top_tier) {
  __shared__ u32 block_counts[GS_N_OUTCOMES];
  const Store store = marked_store(records, ready_bits, block_bits, eligible_bits, folio_order, has_large_folios,
                                   node_active, section_nid, fixed_target);
  const Machine machine = {pfn_start, pfn_end, flat_offset, n_extents, node_flags};
  const Items items = {pfns, nids, n_items, ordered, slots, {folio_heads, folio_lasts, folio_notes, n_slots}};
  begin_counts(block_counts, GS_N_OUTCOMES);
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (item < n_items) {
    const Turn turn = turn_of(store, machine, items, item, drop_top_tier != 0);
    u32 outcome = 0;
    if (turn.head < 0) {
      outcome = (u32)(-1 - turn.head);
      atomicAdd(block_counts + outcome, 1u);
    } else if (turn.works) {
      const i64 n_accesses = ordered ? folio_notes[turn.slot] : 1;
      const u32 target = (u32)wanted_target(store, nids[item]);
      const u32 renewed = ((target & GS_NID_MAX) << GS_NID_SHIFT) | (now << GS_TIME_SHIFT);
      const i64 more = n_accesses - 1; /* accesses after the first: their age is 0, each counts one up */
      i64 first_freq;
      i64 last_freq;
      u32 word = load_record(store, turn.head);
      for (;;) {
        const u32 age = (now - ((word >> GS_TIME_SHIFT) & GS_TIME_MAX)) & GS_TIME_MAX;
        const i64 freq = (word >> GS_FREQ_SHIFT) & GS_FREQ_MAX;
        first_freq = age > window ? 1 : min(freq + 1, (i64)GS_FREQ_MAX);
        last_freq = min(first_freq + more, (i64)GS_FREQ_MAX);
        const u32 ready = last_freq >= threshold ? GS_READY : word & GS_READY;
        const u32 counted = renewed | ((u32)last_freq << GS_FREQ_SHIFT) | ready;
        const u32 seen = exchange_record_if(store, turn.head, word, counted);
        if (seen == word) break;
        word = seen;
      }
      const bool ready = is_ready(word);
      if (!ready && last_freq >= threshold) {
        set_index(store, turn.head);
        activate_node(store, turn.head);
      }
      /* The first `below` accesses leave the folio below the threshold, the next makes it READY. */
      const i64 below = ready ? 0 : last_freq < threshold ? n_accesses : max((i64)0, threshold - first_freq);
      const i64 accepted = !ready && below < n_accesses ? 1 : 0;
      const i64 refreshed = n_accesses - below - accepted;
      if (below) atomicAdd(block_counts + GS_COUNTED, (u32)below);
      if (accepted) atomicAdd(block_counts + GS_ACCEPTED, (u32)accepted);
      if (refreshed) atomicAdd(block_counts + GS_REFRESHED, (u32)refreshed);
      if (ordered) folio_notes[turn.slot] = (u32)below | (ready ? GS_WAS_READY : 0);
      outcome = below ? GS_COUNTED : accepted ? GS_ACCEPTED : GS_REFRESHED;
    }
    if (wants_outcomes && !ordered) outcomes[item] = (u8)outcome;
  }
  end_counts(block_counts, GS_N_OUTCOMES, counts);
}
