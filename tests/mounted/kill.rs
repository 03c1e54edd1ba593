//! Death: of a writer, of a child, of the mount.

use crate::harness::{count, mount_only, promise, same};
use std::time::Duration;

promise!(
    /// SIGKILL at random moments of rewrites of 50 MB: whole always, old until the last close.
    killed_writer_of_a_large_file,
    |m| {
        let kills = count("POLYSTORE_TEST_KILLS", 8);
        m.py_within(
            Duration::from_secs(120) + Duration::from_secs(4) * kills,
            &format!("KILLS = {kills}\n{KILLED_WRITER}"),
        );
    }
);

const KILLED_WRITER: &str = r#"
SIZE = 50_000_000

def content(number):
    return b"%015d\n" % number * (SIZE // 16)

def rewrite(line, number):
    while True:
        number += 1
        fd = os.open("f", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        line.say("opened")
        rest = memoryview(content(number))
        while rest:
            rest = rest[os.write(fd, rest[:1_000_000]):]
        line.say(f"closing {number}")
        os.close(fd)
        line.say(f"closed {number}")

def last_words(line):
    closing = closed = None
    try:
        while True:
            word, _, number = line.hear().partition(" ")
            if word == "closing":
                closing = int(number)
            elif word == "closed":
                closed = int(number)
    except (EOFError, ConnectionError):
        return closing, closed

write("f", content(0))
current = 0
killed_before_close = 0
for _ in range(KILLS):
    writer = Worker(rewrite, current)
    writer.hear()
    time.sleep(random.random() * 0.3)
    writer.kill()
    writer.wait()
    closing, closed = last_words(writer.line)
    old = closed if closed is not None else current
    allowed = {old} | ({closing} if closing is not None else set())
    killed_before_close += closing in (None, closed)
    for path in ("f", DATA + "/f"):
        found = read(path)
        number = int(found[:16] or b"-1")
        assert found == content(number), f"{path} is torn: {len(found)} bytes"
        assert number in allowed, f"{path} is version {number}, not one of {allowed}"
    current = number
assert killed_before_close, "no kill came before a close: the test has shown nothing"
"#;

promise!(
    /// Whatever signal ends a writer: the old version stays.
    signals_that_end_a_writer,
    |m| {
        m.py(r#"
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGABRT, signal.SIGSEGV, signal.SIGUSR1, signal.SIGKILL):
    def half(line):
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        f = open("f", "wb", 0)
        f.write(b"half")
        line.say("written")
        time.sleep(60)
    write("f", "old")
    writer = Worker(half)
    writer.hear()
    writer.kill(number)
    equal(writer.wait(), -number, "the writer's end")
    equal(read("f"), b"old", f"after signal {number}")
def half(line):
    f = open("fresh", "wb", 0)
    f.write(b"half")
    line.say("written")
    time.sleep(60)
writer = Worker(half)
writer.hear()
writer.kill()
writer.wait()
equal(os.path.exists("fresh"), False, "a new name whose maker was killed")
write("fresh", "free again", "xb")
"#);
    }
);

promise!(
    /// A killed shell: what it started lives on, and closes its output last and in peace.
    killed_shell_loop_whose_sleep_outlives_it,
    |m| {
        m.py(r#"
def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(child) for child in f.read().split()]

def find(condition):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("waited too long")

def name(pid):
    with open(f"/proc/{pid}/comm") as f:
        return f.read().strip()

def sleeper(shell):
    for child in children(shell):
        if name(child) == "sleep":
            return shell, child
        if found := sleeper(child):
            return found

def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True

for script in ("while :; do echo x; sleep 2; done > f", "(while :; do echo x; sleep 2; done) > f; true"):
    write("f", "old")
    shell = subprocess.Popen(["sh", "-c", script])
    opener, sleeping = find(lambda: sleeper(shell.pid))
    os.kill(opener, signal.SIGKILL)
    shell.wait()
    assert not gone(sleeping), "sleep has not outlived its shell"
    equal(read("f"), b"old", "the shell is dead, sleep is not")
    find(lambda: gone(sleeping))
    equal(read("f"), b"old", "both are gone")
"#);
    }
);

same!(
    /// A child that is killed does not take its living parent's file with it.
    killed_child_of_a_living_writer,
    |m| {
        m.py(r#"
write("f", "old")
f = open("f", "wb", 0)
f.write(b"parent ")
def scribble(line):
    f.write(b"child ")
    line.say("written")
    time.sleep(60)
child = Worker(scribble)
child.hear()
child.kill()
child.wait()
f.write(b"parent again")
f.close()
equal(read("f"), b"parent child parent again", "published by the parent")
"#);
    }
);

same!(
    /// A program that ends without closing, with whatever exit code, has finished its files.
    exit_publishes,
    |m| {
        m.py(r#"
for code in (0, 1, 3):
    def leave(line):
        f = open("f", "wb", 0)
        f.write(b"%d" % code)
        os._exit(code)
    equal(Worker(leave).wait(), code, "exit code")
    equal(read("f"), b"%d" % code, "content")
"#);
        let outcome = m.try_sh("echo text > a; grep nothing a > b");
        assert_eq!(outcome.code(), 1, "{outcome}");
        assert_eq!(m.in_data("b"), "");
        let outcome = m.try_sh("echo other > b; diff a b > c");
        assert_eq!(outcome.code(), 1, "{outcome}");
        assert!(m.in_data("c").contains("> other"));
    }
);

mount_only!(
    /// What a killed writer had written is kept for its owner.
    salvage_holds_what_was_discarded,
    |m| {
        m.py(r#"
from versions import *
def half(line):
    f = open("sub/f", "wb", 0)
    f.write(version(7, 1_500_000))
    line.say("written")
    time.sleep(60)
os.mkdir("sub")
write("sub/f", "old")
def discard():
    writer = Worker(half)
    writer.hear()
    writer.kill()
    writer.wait()
    equal(read("sub/f"), b"old")
discard()

def polystore(*arguments):
    command = [os.environ["POLYSTORE"], "salvage", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout

def listed(where):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if items := json.loads(polystore("list", where, "--json")):
            return items
        time.sleep(0.01)
    raise AssertionError("nothing in salvage")

items = listed(DATA)
equal(len(items), 1, "items")
equal((items[0]["path"], items[0]["size"]), ("sub/f", HEADER.size + 1_500_000), "item")
equal(listed(SAFE), items, "by the mountpoint")
assert items[0]["id"] in polystore("list", DATA) and "sub/f" in polystore("list", DATA)
equal("salvage" in str(os.listdir(".")), False, "visible in the mount")
polystore("restore", DATA, items[0]["id"], "--to", TMP + "/rescued")
equal(read_version(TMP + "/rescued"), 7, "what was rescued")
equal(json.loads(polystore("list", DATA, "--json")), [], "restored, and still in salvage")
discard()
items = listed(DATA)
equal(read("sub/f"), b"old", "the file itself")
"#);
        assert!(m.data().join(".polystore/salvage").is_dir());
        m.finish();
        m.start();
        m.py(r#"
from versions import *
command = [os.environ["POLYSTORE"], "salvage", "list", DATA, "--json"]
items = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
equal(len(items), 1, "items after a new mount")
restore = [os.environ["POLYSTORE"], "salvage", "restore", DATA, items[0]["id"]]
code = subprocess.run(restore, stderr=subprocess.PIPE).returncode
equal(code, 1, "restore over what is there")
equal(read("sub/f"), b"old")
subprocess.run(restore + ["--force"], check=True)
equal(read_version(DATA + "/sub/f"), 7, "restored")
deadline = time.monotonic() + 5
while read("sub/f") == b"old" and time.monotonic() < deadline:
    time.sleep(0.05)
equal(read_version("sub/f"), 7, "restored, in the mount")
"#);
    }
);

mount_only!(
    /// SIGKILL of the mount at random moments: every file whole in DATA, and the next mount starts.
    killed_mount,
    |m| {
        let kills = count("POLYSTORE_TEST_MOUNT_KILLS", 6);
        m.sh("mkdir small large; echo untouched > plain.txt; cat plain.txt");
        for round in 0..kills {
            killed_mount_once(m, round);
        }
        m.finish();
        m.start();
        assert_eq!(m.sh("cat plain.txt"), "untouched\n");
    }
);

/// Writers go on until the mount dies under them.
const WRITERS: &str = r#"
from versions import *
BASE = ROUND * 1_000_000

def go_on(line, paths, size, pieces):
    for number in range(BASE + 1, BASE + 1_000_000):
        path = paths[number % len(paths)]
        try:
            write_version(path, number, size, pieces)
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
            return
        print(path, number, flush=True)

try:
    os.chdir(SAFE)
except OSError as error:
    equal(error.errno, errno.ENOTCONN)
    sys.exit()
small = [f"small/{n}" for n in range(8)]
writers = [Worker(go_on, small[:4], 3_000, 2), Worker(go_on, small[4:], 200_000, 4),
           Worker(go_on, ["large/f"], 50_000_000, 50)]
for writer in writers:
    writer.done()
"#;

fn killed_mount_once(m: &mut crate::harness::Mounted, round: u32) {
    // From the very beginning of the writers' work to well within it.
    let pause = Duration::from_millis(u64::from(round * 397 % 900));
    let said = m.while_running(&format!("ROUND = {round}\n{WRITERS}"), pause, |m| {
        m.kill_mount()
    });
    let closed = m.tmp().join("closed");
    std::fs::write(&closed, said).expect("write what was closed");
    m.start();
    m.py(CHECK_AFTER_DEATH);
}

/// A mount that dies publishes no more: what a writer closed last may be lost, but no version
/// that was seen to be replaced. Everything that is there is whole.
const CHECK_AFTER_DEATH: &str = r#"
from versions import *
closed = {}
for line in read(TMP + "/closed").decode().splitlines():
    path, number = line.split()
    closed.setdefault(path, []).append(int(number))
for top in (DATA, SAFE):
    found = {}
    for directory in ("small", "large"):
        for name in os.listdir(f"{top}/{directory}"):
            found[f"{directory}/{name}"] = read_version(f"{top}/{directory}/{name}")
    for path, numbers in closed.items():
        for replaced in numbers[:-1]:
            assert found[path] >= replaced, f"{path} is version {found[path]}, {numbers} were closed"
equal(read(DATA + "/plain.txt"), b"untouched\n")
sessions = os.listdir(DATA + "/.polystore/sessions") if os.path.exists(DATA + "/.polystore/sessions") else []
assert len(sessions) <= 1, f"sessions of the dead: {sessions}"
"#;
