/* release: claimed words go back into their records. One thread per item; flats do not repeat. Nobody has looked at
 * those that come from the device: what is no page, or no claim, is dropped. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    release(record_t* records, u64* ready_bits, u64* block_bits, const u64* eligible_bits, u32* node_active,
            const int* section_nid, i64 n_pages, const i64* flats, const record_t* words, i64 n_items,
            u8* outcomes, int wants_outcomes, u64* counts) {
  __shared__ u32 block_counts[GS_N_RELEASE_OUTCOMES];
  const Store store = marked_store(records, ready_bits, block_bits, eligible_bits, 0, 0, node_active, section_nid, 0);
  begin_counts(block_counts, GS_N_RELEASE_OUTCOMES);
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (item < n_items) {
    const i64 flat = flats[item];
    u32 outcome = GS_RELEASE_INELIGIBLE;
    if (flat >= 0 && flat < n_pages && is_ready(words[item]) && is_eligible(store, flat)) {
      outcome = GS_RELEASE_SUPERSEDED;
      if (put_back(store, flat, words[item])) {
        activate_node(store, flat);
        outcome = GS_RELEASE_RESTORED;
      }
    }
    atomicAdd(block_counts + outcome, 1u);
    if (wants_outcomes) outcomes[item] = (u8)outcome;
  }
  end_counts(block_counts, GS_N_RELEASE_OUTCOMES, counts);
}
