//! A mount of an ordinary user's that lets others in (`--allow-other`): it cannot be them, and gives them no
//! more than the plain directory would.

use crate::harness::{Plain, Setup, Who, run};

thread_local! {
    static SCRIPT: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// Runs `script` as root, with the mount of an ordinary user: `data`, `safe`, users A and B, and the OWNER.
fn in_anothers_mount(script: &'static str) {
    SCRIPT.set(script);
    // The mount of the test itself only lends its directories.
    let setup = Setup::default().for_all_users();
    run(Who::Root, &setup, Plain::DoesNotApply, |m| {
        let body = SCRIPT.get().replace('\n', "\n    ");
        m.py(&format!(
            "from owned import *\nA, B = 61001, 61002\nwith Owned() as mounted:\n    data, safe = mounted.data, mounted.safe\n    os.chdir(safe){body}"
        ));
    });
}

#[test]
fn what_strangers_make_gets_no_set_id_bits() {
    in_anothers_mount(
        r#"
os.chmod(data, 0o777)
b = user(B)
b("os.close(os.open('excl', os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o6755))")
b("fd = os.open('new', os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o6755); os.write(fd, b'x'); os.close(fd)")
b("os.close(os.open('x.log', os.O_CREAT | os.O_WRONLY, 0o6755))")
b("os.close(os.open('app', os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o6755))")
b("os.mknod('node', 0o6755 | stat.S_IFREG)")
b("os.mkfifo('fifo', 0o6755)")
b("os.mkdir('dir', 0o6755)")
until(lambda: len(os.listdir(data)) >= 8, "all are there")
for name in ("excl", "new", "x.log", "app", "node", "fifo", "dir"):
    mode = os.lstat(f"{data}/{name}").st_mode
    equal(mode & 0o6000, 0, f"{name}: {oct(mode)}")
b.kill()
# The owner's own keep theirs.
owner = user(OWNER)
owner("fd = os.open('own', os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o6755); os.close(fd)")
until(lambda: os.path.exists(f"{data}/own"))
equal(os.stat(f"{data}/own").st_mode & 0o6000, 0o6000)
owner.kill()
"#,
    );
}

#[test]
fn swapped_names_give_strangers_nothing() {
    in_anothers_mount(
        r#"
make_dir(f"{data}/d", 0o777, OWNER)
os.chdir("d")
behind = f"{data}/d"
THEN = ("fcntl.flock(fd, fcntl.LOCK_SH)", "fcntl.lockf(fd, fcntl.LOCK_SH, 1)", "again = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)", "again = os.open(f'/proc/self/fd/{fd}', os.O_RDWR)", "again = os.open(f'/proc/self/fd/{fd}', os.O_WRONLY | os.O_TRUNC)", "again = os.open(name, os.O_RDWR)", "os.truncate(name, 0)", "os.pwrite(fd, b'X', 0)")
for wait in (0, 1.2):
    rounds = []
    for first in ("os.O_RDONLY", "os.O_RDWR", "os.O_PATH"):
        for then in THEN:
            name = f"f{wait}-{len(rounds)}"
            make(f"{behind}/{name}", "open", 0o666, OWNER)
            make(f"{behind}/{name}.new", "secret", 0o600, OWNER)
            b = user(B)
            b(f"name = {name!r}; again = None; fd = os.open(name, {first})")
            rounds.append((name, b, first, then))
    for name, *_ in rounds:
        os.rename(f"{behind}/{name}.new", f"{behind}/{name}")
    # What the kernel remembers, it may forget.
    time.sleep(wait)
    for name, b, first, then in rounds:
        answer(b, then)
        for fd in ("fd", "again"):
            got = answer(b, f"os.pread({fd}, 100, 0) if {fd} is not None else None")
            assert got in (None, b"open", b"", b"Xpen", b"X", "EBADF", "ESTALE", "EACCES"), (first, wait, then, fd, got)
            answer(b, f"os.pwrite({fd}, b'X', 0) if {fd} is not None else None")
            answer(b, f"os.close({fd}) if {fd} is not None else None")
        equal((read(f"{behind}/{name}"), oct(os.stat(f"{behind}/{name}").st_mode & 0o7777)), (b"secret", "0o600"), f"{first}, {wait}, {then}")
        b.kill()
"#,
    );
}
