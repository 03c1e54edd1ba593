//! Hard circumstances: no descriptors left, directories that change while they are listed, names of any
//! bytes, paths longer than any call takes, a disk that stands still.

use crate::harness::{Plain, Setup, Who, count, mount_only, run, same};

mount_only!(
    /// Who asks for more than the mount has descriptors for is refused, and nothing is lost.
    a_mount_that_runs_out_of_descriptors,
    |m| {
        let mount = m.pid().expect("there is a mount");
        m.py(&format!("MOUNT = {mount}\n{}", r#"
subprocess.run(["prlimit", f"--pid={MOUNT}", "--nofile=200:200"], check=True)
write("before", "x")
open_files = []
while True:
    try:
        fd = os.open(f"{len(open_files)}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        assert error.errno in (errno.EMFILE, errno.ENFILE), error
        break
    os.write(fd, b"content")
    open_files.append(fd)
    assert len(open_files) < 1000
assert len(open_files) > 50, len(open_files)
assert os.path.exists("before"), "a look at a name"
for fd in open_files:
    os.close(fd)
for number in range(len(open_files)):
    equal(read(f"{number}"), b"content", number)
write("after", "x")
equal(read("after"), b"x")
equal(len(os.listdir(".")), len(open_files) + 2)
left = len(os.listdir(f"/proc/{MOUNT}/fd"))
assert left < 100, f"{left} descriptors are left open"
"#));
    }
);

same!(
    /// What is there throughout is listed once, whatever is made and deleted meanwhile
    /// (`POLYSTORE_TEST_SCALE` multiplies the number of names).
    a_big_directory_is_listed_while_it_changes,
    |m| {
        let names = 3_000 * count("POLYSTORE_TEST_SCALE", 1);
        m.py(&format!("NAMES = {names}\n{}", r#"
os.mkdir("d")
for number in range(NAMES):
    write(f"d/stays {number}", "")
for number in range(NAMES // 4):
    write(f"d/goes {number}", "")
stays = sorted(f"stays {number}" for number in range(NAMES))
equal(len(os.listdir("d")), NAMES + NAMES // 4)
def change(line):
    for number in range(NAMES // 4):
        os.unlink(f"d/goes {number}")
        write(f"d/comes {number}", "")
        os.rename(f"d/comes {number}", f"d/came {number}")
        write(f"d/stays {number}", "rewritten")
changing = Worker(change)
while changing.lives():
    for listed in ([entry.name for entry in os.scandir("d")], subprocess.run(["ls", "-lU", "d"], capture_output=True, text=True).stdout):
        if isinstance(listed, str):
            listed = [line[line.index("stays"):] for line in listed.splitlines() if "stays" in line]
        equal(sorted(name for name in listed if name.startswith("stays")), stays, "what was there all the time")
changing.done()
equal(sorted(os.listdir("d")), sorted(stays + [f"came {number}" for number in range(NAMES // 4)]))
for entry in os.scandir("d"):
    os.unlink(entry.path)
os.rmdir("d")
"#));
    }
);

same!(
    /// Names are bytes, as long as the file system takes them.
    any_name_that_the_file_system_takes,
    |m| {
        m.py(r#"
here = os.fsencode(os.getcwd())
names = [b"x" * 255, b"\xff\xfe not UTF-8 \x80", "ü".encode() * 127, b"new\nline", b" ", b"-rf", b"\\", b'"', b"\x01\x1b[31m", b"...", b"a" * 200 + b"\xc3"]
for name in names:
    with open(name, "wb") as f:
        f.write(name)
    with open(name, "r+b") as f:
        f.write(b"X")
    with open(name, "ab") as f:
        f.write(b"+")
equal(sorted(os.listdir(here)), sorted(names))
equal(set(names) - set(os.listdir(os.fsencode(DATA))), set(), "missing in the backing directory")
for name in names:
    equal(read(name), b"X" + name[1:] + b"+")
    moved = b"y" * 255 if name != b"y" * 255 else b"z"
    os.rename(name, moved)
    with open(moved, "wb") as f:
        f.write(b"again")
    os.unlink(moved)
    os.mkdir(name)
    with open(name + b"/" + name, "wb") as f:
        f.write(b"inside")
    os.symlink(name, b"link")
    equal(os.readlink(b"link"), name)
    equal(read(b"link/" + name), b"inside")
    os.unlink(b"link")
    os.unlink(name + b"/" + name)
    os.rmdir(name)
for flags in (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDONLY):
    fails(errno.ENAMETOOLONG, os.open, b"x" * 256, flags)
fails(errno.ENAMETOOLONG, os.mkdir, b"x" * 256)
write(b"f", "")
fails(errno.ENAMETOOLONG, os.rename, b"f", b"x" * 256)
os.symlink(b"t" * 4095, b"long")
equal(os.readlink(b"long"), b"t" * 4095)
fails(errno.ENAMETOOLONG, os.symlink, b"t" * 4096, b"longer")
"#);
    }
);

same!(
    /// A thousand directories, one in the other: the path of what lies there is longer than any call takes.
    a_deep_tree_by_descriptors,
    |m| {
        m.py(r#"
DEPTH, NAME = 1000, "directory"
for _ in range(DEPTH):
    os.mkdir(NAME)
    os.chdir(NAME)
write("f", "deep")
equal(read("f"), b"deep")
with open("f", "r+b") as f:
    f.write(b"D")
with open("f", "ab") as f:
    f.write(b"er")
write("g", "rewritten")
os.rename("g", "f2")
os.link("f2", "f3")
os.mkdir("sub")
equal(sorted(os.listdir(".")), ["f", "f2", "f3", "sub"])
# By descriptors, from another place, while others come and go in between.
deep = os.open(".", os.O_RDONLY)
os.chdir(SAFE)
with open(os.open("f", os.O_WRONLY | os.O_TRUNC, dir_fd=deep), "wb") as f:
    f.write(b"by a descriptor")
# More directories are looked at than are kept open.
for number in range(600):
    os.mkdir(f"other {number}")
    os.listdir(f"other {number}")
equal(os.read(os.open("f", os.O_RDONLY, dir_fd=deep), 100), b"by a descriptor")
os.rename(NAME, "renamed")
with open(os.open("f", os.O_RDWR, dir_fd=deep), "r+b") as f:
    f.write(b"BY")
equal(os.read(os.open("f", os.O_RDONLY, dir_fd=deep), 100), b"BY a descriptor")
os.chdir("renamed")
for _ in range(DEPTH - 1):
    os.chdir(NAME)
equal(sorted(os.listdir(".")), ["f", "f2", "f3", "sub"])
equal(read("f"), b"BY a descriptor")
os.chdir(SAFE)
os.close(deep)
equal(subprocess.run("find . -type f | wc -l", shell=True, check=True, capture_output=True, text=True).stdout.strip(), "3")
subprocess.run(["rm", "-r", "renamed"], check=True)
"#);
    }
);

/// The disk does nothing at all for a while, as slow ones do: whoever writes waits, in write, fsync or
/// close; whoever reads does not.
#[test]
fn a_disk_that_stands_still_holds_up_nobody_who_reads() {
    let setup = Setup::on_image("ext4", 256);
    run(Who::Root, &setup, Plain::Passes, |m| {
        m.py(r#"
WRITERS = 48
for number in range(50):
    write(f"{number}", "small")
    read(f"{number}")
os.mkdir("d")
def writer(line):
    with open(f"draft {line.hear()}", "wb", 0) as f:
        f.write(b"content")
        line.say("open")
        line.hear()
        f.write(b", more")
        os.fsync(f.fileno())
workers = [Worker(writer) for _ in range(WRITERS)]
for number, worker in enumerate(workers):
    worker.say(number)
    worker.hear()
subprocess.run(["fsfreeze", "-f", DATA], check=True)
try:
    for worker in workers:
        worker.say("go on")
    longest = 0
    # Long enough for the upkeep of a mount that is busy to come by several times.
    end = time.monotonic() + 4
    while time.monotonic() < end:
        for number in range(50):
            start = time.monotonic()
            equal(read(f"{number}"), b"small")
            os.stat(f"{number}")
            os.path.exists("absent")
            os.listdir("d")
            longest = max(longest, time.monotonic() - start)
        time.sleep(0.05)
    for worker in workers:
        assert worker.lives(), "a writer waits"
finally:
    subprocess.run(["fsfreeze", "-u", DATA], check=True)
for worker in workers:
    worker.done()
assert longest < 1, f"{longest} s"
for number in range(WRITERS):
    equal(read(f"draft {number}"), b"content, more")
"#);
    });
}
