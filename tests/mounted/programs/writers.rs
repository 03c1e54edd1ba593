//! Every way to get bytes into a file that is not a plain write(2) by one thread.

use crate::harness::{Mounted, promise, same};

/// Compiles a C program of the tests to `$TMPDIR/NAME`.
fn compile(m: &Mounted, name: &str, source: &str, libraries: &str) {
    let file = m.tmp().join(format!("{name}.c"));
    std::fs::write(&file, source).expect("write a C program");
    m.sh(&format!(
        "gcc -O1 -Wall -Werror -o $TMPDIR/{name} $TMPDIR/{name}.c {libraries}"
    ));
}

same!(
    io_uring,
    Setup::needs(&["gcc", "/usr/include/liburing.h"]),
    |m| {
        compile(m, "io_uring", include_str!("io_uring.c"), "-luring");
        m.py(r#"
def expected(first):
    return b"".join(bytes([ord(first) + n % 26]) * 4096 for n in range(256))
for how, first in (("new", "A"), ("edit", "a"), ("new", "A")):
    subprocess.run([f"{TMP}/io_uring", how, "f"], check=True, timeout=60)
    equal(hashlib.sha256(read("f")).digest(), hashlib.sha256(expected(first)).digest(), how)
workers = [subprocess.Popen([f"{TMP}/io_uring", "new", f"g{n}"]) for n in range(4)]
for worker in workers:
    equal(worker.wait(60), 0)
for n in range(4):
    equal(read(f"g{n}"), expected("A"))
"#);
    }
);

same!(
    /// The kernel moves the bytes: from a file, a pipe, a socket, another file of the mount.
    moved_by_the_kernel,
    |m| {
        m.py(r#"
content = os.urandom(1_500_000)
write("source", content)
os.truncate("source", 2_000_000)
content += b"\0" * 500_000
write(f"{TMP}/outside", content)

def sent(source, target):
    at = 0
    while at < len(content):
        at += os.sendfile(target, source, at, len(content) - at)

def spliced(source, target):
    a, b = os.pipe()
    while count := os.splice(source, b, 65536):
        while count:
            count -= os.splice(a, target, count)
    os.close(a); os.close(b)

def copied(source, target):
    while os.copy_file_range(source, target, 1 << 20):
        pass

for path in ("source", f"{TMP}/outside"):
    for move in (sent, spliced, copied):
        for flags in (os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_TRUNC, 0):
            source, target = os.open(path, os.O_RDONLY), os.open(f"to-{move.__name__}", os.O_RDWR | flags, 0o644)
            try:
                move(source, target)
            except OSError as error:
                # Not every kernel copies between file systems.
                equal((move, error.errno), (copied, errno.EXDEV))
                os.write(target, content)
            equal(os.pread(target, len(content) + 1, 0) == content, True, move.__name__)
            os.close(source); os.close(target)
            equal(read(f"to-{move.__name__}") == content, True, f"{move.__name__} {flags}")
# Within one file, from a draft, and into an existing one at some place.
fd = os.open("one", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
os.write(fd, content[:100_000])
equal(os.copy_file_range(fd, fd, 50_000, 0, 200_000), 50_000)
os.close(fd)
equal(read("one"), content[:100_000] + b"\0" * 100_000 + content[:50_000])
left, right = socket.socketpair()
pid = os.fork()
if pid == 0:
    right.sendall(content)
    os._exit(0)
right.close()
a, b = os.pipe()
with open("from-socket", "wb", 0) as f:
    while count := os.splice(left.fileno(), b, 65536):
        while count:
            count -= os.splice(a, f.fileno(), count)
os.waitpid(pid, 0)
equal(read("from-socket") == content, True)
"#);
    }
);

same!(
    /// Threads that share a descriptor, or that have one each, for one file and for many.
    threads,
    |m| {
        m.py(r#"
def all_of(target, number):
    failed = []
    def run(n):
        try:
            target(n)
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=run, args=(n,)) for n in range(number)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    if failed:
        raise failed[0]

fd = os.open("shared", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
all_of(lambda n: [os.pwrite(fd, b"%d" % (n % 10) * 1000, 1000 * (10 * n + k)) for k in range(10)], 20)
os.close(fd)
equal(read("shared"), b"".join(b"%d" % (n % 10) * 10_000 for n in range(20)))

# write(2) moves the common position in one step: no write is lost.
fd = os.open("sequence", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
all_of(lambda n: [os.write(fd, b"%04d %04d\n" % (n, k)) for k in range(100)], 8)
os.close(fd)
equal(sorted(read("sequence").splitlines()), sorted(b"%04d %04d" % (n, k) for n in range(8) for k in range(100)))

def saves(n):
    for k in range(50):
        write(f"tmp-{n}", b"%d %d" % (n, k))
        os.replace(f"tmp-{n}", f"final-{n % 4}")
        write("common", b"%d" % n * 1000)
        part = read("common")
        assert len(part) in (0, 1000) or part == b"", len(part)
all_of(saves, 8)
content = read("common")
equal(content, content[:1] * 1000)
equal([name for name in os.listdir(".") if name.startswith("tmp-")], [])

# One thread each with its own descriptor of an existing file: they edit different places.
write("edited", b"-" * 80_000)
def edits(n):
    for k in range(20):
        with open("edited", "r+b", 0) as f:
            f.seek(n * 10_000 + k * 10)
            f.write(b"%d" % n * 10)
all_of(edits, 8)
content = read("edited")
for n in range(8):
    equal(content[n * 10_000:n * 10_000 + 200], b"%d" % n * 200, f"thread {n}")
"#);
    }
);

same!(
    /// O_DIRECT, O_SYNC and O_DSYNC for new files and rewrites; preadv2 and pwritev2 flags; fallocate.
    flags_of_writers,
    |m| {
        m.py(r#"
area = mmap.mmap(-1, 8192)
area[:] = b"d" * 8192
for flags in (os.O_DIRECT, os.O_SYNC, os.O_DSYNC, os.O_DIRECT | os.O_SYNC):
    for more in (os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_TRUNC, 0):
        fd = os.open(f"f{flags}", os.O_RDWR | flags | more, 0o644)
        for n in range(4):
            equal(os.pwritev(fd, [area], n * 8192), 8192)
        back = mmap.mmap(-1, 8192)
        equal(os.preadv(fd, [back], 8192), 8192)
        equal(back[:], area[:])
        os.close(fd)
        equal(read(f"f{flags}"), b"d" * 32768)
fd = os.open("v", os.O_RDWR | os.O_CREAT, 0o644)
equal(os.pwritev(fd, [b"one", b"two"], 0, os.RWF_DSYNC), 6)
equal(os.pwritev(fd, [b"end"], 0, os.RWF_APPEND), 3) if hasattr(os, "RWF_APPEND") else os.pwrite(fd, b"end", 6)
os.posix_fallocate(fd, 0, 10_000)
fallocate(fd, 3, 0, 3)
os.close(fd)
equal(read("v")[:9], b"\0\0\0twoend")
equal(os.stat("v").st_size, 10_000)
"#);
    }
);

same!(
    /// Shared mappings: of a new file, of a rewrite, of an existing file, by several processes.
    shared_mappings,
    |m| {
        m.py(r#"
def stores(flags, name):
    fd = os.open(name, os.O_RDWR | flags, 0o644)
    os.ftruncate(fd, 40_000)
    area = mmap.mmap(fd, 40_000)
    area[:5] = b"start"
    area[39_990:] = b"end of it."
    equal(os.pread(fd, 5, 0), b"start", "read(2) sees the mapping")
    os.pwrite(fd, b"written", 20_000)
    equal(area[20_000:20_007], b"written", "the mapping sees write(2)")
    area.flush()
    area.close()
    os.close(fd)
    content = read(name)
    equal((len(content), content[:5], content[20_000:20_007], content[-10:]), (40_000, b"start", b"written", b"end of it."), name)
stores(os.O_CREAT | os.O_EXCL, "new")
stores(os.O_CREAT | os.O_TRUNC, "new")
stores(os.O_TRUNC, "new")
stores(0, "new")
# A parent and its children store into one mapping.
write("counts", b"\0" * 4096)
with open("counts", "r+b") as f:
    area = mmap.mmap(f.fileno(), 4096)
def store(line, n):
    for k in range(100):
        area[n * 8:n * 8 + 8] = struct.pack("<Q", k + 1)
workers = [Worker(store, n) for n in range(8)]
for worker in workers:
    worker.done()
equal(struct.unpack("<8Q", area[:64]), (100,) * 8)
area.close()
equal(struct.unpack("<8Q", read("counts")[:64]), (100,) * 8)
# numpy's memmap, as many a script has it.
with open("array", "wb") as f:
    f.truncate(8000)
with open("array", "r+b") as f, mmap.mmap(f.fileno(), 0) as area:
    for n in range(1000):
        struct.pack_into("<d", area, 8 * n, n)
equal(struct.unpack("<1000d", read("array")), tuple(float(n) for n in range(1000)))
"#);
    }
);

promise!(
    /// Whatever way the bytes go: readers do not see them before the close, and a kill leaves the old version.
    all_ways_are_drafts,
    |m| {
        m.py(r#"
content = os.urandom(300_000)
write(f"{TMP}/outside", content)
reader, = peers(1)
WAYS = {
    "sendfile": "os.sendfile(f, os.open(TMP + '/outside', os.O_RDONLY), 0, 100_000)",
    "direct": "os.pwritev(f, [mmap.mmap(-1, 4096)], 0)",
    "mapping": "os.ftruncate(f, 5000); m = mmap.mmap(f, 5000); m[:] = b'x' * 5000",
    "splice": "(r, w) = os.pipe(); os.write(w, b'x' * 5000); os.splice(r, f, 5000)",
    "fallocate": "os.posix_fallocate(f, 0, 5000)",
    "thread": "t = threading.Thread(target=os.write, args=(f, b'x' * 5000)); t.start(); t.join()",
}
for way, code in WAYS.items():
    for flags in ("os.O_RDWR | os.O_TRUNC", "os.O_RDWR"):
        write("f", b"old")
        for end in ("kill", "close"):
            writer, = peers(1)
            writer(f"f = os.open('f', {flags} | {'os.O_DIRECT' if way == 'direct' else 0})")
            writer(code)
            equal(reader("read('f')"), b"old", f"{way} {flags}")
            if end == "kill":
                writer.kill()
                deadline = time.monotonic() + 0.05
                while time.monotonic() < deadline:
                    equal(reader("read('f')"), b"old", f"{way} {flags}, killed")
            else:
                writer("m.close()" if way == "mapping" else "0")
                writer("os.close(f)")
                assert reader("len(read('f'))") >= 4096, f"{way} {flags}, closed"
"#);
    }
);
