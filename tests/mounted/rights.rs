//! What users may do to each other's files in root's mount: times, attributes, sticky directories,
//! groups, descriptors that outlive a right.

use crate::harness::{Plain, Setup, Who, run, same};
use crate::users::same_for_all_users;

same!(
    /// To the nanosecond, on both sides of 1970, as far as the file system below goes.
    times_before_1970_and_far_away,
    |m| {
        m.sh_same(
            "times",
            r#"touch f; mkdir d; ln -s x l; python3 -c '
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for seconds, nanoseconds in ((0, 0), (-1, 999_999_999), (-1, 0), (-2, 500_000_000), (-(1 << 31), 0), (-(1 << 31) - 5, 7), (1 << 31, 7), (1 << 33, 3), (1 << 40, 1), ((1 << 63) - 1, 999_999_999), (-(1 << 63), 5)):
    times = (ctypes.c_long * 4)(seconds, nanoseconds, seconds, nanoseconds)
    for name in ("f", "d", "l"):
        done = libc.utimensat(-100, name.encode(), times, 0x100)
        status = os.lstat(name)
        print(name, seconds, nanoseconds, done, status.st_atime_ns, status.st_mtime_ns)
    with open("f", "r+b") as f:
        done = libc.futimens(f.fileno(), times)
        status = os.fstat(f.fileno())
        print(done, status.st_atime_ns, status.st_mtime_ns)
os.utime("f", ns=(-5, -1_500_000_000)); os.utime("d", ns=(-5, -7)); os.utime("l", ns=(-5, -7), follow_symlinks=False); os.utime(".", ns=(-1, -1))'"#,
        );
    }
);

/// The kernel's FUSE module gives programs no time of birth (see SEMANTICS.md).
#[test]
fn no_time_of_birth_is_shown() {
    run(Who::Root, &Setup::default(), Plain::DoesNotApply, |m| {
        assert_eq!(m.sh("touch f; stat -c %w f; cat f").trim(), "-");
    });
}

#[test]
fn who_may_set_which_times() {
    same_for_all_users(
        r#"
def scenario():
    make_dir("d", 0o777)
    os.chdir("d")
    make("f", uid=A, gid=A, mode=0o666)
    os.symlink("x", "link")
    os.lchown("link", A, A)
    def now_and_not():
        UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
        call("utimensat", AT_FDCWD, b"f", (ctypes.c_long * 4)(0, UTIME_NOW, 0, UTIME_OMIT), 0)
    out = []
    for mode in (0o666, 0o644):
        os.chmod("f", mode)
        for uid in (A, B):
            for what in (lambda: os.utime("f"), lambda: os.utime("f", ns=(5, 5)), lambda: os.utime("link", follow_symlinks=False), now_and_not):
                os.utime("f", ns=(1, 1))
                out.append((mode, uid, as_user(uid, what), [t if t < 10 else "now" for t in (os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns)]))
    return out
"#,
    );
}

#[test]
fn an_old_versions_descriptor_changes_the_old_version() {
    same_for_all_users(
        r#"
def scenario():
    make_dir("d", 0o777)
    os.chdir("d")
    make("f", b"one", 0o644, A, A)
    make("other", b"two", 0o640, B, B)
    def change(line):
        os.setgroups([])
        os.setresgid(A, A, A)
        os.setresuid(A, A, A)
        fd = os.open("f", os.O_RDONLY)
        line.say("open")
        line.hear()
        os.fchmod(fd, 0o666)
        os.utime(fd, ns=(9, 9))
        os.setxattr(fd, "user.old", b"1")
        status = os.fstat(fd)
        found = [oct(status.st_mode), status.st_mtime_ns, os.listxattr(fd), os.pread(fd, 10, 0)]
        for flags in (os.O_RDONLY, os.O_RDWR):
            try:
                found.append(os.pread(os.open("f", flags), 10, 0))
            except OSError as error:
                found.append(errno.errorcode[error.errno])
        line.say(repr(found))
    worker = Worker(change)
    worker.hear()
    os.rename("other", "f")
    worker.say("go on")
    found = eval(worker.hear())
    worker.done()
    return [found, seen("f"), os.listxattr("f"), os.stat("f").st_mtime_ns == 9, read("f")]
"#,
    );
}

#[test]
fn a_right_that_is_taken_away_is_gone_for_all_but_open_descriptors() {
    same_for_all_users(
        r#"
def scenario():
    make_dir("d", 0o777)
    os.chdir("d")
    make("f", b"secret", 0o644, A, A)
    def keep(line):
        os.setgroups([])
        os.setresgid(B, B, B)
        os.setresuid(B, B, B)
        fd = os.open("f", os.O_RDONLY)
        line.say("open")
        line.hear()
        found = [os.pread(fd, 10, 0)]
        for path in ("f", f"/proc/self/fd/{fd}"):
            for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
                try:
                    os.close(os.open(path, flags))
                    found.append("opened")
                except OSError as error:
                    found.append(errno.errorcode[error.errno])
        line.say(repr(found))
    worker = Worker(keep)
    worker.hear()
    as_user(A, lambda: os.chmod("f", 0o600))
    worker.say("go on")
    found = eval(worker.hear())
    worker.done()
    return [found, read("f"), seen("f")]
"#,
    );
}

#[test]
fn extended_attributes_of_others() {
    same_for_all_users(
        r#"
def scenario():
    out = []
    make_dir("d", 0o1777, A, A)
    make("d/f", b"1", 0o644, A, A)
    for uid in (A, B):
        for path in ("d", "d/f"):
            for name in ("user.k", "trusted.k", "security.k", "system.k", "nonsense"):
                out.append((uid, path, name,
                            as_user(uid, lambda: os.setxattr(path, name, b"v")),
                            as_user(uid, lambda: os.getxattr(path, name)),
                            as_user(uid, lambda: os.removexattr(path, name))))
        os.setxattr("d/f", "user.kept", b"v")
        os.setxattr("d/f", "trusted.kept", b"v")
        os.chmod("d/f", 0o600)
        out.append((as_user(uid, lambda: sorted(os.listxattr("d/f"))), as_user(uid, lambda: os.getxattr("d/f", "user.kept"))))
        os.chmod("d/f", 0o644)
    for name, value in (("user." + "k" * 250, b""), ("user." + "k" * 251, b""), ("user.big", b"v" * 65537)):
        out.append(as_user(A, lambda: os.setxattr("d/f", name, value)))
    return out
"#,
    );
}

#[test]
fn sticky_directories() {
    same_for_all_users(
        r#"
def scenario():
    out = []
    make_dir("d", 0o777)
    os.chdir("d")
    make_dir("sticky", 0o1777)
    def again(name, owner):
        subprocess.run("rm -rf sticky/* mine", shell=True, check=True)
        make("mine", uid=A, gid=A)
        if name == "sticky/f":
            make(name, uid=owner, gid=owner, mode=0o666)
        else:
            make_dir(name, 0o777, owner, owner)
    for owner in (A, B, 0):
        for name in ("sticky/f", "sticky/dir"):
            remove = os.unlink if name == "sticky/f" else os.rmdir
            for what in (lambda: os.rename(name, "sticky/other"), lambda: os.rename("mine", name), lambda: remove(name), lambda: renameat2(name, "mine", RENAME_EXCHANGE)):
                again(name, owner)
                out.append((owner, name, as_user(A, what), sorted(os.listdir("sticky"))))
        for flags in (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            again("sticky/f", owner)
            out.append((owner, flags, as_user(A, lambda: os.write(os.open("sticky/f", flags, 0o600), b"A")), seen("sticky/f"), read("sticky/f")))
    return out
"#,
    );
}

#[test]
fn groups_and_their_bits() {
    same_for_all_users(
        r#"
def scenario():
    out = []
    make_dir("d", 0o755, A, GROUP)
    make("d/f", b"x", 0o664, A, GROUP)
    def use(path, flags, mode=0o666):
        return lambda: os.write(os.open(path, flags, mode), b"by B")
    for groups in ((), (GROUP,), (1, 2, 3, GROUP)):
        for flags in (os.O_WRONLY | os.O_TRUNC, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
            out.append((groups, flags, as_user(B, use("d/f", flags), groups=groups), seen("d/f"), read("d/f")))
    os.chmod("d", 0o2775)
    for groups in ((), (GROUP,)):
        for mode in (0o2775, 0o2764, 0o666):
            out.append((groups, mode, as_user(B, use("d/new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), groups=groups)))
            if os.path.exists("d/new"):
                out.append(seen("d/new"))
                os.unlink("d/new")
    os.chmod("d", 0o777)
    for groups in ((), (GROUP,)):
        for mode in (0o6755, 0o644):
            for gid in (A, GROUP, 0):
                make("d/c", uid=A, gid=A, mode=mode)
                out.append((groups, oct(mode), gid, as_user(A, lambda: os.chown("d/c", -1, gid), groups=groups), seen("d/c")))
                make("d/c", uid=A, gid=A, mode=mode)
                def of_a_draft():
                    fd = os.open("d/c", os.O_WRONLY | os.O_TRUNC)
                    os.write(fd, b"x")
                    try:
                        os.fchown(fd, -1, gid)
                    finally:
                        os.fchmod(fd, 0o2755)
                        os.close(fd)
                out.append((groups, oct(mode), gid, as_user(A, of_a_draft, groups=groups), seen("d/c")))
    # A descriptor that root opened and another writes to.
    for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        make("d/s", b"x", 0o6777, A, A)
        fd = os.open("d/s", flags)
        out.append(as_user(B, lambda: os.write(fd, b"hi")))
        os.close(fd)
        out.append((flags, seen("d/s"), read("d/s")))
    return out
"#,
    );
}
