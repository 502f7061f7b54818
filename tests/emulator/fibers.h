// Fibers: stacks to run on, and the switch from one to another, announced to the sanitizers.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__) && !defined(EMULATOR_EXPLORES)
#define EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if !defined(__x86_64__)
#define EMULATOR_UCONTEXT
#endif
#if defined(EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

// The emulator's own bookkeeping is shared by fibers on purpose: the sanitizers watch the kernels.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define EMULATOR_INTERNAL __attribute__((no_sanitize("address,undefined,thread"), noinline))
#else
#define EMULATOR_INTERNAL
#endif

struct uint3 {
    unsigned x, y, z;
};

namespace emulator {

constexpr unsigned kLanes = 32;
#if defined(__SANITIZE_ADDRESS__) || defined(EMULATOR_TSAN) || defined(EMULATOR_EXPLORES)
constexpr size_t kRegionBytes = 256 << 10;
#else
constexpr size_t kRegionBytes = 64 << 10;
#endif
// A region, upwards: a guard page, room for a ucontext, the stack, the Fiber, one of 32 offsets. Hot parts that
// all had the same offset would share a few cache sets.
constexpr size_t kGuardBytes = 4 << 10;
constexpr size_t kContextBytes = 4 << 10;
constexpr size_t kOffsetBytes = 384;

// Something that can run: a fiber, or the OS thread that started the block.
struct Context {
    void* stack_pointer;  // or its ucontext_t
    void* stack_bottom;
    size_t stack_bytes;
    void* fake_stack;  // ASan's
    void* tsan_fiber;
};

struct Block;
struct Warp;

struct Fiber : Context {  // a CUDA thread
    Block* block;
    Warp* warp;
    uint3 thread;
    unsigned lane;
    unsigned actor;  // whose turn it takes where an explorer gives turns
};
static_assert(sizeof(Fiber) <= kOffsetBytes && kOffsetBytes % 64 == 0, "Fibers must not share cache lines");

static inline Fiber* fiber_in(uintptr_t region) {
    return reinterpret_cast<Fiber*>(region + kRegionBytes - (region / kRegionBytes % kLanes + 1) * kOffsetBytes);
}

// Found through the stack pointer: cheaper than a thread-local variable, and leaves all of the
// module's thread-local storage to __shared__.
static inline Fiber* current_fiber() {
#if defined(__x86_64__)
    uintptr_t address;
    asm("movq %%rsp, %0" : "=r"(address));
#else
    uintptr_t address = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
#endif
    return fiber_in(address & ~(kRegionBytes - 1));
}

#if !defined(EMULATOR_UCONTEXT)
// swapcontext() asks the kernel for the signal mask: 0.5 us. This is the rest of it. `ret` and not a jump:
// fibers that wait at the same place return to the same place, as the processor predicts.
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
#endif

EMULATOR_INTERNAL static void switch_context(Context* from, Context* to, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from->fake_stack, to->stack_bottom, to->stack_bytes);
#elif defined(EMULATOR_TSAN)
    __tsan_switch_to_fiber(to->tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
    (void)for_good;
#if defined(EMULATOR_UCONTEXT)
    swapcontext(static_cast<ucontext_t*>(from->stack_pointer), static_cast<ucontext_t*>(to->stack_pointer));
#else
    emulator_switch(&from->stack_pointer, to->stack_pointer);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

// Regions for fibers, each aligned to its size.
struct Stacks {
    uintptr_t first;
    unsigned n;
};

EMULATOR_INTERNAL static bool reserve_stacks(Stacks* stacks, unsigned n) {
    if (n <= stacks->n) return true;
    size_t bytes = (n + 1) * kRegionBytes;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    if (stacks->n) munmap(reinterpret_cast<void*>(stacks->first), stacks->n * kRegionBytes);
    stacks->first = (reinterpret_cast<uintptr_t>(memory) + kRegionBytes - 1) & ~(kRegionBytes - 1);
    stacks->n = n;
    for (unsigned i = 0; i < n; i++)
        mprotect(reinterpret_cast<void*>(stacks->first + i * kRegionBytes), kGuardBytes, PROT_NONE);
    return true;
}

// Make the fiber of a region start at `entry` when it is switched to.
EMULATOR_INTERNAL static Fiber* prepare_fiber(uintptr_t region, void (*entry)()) {
    Fiber* fiber = fiber_in(region);
    *fiber = {};
    uintptr_t top = reinterpret_cast<uintptr_t>(fiber), bottom = region + kGuardBytes + kContextBytes;
    fiber->stack_bottom = reinterpret_cast<void*>(bottom);
    fiber->stack_bytes = top - bottom;
#if defined(EMULATOR_UCONTEXT)
    ucontext_t* context = reinterpret_cast<ucontext_t*>(region + kGuardBytes);
    getcontext(context);
    context->uc_stack.ss_sp = fiber->stack_bottom;
    context->uc_stack.ss_size = fiber->stack_bytes;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    fiber->stack_pointer = context;
#else
    void** stack = reinterpret_cast<void**>(top) - 8;  // six registers, the entry, and no caller
    memset(stack, 0, 8 * sizeof(void*));
    stack[6] = reinterpret_cast<void*>(entry);
    fiber->stack_pointer = stack;
#endif
#if defined(EMULATOR_TSAN)
    fiber->tsan_fiber = __tsan_create_fiber(0);
#endif
    return fiber;
}

}  // namespace emulator
