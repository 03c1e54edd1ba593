//! What must not freeze the mount, or those in it who have nothing to do with the cause.

use crate::harness::{mount_only, same};

same!(
    /// Data that are read around the cache into a mapping of another file of the same mount, which is
    /// written out meanwhile: whoever completes the read must not wait for pages of that mapping.
    direct_reads_into_a_mapping_of_the_mount,
    |m| {
        m.py(r#"
SIZE = 1 << 20
write("source", os.urandom(SIZE))
write("target", bytes(SIZE))
source = os.open("source", os.O_RDONLY | os.O_DIRECT)
target = os.open("target", os.O_RDWR)
mapped = mmap.mmap(target, SIZE)
end = time.monotonic() + 3
rounds = {"read": 0, "dirtied": 0, "synced": 0, "sought": 0}

def repeat(name, step):
    def run():
        while time.monotonic() < end:
            step()
            rounds[name] += 1
    return threading.Thread(target=run)

def dirty():
    for at in range(0, SIZE, 4096):
        mapped[at] = (mapped[at] + 1) & 0xff

view = memoryview(mapped)
threads = [
    repeat("read", lambda: os.preadv(source, [view], 0)),
    repeat("read", lambda: os.preadv(source, [view[4096:65536]], 4096)),
    repeat("dirtied", dirty),
    repeat("synced", lambda: os.fsync(target)),
    repeat("sought", lambda: os.lseek(target, 0, os.SEEK_END)),
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all(rounds.values()), rounds
equal(os.path.getsize("source"), SIZE)
"#);
    }
);
