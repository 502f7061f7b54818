/* discard: the records of freed pages become 0; their index bits stay. One thread per item. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    discard(record_t* records, const i64* flats, i64 n_items, u64* n_ready) {
  __shared__ u32 block_counts[1];
  Store store;
  store.records = records;
  begin_counts(block_counts, 1);
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (item < n_items && is_ready(clear_record(store, flats[item]))) atomicAdd(block_counts, 1u);
  end_counts(block_counts, 1, n_ready);
}
