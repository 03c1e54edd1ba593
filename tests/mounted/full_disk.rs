//! A save that fails for want of space fails whole: the old version stays, and the space is free again, at once.

use crate::harness::mount_only;

/// A disk with some 24 MiB left.
const SMALL: &str = r#"
BLOCK = os.urandom(1 << 20)

def free():
    there = os.statvfs(DATA)
    return there.f_bavail * there.f_frsize

def fills(path, size):
    """Whether that much can be written in the backing directory, by somebody who knows of no mount."""
    try:
        with open(DATA + "/" + path, "wb", 0) as file:
            for _ in range(size >> 20):
                file.write(BLOCK)
            os.fsync(file.fileno())
        return True
    except OSError as error:
        equal(error.errno, errno.ENOSPC)
        return False
    finally:
        os.unlink(DATA + "/" + path)

def salvaged():
    command = [os.environ["POLYSTORE"], "salvage", "list", DATA, "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

def leave(size):
    """Takes all of the disk but that much."""
    with open(DATA + "/ballast", "wb", 0) as ballast:
        fallocate(ballast.fileno(), 0, 0, free() - size)

def write_until_full(fd):
    try:
        while True:
            os.write(fd, BLOCK)
    except OSError as error:
        equal(error.errno, errno.ENOSPC)

"#;

/// How a save may be made, each with the space free before its close and after it.
const SAVES: &str = r#"
good = os.urandom(1 << 20)
write("f", good)
leave(24 << 20)
big = free() * 2 // 3
for flags in (os.O_TRUNC, 0):
    for name in ("f", "new"):
        fd = os.open(name, os.O_RDWR | os.O_CREAT | flags, 0o644)
        write_until_full(fd)
        assert fills("stranger", big), (flags, name, "before its close", free())
        fails(errno.ENOSPC, os.write, fd, b"once more")
        fails(errno.ENOSPC, os.fsync, fd)
        assert os.fstat(fd).st_size > big, "its length stays"
        fails(errno.ENOSPC, os.close, fd)
        assert fills("stranger", big), (flags, name, "after its close", free())
        equal(read("f"), good)
        equal(read(DATA + "/f"), good)
        equal(os.path.exists("new"), False)
        equal(salvaged(), [])
write("f", b"x" * 100)
equal(read("f"), b"x" * 100)
"#;

mount_only!(
    a_failed_save_leaves_the_space_free_on_ext4,
    Setup::on_image("ext4", 64),
    |m| {
        m.py(&format!("{SMALL}{SAVES}"));
    }
);

mount_only!(
    a_failed_save_leaves_the_space_free_on_xfs,
    Setup::on_image("xfs", 320),
    |m| {
        m.py(&format!("{SMALL}{SAVES}"));
    }
);

mount_only!(
    a_failed_save_leaves_the_space_free_on_tmpfs,
    Setup::on_image("tmpfs", 64),
    |m| {
        m.py(&format!("{SMALL}{SAVES}"));
    }
);

mount_only!(
    /// Pages that are changed through a mapping are written by the kernel, when nobody waits for it.
    a_mapping_that_does_not_fit,
    Setup::on_image("ext4", 64),
    |m| {
        m.py(&format!(
            "{SMALL}{}",
            r#"
write("f", "old")
leave(4 << 20)
before = free()
fd = os.open("f", os.O_RDWR | os.O_TRUNC)
os.ftruncate(fd, 8 << 20)
view = mmap.mmap(fd, 8 << 20)
view[:] = os.urandom(8 << 20)
fails(errno.ENOSPC, view.flush)
view.close()
fails(errno.ENOSPC, os.close, fd)
equal(read("f"), b"old")
equal(salvaged(), [])
until(lambda: free() > before - (1 << 20))
"#
        ));
    }
);

mount_only!(
    /// A reservation that fails has done nothing: the program goes on without it. One that cannot possibly fit costs
    /// salvage nothing.
    a_reservation_that_does_not_fit,
    Setup::on_image("ext4", 64),
    |m| {
        m.py(&format!(
            "{SMALL}{}",
            r#"
def dies(line):
    fd = os.open("killed", os.O_WRONLY | os.O_CREAT)
    os.write(fd, os.urandom(20 << 20))
    line.say("written")
    time.sleep(60)
writer = Worker(dies)
writer.hear()
writer.kill()
writer.wait()
until(lambda: len(salvaged()) == 1)
before = free()
write("f", "old")
for name, flags in (("f", os.O_TRUNC), ("f", 0), ("new", os.O_TRUNC)):
    for mode in (0, 1): # KEEP_SIZE
        fd = os.open(name, os.O_RDWR | os.O_CREAT | flags, 0o644)
        fails(errno.ENOSPC, fallocate, fd, mode, 0, 500 << 20)
        assert os.fstat(fd).st_size < 100, "it was extended"
        assert free() > before - (8 << 20), f"{name}, {mode}: of {before} there is {free()}"
        os.pwrite(fd, b"written", 0)
        os.close(fd)
        equal(read(name), b"written", (name, mode))
equal(len(salvaged()), 1)
# With the space that salvage has it fits.
fd = os.open("g", os.O_RDWR | os.O_CREAT, 0o644)
fallocate(fd, 0, 0, before + (10 << 20))
os.close(fd)
equal(salvaged(), [])
"#
        ));
    }
);
