/* name_pfns: a plan into arrays of its own, which stay on the device, with its PFNs. One thread per claim, and one per
 * offset. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    name_pfns(u32 n_targets, const i64* plan_offsets, const i64* plan_flats, const record_t* plan_words, i64 n_items,
              const i64* section_pfn, i64* kept_offsets, i64* kept_flats, record_t* kept_words, i64* plan_pfns) {
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (item <= n_targets) kept_offsets[item] = plan_offsets[item];
  if (item >= n_items) return;
  const i64 flat = plan_flats[item];
  kept_flats[item] = flat;
  kept_words[item] = plan_words[item];
  plan_pfns[item] = section_pfn[flat >> GS_SECTION_SHIFT] + (flat & ((1 << GS_SECTION_SHIFT) - 1));
}
