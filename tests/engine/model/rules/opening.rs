//! What an open means.

use super::{
    Counts, Draft, Edit, HandleId, Ino, Mode, Model, NEIGHBOUR, Open, State, Target, View,
};
use crate::processes::Pid;

/// How a name is opened. All but `Read` make a name that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum How {
    /// O_RDONLY.
    Read,
    /// O_RDONLY | O_CREAT.
    Make,
    /// O_RDWR | O_TRUNC.
    Rewrite,
    /// O_RDWR | O_APPEND.
    Append,
    /// O_RDWR.
    Edit,
    /// O_RDWR | O_EXCL.
    Exclusive,
}

/// What is to be done with an open for writing.
pub(super) enum Plan {
    /// The published file itself is opened, or made.
    InPlace,
    /// This draft.
    Join(usize),
    /// A new draft, which is private.
    Rewrite,
    /// This edit, or a new one.
    Edit(Option<usize>),
}

/// Why an open fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Refused {
    Exists,
    Missing,
    /// What was to be truncated was emptied for want of space.
    Full,
}

impl Model {
    /// `pid` opens `name`.
    pub(in super::super) fn open(
        &mut self,
        pid: Pid,
        name: usize,
        how: How,
    ) -> Result<HandleId, Refused> {
        let target = match how {
            How::Read | How::Make => self.open_to_read(pid, name, how)?,
            _ => self.open_to_write(pid, name, how)?,
        };
        let handle = self.add_open(pid, name, target, how);
        if how == How::Rewrite && matches!(target, Target::Edit(_)) {
            // That is a write like any other.
            if !self.truncate(handle, 0) {
                self.release(handle);
                return Err(Refused::Full);
            }
        }
        Ok(handle)
    }

    /// A reader has the version that was published when it opened, until it closes.
    fn open_to_read(&mut self, pid: Pid, name: usize, how: How) -> Result<Target, Refused> {
        let ino = match self.look(pid, name) {
            Some(ino) => ino,
            None if how == How::Make => self.publish_empty(name),
            None => return Err(Refused::Missing),
        };
        Ok(Target::Reader(ino))
    }

    fn open_to_write(&mut self, pid: Pid, name: usize, how: How) -> Result<Target, Refused> {
        let seen = self.view(pid, name);
        let taken = seen != View::Nothing || self.is_reserved(name);
        if how == How::Exclusive && taken {
            return Err(Refused::Exists);
        }
        // Who reaches the node of a draft joins it, whatever else is open.
        let plan = match seen {
            View::Draft(id) => Plan::Join(id),
            _ => self.plan(pid, name, how),
        };
        Ok(match plan {
            Plan::InPlace => self.in_place(name, how),
            Plan::Join(id) if how == How::Rewrite && self.spent.contains(&self.drafts[id].ino) => {
                self.drafts[id].joined.push(pid);
                return Err(Refused::Full);
            }
            Plan::Join(id) => self.join(pid, id, how),
            Plan::Rewrite => self.new_draft(pid, name, how),
            Plan::Edit(Some(id)) => Target::Edit(id),
            Plan::Edit(None) => self.new_edit(name),
        })
    }

    /// In the order of the rules: in place, join, append, rewrite, edit.
    pub(super) fn plan(&self, pid: Pid, name: usize, how: How) -> Plan {
        let published = self.names[name];
        let database = published.is_none() && self.belongs_to_database(pid, how);
        if self.is_neighbour(name) || database {
            return Plan::InPlace;
        }
        if let Some(edit) = self.edit_in_place(name) {
            return Plan::Edit(Some(edit));
        }
        if let Some(id) = self.draft_to_join(pid, name, how) {
            return Plan::Join(id);
        }
        if let Some(edit) = self.edit_to_join(pid, name, how) {
            return Plan::Edit(Some(edit));
        }
        if how == How::Append {
            return Plan::InPlace;
        }
        let Some(ino) = published else {
            return Plan::Rewrite;
        };
        if self.links(ino) != 1 || self.is_appended(ino) {
            return Plan::InPlace;
        }
        if how == How::Rewrite {
            return Plan::Rewrite;
        }
        if self.is_written_in_place(ino, None) {
            return Plan::InPlace;
        }
        Plan::Edit(None)
    }

    /// A database's journal stays as its writer left it, whatever becomes of the writer: so it is
    /// in place while somebody has locked ranges of the database.
    fn is_neighbour(&self, name: usize) -> bool {
        name == NEIGHBOUR && self.names[0].is_some_and(|ino| self.locks.is_database(ino))
    }

    /// LMDB's data file, beside the lock file that its process holds.
    fn belongs_to_database(&self, pid: Pid, how: How) -> bool {
        matches!(how, How::Edit | How::Append) && self.locks.has_database(pid)
    }

    fn edit_in_place(&self, name: usize) -> Option<usize> {
        self.edit_of(name)
            .filter(|edit| matches!(self.edits[*edit].mode, Mode::InPlace(_)))
    }

    /// The draft that an open joins whose name still shows it the published version: its own
    /// unwritten one (`> f 2> f`), the written one of a process above it, whatever program they
    /// run by now, and what another maker of the name has not written yet, if both edit.
    fn draft_to_join(&self, pid: Pid, name: usize, how: How) -> Option<usize> {
        self.newest(name, |draft| {
            let own = draft.opener == pid;
            if draft.poisoned {
                return false;
            }
            if own && !draft.written {
                return true;
            }
            // Its own next version: the two never mix.
            if own && !draft.new && how == How::Rewrite {
                return false;
            }
            if how == How::Edit && draft.shared && !draft.written {
                return true;
            }
            draft.written && self.is_family(pid, draft.opener, draft.moment)
        })
    }

    /// Editors share. What is appended goes where others write at that moment. Who truncates what
    /// it edits itself starts anew; its forks, which see what it wrote, truncate that.
    fn edit_to_join(&self, pid: Pid, name: usize, how: How) -> Option<usize> {
        self.edit_of(name).filter(|edit| match how {
            How::Append => self.edits[*edit].draft.is_some(),
            How::Rewrite => {
                self.sees_edit(pid, *edit) && self.editors(*edit).all(|open| open.opener != pid)
            }
            _ => true,
        })
    }

    fn join(&mut self, pid: Pid, id: usize, how: How) -> Target {
        self.drafts[id].joined.push(pid);
        if how == How::Rewrite {
            self.files[self.drafts[id].ino].clear();
        }
        Target::Draft(id)
    }

    /// The published file itself; one that is missing is published at once, empty.
    fn in_place(&mut self, name: usize, how: How) -> Target {
        let ino = match self.names[name] {
            Some(ino) => ino,
            None => self.publish_empty(name),
        };
        if how == How::Rewrite {
            self.files[ino].clear();
        }
        Target::Version(ino)
    }

    fn publish_empty(&mut self, name: usize) -> Ino {
        let ino = self.new_file("");
        self.names[name] = Some(ino);
        ino
    }

    fn new_draft(&mut self, pid: Pid, name: usize, how: How) -> Target {
        let new = self.names[name].is_none();
        let ino = self.new_file("");
        self.drafts.push(Draft {
            name,
            ino,
            new,
            exclusive: how == How::Exclusive,
            shared: new && how == How::Edit,
            opener: pid,
            image: self.processes[&pid].image,
            moment: self.started,
            base: self.published[name],
            joined: vec![pid],
            written: false,
            poisoned: false,
            opener_killed: false,
            last_killed: false,
            state: State::Private,
        });
        Target::Draft(self.drafts.len() - 1)
    }

    fn new_edit(&mut self, name: usize) -> Target {
        self.edits.push(Edit {
            name: Some(name),
            mode: Mode::Shared,
            draft: None,
        });
        Target::Edit(self.edits.len() - 1)
    }

    fn add_open(&mut self, pid: Pid, name: usize, target: Target, how: How) -> HandleId {
        let slot = self.lock_key(name, target);
        self.next_handle += 1;
        let open = Open {
            target,
            opener: pid,
            image: self.processes[&pid].image,
            moment: self.started,
            holders: vec![pid],
            slot,
            appends: how == How::Append,
            wrote: false,
            opener_killed: false,
            last_killed: false,
        };
        self.opens.insert(self.next_handle, open);
        self.next_handle
    }
}

impl Counts {
    pub(super) fn count(&mut self, exclusive: bool) {
        self.any += 1;
        self.exclusive += u32::from(exclusive);
    }
}
