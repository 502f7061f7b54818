/* count_bits: how many bits of a bitmap are set. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    count_bits(const u64* bitmap, i64 n_words, u64* n_set) {
  u64 total = 0;
  const i64 n_threads = (i64)gridDim.x * GS_THREADS;
  for (i64 index = (i64)blockIdx.x * GS_THREADS + threadIdx.x; index < n_words; index += n_threads)
    total += (u64)__popcll(__ldcg(bitmap + index));
  add_of_block(n_set, total);
}
