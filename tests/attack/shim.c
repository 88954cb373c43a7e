// Preloaded by `python tests/attack`: counts the file calls of a process below one folder and, at
// the n-th, kills it, writes half of what it should, or fails. Nothing happens before attack_arm.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
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

enum { OFF, KILL, HALF, SHORT, FAIL, FULL };        // what to do
enum { CHANGE = 1, WRITE = 2, GROW = 4, LOOK = 8 };  // kinds of calls

static struct { _Atomic long count; char last[512]; } *shared;  // also seen by the parent
static int mode, error, mask;
static long at;
static char folder[256];

__attribute__((constructor)) static void begin(void) {
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}
void attack_arm(int m, long n, int e, int kinds, const char *below) {
    snprintf(folder, sizeof folder, "%s/", below);
    at = n, error = e, mask = kinds, mode = m;
}
void attack_clear(void) { shared->count = 0; shared->last[0] = 0; }
long attack_count(void) { return shared->count; }
const char *attack_last(void) { return shared->last; }

// The path of a call: that of a file, or of a name in an open folder, or of an open file.
static const char *full(int dir, const char *name, char *room) {
    if (name && (name[0] == '/' || dir == AT_FDCWD)) return name;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    long n = syscall(SYS_readlink, link, room, 2000);
    if (n < 0) return "";
    room[n] = 0;
    if (name) snprintf(room + n, 2000, "/%s", name);
    return room;
}
static int hit(int kinds, const char *call, int dir, const char *name) {
    if (!mode || !(kinds & mask)) return OFF;
    char room[4096];
    int before = errno;
    const char *path = full(dir, name, room);
    errno = before;
    if (strncmp(path, folder, strlen(folder))) return OFF;
    long n = atomic_fetch_add(&shared->count, 1) + 1;
    if (mode == FULL ? n < at : n != at) return OFF;
    if (n == at) snprintf(shared->last, sizeof shared->last, "%s %s", call, path + strlen(folder));
    if (mode == KILL) kill(getpid(), SIGKILL), pause();
    if (mode == FULL && n == at && kinds & WRITE) return SHORT;
    return mode;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL(kinds, name, dir, path, ...)                               \
    if (hit(kinds, #name, dir, path)) { errno = error; return -1; }      \
    return REAL(name)(__VA_ARGS__);

static int opens(int dir, const char *path, int flags) {
    char room[4096];
    struct stat s;
    int there = !mode || !syscall(SYS_newfstatat, AT_FDCWD, full(dir, path, room), &s, 0);
    if (flags & O_CREAT && !there) return CHANGE | GROW;
    return flags & O_TRUNC ? CHANGE : LOOK;
}
#define MODE_OF(flags) int m = 0; if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list a; va_start(a, flags); m = va_arg(a, int); va_end(a); }
#define OPEN(name) int name(const char *p, int f, ...) { \
    MODE_OF(f) CALL(opens(AT_FDCWD, p, f), name, AT_FDCWD, p, p, f, m) }
#define OPEN_AT(name) int name(int d, const char *p, int f, ...) { \
    MODE_OF(f) CALL(opens(d, p, f), name, d, p, d, p, f, m) }
OPEN(open)
OPEN(open64)
OPEN_AT(openat)
OPEN_AT(openat64)

ssize_t write(int fd, const void *data, size_t n) {
    int deed = hit(CHANGE | WRITE | GROW, "write", fd, 0);
    if (deed == HALF || deed == SHORT) {
        n = REAL(write)(fd, data, n > 1 ? n/2 : n);
        if (deed == HALF) kill(getpid(), SIGKILL), pause();
        return n;
    }
    if (deed) { errno = error; return -1; }
    return REAL(write)(fd, data, n);
}
#define WRITES CHANGE | GROW
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) {
    CALL(WRITES, pwrite64, fd, 0, fd, b, n, o)
}
ssize_t writev(int fd, const struct iovec *v, int n) { CALL(WRITES, writev, fd, 0, fd, v, n) }
int fsync(int fd) { CALL(CHANGE, fsync, fd, 0, fd) }
int fdatasync(int fd) { CALL(CHANGE, fdatasync, fd, 0, fd) }
int ftruncate64(int fd, off64_t n) { CALL(CHANGE, ftruncate64, fd, 0, fd, n) }
int fchmod(int fd, mode_t m) { CALL(CHANGE, fchmod, fd, 0, fd, m) }
int chmod(const char *p, mode_t m) { CALL(CHANGE, chmod, AT_FDCWD, p, p, m) }
int rename(const char *a, const char *b) { CALL(CHANGE, rename, AT_FDCWD, a, a, b) }
int link(const char *a, const char *b) { CALL(CHANGE | GROW, link, AT_FDCWD, b, a, b) }
int unlink(const char *p) { CALL(CHANGE, unlink, AT_FDCWD, p, p) }
int unlinkat(int d, const char *p, int f) { CALL(CHANGE, unlinkat, d, p, d, p, f) }
int rmdir(const char *p) { CALL(CHANGE, rmdir, AT_FDCWD, p, p) }
int mkdir(const char *p, mode_t m) { CALL(CHANGE | GROW, mkdir, AT_FDCWD, p, p, m) }
ssize_t read(int fd, void *b, size_t n) { CALL(LOOK, read, fd, 0, fd, b, n) }
ssize_t pread64(int fd, void *b, size_t n, off64_t o) { CALL(LOOK, pread64, fd, 0, fd, b, n, o) }
int stat64(const char *p, struct stat64 *s) { CALL(LOOK, stat64, AT_FDCWD, p, p, s) }
int lstat64(const char *p, struct stat64 *s) { CALL(LOOK, lstat64, AT_FDCWD, p, p, s) }
int fstat64(int fd, struct stat64 *s) { CALL(LOOK, fstat64, fd, 0, fd, s) }
int fstatat64(int d, const char *p, struct stat64 *s, int f) {
    CALL(LOOK, fstatat64, d, p, d, p, s, f)
}
int flock(int fd, int how) { CALL(LOOK, flock, fd, 0, fd, how) }
void *mmap64(void *to, size_t n, int prot, int flags, int fd, off64_t o) {
    if (fd >= 0 && hit(LOOK, "mmap64", fd, 0)) { errno = error; return MAP_FAILED; }
    return (void *)syscall(SYS_mmap, to, n, prot, flags, fd, o);
}
DIR *opendir(const char *p) {
    if (hit(LOOK, "opendir", AT_FDCWD, p)) { errno = error; return 0; }
    return REAL(opendir)(p);
}
int close(int fd) {  // the file is closed even so, as by Linux
    int deed = hit(LOOK, "close", fd, 0), done = REAL(close)(fd);
    if (!deed) return done;
    errno = error;
    return -1;
}
