/* Fills stores, and runs the ceilings that scans and requests are held against. gpuscan.records.formats.c_prelude,
 * which has record_t and the GS_* constants, comes first. */

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

/* The finalizer of SplitMix64. */
static __device__ __forceinline__ u64 mix(u64 bits) {
  bits += 0x9e3779b97f4a7c15ull;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
  return bits ^ (bits >> 31);
}

/* Make pages READY, all of [hot_lo, hot_hi), each of the others with probability share / 2^32, for a random target,
 * with their index bits. The store is empty. One thread has 64 pages, a word of ready bits. */
extern "C" __global__ void fill(record_t* records, u64* ready_bits, u64* block_bits, i64 n_words, u64 share, i64 hot_lo,
                                i64 hot_hi, u32 n_targets, u64 seed) {
  const i64 n_threads = (i64)gridDim.x * blockDim.x;
  for (i64 word = (i64)blockIdx.x * blockDim.x + threadIdx.x; word < n_words; word += n_threads) {
    u64 marked = 0;
    for (int page = 0; page < 64; ++page) {
      const i64 flat = word * 64 + page;
      const u64 drawn = mix(seed + (u64)flat);
      if ((flat < hot_lo || flat >= hot_hi) && (drawn >> 32) >= share) continue;
      marked |= 1ull << page;
      u32 record = 1u << GS_READY_SHIFT;
#if GS_HAS_NID
      record |= (u32)(mix(drawn) % n_targets) << GS_NID_SHIFT;
#endif
      records[flat] = (record_t)record;
    }
    if (marked == 0) continue;
    ready_bits[word] = marked;
    atomicOr(block_bits + (word >> 9), 1ull << ((word >> 3) & 63));
  }
}

/* The read-only ceiling: every byte once, 4 loads of 16 bytes under way per thread. */
extern "C" __global__ void read_all(const uint4* wide, i64 n_wide, u32* sink) {
  const i64 n_threads = (i64)gridDim.x * blockDim.x;
  u32 seen = 0;
  i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  for (; index + 3 * n_threads < n_wide; index += 4 * n_threads) {
    const uint4 a = __ldcg(wide + index), b = __ldcg(wide + index + n_threads);
    const uint4 c = __ldcg(wide + index + 2 * n_threads), d = __ldcg(wide + index + 3 * n_threads);
    seen |= a.x | a.y | a.z | a.w | b.x | b.y | b.z | b.w | c.x | c.y | c.z | c.w | d.x | d.y | d.z | d.w;
  }
  for (; index < n_wide; index += n_threads) {
    const uint4 a = __ldcg(wide + index);
    seen |= a.x | a.y | a.z | a.w;
  }
  /* Or the compiler drops the loads. Only the test's buffer, all ones, gets here. */
  if (seen == 0xffffffffu) sink[0] = seen;
}

/* The ceiling of requests: one atomic at each position, in the order given. */
extern "C" __global__ void random_atomics(u32* words, const i64* positions, i64 n_positions) {
  const i64 n_threads = (i64)gridDim.x * blockDim.x;
  for (i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x; index < n_positions; index += n_threads)
    atomicOr(words + positions[index], 1u);
}
