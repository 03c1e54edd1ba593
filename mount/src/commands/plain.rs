//! Writing in a directory that is not mounted.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};

use polystore::disk::{Disk, SystemDisk};
use polystore::{AtomicFile, AtomicWriteOptions};
use rustix::fs::{Access, AtFlags, FallocateFlags};

use super::place::Spot;

/// The old content of a file that is written in place is put back after a failure, up to this size.
const PUT_BACK: u64 = 16 << 20;

const STICKY: u32 = 0o1000;

/// How a file gets a new content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By another file that takes its place.
    Replaced,
    /// By writing it itself, which another would break: a lock file, one with several names, one whose
    /// owner could not be kept, or whose directory this user may not change.
    InPlace,
}

/// How the file at `spot` is to get a new content.
///
/// # Errors
/// This user may not write it, as anywhere.
pub fn way(spot: &Spot) -> io::Result<Way> {
    if spot.is_lock() {
        return Ok(Way::InPlace);
    }
    let Some(known) = spot.known()? else {
        return Ok(Way::Replaced);
    };
    let may =
        |name: &OsStr, access| rustix::fs::accessat(&*spot.handle, name, access, AtFlags::EACCESS);
    may(&spot.name, Access::WRITE_OK)?;
    let user = rustix::process::geteuid();
    let dir = SystemDisk.stat_dir(&spot.handle)?;
    let owned = user.is_root() || known.uid == user.as_raw();
    let sticky = dir.mode & STICKY != 0 && !owned && dir.uid != user.as_raw();
    let replaceable = owned
        && !sticky
        && known.links == 1
        && may(OsStr::new("."), Access::WRITE_OK | Access::EXEC_OK).is_ok();
    Ok(match replaceable {
        true => Way::Replaced,
        false => Way::InPlace,
    })
}

/// Starts a new version of the file at `spot`. A directory that is missing is an error.
pub fn stage(spot: &Spot) -> io::Result<AtomicFile> {
    let options = AtomicWriteOptions::new().ensure_directory(false);
    AtomicFile::open(spot.path(), &options)
}

/// Gives the file at `spot`, whose turn must be held, this content.
pub fn replace(spot: &Spot, content: &[u8]) -> io::Result<()> {
    if way(spot)? == Way::InPlace {
        let len = content.len() as u64;
        return write_in_place(spot, &mut &content[..], len);
    }
    let mut file = stage(spot)?;
    file.write_all(content)?;
    file.commit()
}

/// Writes the file at `spot` itself, with the `len` bytes of `content`. Where the disk is full it stays
/// as it was.
pub fn write_in_place(spot: &Spot, content: &mut dyn Read, len: u64) -> io::Result<()> {
    let mut file = open_to_write(spot)?;
    let mut old = Vec::new();
    let small = file.metadata()?.len() <= PUT_BACK;
    if small {
        file.read_to_end(&mut old)?;
    }
    reserve(&file, len)?;
    let written = write_over(&mut file, content);
    if written.is_err() && small {
        // Its blocks are its own; if this fails as well, the first failure says more.
        let _ = write_over(&mut file, &mut &old[..]);
    }
    written
}

fn open_to_write(spot: &Spot) -> io::Result<File> {
    match SystemDisk.open(&spot.handle, &spot.name, true) {
        // Only where it is missing: Linux may refuse O_CREAT for others' files in sticky directories.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            SystemDisk.create_new(&spot.handle, &spot.name, 0o666)
        }
        opened => opened,
    }
}

fn write_over(file: &mut File, content: &mut dyn Read) -> io::Result<()> {
    file.rewind()?;
    let written = io::copy(content, file)?;
    file.set_len(written)?;
    file.sync_data()
}

/// Takes the room before anything is written over.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, len) {
        // Some file systems cannot.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lock_files_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let spot = |name: &str| Spot::of(&root.join(name)).unwrap();
        std::fs::write(root.join("one"), "old and long").unwrap();
        std::fs::hard_link(root.join("one"), root.join("two")).unwrap();
        std::fs::write(root.join("single"), "old").unwrap();
        assert_eq!(way(&spot("one")).unwrap(), Way::InPlace);
        assert_eq!(way(&spot("x.lock")).unwrap(), Way::InPlace);
        assert_eq!(way(&spot("single")).unwrap(), Way::Replaced);
        assert_eq!(way(&spot("none")).unwrap(), Way::Replaced);
        for name in ["one", "single", "none", "x.lock"] {
            replace(&spot(name), b"new").unwrap();
            assert_eq!(std::fs::read(root.join(name)).unwrap(), b"new");
        }
        assert_eq!(std::fs::read(root.join("two")).unwrap(), b"new");
    }
}
