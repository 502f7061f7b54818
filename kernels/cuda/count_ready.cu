/* count_ready: how many records are READY, read 16 bytes at a time. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    count_ready(const record_t* records, i64 n_pages, u64* n_ready) {
  u64 total = 0;
  const uint4* const wide = (const uint4*)records;
  const i64 n_wide = n_pages / GS_RECORDS_PER_LOAD;
  const i64 n_threads = (i64)gridDim.x * GS_THREADS;
  for (i64 index = (i64)blockIdx.x * GS_THREADS + threadIdx.x; index < n_wide; index += n_threads) {
    const uint4 loaded = __ldcg(wide + index);
    total += __popc(loaded.x & GS_WIDE_READY) + __popc(loaded.y & GS_WIDE_READY) +
             __popc(loaded.z & GS_WIDE_READY) + __popc(loaded.w & GS_WIDE_READY);
  }
  add_of_block(n_ready, total);
}
