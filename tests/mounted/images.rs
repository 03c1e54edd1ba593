//! The same on each file system that a backing directory may lie on.

use crate::harness::{Mounted, promise};

/// Whole versions under readers, holes, times, links, death of a writer: what differs most
/// between file systems.
fn everyday(m: &mut Mounted) {
    m.py(r#"
from versions import *

def watch(line):
    last = 0
    while not line.waiting(0):
        number = read_version("d/f")
        assert number >= last, f"version {number} after version {last}"
        last = number

def die(line):
    f = open("d/f", "wb", 0)
    f.write(b"half" * 500_000)
    line.say("written")
    time.sleep(60)

os.mkdir("d")
write_version("d/f", 0, 1000)
os.setxattr("d/f", "user.key", b"value")
readers = [Worker(watch) for _ in range(2)]
def rewrite(line):
    for number in range(1, 200):
        write_version("d/f", number, random.choice((0, 3000, 100_000, 2_000_000)), 3)
        equal(read_version("d/f"), number)
Worker(rewrite).done()
for reader in readers:
    reader.say("stop")
    reader.done()
for _ in range(3):
    writer = Worker(die)
    writer.hear()
    writer.kill()
    writer.wait()
    equal(read_version("d/f"), 199, "after a killed writer")
equal(os.getxattr("d/f", "user.key"), b"value")
for number in range(500):
    write(f"d/new{number % 50}", b"%d" % number * number)
    os.rename(f"d/new{number % 50}", f"d/name{number % 20}")
fd = os.open("d/holes", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.pwrite(fd, b"end", 10_000_000)
os.close(fd)
assert os.stat("d/holes").st_blocks * 512 < 2_000_000, "holes are filled"
os.utime("d/holes", ns=(10**18 + 1, 10**18 + 123_456_789))
equal(os.stat("d/holes").st_mtime_ns, 10**18 + 123_456_789)
os.link("d/f", "d/link")
write_version("d/link", 200, 50_000)
equal(read_version("d/f"), 200, "by its other name")
for name in os.listdir("d"):
    equal(read(DATA + "/d/" + name), read("d/" + name), name)
"#);
}

promise!(on_ext4, Setup::on_image("ext4", 256), |m| {
    everyday(m);
});

promise!(on_xfs, Setup::on_image("xfs", 320), |m| {
    everyday(m);
});

promise!(on_btrfs, Setup::on_image("btrfs", 256), |m| {
    everyday(m);
});

promise!(on_tmpfs, Setup::on_image("tmpfs", 256), |m| {
    everyday(m);
});
