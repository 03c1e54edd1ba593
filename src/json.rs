//! JSON files, written whole and updated one after the other.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::{CompactFormatter, PrettyFormatter, Serializer};

use crate::Durability;
use crate::atomic::{AtomicFile, AtomicWriteOptions};
use crate::disk::{Disk, SystemDisk};
use crate::error::{FileError, FileLockError};
use crate::lock::{FileLock, LockOptions, document_lock};
use crate::target::Target;

/// How JSON is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indent {
    /// Everything in one line, without spaces.
    Compact,
    /// One line for each value, indented by so many spaces a level.
    Spaces(u8),
}

impl Default for Indent {
    fn default() -> Indent {
        Indent::Spaces(2)
    }
}

/// How [`atomic_write_json`] and [`atomic_update_json`] write, and how the latter waits.
///
/// ```
/// use polystore::{Durability, Indent, JsonOptions};
///
/// let options = JsonOptions::new().indent(Indent::Compact).durability(Durability::Full);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct JsonOptions {
    indent: Indent,
    write: AtomicWriteOptions,
    lock: LockOptions,
}

impl JsonOptions {
    /// Indented by 2, otherwise as [`AtomicWriteOptions::new`] and [`LockOptions::new`].
    pub fn new() -> JsonOptions {
        JsonOptions::default()
    }

    /// How the file is laid out.
    pub fn indent(mut self, indent: Indent) -> JsonOptions {
        self.indent = indent;
        self
    }

    /// What the new version survives.
    pub fn durability(mut self, durability: Durability) -> JsonOptions {
        self.write = self.write.durability(durability);
        self
    }

    /// Whether missing parent directories are made.
    pub fn ensure_directory(mut self, ensure: bool) -> JsonOptions {
        self.write = self.write.ensure_directory(ensure);
        self
    }

    /// The permission bits of the new version; see [`AtomicWriteOptions::mode`].
    pub fn mode(mut self, mode: u32) -> JsonOptions {
        self.write = self.write.mode(mode);
        self
    }

    /// How long an update waits for its turn; see [`LockOptions::timeout`].
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> JsonOptions {
        self.lock = self.lock.timeout(timeout);
        self
    }

    /// The longest pause between two tries; see [`LockOptions::poll_interval`].
    pub fn poll_interval(mut self, interval: Duration) -> JsonOptions {
        self.lock = self.lock.poll_interval(interval);
        self
    }
}

/// Replaces the file at `path` by `value` as JSON, with a newline at its end.
///
/// The file is replaced as by [`atomic_write`](crate::atomic_write()). A value that
/// cannot be JSON (a map whose keys are no strings, a `Serialize` that fails) is
/// [`io::ErrorKind::InvalidData`] and changes nothing.
///
/// ```
/// use polystore::{JsonOptions, atomic_write_json};
///
/// # fn main() -> std::io::Result<()> {
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("colours.json");
/// atomic_write_json(&path, &["red", "green"], &JsonOptions::new())?;
/// assert_eq!(std::fs::read_to_string(&path)?, "[\n  \"red\",\n  \"green\"\n]\n");
/// # Ok(())
/// # }
/// ```
pub fn atomic_write_json<T: Serialize + ?Sized>(
    path: impl AsRef<Path>,
    value: &T,
    options: &JsonOptions,
) -> io::Result<()> {
    let path = path.as_ref();
    let mut file = AtomicFile::open(path, &options.write)?;
    write_value(&mut file, path, value, options.indent)?;
    file.commit()
}

fn write_value<T: Serialize + ?Sized>(
    file: &mut AtomicFile,
    path: &Path,
    value: &T,
    indent: Indent,
) -> Result<(), FileError> {
    let serialized = match indent {
        Indent::Compact => value.serialize(&mut Serializer::with_formatter(
            &mut *file,
            CompactFormatter,
        )),
        Indent::Spaces(count) => {
            let spaces = vec![b' '; count.into()];
            let formatter = PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut Serializer::with_formatter(&mut *file, formatter))
        }
    };
    let written = serialized
        .map_err(io_error)
        .and_then(|()| file.write_all(b"\n"));
    written.map_err(|error| FileError::new("write as JSON", path, error))
}

/// An error of the file keeps its kind; anything else says that the data is not what it should be.
fn io_error(error: serde_json::Error) -> io::Error {
    match error.io_error_kind() {
        Some(_) => error.into(),
        None => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// An update of a JSON file did not happen. The file is as it was, with the one exception that
/// [`AtomicFile::commit`](crate::AtomicFile::commit) names.
#[derive(Debug)]
pub enum UpdateError<E = Infallible> {
    /// Its turn did not come.
    Lock(FileLockError),
    /// The file could not be read, or the new version not be written.
    File(FileError),
    /// What is in the file is not JSON, or is not what the caller takes it for.
    Invalid {
        /// The file, as the caller named it.
        path: PathBuf,
        /// Where, and what was expected there.
        source: serde_json::Error,
    },
    /// The caller's function failed, with this.
    Update(E),
}

impl<E> UpdateError<E> {
    fn file<'a>(
        operation: &'static str,
        path: &'a Path,
    ) -> impl Fn(io::Error) -> UpdateError<E> + 'a {
        move |error| UpdateError::File(FileError::new(operation, path, error))
    }
}

impl<E: fmt::Display> fmt::Display for UpdateError<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpdateError::Lock(error) => error.fmt(formatter),
            UpdateError::File(error) => error.fmt(formatter),
            UpdateError::Invalid { path, source } => {
                write!(
                    formatter,
                    "cannot update {}: its content is not valid: {source}",
                    path.display()
                )
            }
            UpdateError::Update(error) => error.fmt(formatter),
        }
    }
}

impl<E: Error + 'static> Error for UpdateError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            UpdateError::Lock(error) => error.source(),
            UpdateError::File(error) => error.source(),
            UpdateError::Invalid { source, .. } => Some(source),
            UpdateError::Update(error) => error.source(),
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<UpdateError<E>> for io::Error {
    /// Keeps the kind; an `io::Error` of the caller's function stays what it was.
    fn from(error: UpdateError<E>) -> io::Error {
        match error {
            UpdateError::Lock(error) => error.into(),
            UpdateError::File(error) => error.into(),
            UpdateError::Invalid { path, source } => {
                let source = io::Error::new(io::ErrorKind::InvalidData, source);
                FileError::new("parse as JSON", &path, source).into()
            }
            UpdateError::Update(error) => match error.into().downcast::<io::Error>() {
                Ok(error) => *error,
                Err(error) => io::Error::other(error),
            },
        }
    }
}

/// Reads the JSON file at `path`, replaces it by what `update` makes of its content, and returns that.
///
/// All that happens under the lock of `NAME.lock` beside the file, so that updates by
/// any number of threads and processes come one after the other and none is lost. A file
/// that does not exist is `None`. A file that is there and is not valid JSON is an error,
/// also if it is empty, and is left alone. With [`serde_json::Value`] the order of
/// keys is kept; numbers that fit neither 64 bits nor an `f64` are rounded.
///
/// The lock file is made with the right to read, which is the right to lock, for those only who may write
/// the file. One that belongs to a stranger in a sticky directory is an error.
///
/// Symbolic links are followed, and the lock is beside the file that they lead to. An
/// update of the same file from within `update` waits for itself, until it times out.
///
/// # Errors
///
/// [`UpdateError`] says which step failed. It becomes an [`io::Error`] by `?`.
///
/// ```
/// use std::convert::Infallible;
/// use std::io;
/// use polystore::{JsonOptions, UpdateError, atomic_update_json};
///
/// # fn main() -> io::Result<()> {
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("visits.json");
/// let count = |visits: Option<u64>| Ok::<_, Infallible>(visits.unwrap_or(0) + 1);
/// assert_eq!(atomic_update_json(&path, &JsonOptions::new(), count)?, 1);
/// assert_eq!(atomic_update_json(&path, &JsonOptions::new(), count)?, 2);
///
/// let refused = atomic_update_json(&path, &JsonOptions::new(), |_: Option<u64>| Err("not today"));
/// assert!(matches!(refused, Err(UpdateError::Update("not today"))));
/// # Ok(())
/// # }
/// ```
pub fn atomic_update_json<T, E>(
    path: impl AsRef<Path>,
    options: &JsonOptions,
    update: impl FnOnce(Option<T>) -> Result<T, E>,
) -> Result<T, UpdateError<E>>
where
    T: Serialize + DeserializeOwned,
{
    let path = path.as_ref();
    let (_turn, target) = lock_target(path, options)?;
    let current = read_value(&target, path)?;
    let value = update(current).map_err(UpdateError::Update)?;
    let mut file = AtomicFile::at(target, path, &options.write)
        .map_err(UpdateError::file("stage a new version of", path))?;
    write_value(&mut file, path, &value, options.indent).map_err(UpdateError::File)?;
    file.finish().map_err(UpdateError::File)?;
    Ok(value)
}

/// Finds the file and takes its turn.
fn lock_target<E>(
    path: &Path,
    options: &JsonOptions,
) -> Result<(FileLock, Target), UpdateError<E>> {
    let find = || {
        Target::find(
            path,
            options.write.ensure_directory,
            options.write.durability,
        )
        .map_err(UpdateError::file("find", path))
    };
    let mut target = find()?;
    loop {
        let lock = document_lock(&target, &options.lock).map_err(UpdateError::Lock)?;
        // What was seen before the turn had come may be no longer so: the file, or even where the link leads.
        let locked = std::mem::replace(&mut target, find()?);
        if locked.path == target.path {
            return Ok((lock, target));
        }
    }
}

fn read_value<T: DeserializeOwned, E>(
    target: &Target,
    path: &Path,
) -> Result<Option<T>, UpdateError<E>> {
    if target.old.is_none() {
        return Ok(None);
    }
    let mut content = Vec::new();
    let read = SystemDisk
        .open(&target.dir, &target.name, false)
        .and_then(|mut file| io::Read::read_to_end(&mut file, &mut content));
    read.map_err(UpdateError::file("read", path))?;
    match serde_json::from_slice(&content) {
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(UpdateError::Invalid {
            path: path.to_owned(),
            source,
        }),
    }
}
