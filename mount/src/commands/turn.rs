//! A turn: the lock of a lock file, taken as everybody takes it.
//!
//! It is waited for in flock(2), on a mount and on a plain directory: the system keeps the queue,
//! where the library's `file_lock` would try again and again. The descriptor is a read-only one,
//! because to open a lock file for writing has a meaning of its own in a mount.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use polystore::disk::{self, Disk, FileId, SystemDisk};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::quote;

/// What tells the commands that a holder starts that they are his: `PID:DEVICE:INODE`, with commas.
/// As in a mount, those whom the holder started need not wait for him.
const HELD: &str = "POLYSTORE_TURNS";

/// As many generations are looked at as a process may reasonably have.
const MAX_ANCESTORS: usize = 4096;

/// A turn that is held. Dropping it, or the end of the process, however it ends, gives it up.
#[derive(Debug)]
pub struct Turn {
    /// `None` where an ancestor holds it for us.
    file: Option<File>,
    id: FileId,
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
    pub fn explain(&self, lock_file: &Path) -> String {
        let shown = quote::path(lock_file);
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
    /// Waits for the lock of `path`, which is made if it is missing, for `patience`, or for ever.
    pub fn take(path: &Path, shared: bool, patience: Option<Duration>) -> Result<Turn, NoTurn> {
        if let Some(turn) = of_ancestor(path) {
            return Ok(turn);
        }
        match patience {
            None => lock(path, shared, true).map_err(NoTurn::Failed),
            Some(time) if time.is_zero() => match lock(path, shared, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Err(NoTurn::TimedOut(time))
                }
                other => other.map_err(NoTurn::Failed),
            },
            Some(time) => lock_within(path.to_owned(), shared, time),
        }
    }

    /// The variable, and its value, that let a command pass which is started under this turn.
    pub fn passport(&self) -> (&'static str, String) {
        let own = format!(
            "{}:{}:{}",
            std::process::id(),
            self.id.device,
            self.id.inode
        );
        match std::env::var(HELD) {
            Ok(others) if !others.is_empty() => (HELD, format!("{others},{own}")),
            _ => (HELD, own),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Not left to the closing: in a mount that is done after close() has returned.
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        }
    }
}

/// No system call waits for a lock and gives up after a time, so a thread waits that can be left
/// behind. If it gets the lock afterwards, it drops it.
fn lock_within(path: PathBuf, shared: bool, time: Duration) -> Result<Turn, NoTurn> {
    let (tell, told) = mpsc::channel();
    let wait = move || {
        let _ = tell.send(lock(&path, shared, true)); // Nobody may be listening any more.
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

fn lock(path: &Path, shared: bool, wait: bool) -> io::Result<Turn> {
    let operation = match (shared, wait) {
        (false, true) => FlockOperation::LockExclusive,
        (true, true) => FlockOperation::LockShared,
        (false, false) => FlockOperation::NonBlockingLockExclusive,
        (true, false) => FlockOperation::NonBlockingLockShared,
    };
    let mut file = disk::open_lock(path, false)?;
    loop {
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)) {
            Ok(()) => {}
            // NFS gives an exclusive lock to a writable descriptor only.
            Err(Errno::BADF) => {
                file = disk::open_lock(path, true)?;
                rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation))?;
            }
            Err(error) => return Err(error.into()),
        }
        let id = SystemDisk.stat_file(&file)?.id;
        if disk::id_at(path)? == Some(id) {
            return Ok(Turn {
                file: Some(file),
                id,
            });
        }
        // Somebody removed the file, and others may by now have locked the next of that name.
        file = disk::open_lock(path, false)?;
    }
}

/// The turn at `path`, if an ancestor of this process holds it.
fn of_ancestor(path: &Path) -> Option<Turn> {
    let held = std::env::var(HELD).ok()?;
    let id = disk::id_at(path).ok().flatten()?;
    let holders: Vec<u32> = holders_of(&held, id).collect();
    let holds = !holders.is_empty() && ancestors().any(|pid| holders.contains(&pid));
    holds.then_some(Turn { file: None, id })
}

fn holders_of(held: &str, id: FileId) -> impl Iterator<Item = u32> {
    held.split(',').filter_map(move |entry| {
        let mut numbers = entry.split(':');
        let pid = numbers.next()?.parse().ok()?;
        let device: u64 = numbers.next()?.parse().ok()?;
        let inode: u64 = numbers.next()?.parse().ok()?;
        ((device, inode) == (id.device, id.inode)).then_some(pid)
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

    fn attempt(path: &Path, shared: bool) -> bool {
        Turn::take(path, shared, Some(Duration::ZERO)).is_ok()
    }

    #[test]
    fn turns_exclude_and_share() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let turn = Turn::take(&path, false, None).unwrap();
        assert!(!attempt(&path, false) && !attempt(&path, true));
        let late = Turn::take(&path, false, Some(Duration::from_millis(30))).unwrap_err();
        assert!(
            late.explain(&path)
                .ends_with("x.lock: somebody else held the lock for 30ms")
        );
        drop(turn);
        let _reader = Turn::take(&path, true, None).unwrap();
        assert!(attempt(&path, true) && !attempt(&path, false));
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_was_replaced_is_not_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let old = Turn::take(&path, false, None).unwrap();
        let waiter = {
            let path = path.clone();
            thread::spawn(move || Turn::take(&path, false, Some(Duration::from_secs(20))))
        };
        thread::sleep(Duration::from_millis(50));
        std::fs::remove_file(&path).unwrap();
        let new = Turn::take(&path, false, None).unwrap();
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
        let of = |held| holders_of(held, id).collect::<Vec<_>>();
        assert_eq!(of("12:7:9,13:7:8,14:7:9"), [12, 14]);
        assert_eq!(of(""), [0; 0]);
        assert_eq!(of("x:7:9,5:7,-3:7:9,,"), [0; 0]);
        assert!(ancestors().count() > 0);
    }
}
