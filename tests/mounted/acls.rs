//! POSIX ACLs of several users: who may set them, what that takes away, what new files inherit.

use crate::users::same_for_all_users;

#[test]
fn an_acl_takes_the_setgid_bit_away_from_who_is_not_in_the_group() {
    same_for_all_users(
        r#"
def sh(command):
    return lambda: subprocess.run(command, shell=True, capture_output=True, text=True).returncode
def scenario():
    out = []
    make_dir("d", 0o777)
    os.chdir("d")
    for mode in (0o2755, 0o2745, 0o6755, 0o755):
        for groups in ((), (GROUP,)):
            for entry in (f"u:{B}:rx", "g::rwx", "u::rw", "m::r"):
                make("f", mode=mode, uid=A, gid=GROUP)
                result = as_user(A, sh(f"setfacl -m {entry} f"), groups=groups)
                out.append((oct(mode), groups, entry, result, seen("f"), acl("f")))
            subprocess.run(["setfacl", "-m", f"u:{B}:rwx", "f"], check=True)
            out.append((as_user(A, sh("setfacl -b f"), groups=groups), seen("f"), acl("f")))
        make_dir("g", mode, A, GROUP)
        result = as_user(A, sh(f"setfacl -m u:{B}:rx g; setfacl -d -m u:{B}:rwx g"))
        out.append((oct(mode), result, seen("g"), acl("g")))
        os.rmdir("g")
    out.append((as_user(B, sh("setfacl -m u::rw f")), seen("f")))
    return out
"#,
    );
}

#[test]
fn what_is_made_inherits_them_whatever_the_umask() {
    same_for_all_users(
        r#"
WAYS = {
    "rewritten": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "exclusive": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "appended": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x.log": os.O_WRONLY | os.O_CREAT,
}
def make_all():
    for name, flags in WAYS.items():
        for mode in (0o666, 0o600, 0o2777):
            fd = os.open(f"dir/{mode:o} {name}", flags, mode)
            os.write(fd, b"x")
            os.close(fd)
    os.mkdir("dir/sub", 0o777)
    os.mkdir("dir/closed", 0o2700)
    os.mkfifo("dir/fifo", 0o666)
    write("dir/sub/deep", "x")
def scenario():
    out = []
    make_dir("d", 0o777)
    os.chdir("d")
    for acls in (f"u:{B}:rwx,g::r-x,o::---", "u::rwx,g::rwx,o::rwx", f"u:{B}:r-x,m::r-x,g::---,o::r--"):
        for umask in (0, 0o022, 0o077):
            make_dir("dir", 0o2777, 0, GROUP)
            subprocess.run(["setfacl", "-d", "-m", acls, "dir"], check=True)
            out.append((acls, umask, as_user(A, make_all, umask=umask)))
            def describe():
                for top, directories, files in os.walk("dir"):
                    for path in [top] + sorted(f"{top}/{name}" for name in files):
                        out.append((path, seen(path), acl(path)))
            describe()
            for path in ("dir/600 exclusive", "dir/666 rewritten"):
                out.append(as_user(A, lambda: write(path, "again")))
                out.append(as_user(A, lambda: write(path, "edited", "r+b")))
            describe()
            subprocess.run(["rm", "-r", "dir"], check=True)
    return out
"#,
    );
}

#[test]
fn they_decide_who_reads_and_writes() {
    same_for_all_users(
        r#"
def scenario():
    out = []
    make_dir("d", 0o777)
    os.chdir("d")
    for entry in (f"u:{B}:rw", f"u:{B}:r", f"g:{GROUP}:rw", f"u:{B}:-"):
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            for groups in ((), (GROUP,)):
                make("f", mode=0o640, uid=A, gid=A)
                subprocess.run(["setfacl", "-m", entry, "f"], check=True)
                def use():
                    fd = os.open("f", flags)
                    try:
                        return os.write(fd, b"new") if flags & 3 else os.read(fd, 10)
                    finally:
                        os.close(fd)
                result = as_user(B, use, groups=groups)
                out.append((entry, flags, groups, result, read("f"), seen("f"), acl("f")))
                os.unlink("f")
    return out
"#,
    );
}
