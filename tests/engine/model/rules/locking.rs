//! flock and fcntl locks belong to the slot, and tell files from streams and databases.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use polystore_mount::engine::locks::Class;

use super::{HandleId, Ino, Mode, Model, State, Target};
use crate::processes::Pid;

/// The parts of a file that are locked here; the last one has no end.
pub(in super::super) const CELLS: usize = 3;
pub(in super::super) type Range = RangeInclusive<usize>;

/// What locks are of: a slot keeps its locks through renames, so it is not known by its name.
pub(in super::super) type LockKey = u32;

/// A lock of one part.
#[derive(Clone, Copy)]
pub(in super::super) struct Held {
    exclusive: bool,
    handle: HandleId,
}

/// Somebody locked a range of a file that is in place: it is a database.
struct Database {
    handle: HandleId,
    ino: Ino,
    process: Pid,
}

/// Whose a lock is: a description's (flock) or a process's (fcntl).
type Owner = u64;

#[derive(Default)]
pub(in super::super) struct Locks {
    held: BTreeMap<(LockKey, bool, usize, Owner), Held>,
    of_name: BTreeMap<usize, LockKey>,
    of_file: BTreeMap<Ino, LockKey>,
    last: LockKey,
    databases: Vec<Database>,
}

impl Locks {
    fn fresh(&mut self) -> LockKey {
        self.last += 1;
        self.last
    }

    pub(super) fn is_database(&self, ino: Ino) -> bool {
        self.databases.iter().any(|database| database.ino == ino)
    }

    pub(super) fn has_database(&self, pid: Pid) -> bool {
        self.databases
            .iter()
            .any(|database| database.process == pid)
    }

    /// The locks of `from` follow its rename; those of what was called `to` stay with its handles.
    pub(super) fn renamed(&mut self, from: usize, to: usize) {
        match self.of_name.remove(&from) {
            Some(key) => self.of_name.insert(to, key),
            None => self.of_name.remove(&to),
        };
    }

    pub(super) fn exchanged(&mut self, one: usize, two: usize) {
        let (first, second) = (self.of_name.remove(&one), self.of_name.remove(&two));
        self.of_name.extend(first.map(|key| (two, key)));
        self.of_name.extend(second.map(|key| (one, key)));
    }

    /// A file got another name: from now on it is locked as itself, by those who know it by its
    /// first name, too.
    pub(super) fn linked(&mut self, name: usize, ino: Ino) {
        if let Some(key) = self.of_name.get(&name) {
            self.of_file.insert(ino, *key);
        }
    }

    pub(super) fn removed(&mut self, name: usize) {
        self.of_name.remove(&name);
    }

    /// A close of any descriptor of a file ends the process's fcntl locks on it, as POSIX says.
    pub(in super::super) fn closed(&mut self, key: LockKey, pid: Pid) {
        self.held
            .retain(|(of, posix, _, owner), _| !(*of == key && *posix && *owner == u64::from(pid)));
    }

    fn drop_range(&mut self, key: LockKey, ask: &Ask) {
        for cell in ask.range.clone() {
            self.held.remove(&(key, ask.is_posix(), cell, ask.owner()));
        }
    }

    fn held_through(&self, handle: HandleId) -> bool {
        self.held.values().any(|held| held.handle == handle)
    }

    pub(super) fn released(&mut self, handle: HandleId) {
        self.held.retain(|_, held| held.handle != handle);
        self.databases.retain(|database| database.handle != handle);
    }
}

/// What becomes of a request for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Locked {
    Granted,
    WouldBlock,
}

/// A request for a lock, without waiting; `exclusive` is `None` to unlock.
#[derive(Clone, Debug)]
pub(in super::super) struct Ask {
    pub(in super::super) handle: HandleId,
    pub(in super::super) pid: Pid,
    pub(in super::super) class: Class,
    pub(in super::super) range: Range,
    pub(in super::super) exclusive: Option<bool>,
}

impl Ask {
    fn is_posix(&self) -> bool {
        self.class == Class::Posix
    }

    fn owner(&self) -> Owner {
        match self.class {
            Class::Flock | Class::Turn => self.handle,
            Class::Posix => self.pid.into(),
        }
    }

    pub(in super::super) fn is_whole(&self) -> bool {
        self.range == (0..=CELLS - 1)
    }
}

impl Model {
    /// The slot whose locks an open of `name` takes: of a file with several names, the file. That
    /// lasts as long as somebody has it open; so who opened a file while it had two names and who
    /// opens it when it has one again may not know of each other.
    pub(super) fn lock_key(&mut self, name: usize, target: Target) -> LockKey {
        let several = match target {
            Target::Reader(ino) | Target::Version(ino) if self.links(ino) > 1 => Some(ino),
            _ => None,
        };
        let known = match several {
            Some(ino) => self.locks.of_file.get(&ino),
            None => self.locks.of_name.get(&name),
        };
        let in_use = |key: &&LockKey| self.opens.values().any(|open| open.slot == **key);
        if let Some(key) = known.filter(in_use) {
            return *key;
        }
        let locks = &mut self.locks;
        let key = locks.fresh();
        match several {
            Some(ino) => locks.of_file.insert(ino, key),
            None => locks.of_name.insert(name, key),
        };
        key
    }

    /// Locks or unlocks.
    pub(in super::super) fn lock(&mut self, ask: &Ask) -> Locked {
        let key = self.opens[&ask.handle].slot;
        let Some(exclusive) = ask.exclusive else {
            self.unlock(key, ask);
            return Locked::Granted;
        };
        let (posix, owner) = (ask.is_posix(), ask.owner());
        let conflict = self.locks.held.iter().any(|(lock, held)| {
            let (of, class, cell, other) = lock;
            let near = *of == key && *class == posix && ask.range.contains(cell);
            near && *other != owner && (held.exclusive || exclusive)
        });
        if conflict {
            return Locked::WouldBlock;
        }
        if !ask.is_whole() && self.came_late(ask.handle) {
            self.locks.drop_range(key, ask);
            return Locked::WouldBlock;
        }
        for cell in ask.range.clone() {
            let handle = ask.handle;
            let held = Held { exclusive, handle };
            self.locks.held.insert((key, posix, cell, owner), held);
        }
        self.granted(ask);
        Locked::Granted
    }

    /// What was written under a lock is published when that is given up, so that who locks next
    /// sees it.
    fn unlock(&mut self, key: LockKey, ask: &Ask) {
        let held = self.locks.held_through(ask.handle);
        self.locks.drop_range(key, ask);
        if let Target::Edit(id) = self.opens[&ask.handle].target
            && held
            && self.edits[id]
                .draft
                .as_ref()
                .is_some_and(|draft| !draft.poisoned)
        {
            self.publish_edit(id);
        }
    }

    /// Whether `handle` has an unwritten draft of a new name that somebody else has published a
    /// file under meanwhile: that one must be locked, not this.
    fn came_late(&self, handle: HandleId) -> bool {
        self.unwritten_new(handle)
            .is_some_and(|id| self.names[self.drafts[id].name].is_some())
    }

    fn unwritten_new(&self, handle: HandleId) -> Option<usize> {
        let Target::Draft(id) = self.opens[&handle].target else {
            return None;
        };
        let draft = &self.drafts[id];
        let fresh = draft.new && !draft.written && draft.state == State::Private;
        fresh.then_some(id)
    }

    /// A lock on a new file publishes it, empty: it is of use only to those who see it. A lock of a
    /// range says that the program runs its own protocol: what it has not written yet is written in place.
    fn granted(&mut self, ask: &Ask) {
        let fresh = self.unwritten_new(ask.handle);
        if let Some(id) = fresh
            && !self.came_late(ask.handle)
        {
            let name = self.drafts[id].name;
            self.publish(id, name);
        }
        if !ask.is_whole() {
            self.range_locked(ask.handle);
        }
    }

    fn range_locked(&mut self, handle: HandleId) {
        let open = &self.opens[&handle];
        let process = open.opener;
        let ino = match open.target {
            Target::Reader(_) => return,
            Target::Version(ino) => ino,
            Target::Draft(id) if self.drafts[id].state == State::Published => self.drafts[id].ino,
            Target::Draft(_) => return,
            Target::Edit(id) => {
                let edit = &mut self.edits[id];
                if edit.draft.is_some() {
                    return;
                }
                if edit.mode == Mode::Shared
                    && let Some(ino) = edit.name.and_then(|name| self.names[name])
                {
                    edit.mode = Mode::InPlace(ino);
                }
                match edit.mode {
                    Mode::InPlace(ino) => ino,
                    Mode::Shared | Mode::Orphan { .. } => return,
                }
            }
        };
        if self.locks.databases.iter().all(|old| old.handle != handle) {
            self.locks.databases.push(Database {
                handle,
                ino,
                process,
            });
        }
    }
}
