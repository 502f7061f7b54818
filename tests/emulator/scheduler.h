// Runs one CUDA block: every CUDA thread is a fiber with a stack of its own, one of them runs at a
// time, and each runs until it waits (for lanes of its warp, for the block) or returns. A block lives
// on one OS thread. Nothing here knows CUDA's names: cuda_emulator.h gives them to kernels.
#pragma once

#include "fibers.h"

#include <cstdarg>
#include <cstdio>

namespace emulator {

constexpr unsigned kMaxThreads = 1024;
enum Op : unsigned {
    kNothing, kSyncwarp, kBallot, kAny, kAll, kShfl, kShflUp, kShflDown, kShflXor, kMatchAny,
    kSyncthreads, kSyncthreadsCount, kSyncthreadsAnd, kSyncthreadsOr, kLdcg, kStcg,
};
constexpr const char* kOpNames[] = {
    "nothing", "__syncwarp", "__ballot_sync", "__any_sync", "__all_sync", "__shfl_sync", "__shfl_up_sync",
    "__shfl_down_sync", "__shfl_xor_sync", "__match_any_sync", "__syncthreads", "__syncthreads_count",
    "__syncthreads_and", "__syncthreads_or", "__ldcg", "__stcg",
};

// What the lanes of a warp tell each other. A lane owns its column: what it brought stays until it
// brings the next thing, what it gets is written by the lane that arrived last.
struct Warp {
    uint64_t value[kLanes], result[kLanes];
    uint64_t call[kLanes];  // mask, line and op
    const char* file[kLanes];
    unsigned source[kLanes];
    Fiber* fiber[kLanes];
    unsigned char next_lane[kLanes];  // the order in which lanes get their turn
    unsigned existing, runnable, arrived, done;
    unsigned number, next_warp;
    unsigned generation[kLanes];  // of __syncwarp, per lowest lane of the mask
    uint64_t order[kLanes][2];    // what TSan orders a __syncwarp by
};

struct Launch {
    const char* kernel;
    void (*call)(void** arguments);
    void** arguments;
    uint3 grid, block;
    uint64_t seed;
    bool lanes_apart;  // an explorer gives each lane turns of its own
};

// One per resident block; its stacks are kept for the next one.
struct Block {
    const Launch* launch;
    uint3 index;
    Context starter;
    Warp warps[kMaxThreads / kLanes];
    unsigned n_threads, n_warps, n_done, first_warp;
    unsigned n_at_barrier, n_nonzero, barrier_line;
    Op barrier_op;
    const char* barrier_file;
    unsigned barrier_generation;
    uint64_t barrier_order[2];  // what TSan orders a barrier by
    Stacks stacks;
    bool failed;
    char error[1024];
};

EMULATOR_INTERNAL static uint64_t next_random(uint64_t* state) {  // splitmix64
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

constexpr uint64_t pack_call(Op op, unsigned line, unsigned mask) { return uint64_t(mask) << 32 | line << 8 | op; }
constexpr unsigned mask_of(uint64_t call) { return unsigned(call >> 32); }
constexpr unsigned line_of(uint64_t call) { return unsigned(call) >> 8; }
constexpr const char* name_of(uint64_t call) { return kOpNames[call & 0xff]; }

// Append to the block's error.
EMULATOR_INTERNAL __attribute__((format(printf, 2, 3))) static void say(Block* block, const char* format, ...) {
    size_t used = strlen(block->error);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(block->error + used, sizeof block->error - used, format, arguments);
    va_end(arguments);
}

EMULATOR_INTERNAL static void say_where(Block* block, const Warp* warp, unsigned lane) {
    say(block, "kernel %s, block (%u, %u, %u), warp %u, lane %u, ", block->launch->kernel, block->index.x,
        block->index.y, block->index.z, warp->number, lane);
    say(block, "%s:%u: %s", warp->file[lane], line_of(warp->call[lane]), name_of(warp->call[lane]));
}

EMULATOR_INTERNAL static void say_state(Block* block, const Warp* warp, unsigned lane) {
    if (!(warp->existing >> lane & 1)) {
        say(block, "lane %u does not exist, the block has %u threads", lane, block->n_threads);
    } else if (warp->done >> lane & 1) {
        say(block, "warp %u lane %u has returned", warp->number, lane);
    } else {
        say(block, "warp %u lane %u waits in %s at %s:%u", warp->number, lane, name_of(warp->call[lane]),
            warp->file[lane], line_of(warp->call[lane]));
        if (warp->arrived >> lane & 1) say(block, " with mask 0x%08x", mask_of(warp->call[lane]));
    }
}

EMULATOR_INTERNAL [[noreturn, gnu::cold]] static void give_up(Fiber* self) {
    self->block->failed = true;
    switch_context(self, &self->block->starter, true);
    abort();
}

// The calling lane used an operation wrongly.
EMULATOR_INTERNAL [[noreturn, gnu::cold]] __attribute__((format(printf, 1, 2))) static void misuse(const char* format, ...) {
    Fiber* self = current_fiber();
    char what[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    say_where(self->block, self->warp, self->lane);
    say(self->block, " %s", what);
    give_up(self);
}

// Nobody can run any more, and not all have returned: say who waits for whom.
EMULATOR_INTERNAL static void say_divergence(Block* block) {
    for (unsigned w = 0; w < block->n_warps; w++) {
        Warp* warp = &block->warps[w];
        for (unsigned lane = 0; lane < kLanes; lane++) {
            if (!(warp->arrived >> lane & 1)) continue;
            say_where(block, warp, lane);
            unsigned mask = mask_of(warp->call[lane]);
            say(block, " diverges: it waits for the lanes 0x%08x, but ", mask);
            for (unsigned other = 0; other < kLanes; other++) {
                bool meets = (warp->arrived >> other & 1) && warp->call[other] == warp->call[lane] &&
                             warp->file[other] == warp->file[lane];
                if (meets || !(mask >> other & 1)) continue;
                say_state(block, warp, other);
                return;
            }
            return;
        }
    }
    for (unsigned w = 0; w < block->n_warps; w++) {  // only barriers are left, with somebody who returned
        Warp* warp = &block->warps[w];
        unsigned waiting = warp->existing & ~warp->done;
        if (!waiting) continue;
        say_where(block, warp, __builtin_ctz(waiting));
        say(block, " diverges: it waits for all %u threads, but ", block->n_threads);
        for (unsigned other = 0; other < block->n_warps; other++) {
            if (!block->warps[other].done) continue;
            say_state(block, &block->warps[other], __builtin_ctz(block->warps[other].done));
            return;
        }
    }
}

#if defined(EMULATOR_EXPLORES)
// An explorer gives the turns, and is told who waited for each other.
extern "C" void emulator_lanes_met(Warp* warp, unsigned mask);
extern "C" void emulator_block_met(Block* block);

EMULATOR_INTERNAL static Context* next_to_run(Block* block, const Warp* warp, unsigned lane) {
    if (block->launch->lanes_apart || !warp->runnable) return &block->starter;
    do lane = warp->next_lane[lane];
    while (!(warp->runnable >> lane & 1));
    return warp->fiber[lane];
}
#else
static inline void emulator_lanes_met(Warp*, unsigned) {}
static inline void emulator_block_met(Block*) {}

// Who runs when `warp`'s turn is over at `lane`: its own next lane first, so that a converged warp
// meets after one switch a lane, else the next warp that can run, else nobody.
EMULATOR_INTERNAL static Context* next_to_run(Block* block, const Warp* warp, unsigned lane) {
    const Warp* first = warp;
    while (!warp->runnable) {
        warp = &block->warps[warp->next_warp];
        if (warp == first) {
            if (block->n_done < block->n_threads) {
                say_divergence(block);
                block->failed = true;
            }
            return &block->starter;
        }
    }
    do lane = warp->next_lane[lane];
    while (!(warp->runnable >> lane & 1));
    return warp->fiber[lane];
}
#endif

EMULATOR_INTERNAL static void wait(Fiber* self) {
    switch_context(self, next_to_run(self->block, self->warp, self->lane), false);
}

EMULATOR_INTERNAL static void arrive(Fiber* self, Op op, unsigned mask, const char* file, unsigned line) {
    self->warp->call[self->lane] = pack_call(op, line, mask);
    self->warp->file[self->lane] = file;
}

// All lanes of the mask are here: give each its result.
EMULATOR_INTERNAL static void complete(Warp* warp, unsigned mask, Op op) {
    uint64_t vote = 0;
    switch (op) {
    case kBallot:
    case kAny:
    case kAll:
        for (unsigned lane = 0; lane < kLanes; lane++) vote |= warp->value[lane] << lane;
        vote &= mask;
        if (op != kBallot) vote = op == kAny ? vote != 0 : vote == mask;
        for (unsigned m = mask; m; m &= m - 1) warp->result[__builtin_ctz(m)] = vote;
        break;
    case kShfl:
    case kShflUp:
    case kShflDown:
    case kShflXor:
        for (unsigned m = mask; m; m &= m - 1) {
            unsigned lane = __builtin_ctz(m);
            warp->result[lane] = warp->value[warp->source[lane]];
        }
        break;
    case kMatchAny:
        for (unsigned rest = mask; rest;) {
            unsigned first = __builtin_ctz(rest), same = 0;
            for (unsigned m = rest; m; m &= m - 1) {
                unsigned lane = __builtin_ctz(m);
                same |= unsigned(warp->value[lane] == warp->value[first]) << lane;
            }
            rest &= ~same;
            for (unsigned m = same; m; m &= m - 1) warp->result[__builtin_ctz(m)] = same;
        }
        break;
    default:
        break;
    }
    warp->arrived &= ~mask;
    warp->runnable |= mask;
}

EMULATOR_INTERNAL static bool all_meet(const Warp* warp, unsigned mask, unsigned lane) {
    const uint64_t call = warp->call[lane];
    const char* file = warp->file[lane];
    if (mask != ~0u) {
        for (unsigned m = mask; m; m &= m - 1)
            if (warp->call[__builtin_ctz(m)] != call || warp->file[__builtin_ctz(m)] != file) return false;
        return true;
    }
    bool differ = false;
    for (unsigned other = 0; other < kLanes; other++) differ |= warp->call[other] != call || warp->file[other] != file;
    return !differ;
}

// Wait for the lanes of `mask`. `value` is 0 or 1 in a vote; `source` is the lane that a shuffle reads.
EMULATOR_INTERNAL __attribute__((noinline)) static uint64_t meet_lanes(Op op, unsigned mask, uint64_t value, unsigned source,
                                             const char* file, unsigned line) {
    Fiber* self = current_fiber();
    Warp* warp = self->warp;
    unsigned lane = self->lane;
    arrive(self, op, mask, file, line);
    if (!(mask >> lane & 1)) misuse("is called with mask 0x%08x, which does not name the calling lane", mask);
    if (!(mask >> source & 1)) misuse("reads lane %u, which mask 0x%08x does not name", source, mask);
    warp->value[lane] = value;
    warp->source[lane] = source;
    warp->arrived |= 1u << lane;
    warp->runnable &= ~(1u << lane);
#if defined(EMULATOR_TSAN)
    // Of the warp operations only __syncwarp orders memory (CUDA C++ Programming Guide, "Warp Vote Functions").
    // Two addresses by turns: who is through early and arrives again must not be ordered before the late.
    unsigned lowest = __builtin_ctz(mask);
    uint64_t* order = &warp->order[lowest][warp->generation[lowest] & 1];
    if (op == kSyncwarp) __tsan_release(order);
#endif
    if ((warp->arrived & mask) == mask && all_meet(warp, mask, lane)) {
        warp->generation[__builtin_ctz(mask)]++;
        complete(warp, mask, op);
        emulator_lanes_met(warp, mask);
    } else {
        wait(self);
    }
#if defined(EMULATOR_TSAN)
    if (op == kSyncwarp) __tsan_acquire(order);
#endif
    return warp->result[lane];
}

// Wait for all threads of the block.
EMULATOR_INTERNAL __attribute__((noinline)) static uint64_t meet_block(Op op, uint64_t value, const char* file, unsigned line) {
    Fiber* self = current_fiber();
    Warp* warp = self->warp;
    Block* block = self->block;
    arrive(self, op, 0, file, line);
    if (block->n_at_barrier == 0) {
        block->barrier_op = op;
        block->barrier_file = file;
        block->barrier_line = line;
        block->n_nonzero = 0;
    } else if (block->barrier_op != op || block->barrier_line != line || block->barrier_file != file) {
        misuse("diverges: other threads of the block wait in %s at %s:%u", kOpNames[block->barrier_op],
               block->barrier_file, block->barrier_line);
    }
    block->n_at_barrier++;
    block->n_nonzero += value != 0;
    warp->runnable &= ~(1u << self->lane);
#if defined(EMULATOR_TSAN)
    uint64_t* order = &block->barrier_order[block->barrier_generation & 1];
    __tsan_release(order);
#endif
    if (block->n_at_barrier == block->n_threads) {
        uint64_t result = op == kSyncthreadsCount ? block->n_nonzero
                          : op == kSyncthreadsAnd ? block->n_nonzero == block->n_threads
                                                  : block->n_nonzero != 0;
        for (unsigned w = 0; w < block->n_warps; w++) {
            for (unsigned lane = 0; lane < kLanes; lane++) block->warps[w].result[lane] = result;
            block->warps[w].runnable = block->warps[w].existing;
        }
        block->n_at_barrier = 0;
        block->barrier_generation++;
        emulator_block_met(block);
    } else {
        wait(self);
    }
#if defined(EMULATOR_TSAN)
    __tsan_acquire(order);
#endif
    return warp->result[self->lane];
}

EMULATOR_INTERNAL [[noreturn]] static void run_thread() {
    Fiber* self = current_fiber();
    Block* block = self->block;
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!block->starter.stack_bytes) {  // the first fiber of a block is entered from the starter
        block->starter.stack_bottom = const_cast<void*>(bottom);
        block->starter.stack_bytes = bytes;
    }
#endif
    block->launch->call(block->launch->arguments);
    self->warp->runnable &= ~(1u << self->lane);
    self->warp->done |= 1u << self->lane;
    block->n_done++;
#if defined(EMULATOR_TSAN)
    __tsan_release(&block->n_done);  // the launch ends after all of it
#endif
    switch_context(self, next_to_run(block, self->warp, self->lane), true);
    abort();
}

EMULATOR_INTERNAL static void shuffle(unsigned* items, unsigned n, uint64_t* random) {
    for (unsigned i = 0; i < n; i++) items[i] = i;
    for (unsigned i = n; i > 1; i--) {
        unsigned j = next_random(random) % i, item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

// Put the threads of a block where they start; on failure block->error says why.
EMULATOR_INTERNAL static bool begin_block(Block* block, const Launch* launch, uint64_t linear_index) {
    const uint3 dims = launch->block;
    block->launch = launch;
    block->index = {unsigned(linear_index % launch->grid.x), unsigned(linear_index / launch->grid.x % launch->grid.y),
                    unsigned(linear_index / launch->grid.x / launch->grid.y)};
    block->n_threads = dims.x * dims.y * dims.z;
    block->n_warps = (block->n_threads + kLanes - 1) / kLanes;
    block->n_done = block->n_at_barrier = 0;
    block->failed = false;
    block->error[0] = 0;
    if (!reserve_stacks(&block->stacks, block->n_threads)) {
        say(block, "no memory for the stacks of %u threads", block->n_threads);
        block->failed = true;
        return false;
    }
    uint64_t random = launch->seed ^ linear_index * 0x9e3779b97f4a7c15u;
    unsigned order[kLanes];
    shuffle(order, block->n_warps, &random);
    for (unsigned i = 0; i < block->n_warps; i++) block->warps[order[i]].next_warp = order[(i + 1) % block->n_warps];
    for (unsigned w = 0; w < block->n_warps; w++) {
        Warp* warp = &block->warps[w];
        shuffle(order, kLanes, &random);
        for (unsigned i = 0; i < kLanes; i++) warp->next_lane[order[i]] = order[(i + 1) % kLanes];
        warp->number = w;
        warp->existing = warp->arrived = warp->done = 0;
        for (unsigned lane = 0; lane < kLanes && w * kLanes + lane < block->n_threads; lane++) {
            unsigned thread = w * kLanes + lane;
            Fiber* fiber = prepare_fiber(block->stacks.first + thread * kRegionBytes, run_thread);
            fiber->block = block;
            fiber->warp = warp;
            fiber->lane = lane;
            fiber->thread = {thread % dims.x, thread / dims.x % dims.y, thread / dims.x / dims.y};
            warp->fiber[lane] = fiber;
            warp->existing |= 1u << lane;
        }
        warp->runnable = warp->existing;
    }
    block->first_warp = next_random(&random) % block->n_warps;
    return true;
}

// Run one block to its end; on failure block->error says why.
EMULATOR_INTERNAL static void run_block(Block* block, const Launch* launch, uint64_t linear_index) {
    block->starter = {};
#if defined(EMULATOR_UCONTEXT)
    ucontext_t starter;
    block->starter.stack_pointer = &starter;
#endif
#if defined(EMULATOR_TSAN)
    block->starter.tsan_fiber = __tsan_get_current_fiber();
#endif
    if (!begin_block(block, launch, linear_index)) return;
    switch_context(&block->starter, next_to_run(block, &block->warps[block->first_warp], 0), false);
#if defined(EMULATOR_TSAN)
    __tsan_acquire(&block->n_done);
    for (unsigned i = 0; i < block->n_threads; i++)
        __tsan_destroy_fiber(block->warps[i / kLanes].fiber[i % kLanes]->tsan_fiber);
#endif
}

}  // namespace emulator
