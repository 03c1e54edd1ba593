//! Modes, owners, times, extended attributes, ACLs.

use crate::harness::same;

same!(
    /// Times that a program sets are the times that stay, to the nanosecond.
    times_that_are_set_stay,
    |m| {
        m.py(r#"
TIMES = (1_234_567_890_123_456_789, 987_654_321_012_345_678)
def check(name):
    status = os.stat(name, follow_symlinks=False)
    equal((status.st_atime_ns, status.st_mtime_ns), TIMES, name)
def all_of_them(names):
    for name in names:
        check(name)
    time.sleep(1.2)
    for name in names:
        check(name)

write("before", "x")
os.utime("before", ns=TIMES)
with open("while open", "wb") as f:
    f.write(b"content")
    f.flush()
    os.utime(f.fileno(), ns=TIMES)
with open("while open, by name", "wb") as f:
    f.write(b"content")
    f.flush()
    os.utime("while open, by name", ns=TIMES)
write("rewritten", "old")
with open("rewritten", "wb") as f:
    f.write(b"content" * 100_000)
    f.flush()
    os.utime(f.fileno(), ns=TIMES)
os.mkdir("directory")
os.utime("directory", ns=TIMES)
os.symlink("x", "link")
os.utime("link", ns=TIMES, follow_symlinks=False)
with open("edited", "wb") as f:
    f.write(b"12345")
with open("edited", "r+b") as f:
    f.write(b"abc")
    f.flush()
    os.utime(f.fileno(), ns=TIMES)
with open("appended", "ab") as f:
    f.write(b"abc")
    f.flush()
    os.utime(f.fileno(), ns=TIMES)
write("renamed.tmp", "x")
os.utime("renamed.tmp", ns=TIMES)
os.rename("renamed.tmp", "renamed")
names = ["before", "while open", "while open, by name", "rewritten", "directory", "link", "edited", "appended", "renamed"]
all_of_them(names)
for name in names:
    status = os.stat(DATA + "/" + name, follow_symlinks=False)
    equal(status.st_mtime_ns, TIMES[1], f"{name} in the backing directory")
"#);
    }
);

same!(times_advance_with_writes, |m| {
    m.py(r#"
write("f", "x")
os.utime("f", (1000, 1000))
first = os.stat("f")
write("f", "y")
assert os.stat("f").st_mtime > 1_000_000, "a rewrite sets the time"
os.utime("f", (1000, 1000))
with open("f", "ab") as f:
    f.write(b"z")
assert os.stat("f").st_mtime > 1_000_000, "an append sets the time"
os.utime("f", (1000, 1000))
with open("f", "r+b") as f:
    f.write(b"z")
assert os.stat("f").st_mtime > 1_000_000, "an edit sets the time"
os.utime("f", (1000, 1000))
os.truncate("f", 1)
assert os.stat("f").st_mtime > 1_000_000, "truncate sets the time"
os.utime("f", (1000, 1000))
os.utime("f")
assert os.stat("f").st_mtime > 1_000_000, "touch sets the time"
before = os.stat("f").st_ctime_ns
time.sleep(0.02)
os.chmod("f", 0o600)
assert os.stat("f").st_ctime_ns > before, "chmod sets ctime"
os.mkdir("d")
os.utime("d", (1000, 1000))
write("d/new", "")
assert os.stat("d").st_mtime > 1_000_000, "a new name sets its directory's time"
"#);
});

same!(modes_umask_and_setgid_directories, |m| {
    m.py(r#"
def mode(name):
    return stat.S_IMODE(os.stat(name).st_mode)
for mask, expected in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)):
    os.umask(mask)
    write(f"f{mask:o}", "x")
    equal(mode(f"f{mask:o}"), expected, f"umask {mask:o}")
    equal(mode(DATA + f"/f{mask:o}"), expected, f"umask {mask:o}, in the backing directory")
    os.mkdir(f"d{mask:o}")
    equal(mode(f"d{mask:o}"), 0o777 & ~mask, f"directory, umask {mask:o}")
    f = open(f"f{mask:o}", "wb")
    equal(stat.S_IMODE(os.fstat(f.fileno()).st_mode), expected, "of a draft")
    f.close()
    equal(mode(f"f{mask:o}"), expected, "after a rewrite")
os.umask(0o022)
fd = os.open("m", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400)
os.write(fd, b"a file that its maker may write once")
os.close(fd)
equal(mode("m"), 0o400)
os.mkdir("setgid")
os.chmod("setgid", 0o2775)
group = os.stat("setgid").st_gid
if os.getuid() == 0:
    group = 12345
    os.chown("setgid", -1, group)
    os.chmod("setgid", 0o2775)
write("setgid/f", "x")
os.mkdir("setgid/d")
os.symlink("x", "setgid/s")
equal([os.lstat("setgid/" + n).st_gid for n in "fds"], [group] * 3, "group")
equal(mode("setgid/d"), 0o2755, "setgid is inherited by directories")
equal(mode("setgid/f"), 0o644, "and not by files")
for bits in (0o4755, 0o1777, 0o0, 0o7777):
    os.chmod("f22", bits)
    equal(mode("f22"), bits)
fails(errno.ENOENT, os.chmod, "absent", 0o600)
"#);
});

same!(owners_and_permissions, |m| {
    m.py(r#"
write("f", "x")
equal((os.stat("f").st_uid, os.stat("f").st_gid), (os.getuid(), os.getgid()))
if os.getuid() == 0:
    os.chown("f", 1234, 5678)
    write("f", "rewritten by root")
    equal((os.stat("f").st_uid, os.stat("f").st_gid), (1234, 5678), "owner after a rewrite")
    os.lchown("f", 0, 0)
    os.chmod("f", 0o4711)
    os.chown("f", 1, -1)
    equal(stat.S_IMODE(os.stat("f").st_mode), 0o711, "chown clears setuid")
else:
    fails(errno.EPERM, os.chown, "f", 0, -1)
    os.chown("f", -1, os.getgid())
    os.chmod("f", 0o400)
    fails(errno.EACCES, open, "f", "wb")
    equal(read("f"), b"x")
    os.chmod("f", 0)
    fails(errno.EACCES, open, "f")
    os.mkdir("closed", 0o500)
    fails(errno.EACCES, open, "closed/f", "wb")
    fails(errno.EACCES, os.mkdir, "closed/d")
    equal(os.access("closed", os.W_OK), False)
    equal(os.access("closed", os.X_OK), True)
"#);
});

same!(extended_attributes, |m| {
    m.py(r#"
write("f", "x")
os.mkdir("d")
for name in ("f", "d"):
    os.setxattr(name, "user.one", b"1")
    os.setxattr(name, "user.two", bytes(range(256)) * 8)
    os.setxattr(name, "user.empty", b"")
    equal(sorted(n for n in os.listxattr(name) if n.startswith("user.")), ["user.empty", "user.one", "user.two"])
    equal(os.getxattr(name, "user.two"), bytes(range(256)) * 8)
    equal(os.getxattr(name, "user.empty"), b"")
    fails(errno.EEXIST, os.setxattr, name, "user.one", b"2", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, name, "user.none", b"2", os.XATTR_REPLACE)
    os.setxattr(name, "user.one", b"2", os.XATTR_REPLACE)
    equal(os.getxattr(name, "user.one"), b"2")
    for path in (name, DATA + "/" + name):
        equal(call("listxattr", os.fsencode(path), None, 0) > 20, True, "how long the list is")
        equal(call("getxattr", os.fsencode(path), b"user.two", None, 0), 2048, "how long a value is")
        fails(errno.ERANGE, call, "getxattr", os.fsencode(path), b"user.two", bytes(10), 10)
        fails(errno.ERANGE, call, "listxattr", os.fsencode(path), bytes(10), 10)
    os.removexattr(name, "user.empty")
    fails(errno.ENODATA, os.getxattr, name, "user.empty")
    fails(errno.ENODATA, os.removexattr, name, "user.empty")
    equal(os.getxattr(DATA + "/" + name, "user.one"), b"2", "in the backing directory")
write("f", "rewritten")
equal(os.getxattr("f", "user.two"), bytes(range(256)) * 8, "after a rewrite")
with open("f", "wb") as f:
    f.write(b"again")
    f.flush()
    os.setxattr(f.fileno(), "user.draft", b"d")
    os.removexattr(f.fileno(), "user.one")
equal(os.getxattr("f", "user.draft"), b"d")
fails(errno.ENODATA, os.getxattr, "f", "user.one")
fails(errno.EOPNOTSUPP, os.setxattr, "f", "nonsense.name", b"")
if os.getuid() == 0:
    os.setxattr("f", "trusted.x", b"t")
    write("f", "x")
    equal(os.getxattr("f", "trusted.x"), b"t", "trusted, after a rewrite")
"#);
});

same!(access_control_lists, |m| {
    m.sh_same(
        "content,mode,owner,xattrs",
        r#"umask 022
        echo x > f; setfacl -m u:daemon:rw,g:games:r f; getfacl -c f
        echo y > f; getfacl -c f
        chmod 640 f; getfacl -c f; setfacl -x u:daemon f; getfacl -c f; setfacl -b f; getfacl -c f
        mkdir d; setfacl -d -m u:daemon:rwx,g::rx,o::- d; getfacl -c d
        echo z > d/new; getfacl -c d/new; echo again > d/new; getfacl -c d/new
        mkdir d/sub; getfacl -c d/sub; umask 077; echo z > d/masked; getfacl -c d/masked
        echo w > d/t; mv d/t d/new; getfacl -c d/new; cp -p d/new copied; getfacl -c copied"#,
    );
    let owner = m.sh("id -u");
    if owner.trim() == "0" {
        return;
    }
    m.py(r#"
write("g", "x")
user = os.getuid()
subprocess.run(["setfacl", "-m", f"u::---", "g"], check=True)
fails(errno.EACCES, open, "g")
"#);
});

same!(space_is_reported, |m| {
    m.py(r#"
mine, below = os.statvfs("."), os.statvfs(DATA)
for name in ("f_bsize", "f_blocks", "f_files", "f_namemax", "f_frsize"):
    equal(getattr(mine, name), getattr(below, name), name)
assert abs(mine.f_bavail - below.f_bavail) * mine.f_frsize < 2_000_000_000
write("f", b"x" * 1_000_000)
assert os.stat("f").st_blocks * 512 >= 900_000 or below.f_bsize == 0, os.stat("f").st_blocks
subprocess.run(["df", "."], check=True, stdout=subprocess.DEVNULL)
"#);
});

same!(
    /// Programs compare what fstat and stat say of the file they have open.
    identity_of_files,
    |m| {
        m.py(r#"
for name in ("new", "old"):
    f = open(name, "wb", 0)
    f.write(b"content")
    for status in (os.fstat(f.fileno()), os.stat(name)):
        equal(status.st_nlink, 1, f"{name}: links")
        equal(status.st_size, 7, f"{name}: size")
    equal(os.fstat(f.fileno()).st_ino, os.stat(name).st_ino, f"{name}: inode, open")
    inode = os.fstat(f.fileno()).st_ino
    f.close()
    equal(os.stat(name).st_ino, inode, f"{name}: inode, closed")
    f = open(name, "rb")
    equal(os.fstat(f.fileno()).st_ino, os.stat(name).st_ino, f"{name}: inode, read")
    write("old", "before")
entries = {entry.name: entry.inode() for entry in os.scandir(".")}
equal(entries, {name: os.stat(name).st_ino for name in entries}, "inodes as readdir lists them")
"#);
    }
);

same!(
    /// What fstat says of a file that has just been written is true after it is closed, too: git
    /// compares the two, ctime and all.
    closing_changes_no_attribute,
    |m| {
        m.py(r#"
def look(status):
    return {name: getattr(status, name) for name in
            ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_mode", "st_nlink", "st_uid", "st_gid")}

def make(name, mode, size):
    with open(name, mode) as f:
        f.write(b"x" * size)
        f.flush()
        seen = look(os.fstat(f.fileno()))
        time.sleep(0.02)
    return seen

for size in (0, 5, 3 << 20):
    for name, mode in (("new", "xb"), ("new", "wb"), ("other", "wb")):
        seen = make(name, mode, size)
        for _ in range(3):
            equal(look(os.stat(name)), seen, f"{name} {mode} {size}")
            time.sleep(0.005)
        with open(name, "rb") as f:
            equal(look(os.fstat(f.fileno())), seen)
    os.chmod("new", 0o600)
    assert os.stat("new").st_ctime_ns > seen["st_ctime_ns"]
    os.unlink("new")
    os.unlink("other")
"#);
    }
);
