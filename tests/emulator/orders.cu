// Small kernels whose executions can be counted by hand, for tests/kernels/test_explorer.py. An actor is a warp's first
// lane, or every lane where lanes are apart (`stride` 1).

static __device__ int actor_of(int stride)
{
    int thread = blockIdx.x * blockDim.x + threadIdx.x;
    return thread % stride ? -1 : thread / stride;
}

// One writes, all others read.
extern "C" __global__ void readers(int stride, int n, unsigned* x, unsigned* seen)
{
    int self = actor_of(stride);
    if (self < 0 || self > n) return;
    if (self == 0) atomicExch(x, 1u);
    else seen[self] = __ldcg(x);
}

// Abdulla et al. 2014: the first looks for the last zero, everybody else counts on from the one before.
extern "C" __global__ void last_zero(int stride, int n, unsigned* items, unsigned* found)
{
    int self = actor_of(stride);
    if (self < 0 || self > n) return;
    if (self == 0) {
        int last = n;
        while (__ldcg(items + last) != 0) last--;
        *found = last;
    } else {
        __stcg(items + self, __ldcg(items + self - 1) + 1);
    }
}

// Flanagan and Godefroid 2005: everybody puts four numbers into a hash table of 128.
extern "C" __global__ void indexer(int stride, int n, unsigned* table)
{
    int self = actor_of(stride);
    if (self < 0 || self >= n) return;
    for (int m = 1; m <= 4; m++) {
        unsigned number = m * 11 + self, slot = number * 7 % 128;
        while (atomicCAS(table + slot, 0u, number) != 0) slot = (slot + 1) % 128;
    }
}

// Each warp runs a program of its own: triples of what, where and a number, to the first 0. What was seen is noted.
enum What { STOP, LOAD, STORE, PLAIN_LOAD, PLAIN_STORE, ADD, ADD_UNSEEN, OR_UNSEEN, AND_SEEN, EXCHANGE, CAS, MAX_UNSEEN, BARRIER, FENCE };

extern "C" __global__ void interpret(const int* programs, int most, unsigned* memory, unsigned* seen)
{
    __shared__ unsigned shared[4];
    if (threadIdx.x < 4) shared[threadIdx.x] = 0;
    __syncthreads();
    const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const bool acts = threadIdx.x % 32 == 0;
    const int* step = programs + warp * most * 3;
    for (int i = 0; i < most && step[0] != STOP; i++, step += 3) {
        const unsigned number = step[2];
        // Places from 4 on are the block's own.
        unsigned* const place = step[1] < 4 ? memory + step[1] : shared + step[1] - 4;
        unsigned* const note = seen + warp * most + i;
        if (step[0] == BARRIER) __syncthreads();
        if (!acts) continue;
        switch (step[0]) {
        case LOAD: *note = __ldcg(place); break;
        case STORE: __stcg(place, number); break;
        case PLAIN_LOAD: *note = *place; break;
        case PLAIN_STORE: *place = number; break;
        case ADD: *note = atomicAdd(place, number); break;
        case ADD_UNSEEN: atomicAdd(place, number); break;
        case OR_UNSEEN: atomicOr(place, number); break;
        case AND_SEEN: *note = atomicAnd(place, number); break;
        case EXCHANGE: *note = atomicExch(place, number); break;
        case CAS: *note = atomicCAS(place, number, number + 1); break;
        case MAX_UNSEEN: atomicMax(place, number); break;
        case FENCE: __threadfence(); break;
        }
    }
}
