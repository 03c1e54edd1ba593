//! From a directory that the user names to the data directory behind it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use polystore::disk::{Dir, Disk, SystemDisk};
use rustix::fs::{CWD, Mode, OFlags};

use crate::run::mountinfo;
use crate::run::serving::Server;
use crate::{Failure, quote};

/// A data directory.
pub struct Data {
    /// Itself: what is mounted over its path, or is renamed meanwhile, does not change what this is.
    pub dir: Dir,
    /// The path to show.
    pub shown: PathBuf,
}

/// The data directory that is served where `directory` is, or else `directory` itself.
pub fn data(directory: &Path) -> Result<Data, Failure> {
    let fail = |error: io::Error| Failure::new(format!("{}: {error}", quote::path(directory)));
    let handle = open(directory).map_err(fail)?;
    let entry = mountinfo::mount_of_handle(&handle).map_err(fail)?;
    let Some(entry) = entry.filter(mountinfo::Entry::is_polystore) else {
        return usable(&handle).map_err(fail);
    };
    // Mounted over itself, or below another mount, the path leads elsewhere; the server's
    // descriptor does not.
    let reached = match Server::of(&entry) {
        Some(server) => open(&server.data),
        None => open(&entry.source),
    };
    let covered = |handle: &OwnedFd| {
        let there = mountinfo::mount_of_handle(handle).ok().flatten();
        there.is_none_or(|there| there.is_polystore())
    };
    let reached = reached.ok().filter(|handle| !covered(handle));
    match reached.and_then(|handle| usable(&handle).ok()) {
        Some(data) => Ok(Data {
            shown: entry.source,
            ..data
        }),
        None => Err(Failure::new(format!(
            "{}: its data directory {} cannot be reached while it is mounted; unmount it first",
            quote::path(&entry.mountpoint),
            quote::path(&entry.source)
        ))),
    }
}

/// Without access: a mount that hangs is not asked.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn usable(handle: &OwnedFd) -> io::Result<Data> {
    let shown = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd()))?;
    let dir = SystemDisk.open_subdir(&Dir::from(handle.try_clone()?), ".".as_ref())?;
    Ok(Data { dir, shown })
}
