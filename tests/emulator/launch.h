// Launches the kernels of one source: included after it, with EMULATOR_KERNELS(ENTRY) listing their names.
// As a shared object it exports emulator_signatures and emulator_launch; with EMULATOR_RUNNER it is a program
// that reads one launch from a file, since a sanitizer must be there before everything else in its process.
#pragma once

#include "scheduler.h"

#include <link.h>
#include <pthread.h>
#include <type_traits>
#include <utility>

namespace emulator {

// One word per parameter: P or C (pointer to mutable or constant), i, u or f, then the bytes of the item.
struct Signature {
    char text[512];
    template <typename... A>
    explicit Signature(void (*)(A...)) : text{} {
        (add<A>(), ...);
    }
    template <typename T>
    void add() {
        static_assert(std::is_pointer<T>::value || std::is_arithmetic<T>::value,
                      "a kernel takes pointers and numbers");
        size_t used = strlen(text);
        if constexpr (std::is_pointer<T>::value) {
            using Item = std::remove_pointer_t<T>;
            snprintf(text + used, sizeof text - used, " %c%zu", std::is_const<Item>::value ? 'C' : 'P', sizeof(Item));
        } else {
            char kind = std::is_floating_point<T>::value ? 'f' : std::is_signed<T>::value ? 'i' : 'u';
            snprintf(text + used, sizeof text - used, " %c%zu", kind, sizeof(T));
        }
    }
};

template <auto kernel>
struct Caller;
template <typename... A, void (*kernel)(A...)>
struct Caller<kernel> {
    static void call(void** arguments) { spread(arguments, std::index_sequence_for<A...>()); }
    template <size_t... i>
    EMULATOR_INTERNAL static void spread(void** arguments, std::index_sequence<i...>) {
        (void)arguments;
        kernel(*static_cast<std::remove_const_t<A>*>(arguments[i])...);
    }
};

struct Kernel {
    const char* name;
    Signature signature;
    void (*call)(void** arguments);
};

#define EMULATOR_ENTRY(name) {#name, emulator::Signature(&name), emulator::Caller<&name>::call},
static const Kernel kKernels[] = {EMULATOR_KERNELS(EMULATOR_ENTRY)};

struct Resident {  // a block that runs, on an OS thread of its own
    pthread_t thread;
    Block* block;
    const Launch* launch;
    uint64_t index;
};

#if !defined(__SANITIZE_ADDRESS__)
static thread_local char shared_anchor;  // so that there always is thread-local storage

EMULATOR_INTERNAL static int find_shared(dl_phdr_info* info, size_t, void* found) {
    // The segments of the module that this code is in.
    uintptr_t code = reinterpret_cast<uintptr_t>(&find_shared);
    bool is_here = false;
    size_t bytes = 0;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const auto& segment = info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment.p_vaddr;
        if (segment.p_type == PT_LOAD && code >= start && code < start + segment.p_memsz) is_here = true;
        if (segment.p_type == PT_TLS) bytes = segment.p_memsz;
    }
    if (is_here) *static_cast<std::pair<char*, size_t>*>(found) = {static_cast<char*>(info->dlpi_tls_data), bytes};
    return is_here;
}

// Shared memory holds anything but zeros when a block starts. Nothing else of this module is thread-local.
EMULATOR_INTERNAL static void scribble_on_shared(uint64_t random) {
    static_cast<volatile char&>(shared_anchor) = 0;
    std::pair<char*, size_t> shared{};
    dl_iterate_phdr(find_shared, &shared);
    for (size_t i = 0; i + 8 <= shared.second; i += 8) {
        uint64_t word = next_random(&random);
        memcpy(shared.first + i, &word, sizeof word);
    }
}
#endif

EMULATOR_INTERNAL static void* run_resident(void* argument) {
    Resident* resident = static_cast<Resident*>(argument);
#if !defined(__SANITIZE_ADDRESS__)
    scribble_on_shared(resident->launch->seed ^ resident->index);
#endif
    run_block(resident->block, resident->launch, resident->index);
    return nullptr;
}

// Run the blocks `order` in groups of `n_resident` at once; return null, or what went wrong.
EMULATOR_INTERNAL static const char* run_blocks(const Launch* launch, const uint64_t* order, uint64_t n_blocks,
                                                unsigned n_resident) {
    static pthread_mutex_t one_launch = PTHREAD_MUTEX_INITIALIZER;
    static Resident residents[16];
    static char error[sizeof(Block::error)];
    bool failed = false;
    pthread_mutex_lock(&one_launch);
    for (uint64_t first = 0; first < n_blocks && !failed; first += n_resident) {
        unsigned n = n_blocks - first < n_resident ? n_blocks - first : n_resident;
        for (unsigned i = 0; i < n; i++) {
            Resident* resident = &residents[i];
            if (!resident->block) resident->block = static_cast<Block*>(calloc(1, sizeof(Block)));
            resident->launch = launch;
            resident->index = order[first + i];
            if (n_resident == 1) run_resident(resident);
            else if (pthread_create(&resident->thread, nullptr, run_resident, resident)) abort();
        }
        for (unsigned i = 0; i < n; i++) {
            if (n_resident > 1) pthread_join(residents[i].thread, nullptr);
            if (!residents[i].block->failed) continue;
            memcpy(error, residents[i].block->error, sizeof error);
            failed = true;
        }
    }
    pthread_mutex_unlock(&one_launch);
    return failed ? error : nullptr;
}

EMULATOR_INTERNAL static const Kernel* find_kernel(const char* name) {
    for (const Kernel& kernel : kKernels)
        if (!strcmp(kernel.name, name)) return &kernel;
    return nullptr;
}

// One kernel a line: its name and its signature.
EMULATOR_INTERNAL static const char* list_signatures() {
    static char text[16 << 10];
    text[0] = 0;
    for (const Kernel& kernel : kKernels) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%s\n", kernel.name, kernel.signature.text);
    }
    return text;
}

}  // namespace emulator

#if defined(EMULATOR_RUNNER)
#include "runner.h"
#else
extern "C" const char* emulator_signatures() { return emulator::list_signatures(); }
#endif

#if defined(EMULATOR_EXPLORES)
// For explorer.cpp, which runs the kernels of this module.
extern "C" auto emulator_call_of(const char* name) -> void (*)(void**) { return emulator::find_kernel(name)->call; }

extern "C" char* emulator_shared(size_t* n_bytes) {
    static_cast<volatile char&>(emulator::shared_anchor) = 0;
    std::pair<char*, size_t> shared{};
    dl_iterate_phdr(emulator::find_shared, &shared);
    *n_bytes = shared.second;
    return shared.first;
}
#elif !defined(EMULATOR_RUNNER)
// grid_and_block: three numbers each. Returns 0, or 1 with the reason in `error`.
extern "C" int emulator_launch(const char* name, const unsigned* grid_and_block, void** arguments,
                               const uint64_t* order, uint64_t n_blocks, uint64_t seed, unsigned n_resident,
                               char* error, size_t error_bytes) {
    const unsigned* d = grid_and_block;
    const emulator::Kernel* kernel = emulator::find_kernel(name);
    emulator::Launch launch{kernel->name, kernel->call, arguments, {d[0], d[1], d[2]}, {d[3], d[4], d[5]}, seed, false};
    const char* what = emulator::run_blocks(&launch, order, n_blocks, n_resident);
    if (what) snprintf(error, error_bytes, "%s", what);
    return what != nullptr;
}
#endif
