//! Shares: one user's open files, slow requests and waiters leave enough to others.

use std::time::Duration;

use crate::harness::{Plain, Setup, Who, mount_only, run};

/// One mount of root's for all users, with this many descriptors.
fn for_all(descriptors: u64) -> Setup {
    Setup::default()
        .for_all_users()
        .with_descriptors(descriptors)
}

const USERS: &str = r#"
import resource
A, B = 61001, 61002

def user(uid):
    """A peer that is this user."""
    peer = Peer()
    peer("import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))")
    peer("def open_all(how, most=5000):\n    opened = []\n    for n in range(most):\n        try:\n            opened.append(how(n))\n        except OSError as error:\n            return opened, errno.errorcode[error.errno]\n    return opened, None")
    if os.getuid() != uid:
        peer(f"os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})")
    return peer

def quickly(peer, code, seconds=20):
    """What a peer does while others hold up what they can."""
    start = time.monotonic()
    peer.ask(code)
    assert not peer.waits(seconds), f"{code}: not within {seconds} s"
    answer = peer.answer()
    return answer, time.monotonic() - start

def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
"#;

const DESCRIPTORS: &str = r#"
KINDS = {
    "reads": "os.open('shown', os.O_RDONLY)",
    "lists": "os.open('a', os.O_RDONLY | os.O_DIRECTORY)",
    "makes": "os.open(f'a/new-{n}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)",
    "makes, without a draft": "os.open(f'a/new-{n}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)",
    "rewrites": "written(os.open(f'a/old-{n}', os.O_WRONLY | os.O_TRUNC))",
    "edits": "written(os.open(f'a/old-{n}', os.O_RDWR))",
    "edits in many directories": "written(os.open(f'a/{n}/old', os.O_RDWR))",
    "takes turns": "written(os.open(f'a/{n}/old.json', os.O_RDWR))",
    "talks to the mount": "os.open('.polystore/control.json', os.O_RDWR)",
    "asks the mount": "os.open('.polystore/status.json', os.O_RDONLY)",
}
LIMIT = 400
def give(path):
    os.chown(path, A, A)
write("shown", "content")
os.chmod("shown", 0o644)
for name, uid in (("a", A), ("b", B)):
    os.mkdir(name)
    os.chown(name, uid, uid)
for n in range(300):
    os.mkdir(f"a/{n}")
    give(f"a/{n}")
    for path in (f"a/old-{n}", f"a/{n}/old", f"a/{n}/old.json"):
        write(path, "0123456789")
        give(path)
a, b, root = user(A), user(B), Peer()
a("def written(fd):\n    try:\n        os.write(fd, b'X')\n    except OSError:\n        os.close(fd)\n        raise\n    return fd")
SMALL = """
write("%s", "one")
with open("%s", "r+") as f:
    f.write("two")
equal((read("%s"), read("shown"), "shown" in os.listdir(".")), (b"two", b"content", True))
"""
for number, (kind, how) in enumerate(KINDS.items()):
    a(f"opened, why = open_all(lambda n: {how})")
    equal(a("why"), "EMFILE", f"somebody who {kind}")
    count = a("len(opened)")
    assert count > 20, f"{kind}: only {count}"
    used = descriptors(MOUNT)
    assert used < LIMIT - 40, f"{kind}: {used} descriptors for {count}"
    for peer, name in ((b, f"b/{number}"), (root, f"{number}")):
        quickly(peer, SMALL.replace("%s", name))
    root("status()")
    a("for fd in opened: os.close(fd)")
    until(lambda: descriptors(MOUNT) < 120, f"after somebody {kind}: {descriptors(MOUNT)} descriptors")
    a("os.close(os.open('shown', os.O_RDONLY))")
    if "written" in how:
        path = how.split("'")[1]
        for n in range(count):
            content = read(path.replace("{n}", str(n)))
            equal(content[:1], b"X", f"{path} {n} of somebody who {kind}")
    if kind == "makes":
        equal(len([name for name in os.listdir("a") if name.startswith("new-") and not name.endswith(".log")]), count)
"#;

fn with_mount(m: &crate::harness::Mounted, script: &str) {
    let pid = m.pid().unwrap_or(0);
    let script = format!("MOUNT = {pid}\n{USERS}\n{script}");
    m.py_within(Duration::from_secs(120), &script);
}

#[test]
fn what_one_user_has_open_leaves_descriptors_to_others() {
    run(Who::Root, &for_all(400), Plain::DoesNotApply, |m| {
        with_mount(m, DESCRIPTORS);
        let log = m.log();
        assert!(!log.contains("os error 24"), "the mount ran out:\n{log}");
    });
}

/// The file system of DATA stands still, that of DATA/quick does not.
const FROZEN: &str = r#"
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
WRITERS = 300
def thaw(line):
    """In a process of its own: it thaws when this one is done, or dead."""
    fd = os.open(DATA, os.O_RDONLY | os.O_DIRECTORY)
    line.say("here")
    fcntl.ioctl(fd, FIFREEZE, 0)
    line.say("frozen")
    try:
        line.hear()
    except EOFError:
        pass
    fcntl.ioctl(fd, FITHAW, 0)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{DATA}/quick"], check=True)
os.chmod(f"{DATA}/quick", 0o777)
os.mkdir("a")
os.chown("a", A, A)
a, b, root = user(A), user(B), Peer()
a(f"files = [open(f'a/{{n}}.log', 'ab', 0) for n in range({WRITERS})]")
freezer = Worker(thaw)
equal(freezer.hear(), "here")
equal(freezer.hear(), "frozen")
a("threads = [threading.Thread(target=file.write, args=(b'written',)) for file in files]\nfor thread in threads: thread.start()")
time.sleep(1)
equal(a("sum(thread.is_alive() for thread in threads)"), WRITERS, "they are held up")
SMALL = """
write("quick/%s", "one")
with open("quick/%s", "r+") as f:
    f.write("two")
os.rename("quick/%s", "quick/%s-renamed")
equal(read("quick/%s-renamed"), b"two")
status()
"""
for peer, name in ((b, "b"), (root, "root")):
    for n in range(10):
        _, took = quickly(peer, SMALL.replace("%s", f"{name}-{n}"), 10)
equal(a("sum(thread.is_alive() for thread in threads)"), WRITERS, "they still are")
freezer.say("enough")
freezer.done()
a("for thread in threads: thread.join()")
a("for file in files: file.close()")
for n in range(WRITERS):
    equal(read(f"a/{n}.log"), b"written")
del a, b, root
"#;

#[test]
fn what_one_user_waits_for_holds_up_nobody_else() {
    let setup = Setup::on_image("ext4", 64).for_all_users();
    run(Who::Root, &setup, Plain::DoesNotApply, |m| {
        std::fs::create_dir(m.data().join("quick")).expect("make a directory");
        with_mount(m, FROZEN);
    });
}

mount_only!(
    /// A user with a mount of his own may have all but what it needs to finish what he has begun.
    whoever_is_alone_leaves_the_mount_what_it_needs,
    Setup::default().with_descriptors(400),
    |m| {
        with_mount(
            m,
            r#"
me = user(os.getuid())
write("old", "old")
me("opened, why = open_all(lambda n: os.open(f'new-{n}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 20)")
me("edit = os.open('old', os.O_RDWR)")
me("more, why = open_all(lambda n: os.open('old', os.O_RDONLY))")
equal(me("why"), "EMFILE")
count = me("len(more)")
assert count > 200, f"only {count}"
assert descriptors(MOUNT) < 360, f"{descriptors(MOUNT)} descriptors"
fails(errno.EMFILE, os.listdir, ".")
quickly(me, "for fd in (*opened, edit): os.write(fd, b'new')")
quickly(me, "for fd in (*opened, edit): os.close(fd)")
me("for fd in more: os.close(fd)")
equal({read(name) for name in os.listdir(".")}, {b"new"})
write("another", "one")
"#,
        );
    }
);
