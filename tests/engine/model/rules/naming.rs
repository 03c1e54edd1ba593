//! Renames, exchanges, links and removals.

use super::{Mode, Model, State, View};
use crate::processes::Pid;

impl Model {
    /// Whether it succeeds. A rename by who holds a rewrite of `from` publishes that, at once, and
    /// drops the version that was to be replaced; edits follow their file; rewrites stay.
    pub(in super::super) fn rename(
        &mut self,
        pid: Pid,
        from: usize,
        to: usize,
        replace: bool,
    ) -> bool {
        if !replace && (self.is_reserved(to) || self.names[to].is_some()) {
            return false;
        }
        let image = self.processes[&pid].image;
        let moved = self.newest(from, |draft| {
            if draft.new {
                self.sees(pid, draft)
            } else {
                draft.opener == pid && draft.image == image
            }
        });
        let edit = self.edit_of(from);
        match (moved, self.names[from]) {
            (Some(id), _) if self.drafts[id].poisoned => return false,
            (Some(id), _) => {
                self.orphan_edit(pid, to);
                self.publish(id, to);
                if !self.drafts[id].new {
                    self.orphan_edit(pid, from);
                    self.names[from] = None;
                }
            }
            // rename(2): of two names of one file, nothing happens.
            (None, Some(ino)) if self.names[to] == Some(ino) => return true,
            (None, Some(ino)) => {
                self.orphan_edit(pid, to);
                self.names[from] = None;
                self.names[to] = Some(ino);
                self.published[to].count(false);
                if let Some(edit) = edit {
                    self.edits[edit].name = Some(to);
                }
            }
            (None, None) => return false,
        }
        self.orphan(pid, to);
        self.locks.renamed(from, to);
        true
    }

    /// RENAME_EXCHANGE. Whether it succeeds. Edits go with their files; rewrites of either name
    /// are of something that is not there any more.
    pub(in super::super) fn exchange(&mut self, pid: Pid, one: usize, two: usize) -> bool {
        if self.names[one].is_none() || self.names[two].is_none() {
            return false;
        }
        if self.names[one] == self.names[two] {
            return true;
        }
        self.names.swap(one, two);
        for edit in &mut self.edits {
            edit.name = edit.name.map(|name| match name {
                name if name == one => two,
                name if name == two => one,
                name => name,
            });
        }
        self.orphan(pid, one);
        self.orphan(pid, two);
        self.locks.exchanged(one, two);
        true
    }

    /// Whether it succeeds. A draft that the caller sees is published by it, under both names; of
    /// an edit it is the published version that gets the name.
    pub(in super::super) fn link(&mut self, pid: Pid, from: usize, to: usize) -> bool {
        if self.is_reserved(to) || self.names[to].is_some() {
            return false;
        }
        let ino = match self.view(pid, from) {
            View::Draft(id) if self.drafts[id].poisoned => return false,
            View::Draft(id) => {
                self.publish(id, from);
                self.drafts[id].ino
            }
            View::Edit(_) | View::Published(_) => match self.names[from] {
                Some(ino) => ino,
                None => return false,
            },
            View::Nothing => return false,
        };
        self.names[to] = Some(ino);
        self.locks.linked(from, ino);
        true
    }

    /// Whether it succeeds.
    pub(in super::super) fn unlink(&mut self, pid: Pid, name: usize) -> bool {
        if self.names[name].is_some() {
            self.published[name].count(false);
            self.orphan_edit(pid, name);
            self.names[name] = None;
            self.orphan(pid, name);
            self.locks.removed(name);
            return true;
        }
        let mut any = false;
        while let Some(id) = self.newest(name, |draft| self.sees(pid, draft)) {
            let own = self.drafts[id].opener == pid;
            self.drafts[id].state = State::Orphan { own };
            any = true;
        }
        if any {
            self.locks.removed(name);
        }
        any
    }

    /// Something else stands under `name`: what was to be published there is not.
    fn orphan(&mut self, pid: Pid, name: usize) {
        for draft in &mut self.drafts {
            if draft.name == name && draft.state == State::Private {
                let own = draft.opener == pid;
                draft.state = State::Orphan { own };
            }
        }
    }

    /// The file loses the name under which it is edited: its editors keep what they have. Without
    /// their draft that is the version that it was made from, or that they were shown.
    fn orphan_edit(&mut self, pid: Pid, name: usize) {
        let Some(id) = self.edit_of(name) else {
            return;
        };
        let own = self.editors(id).any(|open| open.opener == pid);
        let made_from = self.edits[id].draft.as_ref().map(|draft| draft.made_from);
        let old = made_from.unwrap_or_else(|| self.shown(id));
        self.edits[id].mode = Mode::Orphan { old, own };
        self.edits[id].name = None;
    }
}
