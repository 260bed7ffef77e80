/* A disk that forgets. Loaded with LD_PRELOAD, it notes what a power cut would leave of each log, and of the names.
 *
 * In the directory DISK_SIDE:
 *   INODE      a link to each file, so that one that is removed or renamed over is still there
 *   INODE.len  how much of it was on the disk at its last fsync or fdatasync
 *   names      what the names stood for at the last fsync of the directory: lines "NAME INODE"
 *   dirs       which directories were synced, a path a line
 *   count      a byte for each sync
 * Nothing is really synced. Each sync takes DISK_SLOW milliseconds, and as long as the file DISK_BUSY exists; it fails
 * with EIO while the file DISK_FAIL exists.
 * While the file DISK_CRAWL exists each step that it names takes a while: it holds "MILLISECONDS PREFIX KIND...", such
 * as "300 slow write sync", for the logs of channels whose names begin so ("*": for all). Kinds are open, read, write,
 * sync, truncate, rename, unlink, and dir, the sync of the directory.
 * Where DISK_CLOCK is given the clock stands still at that second. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Names, and the notes of them, change in one step. */
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER;

static char *side(char path[4096], const char *name) {
    snprintf(path, 4096, "%s/%s", getenv("DISK_SIDE"), name);
    return path;
}

static char *side_of(char path[4096], ino_t inode, const char *more) {
    char name[64];
    snprintf(name, sizeof name, "%lu%s", (unsigned long)inode, more);
    return side(path, name);
}

/* Writes at the end of a side file, or in place of what stands there: in one write, which a kill does not cut. */
static void put(const char *path, int more, const char *text) {
    int fd = openat(AT_FDCWD, path, O_WRONLY | O_CREAT | (more ? O_APPEND : 0), 0600);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) abort();
    close(fd);
}

static void on_disk(ino_t inode, off_t len) {
    char path[4096], text[32];
    snprintf(text, sizeof text, "%020lld", (long long)len);
    put(side_of(path, inode, ".len"), 0, text);
}

static int is_log(const char *path) {
    size_t len = strlen(path);
    return len > 4 && (strcmp(path + len - 4, ".sse") == 0 || strcmp(path + len - 4, ".new") == 0);
}

/* Waits before a step, with no lock held. */
static void crawl(const char *kind, const char *path) {
    char text[256] = "", *rest, *word;
    int orders = getenv("DISK_CRAWL") ? openat(AT_FDCWD, getenv("DISK_CRAWL"), O_RDONLY) : -1;
    if (orders < 0) return;
    int any = syscall(SYS_read, orders, text, sizeof text - 1) > 0;
    close(orders);
    const char *name = strrchr(path, '/');
    if (!any || !name) return;
    name += name[1] == '.' ? 2 : 1;
    long time = strtol(text, &rest, 10);
    const char *prefix = strtok_r(rest, " ", &rest);
    int dir = strcmp(kind, "dir") == 0, log = strstr(name, ".sse") || strstr(name, ".new");
    if (!prefix || !(dir || (log && (*prefix == '*' || strncmp(name, prefix, strlen(prefix)) == 0)))) return;
    while ((word = strtok_r(NULL, " ", &rest)))
        if (strcmp(word, kind) == 0) usleep(1000 * time);
}

static void crawl_at(const char *kind, int fd) {
    char self[64], path[1024] = "";
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (getenv("DISK_CRAWL") && readlink(self, path, sizeof path - 1) > 0) crawl(kind, path);
}

ssize_t read(int fd, void *to, size_t len) {
    crawl_at("read", fd);
    return syscall(SYS_read, fd, to, len);
}

ssize_t pread64(int fd, void *to, size_t len, off64_t at) {
    crawl_at("read", fd);
    return syscall(SYS_pread64, fd, to, len, at);
}

ssize_t write(int fd, const void *from, size_t len) {
    crawl_at("write", fd);
    return syscall(SYS_write, fd, from, len);
}

ssize_t pwrite64(int fd, const void *from, size_t len, off64_t at) {
    crawl_at("write", fd);
    return syscall(SYS_pwrite64, fd, from, len, at);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!is_log(path)) return openat(AT_FDCWD, path, flags, mode);
    crawl("open", path);
    pthread_mutex_lock(&names);
    char self[64], link[4096];
    struct stat st;
    int fd = openat(AT_FDCWD, path, flags, mode), error = errno;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        /* What is there when the server starts is what the disk has. */
        if (linkat(AT_FDCWD, self, AT_FDCWD, side_of(link, st.st_ino, ""), AT_SYMLINK_FOLLOW) == 0 || flags & O_TRUNC)
            on_disk(st.st_ino, st.st_size);
    }
    pthread_mutex_unlock(&names);
    errno = error;
    return fd;
}

static void names_on_disk(int fd) {
    static char lines[65536]; /* threads have small stacks */
    char self[64], path[4096], other[4096];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(self, path, sizeof path - 2);
    if (len < 0) abort();
    strcpy(path + len, "\n");
    put(side(other, "dirs"), 1, path);
    pthread_mutex_lock(&names);
    lines[0] = 0;
    DIR *dir = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY));
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        size_t at = strlen(lines);
        if (is_log(entry->d_name))
            snprintf(lines + at, sizeof lines - at, "%s %lu\n", entry->d_name, (unsigned long)entry->d_ino);
    }
    closedir(dir);
    put(side(path, "names.new"), 1, lines);
    renameat(AT_FDCWD, path, AT_FDCWD, side(other, "names"));
    pthread_mutex_unlock(&names);
}

int fsync(int fd) {
    char path[4096];
    struct stat st;
    put(side(path, "count"), 1, ".");
    if (fstat(fd, &st) < 0) return -1; /* what comes while it syncs may be lost */
    crawl_at(S_ISDIR(st.st_mode) ? "dir" : "sync", fd);
    if (getenv("DISK_SLOW")) usleep(1000 * atoi(getenv("DISK_SLOW")));
    while (getenv("DISK_BUSY") && access(getenv("DISK_BUSY"), F_OK) == 0) usleep(1000);
    if (getenv("DISK_FAIL") && access(getenv("DISK_FAIL"), F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    if (S_ISDIR(st.st_mode)) names_on_disk(fd);
    else on_disk(st.st_ino, st.st_size);
    return 0;
}

int fdatasync(int fd) { return fsync(fd); }

/* What is cut off and written anew is not on the disk any more. */
int ftruncate64(int fd, off64_t len) {
    char path[4096], text[32] = "";
    struct stat st;
    crawl_at("truncate", fd);
    if (fstat(fd, &st) == 0) {
        int note = openat(AT_FDCWD, side_of(path, st.st_ino, ".len"), O_RDONLY);
        if (note >= 0 && read(note, text, sizeof text - 1) > 0 && atoll(text) > len) on_disk(st.st_ino, len);
        if (note >= 0) close(note);
    }
    return syscall(SYS_ftruncate, fd, len);
}

int rename(const char *from, const char *to) {
    crawl("rename", from);
    pthread_mutex_lock(&names);
    int done = renameat(AT_FDCWD, from, AT_FDCWD, to);
    pthread_mutex_unlock(&names);
    return done;
}

int unlink(const char *path) {
    crawl("unlink", path);
    pthread_mutex_lock(&names);
    int done = unlinkat(AT_FDCWD, path, 0);
    pthread_mutex_unlock(&names);
    return done;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    const char *still = getenv("DISK_CLOCK");
    if (clock != CLOCK_REALTIME || !still) return syscall(SYS_clock_gettime, clock, time);
    *time = (struct timespec){.tv_sec = atol(still)};
    return 0;
}
