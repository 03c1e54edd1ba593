//! The lock file beside a document: it gives the right to lock to those who may write the document.
//!
//! Who may read a file may lock it (flock(2)), and with a lock keep every writer waiting. So a lock file has
//! read bits, and entries of its ACL, only where the document can be written.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Dir, Disk, SystemDisk, component, permissions};
use crate::disk::{Kind, Ownership, Stat};

/// How often it is looked for again when others make and remove it meanwhile.
const TRIES: usize = 64;

/// The permission bits of the lock file of a document that has the bits `document`.
///
/// The owner always has his: he may give himself the right to write.
pub fn document_lock_mode(document: u32) -> u32 {
    let write = document & 0o222;
    write | write << 1 | 0o600
}

/// Whom a lock file, if it has to be made, is to give the right to lock.
#[derive(Clone, Copy, Debug)]
pub enum LockRights<'a> {
    /// Whoever the umask lets: it is the lock of no file.
    AsMade,
    /// Whoever might write a document that has yet to be made.
    NewDocument,
    /// Whoever may write this file of the same directory.
    Document(&'a OsStr, &'a Stat),
}

/// Opens the lock file `name` in `dir`, after making it where it is missing; for reading only, if it can be
/// locked so.
///
/// A symbolic link is followed if it may be, see [`find_in`](super::find_in).
///
/// # Errors
/// `InvalidInput` for what is no regular file, `PermissionDenied` for the file of a stranger in a sticky
/// directory: he could keep everybody from the document who may write it.
pub fn open_lock_in(
    dir: &Dir,
    name: &OsStr,
    rights: LockRights<'_>,
    writable: bool,
) -> io::Result<File> {
    for _ in 0..TRIES {
        #[cfg(target_os = "linux")]
        let found = super::find_in(dir, Path::new(name))?;
        #[cfg(target_os = "linux")]
        let (place, name) = (&found.dir, found.name.as_os_str());
        #[cfg(not(target_os = "linux"))]
        let place = dir;
        match open(place, name, OFlags::empty(), 0, writable) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(file) => {
                refuse_stranger(&file, place, rights)?;
                return Ok(file);
            }
            Err(error) => return Err(error),
        }
        match make(place, name, dir, rights) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn open(dir: &Dir, name: &OsStr, extra: OFlags, mode: u32, writable: bool) -> io::Result<File> {
    let access = if writable {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    // NONBLOCK: a FIFO would hang the open.
    let flags =
        access | extra | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::io::retry_on_intr(|| {
        rustix::fs::openat(dir, component(name), flags, permissions(mode))
    });
    let file = match opened {
        Ok(file) => File::from(file),
        // A socket, or a device without a driver.
        Err(Errno::NXIO | Errno::NODEV) => return Err(crate::stage::not_replaced(Kind::Other)),
        Err(error) => return Err(error.into()),
    };
    match SystemDisk.stat_file(&file)?.kind {
        Kind::File => Ok(file),
        kind => Err(crate::stage::not_replaced(kind)),
    }
}

fn refuse_stranger(file: &File, dir: &Dir, rights: LockRights<'_>) -> io::Result<()> {
    let (known, above) = (SystemDisk.stat_file(file)?, SystemDisk.stat_dir(dir)?);
    let user = rustix::process::geteuid().as_raw();
    let is_shared = above.mode & 0o1000 != 0 && above.mode & 0o022 != 0;
    let is_known = [0, user, above.uid].contains(&known.uid)
        || matches!(rights, LockRights::Document(_, document) if document.uid == known.uid);
    if !is_shared || is_known {
        return Ok(());
    }
    let text = format!(
        "the lock file is of user {}, a stranger in this sticky directory: it does not count",
        known.uid
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Makes the lock file with its final rights, so that nobody ever finds it with others.
fn make(place: &Dir, name: &OsStr, dir: &Dir, rights: LockRights<'_>) -> io::Result<()> {
    let mode = match rights {
        LockRights::AsMade => return open(place, name, OFlags::CREATE, 0o666, false).map(drop),
        LockRights::NewDocument => 0o666,
        LockRights::Document(_, known) => document_lock_mode(known.mode),
    };
    if let Some(file) = SystemDisk.create_unnamed(place, 0o222)? {
        give_rights(&file, dir, rights)?;
        return SystemDisk.link(&file, place, name);
    }
    // Not O_EXCL, which has a meaning of its own in a mount.
    let file = open(place, name, OFlags::CREATE, mode, false)?;
    let known = SystemDisk.stat_file(&file)?;
    let is_new = known.len == 0 && known.uid == rustix::process::geteuid().as_raw();
    match is_new {
        true => give_rights(&file, dir, rights),
        false => Ok(()),
    }
}

fn give_rights(file: &File, dir: &Dir, rights: LockRights<'_>) -> io::Result<()> {
    let neither = Ownership {
        uid: None,
        gid: None,
    };
    let own = SystemDisk.stat_file(file)?;
    let LockRights::Document(name, known) = rights else {
        SystemDisk.set_ownership(file, neither, document_lock_mode(own.mode))?;
        return lock_acl(None, file);
    };
    let mode = document_lock_mode(known.mode);
    let is_root = rustix::process::geteuid().is_root();
    let owner = Ownership {
        uid: (is_root && known.uid != own.uid).then_some(known.uid),
        gid: (known.gid != own.gid).then_some(known.gid),
    };
    match SystemDisk.set_ownership(file, owner, mode) {
        // Its own group gets no more than everybody.
        Err(error)
            if [io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidInput]
                .contains(&error.kind()) =>
        {
            let mode = mode & !0o070 | (mode & 0o007) << 3;
            SystemDisk.set_ownership(file, neither, mode)?;
        }
        other => other?,
    }
    lock_acl(Some((dir, name)), file)
}

#[cfg(target_os = "linux")]
fn lock_acl(document: Option<(&Dir, &OsStr)>, file: &File) -> io::Result<()> {
    super::xattrs::lock_acl(document, file)
}

#[cfg(not(target_os = "linux"))]
fn lock_acl(_document: Option<(&Dir, &OsStr)>, _file: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_write_may_lock() {
        for (document, lock) in [
            (0o644, 0o600),
            (0o664, 0o660),
            (0o666, 0o666),
            (0o600, 0o600),
            (0o444, 0o600),
            (0o602, 0o606),
            (0o6755, 0o600),
        ] {
            assert_eq!(document_lock_mode(document), lock, "{document:o}");
        }
    }
}
