/* Records, and can make fail, the file operations of a process: LD_PRELOAD=syncspy.so SYNCSPY_ROOT=/data ...
 *
 * Calls on files below SYNCSPY_ROOT, once they have returned, and what is sent over TCP, before it is sent, are written
 * to the file SYNCSPY_LOG, a line each (one write(2) with O_APPEND):
 *
 *     start_ns end_ns tid call result bytes path [second path | first bytes of what was sent, in hex]
 *
 * Times are CLOCK_MONOTONIC, Python's time.monotonic_ns(). With syncspy_arm(n, mode) the n-th operation from
 * then on that changes or syncs files below the root does not happen: mode "exit" ends the process there at once, "tear"
 * too, but a write is half done; an errno's number makes the call fail with it, once; with a '+' behind it that one and
 * all later ones do, until syncspy_arm(0, ""). ENOSPC leaves syncs and removals alone.
 *
 * Only calls that cross a shared library's border are seen; stdio's inner writes and direct system calls are not.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SHOWN 256 /* bytes of a message that are logged */

static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static atomic_long countdown; /* operations until the failure; 0 is none */
static atomic_long seen;      /* operations since armed */
static int fail_errno, fail_exit, fail_tear, fail_short, fail_sticky;
static atomic_long disturbed; /* operations that failed or stopped short since armed */
static atomic_int failing; /* a sticky failure has begun */

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Arm the n-th operation from now; 0 disarms. Not to be called while other threads work. */
void syncspy_arm(long n, const char *mode)
{
    atomic_store(&countdown, 0);
    atomic_store(&failing, 0);
    atomic_store(&seen, 0);
    if (n) {
        atomic_store(&disturbed, 0);
    }
    fail_tear = !strcmp(mode, "tear");
    fail_short = !strncmp(mode, "short", 5);
    fail_exit = fail_tear || !strcmp(mode, "exit");
    fail_errno = fail_exit ? 0 : atoi(mode);
    fail_sticky = strchr(mode, '+') != NULL;
    atomic_store(&countdown, n);
}

/* Operations that changed files since armed. */
long syncspy_seen(void) { return atomic_load(&seen); }

/* Operations that failed or stopped short since armed last with n > 0. */
long syncspy_disturbed(void) { return atomic_load(&disturbed); }

/* Record to a file from now on. */
void syncspy_log(const char *file) { log_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644); }

__attribute__((constructor)) static void begin(void)
{
    const char *given = getenv("SYNCSPY_ROOT"), *file = getenv("SYNCSPY_LOG");
    if (given && realpath(given, root)) {
        root_length = strlen(root);
    }
    if (file) {
        syncspy_log(file);
    }
}

static int below(const char *path)
{
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int path_of(int fd, char *path)
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
    return n > 0 && below(path);
}

/* The path of a name relative to a folder's descriptor; 0 if it is not below the root. */
static int path_at(int dir, const char *name, char *path)
{
    char base[PATH_MAX];
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        if (dir == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(dir, base)) {
            return 0;
        }
        snprintf(path, PATH_MAX, "%.2000s/%.2000s", base, name);
    }
    return below(path);
}

static void record(long long start, const char *call, long result, size_t bytes, const char *path, const char *more)
{
    if (log_fd < 0) {
        return;
    }
    int before = errno;
    char line[2 * PATH_MAX + 4 * SHOWN];
    int n = snprintf(line, sizeof line, "%lld %lld %ld %s %ld %zu %s %s\n", start, now(), syscall(SYS_gettid), call,
                     result, bytes, path, more);
    syscall(SYS_write, log_fd, line, (size_t)n < sizeof line ? (size_t)n : sizeof line);
    errno = before;
}

enum kind { WRITES, SYNCS, REMOVES };

enum half { WHOLE, TORN, SHORT };

/* Whether this operation is to fail; errno is set. In exit mode it does not return. */
static int fails(enum kind kind, enum half *half)
{
    atomic_fetch_add(&seen, 1);
    int hit = 0;
    if (atomic_load(&countdown) > 0 && atomic_fetch_sub(&countdown, 1) == 1) {
        hit = 1;
        if (fail_tear && half) {
            *half = TORN;
            return 0;
        }
        if (fail_exit) {
            _exit(77);
        }
        atomic_store(&failing, fail_sticky);
    } else {
        hit = atomic_load(&failing);
    }
    if (hit && fail_errno == ENOSPC && kind != WRITES) {
        hit = 0;
    }
    if (hit && fail_short) {
        if (half) {
            *half = SHORT;
            atomic_fetch_add(&disturbed, 1);
        }
        return 0;
    }
    if (hit) {
        atomic_fetch_add(&disturbed, 1);
        errno = fail_errno;
    }
    return hit;
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) { \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
    }

#define ON_FILE(call, kind, bytes, real, torn) \
    char path[PATH_MAX]; \
    if (!path_of(fd, path)) { \
        return real; \
    } \
    enum half half = WHOLE; \
    long long start = now(); \
    if (fails(kind, torn ? &half : NULL)) { \
        record(start, call, -1, bytes, path, ""); \
        return -1; \
    }

ssize_t write(int fd, const void *data, size_t count)
{
    NEXT(write)
    ON_FILE("write", WRITES, count, next(fd, data, count), 1)
    ssize_t result = next(fd, data, half == WHOLE ? count : (count + 1) / 2);
    if (half == TORN) {
        _exit(77);
    }
    record(start, "write", result, count, path, "");
    return result;
}

#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t count, off_t offset) \
    { \
        NEXT(name) \
        ON_FILE("pwrite", WRITES, count, next(fd, data, count, offset), 1) \
        ssize_t result = next(fd, data, half == WHOLE ? count : (count + 1) / 2, offset); \
        if (half == TORN) { \
            _exit(77); \
        } \
        record(start, "pwrite", result, count, path, ""); \
        return result; \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define SYNC(name) \
    int name(int fd) \
    { \
        NEXT(name) \
        ON_FILE(#name, SYNCS, 0, next(fd), 0) \
        int result = next(fd); \
        record(start, #name, result, 0, path, ""); \
        return result; \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name) \
    int name(int fd, off_t length) \
    { \
        NEXT(name) \
        ON_FILE("ftruncate", WRITES, 0, next(fd, length), 0) \
        int result = next(fd, length); \
        record(start, "ftruncate", result, 0, path, ""); \
        return result; \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define ON_NAME(call, kind, dir, name, real) \
    char path[PATH_MAX]; \
    if (!path_at(dir, name, path)) { \
        return real; \
    } \
    long long start = now(); \
    int result = fails(kind, NULL) ? -1 : real; \
    record(start, call, result, 0, path, ""); \
    return result;

int unlink(const char *name)
{
    NEXT(unlink)
    ON_NAME("unlink", REMOVES, AT_FDCWD, name, next(name))
}

int unlinkat(int dir, const char *name, int flags)
{
    NEXT(unlinkat)
    ON_NAME("unlink", REMOVES, dir, name, next(dir, name, flags))
}

int rmdir(const char *name)
{
    NEXT(rmdir)
    ON_NAME("rmdir", REMOVES, AT_FDCWD, name, next(name))
}

int mkdir(const char *name, mode_t mode)
{
    NEXT(mkdir)
    ON_NAME("mkdir", WRITES, AT_FDCWD, name, next(name, mode))
}

int rename(const char *from, const char *to)
{
    NEXT(rename)
    char path[PATH_MAX], target[PATH_MAX];
    if (!path_at(AT_FDCWD, from, path) || !path_at(AT_FDCWD, to, target)) {
        return next(from, to);
    }
    long long start = now();
    int result = fails(WRITES, NULL) ? -1 : next(from, to);
    record(start, "rename", result, 0, path, target);
    return result;
}

/* Opening counts only where it makes or empties a file. */
#define OPEN(name) \
    int name(const char *file, int flags, ...) \
    { \
        NEXT(name) \
        mode_t mode = 0; \
        if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
            va_list more; \
            va_start(more, flags); \
            mode = va_arg(more, mode_t); \
            va_end(more); \
        } \
        char path[PATH_MAX]; \
        int makes = (flags & O_TRUNC) || ((flags & O_CREAT) && access(file, F_OK)); \
        if (!makes || !path_at(AT_FDCWD, file, path)) { \
            return next(file, flags, mode); \
        } \
        long long start = now(); \
        int result = fails(WRITES, NULL) ? -1 : next(file, flags, mode); \
        record(start, "create", result, 0, path, ""); \
        return result; \
    }
OPEN(open)
OPEN(open64)

/* --- what is sent over TCP --- */

/* The peer's port, or 0 if the descriptor is no TCP socket. */
static int port_of(int fd)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    if (log_fd < 0 || getpeername(fd, (struct sockaddr *)&peer, &size)) {
        return 0;
    }
    if (peer.ss_family == AF_INET) {
        return ntohs(((struct sockaddr_in *)&peer)->sin_port);
    }
    return peer.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&peer)->sin6_port) : 0;
}

/* Before it is sent: whoever has the answer finds it in the log. */
static void record_sent(const char *call, int port, const struct iovec *parts, size_t n)
{
    char hex[2 * SHOWN + 1], name[32];
    size_t total = 0, shown = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char *data = parts[i].iov_base;
        for (size_t j = 0; j < parts[i].iov_len && shown < SHOWN; j++, shown++) {
            snprintf(hex + 2 * shown, 3, "%02x", data[j]);
        }
        total += parts[i].iov_len;
    }
    hex[2 * shown] = 0;
    snprintf(name, sizeof name, "tcp:%d", port);
    record(now(), call, 0, total, name, hex);
}

#define ON_SOCKET(call, real, parts, n) \
    int before = errno, port = port_of(fd); \
    if (port) { \
        record_sent(call, port, parts, n); \
    } \
    errno = before; \
    return real;

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    NEXT(sendmsg)
    ON_SOCKET("sendmsg", next(fd, message, flags), message->msg_iov, message->msg_iovlen)
}

ssize_t send(int fd, const void *data, size_t count, int flags)
{
    NEXT(send)
    struct iovec part = {(void *)data, count};
    ON_SOCKET("send", next(fd, data, count, flags), &part, 1)
}

ssize_t sendto(int fd, const void *data, size_t count, int flags, const struct sockaddr *to, socklen_t size)
{
    NEXT(sendto)
    struct iovec part = {(void *)data, count};
    ON_SOCKET("sendto", next(fd, data, count, flags, to, size), &part, 1)
}

ssize_t writev(int fd, const struct iovec *parts, int n)
{
    NEXT(writev)
    ON_SOCKET("writev", next(fd, parts, n), parts, (size_t)n)
}
