//! Who waits, in which order, for how long, and what else goes on meanwhile.

use crate::harness::{count, mount_only, promise};
use std::time::Duration;

promise!(
    /// Who opens a lock file for writing waits until nobody else has it so open; readers and appenders never do.
    a_second_writer_waits,
    |m| {
        m.py(r#"
for name, first in (("new.lock", "w"), ("old.lock", "r+"), ("new.json", "w"), ("old.json", "r+")):
    if name.startswith("old"):
        write(name, "{}")
    one, two, reader = peers(3)
    one(f'f = open("{name}", "{first}")')
    two.ask(f'f = open("{name}", "w")')
    assert two.waits(), f"{name}: both have it"
    if os.path.exists(name):
        reader(f'open("{name}").close()')
        reader(f'open("{name}", "a").close()')
    one('f.close()')
    two.answer()
    two('f.close()')
"#);
    }
);

promise!(
    /// First come, first served.
    the_order_is_that_of_asking,
    |m| {
        m.py(r#"
holder, = peers(1)
holder('fd = os.open("job.lock", os.O_WRONLY | os.O_CREAT)')
log = os.open("order", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def job(line, number):
    fd = os.open("job.lock", os.O_WRONLY)
    os.write(log, b"%d\n" % number)

workers = []
for number in range(20):
    workers.append(Worker(job, number))
    until(lambda: waiters("job.lock") == number + 1, "it waits")
holder('os.close(fd)')
for worker in workers:
    worker.done()
equal([int(line) for line in read("order").split()], list(range(20)))
"#);
    }
);

promise!(
    /// As cron starts them: two hundred processes at once, one after the other.
    two_hundred_jobs,
    |m| {
        m.py(r#"
write("sum", "0")

def job(line):
    with open("job.lock", "w"):
        value = int(read("sum"))
        write("sum", str(value + 1))

workers = [Worker(job) for _ in range(200)]
for worker in workers:
    worker.done()
equal(read("sum"), b"200")
"#);
    }
);

promise!(
    /// A thousand waiters need no thousand threads, and each gets its turn once.
    a_thousand_wait,
    |m| {
        let script = r#"
threading.stack_size(128 * 1024)
holder, = peers(1)
holder('fd = os.open("job.lock", os.O_WRONLY | os.O_CREAT)')
served, inside = [], []

def job(number):
    fd = os.open("job.lock", os.O_WRONLY)
    inside.append(number)
    assert len(inside) == 1, inside
    served.append(number)
    inside.pop()
    os.close(fd)

threads = [threading.Thread(target=job, args=(number,)) for number in range(1000)]
for thread in threads:
    thread.start()
until(lambda: waiters("job.lock") == 1000, "all wait", 60)
equal(served, [], "served before the turn ended")
daemon = len(os.listdir(f"/proc/{os.environ['MOUNT_PID']}/task")) if os.environ.get("MOUNT_PID") else 0
assert daemon < 300, f"{daemon} threads of the mount"
holder('os.close(fd)')
for thread in threads:
    thread.join(60)
equal(sorted(served), list(range(1000)))
"#;
        let pid = m.pid().map_or(String::new(), |pid| pid.to_string());
        let script = format!("os.environ['MOUNT_PID'] = '{pid}'\n{script}");
        m.py_within(Duration::from_secs(150), &script);
    }
);

promise!(
    /// O_NONBLOCK does not wait; a signal ends the wait at once, SIGKILL too.
    waiting_can_be_ended,
    |m| {
        m.py(r#"
write("old.json", "{}")
for name in ("job.lock", "old.json", "new.json"):
    one, two = peers(2)
    one(f'f = open("{name}", "r+" if os.path.exists("{name}") else "w")')
    fails(errno.EAGAIN, two, f'os.open("{name}", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)')
    two('signal.signal(signal.SIGUSR1, lambda *_: None); signal.siginterrupt(signal.SIGUSR1, True)')
    two('class Signalled(Exception): pass')
    two('''
def raises(*_):
    raise InterruptedError(errno.EINTR, "signalled")
''')
    two('signal.signal(signal.SIGUSR1, raises)')
    two.ask(f'f = open("{name}", "w")')
    assert two.waits()
    start = time.time()
    os.kill(two.worker.pid, signal.SIGUSR1)
    fails(errno.EINTR, two.answer)
    assert time.time() - start < 2, "the signal was not noticed"
    two.ask(f'f = open("{name}", "w")')
    assert two.waits()
    start = time.time()
    two.kill()
    assert time.time() - start < 2, "killing did not end the wait"
    three, = peers(1)
    three.ask(f'f = open("{name}", "w")')
    assert three.waits()
    one('f.close()')
    three.answer()
    three('f.close()')
"#);
    }
);

mount_only!(
    /// `--lock-timeout`.
    a_timeout_ends_the_wait,
    Setup::options(&["--lock-timeout", "300ms"]),
    |m| {
        m.py(r#"
one, two = peers(2)
one('f = open("job.lock", "w")')
start = time.time()
fails(errno.ETIMEDOUT, two, 'open("job.lock", "w")')
assert time.time() - start >= 0.3
one('f.close()')
two('open("job.lock", "w").close()')
"#);
    }
);

mount_only!(
    /// A document waits for half a minute at most. Slow, so only where long runs are asked for.
    a_document_times_out,
    |m| {
        if count("POLYSTORE_TEST_LONG", 0) == 0 {
            return;
        }
        let script = r#"
one, two = peers(2)
one('f = open("a.json", "w")')
start = time.time()
fails(errno.ETIMEDOUT, two, 'open("a.json", "w")')
assert 29 < time.time() - start < 35
"#;
        m.py_within(Duration::from_secs(60), script);
    }
);

promise!(
    /// A holder that is killed has had its turn, and changed nothing.
    death_ends_a_turn,
    |m| {
        m.py(r#"
write("a.json", "old")
for name in ("a.json", "job.lock"):
    one, two = peers(2)
    one(f'f = open("{name}", "w"); f.write("new"); f.flush()')
    two.ask(f'f = open("{name}", "r+" if "{name}" == "a.json" else "w")')
    assert two.waits()
    one.kill()
    two.answer()
    if name == "a.json":
        equal(two('f.read()'), "old")
    two('f.close()')
"#);
    }
);

promise!(
    /// A second open of a lock file by one thread would wait for itself; another thread waits.
    no_thread_waits_for_itself,
    |m| {
        m.py(r#"
fd = os.open("job.lock", os.O_WRONLY | os.O_CREAT)
fails(errno.EDEADLK, os.open, "job.lock", os.O_WRONLY)
fails(errno.EDEADLK, os.open, "job.lock", os.O_WRONLY | os.O_CREAT)
got = []
def other():
    got.append(os.open("job.lock", os.O_WRONLY))
thread = threading.Thread(target=other)
thread.start()
time.sleep(0.2)
equal(got, [], "two threads have it")
os.close(fd)
thread.join(10)
equal(len(got), 1)
os.close(got[0])
write("a.json", "{}")
a = open("a.json", "r+")
b = open("a.json", "r+")
b.close(); a.close()
"#);
    }
);

promise!(
    /// Nothing else in a directory waits while somebody waits for a turn in it.
    the_directory_goes_on,
    |m| {
        m.py(r#"
write("old.json", "{}")
for name, how in (("old.json", "w"), ("new.json", "w"), ("new.lock", "w"), ("old.json", "r+")):
    one, two = peers(2)
    mode = "r+" if name == "old.json" else "w"
    one(f'f = open("{name}", "{mode}")')
    two.ask(f'f = open("{name}", "{how}")')
    assert two.waits()
    start = time.time()
    write("other", "x")
    os.rename("other", "renamed")
    os.mkdir("made")
    os.listdir(".")
    os.rmdir("made")
    one('open("another", "w").close(); os.rename("another", "further"); os.unlink("further")')
    os.unlink("renamed")
    equal(read("old.json"), b"{}")
    assert two.waits(0), "it got its turn"
    one('f.close()')
    two.answer()
    two('f.close()')
    write("old.json", "{}")
    for left in ("new.json", "new.lock"):
        if os.path.exists(left):
            os.unlink(left)
"#);
    }
);

promise!(
    /// Who descends from the holder passes, and so does `touch` under `exec 9>`.
    descendants_pass,
    |m| {
        let printed = m.sh(r#"
exec 9> build.lock
touch build.lock
sh -c 'echo inside > build.lock; cat build.lock'
(setsid sh -c 'exec 9>&-; echo late > build.lock; cat build.lock') &
sleep 0.3
exec 9>&-
wait
flock build.lock true
( exec 8> build.lock; exec 7> other.lock; touch build.lock other.lock )
echo '{}' > c.json
exec 8> c.json.lock
sh -c 'printf "{1}" > c.json'
exec 8>&-
cat c.json
"#);
        // What a descendant writes, it writes into the file.
        assert!(printed.starts_with("inside\n"), "{printed}");
        assert!(printed.ends_with("{1}"), "{printed}");
        // A plain directory does the same, but lets strangers in:
        m.py(
            "one, two = peers(2)\none('f = open(\"s.lock\", \"w\")')\ntwo.ask('f = open(\"s.lock\", \"w\")')\nassert two.waits()",
        );
    }
);

promise!(
    /// Random kills of holders and waiters: no turn is lost, none is had twice.
    kills_lose_no_turn,
    |m| {
        let kills = count("POLYSTORE_TEST_KILLS", 40);
        let script = format!("KILLS = {kills}\n")
            + r#"
crowds = os.open("crowds.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
turns = os.open("turns.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
            # PF_EXITING: its files are closed before it is a zombie.
            return fields[0] in "ZX" or int(fields[6]) & 4
    except (FileNotFoundError, ProcessLookupError):
        return True

def job(line):
    me = str(os.getpid())
    while True:
        fd = os.open("job.lock", os.O_WRONLY | os.O_CREAT)
        while True:
            try:
                os.symlink(me, "inside")
                break
            except FileExistsError:
                other = os.readlink("inside")
                if ended(int(other)):
                    os.unlink("inside")
                else:
                    os.write(crowds, f"{me} beside {other}\n".encode())
        time.sleep(random.random() * 0.002)
        os.unlink("inside")
        os.write(turns, b".")
        os.close(fd)

random.seed(7)
workers = [Worker(job) for _ in range(12)]
for _ in range(KILLS):
    time.sleep(random.random() * 0.03)
    victim = random.randrange(len(workers))
    workers[victim].kill()
    workers[victim].wait()
    before = os.fstat(turns).st_size
    workers[victim] = Worker(job)
    until(lambda: os.fstat(turns).st_size > before, "turns are had", 10)
for worker in workers:
    worker.kill()
    worker.wait()
equal(read("crowds.log"), b"", "two had the turn")
last, = peers(1)
last('open("job.lock", "w").close()')
"#;
        m.py_within(Duration::from_secs(120 + u64::from(kills)), &script);
    }
);
