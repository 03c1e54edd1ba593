//! Extended attributes and ACLs of the file that is replaced.

use std::ffi::OsStr;
use std::fs::File;
use std::io;

use rustix::fs::{CopyfileFlags, copyfile_state_alloc, copyfile_state_free, fcopyfile};
use rustix::io::Errno;

use super::{Dir, Disk, FileId, SystemDisk};

pub(super) fn copy(dir: &Dir, name: &OsStr, id: FileId, to: &File) -> io::Result<()> {
    let from = match SystemDisk.open(dir, name, false) {
        Ok(from) => from,
        // Whoever may replace a file need not be allowed to read it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(error),
    };
    if SystemDisk.stat_file(&from)?.id != id {
        return Err(Errno::STALE.into());
    }
    let state = copyfile_state_alloc()?;
    // SAFETY: `state` was allocated above and is freed below, once.
    let copied = unsafe { fcopyfile(&from, to, state, CopyfileFlags::ACL | CopyfileFlags::XATTR) };
    // SAFETY: as above; nothing uses `state` afterwards.
    unsafe { copyfile_state_free(state) }?;
    match copied {
        Err(error)
            if [Errno::NOTSUP, Errno::OPNOTSUPP, Errno::PERM, Errno::ACCESS].contains(&error) =>
        {
            Ok(())
        }
        other => Ok(other?),
    }
}
