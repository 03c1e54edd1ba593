//! Names, directories, links and special files, as any file system has them.

use crate::harness::{mount_only, same};

same!(rename_with_flags, |m| {
    m.py(r#"
write("a", "a")
write("b", "b")
os.mkdir("d")
write("d/in", "in")
fails(errno.EEXIST, renameat2, "a", "b", RENAME_NOREPLACE)
renameat2("a", "c", RENAME_NOREPLACE)
equal(sorted(os.listdir(".")), ["b", "c", "d"])
renameat2("b", "c", RENAME_EXCHANGE)
equal((read("b"), read("c")), (b"a", b"b"), "exchanged")
renameat2("b", "d", RENAME_EXCHANGE)
equal((read("d"), read("b/in")), (b"a", b"in"), "file and directory exchanged")
fails(errno.ENOENT, renameat2, "b", "absent", RENAME_EXCHANGE)
fails(errno.EINVAL, renameat2, "b", "c", RENAME_NOREPLACE | RENAME_EXCHANGE)
fails(errno.ENOENT, os.rename, "absent", "x")
fails(errno.EINVAL, os.rename, "b", "b/below")
fails(errno.EISDIR, os.rename, "c", "b")
fails(errno.ENOTDIR, os.rename, "b", "c")
os.mkdir("full")
write("full/x", "")
fails(errno.ENOTEMPTY, os.rename, "b", "full")
os.mkdir("empty")
os.rename("b", "empty")
equal(os.listdir("empty"), ["in"], "over an empty directory")
os.rename("c", "d")
equal(read("d"), b"b", "over a file")
os.link("d", "same")
os.rename("d", "same")
equal(sorted(n for n in os.listdir(".") if n in ("d", "same")), ["d", "same"], "two links of one file")
"#);
});

same!(
    /// What is open follows its directory through a rename.
    open_files_follow_a_renamed_directory,
    |m| {
        m.py(r#"
os.makedirs("one/two")
write("one/two/old", "before")
new = open("one/two/new", "wb", 0)
old = open("one/two/old", "wb", 0)
new.write(b"new ")
old.write(b"old ")
os.rename("one", "moved")
os.mkdir("one")
new.write(b"content")
old.write(b"content")
new.close()
old.close()
equal(read("moved/two/new"), b"new content")
equal(read("moved/two/old"), b"old content")
equal(os.listdir("one"), [])
"#);
    }
);

same!(links_and_symbolic_links, |m| {
    m.py(r#"
write("a", "content")
os.link("a", "b")
equal(os.stat("a").st_nlink, 2, "links")
equal(os.stat("a").st_ino, os.stat("b").st_ino, "inode")
write("b", "changed")
equal(read("a"), b"changed", "one file by two names")
equal(os.stat("a").st_nlink, 2, "links after a rewrite")
equal(os.stat("a").st_ino, os.stat("b").st_ino, "inode after a rewrite")
with open("a", "ab") as f:
    f.write(b" again")
equal(read("b"), b"changed again")
fails(errno.EEXIST, os.link, "a", "b")
fails(errno.EPERM, os.link, ".", "d")
os.unlink("a")
equal((read("b"), os.stat("b").st_nlink), (b"changed again", 1))
for target in ("b", "absent", "x" * 4000, "../up", "/", "\udcff"):
    os.symlink(target, "s")
    equal(os.readlink("s"), target)
    equal(os.lstat("s").st_size, len(os.fsencode(target)), "size")
    fails(errno.EEXIST, os.symlink, target, "s")
    os.unlink("s")
os.symlink("b", "s")
write("s", "through")
equal((read("b"), os.path.islink("s")), (b"through", True))
os.symlink("made", "s2")
write("s2", "through a dangling one")
equal((read("made"), os.path.islink("s2")), (b"through a dangling one", True))
fails(errno.EEXIST, os.open, "s2", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
fails(errno.ELOOP, os.open, "s", os.O_RDONLY | os.O_NOFOLLOW)
os.symlink("loop", "loop")
fails(errno.ELOOP, open, "loop")
os.link("s", "hard", follow_symlinks=False)
assert os.path.islink("hard") and os.lstat("s").st_nlink == 2
"#);
});

same!(directories, |m| {
    m.py(r#"
os.mkdir("d")
equal(os.stat("d").st_nlink >= 1, True)
os.mkdir("d/e")
fails(errno.EEXIST, os.mkdir, "d")
fails(errno.ENOTEMPTY, os.rmdir, "d")
fails(errno.ENOENT, os.mkdir, "absent/x")
fails(errno.ENOENT, os.rmdir, "absent")
write("f", "")
fails(errno.ENOTDIR, os.rmdir, "f")
fails(errno.ENOTDIR, open, "f/x")
fails(errno.EISDIR, os.open, "d", os.O_WRONLY)
fails(errno.EISDIR, os.unlink, "d")
fails(errno.EISDIR, os.open, "d", os.O_CREAT | os.O_WRONLY)
fails(errno.EEXIST, os.open, "d", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
draft = open("d/e/draft", "wb", 0)
draft.write(b"x")
os.unlink("d/e/draft")
draft.close()
os.rmdir("d/e")
os.rmdir("d")
equal(os.listdir("."), ["f"])
os.makedirs("/".join(["deep"] * 60))
write("/".join(["deep"] * 60) + "/f", "bottom")
equal(read("/".join(["deep"] * 60) + "/f"), b"bottom")
os.mkdir("gone")
here = os.open("gone", os.O_RDONLY)
os.rmdir("gone")
fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=here)
"#);
});

same!(
    /// A file that was just closed is there for every call, not only for those that look it up.
    closed_files_are_there_at_once,
    |m| {
        m.py(r#"
os.mkdir("other")
for number in range(300):
    os.mkdir("full")
    write("full/x", b"x" * random.choice((0, 10, 200_000)))
    act = random.choice((0, 1, 1, 1, 2, 3, 4, 5))
    if act == 0:
        fails(errno.ENOTEMPTY, os.rmdir, "full")
    elif act == 1:
        fails(errno.ENOTEMPTY, os.rename, "other", "full")
    elif act == 2:
        equal(os.listdir("full"), ["x"], "listed")
    elif act == 3:
        fails(errno.EEXIST, os.open, "full/x", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        fails(errno.EEXIST, os.mkdir, "full/x")
        fails(errno.EEXIST, os.symlink, "y", "full/x")
    elif act == 4:
        os.link("full/x", "linked")
        equal(os.stat("linked").st_nlink, 2)
        os.unlink("linked")
    else:
        os.rename("full", "moved")
        equal(os.listdir("moved"), ["x"], "moved")
        os.rename("moved", "full")
    os.unlink("full/x")
    os.rmdir("full")
equal(os.listdir("."), ["other"])
"#);
    }
);

same!(
    /// 20,000 names: all listed, once, with their types; a listing while names come and go
    /// has all that stay.
    twenty_thousand_names,
    |m| {
        m.py(r#"
os.mkdir("d")
names = {f"name-{n:05}-{'x' * (n % 40)}" for n in range(20_000)}
for name in names:
    os.close(os.open("d/" + name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC))
equal(len(os.listdir("d")), 20_000)
equal(set(os.listdir("d")), names)
equal(all(entry.is_file() for entry in os.scandir("d")), True)
stay = sorted(names)[::2]
seen = []
with os.scandir("d") as entries:
    for number, entry in enumerate(entries):
        seen.append(entry.name)
        if number % 100 == 0:
            write(f"d/while-{number}", "")
            for name in sorted(names)[number // 2 * 2 + 1:number // 2 * 2 + 3:2]:
                os.unlink("d/" + name)
equal(len(seen), len(set(seen)), "a name came twice")
assert set(stay) <= set(seen), f"{len(set(stay) - set(seen))} names are missing"
found = subprocess.run("ls -U d | wc -l; find d -type f | wc -l", shell=True, stdout=subprocess.PIPE).stdout.split()
equal(found, [b"%d" % len(os.listdir("d"))] * 2, "ls and find")
subprocess.run(["rm", "-r", "d"], check=True)
equal(os.listdir("."), [])
"#);
    }
);

same!(names_of_any_bytes, |m| {
    m.py(r#"
names = [b"x" * 255, b"\xff\xfe not utf-8", b"new\nline", b" blank ", b"-rf", b"\\040", b"a\tb",
         "名前".encode(), "é".encode(), "e\u0301".encode(), b"*", b"..." , b".hidden", b"\x01"]
for name in names:
    write(name, b"of " + name)
    write(name, b"again of " + name)
equal(sorted(os.listdir(b".")), sorted(names))
for name in names:
    equal(read(name), b"again of " + name)
    os.rename(name, name[:-1] + b"+")
    os.unlink(name[:-1] + b"+")
equal(os.listdir(b"."), [])
fails(errno.ENAMETOOLONG, open, b"x" * 256, "wb")
fails(errno.ENAMETOOLONG, os.mkdir, b"x" * 256)
fails(errno.ENAMETOOLONG, os.stat, b"x" * 256)
fails(errno.ENOENT, os.stat, b"")
"#);
});

same!(fifos_sockets_and_devices, |m| {
    m.py(r#"
os.mkfifo("fifo", 0o640)
equal(stat.S_ISFIFO(os.stat("fifo").st_mode), True)
def produce(line):
    with open("fifo", "wb") as f:
        f.write(b"through the fifo")
worker = Worker(produce)
equal(read("fifo"), b"through the fifo")
worker.done()
server = socket.socket(socket.AF_UNIX)
server.bind("socket")
server.listen()
equal(stat.S_ISSOCK(os.stat("socket").st_mode), True)
def connect(line):
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.sendall(b"hello")
worker = Worker(connect)
equal(server.accept()[0].recv(5), b"hello")
worker.done()
fails(errno.EEXIST, os.mkfifo, "fifo")
os.mknod("regular", 0o600 | stat.S_IFREG)
equal(os.stat("regular").st_size, 0)
if os.getuid() == 0:
    os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    equal(os.stat("null").st_rdev, os.makedev(1, 3))
else:
    fails(errno.EPERM, os.mknod, "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
os.rename("fifo", "moved")
os.unlink("moved")
os.unlink("socket")
"#);
});

same!(
    /// Of 32 processes that create one name with O_EXCL, one succeeds; the name is reserved
    /// against everything else while it is written.
    exclusive_creation,
    |m| {
        m.py(r#"
def attempt(line, name):
    line.say("ready")
    line.hear()
    try:
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(fd, b"%d" % os.getpid())
        line.say("made it")
        line.hear()
        os.close(fd)
    except FileExistsError:
        line.say("exists")

for round in range(5):
    workers = [Worker(attempt, f"x{round}") for _ in range(32)]
    for worker in workers:
        worker.hear()
    for worker in workers:
        worker.say("go")
    said = [(worker.hear(), worker) for worker in workers]
    winners = [worker for word, worker in said if word == "made it"]
    equal(len(winners), 1, "winners")
    fails(errno.EEXIST, os.mkdir, f"x{round}")
    fails(errno.EEXIST, os.symlink, "y", f"x{round}")
    fails(errno.EEXIST, os.mkfifo, f"x{round}")
    write("other", "")
    fails(errno.EEXIST, os.link, "other", f"x{round}")
    fails(errno.EEXIST, renameat2, "other", f"x{round}", RENAME_NOREPLACE)
    winners[0].say("close")
    for worker in workers:
        worker.done()
    equal(read(f"x{round}"), b"%d" % winners[0].pid)

def exclusive_directory(line):
    line.hear()
    try:
        os.mkdir("d")
        line.say("made it")
    except FileExistsError:
        line.say("exists")
workers = [Worker(exclusive_directory) for _ in range(16)]
for worker in workers:
    worker.say("go")
equal([worker.hear() for worker in workers].count("made it"), 1, "mkdir")
for worker in workers:
    worker.done()
"#);
    }
);

mount_only!(
    /// polystore's own directory is neither listed nor to be reached by name.
    own_directory_is_hidden,
    |m| {
        m.py(r#"
equal(os.listdir("."), [])
write("f", "x")
f = open("f", "wb", 0)
f.write(b"y" * 2_000_000)
equal(os.listdir("."), ["f"])
assert os.path.isdir(DATA + "/.polystore"), "no session in the backing directory"
equal(stat.S_IMODE(os.stat(DATA + "/.polystore").st_mode), 0o700, "mode")
for name in ("sessions", "salvage"):
    fails(errno.ENOENT, os.stat, ".polystore/" + name)
    equal(os.path.exists(".polystore/" + name), False)
f.close()
equal(os.listdir("."), ["f"])
"#);
        m.finish();
        assert!(!m.data().join(".polystore").exists(), "left after a clean unmount");
    }
);

mount_only!(
    /// What is done in DATA beside the mount is seen within a second.
    changes_behind_the_mount,
    |m| {
        m.py(r#"
def soon(condition, what):
    deadline = time.monotonic() + 1.5
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)

write("f", "one")
equal(read("f"), b"one")
write(DATA + "/t", "two, longer")
os.rename(DATA + "/t", DATA + "/f")
soon(lambda: read("f") == b"two, longer" and os.stat("f").st_size == 11, "replaced")
fails(errno.ENOENT, os.stat, "g")
write(DATA + "/g", "new")
soon(lambda: os.path.exists("g") and "g" in os.listdir("."), "made")
os.unlink(DATA + "/g")
soon(lambda: not os.path.exists("g") and "g" not in os.listdir("."), "removed")
with open(DATA + "/f", "ab") as f:
    f.write(b" and more")
soon(lambda: read("f") == b"two, longer and more", "appended")
os.chmod(DATA + "/f", 0o600)
soon(lambda: stat.S_IMODE(os.stat("f").st_mode) == 0o600, "mode")
write("f", "by the mount")
equal(read("f"), b"by the mount")
equal(read(DATA + "/f"), b"by the mount")
"#);
    }
);
