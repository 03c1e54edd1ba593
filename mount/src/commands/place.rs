//! Where a file lies that a command is given.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::quote;

/// As many symbolic links in a row as Linux follows.
const MAX_LINKS: usize = 40;

/// The end of the names of lock files.
const LOCK: &[u8] = b".lock";

/// A file, or a name that a file may get: symbolic links are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Its directory, canonical.
    pub dir: PathBuf,
    /// Its name in that.
    pub name: OsString,
}

impl Spot {
    /// Where `path` leads to, dangling links included.
    pub fn of(path: &Path) -> io::Result<Spot> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let spot = Spot::named(&path)?;
            let here = spot.path();
            match here.symlink_metadata() {
                Ok(known) if known.is_symlink() => path = spot.dir.join(here.read_link()?),
                Ok(_) => return Ok(spot),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(spot),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    fn named(path: &Path) -> io::Result<Spot> {
        let bytes = path.as_os_str().as_bytes();
        // `Path` takes "name/" and "name/." for "name"; only a directory is called so.
        let last = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or(bytes);
        if matches!(last, b"" | b"." | b"..") {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Spot {
            dir: parent.canonicalize()?,
            name: OsStr::from_bytes(last).to_owned(),
        })
    }

    /// The path to it.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Whether it is itself what is locked for a turn.
    pub fn is_lock(&self) -> bool {
        is_lock_name(&self.name)
    }

    /// What is locked for a turn at it: itself, or the lock file beside it.
    pub fn lock_file(&self) -> PathBuf {
        let mut name = self.name.clone();
        if !self.is_lock() {
            name.push(OsStr::from_bytes(LOCK));
        }
        self.dir.join(name)
    }
}

/// Whether a file of this name is itself what is locked.
pub fn is_lock_name(name: &OsStr) -> bool {
    name.as_bytes().ends_with(LOCK)
}

/// Whether a file of this name is a document whose writers take turns, as mounts have it.
pub fn is_document_name(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".json")
}

/// What makes a failure of an error at `path`.
pub fn failed(path: &Path) -> impl Fn(io::Error) -> Failure {
    let shown = quote::path(path);
    move |error| Failure::new(format!("{shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_their_end() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("sub")).unwrap();
        symlink("sub/b", root.join("a")).unwrap();
        symlink("../c.json", root.join("sub/b")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let spot = Spot::of(&root.join("a")).unwrap();
        assert_eq!(spot.path(), root.join("c.json"));
        assert_eq!(spot.lock_file(), root.join("c.json.lock"));
        assert!(is_document_name(&spot.name));
        let spot = Spot::of(&root.join("sub/../x.lock")).unwrap();
        assert_eq!(spot.lock_file(), root.join("x.lock"));
        let looping = Spot::of(&root.join("loop")).unwrap_err();
        assert_eq!(looping.raw_os_error(), Some(libc::ELOOP));
        let missing = Spot::of(&root.join("none/x")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_of_directories_are_refused() {
        for path in ["/", "/tmp/", "/tmp/.", "..", "."] {
            let error = Spot::of(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::IsADirectory, "{path}");
        }
    }
}
