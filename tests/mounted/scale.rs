//! Many files, many drafts, long work: what the mount needs stays bounded, and nobody waits for others.
//!
//! `POLYSTORE_TEST_SCALE` multiplies the counts (see `scripts/long`).

use std::time::Duration;

use crate::harness::{count, mount_only, same};

const MOUNT: &str = r#"
def mount_pid():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = read(f"/proc/{name}/cmdline").split(b"\0")
            if read(f"/proc/{name}/comm") == b"polystore-guard\n":
                continue
        except OSError:
            continue
        if b"mount" in command and os.fsencode(SAFE) in command and os.path.basename(command[0]) == b"polystore":
            return int(name)
    raise AssertionError("no mount process")

def resident(pid):
    for line in read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmRSS:"):
            return int(line.split()[1]) * 1024

def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
"#;

fn scale() -> u32 {
    count("POLYSTORE_TEST_SCALE", 1)
}

fn in_scale(m: &crate::harness::Mounted, script: &str) {
    let limit = Duration::from_secs(60) * scale();
    m.py_within(limit, &format!("SCALE = {}\n{MOUNT}\n{script}", scale()));
}

mount_only!(
    /// A tree is walked (with a scale of 50: of a million files), and the mount keeps few descriptors
    /// open and little of what it has seen.
    a_big_tree_is_walked,
    |m| {
        in_scale(
            m,
            r#"
FILES = 20_000 * SCALE
for d in range(FILES // 100):
    directory = f"{DATA}/{d // 100}/{d % 100}"
    os.makedirs(directory)
    for n in range(100):
        os.close(os.open(f"{directory}/{n}", os.O_CREAT | os.O_WRONLY))
pid = mount_pid()
before = resident(pid)
found = subprocess.run("find . -type f -printf '%s\\n' | wc -l; du -a . | wc -l; ls -lR . | grep -c '^-'",
                       shell=True, stdout=subprocess.PIPE, check=True).stdout.split()
equal([int(found[0]), int(found[2])], [FILES] * 2)
assert int(found[1]) > FILES
assert descriptors(pid) < 1000, f"{descriptors(pid)} descriptors"
grown = resident(pid) - before
assert grown < (16 << 20) + 600 * FILES, f"{grown >> 20} MiB more"
"#,
        );
    }
);

mount_only!(
    /// Many drafts at a time, new and edited (with a scale of 5: 10,000), each published whole.
    many_drafts_at_once,
    |m| {
        in_scale(
            m,
            r#"
PROCESSES, EACH = 4, min(500 * SCALE, 2500)
def write_many(line, worker):
    import resource
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for n in range(0, EACH, 2):
        write(f"{worker}-{n}", "0123456789")
    files = [open(f"{worker}-{n}", "wb" if n % 2 else "r+b", 0) for n in range(EACH)]
    for n, file in enumerate(files):
        file.write(b"%d" % n)
    line.say("open")
    line.hear()
    for file in files:
        file.close()
workers = [Worker(write_many, worker) for worker in range(PROCESSES)]
for worker in workers:
    equal(worker.hear(), "open")
equal(len(os.listdir(".")), PROCESSES * EACH // 2, "new ones are not listed")
equal({read(name) for name in os.listdir(".")}, {b"0123456789"}, "edited ones are not seen")
write("another", "one")
equal(read("another"), b"one")
for worker in workers:
    worker.say("close")
    worker.done()
os.unlink("another")
equal(len(os.listdir(".")), PROCESSES * EACH)
for worker in range(PROCESSES):
    for n in range(EACH):
        expected = b"%d" % n + (b"" if n % 2 else b"0123456789"[len(str(n)):])
        equal(read(f"{worker}-{n}"), expected)
"#,
        );
    }
);

same!(
    /// A directory of many names (with a scale of 5: 100,000) is made, listed and removed.
    a_big_directory,
    |m| {
        in_scale(
            m,
            r#"
NAMES = 20_000 * SCALE
os.mkdir("d")
for n in range(NAMES):
    os.close(os.open(f"d/{n}", os.O_CREAT | os.O_WRONLY))
equal(len(os.listdir("d")), NAMES)
equal(sum(entry.stat().st_size for entry in os.scandir("d")), 0)
subprocess.run(["rm", "-r", "d"], check=True)
"#,
        );
    }
);

same!(
    /// Deeper than any path may be long.
    a_deep_tree,
    |m| {
        in_scale(
            m,
            r#"
DEPTH = 600
top = os.open(".", os.O_RDONLY)
for level in range(DEPTH):
    os.mkdir("directory-%05d" % level)
    os.chdir("directory-%05d" % level)
with open("f", "w") as f:
    f.write("deep")
with open("f", "r+") as f:
    f.write("D")
equal(read("f"), b"Deep")
os.rename("f", "g")
os.link("g", "h")
equal(sorted(os.listdir(".")), ["g", "h"])
os.fchdir(top)
found = subprocess.run("find . -type f | wc -l; du -s . > /dev/null; rm -r directory-*; ls -A", shell=True, stdout=subprocess.PIPE)
equal((found.returncode, found.stdout.split()), (0, [b"2"]))
"#,
        );
    }
);

mount_only!(
    /// While somebody writes a lot and waits for the disk, others are served.
    slow_syncs_hold_up_nobody,
    |m| {
        in_scale(
            m,
            r#"
def write_and_sync():
    fd = os.open("big", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    block = os.urandom(1 << 20)
    for _ in range(256):
        os.write(fd, block)
    start = time.monotonic()
    os.fsync(fd)
    took.append(time.monotonic() - start)
    os.close(fd)
took = []
thread = threading.Thread(target=write_and_sync)
thread.start()
served, longest = 0, 0
while not took:
    start = time.monotonic()
    os.path.exists(f"missing-{served}")
    os.listdir(".")
    longest = max(longest, time.monotonic() - start)
    served += 1
thread.join()
assert longest < took[0] or took[0] < 0.5, f"one waited {longest} s, the sync {took[0]} s"
assert served > 10, served
"#,
        );
    }
);
