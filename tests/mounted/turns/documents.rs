//! Documents that several processes read, change and write back.

use crate::harness::{count, mount_only, promise};
use std::time::Duration;

promise!(
    /// open("r+"), read, change, write back, by programs that know nothing of locks.
    no_increment_is_lost,
    |m| {
        let rounds = count("POLYSTORE_TEST_INCREMENTS", 8 * 40) / 8;
        let script = format!("ROUNDS = {rounds}\n")
            + r#"
write("counter.json", '{"n": 0}')

def job(line):
    for _ in range(ROUNDS):
        with open("counter.json", "r+") as f:
            value = json.load(f)
            value["n"] += 1
            f.seek(0)
            json.dump(value, f)
            f.truncate()

workers = [Worker(job) for _ in range(8)]
for worker in workers:
    worker.done()
equal(json.loads(read("counter.json")), {"n": 8 * ROUNDS})
equal(os.listdir("."), ["counter.json"])
"#;
        m.py_within(Duration::from_secs(60 + u64::from(rounds)), &script);
    }
);

promise!(
    /// The same with writers that are killed: what was acknowledged is there, and nothing else.
    no_acknowledged_increment_is_lost_to_kills,
    |m| {
        let increments = count("POLYSTORE_TEST_INCREMENTS", 400);
        let script = format!("TOTAL = {increments}\n")
            + r#"
write("counter.json", "{}")

def job(line, me):
    # Each has a number of its own in the document: what it says is what was counted, and no more.
    while True:
        with open("counter.json", "r+") as f:
            value = json.load(f)
            done = value.get(me, 0) + 1
            value[me] = done
            f.seek(0)
            json.dump(value, f)
            f.truncate()
        line.say(done)

random.seed(3)
workers = [Worker(job, f"w{n}") for n in range(8)]
acknowledged = [0] * 8

def hear(n):
    # It counts on from what it finds: each number is heard once, none is left out but by a kill
    # between the count and the word of it.
    said = int(workers[n].hear())
    assert said == acknowledged[n] + 1 or (said == acknowledged[n] + 2 and killed[n]), (n, said, acknowledged[n])
    acknowledged[n] = said
    killed[n] = False

killed = [False] * 8
while sum(acknowledged) < TOTAL:
    lines = {w.line.connection: n for n, w in enumerate(workers)}
    for n, worker in enumerate(workers):
        while worker.line.waiting(0):
            hear(n)
    select.select(list(lines), [], [], 0.05)
    if random.random() < 0.05:
        n = random.randrange(8)
        workers[n].kill()
        workers[n].wait()
        try:
            while True:
                hear(n)
        except (EOFError, ConnectionError):
            pass
        killed[n] = True
        workers[n] = Worker(job, f"w{n}")
for n, worker in enumerate(workers):
    worker.kill()
    worker.wait()
    try:
        while True:
            hear(n)
    except (EOFError, ConnectionError):
        pass
final = json.loads(read("counter.json"))
for n in range(8):
    counted = final.get(f"w{n}", 0)
    assert counted in (acknowledged[n], acknowledged[n] + 1), (n, counted, acknowledged[n])
"#;
        m.py_within(Duration::from_secs(60 + u64::from(increments) / 50), &script);
    }
);

promise!(
    /// Who makes the document at the same time meets the one who was first.
    makers_take_turns_too,
    |m| {
        m.py(r#"
one, two, three = peers(3)
one('f = open("new.json", "w"); f.write("one"); f.flush()')
two.ask('f = os.open("new.json", os.O_RDWR | os.O_CREAT); r = os.read(f, 100); os.pwrite(f, r + b" two", 0); os.close(f)')
assert two.waits()
three.ask('f = open("new.json", "w"); f.write("three"); f.close()')
assert three.waits()
equal(os.path.exists("new.json"), False)
one('f.close()')
two.answer()
three.answer()
equal(two('r'), b"one")
equal(read("new.json"), b"three")
"#);
    }
);

promise!(
    /// A rewrite of a document waits for its editor, and the other way round.
    rewrites_and_edits_wait_for_each_other,
    |m| {
        m.py(r#"
write("a.json", "old")
one, two = peers(2)
one('f = open("a.json", "r+")')
two.ask('f = open("a.json", "w"); f.write("two"); f.close()')
assert two.waits()
one('f.write("one"); f.close()')
two.answer()
equal(read("a.json"), b"two")
one('f = open("a.json", "w"); f.write("again")')
two.ask('f = open("a.json", "r+"); r = f.read(); f.close()')
assert two.waits()
one('f.close()')
two.answer()
equal(two('r'), "again")
"#);
    }
);

mount_only!(
    /// The lock file that the mount makes beside a document is nobody's business.
    lock_files_that_the_mount_made_are_in_nobodys_way,
    |m| {
        m.py(r#"
os.mkdir("d")
for name in ("a", "b", "c", "e", "g"):
    write(f"d/{name}.json", "{}")
    with open(f"d/{name}.json", "r+") as f:
        f.write("{1}")
    assert os.path.exists(f"{DATA}/d/{name}.json.lock"), "no lock outside"
equal(sorted(os.listdir("d")), [f"{name}.json" for name in "abceg"])
assert not os.path.exists("d/a.json.lock")
# proper-lockfile's way, dotlock's way, and those of others:
os.mkdir("d/a.json.lock")
os.rmdir("d/a.json.lock")
os.close(os.open("d/b.json.lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
os.unlink("d/b.json.lock")
os.symlink("x", "d/c.json.lock")
os.unlink("d/c.json.lock")
write("d/tmp", "x")
renameat2("d/tmp", "d/e.json.lock", RENAME_NOREPLACE)
equal(read("d/e.json.lock"), b"x")
os.unlink("d/e.json.lock")
# Who opens it has it.
with open("d/g.json.lock", "w"):
    pass
assert os.path.exists("d/g.json.lock")
os.unlink("d/g.json.lock")
# While somebody has his turn it is taken.
one, = peers(1)
one('f = open("d/a.json", "r+")')
fails(errno.EEXIST, os.mkdir, "d/a.json.lock")
one('f.close()')
for name in "abceg":
    with open(f"d/{name}.json", "r+"):
        pass
    os.unlink(f"d/{name}.json")
equal(os.listdir("d"), [])
os.rmdir("d")
equal(os.listdir(DATA), [".polystore"])
"#);
    }
);

mount_only!(
    /// A rewrite makes no lock file, but locks one that is there.
    rewrites_make_no_lock_file,
    |m| {
        m.py(r#"
for n in range(3):
    write("package.json", "{}")
    write("package.json", "{1}")
equal(sorted(os.listdir(DATA)), [".polystore", "package.json"])
one, = peers(1)
one('f = open("package.json.lock", "w")')
two, = peers(1)
two.ask('f = open("package.json", "w")')
assert two.waits()
one('f.close()')
two.answer()
"#);
    }
);

promise!(
    /// Each turn has a number, greater than any before, that its holder can read.
    turns_are_numbered,
    |m| {
        m.py(r#"
NUMBER = "user.polystore.turn"
write("a.json", "{}")
last = {}
for _ in range(5):
    for name in ("job.lock", "a.json"):
        fd = os.open(name, os.O_RDWR | os.O_CREAT)
        number = int(os.getxattr(fd, NUMBER))
        assert number > last.get(name, 0), (name, number, last)
        equal(int(os.getxattr(name, NUMBER)), number)
        last[name] = number
        os.close(fd)
equal(os.listxattr("job.lock"), [])
fails(errno.EPERM, os.setxattr, "job.lock", NUMBER, b"1")
fails(errno.EPERM, os.removexattr, "job.lock", NUMBER)
fails(errno.ENODATA, os.getxattr, ".", NUMBER)
write("other", "x")
fails(errno.ENODATA, os.getxattr, "other", NUMBER)
os.unlink("job.lock")
fd = os.open("job.lock", os.O_RDWR | os.O_CREAT)
assert int(os.getxattr(fd, NUMBER)) > last["job.lock"], "a lock file that was removed counts on"
"#);
    }
);

mount_only!(
    /// Which names take turns can be said.
    names_can_be_chosen,
    crate::harness::Setup::options(&["--no-default-turns", "--turns", "*.ini", "--turns", "!free/**"]),
    |m| {
        m.py(r#"
os.mkdir("free")
one, two = peers(2)
for name in ("a.json", "b.lock", "free/c.ini"):
    one(f'f = open("{name}", "w")')
    two(f'f = open("{name}", "w"); f.close()')
    one('f.close()')
one('f = open("d.ini", "w")')
two.ask('f = open("d.ini", "w")')
assert two.waits()
one('f.close()')
two.answer()
"#);
    }
);
