//! Options of the mount, by what they do to files.

use crate::harness::{mount_only, promise};

/// A reader looks while a file is being rewritten.
const LOOK_WHILE_WRITTEN: &str = r#"
def seen_while_written(name):
    writer, reader = peers(2)
    write(name, "old")
    inode = os.stat(name).st_ino
    writer(f"f = open({name!r}, 'wb', 0); f.write(b'half')")
    seen = reader(f"read({name!r})")
    writer("f.write(b' and half'); f.close()")
    equal(read(name), b"half and half", name)
    return seen, os.stat(name).st_ino == inode
"#;

mount_only!(
    /// What `--direct` names is written in place, as without polystore; the rest is not.
    direct_patterns,
    Setup::options(&["--direct", "pgdata/", "--direct", "*.raw"]),
    |m| {
        m.py(&format!(
            "{LOOK_WHILE_WRITTEN}
os.makedirs('a/pgdata/base')
for name in ('a/pgdata/base/1', 'x.raw', 'a/y.raw', 'x.log', 'nohup.out', 'server.pid'):
    equal(seen_while_written(name), (b'half', True), name)
for name in ('pgdata', 'a/raw', 'x.log2'):
    equal(seen_while_written(name), (b'old', False), name)
"
        ));
    }
);

mount_only!(
    /// Without the default patterns a log is a file like any other.
    no_default_patterns,
    Setup::options(&["--no-default-direct"]),
    |m| {
        m.py(&format!(
            "{LOOK_WHILE_WRITTEN}
for name in ('x.log', 'server.pid'):
    equal(seen_while_written(name), (b'old', False), name)
"
        ));
    }
);

mount_only!(
    /// Nothing can be changed through a read-only mount, nor is anything left in DATA.
    read_only,
    Setup::options(&["--read-only"]),
    |m| {
        m.py(r#"
write(DATA + "/f", "content")
os.mkdir(DATA + "/d")
equal(read("f"), b"content")
equal(sorted(os.listdir(".")), ["d", "f"])
for attempt in (lambda: open("f", "wb"), lambda: open("g", "wb"), lambda: open("f", "ab"),
                lambda: os.unlink("f"), lambda: os.mkdir("e"), lambda: os.rename("f", "g"),
                lambda: os.chmod("f", 0o600), lambda: os.utime("f"), lambda: os.rmdir("d"),
                lambda: os.symlink("x", "s"), lambda: os.link("f", "h"), lambda: os.truncate("f", 0),
                lambda: os.setxattr("f", "user.x", b"")):
    fails(errno.EROFS, attempt)
equal(read(DATA + "/f"), b"content")
"#);
        m.finish();
        assert!(!m.data().join(".polystore").exists(), "left by a read-only mount");
    }
);

/// What each durability must give while the machine runs.
const REWRITES: &str = r#"
from versions import *
writer, reader = peers(2)
reader("exec('from versions import *', globals())")
for number in range(30):
    write_version("f", number, random.randint(0, 300_000))
    equal(reader("read_version('f')"), number)
writer("f = os.open('f', os.O_WRONLY | os.O_TRUNC)")
writer("os.write(f, b'half'); os.fsync(f)")
equal(reader("read_version('f')"), 29, "synced, not closed")
writer("os.close(f)")
equal(reader("read('f')"), b"half")
"#;

promise!(
    durability_none,
    Setup::options(&["--durability", "none"]),
    |m| {
        m.py(REWRITES);
    }
);

promise!(
    durability_full,
    Setup::options(&["--durability", "full"]),
    |m| {
        m.py(REWRITES);
    }
);
