//! What is right: the semantics of the mount as plain maps.
//!
//! There is no disk here, no staging, no sealing and no kernel: a file is a string, a name is an
//! entry in a table, and a publish is an assignment. Each rule stands in the file of its subject:
//!
//! | file | rules |
//! |---|---|
//! | `family` | processes; who sees what under a name |
//! | `opening` | what an open means, in the order of the rules |
//! | `writing` | first writes, later writes, truncation |
//! | `closing` | killed or finished; publish, discard, salvage |
//! | `naming` | rename, exchange, link, unlink |
//! | `locking` | flock and fcntl locks, and what they do to a file |
//!
//! The words are those of `mount/SEMANTICS.md`.

mod closing;
mod family;
mod locking;
mod naming;
mod opening;
mod writing;

use std::collections::BTreeMap;

use crate::processes::Pid;

pub(super) use family::{Process, View};
pub(super) use locking::{Ask, CELLS, LockKey, Locked, Range};
pub(super) use opening::{How, Refused};

/// How many names there are. Names are numbers here.
pub(super) const NAMES: usize = 3;
/// A name that is a neighbour (SQLite's `-wal`) of name 0.
pub(super) const NEIGHBOUR: usize = 2;

/// An inode, by its number in [`Model::files`].
pub(super) type Ino = usize;
/// An open file description, by its number in [`Model::opens`].
pub(super) type HandleId = u64;

/// Where a draft is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be published under its name.
    Private,
    /// A version: what is written to it now is written in place.
    Published,
    /// Its name was taken away; `own` if by its own process, so that nobody misses it.
    Orphan {
        own: bool,
    },
    Gone,
}

/// A rewrite of an existing name, or the first version of a new one.
pub(super) struct Draft {
    pub(super) name: usize,
    pub(super) ino: Ino,
    /// Nothing was published under the name when it was opened.
    pub(super) new: bool,
    /// Its opener demanded to make the name.
    pub(super) exclusive: bool,
    /// Made by an open that neither truncates nor is exclusive.
    pub(super) shared: bool,
    pub(super) opener: Pid,
    pub(super) image: u32,
    /// How many processes had been started before it was opened.
    pub(super) moment: u32,
    /// What had been published under the name by then.
    pub(super) base: Counts,
    /// Who opened it.
    pub(super) joined: Vec<Pid>,
    pub(super) written: bool,
    pub(super) poisoned: bool,
    pub(super) opener_killed: bool,
    pub(super) last_killed: bool,
    pub(super) state: State,
}

/// Where the changes of an edit go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Into a draft that all editors of the name share.
    Shared,
    /// Into the published file, which this is.
    InPlace(Ino),
    /// Into a file that has lost this name.
    Orphan { old: Ino, own: bool },
}

/// What all share who have an existing name open for editing.
pub(super) struct Edit {
    /// `None` once it has neither editors nor a name.
    pub(super) name: Option<usize>,
    pub(super) mode: Mode,
    pub(super) draft: Option<EditDraft>,
}

/// What the editors have written and nobody else sees.
pub(super) struct EditDraft {
    pub(super) ino: Ino,
    /// The version that it is a copy of.
    pub(super) made_from: Ino,
    pub(super) poisoned: bool,
    /// Whether somebody who wrote it has closed it in peace.
    pub(super) finished: bool,
}

/// What a handle reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Reader(Ino),
    /// The published file itself.
    Version(Ino),
    Draft(usize),
    Edit(usize),
}

/// An open file description.
pub(super) struct Open {
    pub(super) target: Target,
    pub(super) opener: Pid,
    /// What the opener ran, and how many processes had been started.
    pub(super) image: u32,
    pub(super) moment: u32,
    /// Processes that have a descriptor of it.
    pub(super) holders: Vec<Pid>,
    /// The locks that it takes are of this slot.
    pub(super) slot: LockKey,
    /// O_APPEND.
    pub(super) appends: bool,
    // Of an edit:
    pub(super) wrote: bool,
    pub(super) opener_killed: bool,
    pub(super) last_killed: bool,
}

/// How often a version was published under a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) any: u32,
    pub(super) exclusive: u32,
}

/// Why something is in salvage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    Killed,
    WriteError,
    NameTaken,
    Appended,
    Replaced,
}

/// Something in salvage: it is the file itself, so who still has it open may go on with it.
pub(super) struct Kept {
    pub(super) ino: Ino,
    pub(super) why: Why,
}

#[derive(Default)]
pub(super) struct Model {
    /// The content of every file that ever was.
    pub(super) files: Vec<String>,
    /// What is published.
    pub(super) names: [Option<Ino>; NAMES],
    pub(super) published: [Counts; NAMES],
    pub(super) drafts: Vec<Draft>,
    pub(super) edits: Vec<Edit>,
    pub(super) opens: BTreeMap<HandleId, Open>,
    pub(super) kept: Vec<Kept>,
    /// Drafts that were emptied because there was no space for them.
    pub(super) spent: Vec<Ino>,
    pub(super) processes: BTreeMap<Pid, Process>,
    pub(super) started: u32,
    pub(super) images: u32,
    pub(super) locks: locking::Locks,
    next_handle: HandleId,
}

impl Model {
    pub(super) fn new_file(&mut self, content: &str) -> Ino {
        self.files.push(content.to_owned());
        self.files.len() - 1
    }

    /// How many names a file has; salvage gives one, too.
    pub(super) fn links(&self, ino: Ino) -> usize {
        let named = self.names.iter().filter(|name| **name == Some(ino));
        let kept = self.kept.iter().filter(|kept| kept.ino == ino);
        named.count() + kept.count()
    }

    /// Whether somebody has `ino` itself open for append.
    pub(super) fn is_appended(&self, ino: Ino) -> bool {
        let mut opens = self.opens.values();
        opens.any(|open| open.appends && open.target == Target::Version(ino))
    }

    /// Whether some handle that is not one of `edit` writes `ino` itself.
    pub(super) fn is_written_in_place(&self, ino: Ino, edit: Option<usize>) -> bool {
        self.opens.values().any(|open| match open.target {
            Target::Reader(_) => false,
            Target::Version(version) => version == ino,
            Target::Draft(id) => {
                self.drafts[id].state == State::Published && self.drafts[id].ino == ino
            }
            Target::Edit(id) if Some(id) == edit => false,
            Target::Edit(id) => match self.edits[id].mode {
                Mode::InPlace(file) | Mode::Orphan { old: file, .. } => file == ino,
                Mode::Shared => false,
            },
        })
    }

    /// What stands under `name` for its editors.
    pub(super) fn edit_of(&self, name: usize) -> Option<usize> {
        self.edits.iter().position(|edit| edit.name == Some(name))
    }

    pub(super) fn editors(&self, edit: usize) -> impl Iterator<Item = &Open> {
        let target = Target::Edit(edit);
        self.opens
            .values()
            .filter(move |open| open.target == target)
    }

    /// The file that the handles of an edit have before them.
    pub(super) fn shown(&self, edit: usize) -> Ino {
        let edit = &self.edits[edit];
        match (&edit.draft, edit.mode) {
            (Some(draft), _) => draft.ino,
            (None, Mode::InPlace(ino) | Mode::Orphan { old: ino, .. }) => ino,
            (None, Mode::Shared) => edit
                .name
                .and_then(|name| self.names[name])
                .expect("an edit that is no orphan has a published name"),
        }
    }

    /// The file that a handle has before it.
    pub(super) fn file_of(&self, open: &Open) -> Ino {
        match open.target {
            Target::Reader(ino) | Target::Version(ino) => ino,
            Target::Draft(id) => self.drafts[id].ino,
            Target::Edit(id) => self.shown(id),
        }
    }

    /// The newest private draft of `name` for which `holds`.
    fn newest(&self, name: usize, holds: impl Fn(&Draft) -> bool) -> Option<usize> {
        let private = |draft: &Draft| draft.name == name && draft.state == State::Private;
        (0..self.drafts.len())
            .rev()
            .find(|id| private(&self.drafts[*id]) && holds(&self.drafts[*id]))
    }

    /// Whether a draft of a new name keeps others from making it.
    pub(super) fn is_reserved(&self, name: usize) -> bool {
        self.newest(name, |draft| draft.new).is_some()
    }
}
