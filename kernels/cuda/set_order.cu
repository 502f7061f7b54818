/* set_order: make pages folios of one order, on a store at rest. One thread per page. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    set_order(u8* folio_order, const i64* flats, i64 n_items, u32 new_order) {
  const i64 page = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (page >= n_items << new_order) return;
  folio_order[flats[page >> new_order] + (page & ((1ll << new_order) - 1))] = (u8)new_order;
}
