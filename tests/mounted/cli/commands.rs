//! `polystore lock`, `write` and `update`: the same on a plain directory and in a mount.

use super::both;
use crate::harness::{count, mount_only};

mount_only!(lock_ends_as_its_command_does, |m| {
    both(
        m,
        r#"
def code(*arguments, **keywords):
    return polystore("lock", *arguments, **keywords).returncode

equal(code("x.lock", "--", "true"), 0)
equal(code("x.lock", "--", "sh", "-c", "exit 7"), 7)
equal(code("x.lock", "--", "sh", "-c", "kill -9 $$"), 137)
equal(code("x.lock", "--", "sh", "-c", "kill -TERM $$"), 143)
for line, expected, word in [
    (["x.lock", "--", "no-such-command"], 127, "no-such-command"),
    (["x.lock", "--", "./not-executable"], 126, "not-executable"),
    (["none/x.lock", "--", "true"], 125, "none/x.lock"),
    (["..", "--", "true"], 125, ".."),
]:
    write("not-executable", "echo")
    result = polystore("lock", *line)
    equal((result.returncode, result.stdout), (expected, ""), line)
    assert result.stderr.startswith("polystore: ") and word in result.stderr, result.stderr
    equal(result.stderr.count("\n"), 1)
# What it locks is made and stays; a document's is beside what a link leads to.
os.mkdir("sub")
os.symlink("sub/real.json", "link")
equal(code("link", "--", "true"), 0)
equal(os.listdir("sub"), ["real.json.lock"])
equal(code("data.csv", "--", "true"), 0)
assert os.path.exists("data.csv.lock") and not os.path.exists("data.csv")
# The command has the standard streams, and the lock, which is its for as long as it runs.
result = polystore("lock", "x.lock", "--", "sh", "-c", "cat; ls -l /proc/self/fd", input="text\n")
assert result.stdout.startswith("text\n") and "x.lock" in result.stdout, result.stdout
"#,
    );
});

mount_only!(lock_excludes_everybody_else, |m| {
    both(
        m,
        r#"
def held(shared=False):
    """Whether nobody else may lock it now."""
    with open("x.lock") as f:
        try:
            fcntl.flock(f, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

holder = start("lock", "x.lock", "--", "sh", "-c", "echo held; read line")
equal(holder.stdout.readline(), "held\n")
assert held() and held(shared=True)
for line in ["-n"], ["--timeout", "0"], ["--timeout", "200ms"]:
    begun = time.monotonic()
    result = polystore("lock", *line, "x.lock", "--", "touch", "ran")
    equal(result.returncode, 75, line)
    assert "x.lock" in result.stderr, result.stderr
    assert time.monotonic() - begun < 5
    assert line[-1] != "200ms" or ("200ms" in result.stderr and time.monotonic() - begun >= 0.2)
assert not os.path.exists("ran")
waiter = start("lock", "--timeout", "30", "x.lock", "--", "echo", "came")
time.sleep(0.2)
assert waiter.poll() is None
holder.stdin.write("\n")
holder.stdin.close()
equal(holder.wait(), 0)
equal((waiter.stdout.read(), waiter.wait()), ("came\n", 0))
assert not held(), "it is free when the command has returned"

# If the wrapper is killed its command goes on, and so does the turn, to the end of that.
holder = start("lock", "x.lock", "--", "sh", "-c", "echo $$; exec sleep 60")
command = int(holder.stdout.readline())
holder.kill()
holder.wait()
equal(polystore("lock", "-n", "x.lock", "--", "true").returncode, 75)
os.kill(command, signal.SIGKILL)
equal(polystore("lock", "--timeout", "20", "x.lock", "--", "true").returncode, 0)

# Readers share.
reader = start("lock", "--shared", "x.lock", "--", "sh", "-c", "echo held; read line")
reader.stdout.readline()
equal(polystore("lock", "-n", "--shared", "x.lock", "--", "true").returncode, 0)
equal(polystore("lock", "-n", "x.lock", "--", "true").returncode, 75)
assert held() and not held(shared=True)
reader.communicate("\n")

# What the holder starts passes; what others start does not.
inner = [POLYSTORE, "lock", "-n", "x.lock", "--", "sh", "-c", f"exec {POLYSTORE} lock -n x.lock -- echo in"]
equal(polystore("lock", "x.lock", "--", *inner).stdout, "in\n")
stranger = dict(os.environ, POLYSTORE_TURNS=f"{os.getpid()}:0:0,1:1:1,x")
equal(polystore("lock", "-n", "x.lock", "--", "true", env=stranger).returncode, 0)
script = f"jq .+1 n.json | {POLYSTORE} write --timeout 5 n.json"
write("n.json", "1")
result = polystore("lock", "n.json", "--", "sh", "-c", script)
equal((result.returncode, read("n.json")), (0, b"2\n"), result.stderr)
"#,
    );
});

mount_only!(
    /// The turn is kept until the command has ended.
    signals_are_for_the_command,
    |m| {
        both(
            m,
            r#"
script = 'trap "echo got TERM; sleep 0.3; exit 5" TERM; trap "echo got HUP" HUP; echo held; while :; do sleep 0.05; done'
holder = start("lock", "x.lock", "--", "bash", "-c", script)
equal(holder.stdout.readline(), "held\n")
holder.send_signal(signal.SIGHUP)
equal(holder.stdout.readline(), "got HUP\n")
holder.send_signal(signal.SIGTERM)
equal(holder.stdout.readline(), "got TERM\n")
equal(polystore("lock", "-n", "x.lock", "--", "true").returncode, 75, "given up before its command ended")
equal(holder.wait(), 5)

# Without a terminal a SIGINT comes from somebody who means this process.
holder = start("lock", "x.lock", "--", "python3", "-c", "import time; print('held', flush=True); time.sleep(60)")
equal(holder.stdout.readline(), "held\n")
holder.send_signal(signal.SIGINT)
equal(holder.wait(), 130)

# On a terminal Ctrl-C is for the whole group: the command has it once.
import pty
pid, terminal = pty.fork()
if pid == 0:
    script = "import os, time, signal; signal.signal(signal.SIGINT, lambda *_: os.write(1, b'INT')); print('held', flush=True); time.sleep(1); time.sleep(1); raise SystemExit(6)"
    os.execv(POLYSTORE, ["polystore", "lock", "x.lock", "--", "python3", "-c", script])
said = b""
while b"held" not in said:
    said += os.read(terminal, 1024)
os.write(terminal, b"\x03")
try:
    while more := os.read(terminal, 1024):
        said += more
except OSError:
    pass
equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 6, said)
equal(said.count(b"INT"), 1, said)

# A signal that was ignored stays so, for the command, too.
holder = start("lock", "x.lock", "--", "sh", "-c", "echo held; read line; echo on",
    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
equal(holder.stdout.readline(), "held\n")
holder.send_signal(signal.SIGHUP)
time.sleep(0.1)
equal(holder.communicate("\n")[0], "on\n")

# Who waits is ended at once.
with Held("x.lock"):
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL:
        for options in [], ["--timeout", "60"]:
            waiter = start("lock", *options, "x.lock", "--", "touch", "ran")
            time.sleep(0.15)
            begun = time.monotonic()
            waiter.send_signal(number)
            equal(waiter.wait(10), -number)
            assert time.monotonic() - begun < 2
assert not os.path.exists("ran")
equal(polystore("lock", "-n", "x.lock", "--", "true").returncode, 0)
"#,
        );
    }
);

mount_only!(twenty_locked_increments_lose_none, |m| {
    let rounds = count("POLYSTORE_TEST_ROUNDS", 5);
    both(
        m,
        &format!(
            r#"
ROUNDS = {rounds}
write("count", "0")
script = "n=$(cat count); echo $((n + 1)) > count"
def work(line, options):
    for _ in range(ROUNDS):
        equal(polystore("lock", *options, "count.lock", "--", "sh", "-c", script).returncode, 0)
workers = [Worker(work, [[], ["--timeout", "100"]][i % 2]) for i in range(20)]
for worker in workers:
    worker.done()
equal(int(read("count")), 20 * ROUNDS)
"#
        ),
    );
});

mount_only!(write_replaces_in_one_step, |m| {
    both(
        m,
        r#"
write("f", "carol\nalice\nbob\n")
os.chmod("f", 0o640)
os.setxattr("f", "user.note", b"kept")
os.symlink("f", "link")
equal(subprocess.run(f"sort link | {POLYSTORE} write link", shell=True).returncode, 0)
equal(read("f"), b"alice\nbob\ncarol\n")
assert os.path.islink("link")
equal(stat.S_IMODE(os.stat("f").st_mode), 0o640)
equal(os.getxattr("f", "user.note"), b"kept")

# New files, large ones, empty ones.
os.umask(0o027)
for size in 0, 1, (1 << 20) + 1, 9 << 20:
    content = os.urandom(size)
    equal(polystore("write", "new", input=content, text=False).returncode, 0)
    assert read("new") == content, size
    equal(stat.S_IMODE(os.stat("new").st_mode), 0o640)
    if size < 9 << 20:
        os.unlink("new")

# Nothing changes until the input ends, and nothing at all if the writer is killed.
writer = start("write", "f")
writer.stdin.write("half of the new version" * 100_000)
writer.stdin.flush()
time.sleep(0.2)
equal(read("f"), b"alice\nbob\ncarol\n")
writer.kill()
writer.wait()
equal(read("f"), b"alice\nbob\ncarol\n")

# Nor if the input cannot be read.
with open("/proc/self/mem", "rb") as unreadable:
    result = polystore("write", "f", stdin=unreadable)
equal(result.returncode, 1)
assert "standard input: " in result.stderr, result.stderr
equal(read("f"), b"alice\nbob\ncarol\n")

os.mkdir("sub")
os.mkfifo("fifo")
for name in "sub", "fifo", "sub/", "none/f":
    result = polystore("write", name, input="text")
    equal(result.returncode, 1, name)
    assert name in result.stderr, result.stderr
equal(sorted(os.listdir()), ["f", "fifo", "link", "new", "sub"])
"#,
    );
});

mount_only!(write_waits_for_its_turn, |m| {
    both(
        m,
        r#"
# A lock file stays the file that it is.
write("x.lock", "a long line that is there")
inode = os.stat("x.lock").st_ino
equal(polystore("write", "x.lock", input="12\n").returncode, 0)
equal((read("x.lock"), os.stat("x.lock").st_ino), (b"12\n", inode))

write("c.json", "{}")
for name, lock in [("c.json", "c.json.lock"), ("x.lock", "x.lock")]:
    old = read(name)
    with Held(lock):
        for time_, limit in [("0", 2), ("300ms", 3)]:
            begun = time.monotonic()
            result = polystore("write", "--timeout", time_, name, input="[1]\n")
            equal(result.returncode, 75, result.stderr)
            assert name in result.stderr, result.stderr
            waited = time.monotonic() - begun
            assert waited < limit and (time_ == "0" or waited >= 0.3), waited
        equal(read(name), old)
        writer = start("write", "--timeout", "60", name)
        writer.stdin.write("[2]\n")
        writer.stdin.close()
        time.sleep(0.3)
        assert writer.poll() is None
    equal(writer.wait(20), 0)
    equal(read(name), b"[2]\n")

# A rewrite makes no lock file.
equal(polystore("write", "new.json", input="1").returncode, 0)
assert not os.path.exists("new.json.lock")
"#,
    );
});
