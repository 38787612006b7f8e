/* A library to preload: stops a process at its n-th file operation below a folder, or fills the disk there.

An operation creates, writes, renames, removes or truncates. `fault_arm` begins to count them and writes each to a log,
as "KIND PATH" lines. Modes: 0 count only, 1 kill before it, 2 kill in the middle of a write, 3 the disk is full from it
on, 4 the same in the middle of a write, 5 kill after a write (safetensors renames by a system call of its own). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long target, count;
static int mode, armed, journal = -1;

void fault_arm(const char *folder, const char *log, long number, int how) {
    snprintf(root, sizeof root, "%s", folder);
    journal = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    target = number, mode = how, count = 0, armed = 1;
}

static int below(int folder, const char *path, char *full) {
    char base[PATH_MAX] = "", link[64];
    if (!armed) return 0;
    if (path == NULL || path[0] != '/') {
        snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        base[length < 0 ? 0 : length] = 0;
    }
    snprintf(full, PATH_MAX + 300, path == NULL ? "%s" : "%s%s%s", base, *base ? "/" : "", path);
    return strncmp(full, root, strlen(root)) == 0;
}

static void stop_after(ssize_t done) {
    if (mode == 5 && count == target + 1 && done >= 0) kill(getpid(), SIGKILL);
}

/* 0 do it, 1 write half of it and then stop, -1 the disk is full */
static int operation(const char *kind, const char *full, int grows) {
    char line[PATH_MAX + 400];
    int length = snprintf(line, sizeof line, "%s %s\n", kind, full);
    if (journal >= 0) syscall(SYS_write, journal, line, length);
    long number = count++;
    if (mode == 1 && number == target) kill(getpid(), SIGKILL);
    if (mode == 2 && number == target) return 1;
    if (mode == 4 && number == target) return 1;
    if ((mode == 3 || mode == 4) && number >= target && grows) return -1;
    return 0;
}

static int before(const char *kind, int folder, const char *path, int grows) {
    char full[PATH_MAX + 300];
    if (!below(folder, path, full)) return 0;
    if (operation(kind, full, grows) >= 0) return 0;
    errno = ENOSPC;
    return -1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define CREATES(flags) (((flags) & O_ACCMODE) != O_RDONLY && ((flags) & (O_CREAT | O_TRUNC)))
#define MODE(last) va_list list; va_start(list, last); mode_t bits = va_arg(list, int); va_end(list)

int open(const char *path, int flags, ...) {
    REAL(open); MODE(flags);
    return CREATES(flags) && before("create", AT_FDCWD, path, 1) ? -1 : real(path, flags, bits);
}
int open64(const char *path, int flags, ...) {
    REAL(open64); MODE(flags);
    return CREATES(flags) && before("create", AT_FDCWD, path, 1) ? -1 : real(path, flags, bits);
}
int openat(int folder, const char *path, int flags, ...) {
    REAL(openat); MODE(flags);
    return CREATES(flags) && before("create", folder, path, 1) ? -1 : real(folder, path, flags, bits);
}
int openat64(int folder, const char *path, int flags, ...) {
    REAL(openat64); MODE(flags);
    return CREATES(flags) && before("create", folder, path, 1) ? -1 : real(folder, path, flags, bits);
}
FILE *fopen(const char *path, const char *how) {
    REAL(fopen);
    return strpbrk(how, "wa") && before("create", AT_FDCWD, path, 1) ? NULL : real(path, how);
}
FILE *fopen64(const char *path, const char *how) {
    REAL(fopen64);
    return strpbrk(how, "wa") && before("create", AT_FDCWD, path, 1) ? NULL : real(path, how);
}

/* A write of `size` bytes: how many are written, -1 if none can be. */
static ssize_t allowed(int file, size_t size) {
    char full[PATH_MAX + 300];
    if (!below(file, NULL, full)) return size;
    int how = operation("write", full, 1);
    return how < 0 ? -1 : how > 0 ? (ssize_t)(size / 2) : (ssize_t)size;
}
#define STOPPED(done, size) if ((size_t)(done) < (size) && mode == 2) kill(getpid(), SIGKILL)
#define WRITE(name, type, call, size, half)                                                                            \
    ssize_t part = allowed(file, size);                                                                                \
    if (part < 0 || (part == 0 && size && mode == 4)) { errno = ENOSPC; return -1; }                                   \
    if ((size_t)part == (size_t)(size)) { ssize_t all = call; stop_after(all); return all; }                           \
    ssize_t done = part ? half : 0;                                                                                    \
    STOPPED(done, size);                                                                                               \
    return done

ssize_t write(int file, const void *data, size_t size) {
    REAL(write); WRITE(write, ssize_t, real(file, data, size), size, real(file, data, part));
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    REAL(pwrite); WRITE(pwrite, ssize_t, real(file, data, size, at), size, real(file, data, part, at));
}
ssize_t pwrite64(int file, const void *data, size_t size, off_t at) {
    REAL(pwrite64); WRITE(pwrite64, ssize_t, real(file, data, size, at), size, real(file, data, part, at));
}
ssize_t writev(int file, const struct iovec *parts, int number) {
    REAL(writev);
    size_t size = 0;
    for (int i = 0; i < number; i++) size += parts[i].iov_len;
    WRITE(writev, ssize_t, real(file, parts, number), size,
          syscall(SYS_write, file, parts[0].iov_base, parts[0].iov_len < (size_t)part ? parts[0].iov_len : (size_t)part));
}
ssize_t sendfile(int file, int from, off_t *at, size_t size) {
    REAL(sendfile); WRITE(sendfile, ssize_t, real(file, from, at, size), size, real(file, from, at, 1));
}
ssize_t sendfile64(int file, int from, off64_t *at, size_t size) {
    REAL(sendfile64); WRITE(sendfile64, ssize_t, real(file, from, at, size), size, real(file, from, at, 1));
}
ssize_t copy_file_range(int from, off64_t *at, int file, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    WRITE(copy_file_range, ssize_t, real(from, at, file, to, size, flags), size, real(from, at, file, to, 1, flags));
}

#define ONE(name, kind, folder, path, grows, types, call)                                                              \
    int name types { REAL(name); return before(kind, folder, path, grows) ? -1 : call; }

ONE(rename, "rename", AT_FDCWD, new, 0, (const char *old, const char *new), real(old, new))
ONE(renameat, "rename", b, new, 0, (int a, const char *old, int b, const char *new), real(a, old, b, new))
ONE(renameat2, "rename", b, new, 0, (int a, const char *old, int b, const char *new, unsigned f), real(a, old, b, new, f))
ONE(unlink, "remove", AT_FDCWD, path, 0, (const char *path), real(path))
ONE(unlinkat, "remove", folder, path, 0, (int folder, const char *path, int flags), real(folder, path, flags))
ONE(remove, "remove", AT_FDCWD, path, 0, (const char *path), real(path))
ONE(rmdir, "remove", AT_FDCWD, path, 0, (const char *path), real(path))
ONE(mkdir, "create", AT_FDCWD, path, 1, (const char *path, mode_t bits), real(path, bits))
ONE(mkdirat, "create", folder, path, 1, (int folder, const char *path, mode_t bits), real(folder, path, bits))
ONE(link, "create", AT_FDCWD, new, 1, (const char *old, const char *new), real(old, new))
ONE(linkat, "create", b, new, 1, (int a, const char *old, int b, const char *new, int f), real(a, old, b, new, f))
ONE(symlink, "create", AT_FDCWD, new, 1, (const char *old, const char *new), real(old, new))
ONE(truncate, "truncate", AT_FDCWD, path, 1, (const char *path, off_t size), real(path, size))
ONE(truncate64, "truncate", AT_FDCWD, path, 1, (const char *path, off64_t size), real(path, size))
ONE(ftruncate, "truncate", file, NULL, 1, (int file, off_t size), real(file, size))
ONE(ftruncate64, "truncate", file, NULL, 1, (int file, off64_t size), real(file, size))
ONE(fallocate, "truncate", file, NULL, 1, (int file, int how, off_t at, off_t size), real(file, how, at, size))
ONE(posix_fallocate, "truncate", file, NULL, 1, (int file, off_t at, off_t size), real(file, at, size))
