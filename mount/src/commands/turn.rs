//! A turn: the lock of a lock file, taken as everybody takes it.
//!
//! It is waited for in flock(2), on a mount and on a plain directory: the system keeps the queue,
//! where the library's `file_lock` would try again and again. The descriptor is a read-only one,
//! because to open a lock file for writing has a meaning of its own in a mount.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use polystore::disk::{self, Disk, FileId, SystemDisk};
use rustix::fs::{FlockOperation, MemfdFlags};
use rustix::io::{Errno, FdFlags};

use super::lock_file::LockFile;
use crate::quote;

/// What tells the commands that a holder starts that they are his: `PID:DEVICE:INODE:DESCRIPTOR`,
/// with commas. As in a mount, those whom the holder started need not wait for him. They wait for
/// each other: they lock the file without a name that the holder has open as that descriptor.
const HELD: &str = "POLYSTORE_TURNS";

/// As many generations are looked at as a process may reasonably have.
const MAX_ANCESTORS: usize = 4096;

/// A turn that is held. Dropping it, or the end of the process, however it ends, gives it up.
#[derive(Debug)]
pub struct Turn {
    /// What is locked: the lock file, or what an ancestor who has the turn lends in its place.
    file: File,
    /// Of the lock file.
    id: FileId,
}

/// What lets a command pass that is started under a turn. To be kept while it runs.
pub struct Passport {
    /// The variable and its value.
    pub variable: (&'static str, String),
    _lent: OwnedFd,
}

/// Why there is no turn.
#[derive(Debug)]
pub enum NoTurn {
    /// It did not come in this time.
    TimedOut(Duration),
    /// The lock file could not be opened or locked.
    Failed(io::Error),
}

impl NoTurn {
    /// What people read of it.
    pub fn explain(&self, lock_file: &LockFile) -> String {
        let shown = quote::path(&lock_file.path());
        match self {
            NoTurn::TimedOut(time) if time.is_zero() => {
                format!("{shown}: somebody else holds the lock")
            }
            NoTurn::TimedOut(time) => {
                format!("{shown}: somebody else held the lock for {time:?}")
            }
            NoTurn::Failed(error) => format!("{shown}: {error}"),
        }
    }
}

impl Turn {
    /// Waits for the lock of `file`, which is made if it is missing, for `patience`, or for ever.
    pub fn take(file: &LockFile, shared: bool, patience: Option<Duration>) -> Result<Turn, NoTurn> {
        let lender = lender(file).map_err(NoTurn::Failed)?;
        let id = lender.as_ref().map(|(_, id)| *id);
        let place = match lender {
            Some((lent, _)) => Place::Lent(lent),
            None => Place::File(file.clone()),
        };
        let mut turn = match patience {
            None => lock(&place, shared, true).map_err(NoTurn::Failed),
            Some(time) if time.is_zero() => match lock(&place, shared, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Err(NoTurn::TimedOut(time))
                }
                other => other.map_err(NoTurn::Failed),
            },
            Some(time) => lock_within(place, shared, time),
        }?;
        turn.id = id.unwrap_or(turn.id);
        Ok(turn)
    }

    /// From now on commands that are started have the turn, too, until it is given up here or all of them
    /// have ended.
    pub fn bequeath(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(&self.file, FdFlags::empty())?)
    }

    /// For a command that is started under this turn.
    pub fn passport(&self) -> io::Result<Passport> {
        let lent = rustix::fs::memfd_create("polystore-turn", MemfdFlags::CLOEXEC)?;
        let mut value = std::env::var(HELD).unwrap_or_default();
        if !value.is_empty() {
            value.push(',');
        }
        let FileId { device, inode } = self.id;
        let pid = std::process::id();
        value.push_str(&format!("{pid}:{device}:{inode}:{}", lent.as_raw_fd()));
        Ok(Passport {
            variable: (HELD, value),
            _lent: lent,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Not left to the closing: in a mount that is done after close() has returned.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Where there is what is locked.
enum Place {
    File(LockFile),
    /// A file that an ancestor has open.
    Lent(PathBuf),
}

impl Place {
    fn open(&self, writable: bool) -> io::Result<File> {
        match self {
            Place::File(file) => file.open(writable),
            Place::Lent(path) => disk::open_lock(path, writable),
        }
    }

    fn id(&self) -> io::Result<Option<FileId>> {
        match self {
            Place::File(file) => file.id(),
            Place::Lent(path) => disk::id_at(path),
        }
    }
}

/// No system call waits for a lock and gives up after a time, so a thread waits that can be left
/// behind. If it gets the lock afterwards, it drops it.
fn lock_within(place: Place, shared: bool, time: Duration) -> Result<Turn, NoTurn> {
    let (tell, told) = mpsc::channel();
    let wait = move || {
        let _ = tell.send(lock(&place, shared, true)); // Nobody may be listening any more.
    };
    thread::Builder::new()
        .name("lock".into())
        .spawn(wait)
        .map_err(NoTurn::Failed)?;
    match told.recv_timeout(time) {
        Ok(locked) => locked.map_err(NoTurn::Failed),
        Err(RecvTimeoutError::Timeout) => Err(NoTurn::TimedOut(time)),
        Err(RecvTimeoutError::Disconnected) => {
            Err(NoTurn::Failed(io::ErrorKind::BrokenPipe.into()))
        }
    }
}

fn lock(place: &Place, shared: bool, wait: bool) -> io::Result<Turn> {
    let operation = match (shared, wait) {
        (false, true) => FlockOperation::LockExclusive,
        (true, true) => FlockOperation::LockShared,
        (false, false) => FlockOperation::NonBlockingLockExclusive,
        (true, false) => FlockOperation::NonBlockingLockShared,
    };
    let mut file = place.open(false)?;
    loop {
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)) {
            Ok(()) => {}
            // NFS gives an exclusive lock to a writable descriptor only.
            Err(Errno::BADF) => {
                file = place.open(true)?;
                rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation))?;
            }
            Err(error) => return Err(error.into()),
        }
        let id = SystemDisk.stat_file(&file)?.id;
        if place.id()? == Some(id) {
            return Ok(Turn { file, id });
        }
        // Somebody removed the file, and others may by now have locked the next of that name.
        file = place.open(false)?;
    }
}

/// What is locked in place of `file`, and which file that is, if an ancestor of this process has the
/// turn at it. In a mount it is the mount who lets descendants pass.
fn lender(file: &LockFile) -> io::Result<Option<(PathBuf, FileId)>> {
    let Ok(held) = std::env::var(HELD) else {
        return Ok(None);
    };
    let Some(id) = file.id()? else {
        return Ok(None);
    };
    if file.mount()?.is_some_and(|entry| entry.is_polystore()) {
        return Ok(None);
    }
    let lenders: Vec<(u32, u32)> = lenders_of(&held, id).collect();
    if lenders.is_empty() {
        return Ok(None);
    }
    // The nearest: he has the turn from those above.
    let lender = ancestors().find_map(|pid| lenders.iter().find(|lender| lender.0 == pid));
    let place = lender.map(|(pid, fd)| PathBuf::from(format!("/proc/{pid}/fd/{fd}")));
    // Another user's cannot be opened; then there is nothing but to wait.
    Ok(place
        .filter(|place| File::open(place).is_ok())
        .map(|place| (place, id)))
}

/// Process and descriptor of those who have the turn at the file `id`.
fn lenders_of(held: &str, id: FileId) -> impl Iterator<Item = (u32, u32)> {
    held.split(',').filter_map(move |entry| {
        let mut numbers = entry.split(':');
        let pid = numbers.next()?.parse().ok()?;
        let device: u64 = numbers.next()?.parse().ok()?;
        let inode: u64 = numbers.next()?.parse().ok()?;
        let descriptor = numbers.next()?.parse().ok()?;
        ((device, inode) == (id.device, id.inode)).then_some((pid, descriptor))
    })
}

/// The parent of this process, its parent, and so on.
fn ancestors() -> impl Iterator<Item = u32> {
    let parent_of = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let fields = stat.rsplit(')').next()?;
        let parent = fields.split_whitespace().nth(1)?.parse().ok()?;
        (parent != 0).then_some(parent)
    };
    std::iter::successors(parent_of(&std::process::id()), parent_of).take(MAX_ANCESTORS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::place::Spot;
    use std::path::Path;

    fn file(path: &Path) -> LockFile {
        Spot::of(path).unwrap().lock_file().unwrap()
    }

    fn attempt(path: &Path, shared: bool) -> bool {
        Turn::take(&file(path), shared, Some(Duration::ZERO)).is_ok()
    }

    #[test]
    fn turns_exclude_and_share() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let turn = Turn::take(&file(&path), false, None).unwrap();
        assert!(!attempt(&path, false) && !attempt(&path, true));
        let late = Turn::take(&file(&path), false, Some(Duration::from_millis(30))).unwrap_err();
        assert!(
            late.explain(&file(&path))
                .ends_with("x.lock: somebody else held the lock for 30ms")
        );
        drop(turn);
        let _reader = Turn::take(&file(&path), true, None).unwrap();
        assert!(attempt(&path, true) && !attempt(&path, false));
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_was_replaced_is_not_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let old = Turn::take(&file(&path), false, None).unwrap();
        let waiter = {
            let path = path.clone();
            thread::spawn(move || Turn::take(&file(&path), false, Some(Duration::from_secs(20))))
        };
        thread::sleep(Duration::from_millis(50));
        std::fs::remove_file(&path).unwrap();
        let new = Turn::take(&file(&path), false, None).unwrap();
        drop(old);
        thread::sleep(Duration::from_millis(50));
        assert!(!waiter.is_finished(), "it has the lock of a removed file");
        drop(new);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn holders_are_read_from_what_was_handed_down() {
        let id = FileId {
            device: 7,
            inode: 9,
        };
        let of = |held| lenders_of(held, id).collect::<Vec<_>>();
        assert_eq!(of("12:7:9:3,13:7:8:3,14:7:9:4"), [(12, 3), (14, 4)]);
        assert_eq!(of(""), []);
        assert_eq!(of("x:7:9:3,5:7,-3:7:9:3,5:7:9,,"), []);
        assert!(ancestors().count() > 0);
    }
}
