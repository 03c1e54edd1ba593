// Writes FILE through io_uring: `new` makes it, `edit` changes one that is there. Many requests
// are under way at once, in an order that the kernel chooses.
#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BLOCK = 4096, BLOCKS = 256, DEPTH = 64 };

static struct io_uring ring;

static void check(int result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(-result));
        exit(1);
    }
}

// Submits what was prepared and waits for one result.
static int finish(const char *what) {
    struct io_uring_cqe *done;
    check(io_uring_submit(&ring), "submit");
    check(io_uring_wait_cqe(&ring, &done), "wait");
    int result = done->res;
    io_uring_cqe_seen(&ring, done);
    check(result, what);
    return result;
}

static struct io_uring_sqe *next(void) {
    return io_uring_get_sqe(&ring);
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    int new = strcmp(arguments[1], "new") == 0;
    static char blocks[BLOCKS][BLOCK], back[BLOCK];
    check(io_uring_queue_init(DEPTH, &ring, 0), "set up");
    int flags = new ? O_RDWR | O_CREAT | O_TRUNC : O_RDWR;
    io_uring_prep_openat(next(), AT_FDCWD, arguments[2], flags, 0644);
    int file = finish("open");
    int under_way = 0;
    for (int sent = 0, done = 0; done < BLOCKS; done++) {
        for (; sent < BLOCKS && under_way < DEPTH; sent++, under_way++) {
            memset(blocks[sent], (new ? 'A' : 'a') + sent % 26, BLOCK);
            io_uring_prep_write(next(), file, blocks[sent], BLOCK, (off_t)BLOCK * sent);
        }
        if (finish("write") != BLOCK) return 3;
        under_way--;
    }
    io_uring_prep_fsync(next(), file, IORING_FSYNC_DATASYNC);
    finish("fsync");
    for (int n = 0; n < BLOCKS; n++) {
        io_uring_prep_read(next(), file, back, BLOCK, (off_t)BLOCK * n);
        if (finish("read") != BLOCK || memcmp(back, blocks[n], BLOCK)) return 4;
    }
    io_uring_prep_close(next(), file);
    finish("close");
    return 0;
}
