//! From a path to the directory and the name where a new version belongs.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf, is_separator};
use std::sync::Arc;

use crate::Durability;
use crate::disk::{Dir, Disk, Kind, Stat, SystemDisk};
use crate::stage::not_replaced;

/// As many symbolic links in a row as Linux follows.
const MAX_LINKS: usize = 40;

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
    /// durable as `durability` says when this returns.
    pub(crate) fn find(
        path: &Path,
        ensure_directory: bool,
        durability: Durability,
    ) -> io::Result<Target> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (parent, name) = split(&path)?;
            let dir = open_parent(parent, ensure_directory, durability)?;
            let old = SystemDisk.stat(&dir, name)?;
            match old.map(|old| old.kind) {
                None | Some(Kind::File) => {
                    return Ok(Target {
                        dir: Arc::new(dir),
                        name: name.to_owned(),
                        old,
                        path,
                    });
                }
                Some(Kind::Symlink) => {
                    refuse_special(&path)?;
                    // A relative link starts where it lies, not where the process is.
                    path = parent.join(fs::read_link(&path)?);
                }
                Some(kind) => return Err(not_replaced(kind)),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many symbolic links",
        ))
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

/// The directory and the last component. A path that can only be a directory's is
/// refused here, because [`Path`] takes "name/" and "name/." for "name".
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    if path.as_os_str().is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let text = path.as_os_str().to_string_lossy();
    let last = text.rsplit(is_separator).next().unwrap_or_default();
    let name = path
        .file_name()
        .filter(|_| !["", ".", ".."].contains(&last));
    let name = name.ok_or(io::ErrorKind::IsADirectory)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), name))
}

/// Links such as /dev/stdout lead to what has no path that could be followed.
fn refuse_special(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(known) if known.is_file() => Ok(()),
        Ok(known) if known.is_dir() => Err(not_replaced(Kind::Directory)),
        Ok(_) => Err(not_replaced(Kind::Other)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn open_parent(parent: &Path, ensure: bool, durability: Durability) -> io::Result<Dir> {
    match SystemDisk.open_dir(parent) {
        Err(error) if ensure && error.kind() == io::ErrorKind::NotFound => {
            make_directories(parent, durability)?;
            SystemDisk.open_dir(parent)
        }
        other => other,
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
