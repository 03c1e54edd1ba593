//! The seam between polystore and a file system.
//!
//! Everything that polystore does to a disk on the way to a new version of a
//! file goes through [`Disk`]: create, write, wait, link, rename, remove, lock.
//! [`SystemDisk`] is the computer's own; tests put a simulated disk in its
//! place, whose unsynced writes survive, vanish or are torn.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::{Dir, SystemDisk};
#[cfg(windows)]
pub use windows::{Dir, SystemDisk};

mod release;

pub(crate) use release::ReleaseWatch;
#[cfg(target_os = "linux")]
pub(crate) use unix::find_or_make;
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) use unix::refuse_foreign_link;
#[cfg(target_os = "linux")]
pub use unix::{Found, copy_attributes, find, find_in, find_unfollowed};
#[cfg(unix)]
pub use unix::{
    LockRights, document_lock_mode, give_lock_rights, id_at, id_in, open_lock, open_lock_in,
};
#[cfg(unix)]
pub(crate) use unix::{needs_writable, unlock};
#[cfg(windows)]
pub use windows::{id_at, open_lock};
#[cfg(windows)]
pub(crate) use windows::{needs_writable, unlock};

/// What tells one file of a disk from all others while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The file system (`st_dev`; on Windows the volume's serial number).
    pub device: u64,
    /// The file within it (`st_ino`; on Windows the file index).
    pub inode: u64,
}

/// What sort of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device.
    Other,
}

/// What a [`Disk`] knows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which file it is.
    pub id: FileId,
    /// What sort of thing it is.
    pub kind: Kind,
    /// Length in bytes.
    pub len: u64,
    /// Number of hard links.
    pub links: u64,
    /// Permission bits, `0o7777` (on Windows made up from the read-only attribute).
    pub mode: u32,
    /// Owner (0 on Windows).
    pub uid: u32,
    /// Group (0 on Windows).
    pub gid: u32,
}

/// Whose a new file is to be and which permission bits it gets, before it has any content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Owner, `None` to leave what the file was created with.
    pub uid: Option<u32>,
    /// Group, `None` to leave what the file was created with.
    pub gid: Option<u32>,
}

/// The operations that a new version of a file needs.
///
/// A name is one path component, never a path, and symbolic links are not
/// followed. Errors are the system's own (`raw_os_error` is kept).
pub trait Disk: Send + Sync + 'static {
    /// An open directory. It stays the same directory when it is renamed.
    type Dir: Send + Sync + 'static;
    /// A file that is open for reading and writing.
    type File: Send + Sync + 'static;

    /// Opens a directory by path, following symbolic links.
    fn open_dir(&self, path: &Path) -> io::Result<Self::Dir>;
    /// Opens the directory `name` in `dir`.
    fn open_subdir(&self, dir: &Self::Dir, name: &OsStr) -> io::Result<Self::Dir>;
    /// Makes the directory `name` in `dir`, with permission bits `mode`.
    fn make_dir(&self, dir: &Self::Dir, name: &OsStr, mode: u32) -> io::Result<()>;
    /// Removes the empty directory `name`.
    fn remove_dir(&self, dir: &Self::Dir, name: &OsStr) -> io::Result<()>;
    /// The names in `dir`, without `.` and `..`, in no order.
    fn list(&self, dir: &Self::Dir) -> io::Result<Vec<std::ffi::OsString>>;

    /// How many bytes the file system of `dir` has left for this process; `None` if that is not known.
    fn available(&self, _dir: &Self::Dir) -> Option<u64> {
        None
    }

    /// What `name` stands for; `None` where there is no such name.
    fn stat(&self, dir: &Self::Dir, name: &OsStr) -> io::Result<Option<Stat>>;
    /// What is known of an open file.
    fn stat_file(&self, file: &Self::File) -> io::Result<Stat>;
    /// What is known of an open directory.
    fn stat_dir(&self, dir: &Self::Dir) -> io::Result<Stat>;

    /// Creates a file that has no name yet, in the file system of `dir` and with
    /// what a file made in `dir` inherits (default ACL, setgid, labels).
    /// `None` where the system or the file system cannot. It vanishes with its last descriptor.
    fn create_unnamed(&self, dir: &Self::Dir, mode: u32) -> io::Result<Option<Self::File>>;
    /// Creates `name`, which must not exist, open for reading and writing.
    fn create_new(&self, dir: &Self::Dir, name: &OsStr, mode: u32) -> io::Result<Self::File>;
    /// Opens an existing regular file; for writing, too, if `writable`.
    fn open(&self, dir: &Self::Dir, name: &OsStr, writable: bool) -> io::Result<Self::File>;
    /// Gives an open file the name `name`, which must not exist.
    fn link(&self, file: &Self::File, dir: &Self::Dir, name: &OsStr) -> io::Result<()>;
    /// Renames in one step. `replace` says whether an existing `to` may be replaced;
    /// where it may not, an existing name is `AlreadyExists`.
    fn rename(
        &self,
        from_dir: &Self::Dir,
        from: &OsStr,
        to_dir: &Self::Dir,
        to: &OsStr,
        replace: bool,
    ) -> io::Result<()>;
    /// Removes a name that is not a directory's.
    fn remove(&self, dir: &Self::Dir, name: &OsStr) -> io::Result<()>;

    /// Reads at `offset`; 0 at the end of the file.
    fn read_at(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may write less than asked.
    fn write_at(&self, file: &Self::File, data: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts or extends the file.
    fn set_len(&self, file: &Self::File, len: u64) -> io::Result<()>;
    /// Gives back the space that the content of `file` takes. The content is lost; the length may stay, so that
    /// it is still a file of that length to those who have it mapped.
    fn drop_content(&self, file: &Self::File) -> io::Result<()> {
        self.set_len(file, 0)
    }
    /// Sets owner and group, then the permission bits.
    fn set_ownership(&self, file: &Self::File, owner: Ownership, mode: u32) -> io::Result<()>;
    /// Gives `to` the extended attributes and ACLs of `name`, which must be the file `id` (what cannot be
    /// copied for lack of privilege or support is left out; capabilities are never copied). Where `name`
    /// stands for another file by now, whose attributes may be nobody's business: `StaleNetworkFileHandle`.
    fn copy_xattrs(
        &self,
        dir: &Self::Dir,
        name: &OsStr,
        id: FileId,
        to: &Self::File,
    ) -> io::Result<()>;

    /// Gives the empty file `to` the first `len` bytes of `from`, or all there are, by reference
    /// where the file system can; holes stay holes where it can tell them.
    fn copy_content(&self, from: &Self::File, to: &Self::File, len: u64) -> io::Result<()> {
        copy_bytes(self, from, to, 0, len)
    }

    /// Has the disk begin to write out what stands between two offsets, so that a later wait is
    /// short. Only a hint: errors come with that wait.
    fn start_writing(&self, _file: &Self::File, _from: u64, _to: u64) {}
    /// Returns when the content of `file` is on the disk, so that a rename that follows cannot
    /// become durable before it ([`Durability::Ordered`](crate::Durability::Ordered)).
    fn wait_for_data(&self, file: &Self::File) -> io::Result<()>;
    /// Returns when content and length of `file` are durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Returns when the names in `dir` are durable.
    fn sync_dir(&self, dir: &Self::Dir) -> io::Result<()>;

    /// Whether the credentials of the calling thread allow to make and remove names in `dir`.
    fn may_change_names(&self, dir: &Self::Dir) -> io::Result<bool>;
    /// The ACL of `dir` as the system stores it (`system.posix_acl_access`), where it has one.
    fn acl_of_dir(&self, _dir: &Self::Dir) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Tries to lock the whole file against all other open descriptions of it; `false` if somebody holds it.
    fn try_lock(&self, file: &Self::File, exclusive: bool) -> io::Result<bool>;
}

/// Copies what stands between `offset` and `end`, or the end of the file, to the same offsets of `to`.
pub(crate) fn copy_bytes<D: Disk + ?Sized>(
    disk: &D,
    from: &D::File,
    to: &D::File,
    mut offset: u64,
    end: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while offset < end {
        let wanted =
            usize::try_from(end - offset).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = disk.read_at(from, &mut buffer[..wanted], offset)?;
        if read == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < read {
            match disk.write_at(to, &buffer[written..read], offset + written as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => written += count,
            }
        }
        offset += read as u64;
    }
    Ok(())
}
