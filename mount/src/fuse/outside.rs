//! A lock file in the backing directory: how those who are not in this mount (programs there, the
//! library, other mounts) and those who are exclude each other.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use polystore::disk::{Disk, FileId, Kind, LockRights, Stat, SystemDisk, give_lock_rights};
use rustix::fs::{FlockOperation, Mode, OFlags, Statx, XattrFlags};
use rustix::io::Errno;

use super::attr;
use super::made_locks;
use super::proc::ProcFs;
use super::rights::{is_shared, open_judged};
use super::tree::{Dir, path_of};
use crate::engine::credentials::{Credentials, for_user};
use crate::engine::locks::{Outside, Taken, Terms};
use crate::engine::order::Job;
use crate::engine::process::Processes;

/// Whether the mount keeps something in the extended attribute `name`.
pub fn is_reserved(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"user.polystore.") || name.starts_with(b"trusted.polystore.")
}

/// Where the number of the last turn stands.
pub const NUMBER: &str = "user.polystore.turn";

/// How many threads may wait for locks that others hold outside. Beyond them it is tried from time to time.
const MOST_THREADS: usize = 128;

/// Somebody who replaces the lock file again and again shall not keep us here.
const ATTEMPTS: usize = 8;

/// How far, in microseconds, the number of a turn may be ahead of the clock: clocks are set, and differ.
const PLAUSIBLE: u64 = 24 * 60 * 60 * 1_000_000;

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

    /// The lock file, if there is one that counts for who asks: he may open it, and no stranger has put it there.
    fn open_existing(&self, terms: &Terms) -> Result<Option<File>, Errno> {
        let who = terms.user.map(|user| ProcFs.credentials(user));
        let file = open_as(&self.dir, &self.name, self.access, who.as_ref())?;
        Ok(file.filter(|file| !terms.document || self.counts(file, who.as_ref())))
    }

    /// Whether a lock on `file` keeps others from the document beside it: not if, in a directory where everybody
    /// may make names, somebody has put it there who has nothing to do with the document.
    fn counts(&self, file: &File, who: Option<&Credentials>) -> bool {
        let (Ok(file_stat), Ok(dir)) = (attr::of_file(file), attr::of_file(&*self.dir)) else {
            return false;
        };
        if !is_shared(&dir) || made_locks::is_marked(file) {
            return true;
        }
        let document = self.document().map(|(_, stat)| stat.uid);
        let own = rustix::process::geteuid().as_raw();
        let known = [
            Some(0),
            Some(own),
            Some(dir.stx_uid),
            document,
            who.map(|who| who.uid),
        ];
        known.contains(&Some(file_stat.stx_uid))
    }

    /// The document beside it.
    fn document(&self) -> Option<(OsString, Stat)> {
        let name = document_of(&self.name)?;
        let stat = SystemDisk.stat(&self.dir, &name).ok()??;
        Some((name, stat))
    }

    fn open(&self, terms: &Terms) -> Result<Option<File>, Errno> {
        match self.open_existing(terms)? {
            Some(file) => Ok(Some(file)),
            None => self.make(terms),
        }
    }

    fn make(&self, terms: &Terms) -> Result<Option<File>, Errno> {
        let (Some(user), Some(mode)) = (terms.user, terms.make) else {
            return Ok(None);
        };
        let who = ProcFs.credentials(user);
        match self.make_as(&who, mode) {
            Ok(file) => Ok(Some(file)),
            Err(error) => match Errno::from_io_error(&error) {
                // Somebody else was faster.
                Some(Errno::EXIST) => self.open_existing(terms),
                Some(error) if is_passing(error) => Err(error),
                _ => {
                    log::debug!("{:?}: cannot be made: {error}", self.name);
                    Ok(None)
                }
            },
        }
    }

    /// Makes it as `who`, with the right to lock for those who may write the document and nobody else, before
    /// anybody can find it.
    fn make_as(&self, who: &Credentials, mode: u32) -> io::Result<File> {
        let make = || SystemDisk.create_unnamed(&self.dir, mode);
        let (file, named) = match for_user(&ProcFs, who, make)? {
            Some(file) => (file, false),
            None => {
                // Until it has its rights it is for nobody but its maker.
                let make = || SystemDisk.create_new(&self.dir, &self.name, 0o600);
                (for_user(&ProcFs, who, make)?, true)
            }
        };
        match self.document() {
            Some((name, stat)) => {
                give_lock_rights(&file, &self.dir, LockRights::Document(&name, &stat))?;
            }
            None => give_lock_rights(&file, &self.dir, LockRights::NewDocument)?,
        }
        made_locks::mark(&file);
        if !named {
            for_user(&ProcFs, who, || {
                SystemDisk.link(&file, &self.dir, &self.name)
            })?;
        }
        Ok(file)
    }
}

/// The document that has the lock file `name`.
fn document_of(name: &OsStr) -> Option<OsString> {
    let stem = name.as_bytes().strip_suffix(b".lock")?;
    (!stem.is_empty()).then(|| OsStr::from_bytes(stem).to_owned())
}

/// Whether `file` is still what `name` stands for: it may have been replaced before it was locked.
pub fn is_current(dir: &Dir, name: &OsStr, file: &File) -> bool {
    let id = |stat| attr::id(&stat);
    let named: Option<FileId> = attr::of_name(dir, name).ok().map(id);
    named.is_some() && named == attr::of_file(file).ok().map(id)
}

/// Opens the lock file `name` in `dir`; `None` if there is none, or it cannot be one.
pub fn open_lock_file(dir: &Dir, name: &OsStr) -> Option<File> {
    open_as(dir, name, OFlags::RDONLY, None).ok().flatten()
}

/// The same, as `who`; `None` if he may not open it, too.
///
/// # Errors
/// It may be there, but cannot be opened at this moment.
fn open_as(
    dir: &Dir,
    name: &OsStr,
    access: OFlags,
    who: Option<&Credentials>,
) -> Result<Option<File>, Errno> {
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
    let open = || {
        Ok(File::from(rustix::fs::openat(
            dir,
            name,
            access | how,
            Mode::empty(),
        )?))
    };
    let opened = match who {
        Some(who) => open_judged(who, access, open),
        None => open(),
    };
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) => match Errno::from_io_error(&error).filter(|error| is_passing(*error)) {
            Some(error) => Err(error),
            None => Ok(None),
        },
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

    fn wait(&mut self, exclusive: bool, terms: &Terms, done: Job) -> bool {
        let file = self.open_existing(terms).ok().flatten();
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
        // One from a time to come was set by somebody else, who would bring the numbers to their end.
        let stored = Some(stored).filter(|stored| *stored <= clock.saturating_add(PLAUSIBLE));
        let next = last.max(stored.unwrap_or(0)).saturating_add(1).max(clock);
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
