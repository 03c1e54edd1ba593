//! Where a path leads, asked of the system by path.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf, is_separator};

use super::make_directories;
use crate::Durability;
use crate::disk::{Dir, Disk, Kind, SystemDisk};
use crate::stage::not_replaced;

/// As many symbolic links in a row as Linux follows.
const MAX_LINKS: usize = 40;

/// The directory, the name in it, and a path to it that does not end in a symbolic link.
pub(super) fn find(
    path: &Path,
    ensure_directory: bool,
    durability: Durability,
) -> io::Result<(Dir, OsString, PathBuf)> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let (parent, name) = split(&path)?;
        let dir = open_parent(parent, ensure_directory, durability)?;
        match SystemDisk.stat(&dir, name)? {
            Some(link) if link.kind == Kind::Symlink => {
                refuse_special(&path)?;
                #[cfg(unix)]
                crate::disk::refuse_foreign_link(&path, &SystemDisk.stat_dir(&dir)?, &link)?;
                // A relative link starts where it lies, not where the process is.
                path = parent.join(fs::read_link(&path)?);
            }
            _ => return Ok((dir, name.to_owned(), path)),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "too many symbolic links",
    ))
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
