/* A disk that forgets. This library is loaded with LD_PRELOAD. It notes what a power cut would leave of each log and of
 * the names.
 *
 * If the directory DISK_SIDE is given, it gets these files:
 *   INODE      a link to each log, so that the file survives when its name is removed or replaced
 *   INODE.len  how many of its bytes were on the disk at its last fsync or fdatasync
 *   names      the names at the last fsync of the directory: lines "NAME INODE"
 *   dirs       the directories that were synced: a path on each line
 *   count      a byte for each sync
 *
 * Nothing is really synced. Each sync takes DISK_SLOW milliseconds. It also waits while the file DISK_BUSY exists. It fails
 * with EIO while the file DISK_FAIL exists. If DISK_FLAKY is N, each Nth sync fails as well. While the file DISK_FULL
 * exists, a write accepts only half of its bytes.
 *
 * While the file DISK_CRAWL exists, the steps that it names are slow. It holds "MILLISECONDS PREFIX KIND...", such as
 * "300 slow write sync". This applies to the logs of channels whose names begin with PREFIX; "*" means all. Kinds are open,
 * read, write, sync, truncate, rename, unlink, and dir, the sync of the directory.
 *
 * If DISK_CLOCK is given, the clock stands still at that second.
 *
 * The file DISK_JOURNAL gets a record of each operation, in the order of the operations. The test adds its own records.
 *   create INODE NAME | link INODE NAME | rename INODE FROM TO | unlink INODE NAME
 *   write INODE OFFSET LENGTH, and the bytes after this line
 *   length INODE LENGTH
 *   begin SYNC INODE, and later "end SYNC ok" or "end SYNC failed"; for the directory INODE is "dir"
 *
 * If the file DISK_KILL exists, its text is a prefix: after the first record that begins with it, the process is killed
 * (SIGKILL). */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Held during an operation and its note, so that no other thread comes between them. */
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

/* Appends to a side file if `more` is set, or else replaces its text. It is one write, which a kill cannot cut in two. */
static void put(const char *path, int more, const char *text) {
    int fd = openat(AT_FDCWD, path, O_WRONLY | O_CREAT | (more ? O_APPEND : 0), 0600);
    if (fd < 0 || syscall(SYS_write, fd, text, strlen(text)) < 0) abort();
    close(fd);
}

static void on_disk(ino_t inode, off_t len) {
    char path[4096], text[32];
    snprintf(text, sizeof text, "%020lld", (long long)len);
    put(side_of(path, inode, ".len"), 0, text);
}

/* Adds a record to the journal, in one write. The caller must hold the lock. */
static void record(const void *bytes, size_t len, const char *format, ...) {
    char line[1024], trap[16] = "";
    int error = errno, fd = openat(AT_FDCWD, getenv("DISK_JOURNAL"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    va_list rest;
    va_start(rest, format);
    vsnprintf(line, sizeof line, format, rest);
    va_end(rest);
    struct iovec parts[] = {{line, strlen(line)}, {(void *)bytes, len}};
    if (fd < 0 || syscall(SYS_writev, fd, parts, 2) < 0) abort();
    close(fd);
    int kills = getenv("DISK_KILL") ? openat(AT_FDCWD, getenv("DISK_KILL"), O_RDONLY) : -1;
    if (kills >= 0 && syscall(SYS_read, kills, trap, sizeof trap - 1) > 0 && strncmp(line, trap, strlen(trap)) == 0)
        kill(getpid(), SIGKILL);
    if (kills >= 0) close(kills);
    errno = error;
}

static const char *base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Returns the inode of a name, or 0 if the name does not exist. */
static unsigned long inode_of(const char *path) {
    struct stat st;
    return fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_ino : 0;
}

/* Returns whether operations on this file are recorded. Those on standard input, output and error are not. */
static int is_recorded(int fd, struct stat *st) {
    return getenv("DISK_JOURNAL") && fd > 2 && fstat(fd, st) == 0 && S_ISREG(st->st_mode);
}

static int is_log(const char *path) {
    size_t len = strlen(path);
    return len > 4 && (strcmp(path + len - 4, ".sse") == 0 || strcmp(path + len - 4, ".new") == 0);
}

/* Waits before a step, without the lock. */
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

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int recorded = getenv("DISK_JOURNAL") && (flags & O_ACCMODE) != O_RDONLY;
    if (!is_log(path) && !recorded) return openat(AT_FDCWD, path, flags, mode);
    crawl("open", path);
    pthread_mutex_lock(&names);
    char self[64], link[4096];
    struct stat st;
    unsigned long before = inode_of(path);
    int fd = openat(AT_FDCWD, path, flags, mode), error = errno;
    if (fd >= 0 && recorded && is_recorded(fd, &st)) {
        if (!before) record("", 0, "create %lu %s\n", (unsigned long)st.st_ino, base(path));
        else if (flags & O_TRUNC) record("", 0, "length %lu 0\n", (unsigned long)st.st_ino);
    }
    if (fd >= 0 && is_log(path) && getenv("DISK_SIDE") && fstat(fd, &st) == 0) {
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        /* Everything that is there when the server starts is on the disk. */
        side_of(link, st.st_ino, "");
        if (syscall(SYS_linkat, AT_FDCWD, self, AT_FDCWD, link, AT_SYMLINK_FOLLOW) == 0 || flags & O_TRUNC)
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

/* Waits as long as the disk is slow or busy. Returns whether the sync succeeds. */
static int takes(void) {
    if (getenv("DISK_SLOW")) usleep(1000 * atoi(getenv("DISK_SLOW")));
    while (getenv("DISK_BUSY") && access(getenv("DISK_BUSY"), F_OK) == 0) usleep(1000);
    return !getenv("DISK_FAIL") || access(getenv("DISK_FAIL"), F_OK) != 0;
}

/* Records that a sync has begun (`done` is negative), or whether it succeeded. */
static void sync_record(int sync, const struct stat *st, int done) {
    char what[32] = "dir";
    if (!getenv("DISK_JOURNAL")) return;
    pthread_mutex_lock(&names);
    if (!S_ISDIR(st->st_mode)) snprintf(what, sizeof what, "%lu", (unsigned long)st->st_ino);
    if (done < 0) record("", 0, "begin %d-%d %s\n", getpid(), sync, what);
    else record("", 0, "end %d-%d %s\n", getpid(), sync, done ? "ok" : "failed");
    pthread_mutex_unlock(&names);
}

int fsync(int fd) {
    static int syncs;
    char path[4096];
    struct stat st;
    if (getenv("DISK_SIDE")) put(side(path, "count"), 1, ".");
    if (fstat(fd, &st) < 0) return -1; /* bytes that are written during the sync may be lost */
    int sync = __atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST);
    sync_record(sync, &st, -1);
    crawl_at(S_ISDIR(st.st_mode) ? "dir" : "sync", fd);
    int done = takes() && !(getenv("DISK_FLAKY") && sync % atoi(getenv("DISK_FLAKY")) == 0);
    if (done && getenv("DISK_SIDE")) {
        if (S_ISDIR(st.st_mode)) names_on_disk(fd);
        else on_disk(st.st_ino, st.st_size);
    }
    sync_record(sync, &st, done);
    errno = EIO;
    return done ? 0 : -1;
}

int fdatasync(int fd) { return fsync(fd); }

/* Bytes that are cut off and written again are no longer on the disk. */
int ftruncate64(int fd, off64_t len) {
    char path[4096], text[32] = "";
    struct stat st;
    crawl_at("truncate", fd);
    if (getenv("DISK_SIDE") && fstat(fd, &st) == 0) {
        int note = openat(AT_FDCWD, side_of(path, st.st_ino, ".len"), O_RDONLY);
        if (note >= 0 && read(note, text, sizeof text - 1) > 0 && atoll(text) > len) on_disk(st.st_ino, len);
        if (note >= 0) close(note);
    }
    pthread_mutex_lock(&names);
    int done = syscall(SYS_ftruncate, fd, len);
    if (done == 0 && is_recorded(fd, &st))
        record("", 0, "length %lu %lld\n", (unsigned long)st.st_ino, (long long)len);
    pthread_mutex_unlock(&names);
    return done;
}

/* Writes to a file at an offset, or at the file's own position if the offset is negative. */
static ssize_t write_and_record(int fd, const void *bytes, size_t len, off64_t at) {
    struct stat st;
    if (getenv("DISK_FULL") && access(getenv("DISK_FULL"), F_OK) == 0) len = (len + 1) / 2;
    pthread_mutex_lock(&names);
    ssize_t n = at < 0 ? syscall(SYS_write, fd, bytes, len) : syscall(SYS_pwrite64, fd, bytes, len, at);
    if (n > 0 && is_recorded(fd, &st)) {
        if (at < 0) at = lseek(fd, 0, SEEK_CUR) - n;
        record(bytes, n, "write %lu %lld %zd\n", (unsigned long)st.st_ino, (long long)at, n);
    }
    pthread_mutex_unlock(&names);
    return n;
}

ssize_t write(int fd, const void *bytes, size_t len) {
    struct stat st;
    crawl_at("write", fd);
    return is_recorded(fd, &st) ? write_and_record(fd, bytes, len, -1) : syscall(SYS_write, fd, bytes, len);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    crawl_at("write", fd);
    return write_and_record(fd, bytes, len, at);
}

/* A program that copies with these two falls back to read and write. */
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned flags) {
    (void)in, (void)in_at, (void)out, (void)out_at, (void)len, (void)flags;
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t len) {
    (void)out, (void)in, (void)at, (void)len;
    errno = ENOSYS;
    return -1;
}

int rename(const char *from, const char *to) {
    crawl("rename", from);
    pthread_mutex_lock(&names);
    int done = renameat(AT_FDCWD, from, AT_FDCWD, to);
    if (done == 0 && getenv("DISK_JOURNAL")) record("", 0, "rename %lu %s %s\n", inode_of(to), base(from), base(to));
    pthread_mutex_unlock(&names);
    return done;
}

int linkat(int in, const char *from, int out, const char *to, int flags) {
    pthread_mutex_lock(&names);
    int done = syscall(SYS_linkat, in, from, out, to, flags);
    if (done == 0 && getenv("DISK_JOURNAL")) record("", 0, "link %lu %s\n", inode_of(to), base(to));
    pthread_mutex_unlock(&names);
    return done;
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlink(const char *path) {
    crawl("unlink", path);
    pthread_mutex_lock(&names);
    unsigned long inode = inode_of(path);
    int done = unlinkat(AT_FDCWD, path, 0);
    if (done == 0 && getenv("DISK_JOURNAL")) record("", 0, "unlink %lu %s\n", inode, base(path));
    pthread_mutex_unlock(&names);
    return done;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    const char *still = getenv("DISK_CLOCK");
    if (clock != CLOCK_REALTIME || !still) return syscall(SYS_clock_gettime, clock, time);
    *time = (struct timespec){.tv_sec = atol(still)};
    return 0;
}
