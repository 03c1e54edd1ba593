//! Programs that lock for themselves, and that use lock files in other ways, mean what they meant.

use crate::harness::{promise, same};

same!(
    /// `flock -n 9 || exit`: who is second sees that at once.
    flock_that_does_not_wait,
    |m| {
        let printed = m.sh(r#"
mkfifo go
(
    (flock -n 9 || { echo busy; exit; }; echo first; : > held; read < go) 9> x.lock
) &
until [ -e held ]; do sleep 0.02; done
setsid sh -c '(flock -n 9 || echo second) 9> x.lock'
echo > go
wait
(flock -n 9 && echo third) 9> x.lock
"#);
        assert_eq!(printed, "first\nsecond\nthird\n");
    }
);

/// What Python's filelock does, and Java's tryLock, portalocker and others: open for writing, ask
/// for a lock without waiting, close, and look again.
const LOCKERS: &str = r#"
def take(name, lock):
    fd = os.open(name, os.O_RDWR | os.O_TRUNC | os.O_CREAT)
    try:
        lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd

def acquire(name, lock, timeout):
    deadline = time.time() + timeout
    while True:
        fd = take(name, lock)
        if fd is not None:
            return fd
        if time.time() >= deadline:
            raise TimeoutError(name)
        time.sleep(0.01)
"#;

same!(
    /// A timeout is a timeout, and no hang.
    lockers_with_a_timeout,
    |m| {
        m.py(&(LOCKERS.to_owned()
            + r#"
for lock in (fcntl.flock, fcntl.lockf):
    def holder(line):
        fd = acquire("x.lock", lock, 5)
        line.say("held")
        line.hear()
        os.close(fd)
    worker = Worker(holder)
    equal(worker.hear(), "held")
    start = time.time()
    try:
        acquire("x.lock", lock, 0.2)
        raise AssertionError("two have it")
    except TimeoutError:
        pass
    assert time.time() - start < 5, "it hung"
    worker.say("go")
    worker.done()
    os.close(acquire("x.lock", lock, 5))
"#));
    }
);

same!(
    /// Many of them count, and lose nothing: their lock settles it.
    lockers_lose_nothing,
    |m| {
        m.py(&(LOCKERS.to_owned()
            + r#"
write("count", "0")
for lock in (fcntl.flock, fcntl.lockf):
    def job(line):
        for _ in range(15):
            fd = acquire("x.lock", lock, 30)
            value = int(read("count"))
            write("count", str(value + 1))
            os.close(fd)
    before = int(read("count"))
    workers = [Worker(job) for _ in range(8)]
    for worker in workers:
        worker.done()
    equal(int(read("count")), before + 8 * 15)
"#));
    }
);

same!(
    /// The package itself, with a lock that is taken twice by one process.
    filelock,
    Setup::needs(&["python:filelock"]),
    |m| {
        m.py(r#"
import filelock
def holder(line):
    with filelock.FileLock("x.lock"):
        line.say("held")
        line.hear()
worker = Worker(holder)
equal(worker.hear(), "held")
lock = filelock.FileLock("x.lock", timeout=0.2)
try:
    lock.acquire()
    raise AssertionError("two have it")
except filelock.Timeout:
    pass
worker.say("go")
worker.done()
with lock:
    with lock:
        pass
write("c.json", "{}")
with filelock.FileLock("c.json.lock", timeout=5):
    with open("c.json", "w") as f:
        f.write("{1}")
equal(read("c.json"), b"{1}")
"#);
    }
);

same!(
    /// PID files, in the lock file itself.
    a_lock_file_holds_a_pid,
    |m| {
        let printed = m.sh(r#"
exec 9> daemon.lock
flock -n 9
echo 4711 >&9
cat daemon.lock
exec 9>&-
cat daemon.lock
exec 9<> daemon.lock
echo 12 >&9
exec 9>&-
cat daemon.lock
"#);
        assert_eq!(printed, "4711\n4711\n12\n1\n");
    }
);

same!(
    /// git's way: O_EXCL, write, rename over what it locks; and remove where it gives up.
    exclusive_lock_files,
    Setup::needs(&["git"]),
    |m| {
        m.py(r#"
fd = os.open("index.lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
one, = peers(1)
fails(errno.EEXIST, one, 'os.open("index.lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL)')
os.write(fd, b"new")
os.close(fd)
fails(errno.EEXIST, one, 'os.open("index.lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL)')
os.rename("index.lock", "index")
equal(read("index"), b"new")
one('f = os.open("index.lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL)')
one('os.unlink("index.lock"); os.close(f)')
"#);
        let script = r#"
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q -b main repo && cd repo
for n in 1 2 3; do echo $n > f$n; git add f$n; git commit -qm $n; done
for n in 4 5 6 7; do (echo $n > f$n; until git add f$n 2> /dev/null; do sleep 0.02; done) & done; wait
git status --short
git fsck --strict
touch .git/index.lock
{ git add . 2>&1 || :; } | grep -c 'File exists'
rm .git/index.lock
"#;
        assert_eq!(m.sh(script), "A  f4\nA  f5\nA  f6\nA  f7\n1\n");
    }
);

same!(
    /// Lock files that say which versions are meant: Cargo.lock, package-lock.json, poetry.lock.
    lock_files_that_lock_nothing,
    |m| {
        m.py(r#"
for name in ("Cargo.lock", "poetry.lock", "package-lock.json", "yarn.lock"):
    write(name, "first version of it\n" * 100)
    write(name, "second\n")
    equal(read(name), b"second\n")
    write("tmp", "third\n")
    os.replace("tmp", name)
    equal(read(name), b"third\n")
    with open(name, "a") as f:
        f.write("more\n")
    equal(read(name), b"third\nmore\n")
    with open(name, "r+") as f:
        f.write("T")
    equal(read(name), b"Third\nmore\n")
    os.unlink(name)
"#);
    }
);

promise!(
    /// A lock on the document itself goes on in its turn, and does not end it.
    a_lock_on_a_document_is_no_end_of_the_turn,
    |m| {
        m.py(r#"
write("a.json", "{}")
one, two = peers(2)
one('f = open("a.json", "r+"); fcntl.flock(f, fcntl.LOCK_EX)')
two.ask('f = open("a.json", "r+")')
assert two.waits()
one('fcntl.flock(f, fcntl.LOCK_UN)')
assert two.waits()
one('f.close()')
two.answer()
"#);
    }
);
