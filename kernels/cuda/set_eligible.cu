/* set_eligible: set or clear the eligible bit of pages. One thread per item. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    set_eligible(u64* eligible_bits, const i64* flats, i64 n_items, int eligible) {
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (item >= n_items) return;
  const u64 bit = 1ull << (flats[item] & 63);
  u64* const word = eligible_bits + (flats[item] >> 6);
  if (eligible)
    atomicOr(word, bit);
  else
    atomicAnd(word, ~bit);
}
