//! Taking turns by a lock file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Durability;
use crate::disk::{self, Disk, FileId, ReleaseWatch, SystemDisk};
use crate::error::{FileLockError, FileLockTimeoutError, LOCK};
use crate::target::{Target, make_directories};

/// How often a lock that was just announced to be free is tried at once, yielding in between:
/// the announcement comes a moment before the lock of a process that ends is gone.
const SPINS: u32 = 20;

/// The first pause of a waiter. It doubles up to the poll interval.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// A poll interval of 0 shall not become a loop that never sleeps.
const SHORTEST_PAUSE: Duration = Duration::from_micros(50);

/// How [`file_lock`] locks.
///
/// ```
/// use std::time::Duration;
/// use polystore::LockOptions;
///
/// let options = LockOptions::new().timeout(Duration::from_secs(2)).shared(true);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct LockOptions {
    timeout: Option<Duration>,
    poll_interval: Duration,
    shared: bool,
    ensure_directory: bool,
}

impl LockOptions {
    /// Exclusive, with a timeout of 30 s and a poll interval of 0.1 s; missing directories are made.
    pub fn new() -> LockOptions {
        LockOptions {
            timeout: Some(Duration::from_secs(30)),
            poll_interval: Duration::from_millis(100),
            shared: false,
            ensure_directory: true,
        }
    }

    /// How long to wait; `Duration::ZERO` to try once, `None` to wait for ever.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> LockOptions {
        self.timeout = timeout.into();
        self
    }

    /// The longest pause between two tries. On Linux a waiter is woken when the
    /// holder closes the file or dies, so that this matters only for holders that do
    /// neither, and on network file systems.
    pub fn poll_interval(mut self, interval: Duration) -> LockOptions {
        self.poll_interval = interval;
        self
    }

    /// Whether others may hold the lock, too, if they also take it shared.
    pub fn shared(mut self, shared: bool) -> LockOptions {
        self.shared = shared;
        self
    }

    /// Whether missing parent directories of the lock file are made.
    pub fn ensure_directory(mut self, ensure: bool) -> LockOptions {
        self.ensure_directory = ensure;
        self
    }
}

impl Default for LockOptions {
    fn default() -> LockOptions {
        LockOptions::new()
    }
}

/// A lock that is held. Dropping it, or the end of the process, gives it up.
///
/// The lock file stays: to remove it would take the lock from under those who wait for it.
#[derive(Debug)]
#[must_use = "the lock is given up when this is dropped"]
pub struct FileLock {
    file: File,
    path: PathBuf,
    /// A forked child has a copy of this; when that is dropped, its parent still holds the lock.
    process: u32,
}

impl FileLock {
    /// The lock file, as the caller named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the lock up, and says if that fails.
    pub fn release(self) -> Result<(), FileLockError> {
        self.unlock()
            .map_err(|error| FileLockError::new("unlock", &self.path, error))
    }

    fn unlock(&self) -> io::Result<()> {
        if self.process != std::process::id() {
            return Ok(());
        }
        // Not left to the closing: a child that was forked meanwhile may have the descriptor still open.
        disk::unlock(&self.file)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // If this fails the closing of the descriptor does it.
        let _ = self.unlock();
    }
}

/// Waits for the lock of the file at `path`, which is made if need be and never removed.
///
/// The lock is the system's (`flock`, on Windows `LockFileEx`): it excludes all
/// processes and threads that lock this file, with whatever program, and ends with its
/// holder, however that ends. It is not reentrant: a second lock of the same file waits for
/// the first, also in the same thread. The time is measured by a clock that nobody sets.
///
/// # Errors
///
/// After the timeout, a [`FileLockError`] whose [`timeout`](FileLockError::timeout)
/// is there and whose kind is [`io::ErrorKind::TimedOut`]; the holder's lock is as it was.
///
/// ```
/// use std::time::Duration;
/// use polystore::{LockOptions, file_lock};
///
/// # fn main() -> Result<(), polystore::FileLockError> {
/// # let scratch = tempfile::tempdir().expect("a directory");
/// # let path = scratch.path().join("job.lock");
/// let turn = file_lock(&path, &LockOptions::new())?;
///
/// let impatient = LockOptions::new().timeout(Duration::from_millis(20));
/// let error = file_lock(&path, &impatient).unwrap_err();
/// assert!(error.timeout().is_some());
///
/// drop(turn);
/// file_lock(&path, &impatient)?.release()?;
/// # Ok(())
/// # }
/// ```
pub fn file_lock(path: impl AsRef<Path>, options: &LockOptions) -> Result<FileLock, FileLockError> {
    lock_in_time(path.as_ref(), None, options)
}

/// Waits for the lock of the document `target`, that of `NAME.lock` beside it. Who may not write the
/// document gets no right to lock from the file, if it has to be made.
pub(crate) fn document_lock(
    target: &Target,
    options: &LockOptions,
) -> Result<FileLock, FileLockError> {
    let path = target.path.with_file_name(lock_name(&target.name));
    lock_in_time(&path, Some(target), options)
}

fn lock_name(document: &OsStr) -> OsString {
    let mut name = document.to_owned();
    name.push(".lock");
    name
}

fn lock_in_time(
    path: &Path,
    document: Option<&Target>,
    options: &LockOptions,
) -> Result<FileLock, FileLockError> {
    let start = Instant::now();
    let mut candidate = Candidate::open(path, document, options)?;
    if !candidate.attempt()? {
        // A deadline that no clock can show is none.
        candidate.wait(
            options
                .timeout
                .and_then(|timeout| start.checked_add(timeout)),
        )?;
    }
    Ok(candidate.into_lock())
}

/// Takes the lock of the file at `path` if that needs no waiting; `None` if it does.
pub fn try_file_lock(
    path: impl AsRef<Path>,
    options: &LockOptions,
) -> Result<Option<FileLock>, FileLockError> {
    let mut candidate = Candidate::open(path.as_ref(), None, options)?;
    Ok(candidate.attempt()?.then(|| candidate.into_lock()))
}

/// Somebody who wants the lock. It has one descriptor, however often it tries.
struct Candidate<'a> {
    path: &'a Path,
    /// What the lock is for; `None` if it is the file at `path` and nothing more is known.
    document: Option<&'a Target>,
    options: &'a LockOptions,
    file: File,
    writable: bool,
    /// Of `file`; made when there is something to wait for.
    watch: Option<ReleaseWatch>,
}

impl<'a> Candidate<'a> {
    fn open(
        path: &'a Path,
        document: Option<&'a Target>,
        options: &'a LockOptions,
    ) -> Result<Candidate<'a>, FileLockError> {
        let file = open_file(path, document, options, false)?;
        Ok(Candidate {
            path,
            document,
            options,
            file,
            writable: false,
            watch: None,
        })
    }

    fn reopen(&mut self, writable: bool) -> Result<(), FileLockError> {
        self.watch = None;
        self.writable = writable;
        self.file = open_file(self.path, self.document, self.options, writable)?;
        Ok(())
    }

    fn into_lock(self) -> FileLock {
        FileLock {
            file: self.file,
            path: self.path.to_owned(),
            process: std::process::id(),
        }
    }

    /// Whether the lock is ours now.
    fn attempt(&mut self) -> Result<bool, FileLockError> {
        loop {
            match SystemDisk.try_lock(&self.file, !self.options.shared) {
                Ok(false) => return Ok(false),
                Ok(true) if self.is_current()? => return Ok(true),
                // Somebody removed the file, and others may by now have locked the next of that name.
                Ok(true) => self.reopen(self.writable)?,
                // NFS makes an exclusive flock a lock that only a writable descriptor can have.
                Err(error) if !self.writable && disk::needs_writable(&error) => {
                    self.reopen(true)?
                }
                Err(error) => return Err(FileLockError::new(LOCK, self.path, error)),
            }
        }
    }

    fn is_current(&self) -> Result<bool, FileLockError> {
        let ids = SystemDisk
            .stat_file(&self.file)
            .and_then(|ours| Ok((ours.id, self.id_now()?)));
        let (ours, current) =
            ids.map_err(|error| FileLockError::new("look at", self.path, error))?;
        Ok(current == Some(ours))
    }

    fn id_now(&self) -> io::Result<Option<FileId>> {
        #[cfg(unix)]
        if let Some(document) = self.document {
            return disk::id_in(&document.dir, &lock_name(&document.name));
        }
        disk::id_at(self.path)
    }

    /// Returns when the lock is ours.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<(), FileLockError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let left = deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                let timeout = self.options.timeout.unwrap_or(Duration::MAX);
                return Err(FileLockTimeoutError::new(self.path, timeout).into());
            }
            if self.watch.is_none() {
                // What was released before the watch began is not told of: try first.
                self.watch = Some(ReleaseWatch::new(&self.file));
                if self.attempt()? {
                    return Ok(());
                }
                continue;
            }
            let at_most = pause
                .min(self.options.poll_interval)
                .max(SHORTEST_PAUSE)
                .min(left);
            let word = self.watch.as_ref().is_some_and(|watch| watch.wait(at_most));
            if self.attempt_often(if word { SPINS } else { 1 })? {
                return Ok(());
            }
            pause = if word {
                FIRST_PAUSE
            } else {
                pause.saturating_mul(2).min(self.options.poll_interval)
            };
        }
    }

    fn attempt_often(&mut self, times: u32) -> Result<bool, FileLockError> {
        for time in 0..times {
            if time > 0 {
                std::thread::yield_now();
            }
            if self.attempt()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn open_file(
    path: &Path,
    document: Option<&Target>,
    options: &LockOptions,
    writable: bool,
) -> Result<File, FileLockError> {
    #[cfg(unix)]
    if let Some(document) = document {
        let rights = match &document.old {
            Some(known) => disk::LockRights::Document(&document.name, known),
            None => disk::LockRights::NewDocument,
        };
        let name = lock_name(&document.name);
        return disk::open_lock_in(&document.dir, &name, rights, writable)
            .map_err(|error| FileLockError::new("open", path, error));
    }
    #[cfg(not(unix))]
    let _ = document;
    let opened = match disk::open_lock(path, writable) {
        Err(error) if options.ensure_directory && error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(Path::new(""));
            make_directories(parent, Durability::None)
                .and_then(|()| disk::open_lock(path, writable))
        }
        other => other,
    };
    opened.map_err(|error| FileLockError::new("open", path, error))
}
