//! The engine: what an open means, and how versions come to be published.
//!
//! It knows slots, drafts and processes; it knows neither the kernel's FUSE nor
//! error numbers. An adapter (beside this folder) translates, calls and replies.
//! `DESIGN.md` in this folder has the invariants, the states and the crash table.
//!
//! Lock order: the table of slots before [`draft::Draft::state`] before anything
//! in [`salvage`] or [`staging`]; neither of the first two is held while the
//! disk is asked for anything that can wait.

pub mod credentials;
pub mod draft;
pub mod editing;
pub mod failing;
pub mod ledger;
pub mod locks;
pub mod naming;
pub mod opening;
pub mod order;
pub mod overview;
pub mod policy;
pub mod process;
pub mod publish;
pub mod rights;
pub mod salvage;
pub mod slot;
pub mod staging;
pub mod visibility;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polystore::Durability;
use polystore::disk::{Disk, FileId};

use ledger::Ledger;
use policy::{Direct, Turns};
use process::{Process, Processes};
use salvage::Salvage;
use slot::Slots;
use staging::Session;

/// What an engine is told when it starts.
pub struct Settings {
    /// What a publish waits for.
    pub durability: Durability,
    /// Which files are written in place by their names.
    pub direct: Direct,
    /// Whose writers take turns.
    pub turns: Turns,
    /// The user the engine runs as: user 0 may give files away.
    pub uid: u32,
}

/// An in-place file that somebody holds a byte-range lock on.
struct LockedInPlace {
    handle: u64,
    file: FileId,
    dir: FileId,
    process: Option<Process>,
}

/// The engine over a disk.
pub struct Engine<D: Disk, P: Processes> {
    /// The disk that versions and drafts lie on.
    pub disk: Arc<D>,
    /// The processes that call.
    pub processes: P,
    /// What it was told.
    pub settings: Settings,
    /// Where drafts are staged; `None` where the root of the data cannot be written.
    pub session: Option<Session<D>>,
    /// Where dropped drafts are kept; `None` if switched off or impossible.
    pub salvage: Option<Salvage<D>>,
    /// What has happened.
    pub ledger: Ledger,
    slots: Mutex<Slots<D>>,
    appenders: Mutex<OpenCounts>,
    writers: Mutex<OpenCounts>,
    locked_in_place: Mutex<Vec<LockedInPlace>>,
    next_draft: AtomicU64,
}

impl<D: Disk, P: Processes> Engine<D, P> {
    /// An engine that has no drafts yet.
    pub fn new(
        disk: Arc<D>,
        processes: P,
        settings: Settings,
        session: Option<Session<D>>,
        salvage: Option<Salvage<D>>,
    ) -> Engine<D, P> {
        Engine {
            disk,
            processes,
            settings,
            session,
            salvage,
            ledger: Ledger::default(),
            slots: Mutex::default(),
            appenders: Mutex::default(),
            writers: Mutex::default(),
            locked_in_place: Mutex::default(),
            next_draft: AtomicU64::new(1),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots<D>> {
        unpoisoned(&self.slots)
    }

    /// Notes that `file` was opened for append: rewrites of it go in place meanwhile.
    pub fn append_opened(&self, file: FileId) {
        unpoisoned(&self.appenders).opened(file, 1);
    }

    /// Takes [`append_opened`](Self::append_opened) back.
    pub fn append_closed(&self, file: FileId) {
        unpoisoned(&self.appenders).closed(file);
    }

    pub(crate) fn is_appended(&self, file: FileId) -> bool {
        unpoisoned(&self.appenders).any(file)
    }

    /// Notes that `count` handles write the published `file` itself: edits of it go in place meanwhile.
    pub fn in_place_opened(&self, file: FileId, count: usize) {
        unpoisoned(&self.writers).opened(file, count);
    }

    /// Takes [`in_place_opened`](Self::in_place_opened) back, for one handle.
    pub fn in_place_closed(&self, file: FileId) {
        unpoisoned(&self.writers).closed(file);
    }

    pub(crate) fn is_written_in_place(&self, file: FileId) -> bool {
        unpoisoned(&self.writers).any(file)
    }

    /// Notes a byte-range lock on an in-place file: its neighbours and its process's other new
    /// files in that directory belong to the same database.
    pub fn note_locked_in_place(
        &self,
        handle: u64,
        file: FileId,
        dir: FileId,
        process: Option<Process>,
    ) {
        let mut locked = unpoisoned(&self.locked_in_place);
        if !locked.iter().any(|lock| lock.handle == handle) {
            locked.push(LockedInPlace {
                handle,
                file,
                dir,
                process,
            });
        }
    }

    /// Forgets what [`note_locked_in_place`](Self::note_locked_in_place) noted for a handle.
    pub fn forget_locked_in_place(&self, handle: u64) {
        unpoisoned(&self.locked_in_place).retain(|lock| lock.handle != handle);
    }
}

/// How many times files are open.
#[derive(Default)]
struct OpenCounts(HashMap<FileId, usize>);

impl OpenCounts {
    fn opened(&mut self, file: FileId, count: usize) {
        if count > 0 {
            *self.0.entry(file).or_default() += count;
        }
    }

    fn closed(&mut self, file: FileId) {
        if let Some(count) = self.0.get_mut(&file) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&file);
            }
        }
    }

    fn any(&self, file: FileId) -> bool {
        self.0.contains_key(&file)
    }
}

/// Locks tables whose entries are set and removed in single steps, so that a panic of
/// another holder leaves nothing half done.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
