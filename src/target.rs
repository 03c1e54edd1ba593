//! From a path to the directory and the name where a new version belongs.

#[cfg(not(target_os = "linux"))]
mod by_path;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Durability;
use crate::disk::{Dir, Disk, Kind, Stat, SystemDisk};
use crate::stage::not_replaced;

/// The place of a file, symbolic links followed.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) dir: Arc<Dir>,
    pub(crate) name: OsString,
    /// What is there now: a regular file or nothing.
    pub(crate) old: Option<Stat>,
    /// A path to it that does not end in a symbolic link.
    pub(crate) path: PathBuf,
}

impl Target {
    /// Finds where `path` leads: through symbolic links, relative and dangling ones, too.
    ///
    /// Missing directories are made if `ensure_directory` says so, and are as
    /// durable as `durability` says when this returns. A link of somebody else in a sticky
    /// directory that everybody may write is `PermissionDenied`; except on Linux only at the end of the path.
    pub(crate) fn find(
        path: &Path,
        ensure_directory: bool,
        durability: Durability,
    ) -> io::Result<Target> {
        #[cfg(target_os = "linux")]
        let found = match ensure_directory {
            true => crate::disk::find_or_make(path, durability),
            false => crate::disk::find(path),
        };
        #[cfg(target_os = "linux")]
        let (dir, name, path) = found.map(|found| (found.dir, found.name, found.path))?;
        #[cfg(not(target_os = "linux"))]
        let (dir, name, path) = by_path::find(path, ensure_directory, durability)?;
        let mut target = Target {
            dir: Arc::new(dir),
            name,
            old: None,
            path,
        };
        target.look_again()?;
        Ok(target)
    }

    /// Sees what is there now. A link or a directory that took the name is refused.
    pub(crate) fn look_again(&mut self) -> io::Result<()> {
        self.old = SystemDisk.stat(&self.dir, &self.name)?;
        match self.old.map(|old| old.kind) {
            None | Some(Kind::File) => Ok(()),
            Some(kind) => Err(not_replaced(kind)),
        }
    }
}

/// Makes the directory and those above it that are missing.
pub(crate) fn make_directories(path: &Path, durability: Durability) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    fs::create_dir_all(path)?;
    if durability == Durability::Full {
        for made in missing {
            let parent = made
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            SystemDisk.sync_dir(&SystemDisk.open_dir(parent.unwrap_or(Path::new(".")))?)?;
        }
    }
    Ok(())
}
