//! flock and fcntl locks among processes.

use crate::harness::{count, promise, same};
use std::time::Duration;

/// The kinds of lock; each takes a descriptor. `take` waits, `attempt` does not.
const KINDS: &str = r#"
F_OFD_SETLK, F_OFD_SETLKW = 37, 38

def ofd(command):
    def lock(fd, how):
        fcntl.fcntl(fd, command, struct.pack("hhqqi4x", how, os.SEEK_SET, 0, 0, 0))
    return lock

def byte_range(flag):
    def lock(fd, how):
        kind = {fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_UNLCK: fcntl.LOCK_UN}[how]
        fcntl.lockf(fd, kind if how == fcntl.F_UNLCK else kind | flag, 100, 50)
    return lock

def whole(function, flag):
    def lock(fd, how):
        kind = {fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_UNLCK: fcntl.LOCK_UN}[how]
        function(fd, kind if how == fcntl.F_UNLCK else kind | flag)
    return lock

NB = fcntl.LOCK_NB
TAKE = {"flock": whole(fcntl.flock, 0), "posix": whole(fcntl.lockf, 0),
        "range": byte_range(0), "ofd": ofd(F_OFD_SETLKW)}
ATTEMPT = {"flock": whole(fcntl.flock, NB), "posix": whole(fcntl.lockf, NB),
           "range": byte_range(NB), "ofd": ofd(F_OFD_SETLK)}
WRITE, READ, NONE = fcntl.F_WRLCK, fcntl.F_RDLCK, fcntl.F_UNLCK

def busy(kind, fd, how):
    try:
        ATTEMPT[kind](fd, how)
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES), error
        return True
    return False
"#;

/// `KINDS` and a script, as one.
fn with_kinds(script: &str) -> String {
    format!("{KINDS}\n{script}")
}

same!(exclusion_sharing_and_release, |m| {
    m.py(&with_kinds(
        r#"
for kind in TAKE:
    write("f", "content")
    a = os.open("f", os.O_RDWR)

    def holder(line):
        fd = os.open("f", os.O_RDWR)
        TAKE[kind](fd, WRITE)
        line.say("held")
        line.hear()
        TAKE[kind](fd, NONE)
        line.say("released")
        line.hear()
        TAKE[kind](fd, READ)
        line.say("shared")
        line.hear()
        os.close(fd)
        line.say("closed")
        line.hear()
        fd = os.open("f", os.O_RDWR)
        TAKE[kind](fd, WRITE)
        line.say("held again")
        time.sleep(60)

    worker = Worker(holder)
    equal(worker.hear(), "held")
    assert busy(kind, a, WRITE) and busy(kind, a, READ), f"{kind}: both hold it"
    worker.say("go on")
    equal(worker.hear(), "released")
    assert not busy(kind, a, WRITE), f"{kind}: released, and still busy"
    TAKE[kind](a, NONE)
    worker.say("go on")
    equal(worker.hear(), "shared")
    assert busy(kind, a, WRITE), f"{kind}: written while read"
    assert not busy(kind, a, READ), f"{kind}: readers share"
    TAKE[kind](a, NONE)
    worker.say("go on")
    equal(worker.hear(), "closed")
    assert not busy(kind, a, WRITE), f"{kind}: closing releases"
    TAKE[kind](a, NONE)
    worker.say("go on")
    equal(worker.hear(), "held again")
    assert busy(kind, a, WRITE), f"{kind}: both hold it"
    worker.kill()
    worker.wait()
    deadline = time.monotonic() + 5
    while busy(kind, a, WRITE):
        assert time.monotonic() < deadline, f"{kind}: death does not release"
        time.sleep(0.005)
    os.close(a)
"#,
    ));
});

same!(
    /// A lock that is waited for comes with its release, at once and in either way.
    waiters_are_woken,
    |m| {
        m.py(&with_kinds(
            r#"
for kind in TAKE:
    for death in (False, True):
        write("f", "content")

        def hold(line):
            fd = os.open("f", os.O_RDWR)
            TAKE[kind](fd, WRITE)
            line.say("held")
            if line.hear() == "close":
                os.close(fd)
                line.say("closed")
            time.sleep(60)

        def wait(line):
            fd = os.open("f", os.O_RDWR)
            line.say("waiting")
            TAKE[kind](fd, WRITE)
            line.say("got it")

        holder = Worker(hold)
        equal(holder.hear(), "held")
        waiter = Worker(wait)
        equal(waiter.hear(), "waiting")
        assert not waiter.line.waiting(0.3), f"{kind}: did not wait"
        if death:
            holder.kill()
        else:
            holder.say("close")
        assert waiter.line.waiting(5), f"{kind}: not woken by {'death' if death else 'close'}"
        equal(waiter.hear(), "got it")
        waiter.done()
        if not death:
            holder.kill()
        holder.wait()
"#,
        ));
    }
);

promise!(
    /// Who reads the published version and who writes a draft lock the same thing.
    reader_and_rewriter_exclude_each_other,
    |m| {
        m.py(&with_kinds(
            r#"
for kind in ("flock", "posix"):
    write("f", "old")
    published = os.open("f", os.O_RDONLY)

    def rewrite(line):
        f = open("f", "wb", 0)
        f.write(b"new")
        TAKE[kind](f.fileno(), WRITE)
        line.say("held")
        line.hear()
        f.close()
        line.say("closed")

    writer = Worker(rewrite)
    equal(writer.hear(), "held")
    equal(read("f"), b"old", f"{kind}: while it is written")
    assert busy(kind, published, READ), f"{kind}: read under a writer's lock"
    fresh = os.open("f", os.O_RDONLY)
    assert busy(kind, fresh, READ), f"{kind}: read under a writer's lock, opened later"
    writer.say("close")
    equal(writer.hear(), "closed")
    writer.done()
    assert not busy(kind, published, READ), f"{kind}: free again"
    TAKE[kind](published, NONE)
    equal(read("f"), b"new", f"{kind}: published")
    os.close(published)
    os.close(fresh)
"#,
        ));
    }
);

same!(
    /// Sixteen processes, one lock: nobody hangs, and never two at a time.
    sixteen_contend,
    |m| {
        let rounds = (count("POLYSTORE_TEST_ROUNDS", 500) / 10).clamp(10, 200);
        m.py_within(
            Duration::from_secs(240),
            &with_kinds(&format!(
                r#"
def contend(line, kind, opened):
    fd = os.open("f", opened)
    for _ in range({rounds}):
        TAKE[kind](fd, WRITE)
        os.mkdir(inside)
        os.rmdir(inside)
        TAKE[kind](fd, NONE)

inside = TMP + "/inside"
write("f", "content")
for kind in TAKE:
    workers = [Worker(contend, kind, os.O_RDWR) for _ in range(16)]
    for worker in workers:
        worker.done()

def reopen(line):
    for _ in range({rounds}):
        with open("new.lck", "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            os.mkdir(inside)
            os.rmdir(inside)
workers = [Worker(reopen) for _ in range(16)]
for worker in workers:
    worker.done()
"#
            )),
        );
    }
);

same!(
    /// A waiter can be killed, and be interrupted by a signal that it handles.
    signals_end_a_wait,
    |m| {
        m.py(&with_kinds(
            r#"
class Interrupted(Exception):
    pass

def interrupt(number, frame):
    raise Interrupted

for kind in TAKE:
    write("f", "content")
    fd = os.open("f", os.O_RDWR)
    if kind in ("flock", "ofd"):
        TAKE[kind](fd, WRITE)
        holder = None
    else:
        def hold(line):
            TAKE[kind](fd, WRITE)
            line.say("held")
            time.sleep(60)
        holder = Worker(hold)
        holder.hear()

    def wait(line):
        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGALRM, interrupt)
        mine = os.open("f", os.O_RDWR)
        line.say("waiting")
        try:
            TAKE[kind](mine, WRITE)
            line.say("got it")
        except Interrupted:
            line.say("interrupted")

    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGALRM):
        waiter = Worker(wait)
        equal(waiter.hear(), "waiting")
        assert not waiter.line.waiting(0.3), f"{kind}: did not wait"
        start = time.monotonic()
        waiter.kill(number)
        if number == signal.SIGKILL:
            equal(waiter.wait(), -signal.SIGKILL)
        else:
            assert waiter.line.waiting(5), f"{kind}: signal {number} does not end the wait"
            equal(waiter.hear(), "interrupted", kind)
            waiter.done()
        took = time.monotonic() - start
        assert took < 0.5, f"{kind}: signal {number} took {took:.2f} s"
    if holder:
        holder.kill()
        holder.wait()
    os.close(fd)
    other = os.open("f", os.O_RDWR)
    deadline = time.monotonic() + 2
    while busy(kind, other, WRITE):
        assert time.monotonic() < deadline, f"{kind}: a waiter that is gone has got the lock"
        time.sleep(0.01)
    os.close(other)
"#,
        ));
    }
);

same!(
    /// Byte ranges: only what overlaps excludes; who asks hears who is in the way.
    ranges,
    |m| {
        m.py(r#"
write("f", b"x" * 100)
fd = os.open("f", os.O_RDWR)
one, = peers(1)
one("f = open('f', 'r+b')")
one("fcntl.lockf(f, fcntl.LOCK_EX, 10, 20)")
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 20, 0)
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 30)
fails(errno.EAGAIN, fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 29)
fails(errno.EAGAIN, fcntl.lockf, fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 15, 15)
ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 25, 1, 0)
kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, ask))
equal((kind, start, length, pid), (fcntl.F_WRLCK, 20, 10, one.worker.pid), "who holds it")
one("fcntl.lockf(f, fcntl.LOCK_UN, 5, 20)")
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 20)
fails(errno.EAGAIN, fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 25)
"#);
    }
);

same!(
    /// POSIX: closing any descriptor of a file drops all fcntl locks that the process has on it.
    any_close_drops_fcntl_locks,
    |m| {
        m.py(r#"
write("f", b"x" * 100)
one, = peers(1)
one("f = open('f', 'r+b')")
for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY):
    fd = os.open("f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
    fails(errno.EAGAIN, one, "fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)")
    os.close(os.open("f", flags))
    one("fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)")
    one("fcntl.lockf(f, fcntl.LOCK_UN)")
    os.close(fd)
"#);
    }
);

same!(
    /// Two that wait for each other are told so: fcntl locks promise EDEADLK.
    deadlock_is_reported,
    |m| {
        let script = r#"
write("f", b"x" * 100)
one, two = peers(2)
for peer in (one, two):
    peer("f = open('f', 'r+b')")
one("fcntl.lockf(f, fcntl.LOCK_EX, 10, 0)")
two("fcntl.lockf(f, fcntl.LOCK_EX, 10, 50)")
one.ask("fcntl.lockf(f, fcntl.LOCK_EX, 10, 50)")
assert one.waits(0.3), "one does not wait"
fails(errno.EDEADLK, two, "fcntl.lockf(f, fcntl.LOCK_EX, 10, 0)")
two("fcntl.lockf(f, fcntl.LOCK_UN, 10, 50)")
one.answer()
"#;
        m.py_within(Duration::from_secs(20), script);
    }
);

same!(
    /// Programs open, then lock, then read: they find what was written before they got the lock.
    readers_find_what_was_written_before_their_lock,
    |m| {
        m.py(r#"
write("f", "first " * 1000)
reader, mapper, writer = peers(3)
for peer in (reader, mapper):
    peer('f = open("f", "rb", 0)')
equal(reader('f.read(5)'), b"first")
writer('f = open("f", "r+b", 0); fcntl.flock(f, fcntl.LOCK_EX)')
reader.ask('fcntl.flock(f, fcntl.LOCK_SH)')
assert reader.waits()
writer('f.write(b"second"); f.truncate(6)')
writer('fcntl.flock(f, fcntl.LOCK_UN)')
reader.answer()
equal(reader('os.fstat(f.fileno()).st_size'), 6)
equal(reader('os.pread(f.fileno(), 100, 0)'), b"second")
reader('fcntl.flock(f, fcntl.LOCK_UN)')
mapper('fcntl.lockf(f, fcntl.LOCK_SH)')
equal(mapper('os.pread(f.fileno(), 100, 0)'), b"second")
writer('f.close()')
writer('fcntl.flock(open("f", "r+b", 0), fcntl.LOCK_EX)')
"#);
    }
);

same!(
    /// A lock stays one lock when its file gets another name.
    links_share_their_locks,
    |m| {
        m.py(r#"
write("f", "content")
a, b = peers(2)
a('f = open("f", "rb"); fcntl.flock(f, fcntl.LOCK_EX)')
os.link("f", "g")
for name in ("f", "g"):
    b(f'f = open("{name}", "rb")')
    try:
        b('fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)')
        raise AssertionError(f"locked twice, as {name}")
    except BlockingIOError:
        pass
a('f.close()')
b('fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)')
"#);
    }
);
