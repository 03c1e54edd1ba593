//! The computer's own file systems, on Windows.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::time::Duration;

use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_READONLY,
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    FILE_SHARE_READ, FILE_SHARE_WRITE, GetFileInformationByHandle,
};

use super::{Disk, FileId, Kind, Ownership, Stat};

/// How long a call is tried again while a virus scanner or an indexer has the file open.
const PATIENCE: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// The computer's own file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

/// An open directory.
///
/// The handle does not share deletion, so that the directory can be neither
/// renamed nor removed while this lives, and the path stays true.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    handle: File,
}

impl Dir {
    fn open(path: PathBuf) -> io::Result<Dir> {
        let handle = OpenOptions::new()
            .read(true)
            .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
            .open(&path)?;
        match known(&handle)?.kind {
            Kind::Directory => Ok(Dir { path, handle }),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn join(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }
}

impl Disk for SystemDisk {
    type Dir = Dir;
    type File = File;

    fn open_dir(&self, path: &Path) -> io::Result<Dir> {
        // The working directory may change while the handle lives; the path must not mean another one then.
        Dir::open(fs::canonicalize(path)?)
    }

    fn open_subdir(&self, dir: &Dir, name: &OsStr) -> io::Result<Dir> {
        let path = dir.join(name);
        if fs::symlink_metadata(&path)?.file_type().is_symlink() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Dir::open(path)
    }

    fn make_dir(&self, dir: &Dir, name: &OsStr, _mode: u32) -> io::Result<()> {
        fs::create_dir(dir.join(name))
    }

    fn remove_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        patiently(|| fs::remove_dir(dir.join(name)))
    }

    fn list(&self, dir: &Dir) -> io::Result<Vec<OsString>> {
        fs::read_dir(&dir.path)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    fn stat(&self, dir: &Dir, name: &OsStr) -> io::Result<Option<Stat>> {
        // No access right is asked for, so that no sharing mode stands in the way.
        let opened = OpenOptions::new()
            .access_mode(0)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
            .open(dir.join(name));
        match opened {
            Ok(file) => known(&file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn stat_file(&self, file: &File) -> io::Result<Stat> {
        known(file)
    }

    fn stat_dir(&self, dir: &Dir) -> io::Result<Stat> {
        known(&dir.handle)
    }

    fn create_unnamed(&self, _dir: &Dir, _mode: u32) -> io::Result<Option<File>> {
        Ok(None)
    }

    fn create_new(&self, dir: &Dir, name: &OsStr, _mode: u32) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.join(name))
    }

    fn open(&self, dir: &Dir, name: &OsStr, writable: bool) -> io::Result<File> {
        let file = patiently(|| {
            OpenOptions::new()
                .read(true)
                .write(writable)
                .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
                .open(dir.join(name))
        })?;
        match known(&file)?.kind {
            Kind::File => Ok(file),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            )),
        }
    }

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
        let (from, to) = (from_dir.join(from), to_dir.join(to));
        if replace {
            return patiently(|| fs::rename(&from, &to));
        }
        // A hard link is never made over an existing name.
        patiently(|| fs::hard_link(&from, &to))?;
        patiently(|| fs::remove_file(&from))
    }

    fn remove(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        patiently(|| fs::remove_file(dir.join(name)))
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        file.seek_read(buffer, offset)
    }

    fn write_at(&self, file: &File, data: &[u8], offset: u64) -> io::Result<usize> {
        file.seek_write(data, offset)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn set_ownership(&self, file: &File, _owner: Ownership, mode: u32) -> io::Result<()> {
        // All that a mode can say here is whether the file may be written.
        let mut permissions = file.metadata()?.permissions();
        permissions.set_readonly(mode & 0o200 == 0);
        file.set_permissions(permissions)
    }

    fn copy_xattrs(&self, _dir: &Dir, _name: &OsStr, _id: FileId, _to: &File) -> io::Result<()> {
        Ok(())
    }

    fn may_change_names(&self, _dir: &Dir) -> io::Result<bool> {
        // Access control lists are asked by the call itself.
        Ok(true)
    }

    fn wait_for_data(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_dir(&self, dir: &Dir) -> io::Result<()> {
        // FlushFileBuffers wants the right to write, which not every file system gives for a directory.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
            .open(&dir.path);
        match opened.and_then(|directory| directory.sync_all()) {
            Err(error)
                if [io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidInput]
                    .contains(&error.kind()) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn try_lock(&self, file: &File, exclusive: bool) -> io::Result<bool> {
        let attempt = if exclusive {
            fs4::FileExt::try_lock(file)
        } else {
            fs4::FileExt::try_lock_shared(file)
        };
        match attempt {
            Ok(()) => Ok(true),
            Err(fs4::TryLockError::WouldBlock) => Ok(false),
            Err(fs4::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Opens or makes a lock file. LockFileEx is content with either access.
pub fn open_lock(path: &Path, _writable: bool) -> io::Result<File> {
    patiently(|| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    })
}

/// Whether `try_lock` failed for want of a writable descriptor.
pub(crate) fn needs_writable(_error: &io::Error) -> bool {
    false
}

/// Which file a path leads to, if to any.
pub fn id_at(path: &Path) -> io::Result<Option<FileId>> {
    // No access right is asked for, so that no sharing mode stands in the way.
    match OpenOptions::new().access_mode(0).open(path) {
        Ok(file) => Ok(Some(known(&file)?.id)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives up a lock.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    fs4::FileExt::unlock(file)
}

fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for pause in PATIENCE {
        match call() {
            Err(error) if is_in_use(&error) => std::thread::sleep(pause),
            other => return other,
        }
    }
    call()
}

fn is_in_use(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(|code| code as u32);
    code == Some(ERROR_ACCESS_DENIED) || code == Some(ERROR_SHARING_VIOLATION)
}

fn known(file: &File) -> io::Result<Stat> {
    let mut information = MaybeUninit::<BY_HANDLE_FILE_INFORMATION>::uninit();
    // SAFETY: the handle is open for as long as `file` is borrowed, and the buffer is of the type that is filled.
    let done =
        unsafe { GetFileInformationByHandle(file.as_raw_handle(), information.as_mut_ptr()) };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so that it filled the structure.
    let information = unsafe { information.assume_init() };
    let has = |attribute: u32| information.dwFileAttributes & attribute != 0;
    Ok(Stat {
        id: FileId {
            device: information.dwVolumeSerialNumber.into(),
            inode: wide(information.nFileIndexHigh, information.nFileIndexLow),
        },
        kind: if has(FILE_ATTRIBUTE_REPARSE_POINT) {
            // `metadata` knows which reparse points are symbolic links; placeholders of files are files.
            let kind = file.metadata()?.file_type();
            match (kind.is_symlink(), kind.is_dir()) {
                (true, _) => Kind::Symlink,
                (false, true) => Kind::Directory,
                (false, false) => Kind::File,
            }
        } else if has(FILE_ATTRIBUTE_DIRECTORY) {
            Kind::Directory
        } else {
            Kind::File
        },
        len: wide(information.nFileSizeHigh, information.nFileSizeLow),
        links: information.nNumberOfLinks.into(),
        mode: match (has(FILE_ATTRIBUTE_DIRECTORY), has(FILE_ATTRIBUTE_READONLY)) {
            (true, _) => 0o755,
            (false, true) => 0o444,
            (false, false) => 0o644,
        },
        uid: 0,
        gid: 0,
    })
}

fn wide(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
