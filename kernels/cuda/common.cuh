/* What every kernel uses: types, the store as kernels see it, and steps that a whole warp takes together.
 *
 * In front of this file stand the record layout (gpuscan.records.formats.c_prelude) and the
 * constants of the contract (source.py). Page indexes and counts are 64-bit. Warps
 * have 32 lanes (docs/notes/cuda.md has all that follows from it); wherever a comment says "all lanes", every lane of
 * the warp comes by.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define GS_ALL_LANES 0xffffffffu
#define GS_LANES 32
#define GS_THREADS (GS_LANES * GS_WARPS) /* a warp works on a stretch, a block on a chunk of GS_WARPS */

#define GS_SECTION_SHIFT 15
#define GS_BLOCK_SHIFT 9
#define GS_WORDS_PER_BLOCK 8 /* ready words: 64 bytes */
#define GS_BLOCK_PAGES (1 << GS_BLOCK_SHIFT)

#define GS_READY ((u32)GS_READY_MAX << GS_READY_SHIFT)
#if GS_RECORD_BITS == 8
#define GS_WIDE_READY (GS_READY * 0x01010101u) /* READY of every record in 32 bits */
#else
#define GS_WIDE_READY GS_READY
#endif
#define GS_RECORDS_PER_LOAD (128 / GS_RECORD_BITS) /* in 16 bytes */
#define GS_SECTOR_BYTES 32 /* what memory brings at least */

/* Views of the arrays of gpuscan.kernels.layout.StoreArrays, and what never changes in a store's life. A kernel
 * sets, by name, what it uses; the rest is 0. */
struct Store {
  record_t* records = 0;
  u64* ready_bits = 0;
  u64* block_bits = 0;
  const u64* eligible_bits = 0;
  const u8* folio_order = 0;
  int has_large_folios = 0; /* else folio_order is empty */
  u32* node_active = 0; /* uint8[1024] seen as 32-bit words: one atomic width per array */
  const int* section_nid = 0;
  int fixed_target = 0; /* where the format stores no NID */
  u32 n_targets = 0;
};

static __device__ __forceinline__ u32 lane_id() { return threadIdx.x & 31u; }

static __device__ __forceinline__ u32 lanes_below() { return (1u << lane_id()) - 1u; }

/* Number of this warp, which is the number of its stretch. */
static __device__ __forceinline__ i64 stretch_id() {
  return (i64)blockIdx.x * GS_WARPS + (threadIdx.x >> 5);
}

/* Have the sector at an address brought to the second-level cache, and wait for nothing. A hint for which CUDA C++ has
 * no word, so whoever is no GPU of NVIDIA's leaves it out. */
static __device__ __forceinline__ void prefetch(const void* address) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.L2 [%0];" ::"l"(address));
#endif
}

/* Sum of the values of the lanes up to this one. All lanes. */
template <typename T>
static __device__ __forceinline__ T sum_up_to_lane(T value) {
  for (u32 step = 1; step < GS_LANES; step <<= 1) {
    const T other = __shfl_up_sync(GS_ALL_LANES, value, step);
    if (lane_id() >= step) value += other;
  }
  return value;
}

/* Sum of the values of the threads of the block up to this one; all of them in the last. warp_sums is T[GS_WARPS] in
 * shared memory, which may be used again after a barrier. All threads. */
template <typename T>
static __device__ __forceinline__ T sum_up_to_thread(T value, T* warp_sums) {
  const T up_to = sum_up_to_lane(value);
  if (lane_id() == GS_LANES - 1) warp_sums[threadIdx.x >> 5] = up_to;
  __syncthreads();
  T before = 0;
#pragma unroll 1 /* registers are the caller's */
  for (u32 warp = 0; warp < threadIdx.x >> 5; ++warp) before += warp_sums[warp];
  return before + up_to;
}

/* Whether this block is the last of n_blocks to come here; what the others wrote before is there for it then, past the
 * first-level cache. No block waits for another. n_done is 0 before and afterwards. All threads. */
static __device__ __forceinline__ bool is_last_block(u32* n_done, u32 n_blocks) {
  __shared__ u32 n_before;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) n_before = atomicAdd(n_done, 1u);
  __syncthreads();
  if (n_before != n_blocks - 1) return false;
  if (threadIdx.x == 0) atomicExch(n_done, 0u);
  __threadfence();
  return true;
}

/* Add the values of all threads to a counter: one atomic a block, since those on one address queue. All threads. */
static __device__ __forceinline__ void add_of_block(u64* counter, u64 value) {
  __shared__ u64 warp_sums[GS_WARPS];
  const u64 sum = sum_up_to_thread(value, warp_sums);
  if (threadIdx.x == GS_THREADS - 1 && sum != 0) atomicAdd(counter, sum);
}

/* What a block adds to the totals of a scan, from GS_TOTAL_PAGES on: a place for each warp, u64[GS_N_ADDED][GS_WARPS] in
 * shared memory, which the block sums up at its end. */
#define GS_N_ADDED (GS_TOTAL_UNKNOWN - GS_TOTAL_PAGES + 1)

/* One lane. */
static __device__ __forceinline__ void note_total(u64* added, int total, u64 n) {
  added[(total - GS_TOTAL_PAGES) * GS_WARPS + (threadIdx.x >> 5)] += n;
}

/* What the lanes wrote before is ordered before what any of them reads or writes afterwards, on the whole
 * device: the fence orders a lane's own accesses, the barrier carries that over to the other lanes. All lanes. */
static __device__ __forceinline__ void fence_warp() {
  __threadfence();
  __syncwarp();
}

/* Position of set bit number n (from 0) of a word that has more than n. */
static __device__ __forceinline__ u32 nth_set_bit(u64 word, u32 n) {
  u32 position = 0;
  for (u32 width = 32; width > 0; width >>= 1) {
    const u32 below = (u32)__popcll(word & ((1ull << width) - 1ull));
    if (n >= below) {
      n -= below;
      word >>= width;
      position += width;
    }
  }
  return position;
}

/* Bits of the blocks of [lo, hi), inside one section, in its block word. */
static __device__ __forceinline__ u64 blocks_between(i64 lo, i64 hi) {
  const u32 first = (u32)(lo >> GS_BLOCK_SHIFT) & 63u;
  const u32 n_blocks = (u32)((hi - lo) >> GS_BLOCK_SHIFT);
  return n_blocks == 64 ? ~0ull : ((1ull << n_blocks) - 1ull) << first;
}
