//! Who sees a draft under its name.

use std::sync::Arc;

use polystore::disk::Disk;

use super::Engine;
use super::draft::{Draft, Phase};
use super::editing::Edit;
use super::process::{Caller, Kin, Process, Processes};
use super::slot::SlotKey;

/// What a name means to a caller.
pub enum View<D: Disk> {
    /// The draft, although it is not published.
    Draft(Arc<Draft<D>>),
    /// What the editors of the name see, or the file that they write in place.
    Edit(Arc<Edit<D>>),
    /// What is published, if anything. `volatile` if it can change at any moment, because
    /// there are drafts: nobody may remember the answer.
    Published {
        /// See above.
        volatile: bool,
    },
}

impl<D: Disk, P: Processes> Engine<D, P> {
    /// Whether `caller` was shown `draft` only because it is about to be published: it has to
    /// wait for that before it opens it.
    pub fn must_wait_for(&self, caller: Caller, draft: &Draft<D>) -> bool {
        draft.was_closing() && {
            let kin = self.kin(self.processes.process_of(caller.tid));
            !self.sees(kin.as_ref(), draft)
        }
    }

    /// The kin of `process`, to be compared with those who have drafts.
    pub(super) fn kin(&self, process: Option<Process>) -> Option<Kin<'_, P>> {
        process.map(|process| Kin::new(&self.processes, process))
    }

    /// What `slot` means to `caller`.
    pub fn view(&self, caller: Caller, slot: &SlotKey) -> View<D> {
        let (drafts, edit) = {
            let slots = self.slots();
            (slots.drafts(slot).to_vec(), slots.edit(slot).cloned())
        };
        if drafts.is_empty() && edit.is_none() {
            return View::Published { volatile: false };
        }
        let kin = self.kin(self.processes.process_of(caller.tid));
        let kin = kin.as_ref();
        let newest_first = || drafts.iter().rev();
        let draft = newest_first()
            .find(|draft| self.sees(kin, draft))
            .or_else(|| newest_first().find(|draft| draft.is_closing()));
        if let Some(draft) = draft {
            return View::Draft(draft.clone());
        }
        match edit.filter(|edit| edit.is_in_place() || self.sees_edit(kin, edit)) {
            Some(edit) => View::Edit(edit),
            None => View::Published { volatile: true },
        }
    }

    /// Whether any draft is on its way to a name in this directory.
    pub fn has_drafts_in(&self, dir: polystore::disk::FileId) -> bool {
        self.slots().any_in(dir)
    }

    /// Whether any draft is on its way to this name, or may be.
    pub fn has_drafts(&self, slot: &SlotKey) -> bool {
        self.slots().any(slot)
    }

    /// Whether `process` finds `draft` under its name: of a new name, its maker and the children
    /// made since, and who has joined it; of an existing one, who opened it and the forks made since, once it is written
    /// and while they have not exec'd (`sort f > f` reads the old version). A worker that was
    /// forked before is a stranger, and gets whole versions only.
    pub(super) fn sees(&self, kin: Option<&Kin<'_, P>>, draft: &Draft<D>) -> bool {
        let (Some(kin), Some(opener)) = (kin, draft.opener) else {
            return false;
        };
        if draft.phase() != Phase::Private {
            return false;
        }
        if draft.new_name && draft.state().joined.contains(&kin.process) {
            return true;
        }
        let close = kin.is_or_descends_since(opener, draft.moment);
        if draft.new_name || !close {
            return close;
        }
        draft.is_written() && draft.image.is_some() && kin.image() == draft.image.as_ref()
    }

    /// Whether the process of `kin` is the one that opened `draft` and still runs the same program.
    pub(super) fn holds(&self, kin: &Kin<'_, P>, draft: &Draft<D>) -> bool {
        draft.opener == Some(kin.process)
            && draft.image.is_some()
            && kin.image() == draft.image.as_ref()
    }
}
