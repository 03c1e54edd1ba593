//! Open handles: what the kernel's `fh` stands for.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use polystore::disk::{FileId, SystemDisk};

use super::listing::Stream;
use super::turns::Turn;
use crate::engine::credentials::Credentials;
use crate::engine::draft::{Draft, Writer};
use crate::engine::editing::{Edit, Editor};
use crate::engine::locks::Table;
use crate::engine::process::{Caller, Process, Processes};
use crate::shares::Share;

/// What a handle gives access to.
pub enum Target {
    /// A published file, by its own descriptor.
    Version {
        /// The descriptor.
        file: Arc<File>,
        /// As what it is counted among those who write the file itself.
        counted: Option<Counted>,
    },
    /// A draft, to write (and read) it.
    Writer(Writer<SystemDisk>),
    /// A draft, to read it.
    DraftReader(Arc<Draft<SystemDisk>>),
    /// What the editors of a name share, to write (and read) it.
    Editor(Editor<SystemDisk>),
    /// The same, to read it.
    EditReader(Arc<Edit<SystemDisk>>),
    /// A directory's names.
    Directory(Mutex<Stream>),
}

/// A handle that writes a published file itself.
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// At its end.
    Append(FileId),
    /// Anywhere.
    Write(FileId),
}

/// One open file description.
pub struct Handle {
    /// Its number.
    pub id: u64,
    /// The node it was opened as.
    pub node: u64,
    /// What it gives access to.
    pub target: Target,
    /// Whether every write has to be durable when it returns (O_SYNC, O_DSYNC).
    pub synchronous: bool,
    /// Whether it may write.
    pub writable: bool,
    /// Who opened it.
    pub opener: Option<Process>,
    /// As whom.
    pub user: Credentials,
    /// The version that it was moved to since, because a lock was granted on its node.
    pub moved: Mutex<Option<Arc<File>>>,
    /// The lock table it locked in first.
    pub table: OnceLock<Arc<Table>>,
    /// Whether it is noted as an in-place file with byte-range locks.
    pub locked_in_place: AtomicBool,
    /// Whether it wrote a published file through another node than its readers'.
    pub wrote_in_place: AtomicBool,
    /// The turn that it was opened in.
    turn: Mutex<Option<Turn>>,
    /// What it takes of what its user may have.
    shares: Mutex<Vec<Share>>,
}

impl Handle {
    /// `share` is what it takes, too, of what its user may have.
    pub fn counts_as(&self, share: Share) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.push(share);
    }

    fn turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn that it was opened in is its own until it is released.
    pub fn keep_turn(&self, turn: Turn) {
        *self.turn() = Some(turn);
    }

    /// Which turn that is.
    pub fn turn_id(&self) -> Option<u64> {
        self.turn().as_ref().map(Turn::id)
    }

    /// Takes the turn out, to end it.
    pub fn take_turn(&self) -> Option<Turn> {
        self.turn().take()
    }

    /// As whom `caller` uses it. Nothing has to be looked up for who opened it.
    pub fn credentials_of(&self, caller: Caller, processes: &impl Processes) -> Credentials {
        match self.user.are_of(caller) {
            true => self.user.clone(),
            false => processes.credentials(caller),
        }
    }

    /// The draft it writes to.
    pub fn writer(&self) -> Option<&Writer<SystemDisk>> {
        match &self.target {
            Target::Writer(writer) => Some(writer),
            _ => None,
        }
    }

    /// The edit it takes part in as a writer.
    pub fn editor(&self) -> Option<&Editor<SystemDisk>> {
        match &self.target {
            Target::Editor(editor) => Some(editor),
            _ => None,
        }
    }

    /// The edit it was opened on.
    pub fn edit(&self) -> Option<&Arc<Edit<SystemDisk>>> {
        match &self.target {
            Target::Editor(editor) => Some(&editor.edit),
            Target::EditReader(edit) => Some(edit),
            _ => None,
        }
    }
}

/// All open handles.
#[derive(Default)]
pub struct Handles {
    map: Mutex<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
}

/// What [`Handles::add`] is told; the rest starts empty.
pub struct NewHandle {
    /// See [`Handle`].
    pub node: u64,
    /// See [`Handle`].
    pub target: Target,
    /// See [`Handle`].
    pub synchronous: bool,
    /// See [`Handle`].
    pub writable: bool,
    /// See [`Handle`].
    pub opener: Option<Process>,
    /// See [`Handle`].
    pub user: Credentials,
}

impl Handles {
    /// Adds a handle.
    pub fn add(&self, new: NewHandle) -> Arc<Handle> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let handle = Arc::new(Handle {
            id,
            node: new.node,
            target: new.target,
            synchronous: new.synchronous,
            writable: new.writable,
            opener: new.opener,
            user: new.user,
            moved: Mutex::new(None),
            table: OnceLock::new(),
            locked_in_place: AtomicBool::new(false),
            wrote_in_place: AtomicBool::new(false),
            turn: Mutex::new(None),
            shares: Mutex::default(),
        });
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, handle.clone());
        handle
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        let map = self.map.lock();
        map.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The handle with number `id`.
    pub fn get(&self, id: u64) -> Option<Arc<Handle>> {
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// The handles that were opened on `node`.
    pub fn of_node(&self, node: u64) -> Vec<Arc<Handle>> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let handles = map.values().filter(|handle| handle.node == node);
        handles.cloned().collect()
    }

    /// Removes a handle.
    pub fn remove(&self, id: u64) -> Option<Arc<Handle>> {
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id)
    }

    /// All handles there are, without keeping them in the table.
    pub fn take_all(&self) -> Vec<Arc<Handle>> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.drain().map(|(_, handle)| handle).collect()
    }
}
