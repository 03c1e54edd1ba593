//! Edits: existing files that are opened for writing without O_TRUNC, and appends.

use crate::harness::{mount_only, promise, same};

promise!(
    /// Editors see each other; readers see the old version until the last who wrote has closed.
    editors_share_a_draft,
    |m| {
        m.py(r#"
write("f", "hello world\n")
before = os.stat("f").st_ino
a, b, reader = peers(3)
a('f = open("f", "r+b", 0)')
equal(a('os.fstat(f.fileno()).st_ino'), before, "nothing is written yet")
a('f.write(b"HELLO")')
equal(reader('read("f")'), b"hello world\n", "a reader")
equal(a('read("f")'), b"HELLO world\n", "its own view")
equal(a('os.fstat(f.fileno()).st_ino == os.stat("f").st_ino'), True, "fstat and stat")
b('f = open("f", "r+b", 0)')
equal(b('f.read()'), b"HELLO world\n", "the other editor")
b('f.seek(6)')
b('f.write(b"WORLD")')
equal(a('os.pread(f.fileno(), 100, 0)'), b"HELLO WORLD\n", "the first editor")
b('f.close()')
equal(reader('read("f")'), b"hello world\n", "one has closed")
reader('old = open("f", "rb", 0)')
a('f.close()')
equal(reader('read("f")'), b"HELLO WORLD\n", "both have closed")
equal(reader('old.read()'), b"hello world\n", "opened before")
assert os.stat("f").st_ino != before
"#);
        assert_eq!(m.in_data("f"), "HELLO WORLD\n");
    }
);

mount_only!(
    /// Who opens for writing and writes nothing changes nothing.
    nothing_written_nothing_published,
    |m| {
        m.py(r#"
write("f", "content")
os.utime("f", ns=(10**18, 10**18))
before = os.stat(DATA + "/f")
for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_CREAT):
    fd = os.open("f", flags)
    equal(os.fstat(fd).st_ino, before.st_ino)
    os.fsync(fd)
    os.close(fd)
after = os.stat(DATA + "/f")
equal((after.st_ino, after.st_mtime_ns, after.st_ctime_ns), (before.st_ino, before.st_mtime_ns, before.st_ctime_ns))
"#);
    }
);

promise!(
    /// A killed editor changes nothing; of two, the one who finished has his way.
    killed_editors,
    |m| {
        m.py(r#"
write("f", "0123456789" * 100_000)
old = read("f")
a, b = peers(2)
a('f = open("f", "r+b", 0)')
a('f.write(b"half")')
a.kill()
equal(read("f"), old, "after a killed editor")
a, = peers(1)
for peer in (a, b):
    peer('f = open("f", "r+b", 0)')
a('f.write(b"AAAA")')
b('os.pwrite(f.fileno(), b"BBBB", 10)')
a.kill()
equal(b('os.pread(f.fileno(), 14, 0)'), b"AAAA456789BBBB")
equal(read("f"), old, "while the other goes on")
b('f.close()')
equal(read("f")[:20], b"AAAA456789BBBB456789")
# An editor who has not written sees the old content again.
idle, a = peers(2)
idle('f = open("f", "r+b", 0)')
a('f = open("f", "r+b", 0)')
a('f.write(b"CCCC")')
equal(idle('os.pread(f.fileno(), 4, 0)'), b"CCCC")
a.kill()
deadline = time.monotonic() + 5
while idle('os.pread(f.fileno(), 4, 0)') != b"AAAA":
    assert time.monotonic() < deadline, "still shown what was dropped"
"#);
        assert_eq!(m.in_data("f").len(), 1_000_000);
    }
);

promise!(
    /// Stores through a shared mapping are published at the last munmap.
    shared_mappings,
    |m| {
        m.py(r#"
write("f", b"-" * 100_000)
reader, = peers(1)
f = open("f", "r+b")
area = mmap.mmap(f.fileno(), 0)
f.close()
area[5000:5005] = b"store"
equal(reader('read("f")'), b"-" * 100_000, "while mapped")
area.flush()
equal(reader('read("f")'), b"-" * 100_000, "while mapped and synced")
area[90_000:90_004] = b"late"
area.close()
content = reader('read("f")')
equal((content[5000:5005], content[90_000:90_004]), (b"store", b"late"))
# One who maps and is killed changes nothing.
other, = peers(1)
other('f = open("f", "r+b")')
other('area = mmap.mmap(f.fileno(), 0)')
other('area[0:4] = b"dead"')
other.kill()
deadline = time.monotonic() + 1
while time.monotonic() < deadline:
    equal(reader('read("f")[:4]'), b"----", "after a killed one")
"#);
    }
);

promise!(
    /// A lock protects what is written under it: it is published before the next one gets it.
    unlocking_publishes,
    |m| {
        m.py(r#"
LOCKS = {
    "flock": (lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), lambda fd: fcntl.flock(fd, fcntl.LOCK_UN)),
    "lockf": (lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX), lambda fd: fcntl.lockf(fd, fcntl.LOCK_UN)),
    "flock, close": (lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), lambda fd: None),
    "lockf, close": (lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX), lambda fd: None),
}

def count(line, name, rounds):
    lock, unlock = LOCKS[name]
    for _ in range(rounds):
        fd = os.open(name, os.O_RDWR)
        lock(fd)
        number = int(os.pread(fd, 100, 0))
        os.pwrite(fd, b"%d" % (number + 1), 0)
        unlock(fd)
        os.close(fd)

for name in LOCKS:
    write(name, "0")
    workers = [Worker(count, name, 50) for _ in range(8)]
    for worker in workers:
        worker.done()
    equal(read(name), b"400", name)

# The descriptor stays open: what is written after the unlock is a new draft.
write("f", "one")
holder, reader = peers(2)
holder('f = open("f", "r+b", 0); fcntl.flock(f, fcntl.LOCK_EX)')
holder('f.write(b"two")')
equal(reader('read("f")'), b"one")
holder('fcntl.flock(f, fcntl.LOCK_UN)')
equal(reader('read("f")'), b"two")
holder('os.pwrite(f.fileno(), b"six", 0)')
equal(reader('read("f")'), b"two")
holder('f.close()')
equal(reader('read("f")'), b"six")
"#);
    }
);

same!(
    /// Who locks ranges before he writes keeps the file whole himself: everybody sees it at once.
    ranges_are_locked_in_place,
    |m| {
        m.py(r#"
write("db", b"0" * 10_000)
before = os.stat("db").st_ino
a, b, early = peers(3)
early('f = open("db", "rb", 0)')
equal(early('f.read(4)'), b"0000")
a('f = open("db", "r+b", 0)')
b('f = open("db", "r+b", 0)')
a('fcntl.lockf(f, fcntl.LOCK_EX, 10, 0)')
a('os.pwrite(f.fileno(), b"AAAA", 0)')
b('fcntl.lockf(f, fcntl.LOCK_EX, 10, 100)')
b('os.pwrite(f.fileno(), b"BBBB", 100)')
a('fcntl.lockf(f, fcntl.LOCK_UN, 10, 0)')
b('fcntl.lockf(f, fcntl.LOCK_UN, 10, 100)')
late, = peers(1)
for peer in (a, b, late):
    equal(peer('read("db")[:4]'), b"AAAA")
    equal(peer('read("db")[100:104]'), b"BBBB")
equal(early('os.pread(f.fileno(), 4, 0)'), b"AAAA", "a reader who was there before")
equal(early('os.pread(f.fileno(), 4, 100)'), b"BBBB", "a reader who was there before")
a.kill()
equal(late('read("db")[:4]'), b"AAAA")
b('f.close()')
equal(os.stat("db").st_ino, before)
"#);
    }
);

same!(
    /// truncate(2), ftruncate(2), writes behind the end, holes.
    lengths,
    |m| {
        m.py(r#"
write("f", "0123456789")
os.truncate("f", 4)
equal((read("f"), os.stat("f").st_size), (b"0123", 4))
os.truncate("f", 6)
equal(read("f"), b"0123\0\0")
os.truncate("f", 6)
with open("f", "r+b", 0) as f:
    f.seek(9)
    f.write(b"x")
    f.truncate(8)
    equal(f.seek(0, 2), 8)
equal(read("f"), b"0123\0\0\0\0")
with open("f", "r+b", 0) as f:
    f.truncate(0)
    f.write(b"later")
equal(read("f"), b"\0" * 0 + b"later")
with open("f", "r+b", 0) as f:
    f.truncate(1 << 30)
    equal(os.fstat(f.fileno()).st_size, 1 << 30)
equal(os.stat("f").st_size, 1 << 30)
assert os.stat("f").st_blocks < 1000
with open("f", "r+b", 0) as f:
    f.seek(1 << 29)
    f.write(b"middle")
assert os.stat("f").st_blocks < 1000, "holes were filled"
fd = os.open("f", os.O_RDONLY)
equal(os.lseek(fd, 1 << 20, os.SEEK_DATA), 1 << 29)
os.close(fd)
fails(errno.ENOENT, os.truncate, "none", 1)
os.mkdir("d")
fails(errno.EISDIR, os.truncate, "d", 1)
fails(errno.EINVAL, os.truncate, "f", -1)
"#);
    }
);

promise!(
    /// The length of a file that others edit is changed in their draft.
    truncated_while_edited,
    |m| {
        m.py(r#"
write("f", "0123456789")
editor, other = peers(2)
editor('f = open("f", "r+b", 0)')
other('os.truncate("f", 8)')
equal(read("f"), b"01234567", "nobody has written yet")
editor('f.write(b"ABC")')
other('os.truncate("f", 5)')
equal(read("f"), b"01234567")
equal(editor('os.pread(f.fileno(), 100, 0)'), b"ABC34")
editor('f.close()')
equal(read("f"), b"ABC34")
# That is no reason to publish what a killed editor wrote.
editor('f = open("f", "r+b", 0)')
editor('f.write(b"half")')
editor('os.truncate("f", 4)')
other('os.truncate("f", 3)')
editor.kill()
equal(read("f"), b"ABC34")
"#);
    }
);

same!(
    /// Names change while a file is edited.
    names_change_under_editors,
    |m| {
        m.py(r#"
def edited(setup, change, check):
    for name in os.listdir("."):
        os.unlink(name)
    write("f", "0123456789")
    write("g", "other")
    f = open("f", "r+b", 0)
    if setup == "written":
        f.write(b"ABC")
    change()
    if setup != "written":
        f.write(b"ABC")
    equal(os.pread(f.fileno(), 100, 0), b"ABC3456789")
    f.close()
    check()

def is_at(name, content=b"ABC3456789"):
    def check():
        equal(read(name), content, name)
    return check

def only_g(content):
    def check():
        equal((os.listdir("."), read("g")), (["g"], content))
    return check

os.mkdir("work")
os.chdir("work")
for setup in ("written", "later"):
    edited(setup, lambda: os.rename("f", "h"), is_at("h"))
    edited(setup, lambda: os.rename("f", "g"), only_g(b"ABC3456789"))
    edited(setup, lambda: renameat2("f", "g", RENAME_EXCHANGE), is_at("g"))
    edited(setup, lambda: renameat2("f", "g", RENAME_EXCHANGE), is_at("f", b"other"))
    edited(setup, lambda: os.rename("g", "f"), is_at("f", b"other"))
    edited(setup, lambda: os.unlink("f"), only_g(b"other"))
    edited(setup, lambda: (os.unlink("f"), write("f", "again")), is_at("f", b"again"))
    edited(setup, lambda: (os.rename("f", "h"), write("f", "again")), is_at("f", b"again"))
    edited(setup, lambda: (os.rename("f", "h"), write("f", "again")), is_at("h"))
    edited(setup, lambda: os.rename("../work", "../moved"), is_at("f"))
    os.rename("../moved", "../work")
"#);
        m.sh("ls");
    }
);

promise!(
    /// A version that somebody else published meanwhile is replaced, and kept in salvage.
    what_an_edit_replaces_is_kept,
    |m| {
        m.py(r#"
write("f", "0123456789")
editor, rewriter = peers(2)
editor('f = open("f", "r+b", 0)')
editor('f.write(b"ABC")')
rewriter('write("f", "the work of another")')
equal(read("f"), b"the work of another")
editor('f.close()')
equal(read("f"), b"ABC3456789")
# Who has not written yet goes on from what is there then.
editor('f = open("f", "r+b", 0)')
rewriter('write("f", "9876543210")')
equal(editor('f.read()'), b"9876543210")
editor('os.pwrite(f.fileno(), b"ABC", 0)')
editor('f.close()')
equal(read("f"), b"ABC6543210")
"#);
        m.sh("grep -rl 'the work of another' \"$DATA/.polystore/salvage\"");
    }
);

same!(
    /// Many append to one file, each line whole.
    appenders_lose_nothing,
    |m| {
        m.py(r#"
def append(line, worker):
    fd = os.open("lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in range(200):
        os.write(fd, b"%d %d %s\n" % (worker, number, b"x" * random.randrange(3000)))
    os.close(fd)

workers = [Worker(append, worker) for worker in range(8)]
for worker in workers:
    worker.done()
seen = {}
for line in read("lines").splitlines():
    worker, number, tail = line.split(b" ")
    equal(tail, b"x" * len(tail))
    equal(int(number), seen.get(worker, -1) + 1, "order")
    seen[worker] = int(number)
equal(sorted(seen.values()), [199] * 8)
"#);
        m.sh(r#"
            touch log.txt; tail -n +1 -f log.txt > "$TMPDIR/seen" & tail=$!
            for i in $(seq 50); do echo line $i >> log.txt; done
            for i in $(seq 100); do [ "$(wc -l < "$TMPDIR/seen")" = 50 ] && break; sleep 0.1; done
            kill $tail; diff "$TMPDIR/seen" log.txt"#);
    }
);

same!(
    /// A big log costs nothing to append to, and is emptied under the daemon that writes it.
    logs,
    |m| {
        m.py(r#"
with open("big", "wb") as f:
    f.truncate(10 << 30)
start = time.monotonic()
for _ in range(20):
    write("big", "line\n", "ab")
assert time.monotonic() - start < 5, "appending took too long"
equal(os.stat("big").st_size, (10 << 30) + 100)
assert os.stat("big").st_blocks * 512 < 1 << 20

daemon, = peers(1)
daemon('f = open("app.txt", "ab", 0)')
daemon('f.write(b"before\\n")')
subprocess.run(": > app.txt", shell=True, check=True)
daemon('f.write(b"after\\n")')
equal(read("app.txt"), b"after\n")
# An edit of it goes in place, too.
f = open("app.txt", "r+b", 0)
f.write(b"AF")
equal(read("app.txt"), b"AFter\n")
daemon('f.write(b"more\\n")')
f.close()
equal(read("app.txt"), b"AFter\nmore\n")
"#);
    }
);

promise!(
    /// What is appended to a file that is being edited is part of the edit.
    appends_join_edits,
    |m| {
        m.py(r#"
write("f", "0123456789\n")
editor, appender = peers(2)
editor('f = open("f", "r+b", 0)')
editor('f.write(b"ABC")')
appender('write("f", "appended\\n", "ab")')
equal(read("f"), b"0123456789\n")
equal(editor('os.pread(f.fileno(), 100, 0)'), b"ABC3456789\nappended\n")
editor('f.close()')
equal(read("f"), b"ABC3456789\nappended\n")
# Who has joined goes on appending, straight through.
editor('f = open("f", "r+b", 0)')
editor('f.write(b"xyz")')
appender('log = open("f", "ab", 0)')
appender('log.write(b"in the draft\\n")')
editor('f.close()')
equal(read("f"), b"ABC3456789\nappended\n", "the appender wrote it, too")
appender('log.close()')
equal(read("f"), b"xyz3456789\nappended\nin the draft\n")
"#);
    }
);

same!(
    /// An editor's descriptor is opened again, and inherited.
    descriptors_of_editors,
    |m| {
        m.sh(r#"
            printf 'one two three\n' > f
            exec 3<> f; printf ONE >&3; printf ' TWO' > /proc/self/fd/3; exec 3>&-; cat f
            printf 'one two three\n' > g
            (printf A; (printf B; sh -c 'printf C')) 1<> g; grep -x 'ABC two three' g
            dd if=/dev/zero of=f bs=1 seek=2 count=1 conv=notrunc status=none; wc -c < f
            perl -pi -e s/two/2/ g; grep -x 'ABC 2 three' g; sed -i s/three/3/ g; grep -x 'ABC 2 3' g"#);
        m.py(r#"
write("f", b"-" * 20_000)
for flags in (os.O_SYNC, os.O_DSYNC, os.O_DIRECT):
    fd = os.open("f", os.O_RDWR | flags)
    area = mmap.mmap(-1, 4096)
    area[:] = b"%d" % (flags % 7) * 4096
    equal(os.pwritev(fd, [area], 4096), 4096)
    equal(os.preadv(fd, [area], 8192), 4096)
    equal(area[:], b"-" * 4096)
    os.close(fd)
    equal(read("f"), b"-" * 4096 + b"%d" % (flags % 7) * 4096 + b"-" * (20_000 - 8192))
fd = os.open("f", os.O_RDWR)
pid = os.fork()
if pid == 0:
    os.pwrite(fd, b"child", 0)
    os._exit(0)
os.waitpid(pid, 0)
os.pwrite(fd, b"parent", 10)
os.close(fd)
equal(read("f")[:16], b"child-----parent")
def write_at(fd, offset):
    for n in range(20):
        os.pwrite(fd, b"%02d" % n, offset + 2 * n)
fd = os.open("f", os.O_RDWR)
threads = [threading.Thread(target=write_at, args=(fd, 100 * t)) for t in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
os.close(fd)
content = read("f")
for t in range(20):
    equal(content[100 * t:100 * t + 40], b"".join(b"%02d" % n for n in range(20)))
"#);
    }
);

promise!(
    /// A full disk is told to the editor, and the old version stays.
    on_a_full_disk,
    Setup::on_image("ext4", 64),
    |m| {
        m.py(r#"
write("f", os.urandom(20 << 20))
old = hashlib.sha256(read("f")).digest()
write("ballast", b"b" * (18 << 20))
fd = os.open("f", os.O_RDWR)
fails(errno.ENOSPC, os.pwrite, fd, b"x", 0)
os.close(fd)
equal(hashlib.sha256(read("f")).digest(), old)
os.unlink("ballast")
write("f", b"0123456789")
fd = os.open("f", os.O_RDWR)
try:
    for n in range(100):
        os.pwrite(fd, b"y" * (1 << 20), n << 20)
    raise AssertionError("the disk never was full")
except OSError as error:
    equal(error.errno, errno.ENOSPC)
fails(errno.ENOSPC, os.close, fd)
equal(read("f"), b"0123456789")
with open("f", "r+b") as f:
    f.write(b"AB")
equal(read("f"), b"AB23456789")
"#);
    }
);

/// The first write shares the extents of the version: it costs neither time nor space.
const SHARED_EXTENTS: &str = r#"
write("f", os.urandom(100 << 20))
digest = hashlib.sha256(read("f")).digest()
os.sync()
old = open("f", "rb")
def free():
    os.sync()
    stat = os.statvfs(".")
    return stat.f_bavail * stat.f_frsize
before = free()
editor, = peers(1)
editor('f = open("f", "r+b", 0)')
editor('os.pwrite(f.fileno(), b"edit", 50 << 20)')
assert free() > before - (20 << 20), "the content was copied"
equal(hashlib.sha256(old.read()).digest(), digest)
editor('f.close()')
with open("f", "rb") as f:
    equal(os.pread(f.fileno(), 4, 50 << 20), b"edit")
equal(os.stat("f").st_size, 100 << 20)
os.truncate("f", (60 << 20) + 5)
with open("f", "r+b") as f:
    f.truncate(10)
assert os.stat("f").st_size == 10
"#;

same!(
    extents_are_shared_on_btrfs,
    Setup::on_image("btrfs", 320),
    |m| {
        m.py(SHARED_EXTENTS);
    }
);

same!(
    extents_are_shared_on_xfs,
    Setup::on_image("xfs", 320),
    |m| {
        m.py(SHARED_EXTENTS);
    }
);

mount_only!(
    /// While a big file is copied for its first write, others are served.
    copying_holds_up_nobody,
    |m| {
        m.py(r#"
with open("big", "wb") as f:
    for _ in range(6):
        f.write(os.urandom(64 << 20))
fd = os.open("big", os.O_RDWR)
def first_write():
    start = time.monotonic()
    os.pwrite(fd, b"x", 0)
    done.append(time.monotonic() - start)
done = []
thread = threading.Thread(target=first_write)
thread.start()
served = 0
while not done:
    with open("small", "w") as f:
        f.write(str(served))
    with open("small", "r+") as f:
        f.write("+")
    served += 1
thread.join()
assert served > 1 or done[0] < 0.05, f"{served} others were served in {done[0]} s"
os.close(fd)
"#);
    }
);

promise!(
    /// A link is of what is published, even by an editor; while nothing is written it is of the same file.
    links_of_edited_files,
    |m| {
        m.py(r#"
write("f", "0123456789")
f = open("f", "r+b", 0)
f.write(b"ABC")
os.link("f", "g")
equal(read("g"), b"0123456789")
f.close()
equal((read("f"), read("g")), (b"ABC3456789", b"0123456789"))
f = open("f", "r+b", 0)
os.link("f", "h")
f.write(b"XY")
f.close()
equal((read("f"), read("h")), (b"XYC3456789", b"XYC3456789"))
equal(os.stat("f").st_ino, os.stat("h").st_ino)
f = open("f", "r+b", 0)
os.rename("h", "f")
os.unlink("h")
f.write(b"Z")
f.close()
equal(read("f"), b"ZYC3456789")
"#);
    }
);

same!(
    /// A name that several processes replace, rewrite and edit all the time can always be opened.
    opens_succeed_under_contention,
    |m| {
        m.py(r#"
def contend(line, worker):
    random.seed(worker)
    for _ in range(150):
        what = random.randrange(5)
        if what == 0:
            write("f", b"x" * random.randrange(5000))
        elif what == 1:
            with open("f", "r+b") as f:
                f.read(3)
                f.seek(0)
                f.write(b"y" * 100)
        elif what == 2:
            read("f")
        elif what == 3:
            write(f"t{worker}", "z" * 50)
            os.rename(f"t{worker}", "f")
        else:
            os.stat("f")
write("f", "start")
workers = [Worker(contend, worker) for worker in range(8)]
for worker in workers:
    worker.done()
equal(os.listdir("."), ["f"])
"#);
    }
);

same!(
    /// A name that others remove, make again and rename over all the time: who opens it to write gets it, or
    /// is told that there is none where he does not make it, but never that something is stale.
    opens_succeed_while_the_name_comes_and_goes,
    |m| {
        m.py(r#"
def contend(line, worker, churn):
    random.seed(worker)
    for _ in range(150):
        mode = random.choice(["wb", "ab", "r+b", "rb", "a+b"])
        try:
            with open("same", mode) as f:
                os.fstat(f.fileno())
                if mode != "rb":
                    f.write(b"x" * 100)
        except FileNotFoundError:
            equal(mode in ("r+b", "rb"), True, f"{mode}: no such file")
        try:
            if churn == "rename":
                write(f"t{worker}", "new")
                os.rename(f"t{worker}", "same")
            else:
                os.unlink("same")
            if churn == "make":
                write("same", "new")
        except FileNotFoundError:
            pass
for churn in ("unlink", "make", "rename"):
    workers = [Worker(contend, worker, churn) for worker in range(8)]
    for worker in workers:
        worker.done()
equal(set(os.listdir(".")) <= {"same"}, True, "what is left")
"#);
    }
);
