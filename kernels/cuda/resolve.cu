/* resolve: the items of a call by folio, in a hash table, or why an item is dropped. One thread per item. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    resolve(const u64* eligible_bits, const u8* folio_order, int has_large_folios, const int* section_nid,
            int fixed_target, const i64* pfn_start, const i64* pfn_end, const i64* flat_offset, i64 n_extents,
            const u8* node_flags, const i64* pfns, const int* nids, i64 n_items, int drop_top_tier,
            int notes_count, u64* folio_heads, u32* folio_lasts, u32* folio_notes, u32 n_slots, u32* slots) {
  const Store store = marked_store(0, 0, 0, eligible_bits, folio_order, has_large_folios, 0, section_nid, fixed_target);
  const Machine machine = {pfn_start, pfn_end, flat_offset, n_extents, node_flags};
  const Folios folios = {folio_heads, folio_lasts, folio_notes, n_slots};
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  const bool has_item = item < n_items;
  const i64 head = has_item ? find_head(store, machine, pfns[item], nids[item], drop_top_tier != 0) : -1;
  /* Lanes with one folio come as one: a million items of a folio are 31,250 that queue for its slot. */
  const u32 peers = __match_any_sync(GS_ALL_LANES, head);
  const int first = __ffs((int)peers) - 1;
  u32 slot = GS_DROPPED;
  if (head >= 0 && (int)lane_id() == first) {
    slot = slot_of(folios, head);
    const u32 n_after = 31u - (u32)__clz((int)peers) - lane_id();
    atomicMax(folio_lasts + slot, (u32)item + n_after + 1);
    if (notes_count)
      atomicAdd(folio_notes + slot, (u32)__popc(peers));
    else
      atomicMax(folio_notes + slot, ~(u32)item);
  }
  slot = __shfl_sync(GS_ALL_LANES, slot, first);
  if (has_item) slots[item] = head >= 0 ? slot : ~(u32)(-1 - head);
}
