//! Names that are swapped under open descriptors, and rights that end while something is open: nobody
//! gets more by it than in a plain directory. Root's mount, many users.

use crate::harness::{Plain, Setup, Who, run};
use crate::users::{USERS, same_for_all_users};

const SWAPS: &str = r#"
from people import answer, user

def behind():
    """The directory where the scenario is, behind the mount."""
    here = os.getcwd()
    return here.replace(SAFE, DATA, 1) if here.startswith(SAFE) else here

def unless_refused(got, first):
    """A file without a name that is only known by O_PATH cannot be opened in the mount: ESTALE."""
    return "refused" if first == "os.O_PATH" and got in (None, "EACCES", "ESTALE") else got
"#;

fn same(script: &str) {
    same_for_all_users(&format!("{SWAPS}\n{script}"));
}

/// In root's mount only: a plain directory has no drafts.
fn in_mount(script: &str) {
    in_mount_with(&[], &format!("os.chmod('.', 0o755)\n{script}"));
}

fn in_mount_with(options: &[&str], script: &str) {
    let setup = Setup::options(options).and_options(&["--allow-other"]);
    let script = format!("{USERS}\n{SWAPS}\nos.chmod('..', 0o755)\n{script}");
    SCRIPT.with(|cell| cell.replace(script));
    run(Who::Root, &setup, Plain::DoesNotApply, |m| {
        SCRIPT.with(|cell| m.py(&cell.borrow()));
    });
}

thread_local! {
    static SCRIPT: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

const LOCKED: &str = r#"
def scenario():
    out = []
    make_dir("d", 0o777, A, A)
    os.chdir("d")
    a, b = user(A), user(B)
    for where in ('mount', 'data'):
        for lock in ("fcntl.flock(f, fcntl.LOCK_SH)", "fcntl.flock(f, fcntl.LOCK_EX)", "fcntl.lockf(f, fcntl.LOCK_SH, 1)", "fcntl.lockf(f, fcntl.LOCK_SH)"):
            at = {"mount": ".", "data": behind()}[where]
            make(f"{behind()}/f", b"old", 0o644, A, A)
            make(f"{behind()}/g", b"secret", 0o600, A, A)
            b("f = open('f', 'rb', 0)")
            if FIRST:
                b("f.read()")
            a(f"os.rename('{at}/g', '{at}/f')")
            out.append((where, lock, answer(b, lock), b("f.seek(0); f.read()") or b("os.pread(f.fileno(), 100, 0)")))
            b("f.close()")
    a.kill(); b.kill()
    return out
"#;

/// Who opened a version goes on reading that one if he may not read what has replaced it.
#[test]
fn a_lock_gives_nobody_what_he_may_not_read() {
    for first in ["True", "False"] {
        same(&format!("FIRST = {first}\n{LOCKED}"));
    }
}

/// The same where nothing can be changed through the mount.
#[test]
fn nor_in_a_read_only_mount() {
    in_mount_with(
        &["--read-only"],
        r#"
behind = DATA + "/d"
make_dir(behind, 0o777, A, A)
os.chmod(DATA, 0o755)
b = user(B)
for lock in ("fcntl.flock(f, fcntl.LOCK_SH)", "fcntl.lockf(f, fcntl.LOCK_SH, 1)"):
    make(f"{behind}/f", b"old", 0o644, A, A)
    make(f"{behind}/g", b"secret", 0o600, A, A)
    b("f = open('d/f', 'rb', 0); f.read()")
    os.rename(f"{behind}/g", f"{behind}/f")
    b(lock)
    equal(b("os.pread(f.fileno(), 100, 0)"), b"old", lock)
    b("f.close()")
    os.unlink(f"{behind}/f")
    time.sleep(1.1)
b.kill()
"#,
    );
}

/// /proc/self/fd/N is the file that it was, whatever has its name now.
#[test]
fn reopening_finds_the_file_that_is_open() {
    same(
        r#"
def scenario():
    out = []
    make_dir("d", 0o777, B, B)
    os.chdir("d")
    for where in ("mount", "data"):
        for gone in ("unlink", "aside", "over"):
            for first in ("os.O_RDONLY", "os.O_RDWR", "os.O_PATH"):
                for flags in ("os.O_RDONLY", "os.O_RDWR", "os.O_RDWR", "os.O_WRONLY | os.O_TRUNC", "os.O_WRONLY | os.O_APPEND"):
                    b = user(B)
                    at = {"mount": ".", "data": behind()}[where]
                    make("roots", b"secret", 0o600)
                    b(f"write('f', 'own'); fd = os.open('f', {first})")
                    b({"unlink": f"os.unlink('{at}/f'); os.rename('{at}/roots', '{at}/f')", "aside": f"os.rename('{at}/f', '{at}/mine'); os.rename('{at}/roots', '{at}/f')", "over": f"os.rename('{at}/roots', '{at}/f')"}[gone])
                    got = answer(b, f"again = os.open(f'/proc/self/fd/{{fd}}', {flags})")
                    seen_there = None
                    if got is None:
                        seen_there = (answer(b, "os.read(again, 100)"), answer(b, "os.write(again, b'x')"), answer(b, "os.close(again)"))
                        if first == "os.O_PATH":
                            assert seen_there[0] in (b"own", b"", "EBADF"), seen_there
                            seen_there = None
                    answer(b, "os.close(fd)")
                    out.append((where, gone, first, flags, unless_refused(got, first), seen_there, read("f"), seen("f")))
                    b.kill()
                    subprocess.run("rm -f *", shell=True, check=True)
    return out
"#,
    );
}

/// An edit whose name comes to be another's file goes on with the file that it was opened as.
#[test]
fn an_edit_never_takes_over_what_its_editor_may_not_open() {
    same(
        r#"
def scenario():
    out = []
    make_dir("d", 0o777, B, B)
    os.chdir("d")
    for where in ("mount", "data"):
        for mode in (0o600, 0o644):
            for reader in (False, True):
                for wait in (0, 1.2):
                    b, other = user(B), user(B)
                    at = {"mount": ".", "data": behind()}[where]
                    make("roots", b"secret", mode)
                    b("write('f', 'own content'); f = open('f', 'r+b', 0)")
                    if reader:
                        other("f = open('f', 'r+b', 0); f.read()")
                    b(f"os.rename('{at}/roots', '{at}/f')")
                    time.sleep(wait)
                    done = [answer(b, "os.pread(f.fileno(), 100, 0)"), answer(b, "os.pwrite(f.fileno(), b'X', 0)"), answer(b, "os.pread(f.fileno(), 100, 0)")]
                    if reader:
                        done.append(answer(other, "os.pread(f.fileno(), 100, 0)"))
                    done += [answer(b, "os.fstat(f.fileno()).st_uid"), answer(b, "f.close()")]
                    if reader:
                        answer(other, "f.close()")
                    out.append((where, mode, reader, wait, done, read("f"), seen("f")))
                    b.kill(); other.kill()
                    subprocess.run("rm -f *", shell=True, check=True)
    return out
"#,
    );
}

/// What is said of a node is said of the file that it opens.
#[test]
fn a_name_that_is_given_away_lends_its_rights_to_nobody() {
    same(
        r#"
def scenario():
    out = []
    make_dir("sticky", 0o1777)
    os.chdir("sticky")
    for where in ("mount", "data"):
        for gone in ("unlink", "over"):
            for flags in ("os.O_RDONLY", "os.O_RDWR", "os.O_WRONLY | os.O_TRUNC"):
                for stat_first in (False, True):
                    a, b = user(A), user(B)
                    at = {"mount": ".", "data": behind()}[where]
                    a("write('s', 'secret'); os.chmod('s', 0o600)")
                    b("fd = os.open('s', os.O_PATH)")
                    if gone == "unlink":
                        a(f"os.unlink('{at}/s')")
                        b(f"write('{at}/s', 'open'); os.chmod('{at}/s', 0o666)")
                    else:
                        a(f"write('{at}/t', 'open'); os.chmod('{at}/t', 0o666); os.rename('{at}/t', '{at}/s')")
                    if stat_first:
                        answer(b, "os.stat('s').st_size"); answer(b, "os.fstat(fd).st_size")
                    got = answer(b, f"again = os.open(f'/proc/self/fd/{{fd}}', {flags})")
                    equal(got in ("EACCES", "ESTALE"), True, got)
                    out.append((where, gone, flags, stat_first, answer(a, "read('s')")))
                    a.kill(); b.kill()
                    subprocess.run("rm -f *", shell=True, check=True)
    return out
"#,
    );
}

/// Two who make one name at the same moment meet in one file only if each may open the other's.
#[test]
fn nobody_joins_a_draft_that_he_may_not_open() {
    in_mount(
        r#"
make_dir("d", 0o777)
make_dir("sticky", 0o1777)
for directory in ("d", "sticky"):
    os.chdir(directory)
    for one, two in ((0, B), (B, 0), (A, B)):
        for mode in (0o600, 0o644):
            first, second = user(one), user(two)
            first(f"fd = os.open('new', os.O_CREAT | os.O_RDWR, {mode})")
            got = answer(second, "fd = os.open('new', os.O_CREAT | os.O_RDWR, 0o666)")
            first("os.write(fd, b'secret')")
            if got is None and two != 0:
                equal(second("os.pread(fd, 100, 0)"), b"", f"{directory}: {two} reads what {one} writes ({oct(mode)})")
                answer(second, "os.write(fd, b'x')")
            equal(first("os.pread(fd, 100, 0)"), b"secret", f"{directory}: {two} writes what {one} has ({oct(mode)})")
            first("os.close(fd)")
            answer(second, "os.close(fd)")
            if directory == "sticky" and two != 0:
                equal(read("new"), b"secret", "what was there first")
            first.kill(); second.kill()
            os.unlink("new")
    # Who may is let in, as before: two programs that make one database.
    first, second = user(A), user(A)
    first("fd = os.open('new', os.O_CREAT | os.O_RDWR, 0o600)")
    second("fd = os.open('new', os.O_CREAT | os.O_RDWR, 0o600)")
    first("os.write(fd, b'shared')")
    equal(second("os.pread(fd, 100, 0)"), b"shared", "the same user's")
    first("os.close(fd)"); second("os.close(fd)")
    first.kill(); second.kill()
    os.chdir("..")
"#,
    );
}

/// A draft of a new name does not take the name away from another user's file in a sticky directory.
#[test]
fn a_draft_replaces_only_what_its_writer_may_replace() {
    in_mount(
        r#"
make_dir("sticky", 0o1777)
os.chdir("sticky")
for flags in ("os.O_CREAT | os.O_WRONLY | os.O_TRUNC", "os.O_CREAT | os.O_RDWR", "os.O_CREAT | os.O_WRONLY"):
    for how in ("write('n', 'first')", f"write('{behind()}/n', 'first')", "write('m', 'first'); os.rename('m', 'n')", "write('m', 'first'); os.link('m', 'n')"):
        b, a = user(B), user(A)
        b(f"fd = os.open('n', {flags}, 0o666); os.write(fd, b'later')")
        what = answer(a, how)
        if what == "EEXIST" or (what == "EACCES" and "link" in how):
            b("os.close(fd)")  # The name is reserved, as for mkdir.
        else:
            equal(what, None, how)
            until(lambda: os.path.exists("n"), "it is published")
            # A rename onto the name orphans its drafts, which is no error of theirs.
            equal(answer(b, "os.close(fd)"), None if "rename" in how else "EPERM", f"{flags}, {how}: close")
            equal((read("n"), os.stat("n").st_uid), (b"first", A), f"{flags}, {how}")
        a.kill(); b.kill()
        subprocess.run("rm -f *", shell=True, check=True)
# A rewrite of one's own file whose name was given to another meanwhile.
for how in ("rename", "behind"):
    a, b = user(A), user(B)
    b("write('n', 'own'); fd = os.open('n', os.O_WRONLY | os.O_TRUNC); os.write(fd, b'later')")
    at = "." if how == "rename" else behind()
    os.unlink(f"{at}/n")
    a(f"write('{at}/n', 'first')")
    answer(b, "os.close(fd)")
    equal((read("n"), os.stat("n").st_uid), (b"first", A), how)
    a.kill(); b.kill()
    subprocess.run("rm -f *", shell=True, check=True)
# In a directory that is open to all, the last one wins, as before.
os.mkdir("open"); os.chmod("open", 0o777); os.chdir("open")
a, b = user(A), user(B)
b("fd = os.open('n', os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666); os.write(fd, b'later')")
a("write('n', 'first')")
b("os.close(fd)")
equal(read("n"), b"later")
a.kill(); b.kill()
"#,
    );
}

/// A lock file that the mount keeps hidden is not renamed over while it is held: two would have one turn.
#[test]
fn a_hidden_lock_file_is_nobodys_to_replace() {
    in_mount(
        r#"
make_dir("sticky", 0o1777)
make_dir("open", 0o777)
for directory in ("sticky", "open"):
    os.chdir(directory)
    make("v.json", b"{}", 0o666, A, A)
    a, b, c = user(A), user(B), user(B)
    a("f = open('v.json', 'r+')")
    assert os.path.exists(f"{behind()}/v.json.lock") and not os.path.exists("v.json.lock"), "a hidden lock file"
    b("write('own', '')")
    for how in ("os.rename('own', 'v.json.lock')", "os.link('own', 'v.json.lock')", "renameat2('own', 'v.json.lock', RENAME_NOREPLACE)", "os.mkdir('v.json.lock')"):
        equal(answer(b, how) in ("EEXIST", "EPERM", "EACCES"), True, how)
    c.ask("f = open('v.json', 'r+')")
    assert c.waits(0.5), "two have the turn"
    a("f.close()")
    c.answer()
    # Free, it is in nobody's way.
    c("f.close()")
    equal(answer(a, "write('mine', ''); os.rename('mine', 'v.json.lock')"), None)
    for peer in (a, b, c):
        peer.kill()
    os.chdir("..")
"#,
    );
}

/// A lock file gives the right to lock to those who may write the document, and to nobody else; it is opened as who
/// takes the turn; one that a stranger has put into a sticky directory does not count.
#[test]
fn lock_files_are_for_those_who_may_write() {
    in_mount(
        r#"
make_dir("d", 0o777)
os.chdir("d")
# Made by the mount: who only reads cannot hold up those who write.
for mode, owner, group, editor, groups, lock in ((0o644, A, A, A, (), 0o600), (0o664, A, GROUP, B, (GROUP,), 0o660), (0o666, A, A, B, (), 0o666), (0o604, A, A, A, (), 0o600)):
    make("c.json", b"{}", mode, owner, group)
    peer = user(editor, groups)
    peer("f = open('c.json', 'r+')")
    made = os.stat(f"{behind()}/c.json.lock")
    equal((oct(made.st_mode & 0o777), made.st_uid, made.st_gid), (oct(lock), owner, group), f"{oct(mode)}, by {editor}")
    peer("f.close()")
    peer.kill()
    subprocess.run(f"rm -f {behind()}/*", shell=True, check=True)
    time.sleep(1.1)
# An ACL is followed.
make("c.json", b"{}", 0o640, A, A)
subprocess.run(["setfacl", "-m", f"u:{B}:rw,u:61003:r", "c.json"], check=True)
peer = user(B)
peer("f = open('c.json', 'r+')")
entries = acl(f"{behind()}/c.json.lock")
assert f"user:{B}:rw-" in entries and "user:61003:---" in entries, entries
peer("f.close()")
peer.kill()
# What is another's alone is not locked for anybody.
make("app.json", b"{}", 0o666, A, A)
make(f"{behind()}/app.json.lock", b"", 0o600, A, A)
b, a = user(B), user(A)
b("f = open('app.json', 'r+')")
equal(answer(a, f"lock = open('{behind()}/app.json.lock'); fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)"), None, "the owner of a lock file locks it")
b("f.close()")
a.kill(); b.kill()
os.chdir("..")
# A stranger's lock file.
make_dir("sticky", 0o1777)
os.chdir("sticky")
make("v.json", b"{}", 0o666, A, A)
a, c = user(A), user(61003)
c(f"lock = open('{behind()}/v.json.lock', 'w'); os.chmod('{behind()}/v.json.lock', 0o666); fcntl.flock(lock, fcntl.LOCK_EX)")
a.ask("f = open('v.json', 'r+')")
assert not a.waits(2), "a stranger holds up the owner of a document"
a.answer()
# But his own is his, and root's and the owner's are everybody's.
a("f.close()")
for owner in (A, 0):
    subprocess.run(f"rm -f {behind()}/v.json.lock", shell=True, check=True)
    holder = user(owner)
    holder(f"lock = open('{behind()}/v.json.lock', 'w'); os.chmod('{behind()}/v.json.lock', 0o666); fcntl.flock(lock, fcntl.LOCK_EX)")
    a.ask("f = open('v.json', 'r+')")
    assert a.waits(0.3), f"{owner}'s lock counts"
    holder.kill()
    a.answer()
    a("f.close()")
a.kill(); c.kill()
"#,
    );
}

/// What others write into attributes of lock files neither removes them nor brings the numbers of turns to their end.
#[test]
fn forged_attributes_of_lock_files_do_nothing() {
    in_mount(
        r#"
make_dir("d", 0o777)
os.chdir("d")
make("x.json", b"{}", 0o666, A, A)
make(f"{behind()}/x.json.lock", b"", 0o666, A, A)
os.setxattr(f"{behind()}/x.json.lock", "user.polystore.made", b"1")
b = user(B)
for how in ("os.mkdir('x.json.lock')", "os.close(os.open('x.json.lock', os.O_CREAT | os.O_EXCL | os.O_WRONLY))"):
    equal(answer(b, how), "EEXIST", how)
equal(os.stat(f"{behind()}/x.json.lock").st_uid, A)
for name in ("user.polystore.made", "user.polystore.turn", "trusted.polystore.made"):
    fails(errno.EPERM, os.setxattr, "x.json", name, b"1")
for number in (b"18446744073709551615", b"18446744073709551614", b"9223372036854775807"):
    os.setxattr(f"{behind()}/x.json.lock", "user.polystore.turn", number)
    turns = []
    for _ in range(3):
        with open("x.json", "r+"):
            turns.append(int(os.getxattr("x.json", "user.polystore.turn")))
    assert 0 < turns[0] < turns[1] < turns[2] < 1 << 62, turns
b.kill()
"#,
    );
}

/// A file with several names is opened by the one that was asked for: with the rights of that directory, and the
/// turn of that name only.
#[test]
fn a_file_is_opened_by_the_name_that_was_asked_for() {
    in_mount(
        r#"
make_dir("d", 0o777)
make_dir("closed", 0o700)
os.chdir("d")
make("y.log", b"content", 0o666, A, A)
os.link("y.log", "t.lock"); os.link("y.log", "../closed/other")
time.sleep(1.1)
a, b = user(A), user(B)
a("f = open('t.lock', 'r+')")
for look in ("os.stat('t.lock').st_size", None):
    b("os.stat('y.log').st_size")
    if look:
        a(look)
    else:
        os.stat("../closed/other"); list(os.scandir("../closed"))
    b.ask("g = os.open('y.log', os.O_WRONLY | os.O_CREAT, 0o664)")
    assert not b.waits(2), "another name's turn is waited for"
    b.answer()
    equal(answer(b, "os.write(g, b'C')"), 1)
    equal(answer(b, "os.close(g); os.close(os.open('y.log', os.O_WRONLY | os.O_APPEND))"), None)
a.kill(); b.kill()
"#,
    );
}
