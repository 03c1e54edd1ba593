//! Processes, and who sees what under a name.

use super::{Draft, Ino, Mode, Model, State};
use crate::processes::Pid;

#[derive(Clone, Copy)]
pub(in super::super) struct Process {
    pub(in super::super) parent: Pid,
    /// How many processes had been started by then, this one included.
    pub(in super::super) born: u32,
    pub(in super::super) image: u32,
}

/// What a name stands for, as one process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum View {
    Draft(usize),
    Edit(usize),
    Published(Ino),
    Nothing,
}

impl Model {
    pub(in super::super) fn start(&mut self, pid: Pid, parent: Pid, image: u32) {
        self.started += 1;
        let born = self.started;
        let process = Process {
            parent,
            born,
            image,
        };
        self.processes.insert(pid, process);
    }

    pub(in super::super) fn new_image(&mut self) -> u32 {
        self.images += 1;
        self.images
    }

    /// Whether `pid` is `opener` or descends from a child that it made after `moment`: a worker
    /// that was forked before is a stranger.
    pub(super) fn is_family(&self, pid: Pid, opener: Pid, moment: u32) -> bool {
        let mut current = pid;
        while current != opener {
            match self.processes.get(&current) {
                Some(process) if process.born > moment => current = process.parent,
                _ => return false,
            }
        }
        self.processes.contains_key(&current)
    }

    /// A draft of a new name is seen by its maker, the descendants made since, and who joined it; a
    /// rewrite once it is written, by its opener and the forks made since, while they have not
    /// exec'd (`sort f > f` reads the old version).
    pub(super) fn sees(&self, pid: Pid, draft: &Draft) -> bool {
        if draft.state != State::Private {
            return false;
        }
        let family = self.is_family(pid, draft.opener, draft.moment);
        if draft.new {
            return family || draft.joined.contains(&pid);
        }
        family && draft.written && self.processes[&pid].image == draft.image
    }

    /// A written edit is seen by every process that has it open, and the forks made since that
    /// open, while they have not exec'd.
    pub(super) fn sees_edit(&self, pid: Pid, edit: usize) -> bool {
        self.edits[edit].draft.is_some()
            && self.editors(edit).any(|open| {
                self.is_family(pid, open.opener, open.moment)
                    && self.processes[&pid].image == open.image
            })
    }

    /// What `pid` finds under `name`. Of a file that is edited in place, everybody finds the edit.
    pub(in super::super) fn view(&self, pid: Pid, name: usize) -> View {
        if let Some(draft) = self.newest(name, |draft| self.sees(pid, draft)) {
            return View::Draft(draft);
        }
        let edit = self.edit_of(name).filter(|edit| {
            matches!(self.edits[*edit].mode, Mode::InPlace(_)) || self.sees_edit(pid, *edit)
        });
        match (edit, self.names[name]) {
            (Some(edit), _) => View::Edit(edit),
            (None, Some(ino)) => View::Published(ino),
            (None, None) => View::Nothing,
        }
    }

    /// The file that `pid` finds under `name`.
    pub(in super::super) fn look(&self, pid: Pid, name: usize) -> Option<Ino> {
        match self.view(pid, name) {
            View::Draft(id) => Some(self.drafts[id].ino),
            View::Edit(id) => Some(self.shown(id)),
            View::Published(ino) => Some(ino),
            View::Nothing => None,
        }
    }
}
