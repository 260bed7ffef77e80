/* A file system with quirks. This library is loaded with LD_PRELOAD. It changes the directory QUIRK_DIR as a program sees
 * it:
 *
 *   QUIRK_FOLD     names in upper and lower case are the same name, as on exFAT, NTFS and macOS
 *   QUIRK_NAMES    the length of the longest allowed name, in bytes
 *   QUIRK_RESERVED a name that no file can have, like AUX on Windows
 *   QUIRK_MODES    all users can read each file, whatever its mode should be, as on vfat
 *   QUIRK_INODES   a file has another inode number at each statx
 *   QUIRK_REPLACE  the error number of a rename to a name that exists
 *   QUIRK_DIRSYNC  the error number of fsync on a directory
 *   QUIRK_SYNC     the error number of fdatasync on a file
 *   QUIRK_FLOCK    the error number of flock */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int number(const char *quirk) { return getenv(quirk) ? atoi(getenv(quirk)) : 0; }

/* Returns the path in the form that the file system uses, or NULL if the name is too long. */
static const char *own(const char *path, char copy[4096]) {
    const char *dir = getenv("QUIRK_DIR");
    size_t len = strlen(dir);
    if (strncmp(path, dir, len) != 0 || path[len] != '/') return path;
    if (number("QUIRK_NAMES") && strlen(path + len + 1) > (size_t)number("QUIRK_NAMES")) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    snprintf(copy, 4096, "%s", path);
    if (getenv("QUIRK_FOLD"))
        for (char *c = copy + len; *c; c++) *c = tolower((unsigned char)*c);
    return copy;
}

static int answer(const char *quirk, int done) {
    if (!number(quirk)) return done;
    errno = number(quirk);
    return -1;
}

int open64(const char *path, int flags, ...) {
    char copy[4096];
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    path = own(path, copy);
    int fd = path ? openat(AT_FDCWD, path, flags, mode) : -1;
    if (fd >= 0 && flags & O_CREAT && getenv("QUIRK_MODES")) fchmod(fd, 0644);
    return fd;
}

int statx(int at, const char *path, int flags, unsigned mask, struct statx *st) {
    static unsigned looks;
    char copy[4096];
    if (path && !(path = own(path, copy))) return -1;
    int done = syscall(SYS_statx, at, path, flags, mask, st);
    if (done == 0 && getenv("QUIRK_INODES") && S_ISREG(st->stx_mode)) st->stx_ino += ++looks;
    return done;
}

int rename(const char *from, const char *to) {
    char copy[4096], other[4096];
    if (!(from = own(from, copy)) || !(to = own(to, other))) return -1;
    size_t end = getenv("QUIRK_RESERVED") ? strlen(getenv("QUIRK_RESERVED")) : 0;
    if (end && strlen(to) > end && strcmp(to + strlen(to) - end, getenv("QUIRK_RESERVED")) == 0) {
        errno = EINVAL;
        return -1;
    }
    if (number("QUIRK_REPLACE") && faccessat(AT_FDCWD, to, F_OK, 0) == 0) return answer("QUIRK_REPLACE", 0);
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int unlink(const char *path) {
    char copy[4096];
    return (path = own(path, copy)) ? unlinkat(AT_FDCWD, path, 0) : -1;
}

int fsync(int fd) {
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && number("QUIRK_DIRSYNC")) return answer("QUIRK_DIRSYNC", 0);
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) { return answer("QUIRK_SYNC", 0) ?: syscall(SYS_fdatasync, fd); }

int flock(int fd, int how) { return answer("QUIRK_FLOCK", 0) ?: syscall(SYS_flock, fd, how); }
