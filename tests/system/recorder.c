/* Records every change of the files below a folder, with its data, in order: LD_PRELOAD=recorder.so
 *
 * recorder_begin(root, file) appends to a file of records from then on; recorder_end() stops; recorder_mark(text) puts a
 * text into the record; recorder_exit_at(n, syncs) ends the process before its n-th operation, or its n-th sync, from then on. A record is
 *
 *     name[12]  i64 inode  i64 offset  i64 length  u32 path bytes  u32 more bytes  u32 data bytes  path  more  data
 *
 * with paths relative to the root. An operation and its record happen under one lock, so the order of the records is the
 * order of the effects. What failed is not recorded, a short write as far as it went:
 *
 *     create path     a new file of that inode          write offset data
 *     mkdir path      a new folder of that inode        resize length
 *     rename path more; link path more                  allocate length  space up to there
 *     unlink path; rmdir path                           sync     fsync and fdatasync, of a file or of a folder
 *     map path        a shared, writable mapping        mark more
 *     other more      something that is not written down: whoever reads the record must refuse it
 *
 * Only calls that cross a shared library's border are seen; that nothing is missed is for a test to find, by building
 * the folder again from the record.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static long countdown;  /* operations until the process ends; 0 is never */
static int syncs_count; /* only syncs are counted */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct head {
    char name[12];
    int64_t inode, offset, length;
    uint32_t path_bytes, more_bytes, data_bytes;
} __attribute__((packed));

/* Whole or not at all: a record that cannot be written makes all that follow worthless. */
static void put(const void *data, size_t size)
{
    if (size && syscall(SYS_write, log_fd, data, size) != (long)size) {
        abort();
    }
}

static void record(const char *name, int64_t inode, int64_t offset, int64_t length, const char *path, const char *more,
                   const void *data, size_t size)
{
    int before = errno;
    path = *path ? path + root_length + (path[root_length] == '/') : path;
    struct head head = {"", inode, offset, length, strlen(path), strlen(more), size};
    strncpy(head.name, name, sizeof head.name - 1);
    put(&head, sizeof head);
    put(path, head.path_bytes);
    put(more, head.more_bytes);
    put(data, size);
    errno = before;
}

int recorder_begin(const char *folder, const char *file)
{
    if (!realpath(folder, root)) {
        return -1;
    }
    root_length = strlen(root);
    return log_fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

void recorder_end(void)
{
    syscall(SYS_close, log_fd);
    log_fd = -1;
}

void recorder_mark(const char *text)
{
    pthread_mutex_lock(&lock);
    if (log_fd >= 0) {
        record("mark", 0, 0, 0, "", text, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
}

void recorder_exit_at(long n, int syncs)
{
    countdown = n;
    syncs_count = syncs;
}

static int below(const char *path)
{
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The path of an open file; 0 if nothing is being recorded or it is not below the root. */
static int path_of(int fd, char *path)
{
    char link[32];
    int before = errno;
    if (log_fd < 0) {
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
    errno = before;
    return n > 0 && below(path);
}

/* The path of a name relative to a folder's descriptor, likewise. */
static int path_at(int dir, const char *name, char *path)
{
    char base[PATH_MAX];
    if (log_fd < 0) {
        return 0;
    }
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

static int64_t inode_of(int fd)
{
    struct stat found;
    return fstat(fd, &found) ? -1 : (int64_t)found.st_ino;
}

/* An operation begins: the lock is held until it has been recorded. */
static void begin(const char *name)
{
    pthread_mutex_lock(&lock);
    if (countdown > 0 && (!syncs_count || !strcmp(name, "sync")) && --countdown == 0) {
        _exit(77);
    }
}

static void end(void) { pthread_mutex_unlock(&lock); }

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) { \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
    }

/* --- files --- */

ssize_t write(int fd, const void *data, size_t count)
{
    NEXT(write)
    char path[PATH_MAX];
    if (!path_of(fd, path)) {
        return next(fd, data, count);
    }
    begin("");
    ssize_t result = next(fd, data, count);
    if (result > 0) {
        record("write", inode_of(fd), lseek(fd, 0, SEEK_CUR) - result, result, path, "", data, result);
    }
    end();
    return result;
}

#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t count, off_t offset) \
    { \
        NEXT(name) \
        char path[PATH_MAX]; \
        if (!path_of(fd, path)) { \
            return next(fd, data, count, offset); \
        } \
        begin(""); \
        ssize_t result = next(fd, data, count, offset); \
        if (result > 0) { \
            record("write", inode_of(fd), offset, result, path, "", data, result); \
        } \
        end(); \
        return result; \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t writev(int fd, const struct iovec *parts, int n)
{
    NEXT(writev)
    char path[PATH_MAX];
    if (!path_of(fd, path)) {
        return next(fd, parts, n);
    }
    begin("");
    ssize_t result = next(fd, parts, n), left = result;
    off_t offset = lseek(fd, 0, SEEK_CUR) - result;
    for (int i = 0; i < n && left > 0; i++) {
        size_t size = parts[i].iov_len < (size_t)left ? parts[i].iov_len : (size_t)left;
        record("write", inode_of(fd), offset, size, path, "", parts[i].iov_base, size);
        offset += size;
        left -= size;
    }
    end();
    return result;
}

/* One call on an open file, recorded under a name with a length when it has succeeded. */
#define ON_FILE(real, name, length) \
    char path[PATH_MAX]; \
    if (!path_of(fd, path)) { \
        return real; \
    } \
    begin(name); \
    int result = real; \
    if (!result) { \
        record(name, inode_of(fd), 0, length, path, "", NULL, 0); \
    } \
    end(); \
    return result;

int fsync(int fd)
{
    NEXT(fsync)
    ON_FILE(next(fd), "sync", 0)
}

int fdatasync(int fd)
{
    NEXT(fdatasync)
    ON_FILE(next(fd), "sync", 0)
}

int ftruncate(int fd, off_t length)
{
    NEXT(ftruncate)
    ON_FILE(next(fd, length), "resize", length)
}

int ftruncate64(int fd, off_t length)
{
    NEXT(ftruncate64)
    ON_FILE(next(fd, length), "resize", length)
}

/* Space set aside makes the file longer; any other mode is not for us. */
#define ALLOCATE(name, given, passed, mode, type) \
    int name(int fd, given type offset, type length) \
    { \
        NEXT(name) \
        ON_FILE(next(fd, passed offset, length), (mode) ? "other" : "allocate", offset + length) \
    }
#define NOTHING
#define MODE_GIVEN int mode,
#define MODE_PASSED mode,
ALLOCATE(fallocate, MODE_GIVEN, MODE_PASSED, mode, off_t)
ALLOCATE(fallocate64, MODE_GIVEN, MODE_PASSED, mode, off64_t)
ALLOCATE(posix_fallocate, NOTHING, NOTHING, 0, off_t)
ALLOCATE(posix_fallocate64, NOTHING, NOTHING, 0, off64_t)

/* --- names --- */

/* Opening is an operation only where it makes or empties a file. */
#define OPEN(name, given, passed, dir) \
    int name(given const char *file, int flags, ...) \
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
        if (!(flags & (O_CREAT | O_TRUNC)) || !path_at(dir, file, path)) { \
            return next(passed file, flags, mode); \
        } \
        int before = errno, makes = access(path, F_OK); \
        errno = before; \
        if (!makes && !(flags & O_TRUNC)) { \
            return next(passed file, flags, mode); \
        } \
        begin(""); \
        int result = next(passed file, flags, mode); \
        if (result >= 0) { \
            record(makes ? "create" : "resize", inode_of(result), 0, 0, path, "", NULL, 0); \
        } \
        end(); \
        return result; \
    }
#define DIR_GIVEN int dir,
#define DIR_PASSED dir,
OPEN(open, NOTHING, NOTHING, AT_FDCWD)
OPEN(open64, NOTHING, NOTHING, AT_FDCWD)
OPEN(openat, DIR_GIVEN, DIR_PASSED, dir)
OPEN(openat64, DIR_GIVEN, DIR_PASSED, dir)

#define ON_NAME(call, dir, file, real) \
    char path[PATH_MAX]; \
    struct stat made; \
    if (!path_at(dir, file, path)) { \
        return real; \
    } \
    begin(""); \
    int result = real; \
    if (!result) { \
        record(call, lstat(path, &made) ? 0 : (int64_t)made.st_ino, 0, 0, path, "", NULL, 0); \
    } \
    end(); \
    return result;

int mkdir(const char *file, mode_t mode)
{
    NEXT(mkdir)
    ON_NAME("mkdir", AT_FDCWD, file, next(file, mode))
}

int mkdirat(int dir, const char *file, mode_t mode)
{
    NEXT(mkdirat)
    ON_NAME("mkdir", dir, file, next(dir, file, mode))
}

int rmdir(const char *file)
{
    NEXT(rmdir)
    ON_NAME("rmdir", AT_FDCWD, file, next(file))
}

int unlink(const char *file)
{
    NEXT(unlink)
    ON_NAME("unlink", AT_FDCWD, file, next(file))
}

int unlinkat(int dir, const char *file, int flags)
{
    NEXT(unlinkat)
    ON_NAME(flags & AT_REMOVEDIR ? "rmdir" : "unlink", dir, file, next(dir, file, flags))
}

#define TWO_NAMES(call, from_dir, to_dir, real) \
    char path[PATH_MAX], target[PATH_MAX]; \
    int out = path_at(from_dir, from, path), in = path_at(to_dir, to, target); \
    if (!out && !in) { \
        return real; \
    } \
    begin(""); \
    int result = real; \
    if (!result) { \
        record(out && in ? call : "other", 0, 0, 0, out ? path : "", \
               out && in ? target + root_length + 1 : call " over the border", NULL, 0); \
    } \
    end(); \
    return result;

int rename(const char *from, const char *to)
{
    NEXT(rename)
    TWO_NAMES("rename", AT_FDCWD, AT_FDCWD, next(from, to))
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    NEXT(renameat)
    TWO_NAMES("rename", from_dir, to_dir, next(from_dir, from, to_dir, to))
}

int link(const char *from, const char *to)
{
    NEXT(link)
    TWO_NAMES("link", AT_FDCWD, AT_FDCWD, next(from, to))
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    NEXT(linkat)
    TWO_NAMES("link", from_dir, to_dir, next(from_dir, from, to_dir, to, flags))
}

/* --- maps, and what is not written down --- */

static void record_map(int fd, int protection, int flags)
{
    char path[PATH_MAX];
    if (protection & PROT_WRITE && flags & MAP_SHARED && fd >= 0 && path_of(fd, path)) {
        begin("");
        record("map", inode_of(fd), 0, 0, path, "", NULL, 0);
        end();
    }
}

#define MMAP(name) \
    void *name(void *at, size_t size, int protection, int flags, int fd, off_t offset) \
    { \
        NEXT(name) \
        record_map(fd, protection, flags); \
        return next(at, size, protection, flags, fd, offset); \
    }
MMAP(mmap)
MMAP(mmap64)

/* Calls that are not expected on our files: they are named, and whoever reads the record refuses it. */
static void note(const char *call, int fd)
{
    char path[PATH_MAX];
    if (path_of(fd, path)) {
        begin("");
        record("other", inode_of(fd), 0, 0, path, call, NULL, 0);
        end();
    }
}

static void note_at(const char *call, int dir, const char *file)
{
    char path[PATH_MAX];
    if (path_at(dir, file, path)) {
        begin("");
        record("other", 0, 0, 0, path, call, NULL, 0);
        end();
    }
}

#define OTHER(type, name, given, passed, how) \
    type name given \
    { \
        NEXT(name) \
        how; \
        return next passed; \
    }
#define WRITING(type, name, given, passed) OTHER(type, name, given, passed, note(#name, fd))
#define NAMING(type, name, given, passed, dir, file) OTHER(type, name, given, passed, note_at(#name, dir, file))

WRITING(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
WRITING(ssize_t, pwritev64, (int fd, const struct iovec *v, int n, off64_t at), (fd, v, n, at))
WRITING(ssize_t, pwritev2, (int fd, const struct iovec *v, int n, off_t at, int flags), (fd, v, n, at, flags))
WRITING(ssize_t, pwritev64v2, (int fd, const struct iovec *v, int n, off64_t at, int flags), (fd, v, n, at, flags))
WRITING(ssize_t, sendfile, (int fd, int in, off_t *at, size_t n), (fd, in, at, n))
WRITING(ssize_t, sendfile64, (int fd, int in, off64_t *at, size_t n), (fd, in, at, n))
WRITING(ssize_t, copy_file_range, (int in, off64_t *from, int fd, off64_t *to, size_t n, unsigned flags),
        (in, from, fd, to, n, flags))
WRITING(ssize_t, splice, (int in, off64_t *from, int fd, off64_t *to, size_t n, unsigned flags),
        (in, from, fd, to, n, flags))
NAMING(int, creat, (const char *file, mode_t mode), (file, mode), AT_FDCWD, file)
NAMING(int, creat64, (const char *file, mode_t mode), (file, mode), AT_FDCWD, file)
NAMING(int, truncate, (const char *file, off_t size), (file, size), AT_FDCWD, file)
NAMING(int, truncate64, (const char *file, off64_t size), (file, size), AT_FDCWD, file)
NAMING(int, remove, (const char *file), (file), AT_FDCWD, file)
NAMING(int, symlink, (const char *from, const char *to), (from, to), AT_FDCWD, to)
NAMING(int, symlinkat, (const char *from, int dir, const char *to), (from, dir, to), dir, to)
NAMING(int, renameat2, (int dir, const char *from, int to_dir, const char *to, unsigned flags),
       (dir, from, to_dir, to, flags), to_dir, to)

/* stdio's own writes cannot be seen from here. */
#define FOPEN(name) \
    FILE *name(const char *file, const char *mode) \
    { \
        NEXT(name) \
        if (strpbrk(mode, "wa+")) { \
            note_at(#name, AT_FDCWD, file); \
        } \
        return next(file, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)
