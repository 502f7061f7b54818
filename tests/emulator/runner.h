// main() of a sanitised build. Without arguments it lists the kernels; with the path of a launch file it runs that
// launch. Each buffer is a heap block of exactly its size, so that one item past the end is in a red zone; it is
// read from its file and written back when the launch went well.
//
// A launch file is text, one item a line, in this order:
//     KERNEL SEED N_RESIDENT
//     gridx gridy gridz blockx blocky blockz
//     N_BUFFERS, then N_BYTES PATH for each; buffer 0 holds the order of the blocks (uint64)
//     N_ARGUMENTS, then "p BUFFER OFFSET" or "n BITS" for each
#pragma once

namespace emulator {

[[noreturn]] EMULATOR_INTERNAL static void broken(const char* what) {
    fprintf(stderr, "the launch file is broken: %s\n", what);
    exit(2);
}

EMULATOR_INTERNAL static void* read_buffer(const char* path, size_t bytes) {
    void* buffer = nullptr;
    if (posix_memalign(&buffer, 256, bytes)) broken("no memory for a buffer");  // cudaMalloc aligns to 256 too
    FILE* file = fopen(path, "rb");
    if (!file || fread(buffer, 1, bytes, file) != bytes) broken(path);
    fclose(file);
    return buffer;
}

EMULATOR_INTERNAL static void write_buffer(const char* path, const void* buffer, size_t bytes) {
    FILE* file = fopen(path, "wb");
    if (!file || fwrite(buffer, 1, bytes, file) != bytes || fclose(file)) broken(path);
}

EMULATOR_INTERNAL static int run_launch_file(const char* path) {
    constexpr unsigned kMost = 64;
    static char name[256], paths[kMost][512];
    static void* buffers[kMost];
    static size_t bytes[kMost];
    static uint64_t words[kMost];
    static void* arguments[kMost];
    Launch launch{};
    unsigned n_resident, n_buffers, n_arguments;
    FILE* file = fopen(path, "r");
    if (!file || fscanf(file, "%255s %lu %u", name, &launch.seed, &n_resident) != 3) broken("first line");
    const Kernel* kernel = find_kernel(name);
    if (!kernel) broken("no such kernel");
    launch.kernel = kernel->name;
    launch.call = kernel->call;
    launch.arguments = arguments;
    uint3 &grid = launch.grid, &block = launch.block;
    if (fscanf(file, "%u %u %u %u %u %u", &grid.x, &grid.y, &grid.z, &block.x, &block.y, &block.z) != 6)
        broken("dimensions");
    if (fscanf(file, "%u", &n_buffers) != 1 || n_buffers > kMost) broken("number of buffers");
    for (unsigned i = 0; i < n_buffers; i++) {
        if (fscanf(file, "%zu %511s", &bytes[i], paths[i]) != 2) broken("buffer");
        buffers[i] = read_buffer(paths[i], bytes[i]);
    }
    if (fscanf(file, "%u", &n_arguments) != 1 || n_arguments > kMost) broken("number of arguments");
    for (unsigned i = 0; i < n_arguments; i++) {
        char kind;
        unsigned buffer;
        size_t offset;
        if (fscanf(file, " %c", &kind) != 1) broken("argument");
        if (kind == 'p') {
            if (fscanf(file, "%u %zu", &buffer, &offset) != 2 || buffer >= n_buffers) broken("pointer");
            words[i] = reinterpret_cast<uint64_t>(static_cast<char*>(buffers[buffer]) + offset);
        } else if (fscanf(file, "%lu", &words[i]) != 1) {
            broken("number");
        }
        arguments[i] = &words[i];
    }
    fclose(file);
    const char* what = run_blocks(&launch, static_cast<uint64_t*>(buffers[0]), bytes[0] / 8, n_resident);
    if (what) {
        fprintf(stderr, "%s\n", what);
        return 3;
    }
    for (unsigned i = 1; i < n_buffers; i++) write_buffer(paths[i], buffers[i], bytes[i]);
    return 0;
}

}  // namespace emulator

EMULATOR_INTERNAL int main(int n, char** arguments) {
    if (n > 1) return emulator::run_launch_file(arguments[1]);
    fputs(emulator::list_signatures(), stdout);
    return 0;
}
