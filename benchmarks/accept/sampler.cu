/* A kernel of somebody else's that marks pages. gpuscan.kernels.cuda.own_kernels.header comes first. */

extern "C" __global__ void sampler(const gpuscan::View* view, const gpuscan::i64* pfns, const int* nids,
                                   gpuscan::i64 n_items, gpuscan::u8* outcomes) {
  const gpuscan::i64 n_threads = (gpuscan::i64)gridDim.x * blockDim.x;
  for (gpuscan::i64 item = (gpuscan::i64)blockIdx.x * blockDim.x + threadIdx.x; item < n_items; item += n_threads)
    outcomes[item] = (gpuscan::u8)gpuscan::request(view, pfns[item], nids[item]);
}
