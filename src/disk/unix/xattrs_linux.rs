//! Extended attributes and ACLs of the file that is replaced.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::{Dir, Disk, FileId, SystemDisk};

const ACL: &CStr = c"system.posix_acl_access";

/// What holds for the old content only: the rights of a program, and sums over its bytes.
const NEVER_COPIED: [&CStr; 3] = [c"security.capability", c"security.ima", c"security.evm"];

pub(super) fn copy(dir: &Dir, name: &OsStr, id: FileId, to: &File) -> io::Result<()> {
    let named = named(dir, name)?;
    let is = |stat: rustix::fs::Stat| super::known(&stat).id == id;
    if !is(rustix::fs::fstat(&named)?) {
        return Err(Errno::STALE.into());
    }
    let mut source = Source::Named(path_of(&named));
    let names = match source.list() {
        // There is no /proc.
        Err(Errno::NOENT) => {
            let file = SystemDisk.open(dir, name, false)?;
            if !is(rustix::fs::fstat(&file)?) {
                return Err(Errno::STALE.into());
            }
            source = Source::File(file);
            source.list()
        }
        other => other,
    };
    copy_listed(&source, names, to)
}

/// The same for a file that is open.
pub(super) fn copy_of(from: &File, to: &File) -> io::Result<()> {
    let source = Source::File(from.try_clone()?);
    copy_listed(&source, source.list(), to)
}

fn copy_listed(source: &Source, names: Result<Vec<u8>, Errno>, to: &File) -> io::Result<()> {
    let names = match names {
        Ok(names) => names,
        Err(error) if is_left_out(error) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut has_acl = false;
    for attribute in names.split_inclusive(|byte| *byte == 0) {
        let Ok(attribute) = CStr::from_bytes_with_nul(attribute) else {
            continue;
        };
        has_acl |= attribute == ACL;
        if NEVER_COPIED.contains(&attribute) {
            continue;
        }
        match source
            .get(attribute)
            .and_then(|value| set(to, attribute, &value))
        {
            Err(error) if !is_left_out(error) => return Err(error.into()),
            _ => {}
        }
    }
    if !has_acl {
        remove_inherited_acl(to)?;
    }
    Ok(())
}

/// A descriptor that only names the file: it need not be allowed to read it.
fn named(dir: &Dir, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Where the attributes come from.
enum Source {
    /// By a descriptor that only names it: whoever may replace a file need not be allowed to read it.
    Named(PathBuf),
    File(File),
}

impl Source {
    /// The names, each ended by a zero byte.
    fn list(&self) -> Result<Vec<u8>, Errno> {
        grow(|buffer| match self {
            Source::Named(path) => rustix::fs::listxattr(path, buffer),
            Source::File(file) => rustix::fs::flistxattr(file, buffer),
        })
    }

    fn get(&self, attribute: &CStr) -> Result<Vec<u8>, Errno> {
        grow(|buffer| match self {
            Source::Named(path) => rustix::fs::getxattr(path, attribute, buffer),
            Source::File(file) => rustix::fs::fgetxattr(file, attribute, buffer),
        })
    }
}

/// Calls that take a descriptor refuse those that only name a file.
fn path_of(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// The ACL of a directory, where it has one and the file system knows them.
pub(super) fn acl_of_dir(dir: &Dir) -> io::Result<Option<Vec<u8>>> {
    match grow(|buffer| rustix::fs::getxattr(path_of(dir), ACL, buffer)) {
        Ok(acl) => Ok(Some(acl)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Calls again with a larger buffer while the kernel says that this one is too small. It allows 64 KiB.
fn grow(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match call(&mut small) {
        Err(Errno::RANGE) => {}
        Ok(len) => return Ok(small[..len].to_vec()),
        Err(error) => return Err(error),
    }
    let mut large = vec![0; 1 << 16];
    let len = call(&mut large)?;
    large.truncate(len);
    Ok(large)
}

fn set(to: &File, attribute: &CStr, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(to, attribute, value, XattrFlags::empty())
}

/// The default ACL of a directory goes to what is made in it; the file that is replaced had none.
fn remove_inherited_acl(to: &File) -> io::Result<()> {
    match rustix::fs::fremovexattr(to, ACL) {
        Err(error) if !is_left_out(error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// No support, no privilege, or removed by somebody since it was listed.
fn is_left_out(error: Errno) -> bool {
    [Errno::OPNOTSUPP, Errno::PERM, Errno::ACCESS, Errno::NODATA].contains(&error)
}

/// Gives the new lock file `file` the ACL of the document, or the one that it has inherited if there
/// is no document, with the right to read where that has the right to write.
pub(super) fn lock_acl(document: Option<(&Dir, &OsStr)>, file: &File) -> io::Result<()> {
    let acl = match document {
        Some((dir, name)) => named(dir, name)
            .and_then(|named| grow(|buffer| rustix::fs::getxattr(path_of(&named), ACL, buffer))),
        None => grow(|buffer| rustix::fs::fgetxattr(file, ACL, buffer)),
    };
    match acl {
        Ok(acl) => Ok(set(file, ACL, &writers_only(&acl))?),
        Err(_) if document.is_none() => Ok(()),
        Err(_) => remove_inherited_acl(file),
    }
}

/// An ACL as the kernel has it: a version of four bytes, then tag, rights and id of each entry.
fn writers_only(acl: &[u8]) -> Vec<u8> {
    const WRITE: u8 = 2;
    const LOCK: u8 = 6;
    const OWNER: u8 = 1;
    let mut acl = acl.to_vec();
    for entry in acl.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let may = entry[0] == OWNER || entry[2] & WRITE != 0;
        entry[2] = if may { LOCK } else { 0 };
    }
    acl
}
