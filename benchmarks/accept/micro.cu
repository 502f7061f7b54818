/* What the model of times assumes, and what the kernels could do otherwise, one thing a kernel.
 * gpuscan.records.formats.c_prelude comes first. */

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define ALL_LANES 0xffffffffu
#define LANES 32
#define TILE (4 * LANES) /* loads of 16 bytes: 2 KiB */

/* A chain of __match_any_sync over the keys of the lanes, which stay as they are. */
extern "C" __global__ void match_chain(const u32* keys, u32 n_rounds, u32* sink) {
  u32 key = keys[threadIdx.x & 31u];
  for (u32 round = 0; round < n_rounds; ++round) key += __match_any_sync(ALL_LANES, key) == 0;
  if (key == ALL_LANES) sink[0] = key;
}

/* Fences, each after a store to a word of the thread's own, or after an exchange. */
extern "C" __global__ void fence_after_store(u32* words, u32 n_rounds) {
  for (u32 round = 0; round < n_rounds; ++round) {
    __stcg(words + blockIdx.x * blockDim.x + threadIdx.x, round);
    __threadfence();
  }
}

extern "C" __global__ void fence_after_exchange(u32* words, u32 n_rounds) {
  for (u32 round = 0; round < n_rounds; ++round) {
    atomicExch(words + blockIdx.x * blockDim.x + threadIdx.x, round);
    __threadfence();
  }
}

/* Compare-exchanges, each of which needs what the one before returned. */
extern "C" __global__ void exchange_chain(u32* words, u32 n_rounds) {
  u32* const mine = words + blockIdx.x * blockDim.x + threadIdx.x;
  u32 expected = __ldcg(mine);
  for (u32 round = 0; round < n_rounds; ++round) expected = atomicCAS(mine, expected, expected + 1) + 1;
}

/* Compare-exchanges of neighbouring words, 4, 8 or 16 bytes each, as a scan would claim a row of records: what all
 * words held and are to hold is known, so none is looked at before. */
static __device__ __forceinline__ void exchange(u32* words, u32 expected, u32 desired) {
  atomicCAS(words, expected, desired);
}

static __device__ __forceinline__ void exchange(uint2* words, u32 expected, u32 desired) {
  atomicCAS((u64*)words, (u64)expected << 32 | expected, (u64)desired << 32 | desired);
}

/* Sixteen bytes at once from sm_90 on, by PTX: before, and where the compiler is another, two times eight. */
static __device__ __forceinline__ void exchange(uint4* words, u32 expected, u32 desired) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const u64 was = (u64)expected << 32 | expected, is = (u64)desired << 32 | desired;
  asm volatile(
      "{\n.reg .b128 was, is, seen;\nmov.b128 was, {%1, %1};\nmov.b128 is, {%2, %2};\n"
      "atom.relaxed.gpu.global.cas.b128 seen, [%0], was, is;\n}"
      :: "l"(words), "l"(was), "l"(is) : "memory");
#else
  exchange((uint2*)words, expected, desired);
  exchange((uint2*)words + 1, expected, desired);
#endif
}

template <typename T>
static __device__ __forceinline__ void exchange_all(T* words, i64 n, u32 first, u32 n_rounds) {
  const i64 n_threads = (i64)gridDim.x * blockDim.x;
  for (u32 round = first; round < first + n_rounds; ++round)
    for (i64 item = (i64)blockIdx.x * blockDim.x + threadIdx.x; item < n; item += n_threads)
      exchange(words + item, round, round + 1);
}

extern "C" __global__ void exchange_4_bytes(u32* words, i64 n_words, u32 first, u32 n_rounds) {
  exchange_all(words, n_words, first, n_rounds);
}

extern "C" __global__ void exchange_8_bytes(u32* words, i64 n_words, u32 first, u32 n_rounds) {
  exchange_all((uint2*)words, n_words / 2, first, n_rounds);
}

extern "C" __global__ void exchange_16_bytes(u32* words, i64 n_words, u32 first, u32 n_rounds) {
  exchange_all((uint4*)words, n_words / 4, first, n_rounds);
}

/* How a tile of 2 KiB is read. */
enum Order { FOUR_AT_ONCE, THREE_AND_ONE, LINE_A_LANE };

template <int kOrder>
static __device__ __forceinline__ u32 read_tile(const uint4* tile) {
  const u32 lane = threadIdx.x & 31u;
  const uint4* const first = tile + (kOrder == LINE_A_LANE ? 4 * lane : lane);
  const int step = kOrder == LINE_A_LANE ? 1 : LANES;
  const uint4 a = __ldcg(first), b = __ldcg(first + step), c = __ldcg(first + 2 * step);
  /* No memory of these is all ones; but the compiler does not know, and the last load waits for the first. */
  const int back = kOrder == THREE_AND_ONE && a.x == ALL_LANES;
  const uint4 d = __ldcg(first + 3 * step - back);
  return (a.x & a.y & a.z & a.w) | (b.x & b.y & b.z & b.w) | (c.x & c.y & c.z & c.w) | (d.x & d.y & d.z & d.w);
}

/* Read n_tiles: the tiles of a warp lie in a row, as in scan_dense, or those of a block do and its warps take turns. */
template <int kOrder, bool kTakesTurns>
static __device__ __forceinline__ void read_tiles(const uint4* wide, i64 n_tiles, u32* sink) {
  const i64 n_warps = (i64)gridDim.x * (blockDim.x / LANES);
  const u32 warps_of_block = blockDim.x / LANES;
  const i64 n_mine = n_tiles / n_warps;
  const i64 warp_of_block = threadIdx.x / LANES;
  const i64 of_block = (i64)blockIdx.x * warps_of_block * n_mine;
  const i64 first = of_block + (kTakesTurns ? warp_of_block : warp_of_block * n_mine);
  const i64 step = kTakesTurns ? warps_of_block : 1;
  u32 seen = 0;
  for (i64 tile = 0; tile < n_mine; ++tile) seen |= read_tile<kOrder>(wide + (first + tile * step) * TILE);
  if (seen == ALL_LANES) sink[0] = seen;
}

extern "C" __global__ void read_in_a_row(const uint4* wide, i64 n_tiles, u32* sink) {
  read_tiles<FOUR_AT_ONCE, false>(wide, n_tiles, sink);
}

extern "C" __global__ void read_in_turns(const uint4* wide, i64 n_tiles, u32* sink) {
  read_tiles<FOUR_AT_ONCE, true>(wide, n_tiles, sink);
}

extern "C" __global__ void read_three_and_one(const uint4* wide, i64 n_tiles, u32* sink) {
  read_tiles<THREE_AND_ONE, false>(wide, n_tiles, sink);
}

extern "C" __global__ void read_line_a_lane(const uint4* wide, i64 n_tiles, u32* sink) {
  read_tiles<LINE_A_LANE, false>(wide, n_tiles, sink);
}
