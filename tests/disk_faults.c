/* Faults at the boundary to the disk, for LD_PRELOAD.

   Counts every call that changes something below one folder, by Python and by C++
   alike, and at the n-th kills the process or makes calls fail. At a write it dies
   with half of the bytes written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long target;      /* which call; 0: none */
static int failure;      /* an errno, or 0: kill */
static int lasting;      /* the calls after the target fail too */
static const char *kinds; /* the calls that are counted, by letter */
static atomic_long calls;
static atomic_int armed;
static char seen[1 << 16];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void faults_arm(const char *where, const char *which, long at, int error, int stays) {
  strncpy(folder, where, sizeof folder - 1);
  kinds = strdup(which), target = at, failure = error, lasting = stays;
  calls = 0;
  armed = 1;
}
const char *faults_seen(void) {
  armed = 0;
  return seen;
}

static int below(int base, const char *path) {
  char full[2 * PATH_MAX + 2] = "";
  if (path && path[0] == '/') {
    snprintf(full, sizeof full, "%s", path);
  } else if (base == AT_FDCWD) {
    return 0;
  } else {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", base);
    ssize_t n = readlink(link, full, PATH_MAX);
    if (n < 0) return 0;
    full[n] = 0;
  }
  return strncmp(full, folder, strlen(folder)) == 0;
}

/* 0: go on; 1: die once half is done; -1: fail, errno is set. */
static int fault(char kind, int base, const char *path) {
  int before = errno, verdict = 0;
  if (armed && strchr(kinds, kind) && below(base, path)) {
    long n = ++calls;
    if (n < (long)sizeof seen) seen[n - 1] = kind;
    if (target && (n == target || (n > target && lasting))) {
      if (failure) return errno = failure, -1;
      verdict = 1;
    }
  }
  errno = before;
  return verdict;
}
static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

#define GUARD(kind, base, path)                  \
  switch (fault(kind, base, path)) {             \
    case 1: die(); break;                        \
    case -1: return -1;                          \
    default: break;                              \
  }

#define OPENER(name, base, ...)                                    \
  int name(__VA_ARGS__ const char *path, int flags, ...) {         \
    mode_t mode = 0;                                               \
    if (flags & (O_CREAT | O_TMPFILE)) {                           \
      va_list list;                                                \
      va_start(list, flags);                                       \
      mode = va_arg(list, mode_t);                                 \
      va_end(list);                                                \
    }                                                              \
    if (flags & (O_CREAT | O_TRUNC)) GUARD('o', base, path)        \
    return REAL(openat)(base, path, flags, mode);                  \
  }
#define COMMA ,
OPENER(open, AT_FDCWD, )
OPENER(open64, AT_FDCWD, )
OPENER(openat, fd, int fd COMMA)
OPENER(openat64, fd, int fd COMMA)

ssize_t write(int fd, const void *data, size_t size) {
  switch (fault('w', fd, NULL)) {
    case 1: REAL(write)(fd, data, size / 2); die(); break;
    case -1: return -1;
    default: break;
  }
  return REAL(write)(fd, data, size);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  switch (fault('w', fd, NULL)) {
    case 1: REAL(pwrite64)(fd, data, size / 2, at); die(); break;
    case -1: return -1;
    default: break;
  }
  return REAL(pwrite64)(fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  return pwrite64(fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *data, int count) {
  switch (fault('w', fd, NULL)) {
    case 1: REAL(writev)(fd, data, count / 2); die(); break;
    case -1: return -1;
    default: break;
  }
  return REAL(writev)(fd, data, count);
}
int ftruncate(int fd, off_t size) {
  GUARD('w', fd, NULL)
  return REAL(ftruncate)(fd, size);
}
int ftruncate64(int fd, off64_t size) {
  GUARD('w', fd, NULL)
  return REAL(ftruncate64)(fd, size);
}
int fsync(int fd) {
  GUARD('s', fd, NULL)
  return REAL(fsync)(fd);
}
int fdatasync(int fd) {
  GUARD('s', fd, NULL)
  return REAL(fdatasync)(fd);
}
int mkdir(const char *path, mode_t mode) {
  GUARD('m', AT_FDCWD, path)
  return REAL(mkdir)(path, mode);
}
int mkdirat(int fd, const char *path, mode_t mode) {
  GUARD('m', fd, path)
  return REAL(mkdirat)(fd, path, mode);
}
int rename(const char *from, const char *to) {
  GUARD('r', AT_FDCWD, to)
  return REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
  GUARD('r', b, to)
  return REAL(renameat)(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  GUARD('r', b, to)
  return REAL(renameat2)(a, from, b, to, flags);
}
int unlink(const char *path) {
  GUARD('d', AT_FDCWD, path)
  return REAL(unlink)(path);
}
int unlinkat(int fd, const char *path, int flags) {
  GUARD('d', fd, path)
  return REAL(unlinkat)(fd, path, flags);
}
int rmdir(const char *path) {
  GUARD('d', AT_FDCWD, path)
  return REAL(rmdir)(path);
}
