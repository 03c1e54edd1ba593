//! The computer's own file systems, on Linux, macOS and other Unixes.

#[cfg(target_os = "linux")]
mod copy;
mod data;
mod document_lock;
#[cfg(target_os = "linux")]
mod journal;
#[cfg(target_os = "linux")]
mod walk;
#[cfg(target_os = "linux")]
#[path = "unix/xattrs_linux.rs"]
mod xattrs;
#[cfg(target_vendor = "apple")]
#[path = "unix/xattrs_apple.rs"]
mod xattrs;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, RawMode, Uid};
use rustix::io::Errno;

use super::{Disk, FileId, Kind, Ownership, Stat};

pub use document_lock::{LockRights, document_lock_mode, give_lock_rights, open_lock_in};
#[cfg(target_os = "linux")]
pub(crate) use walk::find_or_make;
#[cfg(target_os = "linux")]
pub use walk::{Found, find, find_in, find_unfollowed};

/// The computer's own file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Dir {
        Dir(fd)
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> OwnedFd {
        dir.0
    }
}

impl Disk for SystemDisk {
    type Dir = Dir;
    type File = File;

    fn open_dir(&self, path: &Path) -> io::Result<Dir> {
        open_directory(rustix::fs::CWD, path.as_os_str(), OFlags::empty())
    }

    fn open_subdir(&self, dir: &Dir, name: &OsStr) -> io::Result<Dir> {
        open_directory(dir.as_fd(), component(name), OFlags::NOFOLLOW)
    }

    fn make_dir(&self, dir: &Dir, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(
            dir,
            component(name),
            permissions(mode),
        )?)
    }

    fn remove_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            dir,
            component(name),
            AtFlags::REMOVEDIR,
        )?)
    }

    fn list(&self, dir: &Dir) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    // The fields have other widths on other systems.
    #[allow(clippy::unnecessary_cast)]
    fn available(&self, dir: &Dir) -> Option<u64> {
        let there = rustix::fs::fstatvfs(dir).ok()?;
        // Without an inode the blocks are of no use. Some file systems do not count inodes.
        let usable = there.f_files == 0 || there.f_favail > 0;
        let blocks = if usable { there.f_bavail as u64 } else { 0 };
        Some(blocks.saturating_mul(there.f_frsize as u64))
    }

    fn stat(&self, dir: &Dir, name: &OsStr) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(dir, component(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(known(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn stat_file(&self, file: &File) -> io::Result<Stat> {
        Ok(known(&rustix::fs::fstat(file)?))
    }

    fn stat_dir(&self, dir: &Dir) -> io::Result<Stat> {
        Ok(known(&rustix::fs::fstat(dir)?))
    }

    #[cfg(target_os = "linux")]
    fn create_unnamed(&self, dir: &Dir, mode: u32) -> io::Result<Option<File>> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, ".", flags, permissions(mode)) {
            Ok(fd) => Ok(Some(File::from(fd))),
            // EOPNOTSUPP: the file system cannot. EISDIR, EINVAL: a kernel or a
            // network file system that does not know the flag.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn create_unnamed(&self, _dir: &Dir, _mode: u32) -> io::Result<Option<File>> {
        Ok(None)
    }

    fn create_new(&self, dir: &Dir, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, component(name), flags, permissions(mode))?;
        Ok(File::from(fd))
    }

    fn open(&self, dir: &Dir, name: &OsStr, writable: bool) -> io::Result<File> {
        let access = if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        // NONBLOCK: a FIFO that took the name since the caller looked must not hang the open.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, component(name), flags, Mode::empty())?;
        match known(&rustix::fs::fstat(&fd)?).kind {
            Kind::File => Ok(File::from(fd)),
            Kind::Directory => Err(Errno::ISDIR.into()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            )),
        }
    }

    #[cfg(target_os = "linux")]
    fn link(&self, file: &File, dir: &Dir, name: &OsStr) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        let name = component(name);
        match rustix::fs::linkat(rustix::fs::CWD, &source, dir, name, AtFlags::SYMLINK_FOLLOW) {
            // Without /proc; newer kernels allow this to whoever opened the file.
            Err(Errno::NOENT) => rustix::fs::linkat(file, "", dir, name, AtFlags::EMPTY_PATH)?,
            other => other?,
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn link(&self, _file: &File, _dir: &Dir, _name: &OsStr) -> io::Result<()> {
        // Unnamed files are not made here, and a named one is renamed.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn rename(
        &self,
        from_dir: &Dir,
        from: &OsStr,
        to_dir: &Dir,
        to: &OsStr,
        replace: bool,
    ) -> io::Result<()> {
        let (from, to) = (component(from), component(to));
        if replace {
            Ok(rustix::fs::renameat(from_dir, from, to_dir, to)?)
        } else {
            rename_to_new_name(from_dir, from, to_dir, to)
        }
    }

    fn remove(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            dir,
            component(name),
            AtFlags::empty(),
        )?)
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        retry(|| file.read_at(buffer, offset))
    }

    fn write_at(&self, file: &File, data: &[u8], offset: u64) -> io::Result<usize> {
        retry(|| file.write_at(data, offset))
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    #[cfg(target_os = "linux")]
    fn drop_content(&self, file: &File) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        let len = file.metadata()?.len();
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if len == 0 || rustix::fs::fallocate(file, hole, 0, len).is_err() {
            return file.set_len(0);
        }
        file.set_len(len) // What is reserved behind the end goes, too.
    }

    #[cfg(target_os = "linux")]
    fn copy_content(&self, from: &File, to: &File, len: u64) -> io::Result<()> {
        copy::content(from, to, len)
    }

    fn set_ownership(&self, file: &File, owner: Ownership, mode: u32) -> io::Result<()> {
        if owner.uid.is_some() || owner.gid.is_some() {
            let (uid, gid) = (owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw));
            rustix::fs::fchown(file, uid, gid)?;
        }
        Ok(rustix::fs::fchmod(file, permissions(mode))?)
    }

    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    fn copy_xattrs(&self, dir: &Dir, name: &OsStr, id: FileId, to: &File) -> io::Result<()> {
        xattrs::copy(dir, component(name), id, to)
    }

    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    fn copy_xattrs(&self, _dir: &Dir, _name: &OsStr, _id: FileId, _to: &File) -> io::Result<()> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn start_writing(&self, file: &File, from: u64, to: u64) {
        data::start_writing(file, from, to);
    }

    fn wait_for_data(&self, file: &File) -> io::Result<()> {
        data::wait(file)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        data::sync(file.as_fd())
    }

    fn sync_dir(&self, dir: &Dir) -> io::Result<()> {
        match data::sync(dir.as_fd()) {
            // EINVAL: the file system has no such operation for its directories (fsync(2); seen on
            // CIFS before Linux 4.17, VirtualBox shared folders, hostfs). There is no other call
            // that would do more. Any other error is one.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            #[cfg(target_os = "linux")]
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BADF) => {
                // Opened without the right to read it: only a file in it leads to its file system.
                let file = self.create_unnamed(dir, 0o600)?.ok_or(error)?;
                Ok(rustix::fs::syncfs(file)?)
            }
            other => other,
        }
    }

    fn may_change_names(&self, dir: &Dir) -> io::Result<bool> {
        use rustix::fs::Access;
        // AT_EACCESS: those who act, not those who started this process.
        let how = Access::WRITE_OK | Access::EXEC_OK;
        match rustix::fs::accessat(dir, ".", how, AtFlags::EACCESS) {
            Ok(()) => Ok(true),
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(target_os = "linux")]
    fn acl_of_dir(&self, dir: &Dir) -> io::Result<Option<Vec<u8>>> {
        xattrs::acl_of_dir(dir)
    }

    fn try_lock(&self, file: &File, exclusive: bool) -> io::Result<bool> {
        let operation = if exclusive {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        match rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation)) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Opens or makes a lock file, following symbolic links. For reading only if it can be locked so:
/// whoever may read it may take a turn, and to open it for writing has a meaning of its own in a mount.
pub fn open_lock(path: &Path, writable: bool) -> io::Result<File> {
    let access = if writable {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    // NONBLOCK: a FIFO would hang the open.
    let flags = access | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, permissions(0o666))) {
        // Linux forbids O_CREAT on others' files in sticky directories (fs.protected_regular).
        Err(Errno::ACCESS) => {
            let flags = flags.difference(OFlags::CREATE);
            Ok(File::from(
                rustix::fs::open(path, flags, Mode::empty()).map_err(|_| Errno::ACCESS)?,
            ))
        }
        other => Ok(File::from(other?)),
    }
}

/// Whether `try_lock` failed for want of a writable descriptor.
pub(crate) fn needs_writable(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::BADF)
}

/// Which file a path leads to, if to any.
pub fn id_at(path: &Path) -> io::Result<Option<FileId>> {
    match rustix::fs::stat(path) {
        Ok(stat) => Ok(Some(known(&stat).id)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Which file `name` in `dir` leads to, if to any.
pub fn id_in(dir: &Dir, name: &OsStr) -> io::Result<Option<FileId>> {
    match rustix::fs::statat(dir, component(name), AtFlags::empty()) {
        Ok(stat) => Ok(Some(known(&stat).id)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives `to` the extended attributes and ACLs of an open file, as [`Disk::copy_xattrs`] does.
#[cfg(target_os = "linux")]
pub fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    xattrs::copy_of(from, to)
}

/// Gives up a lock, also for other processes that were forked while it was held.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| {
        rustix::fs::flock(file, FlockOperation::Unlock)
    })?)
}

/// Fails with `PermissionDenied` if the symbolic link at `path` must not be followed.
///
/// The rule is that of Linux' `fs.protected_symlinks`, whatever that is set to: in a sticky directory
/// that everybody may write, a link is followed only if it belongs to the follower or to the
/// owner of the directory. Anybody else could have put it there to lead the follower elsewhere.
pub(crate) fn refuse_foreign_link(path: &Path, dir: &Stat, link: &Stat) -> io::Result<()> {
    const STICKY_FOR_ALL: u32 = 0o1002;
    let user = rustix::process::geteuid().as_raw();
    if dir.mode & STICKY_FOR_ALL != STICKY_FOR_ALL || [user, dir.uid].contains(&link.uid) {
        return Ok(());
    }
    let text = format!(
        "{} is a symbolic link of user {} in a sticky directory that everybody may write: not followed",
        path.display(),
        link.uid
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn open_directory(base: impl AsFd, name: &OsStr, extra: OFlags) -> io::Result<Dir> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | extra;
    let opened = rustix::fs::openat(base.as_fd(), name, flags | OFlags::RDONLY, Mode::empty());
    // A directory that one may search and write but not list: good for all but `list`.
    #[cfg(target_os = "linux")]
    let opened = match opened {
        Err(Errno::ACCESS) => rustix::fs::openat(base, name, flags | OFlags::PATH, Mode::empty()),
        other => other,
    };
    Ok(Dir(opened?))
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn rename_to_new_name(from_dir: &Dir, from: &OsStr, to_dir: &Dir, to: &OsStr) -> io::Result<()> {
    use rustix::fs::RenameFlags;
    match rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE) {
        // File systems that know no flags (EINVAL, ENOTSUP), kernels without the call (ENOSYS).
        Err(error)
            if [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP].contains(&error) =>
        {
            link_then_remove(from_dir, from, to_dir, to)
        }
        other => Ok(other?),
    }
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn rename_to_new_name(from_dir: &Dir, from: &OsStr, to_dir: &Dir, to: &OsStr) -> io::Result<()> {
    link_then_remove(from_dir, from, to_dir, to)
}

/// A rename that cannot replace, out of two calls: link(2) fails where the name exists.
/// Not for directories, which cannot be linked (EPERM).
fn link_then_remove(from_dir: &Dir, from: &OsStr, to_dir: &Dir, to: &OsStr) -> io::Result<()> {
    rustix::fs::linkat(from_dir, from, to_dir, to, AtFlags::empty())?;
    Ok(rustix::fs::unlinkat(from_dir, from, AtFlags::empty())?)
}

/// The seam takes one component at a time: a slash would leave the directory.
fn component(name: &OsStr) -> &OsStr {
    debug_assert!(
        !name.as_bytes().contains(&b'/'),
        "{name:?} is a path, not a name"
    );
    name
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode as RawMode & 0o7777)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

// The fields of `stat` have other widths, and other signs, on other systems.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn known(stat: &rustix::fs::Stat) -> Stat {
    Stat {
        id: FileId {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
        },
        kind: match FileType::from_raw_mode(stat.st_mode as RawMode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            _ => Kind::Other,
        },
        len: stat.st_size as u64,
        links: stat.st_nlink as u64,
        mode: stat.st_mode as u32 & 0o7777,
        uid: stat.st_uid as u32,
        gid: stat.st_gid as u32,
    }
}
