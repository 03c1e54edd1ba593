//! The content of files: offsets, holes, mappings, and the ways to copy.

use crate::harness::same;

same!(offsets_truncation_and_append, |m| {
    m.py(r#"
fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
os.pwrite(fd, b"end", 100_000)
equal(os.pread(fd, 10, 50_000), b"\0" * 10, "a hole")
os.ftruncate(fd, 5)
os.pwrite(fd, b"hello world", 0)
os.ftruncate(fd, 5)
os.ftruncate(fd, 8)
equal(os.pread(fd, 100, 0), b"hello\0\0\0")
os.lseek(fd, 0, os.SEEK_END)
os.write(fd, b"!")
equal(os.fstat(fd).st_size, 9)
os.close(fd)
equal(read("f"), b"hello\0\0\0!")
os.truncate("f", 3)
equal(read("f"), b"hel")
os.truncate("f", 6)
equal(read("f"), b"hel\0\0\0")
fails(errno.EINVAL, os.truncate, "f", -1)
fails(errno.ENOENT, os.truncate, "absent", 1)
fails(errno.EBADF, os.write, os.open("f", os.O_RDONLY), b"x")
fails(errno.EBADF, os.read, os.open("f", os.O_WRONLY), 1)
with open("f", "r+b") as f:
    f.seek(1)
    f.write(b"E")
equal(read("f"), b"hEl\0\0\0")
fd = os.open("f", os.O_WRONLY | os.O_APPEND)
os.lseek(fd, 0, os.SEEK_SET)
os.write(fd, b"tail")
os.close(fd)
equal(read("f"), b"hEl\0\0\0tail")
fd = os.open("f", os.O_RDWR | os.O_APPEND | os.O_TRUNC)
os.write(fd, b"one ")
os.write(fd, b"two")
equal(os.pread(fd, 10, 0), b"one two")
os.close(fd)
equal(read("f"), b"one two")
writev = os.open("v", os.O_RDWR | os.O_CREAT)
os.writev(writev, [b"a" * 5000, b"", b"b" * 5000])
os.lseek(writev, 4990, os.SEEK_SET)
parts = [bytearray(10), bytearray(10)]
os.readv(writev, parts)
equal(bytes(parts[0] + parts[1]), b"a" * 10 + b"b" * 10)
"#);
});

same!(
    /// fcntl(F_SETFL) clears and sets O_APPEND of a handle that is open: it counts from the next write.
    append_is_set_and_cleared_while_open,
    |m| {
        m.py(r#"
def append(fd, on):
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_APPEND
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | (os.O_APPEND if on else 0))
def in_turn(fd, first):
    if not first:
        append(fd, True)
    os.write(fd, b"+1")
    append(fd, False)
    os.pwrite(fd, b"J", 0)
    append(fd, True)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"+2")
    os.close(fd)
for name in ("f", "f.log"):
    write(name, "hello")
    in_turn(os.open(name, os.O_WRONLY | os.O_APPEND), True)
    equal(read(name), b"Jello+1+2", f"{name}, opened for append")
    write(name, "hello")
    in_turn(os.open(name, os.O_RDWR), False)
    equal(read(name), b"Jello+1+2", f"{name}, edited")
    in_turn(os.open(name, os.O_WRONLY | os.O_TRUNC), False)
    equal(read(name), b"J1+2", f"{name}, rewritten")
    os.unlink(name)
    in_turn(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), True)
    equal(read(name), b"J1+2", f"{name}, new")
"#);
    }
);

same!(
    /// Many processes append to one file: each line whole, none lost.
    appends_interleave_by_whole_writes,
    |m| {
        m.py(r#"
def append(line, path, mark):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in range(300):
        os.write(fd, f"{mark} {number} {'x' * random.randint(0, 3000)}\n".encode())
for path in ("log.log", "plain", "existing"):
    if path == "existing":
        write(path, "first\n")
    workers = [Worker(append, path, mark) for mark in range(6)]
    for worker in workers:
        worker.done()
    lines = read(path).decode().splitlines()
    if path == "existing":
        equal(lines.pop(0), "first")
    equal(len(lines), 1800, "lines")
    for mark in range(6):
        mine = [line.split() for line in lines if line.startswith(f"{mark} ")]
        equal([int(line[1]) for line in mine], list(range(300)), f"{path}: lines of {mark}, in order")
    assert all(set(line.split()[2:3] and line.split()[2]) <= {"x"} for line in lines), "mixed lines"
"#);
    }
);

same!(holes_and_preallocation, |m| {
    m.py(r#"
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE = 1, 2, 8, 16
fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
fallocate(fd, 0, 0, 1_000_000)
equal(os.fstat(fd).st_size, 1_000_000, "fallocate")
fallocate(fd, KEEP_SIZE, 0, 2_000_000)
equal(os.fstat(fd).st_size, 1_000_000, "fallocate, keeping the size")
os.pwrite(fd, b"x" * 1_048_576, 0)
fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 262_144, 262_144)
equal(os.pread(fd, 2, 262_143), b"x\0", "punched")
equal(os.pread(fd, 2, 524_287), b"\0x", "punched")
fallocate(fd, ZERO_RANGE, 0, 4096)
equal(os.pread(fd, 4097, 0), b"\0" * 4096 + b"x", "zeroed")
os.close(fd)
content = read("f")
equal((len(content), content.count(b"x")), (1_048_576, 1_048_576 - 262_144 - 4096))
fd = os.open("sparse", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.pwrite(fd, b"data", 1 << 20)
os.ftruncate(fd, 1 << 22)
def holes(fd):
    equal(os.lseek(fd, 0, os.SEEK_DATA), 1 << 20)
    equal(os.lseek(fd, 1 << 20, os.SEEK_HOLE), (1 << 20) + 4096)
    equal(os.lseek(fd, 0, os.SEEK_HOLE), 0)
    fails(errno.ENXIO, os.lseek, fd, 2 << 20, os.SEEK_DATA)
    fails(errno.ENXIO, os.lseek, fd, 1 << 23, os.SEEK_HOLE)
    assert os.fstat(fd).st_blocks * 512 < 1 << 20
holes(fd)
os.close(fd)
fd = os.open("sparse", os.O_RDONLY)
holes(fd)
fails(errno.EBADF, fallocate, fd, 0, 0, 10)
"#);
});

same!(copies_inside_the_mount, |m| {
    m.py(r#"
content = os.urandom(3_000_000)
write("from", content)
source = os.open("from", os.O_RDONLY)
def target(name):
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
def whole(step):
    done = 0
    while done < len(content):
        count = step(done)
        assert count > 0
        done += count
for old in (False, True):
    to = target("copied")
    whole(lambda at: os.copy_file_range(source, to, 1 << 20, at, at))
    os.close(to)
    assert read("copied") == content, "copy_file_range"
    to = target("sent")
    whole(lambda at: os.sendfile(to, source, at, 1 << 20))
    os.close(to)
    assert read("sent") == content, "sendfile"
    to = target("spliced")
    reading, writing = os.pipe()
    def splice(at):
        count = os.splice(source, writing, 65536, offset_src=at)
        left = count
        while left:
            left -= os.splice(reading, to, left)
        return count
    whole(splice)
    os.close(to)
    assert read("spliced") == content, "splice"
subprocess.run(["cp", "--reflink=auto", "from", "cp"], check=True)
assert read("cp") == content, "cp"
subprocess.run(["dd", "if=from", "of=dd", "bs=333333", "status=none"], check=True)
assert read("dd") == content, "dd"
for name in ("copied", "sent", "spliced", "cp", "dd"):
    assert read(DATA + "/" + name) == content, name
"#);
});

same!(mappings, |m| {
    m.py(r#"
for name in ("new", "old"):
    if name == "old":
        write(name, b"o" * 300_000)
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.ftruncate(fd, 200_000)
    area = mmap.mmap(fd, 200_000)
    area[0:5] = b"first"
    area[199_995:] = b"last."
    equal(os.pread(fd, 5, 199_995), b"last.", "read what was stored")
    os.pwrite(fd, b"middle", 100_000)
    equal(area[100_000:100_006], b"middle", "see what was written")
    area.flush()
    area[50_000:50_004] = b"more"
    area.close()
    os.close(fd)
    content = read(name)
    equal((len(content), content[:5], content[50_000:50_004], content[100_000:100_006], content[-5:]),
          (200_000, b"first", b"more", b"middle", b"last."), name)
with open("old", "r+b") as f:
    area = mmap.mmap(f.fileno(), 0)
    area[0:5] = b"FIRST"
    area.close()
equal(read("old")[:8], b"FIRST\0\0\0", "an existing file by map")
fd = os.open("late", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
os.ftruncate(fd, 4096)
area = mmap.mmap(fd, 4096)
os.close(fd)
area[0:4] = b"late"
area.close()
deadline = time.monotonic() + 5
while not (os.path.exists(DATA + "/late") and read(DATA + "/late")[:4] == b"late"):
    assert time.monotonic() < deadline, "stored after close, and lost"
    time.sleep(0.01)
equal(read("late")[:4], b"late", "stored after close")
private = mmap.mmap(os.open("old", os.O_RDONLY), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
private[0:5] = b"local"
equal(read("old")[:5], b"FIRST", "a private map")
"#);
});

same!(direct_and_synchronous_writes, |m| {
    m.py(r#"
area = mmap.mmap(-1, 65536)
area[:] = os.urandom(65536)
for name in ("new", "old"):
    if name == "old":
        write(name, "before")
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o644)
    equal(os.pwritev(fd, [area], 65536), 65536)
    back = mmap.mmap(-1, 65536)
    equal(os.preadv(fd, [back], 65536), 65536)
    equal(back[:] == area[:], True, "read back")
    os.close(fd)
    equal(read(name) == b"\0" * 65536 + area[:], True, name)
for flag in (os.O_SYNC, os.O_DSYNC):
    fd = os.open("sync", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flag)
    os.write(fd, b"content")
    os.close(fd)
    equal(read("sync"), b"content")
fd = os.open("f", os.O_WRONLY | os.O_CREAT)
os.write(fd, b"x")
os.fsync(fd)
os.fdatasync(fd)
os.close(fd)
here = os.open(".", os.O_RDONLY)
os.fsync(here)
os.sync()
os.posix_fadvise(os.open("f", os.O_RDONLY), 0, 0, os.POSIX_FADV_WILLNEED)
"#);
});

same!(
    /// An unlinked file that is open goes on working, and so does one that was replaced.
    open_files_outlive_their_names,
    |m| {
        m.py(r#"
write("f", b"a" * 100_000)
reader = open("f", "rb")
editor = open("f", "r+b", 0)
os.unlink("f")
fails(errno.ENOENT, os.stat, "f")
equal(reader.read() == b"a" * 100_000, True, "read after unlink")
editor.write(b"b" * 10)
editor.seek(0)
equal(editor.read(11), b"b" * 10 + b"a", "written after unlink")
equal(os.fstat(editor.fileno()).st_nlink, 0)
os.fchmod(editor.fileno(), 0o600)
os.ftruncate(editor.fileno(), 5)
equal(os.fstat(reader.fileno()).st_size, 5)
write("f", "another")
equal(read("f"), b"another")
editor.close()
equal(read("f"), b"another")
write("g", "old")
old = open("g", "rb")
write("h", "new")
os.rename("h", "g")
equal(old.read(), b"old", "replaced")
equal(read("g"), b"new")
with tempfile.TemporaryFile(dir=".") as f:
    f.write(b"nameless")
    f.seek(0)
    equal(f.read(), b"nameless")
"#);
    }
);

same!(large_offsets_and_files, |m| {
    m.py(r#"
fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.pwrite(fd, b"far", 5_000_000_000)
os.close(fd)
equal(os.stat("f").st_size, 5_000_000_003)
fd = os.open("f", os.O_RDONLY)
equal(os.pread(fd, 10, 5_000_000_000), b"far")
equal(os.pread(fd, 4, 4_999_999_998), b"\0\0fa")
content = hashlib.sha256()
with open("big", "wb") as f:
    for number in range(80):
        piece = bytes([number]) * 1_000_003
        content.update(piece)
        f.write(piece)
found = hashlib.sha256()
with open("big", "rb") as f:
    while piece := f.read(777_777):
        found.update(piece)
equal(found.hexdigest(), content.hexdigest())
"#);
});
