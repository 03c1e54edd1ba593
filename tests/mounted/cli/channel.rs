//! The commands that are clients of a mount's control channel, and what they do without a mount.

use super::{COMMON, both, plainly};
use crate::harness::{count, mount_only};

/// What `update` does, wherever.
const UPDATE: &str = r#"
def update(*arguments, **keywords):
    return polystore("update", *arguments, **keywords)

def refused(code, word, *arguments, **keywords):
    result = update(*arguments, **keywords)
    equal((result.returncode, result.stdout), (code, ""), (arguments, result.stderr))
    assert result.stderr.startswith("polystore: ") and word in result.stderr, result.stderr
    equal(result.stderr.count("\n"), 1)

# Formatting, order and digits are kept.
text = '{\n\t"b" : 12345678901234567890.10,\n\t"a" : [1,2]\n}'
write("c.json", text)
os.chmod("c.json", 0o640)
equal(update("c.json", "--merge", '{"a": 7}').returncode, 0)
new = read("c.json").decode()
assert '"b" : 12345678901234567890.10,\n' in new and not new.endswith("\n"), new
equal(json.loads(new)["a"], 7)
equal(stat.S_IMODE(os.stat("c.json").st_mode), 0o640)
write("d.json", '{"a":1}\n')
equal(update("d.json", "--patch", '[{"op":"add","path":"/b","value":2}]', "--print").stdout, '{"a":1,"b":2}\n')
equal(read("d.json"), b'{"a":1,"b":2}\n')

# Nothing is written where nothing changes.
before = os.stat("d.json")
equal(update("d.json", "--merge", '{"a":1}').returncode, 0)
after = os.stat("d.json")
equal((after.st_mtime_ns, after.st_ino), (before.st_mtime_ns, before.st_ino))

# From standard input, from files; new files, empty files, links.
equal(update("new.json", "--merge", "-", input='{"x": [1]}').returncode, 0)
equal(json.loads(read("new.json")), {"x": [1]})
write("change", '[{"op":"add","path":"/-","value":1}]')
write("empty.json", "")
for name in "list.json", "empty.json":
    equal(update(name, "--patch", "@change", "--default", "[]").returncode, 0)
    equal(json.loads(read(name)), [1])
os.symlink("list.json", "link.json")
equal(update("link.json", "--patch", "@change").returncode, 0)
assert os.path.islink("link.json")
equal(json.loads(read("list.json")), [1, 1])

# What fails changes nothing.
write("text.json", "no document\n")
failing = '[{"op":"remove","path":"/a"},{"op":"test","path":"/b","value":3}]'
refused(3, "d.json", "d.json", "--patch", failing)
refused(1, "d.json", "d.json", "--patch", '[{"op":"remove","path":"/none"}]')
refused(1, "text.json", "text.json", "--merge", "1")
refused(1, "none.json", "none.json", "--patch", "[]")
refused(1, "none/c.json", "none/c.json", "--merge", "1")
refused(1, "no-such-file", "d.json", "--merge", "@no-such-file")
refused(2, "--merge", "d.json", "--merge", '1,"path":"text.json"')
refused(2, "--default", "d.json", "--merge", "1", "--default", "")
equal((read("d.json"), read("text.json")), (b'{"a":1,"b":2}\n', b"no document\n"))
assert not os.path.exists("none.json")

# Its turn.
with Held("d.json.lock"):
    for time_ in "0", "300ms":
        begun = time.monotonic()
        refused(75, "d.json", "d.json", "--merge", "1", "--timeout", time_)
        assert time.monotonic() - begun < 3
    waiter = start("update", "d.json", "--merge", '{"c": null, "d": 4}')
    time.sleep(0.3)
    assert waiter.poll() is None
equal(waiter.wait(20), 0)
equal(read("d.json"), b'{"a":1,"b":2,"d":4}\n')

# Names that are not UTF-8, and such that would move the cursor.
odd = b"\xff\x1b.json"
result = update(odd, "--merge", "1")
if MOUNTED:
    equal(result.returncode, 1)
    assert "UTF-8" in result.stderr and "\x1b" not in result.stderr, result.stderr
else:
    equal((result.returncode, read(odd)), (0, b"1\n"), result.stderr)

# Long requests, that fail and that do not.
long = json.dumps({"long": ["x" * 1000] * 3000})
equal(update("long.json", "--merge", "-", input=long).returncode, 0)
equal(json.loads(read("long.json")), json.loads(long))
patch = [{"op": "add", "path": "/more", "value": json.loads(long)}, {"op": "test", "path": "/long", "value": 1}]
refused(3, "long.json", "long.json", "--patch", "-", input=json.dumps(patch))

# Who has the turn already need not wait for himself.
inner = [POLYSTORE, "update", "d.json", "--timeout", "5", "--merge", '{"d": 5}', "--print"]
result = polystore("lock", "d.json", "--", *inner)
equal((result.returncode, result.stdout), (0, '{"a":1,"b":2,"d":5}\n'), result.stderr)
# Those whom he starts wait for each other.
write("n.json", "[]")
script = f"for i in 1 2 3 4 5 6 7 8; do {POLYSTORE} update n.json --patch '[{{\"op\":\"add\",\"path\":\"/-\",\"value\":1}}]' & done; wait"
result = polystore("lock", "n.json", "--", "bash", "-c", script)
equal(result.returncode, 0)
equal(json.loads(read("n.json")), [1] * 8, result.stderr)
"#;

mount_only!(updates_of_a_plain_directory, |m| {
    plainly(m, UPDATE);
});

mount_only!(updates_in_a_mount, |m| {
    both(m, UPDATE);
});

/// Eight processes that append to one list and replace what they find: a lost update is a lost entry.
fn many_updates(rounds: u32) -> String {
    format!(
        r#"
ROUNDS = {rounds}
def work(line, number):
    for i in range(ROUNDS):
        patch = json.dumps([{{"op": "add", "path": "/-", "value": [number, i]}}])
        result = polystore("update", "all.json", "--patch", patch, "--default", "[]")
        equal(result.returncode, 0, result.stderr)
workers = [Worker(work, number) for number in range(8)]
for worker in workers:
    worker.done()
done = json.loads(read("all.json"))
equal(sorted(done), [[number, i] for number in range(8) for i in range(ROUNDS)])
for number in range(8):
    equal([i for n, i in done if n == number], list(range(ROUNDS)))
"#
    )
}

mount_only!(eight_updaters_of_a_plain_directory_lose_nothing, |m| {
    plainly(m, &many_updates(count("POLYSTORE_TEST_ROUNDS", 10)));
});

mount_only!(eight_updaters_in_a_mount_lose_nothing, |m| {
    both(m, &many_updates(count("POLYSTORE_TEST_ROUNDS", 10)));
});

mount_only!(
    /// An update in the data directory and one in its mount are under the same lock.
    updates_beside_the_mount_count,
    |m| {
        both(
            m,
            r#"
if MOUNTED:
    def work(line, directory):
        os.chdir(directory)
        for _ in range(20):
            for _ in range(100):
                old = json.loads(read("n.json"))["n"]
                patch = [{"op": "test", "path": "/n", "value": old}, {"op": "replace", "path": "/n", "value": old + 1}]
                code = polystore("update", "n.json", "--patch", json.dumps(patch)).returncode
                if code == 0:
                    break
                equal(code, 3)
            else:
                raise AssertionError("no turn in a hundred")
    write("n.json", '{"n": 0}')
    read("n.json")  # Waits until it is in DATA, too.
    workers = [Worker(work, directory) for directory in (SAFE, DATA, SAFE, DATA)]
    for worker in workers:
        worker.done()
    equal(json.loads(read("n.json")), {"n": 80})
"#,
        );
    }
);

mount_only!(status_of_a_plain_directory, |m| {
    plainly(
        m,
        r#"
seen = polystore("status").stdout
assert f"{PLAIN}: not mounted\n" in seen and "salvage: none" in seen, seen
seen = json.loads(polystore("status", "--json", PLAIN).stdout)
equal((seen["mounted"], seen["sessions"], seen["data"]), (False, [], PLAIN))
write("file", "")
for name in "file", "none":
    result = polystore("status", name)
    equal(result.returncode, 1)
    assert name in result.stderr, result.stderr
# Of a data directory: that it is mounted, and where.
seen = polystore("status", DATA).stdout
assert f"{DATA}: mounted at {SAFE}" in seen and "living mount" in seen, seen
seen = json.loads(polystore("status", "--json", DATA).stdout)
equal((seen["mounted"], seen["mountpoint"]), (True, SAFE))
# Until its reader has seen enough.
result = subprocess.run(f"{POLYSTORE} status --watch=0.1 | head -3", shell=True, capture_output=True, text=True, timeout=20)
equal((result.stdout.count("\n"), result.stderr), (3, ""))
result = polystore("publish", "file")
equal(result.returncode, 1)
assert "file: " in result.stderr and "mount" in result.stderr, result.stderr
"#,
    );
});

mount_only!(status_and_publish_in_a_mount, |m| {
    m.py(&format!(
        "{}{}",
        COMMON,
        r#"
draft = open("report.csv", "w")
draft.write("half of it\n")
draft.flush()
held = start("lock", "job.lock", "--", "sh", "-c", "echo held; read line")
held.stdout.readline()
waiting = start("lock", "job.lock", "--", "true")
time.sleep(0.3)
os.mkdir("sub")
for place in ".", "sub", SAFE:
    seen = polystore("status", place)
    equal(seen.returncode, 0, seen.stderr)
    assert seen.stdout.startswith(f"{SAFE}: polystore mount of {DATA}"), seen.stdout
    for word in "report.csv", f"pid {os.getpid()}", "job.lock", "holds", "waits":
        assert word in seen.stdout, (word, seen.stdout)
seen = json.loads(polystore("status", "--json").stdout)
assert seen["ok"] and seen["version"] == 1
equal([draft["path"] for draft in seen["drafts"]], ["report.csv"])
lock = next(lock for lock in seen["locks"] if lock["path"] == "job.lock")
equal((len(lock["holders"]), len(lock["waiters"])), (1, 1))
held.communicate("\n")
waiting.wait()

# A draft that nobody closes, by its name here and in the data directory.
for name in "report.csv", f"{DATA}/report.csv":
    draft.write("more\n")
    draft.flush()
    result = polystore("publish", name)
    equal(result.returncode, 0 if name == "report.csv" else 1, result.stderr)
equal(read("report.csv"), b"half of it\nmore\nmore\n")
result = polystore("publish", "none")
equal(result.returncode, 1)
assert result.stderr.startswith("polystore: none: "), result.stderr
draft.close()
"#
    ));
});

mount_only!(
    /// It shows the mount until that is gone, and keeps it from nothing.
    watching_ends_with_the_mount,
    |m| {
        let script = format!(
            "{}\nwatcher = start('status', '--watch=4', SAFE)\n\
             # It looks again long after the unmount: while it looks the mount would be busy.\n\
             print(watcher.stdout.readline().split(':')[1].split()[0], flush=True)\n\
             rest = watcher.communicate(timeout=60)\n\
             equal(watcher.returncode, 0, rest)\n\
             assert 'is gone' in rest[1], rest\n",
            COMMON
        );
        let pause = std::time::Duration::from_secs(2);
        let said = m.while_running(&script, pause, crate::harness::Mounted::finish);
        assert_eq!(said, "polystore\n");
    }
);

mount_only!(salvage_is_purged, |m| {
    m.py(&format!(
        "{}{}",
        COMMON,
        r#"
def kept():
    return json.loads(polystore("salvage", "list", "--json", SAFE).stdout)

def leave(name):
    before = len(kept())
    subprocess.run(["sh", "-c", f"exec > {name}; echo unfinished; kill -KILL $$"])
    deadline = time.monotonic() + 20
    while len(kept()) == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)

for name in "abc":
    leave(name)
first, second, third = kept()
result = polystore("salvage", "purge", SAFE, first["id"], "no-such-id")
equal((result.returncode, result.stdout), (1, "1 removed, 11 bytes\n"))
assert "no-such-id" in result.stderr, result.stderr
equal(kept(), [second, third])
equal(polystore("salvage", "purge", DATA, "--older-than", "1d").stdout, "0 removed, 0 bytes\n")
equal(polystore("salvage", "purge", ".", "--all").stdout, "2 removed, 22 bytes\n")
equal(kept(), [])
equal(polystore("salvage", "purge", ".", "--all").stdout, "0 removed, 0 bytes\n")
# The mount goes on keeping.
leave("d")
equal(len(kept()), 1)
equal(polystore("salvage", "purge", ".", "--older-than", "0").returncode, 0)
"#
    ));
});
