// One small kernel per operation of the emulator; tests/kernels/test_emulator.py knows the answers.

extern "C" __global__ void votes(const int* predicate, unsigned* ballot, int* any, int* all)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    ballot[i] = __ballot_sync(0xffffffffu, predicate[i]);
    any[i] = __any_sync(0xffffffffu, predicate[i]);
    all[i] = __all_sync(0xffffffffu, predicate[i]);
}

// Two halves of a warp in different branches, each with its own mask, meet at different lines.
extern "C" __global__ void half_votes(const int* predicate, unsigned* ballot)
{
    int i = threadIdx.x;
    if (i % 2) {
        ballot[i] = __ballot_sync(0xaaaaaaaau, predicate[i]);
    } else {
        ballot[i] = 0;
        for (int round = 0; round < 3; round++) ballot[i] += __ballot_sync(0x55555555u, predicate[i]) & 0xff;
    }
}

// Each lane leaves the loop after a number of rounds of its own; the mask shrinks with those who stay.
extern "C" __global__ void shrinking(const int* rounds, unsigned* last_mask)
{
    int i = threadIdx.x;
    unsigned mask = 0xffffffffu;
    for (int round = 0;; round++) {
        unsigned stay = __ballot_sync(mask, round < rounds[i]);
        last_mask[i] = mask;
        if (round >= rounds[i]) break;
        mask = stay;
    }
}

extern "C" __global__ void shuffles(const int* value, int operand, int width, int* read, int* up, int* down,
                                    int* crossed)
{
    int i = threadIdx.x;
    read[i] = __shfl_sync(0xffffffffu, value[i], operand, width);
    up[i] = __shfl_up_sync(0xffffffffu, value[i], operand, width);
    down[i] = __shfl_down_sync(0xffffffffu, value[i], operand, width);
    crossed[i] = __shfl_xor_sync(0xffffffffu, value[i], operand, width);
}

extern "C" __global__ void wide_shuffles(const unsigned long long* value, const double* real, unsigned long long* sum,
                                         double* first)
{
    int i = threadIdx.x;
    unsigned long long total = value[i];
    for (int step = 16; step; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
    sum[i] = total;
    first[i] = __shfl_sync(0xffffffffu, real[i], 0);
}

extern "C" __global__ void matches(const unsigned* narrow, const unsigned long long* wide, unsigned* same_narrow,
                                   unsigned* same_wide, unsigned* same_half)
{
    int i = threadIdx.x;
    same_narrow[i] = __match_any_sync(0xffffffffu, narrow[i]);
    same_wide[i] = __match_any_sync(0xffffffffu, wide[i]);
    same_half[i] = i < 16 ? __match_any_sync(0x0000ffffu, narrow[i]) : 0;
}

extern "C" __global__ void reverse_block(const int* in, int* out)
{
    __shared__ int items[1024];
    items[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = items[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void reverse_warp(const int* in, int* out)
{
    __shared__ int items[1024];
    items[threadIdx.x] = in[threadIdx.x];
    __syncwarp();
    out[threadIdx.x] = items[threadIdx.x ^ 31];
}

extern "C" __global__ void block_votes(const int* predicate, int* count, int* all, int* any)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    count[i] = __syncthreads_count(predicate[i]);
    all[i] = __syncthreads_and(predicate[i]);
    any[i] = __syncthreads_or(predicate[i]);
}

// One thread, so that every old value is known.
template <typename T>
__device__ void atomics_of(T* word, T* old)
{
    old[0] = atomicAdd(word, 5);
    old[1] = atomicExch(word, 12);
    old[2] = atomicOr(word, 3);
    old[3] = atomicAnd(word, 14);
    old[4] = atomicXor(word, 6);
    old[5] = atomicMax(word, 4);
    old[6] = atomicMax(word, 100);
    old[7] = atomicMin(word, 200);
    old[8] = atomicMin(word, 50);
    old[9] = atomicCAS(word, T(49), T(1));
    old[10] = atomicCAS(word, T(50), T(2));
    old[11] = atomicAdd(word, T(-3));
    old[12] = atomicMax(word, 1);
}

extern "C" __global__ void atomics_i32(int* word, int* old) { atomics_of(word, old); }
extern "C" __global__ void atomics_u32(unsigned* word, unsigned* old) { atomics_of(word, old); }
extern "C" __global__ void atomics_u64(unsigned long long* word, unsigned long long* old) { atomics_of(word, old); }

extern "C" __global__ void count_up(unsigned* total, unsigned long long* wide, int* difference)
{
    __shared__ unsigned inside;
    if (threadIdx.x == 0) inside = 0;
    __syncthreads();
    atomicAdd(&inside, 1);
    atomicSub(difference, 1);
    atomicAdd(wide, 1ull << 32);
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(total, inside);
}

extern "C" __global__ void integers(int* out)
{
    int n = 0;
    out[n++] = __popc(0xf0f0u);
    out[n++] = __popcll(0xf0000000000000f0ull);
    out[n++] = __ffs(0);
    out[n++] = __ffs(int(0x80000000u));
    out[n++] = __ffsll(0);
    out[n++] = __ffsll(1ll << 40);
    out[n++] = __clz(0);
    out[n++] = __clz(1);
    out[n++] = __clz(-1);
    out[n++] = __clzll(0);
    out[n++] = __clzll(1ll << 40);
    out[n++] = int(__brev(1u) >> 31);
    out[n++] = int(__brev(0x30000000u));
    out[n++] = int(__brevll(1ull << 60));
    out[n++] = int(__umulhi(0x80000000u, 6u));
    out[n++] = int(__umul64hi(1ull << 63, 6ull));
    out[n++] = min(-1, 1) == -1 && max(-1, 1) == 1;
    out[n++] = min(-1, 1u) == 1u && max(-1, 1u) == 0xffffffffu;  // mixed: unsigned, as in CUDA
    out[n++] = max(1ll << 40, 7ll) == 1ll << 40;
    out[n++] = warpSize;
}

extern "C" __global__ void loads_and_stores(const uint4* quads, const ulonglong2* pairs, const unsigned* words, uint4* q,
                                            ulonglong2* p, unsigned* w)
{
    int i = threadIdx.x;
    uint4 quad = __ldcg(quads + i);
    ulonglong2 pair = __ldcg(pairs + i);
    __stcg(q + i, make_uint4(quad.w, quad.z, quad.y, quad.x));
    __stcg(p + i, make_ulonglong2(pair.y, pair.x));
    __stcg(w + i, __ldcg(words + i) + __ldg(words + i) + __ldcs(words + i));
}

extern "C" __global__ void places(uint4* thread, uint4* block)
{
    int i = ((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * (blockDim.x * blockDim.y * blockDim.z) +
            (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    thread[i] = make_uint4(threadIdx.x, threadIdx.y, threadIdx.z, blockDim.y);
    block[i] = make_uint4(blockIdx.x, blockIdx.y, blockIdx.z, gridDim.z);
}

// Who came when.
extern "C" __global__ void __launch_bounds__(64) tickets(unsigned* next, unsigned* ticket)
{
    ticket[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(next, 1);
}

extern "C" __global__ void shared_at_start(unsigned* found)
{
    __shared__ unsigned items[256];
    if (threadIdx.x >= 256) items[0] = 0;  // nobody, but the compiler does not know
    found[blockIdx.x * blockDim.x + threadIdx.x] = items[threadIdx.x];
}

extern "C" __global__ void write_one_read_other(int* one, const int* other, int* seen)
{
    one[threadIdx.x] = int(threadIdx.x) + 1;
    __syncthreads();
    seen[threadIdx.x] = other[threadIdx.x];
}

// Blocks of one launch that are resident together see each other's stores.
extern "C" __global__ void two_blocks_meet(unsigned* here, unsigned* seen)
{
    if (threadIdx.x == 0) {
        atomicAdd(here, 1);
        while (__ldcg(here) < gridDim.x) __threadfence();
        seen[blockIdx.x] = __ldcg(here);
    }
}
