/* For kernels of yours: mark pages of a store from the device, as `request` does, in the order of docs/protocol.md.
 *
 *     extern "C" __global__ void mine(const gpuscan::View* view, ...) {
 *       const int outcome = gpuscan::request(view, pfn, nid);
 *     }
 *
 * gpuscan.kernels.cuda.own_kernels has what this file needs before it, and the view. Any number of threads of any
 * number of kernels may call it while scans run, where claims are atomic; of two that name one folio the hardware
 * picks the last. */

/* A store's arrays, as the host fills it in: 8 bytes each. */
struct View {
  record_t* records;
  u64* ready_bits;
  u64* block_bits;
  const u64* eligible_bits;
  const u8* folio_order;
  u32* node_active;
  const int* section_nid;
  const i64* pfn_start;
  const i64* pfn_end;
  const i64* flat_offset;
  const u8* node_flags;
  i64 n_extents;
  i64 has_large_folios;
  i64 fixed_target;
};

/* Ask for the folio of a page to be moved to a node; return how that ended, a gpuscan.kernels.api.Outcome: GS_ACCEPTED,
 * GS_REFRESHED, or why it was dropped. */
static __device__ __forceinline__ int request(const View* view, i64 pfn, int nid) {
  const Store store = marked_store(view->records, view->ready_bits, view->block_bits, view->eligible_bits,
                                   view->folio_order, (int)view->has_large_folios, view->node_active,
                                   view->section_nid, (int)view->fixed_target);
  const Machine machine = {view->pfn_start, view->pfn_end, view->flat_offset, view->n_extents, view->node_flags};
  const i64 head = find_head(store, machine, pfn, nid, false);
  if (head < 0) return (int)(-1 - head);
  return request_folio(store, head, (u32)wanted_target(store, nid)) ? GS_ACCEPTED : GS_REFRESHED;
}
