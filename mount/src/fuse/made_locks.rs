//! Lock files that this mount made, beside documents whose writers take turns.
//!
//! No program has asked for them, so none sees them while they are empty and nobody else has opened
//! them. They stay, because those outside may wait for them; but they are in nobody's way: who makes
//! that name himself, or removes the directory, has them removed, unless somebody holds them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use polystore::disk::{Kind, SystemDisk};
use rustix::fs::{AtFlags, FlockOperation, RawDir, Statx, XattrFlags};

use super::attr;
use super::fs::Fs;
use super::outside::{is_current, open_lock_file};
use super::tree::{Dir, path_of};
use crate::engine::policy::is_lock_name;
use crate::engine::slot::Place;

/// Says of a lock file that the mount made it, and that nobody has used it otherwise. What root's mount says
/// only root can say; an ordinary user's is believed of his own files.
fn made() -> &'static str {
    match rustix::process::geteuid().is_root() {
        true => "trusted.polystore.made",
        false => "user.polystore.made",
    }
}

/// A directory that is removed and holds more than this is not searched for them.
const MOST_IN_A_DIRECTORY: usize = 4096;

/// Notes that the mount made `file`. Where that cannot be noted it is a file like others.
pub fn mark(file: &File) {
    let _ = rustix::fs::setxattr(path_of(file.as_fd()), made(), b"1", XattrFlags::empty());
}

/// Whether the mount made `file`, and nobody has used it otherwise.
pub fn is_marked(file: &File) -> bool {
    let own = rustix::process::geteuid();
    let is_known = |stat: &Statx| own.is_root() || stat.stx_uid == own.as_raw();
    let may_be = attr::of_file(file).is_ok_and(|stat| stat.stx_size == 0 && is_known(&stat));
    may_be && rustix::fs::fgetxattr_query(file, made()).is_ok()
}

/// The lock file `name` in `dir`, if the mount made it and only the mount knows of it.
fn made_lock(dir: &Dir, name: &OsStr) -> Option<File> {
    Some(name)
        .filter(|name| is_lock_name(name))
        .and_then(|name| open_lock_file(dir, name))
        .filter(is_marked)
}

/// Whether `name` in `dir` is a lock file that only the mount knows of.
pub fn is_made_lock(dir: &Dir, name: &OsStr) -> bool {
    made_lock(dir, name).is_some()
}

/// A program opens the lock file at `place`: from now on it is a file like others.
pub fn show_lock(place: &Place<SystemDisk>) {
    if let Some(file) = made_lock(&place.dir, place.name()) {
        let _ = rustix::fs::removexattr(path_of(file.as_fd()), made());
    }
}

impl Fs {
    /// Removes the file at `place` if it is such a lock file, and free.
    ///
    /// # Errors
    /// It is not: `AlreadyExists`.
    pub fn yield_lock(&self, place: &Place<SystemDisk>) -> io::Result<()> {
        let (dir, name) = (&*place.dir, place.name());
        let exists = || io::Error::from(io::ErrorKind::AlreadyExists);
        let file = made_lock(dir, name).ok_or_else(exists)?;
        let alone = FlockOperation::NonBlockingLockExclusive;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, alone)).map_err(|_| exists())?;
        if is_current(dir, name, &file) {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            self.locks.removed(&place.slot);
        }
        Ok(())
    }

    /// Removes the lock files in the directory at `place` if there is nothing else in it.
    ///
    /// # Errors
    /// There is; or those of the system calls.
    pub fn yield_locks_in(&self, place: &Place<SystemDisk>) -> io::Result<()> {
        let full = || io::Error::from(io::ErrorKind::DirectoryNotEmpty);
        let stat = attr::of_name(&*place.dir, place.name())?;
        if attr::kind(&stat) != Kind::Directory {
            return Err(full());
        }
        let node = self.tree.nodes().of(attr::id(&stat)).ok_or_else(full)?;
        let dir = self.tree.dir(node)?;
        let names = names_in(&dir)?;
        let all_made = names.iter().all(|name| is_made_lock(&dir, name));
        if names.is_empty() || names.len() > MOST_IN_A_DIRECTORY || !all_made {
            return Err(full());
        }
        for name in names {
            self.yield_lock(&self.tree.place(node, &name)?)
                .map_err(|_| full())?;
        }
        Ok(())
    }
}

/// The names in `dir`, or a few more than [`MOST_IN_A_DIRECTORY`] of them.
fn names_in(dir: &Dir) -> io::Result<Vec<OsString>> {
    let flags =
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, Path::new("."), flags, rustix::fs::Mode::empty())?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut raw = RawDir::new(&fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
        if names.len() > MOST_IN_A_DIRECTORY {
            break;
        }
    }
    Ok(names)
}
