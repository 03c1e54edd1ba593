//! Errors of the engine and the disk, as the numbers that programs know.

use std::io::{self, ErrorKind};

use fuser::Errno;

/// The number for `error`: the system's own where there is one, else that of its kind.
pub fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(number) => Errno::from_i32(number),
        None => of_kind(error.kind()),
    }
}

fn of_kind(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::PermissionDenied => Errno::EACCES,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::WouldBlock => Errno::EAGAIN,
        ErrorKind::NotADirectory => Errno::ENOTDIR,
        ErrorKind::IsADirectory => Errno::EISDIR,
        ErrorKind::DirectoryNotEmpty => Errno::ENOTEMPTY,
        ErrorKind::ReadOnlyFilesystem => Errno::EROFS,
        ErrorKind::StaleNetworkFileHandle => Errno::ESTALE,
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => Errno::EINVAL,
        ErrorKind::TimedOut => Errno::ETIMEDOUT,
        ErrorKind::StorageFull | ErrorKind::WriteZero => Errno::ENOSPC,
        ErrorKind::QuotaExceeded => Errno::EDQUOT,
        ErrorKind::FileTooLarge => Errno::EFBIG,
        ErrorKind::ResourceBusy => Errno::EBUSY,
        ErrorKind::CrossesDevices => Errno::EXDEV,
        ErrorKind::TooManyLinks => Errno::EMLINK,
        ErrorKind::Interrupted => Errno::EINTR,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::OutOfMemory => Errno::ENOMEM,
        // `ErrorKind` may grow: what is not named above has no number of its own.
        _ => Errno::EIO,
    }
}

/// Whether `error` makes the kernel look a name up once more.
pub fn looks_again(error: &io::Error) -> bool {
    error.kind() == ErrorKind::StaleNetworkFileHandle
}

/// The error that makes the kernel look a name up once more.
pub fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}
