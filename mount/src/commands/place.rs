//! Where a file lies that a command is given.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polystore::disk::{self, Dir, Disk, Kind, Stat, SystemDisk};

use super::lock_file::LockFile;
use crate::Failure;
use crate::quote;
use crate::run::mountinfo::{self, Entry};

/// The end of the names of lock files.
const LOCK: &[u8] = b".lock";

/// A file, or a name that a file may get: symbolic links are followed, but for those of others in
/// sticky directories that everybody may write.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Its directory: who changes names above it meanwhile does not change what this is.
    pub handle: Arc<Dir>,
    /// The canonical path of that, as it was.
    pub dir: PathBuf,
    /// Its name in that.
    pub name: OsString,
}

impl Spot {
    /// Where `path` leads to, dangling links included.
    pub fn of(path: &Path) -> io::Result<Spot> {
        let found = disk::find(path)?;
        let handle = format!("/proc/self/fd/{}", found.dir.as_fd().as_raw_fd());
        Ok(Spot {
            dir: std::fs::read_link(handle)?,
            handle: Arc::new(found.dir),
            name: found.name,
        })
    }

    /// The path to it.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// What is there: a regular file or nothing.
    ///
    /// # Errors
    /// Something else is.
    pub fn known(&self) -> io::Result<Option<Stat>> {
        let known = SystemDisk.stat(&self.handle, &self.name)?;
        match known.map(|known| known.kind) {
            None | Some(Kind::File) => Ok(known),
            Some(Kind::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            // It was none when the path was followed.
            Some(Kind::Symlink) => Err(io::Error::from_raw_os_error(libc::ELOOP)),
            Some(Kind::Other) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file, but a device, a FIFO or a socket",
            )),
        }
    }

    /// The mount that it is in.
    pub fn mount(&self) -> io::Result<Option<Entry>> {
        mountinfo::mount_of_handle(&*self.handle)
    }

    /// Whether it is itself what is locked for a turn.
    pub fn is_lock(&self) -> bool {
        is_lock_name(&self.name)
    }

    /// Whether both stand for the same name of the same directory.
    pub fn is_same(&self, other: &Spot) -> io::Result<bool> {
        let id = |spot: &Spot| SystemDisk.stat_dir(&spot.handle).map(|known| known.id);
        Ok(self.name == other.name && id(self)? == id(other)?)
    }

    /// What is locked for a turn at it: itself, or the lock file beside it.
    ///
    /// # Errors
    /// Those of [`known`](Self::known).
    pub fn lock_file(&self) -> io::Result<LockFile> {
        if !self.is_lock() {
            let mut name = self.name.clone();
            name.push(OsStr::from_bytes(LOCK));
            return Ok(LockFile::of_document(self, name, self.known()?));
        }
        let len = self.name.len() - LOCK.len();
        let document = OsStr::from_bytes(&self.name.as_bytes()[..len]);
        let known = match document.is_empty() {
            true => None,
            false => SystemDisk.stat(&self.handle, document)?,
        };
        let spot = Spot {
            name: document.to_owned(),
            ..self.clone()
        };
        Ok(match known.filter(|known| known.kind == Kind::File) {
            None if !is_document_name(document) => LockFile::of_nothing(self),
            known => LockFile::of_document(&spot, self.name.clone(), known),
        })
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
        assert_eq!(spot.lock_file().unwrap().path(), root.join("c.json.lock"));
        assert!(is_document_name(&spot.name));
        let other = Spot::of(&root.join("sub/../x.lock")).unwrap();
        assert_eq!(other.lock_file().unwrap().path(), root.join("x.lock"));
        assert!(!spot.is_same(&other).unwrap());
        let again = Spot::of(&root.join("sub/b")).unwrap();
        assert!(spot.is_same(&again).unwrap());
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
        let tmp = Spot::of(Path::new("/tmp")).unwrap();
        assert!(tmp.known().is_err() && tmp.lock_file().is_err());
    }
}
