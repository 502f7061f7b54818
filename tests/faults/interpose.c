/* Preloaded: the n-th call that touches something below a directory fails, or the process dies before it.
 *
 * Counted over all threads are the calls of the C library below; those of the kernel's own that a library
 * makes without it are not seen. A call is below the directory by its path, by that of the directory it is
 * relative to, or by that of its file.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_CALLS 65536
enum { DIE = -1 };

static char root[PATH_MAX];
static size_t root_length;
static atomic_int armed, counter;
static int fails_at, fails_with, stays_full;
static char calls[MAX_CALLS];

/* What each call was, for who chooses how it may fail: see server.py. */
void faults_arm(const char *directory, int at, int with, int stays)
{
    root_length = strlen(directory);
    memcpy(root, directory, root_length + 1);
    counter = 0;
    fails_at = at;
    fails_with = with;
    stays_full = stays;
    armed = 1;
}

void faults_disarm(void) { armed = 0; }

int faults_count(void) { return counter; }

const char *faults_calls(void) { return calls; }

static int below_root(const char *path)
{
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
}

static int handle_below(int handle)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return below_root(path);
}

static int path_below(int directory, const char *path)
{
    int handle;
    if (!path)
        return handle_below(directory);
    if (sscanf(path, "/proc/self/fd/%d", &handle) == 1)
        return handle_below(handle);
    if (path[0] == '/')
        return below_root(path);
    if (directory == AT_FDCWD)
        return 0;
    return handle_below(directory);
}

/* Whether this call fails, with errno set; does not return where the process dies. */
static int fails(char kind, int is_below)
{
    if (!is_below)
        return 0;
    int number = atomic_fetch_add(&counter, 1) + 1;
    if (number <= MAX_CALLS)
        calls[number - 1] = kind;
    int takes_room = kind == 'w' || kind == 'W' || kind == 'O';
    if (number != fails_at && !(stays_full && fails_at && number > fails_at && takes_room))
        return 0;
    if (fails_with == DIE) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    errno = fails_with;
    return 1;
}

#define CHECK(kind, is_below, result)                                                                               \
    do {                                                                                                            \
        int saved = errno;                                                                                          \
        if (armed && fails(kind, is_below))                                                                         \
            return result;                                                                                          \
        errno = saved;                                                                                              \
    } while (0)

#define REAL(name)                                                                                                  \
    static __typeof__(&name) real;                                                                                  \
    if (!real)                                                                                                      \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRAP(type, name, parameters, arguments, kind, is_below, result)                                             \
    type name parameters                                                                                            \
    {                                                                                                               \
        REAL(name);                                                                                                 \
        CHECK(kind, is_below, result);                                                                              \
        return real arguments;                                                                                      \
    }

#define WRAP_OPEN(name)                                                                                             \
    int name(const char *path, int flags, ...)                                                                      \
    {                                                                                                               \
        REAL(name);                                                                                                 \
        va_list rest;                                                                                               \
        va_start(rest, flags);                                                                                      \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                     \
        va_end(rest);                                                                                               \
        CHECK(flags & O_CREAT ? 'O' : 'o', path_below(AT_FDCWD, path), -1);                                         \
        return real(path, flags, mode);                                                                             \
    }
#define WRAP_OPENAT(name)                                                                                           \
    int name(int directory, const char *path, int flags, ...)                                                       \
    {                                                                                                               \
        REAL(name);                                                                                                 \
        va_list rest;                                                                                               \
        va_start(rest, flags);                                                                                      \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                     \
        va_end(rest);                                                                                               \
        CHECK(flags & O_CREAT ? 'O' : 'o', path_below(directory, path), -1);                                        \
        return real(directory, path, flags, mode);                                                                  \
    }

WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)
WRAP(FILE *, fopen64, (const char *path, const char *mode), (path, mode), 'o', path_below(AT_FDCWD, path), NULL)
WRAP(DIR *, opendir, (const char *path), (path), 'd', path_below(AT_FDCWD, path), NULL)
WRAP(DIR *, fdopendir, (int handle), (handle), 'r', handle_below(handle), NULL)
WRAP(struct dirent64 *, readdir64, (DIR *entries), (entries), 'r', handle_below(dirfd(entries)), NULL)

WRAP(ssize_t, read, (int h, void *data, size_t n), (h, data, n), 'i', handle_below(h), -1)
WRAP(ssize_t, pread64, (int h, void *data, size_t n, off64_t at), (h, data, n, at), 'i', handle_below(h), -1)
WRAP(ssize_t, write, (int h, const void *data, size_t n), (h, data, n), 'W', handle_below(h), -1)
WRAP(ssize_t, pwrite64, (int h, const void *data, size_t n, off64_t at), (h, data, n, at), 'W', handle_below(h), -1)
WRAP(ssize_t, writev, (int h, const struct iovec *v, int n), (h, v, n), 'W', handle_below(h), -1)
WRAP(int, fsync, (int h), (h), 's', handle_below(h), -1)
WRAP(int, fdatasync, (int h), (h), 's', handle_below(h), -1)
WRAP(int, ftruncate64, (int h, off64_t length), (h, length), 't', handle_below(h), -1)
WRAP(int, flock, (int h, int how), (h, how), 'l', handle_below(h), -1)
WRAP(off64_t, lseek64, (int h, off64_t at, int from), (h, at, from), 'e', handle_below(h), -1)
WRAP(int, fstat64, (int h, struct stat64 *found), (h, found), 'e', handle_below(h), -1)
WRAP(int, fchmod, (int h, mode_t mode), (h, mode), 'r', handle_below(h), -1)

WRAP(int, stat64, (const char *p, struct stat64 *found), (p, found), 'r', path_below(AT_FDCWD, p), -1)
WRAP(int, lstat64, (const char *p, struct stat64 *found), (p, found), 'r', path_below(AT_FDCWD, p), -1)
WRAP(int, fstatat64, (int d, const char *p, struct stat64 *found, int how), (d, p, found, how), 'r',
     path_below(d, p), -1)
WRAP(int, access, (const char *p, int how), (p, how), 'r', path_below(AT_FDCWD, p), -1)
WRAP(int, mkdir, (const char *p, mode_t mode), (p, mode), 'w', path_below(AT_FDCWD, p), -1)
WRAP(int, mkdirat, (int d, const char *p, mode_t mode), (d, p, mode), 'w', path_below(d, p), -1)
WRAP(int, rmdir, (const char *p), (p), 'r', path_below(AT_FDCWD, p), -1)
WRAP(int, unlink, (const char *p), (p), 'r', path_below(AT_FDCWD, p), -1)
WRAP(int, unlinkat, (int d, const char *p, int how), (d, p, how), 'r', path_below(d, p), -1)
WRAP(int, rename, (const char *p, const char *q), (p, q), 'w', path_below(AT_FDCWD, q), -1)
WRAP(int, renameat, (int d, const char *p, int e, const char *q), (d, p, e, q), 'w', path_below(e, q), -1)
WRAP(int, renameat2, (int d, const char *p, int e, const char *q, unsigned how), (d, p, e, q, how), 'w',
     path_below(e, q), -1)
WRAP(int, link, (const char *p, const char *q), (p, q), 'w', path_below(AT_FDCWD, q), -1)
WRAP(int, linkat, (int d, const char *p, int e, const char *q, int how), (d, p, e, q, how), 'w', path_below(e, q), -1)
WRAP(int, symlink, (const char *p, const char *q), (p, q), 'w', path_below(AT_FDCWD, q), -1)
WRAP(void *, mmap64, (void *to, size_t n, int prot, int flags, int h, off64_t at), (to, n, prot, flags, h, at), 'm',
     h >= 0 && handle_below(h), MAP_FAILED)

/* The file is closed whatever close(2) says, as on Linux. */
int close(int handle)
{
    REAL(close);
    int is_below = armed && handle_below(handle), saved = errno;
    if (is_below && fails('c', 1)) {
        int said = errno;
        real(handle);
        errno = said;
        return -1;
    }
    errno = saved;
    return real(handle);
}
