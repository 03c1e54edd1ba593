//! A lock file in the backing directory: how those who are not in this mount (programs there, the
//! library, other mounts) and those who are exclude each other.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use polystore::disk::{FileId, Kind};
use rustix::fs::{FlockOperation, Mode, OFlags, Statx, XattrFlags};
use rustix::io::Errno;

use super::attr;
use super::made_locks;
use super::proc::ProcFs;
use super::tree::{Dir, path_of};
use crate::engine::credentials::for_user;
use crate::engine::locks::{Outside, Taken, Terms};
use crate::engine::order::Job;
use crate::engine::process::Processes;

/// How the names of the attributes begin in which the mount keeps something.
pub const RESERVED: &str = "user.polystore.";

/// Where the number of the last turn stands.
pub const NUMBER: &str = "user.polystore.turn";

/// How many threads may wait for locks that others hold outside. Beyond them it is tried from time to time.
const MOST_THREADS: usize = 128;

/// Somebody who replaces the lock file again and again shall not keep us here.
const ATTEMPTS: usize = 8;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// One of the [`MOST_THREADS`].
struct ThreadPlace;

impl ThreadPlace {
    fn take() -> Option<ThreadPlace> {
        let free = |count| (count < MOST_THREADS).then_some(count + 1);
        let taken = THREADS.fetch_update(Ordering::AcqRel, Ordering::Acquire, free);
        taken.ok().map(|_| ThreadPlace)
    }
}

impl Drop for ThreadPlace {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Held {
    file: File,
    exclusive: bool,
}

/// The lock file of one table.
pub struct LockFile {
    dir: Arc<Dir>,
    name: OsString,
    access: OFlags,
    held: Option<Held>,
    arrived: Arc<Mutex<Option<Held>>>,
}

impl LockFile {
    /// The file `name` in `dir`, which may not exist.
    pub fn new(dir: Arc<Dir>, name: OsString) -> LockFile {
        LockFile {
            dir,
            name,
            access: OFlags::RDONLY,
            held: None,
            arrived: Arc::default(),
        }
    }

    fn open_existing(&self) -> Result<Option<File>, Errno> {
        open_as(&self.dir, &self.name, self.access)
    }

    fn open(&self, terms: &Terms) -> Result<Option<File>, Errno> {
        match self.open_existing()? {
            Some(file) => Ok(Some(file)),
            None => self.make(terms),
        }
    }

    fn make(&self, terms: &Terms) -> Result<Option<File>, Errno> {
        let Some((caller, mode)) = terms.maker else {
            return Ok(None);
        };
        let how = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(mode);
        let make = || {
            let how = how | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(&*self.dir, &self.name, how, mode))
        };
        let made = match for_user(&ProcFs, &ProcFs.credentials(caller), make) {
            Ok(made) => made,
            Err(error) => {
                log::debug!("{:?}: cannot be made: {error}", self.name);
                return Ok(None);
            }
        };
        match made {
            Ok(made) => {
                let file = File::from(made);
                made_locks::mark(&file);
                Ok(Some(file))
            }
            // Somebody else was faster.
            Err(Errno::EXIST) => self.open_existing(),
            Err(error) if is_passing(error) => Err(error),
            Err(error) => {
                log::debug!("{:?}: cannot be made: {error}", self.name);
                Ok(None)
            }
        }
    }
}

/// Whether `file` is still what `name` stands for: it may have been replaced before it was locked.
pub fn is_current(dir: &Dir, name: &OsStr, file: &File) -> bool {
    let id = |stat| attr::id(&stat);
    let named: Option<FileId> = attr::of_name(dir, name).ok().map(id);
    named.is_some() && named == attr::of_file(file).ok().map(id)
}

/// Opens the lock file `name` in `dir`; `None` if there is none, or it cannot be one.
pub fn open_lock_file(dir: &Dir, name: &OsStr) -> Option<File> {
    open_as(dir, name, OFlags::RDONLY).ok().flatten()
}

/// The same.
///
/// # Errors
/// It may be there, but cannot be opened at this moment.
fn open_as(dir: &Dir, name: &OsStr, access: OFlags) -> Result<Option<File>, Errno> {
    let how = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // To open a device can do something.
    let is_file = |stat: &Statx| attr::kind(stat) == Kind::File;
    match attr::of_name(dir, name) {
        Ok(stat) if is_file(&stat) => {}
        Err(error) => match Errno::from_io_error(&error).filter(|error| is_passing(*error)) {
            Some(error) => return Err(error),
            None => return Ok(None),
        },
        Ok(_) => return Ok(None),
    }
    match rustix::fs::openat(dir, name, access | how, Mode::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(error) if is_passing(error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Whether an error says something of this moment, and nothing of the lock file: then others may hold it.
/// EWOULDBLOCK is a lease's.
fn is_passing(error: Errno) -> bool {
    [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOLCK,
        Errno::IO,
        Errno::STALE,
        Errno::WOULDBLOCK,
    ]
    .contains(&error)
}

fn operation(exclusive: bool, wait: bool) -> FlockOperation {
    match (exclusive, wait) {
        (true, true) => FlockOperation::LockExclusive,
        (false, true) => FlockOperation::LockShared,
        (true, false) => FlockOperation::NonBlockingLockExclusive,
        (false, false) => FlockOperation::NonBlockingLockShared,
    }
}

impl Outside for LockFile {
    fn lock(&mut self, exclusive: bool, terms: &Terms) -> Taken {
        let arrived = self
            .arrived
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(arrived) = arrived
            && self.held.is_none()
            && is_current(&self.dir, &self.name, &arrived.file)
        {
            self.held = Some(arrived);
        }
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.exclusive || !exclusive)
        {
            return Taken::Locked;
        }
        // Shared is not enough: nobody else in this mount has it, or this would not be asked for.
        self.held = None;
        for _ in 0..ATTEMPTS {
            let file = match self.open(terms) {
                Ok(Some(file)) => file,
                Ok(None) => return Taken::Absent,
                // Somebody has a lease on it, who is being told to give it up.
                Err(Errno::WOULDBLOCK) => return Taken::Busy,
                Err(error) => {
                    log::debug!("{:?}: cannot be locked now: {error}", self.name);
                    return Taken::Failed(error.raw_os_error());
                }
            };
            let locked = || rustix::fs::flock(&file, operation(exclusive, false));
            match rustix::io::retry_on_intr(locked) {
                Ok(()) if is_current(&self.dir, &self.name, &file) => {
                    self.held = Some(Held { file, exclusive });
                    return Taken::Locked;
                }
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Taken::Busy,
                Err(error) if is_passing(error) => return Taken::Failed(error.raw_os_error()),
                // NFS locks exclusively only what is open for writing.
                Err(Errno::BADF) if self.access == OFlags::RDONLY => self.access = OFlags::RDWR,
                Err(error) => {
                    log::debug!("{:?}: cannot be locked: {error}", self.name);
                    return Taken::Absent;
                }
            }
        }
        Taken::Busy
    }

    /// Those who wait for the lock with the library are woken by the closing.
    fn unlock(&mut self) {
        self.held = None;
        *self.arrived.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn wait(&mut self, exclusive: bool, done: Job) -> bool {
        let file = self.open_existing().ok().flatten();
        let (Some(file), Some(place)) = (file, ThreadPlace::take()) else {
            return false;
        };
        let arrived = self.arrived.clone();
        let wait = move || {
            let lock = || rustix::fs::flock(&file, operation(exclusive, true));
            if rustix::io::retry_on_intr(lock).is_ok() {
                let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
                *arrived = Some(Held { file, exclusive });
            }
            drop(place);
            done();
        };
        let thread = std::thread::Builder::new().name("lock file".to_owned());
        let spawned = thread.spawn(wait);
        if let Err(error) = &spawned {
            log::warn!("{:?}: nobody can wait for its lock: {error}", self.name);
        }
        spawned.is_ok()
    }

    fn renamed(&mut self, dir: Arc<dyn Any + Send + Sync>, name: &OsStr) {
        if let Ok(dir) = dir.downcast::<Dir>() {
            self.dir = dir;
            self.name = name.to_owned();
        }
    }

    /// Microseconds since 1970 where that is more: the number grows although a lock file was removed,
    /// or there is none.
    fn next_number(&mut self, last: u64) -> u64 {
        let file = self.held.as_ref().map(|held| &held.file);
        let stored = file.and_then(number_of).unwrap_or(0);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        let clock = clock.map_or(0, |since| since.as_micros() as u64);
        let next = (last.max(stored) + 1).max(clock);
        if let Some(file) = file {
            let text = next.to_string();
            // By its path: a descriptor that only reads will do for nobody but the owner.
            let path = path_of(file.as_fd());
            if let Err(error) =
                rustix::fs::setxattr(path, NUMBER, text.as_bytes(), XattrFlags::empty())
            {
                log::debug!("{:?}: the turn's number is not kept: {error}", self.name);
            }
        }
        next
    }
}

/// The number of the last turn of a lock file.
fn number_of(file: &File) -> Option<u64> {
    let mut text = [0; 32];
    let len = rustix::fs::fgetxattr(file, NUMBER, &mut text).ok()?;
    std::str::from_utf8(text.get(..len)?).ok()?.parse().ok()
}

/// The same for the lock file `name` in `dir`.
pub fn last_number(dir: &Dir, name: &OsStr) -> Option<u64> {
    number_of(&open_lock_file(dir, name)?)
}
