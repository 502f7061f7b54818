/* resolve: the head of every item's folio, or why it is dropped; what ordered producers are sorted by. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    resolve(const u64* eligible_bits, const u8* folio_order, int has_large_folios, const int* section_nid,
            int fixed_target,
            const i64* pfn_start, const i64* pfn_end, const i64* flat_offset, i64 n_extents,
            const u8* node_flags, const i64* pfns, const int* nids, i64 n_items, int drop_top_tier,
            i64* heads) {
  Store store;
  store.eligible_bits = eligible_bits;
  store.folio_order = folio_order;
  store.has_large_folios = has_large_folios;
  store.section_nid = section_nid;
  store.fixed_target = fixed_target;
  const Machine machine = {pfn_start, pfn_end, flat_offset, n_extents, node_flags};
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (item < n_items) heads[item] = find_head(store, machine, pfns[item], nids[item], drop_top_tier != 0);
}
