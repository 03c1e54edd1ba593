//! Which directory is in which, asked of open directories.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

/// As deep as a tree may reasonably be.
const DEEPEST: usize = 4096;

/// Device and inode.
fn id(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let known = rustix::fs::fstat(directory)?;
    Ok((known.st_dev, known.st_ino))
}

/// Whether both are one directory.
pub fn is_same(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    Ok(id(one)? == id(other)?)
}

/// Whether a directory above `inner` is `outer`.
pub fn is_within(inner: &OwnedFd, outer: &OwnedFd) -> io::Result<bool> {
    let outer = id(outer)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = inner.try_clone()?;
    for _ in 0..DEEPEST {
        let above = rustix::fs::openat(&at, "..", flags, Mode::empty())?;
        if id(&above)? == outer {
            return Ok(true);
        }
        if is_same(&above, &at)? {
            return Ok(false);
        }
        at = above;
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_within_those_above_them() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            std::fs::create_dir_all(directory.path().join(name)).unwrap();
            OwnedFd::from(std::fs::File::open(directory.path().join(name)).unwrap())
        };
        let (outer, inner, other) = (open("a"), open("a/b/c"), open("d"));
        assert!(is_within(&inner, &outer).unwrap());
        assert!(!is_within(&outer, &inner).unwrap());
        assert!(!is_within(&other, &outer).unwrap());
        assert!(!is_within(&outer, &outer).unwrap());
        assert!(is_same(&outer, &open("a")).unwrap());
    }
}
