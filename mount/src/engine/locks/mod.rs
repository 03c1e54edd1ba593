//! flock and fcntl locks, of slots rather than of versions.
//!
//! A reader of the published version and the writer of a draft exclude each
//! other. Waiting is a kept answer, never a thread that waits.
//!
//! A *turn* is a third class: what an open for writing of a turn-taking name holds until it is
//! closed, in the table of its lock file. It excludes other turns and flocks of that file. Tables
//! of lock files are *fair*: first come, first served; and what is held in them is held in the
//! [world outside](Outside), too.
//!
//! Invariants:
//! 1. Two held locks of one class that overlap, of different owners, are both shared; so are a
//!    turn and a lock, unless one was taken by a descendant of the other's holder.
//! 2. Every answer is given once: at the grant, when its waiter gets a signal or its time is
//!    over, or when its handle is released.
//! 3. A slot has one table at a time; a handle keeps the table it first locked in, so that
//!    whoever renames over or unlinks a name leaves old handles among themselves.

mod queue;
mod rounds;
mod tables;

use std::any::Any;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Instant;

pub use tables::{Locks, Table};

use super::order::Job;
use super::process::{Caller, Moment, Process};
use super::slot::SlotKey;

/// flock(2) and fcntl(2) locks do not see each other, as in the kernel's own file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Of an open file description, on the whole file.
    Flock,
    /// Of a process (or a description, F_OFD_SETLK), on a range.
    Posix,
    /// Of an open of a turn-taking name.
    Turn,
}

/// What is asked of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Others may share it.
    Shared,
    /// Nobody else.
    Exclusive,
    /// Give it up.
    Unlock,
}

/// A lock that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which of the two worlds.
    pub class: Class,
    /// Whose it is: the kernel's number for a description or a process.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub end: u64,
    /// What is asked.
    pub kind: Kind,
    /// Process that asks, for F_GETLK.
    pub pid: u32,
    /// Thread that asks, to look for its signals.
    pub tid: u32,
    /// Its user.
    pub uid: u32,
    /// Handle it came through.
    pub handle: u64,
    /// What matters in fair tables only.
    pub terms: Terms,
}

/// How a request in a fair table gets on with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Who asks, and when: his descendants pass. `None` if that cannot be seen.
    pub holder: Option<(Process, Moment)>,
    /// A lock through a handle that can write: its program runs its own protocol. A turn at the
    /// lock file itself: it is for programs that do.
    pub own_protocol: bool,
    /// A turn for a request of the control channel: another of the same process waits for it.
    pub by_request: bool,
    /// A turn that ends where this lock is asked for.
    pub ends_turn: Option<u64>,
    /// As whom the lock file is made where it is missing, and with which permission bits; `None`
    /// to do without.
    pub maker: Option<(Caller, u32)>,
}

/// The same lock as others see it who do not ask here: programs in the backing directory, other mounts.
pub trait Outside: Send {
    /// Takes it, exclusively or shared, without waiting.
    fn lock(&mut self, exclusive: bool, terms: &Terms) -> Taken;
    /// Gives it up.
    fn unlock(&mut self);
    /// Waits for it beside everything else; `done` is called when [`lock`](Self::lock) is to be tried
    /// again. `false` if nobody can wait: then it is tried from time to time.
    fn wait(&mut self, exclusive: bool, done: Job) -> bool;
    /// It is called `name` in `dir` now; the directory is what the adapter knows it by.
    fn renamed(&mut self, dir: Arc<dyn Any + Send + Sync>, name: &OsStr);
    /// A number greater than any before: that of a turn that begins.
    fn next_number(&mut self, last: u64) -> u64;
}

/// What came of [`Outside::lock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is held.
    Locked,
    /// Somebody else holds it.
    Busy,
    /// There is nothing to lock: this table alone holds the turn.
    Absent,
    /// Nobody can tell, for want of something that may come back (descriptors, memory, the disk): the
    /// system's error number. Others may hold it.
    Failed(i32),
}

impl Taken {
    /// Whether it is to be tried again.
    fn is_pending(self) -> bool {
        matches!(self, Taken::Busy | Taken::Failed(_))
    }
}

/// Why a wait ended without a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody holds it and the caller would not wait.
    WouldBlock,
    /// The waiter got a signal.
    Interrupted,
    /// Waiting would never end: who holds it waits, through others perhaps, for the caller (fcntl),
    /// or it is the same thread's own turn.
    Deadlock,
    /// Its time is over.
    TimedOut,
    /// The lock outside could not be tried, again and again: the system's error number.
    Failed(i32),
    /// This user has too many who wait already, or too many locks on one file.
    TooMany,
    /// Too much is open already, for this user.
    NoDescriptors,
}

/// What is done when a lock is granted or refused.
pub type Answer = Box<dyn FnOnce(Result<(), Refused>) + Send>;

/// How long a request may wait.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until then.
    Until(Instant),
    /// As long as it takes.
    Forever,
}

impl Wait {
    fn deadline(self) -> Option<Instant> {
        match self {
            Wait::Until(deadline) => Some(deadline),
            Wait::No | Wait::Forever => None,
        }
    }
}

/// What there is to see of a fair table.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whose table it is.
    pub slot: SlotKey,
    /// The number of its last turn.
    pub number: u64,
    /// Who holds it.
    pub held: Vec<Request>,
    /// Who waits, first come first, and since when.
    pub waiting: Vec<(Request, Instant)>,
}
