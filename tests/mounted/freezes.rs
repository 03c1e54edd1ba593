//! What must not freeze the mount, or those in it who have nothing to do with the cause.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Plain, Setup, Who, mount_only, run, same};

same!(
    /// Data that are read around the cache into a mapping of another file of the same mount, which is
    /// written out meanwhile: whoever completes the read must not wait for pages of that mapping.
    direct_reads_into_a_mapping_of_the_mount,
    |m| {
        m.py_within(
            Duration::from_secs(60),
            r#"
SIZE = 1 << 20
write("source", os.urandom(SIZE))
write("target", bytes(SIZE))
source = os.open("source", os.O_RDONLY | os.O_DIRECT)
target = os.open("target", os.O_RDWR)
mapped = mmap.mmap(target, SIZE)
end = time.monotonic() + 3
rounds = {"read": 0, "dirtied": 0, "synced": 0, "sought": 0}

def repeat(name, step):
    def run():
        while time.monotonic() < end:
            step()
            rounds[name] += 1
    return threading.Thread(target=run)

def dirty():
    for at in range(0, SIZE, 4096):
        mapped[at] = (mapped[at] + 1) & 0xff

view = memoryview(mapped)
threads = [
    repeat("read", lambda: os.preadv(source, [view], 0)),
    repeat("read", lambda: os.preadv(source, [view[4096:65536]], 4096)),
    repeat("dirtied", dirty),
    repeat("synced", lambda: os.fsync(target)),
    repeat("sought", lambda: os.lseek(target, 0, os.SEEK_END)),
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all(rounds.values()), rounds
equal(os.path.getsize("source"), SIZE)
"#,
        );
    }
);

same!(
    /// Somebody has a lease on a file and does not react: who opens that file waits, as on any file system,
    /// and nobody else does.
    a_lease_holds_up_its_own_file_only,
    |m| {
        m.py_within(
            Duration::from_secs(120),
            r#"
write("f", "leased")
write("other", "old")

def holder(line):
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(DATA + "/f", os.O_RDONLY)
    def taken():
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            return True
        except BlockingIOError:
            return False
    until(taken, "a lease")
    line.say("held")
    line.hear()
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    line.say("given up")
    line.hear()

lease = Worker(holder)
lease.hear()
ended = []

def opens(flags):
    fd = os.open("f", flags)
    content = os.read(fd, 6) if flags != os.O_WRONLY else b"leased"
    os.close(fd)
    ended.append(content)

def cuts():
    os.truncate("f", 6)
    ended.append(b"leased")

waiting = [threading.Thread(target=opens, args=[flags]) for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY) * 100]
waiting.append(threading.Thread(target=cuts))
for thread in waiting:
    thread.start()

def quick(what, function, *arguments):
    start = time.monotonic()
    function(*arguments)
    took = time.monotonic() - start
    assert took < 2, f"{what}: {took:.1f} s"

def killed(line):
    line.say("opening")
    os.open("f", os.O_RDONLY)
victim = Worker(killed)
victim.hear()
for n in range(20):
    quick("write", write, "other", f"version {n}")
    quick("read", lambda: equal(read("other"), b"version %d" % n))
    quick("make", write, f"new{n}", "x")
    quick("list", os.listdir, ".")
    quick("look", os.stat, "f")
    quick("not wait", fails, errno.EAGAIN, os.open, "f", os.O_RDONLY | os.O_NONBLOCK)
    quick("not wait", fails, errno.EAGAIN, os.open, "f", os.O_RDWR | os.O_NONBLOCK)
victim.kill()
quick("kill", lambda: equal(victim.wait(), -signal.SIGKILL))
equal(ended, [], "opened in spite of the lease")
lease.say("give it up")
equal(lease.hear(), "given up")
deadline = time.monotonic() + 10
for thread in waiting:
    thread.join(max(0, deadline - time.monotonic()))
    assert not thread.is_alive(), f"{len(ended)} of {len(waiting)} have ended"
equal(ended, [b"leased"] * len(waiting), "what was read")
lease.say("end")
lease.done()
"#,
        );
    }
);

/// Finds the process of the mount.
const DAEMON: &str = r#"
def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().split(b"\0")
    except OSError:
        return []

def daemons():
    pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    wanted = lambda command: b"mount" in command[1:2] and os.fsencode(SAFE) in command
    return [pid for pid in pids if wanted(command_of(pid))]

def daemon():
    # Its guard looks like it, and has no descriptor of /dev/fuse.
    def serves(pid):
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/fuse" for fd in os.listdir(f"/proc/{pid}/fd"))
    return next(pid for pid in daemons() if serves(pid))
"#;

/// The process of the mount can start no further thread: everything goes on.
fn no_further_thread(who: Who, setup: &Setup) {
    run(who, setup, Plain::DoesNotApply, |m| {
        let pids = format!("PIDS = '{PIDS}'\n");
        let limit = Duration::from_secs(120);
        m.py_within(limit, &format!("{DAEMON}{pids}{NO_FURTHER_THREAD}"));
    });
}

/// The cgroup that limits numbers of threads is found here.
const PIDS: &str = "/sys/fs/cgroup/pids";

#[test]
fn no_further_thread_in_a_full_cgroup() {
    no_further_thread(Who::Root, &Setup::needs(&[PIDS]));
}

#[test]
fn no_further_thread_of_the_user() {
    no_further_thread(Who::User, &Setup::default());
}

const NO_FURTHER_THREAD: &str = r#"
import resource
pid = daemon()
if os.geteuid() == 0:
    group = f"{PIDS}/polystore-test-{pid}"
    os.mkdir(group)
    def limit(on):
        if on:
            write(group + "/cgroup.procs", str(pid))
            write(group + "/pids.max", read(group + "/pids.current").strip())
        else:
            write(PIDS + "/cgroup.procs", str(pid))
            until(lambda: not read(group + "/cgroup.procs"), "an empty cgroup")
            os.rmdir(group)
else:
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NPROC)
    def limit(on):
        resource.prlimit(pid, resource.RLIMIT_NPROC, (1 if on else soft, hard))

def threads():
    return len(os.listdir(f"/proc/{pid}/task"))

def works(line, number):
    for n in range(15):
        name = f"w{number}-{n}"
        write(name, name)
        with open(name, "r+b") as f:
            f.write(b"W")
            os.fsync(f.fileno())
        with open("lock.lck", "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
        with open("counter.json", "r+") as f:
            count = json.load(f)
            f.seek(0)
            json.dump(count + 1, f)
        with open(SAFE + "/.polystore/control.json", "r+b", buffering=0) as f:
            f.write(json.dumps({"op": "update", "path": f"doc{number}.json", "merge": {"n": n}, "default": {}}).encode())
        os.rename(name, name + ".old")
        equal(read(name + ".old")[:1], b"W")
        os.unlink(name + ".old")

write("counter.json", "0")
limit(True)
try:
    before = threads()
    workers = [Worker(works, number) for number in range(8)]
    for worker in workers:
        worker.done()
    assert threads() <= before, (threads(), before)
    equal(read("counter.json"), b"120")
finally:
    limit(False)
Worker(works, 9).done()
"#;

mount_only!(
    /// The lock file of a document cannot be opened for want of descriptors: an error in time, not a hang.
    a_lock_file_that_cannot_be_opened,
    |m| {
        m.py_within(
            Duration::from_secs(60),
            &format!(
                "{DAEMON}{}",
                r#"
import resource
write("x.json", "{}")
with open("x.json", "r+") as f:
    f.write("[]")
pid = daemon()
limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
for n in range(3):
    used = [int(fd) for fd in os.listdir(f"/proc/{pid}/fd")]
    free = next(fd for fd in range(len(used) + 1) if fd not in used)
    start = time.monotonic()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        error = None
        try:
            os.close(os.open("x.json", os.O_RDWR))
        except OSError as failed:
            error = failed
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    took = time.monotonic() - start
    assert error is not None and error.errno in (errno.EMFILE, errno.ENFILE), f"{error!r} after {took:.1f} s"
    assert took < 5, f"{took:.1f} s"
    with open("x.json", "r+") as f:
        f.write("{}")
"#
            ),
        );
    }
);

/// The process of the mount is killed while something keeps its connection open, as a thread does that
/// waits in the kernel for an answer of its own process: programs get an error all the same. An ordinary user
/// can end a connection only where fusectl is mounted.
#[test]
fn the_connection_ends_with_the_process() {
    run(Who::Root, &Setup::default(), Plain::DoesNotApply, |m| {
        m.py_within(Duration::from_secs(60), &format!("{DAEMON}{KEPT_OPEN}"));
        m.kill_mount();
        m.start();
    });
}

const KEPT_OPEN: &str = r#"
pid = daemon()
guard = [other for other in daemons() if other != pid]
equal(len(guard), 1, "guards")
fuse = next(int(fd) for fd in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/fuse")
PIDFD_GETFD = 438
kept = libc.syscall(PIDFD_GETFD, os.pidfd_open(pid), fuse, 0)
assert kept >= 0, os.strerror(ctypes.get_errno())
os.kill(pid, signal.SIGKILL)
def asks(line):
    try:
        os.statvfs(".")
    except OSError as error:
        assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED), error
        return
    raise AssertionError("it is still answered")
for n in range(3):
    asking = Worker(asks)
    until(lambda: not asking.lives(), "an answer", 5)
    asking.done()
until(lambda: not os.path.exists(f"/proc/{guard[0]}"), "the guard's end", 5)
os.close(kept)
"#;

/// Thaws a file system when it is dropped.
struct Frozen<'a>(&'a Path);

impl Frozen<'_> {
    fn new(at: &Path) -> Frozen<'_> {
        let frozen = Command::new("fsfreeze").arg("-f").arg(at).status();
        assert!(frozen.is_ok_and(|status| status.success()), "fsfreeze -f");
        Frozen(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").arg("-u").arg(self.0).status();
        if !thawed.is_ok_and(|status| status.success()) {
            eprintln!("{}: not thawed", self.0.display());
        }
    }
}

mount_only!(
    /// The disk below hangs, and with it the thread that reads requests: the log says where, and after a time
    /// all who wait get an error.
    a_disk_that_hangs_for_too_long,
    Setup::on_image("ext4", 64).and_options(&["--watchdog", "3"]),
    |m| {
        let data = m.data().to_owned();
        let frozen = Frozen::new(&data);
        m.py_within(
            Duration::from_secs(60),
            r#"
start = time.monotonic()
try:
    open("new", "w")
    raise AssertionError("made on a frozen disk")
except OSError as error:
    assert error.errno in (errno.ECONNABORTED, errno.ENOTCONN, errno.EIO), error
took = time.monotonic() - start
assert 2 < took < 20, took
"#,
        );
        drop(frozen);
        m.kill_mount();
        let log = m.log();
        assert!(log.contains("at CREATE of node 1"), "{log}");
        assert!(log.contains("the mount is aborted"), "{log}");
        m.start();
        m.py("write('new', 'x')");
    }
);
