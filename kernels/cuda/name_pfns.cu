/* name_pfns: PFNs of a plan that stays on the device, and its offsets. One thread per place that the plan may have. */

extern "C" __global__ void __launch_bounds__(GS_THREADS)
    name_pfns(u32 n_targets, const i64* plan_offsets, const i64* plan_flats, i64 n_items, const i64* section_pfn,
              i64* kept_offsets, i64* plan_pfns) {
  const i64 item = (i64)blockIdx.x * GS_THREADS + threadIdx.x;
  if (item <= n_targets) kept_offsets[item] = plan_offsets[item];
  if (item >= min(n_items, plan_offsets[n_targets])) return;
  const i64 flat = plan_flats[item];
  plan_pfns[item] = section_pfn[flat >> GS_SECTION_SHIFT] + (flat & ((1 << GS_SECTION_SHIFT) - 1));
}
