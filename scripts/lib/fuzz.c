/* One process of the fuzzer: threads that make random system calls in the mount, as an ordinary user.
 *
 * fuzz ROOT UID GROUP SEED SECONDS MEMBER FD
 *
 * It changes its root directory to ROOT (a read-only directory that has the mount as /m, /proc and this
 * program), gives up all rights, and only then makes the first call that it was started for. FD is a
 * file that all members map, where each thread says what it is doing: the supervisor prints that if it hangs.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define THREADS 3
#define FDS 24
#define MAPS 6
#define MAP_BYTES (256 << 10)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct note {
    uint64_t calls, succeeded;
    int32_t thread;
    char doing[44];
};
static struct note *notes;

static const char *DIRECTORIES[] = {"open", "sticky", "setgid", "acl", "open/sub"};
static const char *NAMES[] = {"a", "b", "c", "v.json", "w.json", "v.json.lock", "t.lock", "x.log", "y.log", "d.db", "d.db-journal", "sub", "s", "p"};
static const char *XATTRS[] = {"user.a", "user.b", "user.polystore.turn", "trusted.x", "security.capability", "system.posix_acl_access", "system.posix_acl_default"};
/* 64 bits at most of each are used; the largest keep a file sparse and small on the disk. */
static const off_t OFFSETS[] = {0, 1, 511, 512, 4095, 4096, 4097, 8192, 65536, 131072, 1 << 20, (1 << 20) + 1};
static const size_t LENGTHS[] = {0, 1, 5, 512, 4096, 4097, 8192, 65536, 131072, MAP_BYTES};

static int fds[FDS];        /* what the threads have open, shared by them without a lock on purpose */
static char *maps[MAPS];    /* areas of MAP_BYTES each; nothing else is ever mapped there */
static char *plain_memory;  /* anonymous, aligned for O_DIRECT */
static volatile time_t end; /* when to stop */
static int member;

static __thread uint64_t rng;
static __thread struct note *note;
static __thread sigjmp_buf back;
static __thread volatile sig_atomic_t may_fault;
static __thread char name_a[80], name_b[80];

static uint64_t draw(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng * 0x2545F4914F6CDD1DULL >> 11;
}
static unsigned below(unsigned limit) { return limit ? draw() % limit : 0; }
static int chance(unsigned percent) { return below(100) < percent; }
#define PICK(array) ((array)[below(COUNT(array))])

static const char *path_in(char *into)
{
    snprintf(into, 80, "%s/%s", PICK(DIRECTORIES), PICK(NAMES));
    return into;
}
static const char *path(void) { return path_in(name_a); }
static const char *other_path(void) { return path_in(name_b); }
static int fd(void) { return fds[below(FDS)]; }

static void keep(int opened)
{
    if (opened < 0)
        return;
    int *slot = &fds[below(FDS)];
    int before = __atomic_exchange_n(slot, opened, __ATOMIC_SEQ_CST);
    if (before > 2)
        close(before);
}

/* A buffer: in plain memory, or in a mapping of a file of the mount, aligned or not. */
static char *memory(void)
{
    char *base = chance(40) ? plain_memory : maps[below(MAPS)];
    return base + (chance(60) ? 0 : chance(50) ? 512 : below(5000));
}
/* A length that stays in the buffer. */
static size_t length(void)
{
    size_t chosen = PICK(LENGTHS);
    return chosen > MAP_BYTES - 8192 ? MAP_BYTES - 8192 : chosen;
}

static void on_fault(int number)
{
    if (may_fault)
        siglongjmp(back, number);
    _exit(3);
}
static void on_alarm(int number) { (void)number; }

/* What this thread waits for, a lock or a turn, is interrupted again and again. */
static void be_interrupted(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
    event._sigev_un._tid = gettid();
    struct itimerspec every = {{0, 130000000}, {0, 130000000}};
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0 || timer_settime(timer, 0, &every, NULL) < 0)
        _exit(2);
}

/* ---- the calls: each returns what the system call returned ---------------------------------- */

static int open_flags(void)
{
    static const int MODES[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR, O_PATH};
    static const int MORE[] = {O_CREAT, O_CREAT, O_CREAT | O_EXCL, O_TRUNC, O_TRUNC, O_APPEND, O_DIRECT, O_DIRECT, O_NONBLOCK, O_SYNC, O_DSYNC, O_NOFOLLOW, O_DIRECTORY, O_NOATIME, O_TMPFILE, O_CLOEXEC, O_ASYNC};
    int flags = PICK(MODES);
    for (int count = below(4); count > 0; count--)
        flags |= PICK(MORE);
    return flags;
}
static int mode(void)
{
    static const int MODES[] = {0644, 0666, 0600, 0777, 04755, 02775, 06777, 0, 0400, 0222};
    return PICK(MODES);
}

static long do_open(void)
{
    int opened = open(path(), open_flags(), mode());
    keep(opened);
    return opened;
}
static long do_openat2(void)
{
    struct open_how how = {.flags = open_flags() & ~(O_ASYNC), .resolve = below(64)};
    if (how.flags & (O_CREAT | __O_TMPFILE))
        how.mode = mode();
    int opened = syscall(SYS_openat2, AT_FDCWD, path(), &how, sizeof how);
    keep(opened);
    return opened;
}
static long do_reopen(void)
{
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd());
    int opened = open(link, open_flags() & ~O_NOFOLLOW, mode());
    keep(opened);
    return opened;
}
static long do_close(void)
{
    int opened = __atomic_exchange_n(&fds[below(FDS)], -1, __ATOMIC_SEQ_CST);
    return opened > 2 ? close(opened) : 0;
}
static long do_dup(void)
{
    int copy = dup(fd());
    keep(copy);
    return copy;
}
static long do_read(void) { return read(fd(), memory(), length()); }
static long do_write(void) { return write(fd(), memory(), length()); }
static long do_pread(void) { return pread(fd(), memory(), length(), PICK(OFFSETS)); }
static long do_pwrite(void) { return pwrite(fd(), memory(), length(), PICK(OFFSETS)); }
static const int RWF[] = {0, 1, 2, 4, 8, 16, 32, 64, 128, 3, 10};
static long do_vector(void)
{
    struct iovec parts[3] = {{memory(), length()}, {memory(), length()}, {memory(), length()}};
    off_t offset = chance(20) ? -1 : PICK(OFFSETS);
    return chance(50) ? preadv2(fd(), parts, below(4), offset, PICK(RWF)) : pwritev2(fd(), parts, below(4), offset, PICK(RWF));
}
static long do_map(void)
{
    static const int PROTECTIONS[] = {PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_WRITE};
    char *area = maps[below(MAPS)];
    int flags = MAP_FIXED | (chance(80) ? MAP_SHARED : MAP_PRIVATE) | (chance(10) ? MAP_POPULATE : 0);
    return mmap(area, MAP_BYTES, PICK(PROTECTIONS), flags, fd(), chance(80) ? 0 : 4096) == MAP_FAILED ? -1 : 0;
}
static long do_unmap(void)
{
    /* Nothing else may come to lie there. */
    return mmap(maps[below(MAPS)], MAP_BYTES, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}
static long do_touch_memory(void)
{
    char *area = maps[below(MAPS)];
    unsigned from = below(MAP_BYTES), bytes = below(3) ? 64 : MAP_BYTES - from;
    may_fault = 1;
    if (sigsetjmp(back, 1) == 0) {
        if (chance(60))
            memset(area + from, draw(), bytes > MAP_BYTES - from ? MAP_BYTES - from : bytes);
        else
            (void)*(volatile char *)(area + from);
    }
    may_fault = 0;
    return 0;
}
static long do_memory_call(void)
{
    char *area = maps[below(MAPS)];
    switch (below(5)) {
    case 0: return msync(area, MAP_BYTES, chance(60) ? MS_SYNC : MS_ASYNC);
    case 1: return msync(area, MAP_BYTES, MS_SYNC | MS_INVALIDATE);
    case 2: return madvise(area, MAP_BYTES, chance(50) ? MADV_DONTNEED : chance(50) ? MADV_WILLNEED : MADV_REMOVE);
    case 3: {
        void *moved = mremap(area, MAP_BYTES, MAP_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, maps[below(MAPS)]);
        /* Nothing else may come to lie where it was. */
        mmap(area, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return moved == MAP_FAILED ? -1 : 0;
    }
    default: return mprotect(area, MAP_BYTES, chance(50) ? PROT_READ : PROT_READ | PROT_WRITE);
    }
}
static long do_splice(void)
{
    int ends[2];
    if (pipe2(ends, O_NONBLOCK) < 0)
        return -1;
    loff_t in = PICK(OFFSETS), out = PICK(OFFSETS);
    unsigned flags = SPLICE_F_NONBLOCK | (chance(30) ? SPLICE_F_MOVE : 0);
    struct iovec part = {memory(), length()};
    long result = 0;
    switch (below(4)) {
    case 0: result = splice(fd(), chance(50) ? &in : NULL, ends[1], NULL, 65536, flags); break;
    case 1: result = vmsplice(ends[1], &part, 1, flags | (chance(50) ? SPLICE_F_GIFT : 0)); break;
    default: result = write(ends[1], "spliced content", 15);
    }
    int more[2];
    if (chance(20) && pipe2(more, O_NONBLOCK) == 0) {
        tee(ends[0], more[1], 4096, SPLICE_F_NONBLOCK);
        splice(more[0], NULL, fd(), chance(50) ? &out : NULL, 65536, flags);
        close(more[0]);
        close(more[1]);
    }
    splice(ends[0], NULL, fd(), chance(50) ? &out : NULL, 65536, flags);
    close(ends[0]);
    close(ends[1]);
    return result;
}
static long do_sendfile(void)
{
    off_t offset = PICK(OFFSETS);
    return sendfile(fd(), fd(), chance(50) ? &offset : NULL, length());
}
static long do_copy(void)
{
    loff_t in = PICK(OFFSETS), out = PICK(OFFSETS);
    return copy_file_range(fd(), &in, fd(), &out, length(), 0);
}
static long do_fallocate(void)
{
    static const int MODES[] = {0, 1, 2, 3, 8, 0x10, 0x11, 0x20, 0x40};
    return fallocate(fd(), PICK(MODES), PICK(OFFSETS), PICK(OFFSETS));
}
static long do_truncate(void)
{
    off_t size = chance(95) ? PICK(OFFSETS) : (off_t)draw();
    return chance(50) ? ftruncate(fd(), size) : truncate(path(), size);
}
static long do_seek(void) { return lseek(fd(), PICK(OFFSETS), below(6)); }
static long do_sync(void)
{
    switch (below(5)) {
    case 0: return fdatasync(fd());
    case 1: return sync_file_range(fd(), PICK(OFFSETS), PICK(OFFSETS), below(8));
    case 2: return posix_fadvise(fd(), 0, 0, below(6));
    case 3: return readahead(fd(), 0, 65536);
    default: return fsync(fd());
    }
}
static long do_rename(void) { return renameat2(AT_FDCWD, path(), AT_FDCWD, other_path(), chance(60) ? 0 : below(4)); }
static long do_link(void)
{
    char link[32];
    if (chance(70))
        return linkat(AT_FDCWD, path(), AT_FDCWD, other_path(), chance(30) ? AT_SYMLINK_FOLLOW : 0);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd());
    return linkat(AT_FDCWD, link, AT_FDCWD, path(), AT_SYMLINK_FOLLOW);
}
static long do_unlink(void) { return unlink(path()); }
static long do_make(void)
{
    switch (below(5)) {
    case 0: return mkdir(path(), mode());
    case 1: return rmdir(path());
    case 2: return symlink(chance(50) ? "../open/a" : PICK(NAMES), path());
    case 3: return mknod(path(), (chance(50) ? S_IFREG : chance(50) ? S_IFIFO : S_IFSOCK) | mode(), 0);
    default: return symlink("../../../etc/passwd", path());
    }
}
static long do_attributes(void)
{
    struct timespec times[2] = {{below(2000000000), 0}, {0, chance(50) ? UTIME_NOW : UTIME_OMIT}};
    struct stat st;
    struct statvfs vfs;
    switch (below(10)) {
    case 0: return chmod(path(), mode());
    case 1: return fchmod(fd(), mode());
    case 2: return chown(path(), -1, getegid());
    case 3: return fchown(fd(), chance(50) ? (uid_t)-1 : below(70000), -1);
    case 4: return utimensat(AT_FDCWD, path(), times, chance(50) ? AT_SYMLINK_NOFOLLOW : 0);
    case 5: return futimens(fd(), times);
    case 6: return fstat(fd(), &st);
    case 7: return access(path(), below(8));
    case 8: return statvfs(path(), &vfs);
    default: return stat(path(), &st);
    }
}
static long do_xattr(void)
{
    const char *name = PICK(XATTRS);
    switch (below(7)) {
    case 0: return setxattr(path(), name, memory(), below(300), below(3));
    case 1: return fsetxattr(fd(), name, memory(), chance(95) ? below(300) : 65536, below(3));
    case 2: return getxattr(path(), name, memory(), below(5000));
    case 3: return fgetxattr(fd(), name, memory(), below(5000));
    case 4: return listxattr(path(), memory(), below(5000));
    case 5: return flistxattr(fd(), memory(), below(5000));
    default: return removexattr(path(), name);
    }
}
static long do_lock(void)
{
    static const int FLOCKS[] = {LOCK_SH, LOCK_EX, LOCK_EX | LOCK_NB, LOCK_SH | LOCK_NB, LOCK_UN};
    static const int COMMANDS[] = {F_SETLK, F_SETLKW, F_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_OFD_GETLK};
    static const int LEASES[] = {F_RDLCK, F_WRLCK, F_UNLCK};
    struct flock lock = {.l_type = below(3), .l_whence = SEEK_SET, .l_start = below(8), .l_len = below(8)};
    if (chance(40))
        return flock(fd(), PICK(FLOCKS));
    if (chance(12))
        return fcntl(fd(), F_SETLEASE, PICK(LEASES));
    return fcntl(fd(), PICK(COMMANDS), &lock);
}
static long do_fcntl(void)
{
    static const int FLAGS[] = {0, O_APPEND, O_DIRECT, O_NONBLOCK, O_APPEND | O_DIRECT, O_NOATIME};
    switch (below(4)) {
    case 0: return fcntl(fd(), F_NOTIFY, DN_CREATE | DN_MODIFY);
    case 1: return fcntl(fd(), F_GETFL);
    default: return fcntl(fd(), F_SETFL, PICK(FLAGS));
    }
}
static long do_list(void)
{
    int kept = chance(40);
    int opened = kept ? fd() : open(PICK(DIRECTORIES), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    static const size_t SIZES[] = {0, 1, 23, 24, 100, 4096, 32768, 100000};
    long result = syscall(SYS_getdents64, opened, memory(), PICK(SIZES));
    if (chance(50))
        lseek(opened, chance(50) ? 0 : (off_t)draw(), SEEK_SET);
    if (!kept)
        keep(opened);
    return result;
}
static long do_inotify(void)
{
    int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watch < 0)
        return -1;
    inotify_add_watch(watch, chance(50) ? PICK(DIRECTORIES) : path(), IN_ALL_EVENTS);
    keep(watch);
    return read(fd(), memory(), 4096);
}
static long do_ioctl(void)
{
    long argument = draw();
    int number = 0;
    switch (below(6)) {
    case 0: return ioctl(fd(), FS_IOC_GETFLAGS, &number);
    case 1: return ioctl(fd(), FS_IOC_SETFLAGS, &number);
    case 2: return ioctl(fd(), FIONREAD, &number);
    case 3: return ioctl(fd(), FICLONE, fd());
    case 4: return ioctl(fd(), FIGETBSZ, &number);
    default: return ioctl(fd(), _IOC(below(4), 'f', below(64), below(64)), memory() + (argument & 7));
    }
}
static long do_handle(void)
{
    struct {
        struct file_handle head;
        char bytes[128];
    } handle = {.head.handle_bytes = 128};
    int mount;
    return name_to_handle_at(AT_FDCWD, path(), &handle.head, &mount, 0);
}

/* A valid request most of the time; garbage, or the beginning of one, otherwise. */
static size_t request(char *into, size_t size)
{
    static const char *OPERATIONS[] = {"update", "update", "update", "begin", "begin", "commit", "commit", "abort", "publish", "break", "locks", "drafts", "failures", "salvage", "stats", "status", "nonsense"};
    const char *operation = PICK(OPERATIONS);
    size_t n = snprintf(into, size, "{\"op\":\"%s\"", operation);
    if (chance(90) && (operation[0] == 'u' || operation[0] == 'b' || operation[0] == 'p'))
        n += snprintf(into + n, size - n, ",\"path\":\"%s\"", path());
    if (operation[0] == 'u' || operation[0] == 'c')
        n += snprintf(into + n, size - n, chance(60) ? ",\"merge\":{\"k%u\":%u}" : ",\"patch\":[{\"op\":\"add\",\"path\":\"/k%u\",\"value\":%u}]", below(50), below(1000));
    if (chance(80) && (operation[0] == 'u' || (operation[0] == 'b' && operation[1] == 'e')))
        n += snprintf(into + n, size - n, ",\"timeout\":%s", chance(50) ? "0" : "0.05");
    if (chance(30))
        n += snprintf(into + n, size - n, ",\"default\":{}");
    n += snprintf(into + n, size - n, "}");
    if (chance(10))
        n = below(n + 1);
    if (chance(5))
        into[below(n)] = draw();
    if (chance(2)) {
        memset(into, '[', size / 2);
        n = size / 2;
    }
    return n;
}
static long do_control(void)
{
    char text[4096];
    int kept = chance(30);
    int opened = kept ? fd() : open(chance(90) ? ".polystore/control.json" : ".polystore/status.json", O_RDWR | O_CLOEXEC);
    long result = 0;
    for (int count = 1 + below(3); count > 0; count--) {
        result = write(opened, text, request(text, sizeof text));
        if (chance(80))
            read(opened, chance(80) ? text : memory(), sizeof text);
    }
    if (!kept)
        keep(opened);
    return result;
}
/* A JSON document, saved as programs do it. */
static long do_document(void)
{
    char text[64];
    const char *name = chance(50) ? "open/v.json" : "sticky/w.json";
    int opened = open(name, (chance(50) ? O_RDWR : O_WRONLY | O_TRUNC) | O_CREAT | (chance(30) ? O_NONBLOCK : 0), 0666);
    if (opened < 0)
        return -1;
    long result = pwrite(opened, text, snprintf(text, sizeof text, "{\"n\":%u}\n", below(1000)), 0);
    ftruncate(opened, result > 0 ? result : 0);
    if (chance(20))
        keep(opened);
    else
        close(opened);
    return result;
}

/* ---- io_uring ------------------------------------------------------------------------------ */

struct ring {
    int fd;
    struct io_uring_sqe *entries;
    unsigned *tail, *mask, *array, *done_head, *done_tail;
    char *area;
    size_t bytes, entries_bytes;
};
static __thread struct ring ring = {.fd = -1};

static int ring_open(void)
{
    struct io_uring_params params = {0};
    ring.fd = syscall(SYS_io_uring_setup, 8, &params);
    if (ring.fd < 0)
        return -1;
    size_t bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t done = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    ring.bytes = bytes > done ? bytes : done;
    ring.entries_bytes = params.sq_entries * sizeof *ring.entries;
    char *area = ring.area = mmap(NULL, ring.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
    ring.entries = mmap(NULL, ring.entries_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
    if (area == MAP_FAILED || ring.entries == MAP_FAILED)
        return -1;
    ring.tail = (unsigned *)(area + params.sq_off.tail);
    ring.mask = (unsigned *)(area + params.sq_off.ring_mask);
    ring.array = (unsigned *)(area + params.sq_off.array);
    ring.done_head = (unsigned *)(area + params.cq_off.head);
    ring.done_tail = (unsigned *)(area + params.cq_off.tail);
    return 0;
}
static void ring_add(void)
{
    static __thread char names[8][80];
    unsigned tail = *ring.tail, index = tail & *ring.mask;
    struct io_uring_sqe *entry = &ring.entries[index];
    memset(entry, 0, sizeof *entry);
    entry->fd = fd();
    entry->flags = chance(20) ? IOSQE_ASYNC : chance(20) ? IOSQE_IO_LINK : 0;
    entry->addr = (uintptr_t)memory();
    entry->len = length();
    entry->off = PICK(OFFSETS);
    switch (below(8)) {
    case 0: entry->opcode = IORING_OP_READ; break;
    case 1: entry->opcode = IORING_OP_WRITE; break;
    case 2: entry->opcode = IORING_OP_FSYNC; entry->len = 0; entry->off = 0; entry->addr = 0; break;
    case 3: entry->opcode = IORING_OP_FALLOCATE; entry->addr = 8192; entry->len = 0; break;
    case 4: entry->opcode = IORING_OP_NOP; break;
    case 5:
        entry->opcode = IORING_OP_UNLINKAT;
        entry->fd = AT_FDCWD;
        entry->addr = (uintptr_t)path_in(names[index & 7]);
        entry->len = 0;
        entry->off = 0;
        break;
    default:
        entry->opcode = IORING_OP_OPENAT;
        entry->fd = AT_FDCWD;
        entry->addr = (uintptr_t)path_in(names[index & 7]);
        entry->len = mode();
        entry->off = 0;
        entry->open_flags = open_flags();
    }
    ring.array[index] = index;
    __atomic_store_n(ring.tail, tail + 1, __ATOMIC_RELEASE);
}
static long do_ring(void)
{
    if (ring.fd < 0 && ring_open() < 0)
        return -1;
    int count = 1 + below(4);
    for (int i = 0; i < count; i++)
        ring_add();
    long result = syscall(SYS_io_uring_enter, ring.fd, count, chance(70) ? 1 : 0, IORING_ENTER_GETEVENTS, NULL, 0);
    __atomic_store_n(ring.done_head, __atomic_load_n(ring.done_tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
    if (chance(5)) {
        munmap(ring.area, ring.bytes);
        munmap(ring.entries, ring.entries_bytes);
        close(ring.fd);
        ring.fd = -1;
    }
    return result;
}

static long do_child(void);

struct call {
    const char *name;
    long (*function)(void);
    unsigned weight;
};
static const struct call CALLS[] = {
    {"open", do_open, 14}, {"openat2", do_openat2, 3}, {"open /proc/self/fd", do_reopen, 3}, {"close", do_close, 8}, {"dup", do_dup, 1},
    {"read", do_read, 4}, {"write", do_write, 6}, {"pread", do_pread, 4}, {"pwrite", do_pwrite, 5}, {"preadv2/pwritev2", do_vector, 4},
    {"mmap", do_map, 5}, {"munmap", do_unmap, 2}, {"a mapping", do_touch_memory, 8}, {"msync/madvise/mremap/mprotect", do_memory_call, 4},
    {"splice/tee/vmsplice", do_splice, 2}, {"sendfile", do_sendfile, 2}, {"copy_file_range", do_copy, 2}, {"fallocate", do_fallocate, 2},
    {"truncate", do_truncate, 3}, {"lseek", do_seek, 2}, {"fsync/fadvise", do_sync, 2}, {"rename", do_rename, 5}, {"link", do_link, 3},
    {"unlink", do_unlink, 4}, {"mkdir/mknod/symlink", do_make, 2}, {"attributes", do_attributes, 3}, {"xattr", do_xattr, 3},
    {"locks", do_lock, 5}, {"fcntl", do_fcntl, 1}, {"getdents", do_list, 2}, {"inotify", do_inotify, 1}, {"ioctl", do_ioctl, 1},
    {"name_to_handle_at", do_handle, 1}, {"control.json", do_control, 4}, {"a document", do_document, 4}, {"io_uring", do_ring, 3},
    {"a child", do_child, 1},
};

static void once(int children)
{
    static unsigned total;
    unsigned sum = 0;
    if (!total) {
        for (size_t i = 0; i < COUNT(CALLS); i++)
            sum += CALLS[i].weight;
        total = sum;
    }
    unsigned ticket = below(total);
    const struct call *call = CALLS;
    while (ticket >= call->weight)
        ticket -= call++->weight;
    if (call->function == do_child && !children)
        return;
    snprintf(note->doing, sizeof note->doing, "%s", call->name);
    long result = call->function();
    note->calls++;
    note->succeeded += result >= 0;
}

/* A child that works on what it inherited, in peace or until it is killed; or becomes another program. */
static long do_child(void)
{
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        be_interrupted();
        rng ^= getpid() * 0x9E3779B97F4A7C15ULL;
        if (chance(20)) {
            execl("/fuzz", "/fuzz", "brief", NULL);
            _exit(4);
        }
        for (int count = below(60); count > 0; count--)
            once(0);
        _exit(chance(50) ? 0 : 1);
    }
    if (child < 0)
        return -1;
    struct timespec moment = {0, below(30) * 1000000};
    nanosleep(&moment, NULL);
    if (chance(50))
        kill(child, SIGKILL);
    int status;
    for (int tries = 0; waitpid(child, &status, WNOHANG) == 0 && tries < 200; tries++) {
        struct timespec pause = {0, 5000000};
        nanosleep(&pause, NULL);
        if (tries == 100)
            kill(child, SIGKILL);
    }
    return 0;
}

static void *thread(void *argument)
{
    long number = (long)argument;
    note = &notes[member * THREADS + number];
    note->thread = gettid();
    be_interrupted();
    rng = rng ? rng : 88172645463325252ULL;
    while (time(NULL) < end)
        once(1);
    return NULL;
}
struct start {
    uint64_t seed;
    long number;
};
static void *start_thread(void *argument)
{
    struct start *start = argument;
    rng = start->seed;
    for (int i = 0; i < 20; i++)
        draw();
    return thread((void *)start->number);
}

static void limit(int what, rlim_t most)
{
    struct rlimit value = {most, most};
    if (setrlimit(what, &value) < 0) {
        perror("setrlimit");
        _exit(2);
    }
}
static void must(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        _exit(2);
    }
}

/* Gives up everything that reaches beyond the mount. */
static void confine(const char *root, uid_t uid, gid_t group)
{
    must(chroot(root), "chroot");
    must(chdir("/m"), "chdir /m");
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, 4 << 20);
    limit(RLIMIT_NOFILE, 256);
    limit(RLIMIT_NPROC, 120);
    limit(RLIMIT_AS, 2UL << 30);
    gid_t groups[] = {group};
    must(setgroups(1, groups), "setgroups");
    must(setresgid(uid, uid, uid), "setresgid");
    must(setresuid(uid, uid, uid), "setresuid");
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    must(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable");
}

static void prepare(void)
{
    struct sigaction fault = {.sa_handler = on_fault}, alarm = {.sa_handler = on_alarm};
    sigaction(SIGBUS, &fault, NULL);
    sigaction(SIGSEGV, &fault, NULL);
    sigaction(SIGALRM, &alarm, NULL);
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGIO, SIG_IGN);
    for (int i = 0; i < FDS; i++)
        fds[i] = -1;
    char *arena = mmap(NULL, (MAPS + 1) * (size_t)MAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < MAPS; i++)
        maps[i] = arena + (size_t)i * MAP_BYTES;
    plain_memory = arena + (size_t)MAPS * MAP_BYTES;
    memset(plain_memory, 'm', MAP_BYTES);
    umask(0);
}

int main(int count, char **arguments)
{
    if (count == 2) { /* what a child becomes */
        static struct note own;
        notes = note = &own;
        rng = getpid() * 0x9E3779B97F4A7C15ULL | 1;
        prepare();
        be_interrupted();
        for (int calls = 0; calls < 40; calls++)
            once(0);
        return 0;
    }
    if (count != 8)
        return 2;
    uid_t uid = atoi(arguments[2]);
    uint64_t seed = strtoull(arguments[4], NULL, 10);
    member = atoi(arguments[6]);
    notes = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(arguments[7]), 0);
    if (notes == MAP_FAILED || uid == 0)
        return 2;
    close(atoi(arguments[7]));
    confine(arguments[1], uid, atoi(arguments[3]));
    prepare();
    end = time(NULL) + atoi(arguments[5]);
    pthread_t threads[THREADS];
    struct start starts[THREADS];
    for (long i = 0; i < THREADS; i++) {
        starts[i] = (struct start){(seed * 1000003 + member * 101 + i + 1) * 0x9E3779B97F4A7C15ULL | 1, i};
        if (pthread_create(&threads[i], NULL, start_thread, &starts[i]) != 0)
            return 2;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
