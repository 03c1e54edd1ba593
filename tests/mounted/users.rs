//! One mount of root's, many users (`--allow-other`): each gets what a plain directory gives him.

use crate::harness::{Plain, Setup, Who, run};

/// Runs `script` as root; its function `scenario` says what it observes, in the mount and in a plain directory.
pub fn same_for_all_users(script: &str) {
    let setup = Setup::default().and_options(&["--allow-other"]);
    let script = format!("{USERS}\n{script}\ncompare(scenario)\n");
    SCRIPT.with(|cell| cell.replace(script));
    run(Who::Root, &setup, Plain::Passes, |m| {
        SCRIPT.with(|cell| m.py(&cell.borrow()));
    });
}

thread_local! {
    static SCRIPT: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

pub const USERS: &str = r#"
A, B, GROUP = 61001, 61002, 61100
SETPCAP = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"

def as_user(uid, function, gid=None, groups=(), umask=0o022):
    """What the function returns, or the name of the errno that it fails with, in a process of that user."""
    def work(line):
        os.umask(umask)
        os.setgroups(list(groups))
        os.setresgid(*[gid or uid] * 3)
        os.setresuid(*[uid] * 3)
        try:
            line.say(repr(function()))
        except OSError as error:
            line.say(repr(errno.errorcode[error.errno]))
    worker = Worker(work)
    answer = worker.hear()
    worker.done()
    return eval(answer)

def seen(path):
    stat = os.lstat(path)
    return oct(stat.st_mode), stat.st_uid, stat.st_gid, stat.st_nlink

def acl(path):
    return subprocess.run(["getfacl", "-cn", path], check=True, capture_output=True, text=True).stdout

def make(path, content=b"content", mode=0o644, uid=0, gid=0):
    with open(path, "wb") as f:
        f.write(content)
    os.chown(path, uid, gid)
    os.chmod(path, mode)

def make_dir(path, mode, uid=0, gid=0):
    os.mkdir(path)
    os.chown(path, uid, gid)
    os.chmod(path, mode)

def compare(scenario):
    results = []
    for place in (PLAIN, SAFE):
        for above in (place, os.path.dirname(place)):
            os.chmod(above, 0o755)
        os.chdir(place)
        results.append(scenario())
    plain, safe = results
    equal(len(safe), len(plain))
    for number, (one, other) in enumerate(zip(plain, safe)):
        equal(other, one, f"observation {number}, which a plain directory begins")
"#;

#[test]
fn what_is_made_is_the_callers() {
    same_for_all_users(
        r#"
def scenario():
    out = []
    make_dir("open", 0o777)
    make_dir("inherits", 0o2777, 0, GROUP)
    make_dir("sticky", 0o1777)
    make_dir("group", 0o770, 0, GROUP)
    make_dir("closed", 0o755)
    make_dir("acl", 0o777)
    subprocess.run(["setfacl", "-d", "-m", f"u:{B}:rwx,g::r-x,o::---", "acl"], check=True)
    def everything(directory):
        at = lambda name: os.path.join(directory, name)
        def one(function):
            try:
                function()
            except OSError as error:
                return errno.errorcode[error.errno]
        def new(name, flags, mode):
            fd = os.open(at(name), flags, mode)
            os.write(fd, b"x")
            os.close(fd)
        return [
            one(lambda: new("written", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)),
            one(lambda: new("exclusive", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)),
            one(lambda: new("appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)),
            one(lambda: new("setgid", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o2755)),
            one(lambda: new("x.log", os.O_WRONLY | os.O_CREAT, 0o2777)),
            one(lambda: os.mkdir(at("dir"), 0o777)),
            one(lambda: os.symlink("target", at("symlink"))),
            one(lambda: os.mkfifo(at("fifo"), 0o666)),
            one(lambda: os.mknod(at("device"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))),
            one(lambda: os.link(at("written"), at("linked"))),
            one(lambda: os.rename(at("exclusive"), at("renamed"))),
        ]
    for directory in ("open", "inherits", "sticky", "group", "closed", "acl"):
        for uid, groups in ((A, ()), (B, (GROUP,))):
            out.append((directory, uid, groups, as_user(uid, lambda: everything(directory), groups=groups)))
            for name in sorted(os.listdir(directory)):
                path = os.path.join(directory, name)
                out.append((path, seen(path)))
                if directory == "acl" and name in ("written", "dir"):
                    out.append(subprocess.run(["getfacl", "-cn", path], capture_output=True, text=True).stdout)
            subprocess.run(f"rm -rf {directory}/*", shell=True, check=True)
    return out
"#,
    );
}

#[test]
fn nobody_gets_more_than_his_rights() {
    same_for_all_users(
        r#"
def scenario():
    out = []
    make_dir("theirs", 0o777, A, A)
    make_dir("sticky", 0o1777)
    make_dir("closed", 0o755)
    FILES = [("secret", 0o600, A), ("shown", 0o644, A), ("shared", 0o666, A), ("write-only", 0o622, A), ("roots", 0o644, 0), ("group", 0o660, A)]
    def rewrite(path, flags):
        def work():
            fd = os.open(path, flags)
            try:
                if flags & 3:
                    os.write(fd, b"by another")
                return os.read(fd, 100) if flags & 3 != os.O_WRONLY else None
            finally:
                os.close(fd)
        return work
    for directory in ("theirs", "sticky", "closed"):
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
            for name, mode, owner in FILES:
                path = os.path.join(directory, name)
                make(path, mode=mode, uid=owner, gid=GROUP if name == "group" else owner)
                for groups in ((), (GROUP,)):
                    out.append((path, flags, groups, as_user(B, rewrite(path, flags), groups=groups), read(path), seen(path)))
                os.unlink(path)
        for name, mode, owner in FILES:
            path = os.path.join(directory, name)
            for what in (
                lambda: os.unlink(path), lambda: os.rename(path, path + "2"), lambda: os.truncate(path, 3),
                lambda: os.chmod(path, 0o777), lambda: os.chown(path, B, B), lambda: os.utime(path),
                lambda: os.setxattr(path, "user.x", b"1"), lambda: os.link(path, path + "3"),
            ):
                make(path, mode=mode, uid=owner, gid=owner)
                out.append((path, as_user(B, what), sorted(os.listdir(directory))))
                subprocess.run(f"rm -f {path}*", shell=True, check=True)
    return out
"#,
    );
}

#[test]
fn writing_takes_privileges_away() {
    same_for_all_users(
        r#"
def scenario():
    out = []
    make_dir("d", 0o777)
    os.chdir("d")
    def opened(flags, change):
        def work():
            fd = os.open("f", flags)
            try:
                change(fd)
            finally:
                os.close(fd)
        return work
    def spliced(fd):
        out, into = os.pipe()
        os.write(into, b"piped")
        os.splice(out, fd, 5)
    BLOCK = mmap.mmap(-1, 4096)
    CHANGES = {
        "nothing": opened(os.O_RDWR, lambda fd: None),
        "write": opened(os.O_RDWR, lambda fd: os.write(fd, b"x")),
        "append": opened(os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"x")),
        "direct": opened(os.O_RDWR | os.O_DIRECT, lambda fd: os.pwrite(fd, BLOCK, 0)),
        "direct append": opened(os.O_WRONLY | os.O_APPEND | os.O_DIRECT, lambda fd: os.write(fd, BLOCK)),
        "direct rewrite": opened(os.O_WRONLY | os.O_TRUNC | os.O_DIRECT, lambda fd: os.write(fd, BLOCK)),
        "synchronous": opened(os.O_RDWR | os.O_SYNC, lambda fd: os.write(fd, b"x")),
        "vector": opened(os.O_RDWR, lambda fd: os.pwritev(fd, [b"x", b"y"], 3)),
        "splice": opened(os.O_RDWR, spliced),
        "sendfile": opened(os.O_RDWR, lambda fd: os.sendfile(fd, os.open("source", os.O_RDONLY), 0, 7)),
        "reserve": opened(os.O_RDWR, lambda fd: fallocate(fd, 1, 0, 8192)),
        "punch": opened(os.O_RDWR, lambda fd: fallocate(fd, 3, 0, 4096)),
        "rewrite": opened(os.O_WRONLY | os.O_TRUNC, lambda fd: os.write(fd, b"x")),
        "ftruncate": opened(os.O_RDWR, lambda fd: os.ftruncate(fd, 3)),
        "truncate": lambda: os.truncate("f", 3),
        "fallocate": opened(os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 8192)),
        "copy": opened(os.O_RDWR, lambda fd: os.copy_file_range(os.open("source", os.O_RDONLY), fd, 7)),
        "chown": lambda: os.chown("f", -1, A),
        "chmod": lambda: os.chmod("f", 0o6755),
        "chmod g+s": lambda: os.chmod("f", 0o2755),
    }
    make("source", b"another")
    # With several names the file itself is written; x.log is written in place.
    for path, linked in (("f", False), ("f", True), ("x.log", False)):
        for mode in (0o6777, 0o4777, 0o2777, 0o6666, 0o2666, 0o2767) if path == "f" and not linked else (0o6777, 0o6666):
            for name, change in CHANGES.items():
                for uid, groups in ((A, ()), (A, (GROUP,)), (B, ()), (B, (GROUP,)), (0, ())):
                    # As long as what direct writes need.
                    make("f", b"c" * 4096, mode, A, GROUP)
                    if linked:
                        os.link("f", "second")
                    if path != "f":
                        os.rename("f", path); os.symlink(path, "f")
                    result = as_user(uid, change, groups=groups) if uid else as_user(0, change, gid=0)
                    out.append((path, linked, oct(mode), name, uid, groups, result, seen(path)[:3], os.listxattr(path)))
                    subprocess.run(["rm", "-f", "f", "second", "x.log"], check=True)
    for name, change in CHANGES.items():
        for uid in (A, 0):
            make("f", b"c" * 4096, 0o755, A, A)
            os.setxattr("f", "security.capability", SETPCAP)
            result = as_user(uid, change) if uid else as_user(0, change, gid=0)
            out.append((name, uid, result, os.listxattr("f")))
            os.unlink("f")
    return out
"#,
    );
}

#[test]
fn one_edit_of_two_users() {
    same_for_all_users(
        r#"
def scenario():
    make_dir("d", 0o777)
    make("d/f", b"0123456789", 0o666, A, GROUP)
    def edit(offset, text):
        def work():
            with open("d/f", "r+b", 0) as f:
                f.seek(offset)
                f.write(text)
        return work
    out = [as_user(A, edit(0, b"A")), as_user(B, edit(5, b"B")), read("d/f"), seen("d/f")]
    os.setxattr("d/f", "user.key", b"value")
    os.setxattr("d/f", "trusted.key", b"roots")
    subprocess.run(["setfacl", "-m", f"u:{B}:rw", "d/f"], check=True)
    out += [as_user(B, edit(7, b"C")), read("d/f"), seen("d/f"), sorted(os.listxattr("d/f"))]
    out += [as_user(B, lambda: sorted(os.listxattr("d/f"))), as_user(B, lambda: os.getxattr("d/f", "trusted.key"))]
    return out
"#,
    );
}

/// The blocks that ext4 keeps for root are not for the users of root's mount.
#[test]
fn reserved_blocks_stay_roots() {
    let setup = Setup::on_image("ext4", 64).and_options(&["--allow-other", "--salvage", "0"]);
    run(Who::Root, &setup, Plain::Passes, |m| {
        m.py(&format!(
            "{USERS}\n{}",
            r#"
os.chmod(".", 0o777)
def fill(flags):
    def work():
        fd = os.open("f", flags)
        written = 0
        try:
            while True:
                written += os.write(fd, b"x" * 65536)
        except OSError as error:
            equal(error.errno, errno.ENOSPC)
        try:
            os.close(fd)
        except OSError:
            pass
        return written
    return work
def left():
    stat = os.statvfs(".")
    return stat.f_bfree - stat.f_bavail, stat.f_bavail
reserved, _ = left()
assert reserved > 100, "nothing is reserved"
def reserve(path):
    """Takes all blocks that it can have without writing."""
    def work():
        fd, taken, piece = os.open(path, os.O_WRONLY | os.O_CREAT), 0, 1 << 22
        while piece >= 4096:
            try:
                fallocate(fd, 1, taken, piece)
                taken += piece
            except OSError as error:
                equal(error.errno, errno.ENOSPC)
                piece //= 2
        os.close(fd)
        return taken
    return work
for work in (fill(os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fill(os.O_WRONLY | os.O_CREAT | os.O_APPEND), reserve("f.log"), reserve("f")):
    written = as_user(A, work)
    assert written > 1 << 20
    free = os.statvfs(".").f_bfree
    assert free >= reserved - 16 or not os.listdir("."), f"{free} of {reserved} reserved blocks are left"
    for name in os.listdir("."):
        if name != "lost+found":
            os.unlink(name)
"#
        ));
    });
}

#[test]
fn users_open_each_others_files_while_they_replace_them() {
    same_for_all_users(
        r#"
def contend(line, worker):
    uid = (A, B)[worker % 2]
    os.umask(0)
    os.setgroups([])
    os.setresgid(*[uid] * 3)
    os.setresuid(*[uid] * 3)
    random.seed(worker)
    for _ in range(200):
        mode = random.choice(["wb", "r+b", "ab", "rb"])
        try:
            with open(f"c{random.randrange(2)}", mode) as f:
                f.read() if mode == "rb" else f.write(b"x" * 50)
        except FileNotFoundError:
            equal(mode in ("r+b", "rb"), True, f"{mode}: no such file")
        if random.random() < 0.2:
            write(f"t{worker}", "new")
            os.rename(f"t{worker}", f"c{random.randrange(2)}")

def scenario():
    make_dir("open", 0o777)
    os.chdir("open")
    workers = [Worker(contend, worker) for worker in range(8)]
    for worker in workers:
        worker.done()
    # What he may not open he is not given either, whoever replaces it.
    out = []
    make("closed", mode=0o600, uid=A, gid=A)
    def replace():
        for number in range(300):
            write(f"r{number % 2}", "secret")
            os.chmod(f"r{number % 2}", 0o600)
            os.rename(f"r{number % 2}", "closed")
    def errors():
        seen = set()
        for number in range(300):
            for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_APPEND):
                try:
                    os.close(os.open("closed", flags, 0o600))
                    seen.add("opened")
                except OSError as error:
                    seen.add(errno.errorcode[error.errno])
        return sorted(seen)
    def as_owner(line):
        os.setresgid(A, A, A)
        os.setresuid(A, A, A)
        replace()
    owner = Worker(as_owner)
    out.append(as_user(B, errors))
    owner.done()
    return out
"#,
    );
}

/// O_NOFOLLOW is about the name, not about the way on which the file is then opened.
#[test]
fn files_of_others_are_opened_with_nofollow() {
    same_for_all_users(
        r#"
def scenario():
    out = []
    make_dir("d", 0o777)
    make_dir("acl", 0o777)
    subprocess.run(["setfacl", "-d", "-m", f"u:{B}:rw", "acl"], check=True)
    for directory in ("d", "acl"):
        for name in ("f", "x.log", "t.lock", "c.json"):
            path = f"{directory}/{name}"
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
                as_user(A, lambda: write(path, "content"))
                if directory == "d":
                    os.chmod(path, 0o666)
                def opened():
                    fd = os.open(path, flags | os.O_NOFOLLOW, 0o644)
                    result = os.fstat(fd).st_size, os.fstat(fd).st_uid
                    os.close(fd)
                    return result
                out.append((path, flags, as_user(B, opened)))
    return out
"#,
    );
}
