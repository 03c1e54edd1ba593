//! What went wrong, with which file, and why.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file could not be written or read.
///
/// Functions that return [`io::Error`] put this into it, with the kind of its
/// source, so that `error.kind()` says what the system said and
/// `error.get_ref()` leads here.
#[derive(Debug)]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> FileError {
        FileError {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// What was being done, as in "cannot *replace* `config.json`".
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The file, as the caller named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the system said.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The system's error number, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "cannot {} {}: {}",
            self.operation,
            self.path.display(),
            self.source
        )
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

/// A lock was not had.
#[derive(Debug)]
pub struct FileLockError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileLockError {
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> FileLockError {
        FileLockError {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// What was being done, as in "cannot *lock* `job.lock`".
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The lock file, as the caller named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the system said; [`io::ErrorKind::TimedOut`] if nothing went wrong but the time ran out.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The system's error number, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// How it timed out, if that is what happened.
    pub fn timeout(&self) -> Option<&FileLockTimeoutError> {
        self.source.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for FileLockError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "cannot {} {}: {}",
            self.operation,
            self.path.display(),
            self.source
        )
    }
}

impl Error for FileLockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl From<FileLockError> for io::Error {
    fn from(error: FileLockError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

/// Somebody else held the lock for as long as the caller was ready to wait.
///
/// It is the [source](Error::source) of a [`FileLockError`], and found by
/// [`FileLockError::timeout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLockTimeoutError {
    path: PathBuf,
    timeout: Duration,
}

impl FileLockTimeoutError {
    pub(crate) fn new(path: &Path, timeout: Duration) -> FileLockTimeoutError {
        FileLockTimeoutError {
            path: path.to_owned(),
            timeout,
        }
    }

    /// What was being done.
    pub fn operation(&self) -> &'static str {
        LOCK
    }

    /// The lock file, as the caller named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long the caller was ready to wait.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl fmt::Display for FileLockTimeoutError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "held by somebody else for {:?}", self.timeout)
    }
}

impl Error for FileLockTimeoutError {}

impl From<FileLockTimeoutError> for FileLockError {
    fn from(error: FileLockTimeoutError) -> FileLockError {
        let path = error.path.clone();
        FileLockError {
            operation: LOCK,
            path,
            source: io::Error::new(io::ErrorKind::TimedOut, error),
        }
    }
}

pub(crate) const LOCK: &str = "lock";
