//! Drafts: staged versions that are not published yet.
//!
//! ```text
//!            promise expires, nothing opened it
//!   Private ------------------------------------> Gone
//!      |  last handle released: killed, poisoned,
//!      |  old and unwritten -------------------->  Gone  (content to salvage)
//!      |  last handle released: published -------> Published
//!      |  a lock, rename or link by its process -> Published (writes go on, in place)
//!      |  unlinked or renamed over --------------> Orphan ---> Gone
//! ```
//!
//! Invariants:
//! 1. A draft stands in the table of slots exactly as long as it is `Private`.
//! 2. `Published`, `Orphan` and `Gone` never become `Private` again.
//! 3. A draft that is `Private` has a handle, a promise, or a queued operation that settles it.

use std::ffi::OsString;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard,
    RwLockWriteGuard, TryLockError,
};
use std::time::{Duration, Instant};

use polystore::disk::{Disk, FileId};

use super::credentials::Credentials;
use super::process::{Image, Moment, Process};
use super::slot::{Place, Published};
use crate::shares::Share;

/// Where a draft is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Unpublished; its slot knows it.
    Private,
    /// It is a version; writes through its handles go in place.
    Published,
    /// Its name was taken away; nothing will be published.
    Orphan {
        /// Whether its own process did that, so that nobody misses the content.
        own: bool,
    },
    /// Settled; only handles that are still open keep the file.
    Gone,
}

/// The name that the file of a draft has, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StagedName {
    /// None yet: it vanishes with its last descriptor.
    Unnamed,
    /// None any more, and none ever again: it was published or dropped.
    Settled,
    /// A name in the staging directory of the session.
    Staging(OsString),
    /// A hidden name beside its target, because staging lies across a boundary.
    Beside(OsString),
}

/// What changes in a draft besides its content; guarded by [`Draft::state`].
#[derive(Debug)]
pub struct DraftState {
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether any handle was ever opened: what nobody opened is never published.
    pub opened: bool,
    /// The first write error: from then on the draft can only be dropped.
    pub poison: Option<io::ErrorKind>,
    /// That error's number, so that every later call gets the same one.
    pub errno: Option<i32>,
    /// Whether a close has said so.
    pub told: bool,
    /// Who opened it to write, besides its opener.
    pub joined: Vec<Process>,
    /// Open handles that may write.
    pub writers: usize,
    /// OPENs that were told to come back for this draft.
    pub promises: usize,
    /// Whether the process that made the draft was killed with it open.
    pub opener_killed: bool,
    /// Whether the last close so far came from a task that was being killed.
    pub last_killed: bool,
    /// When its opener last closed a descriptor of it, written.
    pub closed: Option<Instant>,
}

impl DraftState {
    /// Whether nobody has it open or was promised it, and what becomes of it is to be decided.
    pub fn is_unclaimed(&self) -> bool {
        self.writers == 0
            && self.promises == 0
            && !matches!(self.phase, Phase::Published | Phase::Gone)
    }
}

/// How long after that a reader is made to wait for the publish rather than told that there is
/// no such file: watchers hear of the close (IN_CLOSE_WRITE) before the mount does.
pub const CLOSING_WINDOW: Duration = Duration::from_millis(20);

/// A staged, unpublished version.
pub struct Draft<D: Disk> {
    /// Number of the draft in this session.
    pub id: u64,
    /// Its content.
    pub file: D::File,
    /// The inode of `file`: what the version will be known by.
    pub file_id: FileId,
    /// Where it is to be published.
    pub place: Place<D>,
    /// Where `place` was, from the root of the mount, when the draft was opened; for people.
    pub path: std::path::PathBuf,
    /// Whether nothing was published under its name when it was opened.
    pub new_name: bool,
    /// The version whose owner, mode and attributes it took over.
    pub made_from: Option<FileId>,
    /// Whether its opener demanded to be the one who makes the name (O_EXCL).
    pub exclusive: bool,
    /// Whether its opener neither truncated nor demanded that: others who open the name the same
    /// way share it while it is unwritten.
    pub shared: bool,
    /// Who opened it; `None` if that could not be seen.
    pub opener: Option<Process>,
    /// When, as processes go.
    pub moment: Moment,
    /// What the opener ran then.
    pub image: Option<Image>,
    /// As whom it was opened: with his rights it is published.
    pub who: Credentials,
    /// [`Slots::published`](super::slot::Slots::published) of its slot at that time.
    pub base: Published,
    /// When it was opened.
    pub opened: Instant,
    share: OnceLock<Share>,
    written: AtomicBool,
    dirty: AtomicBool,
    high_water: AtomicU64,
    spent: AtomicBool,
    noted: AtomicBool,
    content: RwLock<()>,
    name: Mutex<StagedName>,
    syncing: Mutex<()>,
    state: Mutex<DraftState>,
    settled: Condvar,
}

/// What [`Draft::new`] is told.
pub struct NewDraft<D: Disk> {
    /// See [`Draft`].
    pub id: u64,
    /// See [`Draft`].
    pub file: D::File,
    /// See [`Draft`].
    pub file_id: FileId,
    /// See [`Draft`].
    pub name: StagedName,
    /// See [`Draft`].
    pub place: Place<D>,
    /// See [`Draft`].
    pub path: std::path::PathBuf,
    /// See [`Draft`].
    pub new_name: bool,
    /// See [`Draft`].
    pub made_from: Option<FileId>,
    /// See [`Draft`].
    pub exclusive: bool,
    /// See [`Draft`].
    pub shared: bool,
    /// See [`Draft`].
    pub opener: Option<Process>,
    /// See [`Draft`].
    pub moment: Moment,
    /// See [`Draft`].
    pub image: Option<Image>,
    /// See [`Draft`].
    pub who: Credentials,
    /// See [`Draft`].
    pub base: Published,
}

impl<D: Disk> Draft<D> {
    /// A private draft without handles.
    pub fn new(new: NewDraft<D>) -> Draft<D> {
        Draft {
            id: new.id,
            file: new.file,
            file_id: new.file_id,
            place: new.place,
            path: new.path,
            new_name: new.new_name,
            made_from: new.made_from,
            exclusive: new.exclusive,
            shared: new.shared,
            opener: new.opener,
            moment: new.moment,
            image: new.image,
            who: new.who,
            base: new.base,
            opened: Instant::now(),
            share: OnceLock::new(),
            written: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            high_water: AtomicU64::new(0),
            spent: AtomicBool::new(false),
            noted: AtomicBool::new(false),
            content: RwLock::new(()),
            name: Mutex::new(new.name),
            syncing: Mutex::new(()),
            state: Mutex::new(DraftState {
                phase: Phase::Private,
                opened: false,
                poison: None,
                errno: None,
                told: false,
                joined: Vec::new(),
                writers: 0,
                promises: 0,
                opener_killed: false,
                last_killed: false,
                closed: None,
            }),
            settled: Condvar::new(),
        }
    }

    /// `share` is what it takes of what its user may have. The first one is kept as long as the draft is.
    pub fn counts_as(&self, share: Share) {
        drop(self.share.set(share)); // Who joins it takes no more.
    }

    /// What changes. Never held while the disk is asked for anything that can wait.
    pub fn state(&self) -> MutexGuard<'_, DraftState> {
        // Fields are set one by one and each is valid by itself: poisoning says nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while its content is changed, beside others, and while it is published.
    pub fn changing(&self) -> RwLockReadGuard<'_, ()> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while nobody else may change its content, nor publish it.
    pub fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while its content is waited for; at most [`name`](Self::name) is locked meanwhile.
    pub fn syncing(&self) -> MutexGuard<'_, ()> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of its file. Held while a name is given or taken, which can wait for the disk,
    /// so that it happens once; nothing else is locked meanwhile.
    pub fn name(&self) -> MutexGuard<'_, StagedName> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name, while nobody waits for its content, which the first guard keeps so, or is naming it.
    pub fn name_if_idle(&self) -> Option<(MutexGuard<'_, ()>, MutexGuard<'_, StagedName>)> {
        Some((free(&self.syncing)?, free(&self.name)?))
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Moves it on in its life.
    pub fn set_phase(&self, phase: Phase) {
        self.state().phase = phase;
        self.wake_waiters();
    }

    /// Lets those go on who [wait for it to be settled](Self::wait_until_settled).
    pub fn wake_waiters(&self) {
        self.settled.notify_all();
    }

    /// Returns when it is no longer private, or after `patience`.
    pub fn wait_until_settled(&self, patience: Duration) {
        let waited = self
            .settled
            .wait_timeout_while(self.state(), patience, |state| {
                state.phase == Phase::Private
            });
        drop(waited); // Either way the caller looks again.
    }

    /// Whether it is about to be published under its new name, as far as can be told.
    pub fn is_closing(&self) -> bool {
        self.closed_within(CLOSING_WINDOW)
    }

    /// Whether strangers were shown it lately because it was [closing](Self::is_closing).
    pub fn was_closing(&self) -> bool {
        self.closed_within(CLOSING_WINDOW + Duration::from_secs(1))
    }

    fn closed_within(&self, time: Duration) -> bool {
        let state = self.state();
        self.new_name
            && state.phase == Phase::Private
            && state.closed.is_some_and(|closed| closed.elapsed() < time)
    }

    /// What is left of the time in which it is closing.
    pub fn closing_for(&self) -> Duration {
        let closed = self.state().closed;
        closed.map_or(Duration::ZERO, |closed| {
            CLOSING_WINDOW.saturating_sub(closed.elapsed())
        })
    }

    /// Whether anything was written, cut or reserved in it.
    pub fn is_written(&self) -> bool {
        self.written.load(Ordering::Acquire)
    }

    /// Whether content was written that has not been waited for.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Notes a change of its content that ends at byte `end`. Returns the highest such byte
    /// before and now.
    pub fn note_written(&self, end: u64) -> (u64, u64) {
        self.written.store(true, Ordering::Release);
        self.dirty.store(true, Ordering::Release);
        let before = self.high_water.fetch_max(end, Ordering::AcqRel);
        (before, before.max(end))
    }

    /// Says that what was written so far is about to be waited for.
    pub fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::AcqRel)
    }

    /// Takes that back: the wait failed, or did not happen.
    pub fn set_dirty(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// Remembers the first write error: the kernel reports it once and forgets it.
    pub fn poison(&self, error: &io::Error) {
        let mut state = self.state();
        if state.poison.is_none() {
            state.poison = Some(error.kind());
            state.errno = error.raw_os_error();
        }
    }

    /// Whether there is a note in staging that says what it is.
    pub fn is_noted(&self) -> bool {
        self.noted.load(Ordering::Acquire)
    }

    /// Says that there is.
    pub fn set_noted(&self) {
        self.noted.store(true, Ordering::Release);
    }

    /// Whether its content was dropped because there was no space for it.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Acquire)
    }

    /// That nothing is read from what was [dropped](Self::is_spent), nor written to it.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn check_unspent(&self) -> io::Result<()> {
        match self.is_spent() {
            true => Err(self.poisoned().unwrap_or(io::ErrorKind::StorageFull.into())),
            false => Ok(()),
        }
    }

    /// Says that it is.
    pub fn set_spent(&self) {
        self.spent.store(true, Ordering::Release);
    }

    /// [`poisoned`](Self::poisoned), for a close that is about to say so.
    pub fn tell(&self) -> Option<io::Error> {
        let error = self.poisoned()?;
        self.state().told = true;
        Some(error)
    }

    /// The write error that keeps it from being published.
    pub fn poisoned(&self) -> Option<io::Error> {
        let state = self.state();
        let kind = state.poison?;
        Some(
            state
                .errno
                .map_or_else(|| io::Error::from(kind), io::Error::from_raw_os_error),
        )
    }
}

/// An open handle that may write to a draft: one open file description.
pub struct Writer<D: Disk> {
    /// What it writes to.
    pub draft: Arc<Draft<D>>,
    /// The process that opened this handle.
    pub opener: Option<Process>,
    /// Whether that process has closed a descriptor of it since.
    pub opener_closed: AtomicBool,
}

/// The guard of `mutex` if nobody has it.
fn free<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
