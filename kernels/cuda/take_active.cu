/* take_active: move the flags of activated nodes, 4 to a 32-bit word, out of the store. One thread per word. */

extern "C" __global__ void __launch_bounds__(GS_THREADS) take_active(u32* node_active, u32* taken) {
  if (threadIdx.x < GS_N_NODES_MAX / 4) taken[threadIdx.x] = atomicExch(node_active + threadIdx.x, 0u);
}
