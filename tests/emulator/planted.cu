// Small kernels that hold a well-known GPU bug each where `bug` names it, and are sound otherwise.
// tests/kernels/test_emulator_planted.py proves that the emulator sees each.

enum Bug {
    SOUND = 0,
    MISSING_BARRIER = 1,
    PLAIN_HISTOGRAM = 2,
    READ_PAST_END = 3,
    SHORT_SHARED = 4,
    SHORT_SHARED_BEHIND_POINTER = 5,
    NARROW_INDEX = 6,
    DIVERGENT_SHUFFLE = 7,
    EARLY_RETURN = 8,
    OTHER_COLLECTIVE = 9,
    CALLER_NOT_IN_MASK = 10,
    SOURCE_NOT_IN_MASK = 11,
    DIVERGENT_BARRIER = 12,
    OTHER_BARRIER = 13,
    BLOCK_ORDER = 14,
    PLAIN_CLAIM = 15,
    READ_ONLY_CACHE = 16,
    MISSING_SYNCWARP = 17,
    BALLOT_AS_BARRIER = 18,
    MISALIGNED_QUAD = 19,
    MISALIGNED_CACHED_QUAD = 20,
    WIDE_SHIFT = 21,
    FENCE_AS_BARRIER = 22,
    ONE_BARRIER_A_ROUND = 23,
    ONE_SYNCWARP_A_ROUND = 24,
};

__device__ __noinline__ void bump(unsigned* bins, unsigned bin) { atomicAdd(bins + bin, 1); }

template <int n_bins>
__device__ void histogram_of(int bug, const unsigned* items, int n, unsigned* counts)
{
    __shared__ unsigned bins[n_bins];
    for (int bin = threadIdx.x; bin < n_bins; bin += blockDim.x) bins[bin] = 0;
    if (bug == FENCE_AS_BARRIER) __threadfence_block();
    else if (bug != MISSING_BARRIER) __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n + (bug == READ_PAST_END)) {
        if (bug == PLAIN_HISTOGRAM) bins[items[i] % 64]++;
        else if (bug == SHORT_SHARED_BEHIND_POINTER) bump(bins, items[i] % 64);
        else atomicAdd(&bins[items[i] % 64], 1);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < n_bins; bin += blockDim.x)
        if (bins[bin]) atomicAdd(&counts[bin], bins[bin]);
}

extern "C" __global__ void histogram(int bug, const unsigned* items, int n, unsigned* counts)
{
    if (bug == SHORT_SHARED || bug == SHORT_SHARED_BEHIND_POINTER) histogram_of<60>(bug, items, n, counts);
    else histogram_of<64>(bug, items, n, counts);
}

// Each block marks the last of its 2,048 pages.
extern "C" __global__ void mark_last(int bug, unsigned* records)
{
    long long page = (blockIdx.x + 1ll) * 2048 - 1;
    if (bug == NARROW_INDEX) page = (blockIdx.x + 1) * 2048 - 1;
    if (threadIdx.x == 0) records[page] = 1;
}

// A warp's sum of its items, to each of the lanes.
extern "C" __global__ void sum_of_warp(int bug, const unsigned* items, unsigned* sums)
{
    const unsigned item = items[threadIdx.x];
    unsigned sum = item;
    if (bug == EARLY_RETURN && item == 0) return;
    if (bug != DIVERGENT_SHUFFLE || item)
        for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (bug == CALLER_NOT_IN_MASK) sum += __any_sync(0x0fffffffu, 0);
    if (bug == SOURCE_NOT_IN_MASK && threadIdx.x < 16) sum += __shfl_sync(0x0000ffffu, 0, 16);
    if (bug == OTHER_COLLECTIVE && item) sum += __any_sync(0xffffffffu, 0);
    else if (bug == OTHER_COLLECTIVE) sum += __all_sync(0xffffffffu, 0);
    sums[threadIdx.x] = sum;
}

extern "C" __global__ void sum_of_block(int bug, const unsigned* items, unsigned* sums)
{
    __shared__ unsigned sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    const unsigned item = items[threadIdx.x];
    if (item) atomicAdd(&sum, item);
    if (bug == OTHER_BARRIER && item) __syncthreads_or(1);
    else if (bug != DIVERGENT_BARRIER || item) __syncthreads();
    sums[threadIdx.x] = sum;
}

// Where a block's items go: found by counting, not by coming first.
extern "C" __global__ void place(int bug, const unsigned* n_before, unsigned* next, unsigned* out)
{
    if (threadIdx.x) return;
    if (bug == BLOCK_ORDER) out[atomicAdd(next, 1)] = blockIdx.x;
    else out[n_before[blockIdx.x]] = blockIdx.x;
}

// Every block looks at every record and claims those that are READY (bit 0).
extern "C" __global__ void claim(int bug, unsigned* records, unsigned* n_claimed)
{
    unsigned* record = records + threadIdx.x;
    const unsigned word = bug == READ_ONLY_CACHE ? __ldg(record) : __ldcg(record);
    if (!(word & 1)) return;
    if (bug == PLAIN_CLAIM) {
        *record = 0;
        atomicAdd(n_claimed, 1);
    } else if (atomicCAS(record, word, 0) == word) {
        atomicAdd(n_claimed, 1);
    }
}

extern "C" __global__ void neighbours(int bug, const unsigned* items, unsigned* out)
{
    __shared__ unsigned staged[32];
    staged[threadIdx.x] = items[threadIdx.x];
    if (bug == BALLOT_AS_BARRIER) __ballot_sync(0xffffffffu, 1);
    else if (bug != MISSING_SYNCWARP) __syncwarp();
    out[threadIdx.x] = staged[(threadIdx.x + 1) % 32];
}

// Items go round by one place in each round: all read before any writes again.
extern "C" __global__ void rounds(int bug, const unsigned* items, unsigned* out)
{
    __shared__ unsigned staged[64];
    unsigned item = items[threadIdx.x];
    for (int round = 0; round < 3; round++) {
        staged[threadIdx.x] = item;
        __syncthreads();
        item = staged[(threadIdx.x + 1) % 64];
        if (bug != ONE_BARRIER_A_ROUND) __syncthreads();
    }
    const unsigned first = threadIdx.x / 32 * 32;
    for (int round = 0; round < 3; round++) {
        staged[threadIdx.x] = item;
        __syncwarp();
        item = staged[first + (threadIdx.x + 1) % 32];
        if (bug != ONE_SYNCWARP_A_ROUND) __syncwarp();
    }
    out[threadIdx.x] = item;
}

extern "C" __global__ void quads(int bug, const unsigned* items, int first, unsigned* out)
{
    const bool misaligned = bug == MISALIGNED_QUAD || bug == MISALIGNED_CACHED_QUAD;
    const uint4* quad = reinterpret_cast<const uint4*>(items + (misaligned ? first : first / 4 * 4));
    out[0] = bug == MISALIGNED_QUAD ? quad->x : __ldcg(quad).x;
    out[1] = 1u << (bug == WIDE_SHIFT ? first + 31 : first);
}
