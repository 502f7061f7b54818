/* The peer "CUB": its single-pass select (block load, block scan, decoupled look-back between tiles), from the
 * headers that CuPy brings. cub::DeviceSelect itself is host code, which NVRTC cannot compile; this is the
 * composition of public parts that its kernel is. gpuscan.records.formats.c_prelude comes first. */

#include <cub/agent/single_pass_scan_operators.cuh>
#include <cub/block/block_load.cuh>
#include <cub/block/block_scan.cuh>
#include <cuda/std/functional>

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define TILE_THREADS 128
#define TILE_ITEMS 16

using TileState = cub::ScanTileState<u32>;
using Load = cub::BlockLoad<record_t, TILE_THREADS, TILE_ITEMS, cub::BLOCK_LOAD_WARP_TRANSPOSE>;
using Scan = cub::BlockScan<u32, TILE_THREADS, cub::BLOCK_SCAN_WARP_SCANS>;
using Prefix = cub::TilePrefixCallbackOp<u32, cuda::std::plus<>, TileState>;

extern "C" __global__ void cub_begin(u64* states, int n_tiles) {
  TileState state;
  state.Init(n_tiles, states, 0);
  state.InitializeStatus(n_tiles);
}

/* Write target and index of every READY record, in order. The records are a whole number of tiles. */
extern "C" __global__ void __launch_bounds__(TILE_THREADS)
    cub_select(const record_t* records, u64* states, int n_tiles, u16* targets, u32* flats, u32* n_selected) {
  __shared__ union {
    typename Load::TempStorage load;
    struct {
      typename Scan::TempStorage scan;
      typename Prefix::TempStorage prefix;
    } sums;
  } shared;
  TileState state;
  state.Init(n_tiles, states, 0);
  const int tile = (int)blockIdx.x;
  record_t items[TILE_ITEMS];
  Load(shared.load).Load(records + (u64)tile * (TILE_THREADS * TILE_ITEMS), items);
  __syncthreads();
  u32 places[TILE_ITEMS];
  for (int item = 0; item < TILE_ITEMS; ++item) places[item] = (items[item] >> GS_READY_SHIFT) & 1u;
  u32 total;
  if (tile == 0) {
    Scan(shared.sums.scan).ExclusiveSum(places, places, total);
    if (threadIdx.x == 0) state.SetInclusive(0, total);
  } else {
    Prefix prefix(state, shared.sums.prefix, cuda::std::plus<>{}, tile);
    Scan(shared.sums.scan).ExclusiveSum(places, places, prefix);
    total = prefix.GetInclusivePrefix();
  }
  for (int item = 0; item < TILE_ITEMS; ++item) {
    if (((items[item] >> GS_READY_SHIFT) & 1u) == 0) continue;
#if GS_HAS_NID
    targets[places[item]] = (u16)((items[item] >> GS_NID_SHIFT) & GS_NID_MAX);
#else
    targets[places[item]] = 0;
#endif
    flats[places[item]] = ((u32)tile * TILE_THREADS + threadIdx.x) * TILE_ITEMS + item;
  }
  if (tile == n_tiles - 1 && threadIdx.x == 0) *n_selected = total;
}
