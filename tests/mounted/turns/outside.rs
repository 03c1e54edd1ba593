//! The turn is one lock, whoever takes it and from where.

use crate::harness::{Mounted, mount_only};
use std::time::Duration;

/// Every way to have the turn at `x.json` or `y.lock`. Each is a peer's code to take it; `release` gives it up.
const WAYS: &str = r#"
def ways(name, lock, other):
    """(what it is, how it takes the turn, waiting or not)"""
    def shell(path):
        return f"f = os.open({path!r}, os.O_RDONLY | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX)"
    def opened(path):
        return f"f = os.open({path!r}, os.O_RDWR)"
    return [
        ("open in the mount", opened(f"{SAFE}/{name}")),
        ("flock in the mount", shell(f"{SAFE}/{lock}")),
        ("flock in the data", shell(f"{DATA}/{lock}")),
        ("open in another mount", opened(f"{other}/{name}")),
        ("flock in another mount", shell(f"{other}/{lock}")),
    ]
"#;

/// A second mount of the same directory, unmounted when this is dropped.
struct Other<'a>(&'a Mounted, String);

impl Other<'_> {
    fn of(m: &Mounted) -> Other<'_> {
        let place = m.tmp().join("other");
        let place = place.to_string_lossy().into_owned();
        let data = m.data().to_string_lossy().into_owned();
        m.polystore(&["mount", "--daemon", &data, &place]).ok();
        Other(m, place)
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        self.0.polystore(&["unmount", &self.1]);
    }
}

mount_only!(
    /// All pairs of ways exclude each other.
    all_ways_exclude_each_other,
    |m| {
        let other = Other::of(m);
        let script = format!("OTHER = {:?}\n", other.1)
            + WAYS
            + r#"
write("x.json", "{}")
write("y.lock", "")
# Once, so that there is a lock file.
open("x.json", "r+").close()
for name, lock in (("x.json", "x.json.lock"), ("y.lock", "y.lock")):
    all_ways = ways(name, lock, OTHER)
    for first, take in all_ways:
        for second, take_too in all_ways:
            one, two = peers(2)
            one(take)
            two.ask(take_too)
            assert two.waits(0.12), f"{name}: {first} and {second} have it both"
            one("os.close(f)")
            until(lambda: not two.waits(0), f"{name}: {second} after {first}", 10)
            two.answer()
            one.kill(); two.kill()
"#;
        m.py_within(Duration::from_secs(120), &script);
    }
);

mount_only!(
    /// The library beside the mount, and in it.
    the_library_takes_turns_with_the_mount,
    |m| {
        use polystore::{JsonOptions, LockOptions, atomic_update_json, file_lock};
        let data = m.data().to_owned();
        m.py(r#"write("counter.json", '{"n": 0}'); open("counter.json", "r+").close()"#);
        let counter = data.join("counter.json");
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let library = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while stop.load(std::sync::atomic::Ordering::Acquire) == 0 {
                    let options = JsonOptions::new();
                    let update = |value: Option<serde_json::Value>| {
                        let mut value = value.expect("a document");
                        value["library"] = (value["library"].as_u64().unwrap_or(0) + 1).into();
                        Ok::<_, std::convert::Infallible>(value)
                    };
                    atomic_update_json(&counter, &options, update).expect("an update");
                }
            })
        };
        m.py(r#"
def job(line):
    for _ in range(50):
        with open("counter.json", "r+") as f:
            value = json.load(f)
            value["n"] += 1
            f.seek(0); json.dump(value, f); f.truncate()
workers = [Worker(job) for _ in range(4)]
for worker in workers:
    worker.done()
equal(json.loads(read("counter.json"))["n"], 200)
"#);
        stop.store(1, std::sync::atomic::Ordering::Release);
        library.join().expect("the library's thread");
        let text = std::fs::read_to_string(data.join("counter.json")).expect("the document");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(value["library"].as_u64() > Some(0), "the library had no turn");
        m.sh(": > job.lock");
        // While the library has the lock, who opens waits.
        let held = file_lock(data.join("job.lock"), &LockOptions::new()).expect("the lock");
        m.py(r#"fails(errno.EAGAIN, os.open, "job.lock", os.O_WRONLY | os.O_NONBLOCK)"#);
        drop(held);
        m.py(r#"os.close(os.open("job.lock", os.O_WRONLY | os.O_NONBLOCK))"#);
    }
);

mount_only!(
    /// A writer that locks for itself has its lock outside, too; another mount's openers wait for that.
    own_protocols_are_seen_outside,
    |m| {
        let other = Other::of(m);
        let script = format!("OTHER = {:?}\n", other.1)
            + r#"
one, two, three, four = peers(4)
one('f = os.open("x.lock", os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX)')
# In this mount the lock settles it ...
two('f = os.open("x.lock", os.O_RDWR)')
fails(errno.EAGAIN, two, 'fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)')
# ... outside, its holder is one like others.
fails(errno.EAGAIN, three, f'g = os.open("{DATA}/x.lock", os.O_RDONLY); fcntl.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)')
four.ask(f'f = os.open("{OTHER}/x.lock", os.O_RDWR)')
assert four.waits()
one('os.close(f)')
two('os.close(f)')
four.answer()
"#;
        m.py(&script);
    }
);

mount_only!(
    /// A lock file that is removed or replaced while somebody waits: whoever comes next takes turns at the new one.
    lock_files_may_go,
    |m| {
        m.py(r#"
one, two, three = peers(3)
one('f = open("job.lock", "w")')
two.ask('f = os.open("job.lock", os.O_WRONLY | os.O_CREAT)')
assert two.waits()
os.unlink("job.lock")
three('f = os.open("job.lock", os.O_WRONLY | os.O_CREAT)')
one('f.close()')
until(lambda: os.path.exists("job.lock"), "there is a new one")
assert two.waits(), "two hold one lock file"
three('os.close(f)')
two.answer()
two('os.close(f)')
# Who does not make the file finds none, and keeps nobody from the next.
one('f = open("gone.lock", "w")')
two.ask('f = os.open("gone.lock", os.O_WRONLY)')
assert two.waits()
os.unlink("gone.lock")
one('f.close()')
fails(errno.ENOENT, two.answer)
three('os.close(os.open("gone.lock", os.O_WRONLY | os.O_CREAT))')
# It may get another name while somebody waits: he goes on waiting for the file that he asked for, or is told that it is gone.
one('f = open("first.lock", "w")')
two.ask('f = os.open("first.lock", os.O_WRONLY)')
assert two.waits()
os.rename("first.lock", "second.lock")
three('fails(errno.EAGAIN, os.open, "second.lock", os.O_WRONLY | os.O_NONBLOCK)')
one('f.close()')
fails(errno.ENOENT, two.answer)
until(lambda: three('os.close(os.open("second.lock", os.O_WRONLY | os.O_NONBLOCK))') is None, "the turn is free", 5)
"#);
    }
);

mount_only!(
    /// Who had his turn and is killed before he has the file leaves nothing behind: the next one finds what
    /// was put there from outside meanwhile.
    killed_openers_leave_no_old_content,
    |m| {
        let kills = crate::harness::count("POLYSTORE_TEST_KILLS", 40);
        let script = format!("KILLS = {kills}\n")
            + r#"
def outside(value):
    """As the library does it, in the data directory."""
    lock = os.open(f"{DATA}/s.json.lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open(f"{DATA}/tmp", "w") as f:
        json.dump({"n": value}, f)
    os.rename(f"{DATA}/tmp", f"{DATA}/s.json")
    os.close(lock)

def opener(line):
    open("s.json", "r+")
    time.sleep(10)

outside(1000)
value = 1000
random.seed(5)
for kill in range(KILLS):
    worker = Worker(opener)
    time.sleep(random.random() * 0.003)
    worker.kill()
    worker.wait()
    for _ in range(5):
        with open("s.json", "r+") as f:
            seen = json.load(f)["n"]
            equal(seen, value, f"after {kill} kills")
            f.seek(0); json.dump({"n": seen + 1}, f); f.truncate()
        value += 10
        outside(value)
"#;
        m.py_within(Duration::from_secs(60 + u64::from(kills)), &script);
    }
);

mount_only!(
    /// One lock file is one lock, whatever it is called: with two names, and after a rename.
    lock_files_with_other_names,
    |m| {
        m.py(r#"
write("c.json", "{}")
write("c.json.lock", "")
os.link("c.json.lock", "bak.lock")
one, two = peers(2)
LOCK = "f = os.open({0!r}, os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX)"
OPEN = "f = os.open({0!r}, os.O_RDWR)"
HERE, THERE = SAFE + "/", DATA + "/"
def exclude(take, take_too):
    one(take)
    two.ask(take_too)
    assert two.waits(0.12), f"{take} and {take_too} have it both"
    one("os.close(f)")
    until(lambda: not two.waits(0), f"{take_too} after {take}", 10)
    two.answer()
    two("os.close(f)")
ways = [LOCK.format(place + name) for place in (HERE, THERE) for name in ("c.json.lock", "bak.lock")]
ways += [OPEN.format(HERE + name) for name in ("c.json", "bak.lock", "c.json.lock")]
for take in ways:
    for take_too in ways:
        exclude(take, take_too)
# Renamed while somebody has its table.
reader = open("bak.lock")
fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
fcntl.flock(reader, fcntl.LOCK_UN)
os.mkdir("d")
os.rename("bak.lock", "d/q.lock")
ways = [LOCK.format(HERE + "d/q.lock"), LOCK.format(THERE + "d/q.lock"), OPEN.format(HERE + "d/q.lock")]
for take in ways:
    for take_too in ways:
        exclude(take, take_too)
write("bak.lock", "")
fd = os.open("bak.lock", os.O_WRONLY | os.O_NONBLOCK)
os.close(fd)
"#);
    }
);
