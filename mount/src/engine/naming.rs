//! Renames, links and removals of names that have drafts.

use std::io;
use std::sync::Arc;

use polystore::disk::{Disk, FileId};

use super::Engine;
use super::draft::{Draft, Phase};
use super::process::{Caller, Kin, Process, Processes};
use super::slot::{Place, SlotKey};

impl<D: Disk, P: Processes> Engine<D, P> {
    /// Whether a draft of a new name reserves `slot` against O_EXCL, mkdir, link and the like.
    pub fn is_reserved(&self, slot: &SlotKey) -> bool {
        self.slots().reserved(slot)
    }

    /// The private drafts that were made from `version` and are to replace it under `slot`.
    pub fn drafts_of(&self, slot: &SlotKey, version: FileId) -> Vec<Arc<Draft<D>>> {
        let slots = self.slots();
        let drafts = slots.drafts(slot).iter().cloned();
        let edited = slots.edit(slot).and_then(|edit| edit.draft());
        let all = drafts.chain(edited);
        all.filter(|draft| draft.made_from == Some(version))
            .collect()
    }

    /// Renames `from` to `to`. A draft that the caller holds under `from` is published under
    /// `to` by it. Returns the file that was, so that the caller's view can follow.
    ///
    /// # Errors
    /// `AlreadyExists` where `replace` is false and `to` is taken or reserved; else the disk's.
    pub fn rename(
        &self,
        caller: Caller,
        from: &Place<D>,
        to: &Place<D>,
        replace: bool,
    ) -> io::Result<Option<FileId>> {
        if !replace && self.is_reserved(&to.slot) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let process = self.processes.process_of(caller.tid);
        let who = self.processes.credentials(caller);
        let Some(draft) = self.draft_to_move(process, &from.slot) else {
            if replace && self.is_one_file(from, to)? {
                return Ok(None);
            }
            self.judge_removing(&who, from)?;
            self.judge_removing(&who, to)?;
            self.for_user(&who, || {
                self.disk
                    .rename(&from.dir, from.name(), &to.dir, to.name(), replace)
            })?;
            self.name_taken(process, &to.slot, None);
            self.move_edit(&from.slot, to);
            return Ok(None);
        };
        if !replace && self.disk.stat(&to.dir, to.name())?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.publish_as(&draft, to)?;
        self.name_taken(process, &to.slot, Some(&draft));
        if !draft.new_name && from.slot != to.slot {
            self.orphan_edit(process, &from.slot);
            match self.for_user(&who, || self.disk.remove(&from.dir, from.name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(Some(draft.file_id))
    }

    /// Whether two names are of one file: then a rename does nothing, as rename(2) says.
    fn is_one_file(&self, one: &Place<D>, two: &Place<D>) -> io::Result<bool> {
        let id_at = |place: &Place<D>| self.disk.stat(&place.dir, place.name());
        let (first, second) = (id_at(one)?, id_at(two)?);
        Ok(first.is_some() && first.map(|stat| stat.id) == second.map(|stat| stat.id))
    }

    /// Publishes the draft that `caller` sees under `from`, so that it can be given a second name.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn publish_for_link(&self, draft: &Draft<D>) -> io::Result<()> {
        if draft.phase() == Phase::Private {
            self.publish_as(draft, &draft.place)
        } else {
            Ok(())
        }
    }

    /// Removes a name: what is published under it, and the drafts that were to replace it.
    ///
    /// # Errors
    /// `NotFound` where nothing is published and the caller sees no draft; else the disk's.
    pub fn unlink(&self, caller: Caller, place: &Place<D>) -> io::Result<()> {
        let process = self.processes.process_of(caller.tid);
        let who = self.processes.credentials(caller);
        self.judge_removing(&who, place)?;
        match self.for_user(&who, || self.disk.remove(&place.dir, place.name())) {
            Ok(()) => {
                self.name_taken(process, &place.slot, None);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let seen: Vec<_> = self.seen(process, &place.slot);
                if seen.is_empty() {
                    return Err(error);
                }
                for draft in seen {
                    self.orphan(process, &draft);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Something else stands under `slot` now: older drafts of it will not be published.
    fn name_taken(&self, process: Option<Process>, slot: &SlotKey, except: Option<&Draft<D>>) {
        self.orphan_edit(process, slot);
        self.orphan_drafts(process, slot, except);
    }

    fn orphan_drafts(&self, process: Option<Process>, slot: &SlotKey, except: Option<&Draft<D>>) {
        self.slots().note_published(slot, false);
        let drafts = self.slots().drafts(slot).to_vec();
        for draft in drafts {
            if except.is_none_or(|kept| kept.id != draft.id) {
                self.orphan(process, &draft);
            }
        }
    }

    /// The files at `a` and `b` have changed places: older drafts of either name will not be published.
    pub fn exchanged(&self, caller: Caller, a: &Place<D>, b: &Place<D>) {
        let process = self.processes.process_of(caller.tid);
        self.exchange_edits(a, b);
        self.orphan_drafts(process, &a.slot, None);
        self.orphan_drafts(process, &b.slot, None);
    }

    /// Directory `dir` is gone: so are the names in it.
    pub fn directory_removed(&self, caller: Caller, dir: FileId) {
        let process = self.processes.process_of(caller.tid);
        let drafts: Vec<_> = self
            .slots()
            .all()
            .filter(|draft| draft.place.slot.dir == dir)
            .cloned()
            .collect();
        for draft in drafts {
            self.orphan(process, &draft);
        }
    }

    /// A lock was granted on a handle of `draft`. An unwritten draft of a new name is published
    /// at once: a lock file is of use only to those who see it, and who locks ranges keeps his
    /// file whole himself. Whether that happened.
    ///
    /// # Errors
    /// `AlreadyExists` where somebody else has published that name meanwhile: his file must not be
    /// taken away, and this draft is not it. Else those of the disk; the draft stays what it was.
    pub fn publish_for_lock(&self, draft: &Draft<D>) -> io::Result<bool> {
        if draft.phase() != Phase::Private || draft.is_written() || !draft.new_name {
            return Ok(false);
        }
        if self
            .disk
            .stat(&draft.place.dir, draft.place.name())?
            .is_some()
        {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.publish_as(draft, &draft.place).map(|()| true)
    }

    /// Publishes a draft as it is, although it is open: its writers go on in place.
    ///
    /// # Errors
    /// Those of the disk, or of an earlier write; the draft stays what it was.
    pub fn publish_now(&self, draft: &Draft<D>) -> io::Result<()> {
        if draft.phase() != Phase::Private {
            return Ok(());
        }
        self.publish_as(draft, &draft.place)
    }

    fn publish_as(&self, draft: &Draft<D>, to: &Place<D>) -> io::Result<()> {
        if let Some(error) = draft.poisoned() {
            return Err(error);
        }
        self.publish(draft, to)
    }

    /// The draft that a rename of `slot` by `process` moves: its own rewrite, or the draft of a
    /// new name that it sees.
    fn draft_to_move(&self, process: Option<Process>, slot: &SlotKey) -> Option<Arc<Draft<D>>> {
        let process = process?;
        let drafts = self.slots().drafts(slot).to_vec();
        let kin = Kin::new(&self.processes, process);
        drafts.into_iter().rev().find(|draft| {
            draft.state().writers > 0
                && if draft.new_name {
                    self.sees(Some(&kin), draft)
                } else {
                    self.holds(&kin, draft)
                }
        })
    }

    fn seen(&self, process: Option<Process>, slot: &SlotKey) -> Vec<Arc<Draft<D>>> {
        let drafts = self.slots().drafts(slot).to_vec();
        let kin = self.kin(process);
        drafts
            .into_iter()
            .filter(|draft| self.sees(kin.as_ref(), draft))
            .collect()
    }

    fn orphan(&self, process: Option<Process>, draft: &Draft<D>) {
        let own = process.is_some() && process == draft.opener;
        let unused = {
            let mut slots = self.slots();
            slots.remove(draft);
            let mut state = draft.state();
            if state.phase == Phase::Private {
                state.phase = Phase::Orphan { own };
            }
            state.writers == 0 && state.promises == 0
        };
        if unused {
            self.settle(draft);
        }
    }
}
