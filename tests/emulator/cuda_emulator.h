// The part of CUDA C++ that gpuscan's kernels are written in, for g++. Included before a kernel's source.
// docs/emulator.md says what it runs, what it cannot show and how to add to it.
#pragma once

#include "scheduler.h"

#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static  // ASan puts no red zones around thread-local arrays; its blocks run one by one
#else
#define __shared__ static thread_local
#endif

#define threadIdx (static_cast<const uint3&>(emulator::current_fiber()->thread))
#define blockIdx (static_cast<const uint3&>(emulator::current_fiber()->block->index))
#define blockDim (emulator::current_fiber()->block->launch->block)
#define gridDim (emulator::current_fiber()->block->launch->grid)
constexpr int warpSize = emulator::kLanes;

struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
static inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
static inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

// Warp and block operations. EMULATOR_SITE is where the kernel calls them: lanes that meet elsewhere diverge.
#define EMULATOR_SITE const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()
#if defined(EMULATOR_EXPLORES)
#define EMULATOR_FACE static inline __attribute__((always_inline))  // each call is a place of its own
#else
#define EMULATOR_FACE static inline
#endif

EMULATOR_FACE void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_SITE) {
    emulator::meet_lanes(emulator::kSyncwarp, mask, 0, emulator::current_fiber()->lane, file, line);
}
EMULATOR_FACE unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_SITE) {
    return emulator::meet_lanes(emulator::kBallot, mask, predicate != 0, emulator::current_fiber()->lane, file, line);
}
EMULATOR_FACE int __any_sync(unsigned mask, int predicate, EMULATOR_SITE) {
    return emulator::meet_lanes(emulator::kAny, mask, predicate != 0, emulator::current_fiber()->lane, file, line);
}
EMULATOR_FACE int __all_sync(unsigned mask, int predicate, EMULATOR_SITE) {
    return emulator::meet_lanes(emulator::kAll, mask, predicate != 0, emulator::current_fiber()->lane, file, line);
}

namespace emulator {

template <typename T>
static inline uint64_t to_word(T value) {
    static_assert(std::is_arithmetic<T>::value && sizeof(T) >= 4 && sizeof(T) <= 8, "32 or 64 bits are exchanged");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return word;
}

template <typename T>
static inline T shuffle(Op op, unsigned mask, T value, unsigned operand, int width, const char* file, unsigned line) {
    // PTX ISA, "shfl.sync": the operand counts modulo 32; a source outside the segment means the lane itself,
    // except that `up` may not go below, and `down` and `xor` not above the segment of `width` lanes.
    unsigned lane = current_fiber()->lane, first = lane & ~unsigned(width - 1), last = lane | unsigned(width - 1);
    if (width < 1 || width > int(kLanes) || width & (width - 1)) {
        arrive(current_fiber(), op, mask, file, line);
        misuse("has width %d, which is not 1, 2, 4, 8, 16 or 32", width);
    }
    operand %= kLanes;
    unsigned source = lane;
    if (op == kShfl) source = first | (operand & unsigned(width - 1));
    if (op == kShflUp && lane >= first + operand) source = lane - operand;
    if (op == kShflDown && lane + operand <= last) source = lane + operand;
    if (op == kShflXor && (lane ^ operand) <= last) source = lane ^ operand;
    uint64_t word = meet_lanes(op, mask, to_word(value), source, file, line);
    T result;
    memcpy(&result, &word, sizeof result);
    return result;
}

}  // namespace emulator

template <typename T>
EMULATOR_FACE T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_SITE) {
    return emulator::shuffle(emulator::kShfl, mask, value, unsigned(source), width, file, line);
}
template <typename T>
EMULATOR_FACE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
    return emulator::shuffle(emulator::kShflUp, mask, value, delta, width, file, line);
}
template <typename T>
EMULATOR_FACE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
    return emulator::shuffle(emulator::kShflDown, mask, value, delta, width, file, line);
}
template <typename T>
EMULATOR_FACE T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, EMULATOR_SITE) {
    return emulator::shuffle(emulator::kShflXor, mask, value, unsigned(lane_mask), width, file, line);
}
template <typename T>
EMULATOR_FACE unsigned __match_any_sync(unsigned mask, T value, EMULATOR_SITE) {
    return emulator::meet_lanes(emulator::kMatchAny, mask, emulator::to_word(value), emulator::current_fiber()->lane,
                                file, line);
}

EMULATOR_FACE void __syncthreads(EMULATOR_SITE) { emulator::meet_block(emulator::kSyncthreads, 0, file, line); }
EMULATOR_FACE int __syncthreads_count(int predicate, EMULATOR_SITE) {
    return emulator::meet_block(emulator::kSyncthreadsCount, predicate != 0, file, line);
}
EMULATOR_FACE int __syncthreads_and(int predicate, EMULATOR_SITE) {
    return emulator::meet_block(emulator::kSyncthreadsAnd, predicate != 0, file, line);
}
EMULATOR_FACE int __syncthreads_or(int predicate, EMULATOR_SITE) {
    return emulator::meet_block(emulator::kSyncthreadsOr, predicate != 0, file, line);
}

// Fences order nothing for TSan, which does not model them: data passed by fence and flag is reported as a race.
#if defined(EMULATOR_EXPLORES)
extern "C" void emulator_fence();
EMULATOR_FACE void __threadfence() { emulator_fence(); }
#elif defined(__SANITIZE_THREAD__)
EMULATOR_FACE void __threadfence() { asm volatile("" ::: "memory"); }
#else
EMULATOR_FACE void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif
EMULATOR_FACE void __threadfence_block() { __threadfence(); }

// Atomics: relaxed, on 32- and 64-bit integers; like CUDA's, none for (unsigned) long.
namespace emulator {

template <typename T>
constexpr bool kIsAtomic = std::is_same<T, int>::value || std::is_same<T, unsigned>::value ||
                           std::is_same<T, unsigned long long>::value;
template <typename T>
using Atomic = std::enable_if_t<kIsAtomic<T>, T>;
template <typename T>
using Operand = std::common_type_t<T>;  // converted to the array's type, not deduced

#if defined(EMULATOR_EXPLORES)
extern "C" const void* emulator_last_site();
extern "C" void emulator_looked_at(const void* site);
extern "C" uint64_t emulator_update(void* address, unsigned n_bytes, bool is_max, uint64_t value);

// What an atomic returns. An explorer is told where it is looked at: where nobody does, two that add, say, may come in
// either order.
template <typename T>
struct Looked {
    T value;
    const void* site;
    Looked(T returned) : value(returned), site(emulator_last_site()) {}
    operator T() const {
        emulator_looked_at(site);
        return value;
    }
};
template <typename T>
using Result = Looked<Atomic<T>>;
#else
template <typename T>
using Result = Atomic<T>;
#endif

}  // namespace emulator

template <typename T>
EMULATOR_FACE emulator::Result<T> atomicAdd(T* address, emulator::Operand<T> value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T>
EMULATOR_FACE std::enable_if_t<sizeof(T) == 4, emulator::Result<T>> atomicSub(T* address, emulator::Operand<T> value) {
    return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED);
}
template <typename T>
EMULATOR_FACE emulator::Result<T> atomicAnd(T* address, emulator::Operand<T> value) {
    return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}
template <typename T>
EMULATOR_FACE emulator::Result<T> atomicOr(T* address, emulator::Operand<T> value) {
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <typename T>
EMULATOR_FACE emulator::Result<T> atomicXor(T* address, emulator::Operand<T> value) {
    return __atomic_fetch_xor(address, value, __ATOMIC_RELAXED);
}
template <typename T>
EMULATOR_FACE emulator::Result<T> atomicExch(T* address, emulator::Operand<T> value) {
    return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}
template <typename T>
EMULATOR_FACE emulator::Result<T> atomicCAS(T* address, emulator::Operand<T> expected, emulator::Operand<T> desired) {
    __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <typename T>
EMULATOR_FACE emulator::Result<T> atomicMax(T* address, emulator::Operand<T> value) {
#if defined(EMULATOR_EXPLORES)
    static_assert(std::is_unsigned<T>::value, "an explorer compares words without a sign");
    return T(emulator::emulator_update(address, sizeof(T), true, value));
#else
    T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
#endif
}
template <typename T>
EMULATOR_FACE emulator::Result<T> atomicMin(T* address, emulator::Operand<T> value) {
#if defined(EMULATOR_EXPLORES)
    static_assert(std::is_unsigned<T>::value, "an explorer compares words without a sign");
    return T(emulator::emulator_update(address, sizeof(T), false, value));
#else
    T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (value < seen &&
           !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
#endif
}

// Loads and stores with a cache operator. __ldg and __ldcs are plain ones to TSan. What .cg reads and writes is
// the L2, which all SMs share, so a race with an atomic is what it is for: relaxed accesses, word by word.
namespace emulator {

template <typename T>
struct WordOf {
    using type = std::conditional_t<alignof(T) % 8 == 0, uint64_t,
                                    std::conditional_t<alignof(T) % 4 == 0 && sizeof(T) <= 16, uint32_t, unsigned char>>;
};
template <>
struct WordOf<uint4> {
    using type = uint32_t;  // PTX ISA, "Vector Data-types" of the memory model: one access for each element
};
template <typename T>
using Word = typename WordOf<T>::type;

// A GPU faults on what x86 loads; UBSan sees only the accesses that are not split into words.
template <typename T>
static inline void check_aligned(const T* address, Op op, const char* file, unsigned line) {
    if (!(reinterpret_cast<uintptr_t>(address) % alignof(T))) return;
    arrive(current_fiber(), op, 0, file, line);
    misuse("accesses %p, which is not aligned to %zu bytes", static_cast<const void*>(address), alignof(T));
}

}  // namespace emulator

template <typename T>
EMULATOR_FACE T __ldg(const T* address) {
    return *address;
}
template <typename T>
EMULATOR_FACE T __ldcs(const T* address) {
    return *address;
}
template <typename T>
EMULATOR_FACE T __ldcg(const T* address, EMULATOR_SITE) {
    emulator::check_aligned(address, emulator::kLdcg, file, line);
    using Word = emulator::Word<T>;
    T value;
    for (size_t i = 0; i < sizeof(T) / sizeof(Word); i++) {
        Word word = __atomic_load_n(reinterpret_cast<const Word*>(address) + i, __ATOMIC_RELAXED);
        memcpy(reinterpret_cast<char*>(&value) + i * sizeof word, &word, sizeof word);
    }
    return value;
}
template <typename T>
EMULATOR_FACE void __stcg(T* address, T value, EMULATOR_SITE) {
    emulator::check_aligned(address, emulator::kStcg, file, line);
    using Word = emulator::Word<T>;
    for (size_t i = 0; i < sizeof(T) / sizeof(Word); i++) {
        Word word;
        memcpy(&word, reinterpret_cast<const char*>(&value) + i * sizeof word, sizeof word);
        __atomic_store_n(reinterpret_cast<Word*>(address) + i, word, __ATOMIC_RELAXED);
    }
}

// Integers.
EMULATOR_FACE int __popc(unsigned word) { return __builtin_popcount(word); }
EMULATOR_FACE int __popcll(unsigned long long word) { return __builtin_popcountll(word); }
EMULATOR_FACE int __ffs(int word) { return __builtin_ffs(word); }
EMULATOR_FACE int __ffsll(long long word) { return __builtin_ffsll(word); }
EMULATOR_FACE int __clz(int word) { return word ? __builtin_clz(unsigned(word)) : 32; }
EMULATOR_FACE int __clzll(long long word) { return word ? __builtin_clzll((unsigned long long)word) : 64; }
EMULATOR_FACE unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
EMULATOR_FACE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
EMULATOR_FACE unsigned __brev(unsigned word) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (word >> bit & 1) << (31 - bit);
    return reversed;
}
EMULATOR_FACE unsigned long long __brevll(unsigned long long word) {
    return (unsigned long long)__brev(unsigned(word)) << 32 | __brev(unsigned(word >> 32));
}

// CUDA's min and max: mixed signedness compares as unsigned, mixed width in the wider type.
template <typename A, typename B>
EMULATOR_FACE std::common_type_t<A, B> min(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return y < x ? y : x;
}
template <typename A, typename B>
EMULATOR_FACE std::common_type_t<A, B> max(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return x < y ? y : x;
}
