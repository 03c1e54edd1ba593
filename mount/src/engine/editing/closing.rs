//! What becomes of an edit when handles are closed.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polystore::disk::Disk;

use super::{Content, Edit, Editor, Mode};
use crate::engine::Engine;
use crate::engine::draft::Draft;
use crate::engine::process::{Caller, Fate, Processes};
use crate::engine::salvage::{Description, Reason};
use crate::engine::slot::Place;

impl<D: Disk, P: Processes> Engine<D, P> {
    /// A descriptor of `editor` is being closed by `caller`. Whether the draft has to be
    /// [sealed](Self::seal) before that close returns.
    pub fn closing_edit(&self, editor: &Editor<D>, caller: Caller) -> bool {
        let killed = self.processes.fate(caller.tid) == Fate::Killed;
        let process = self.processes.process_of(caller.tid);
        let wrote = {
            let mut state = editor.edit.state();
            let private = state.draft.is_some();
            let Some(record) = state.record(editor.id) else {
                return false;
            };
            record.last_killed = killed;
            if killed && process.is_some() && process == record.opener.process {
                record.opener_killed = true;
            }
            private && record.wrote
        };
        if killed || !wrote {
            return false;
        }
        let by_opener = process.is_none() || process == editor.opener;
        if by_opener {
            editor.opener_closed.store(true, Ordering::Release);
        }
        by_opener
            || editor.opener_closed.load(Ordering::Acquire)
            || editor
                .opener
                .is_none_or(|opener| !self.processes.alive(opener))
    }

    /// The mount ends while `editor` is open: what it wrote is not finished.
    pub fn interrupt_edit(&self, editor: &Editor<D>) {
        if let Some(record) = editor.edit.state().record(editor.id) {
            record.last_killed = true;
        }
    }

    /// A handle of an edit was released. Whether the edit has to be [settled](Self::settle_edit).
    #[must_use]
    pub fn detach_edit(&self, editor: &Editor<D>) -> bool {
        let mut state = editor.edit.state();
        let Some(at) = state
            .editors
            .iter()
            .position(|record| record.id == editor.id)
        else {
            return false;
        };
        let record = state.editors.swap_remove(at);
        if record.wrote && !record.opener_killed && !record.last_killed {
            state.finished = true;
        }
        if state.is_orphan() {
            self.in_place_closed(state.version_id);
        }
        let written = state.draft.is_some() && !state.editors.iter().any(|other| other.wrote);
        written || state.unused()
    }

    /// Publishes or drops what nobody who wrote it has open any more. Has to run alone.
    /// Whether editors who are left see another content than before.
    pub fn settle_edit(&self, edit: &Arc<Edit<D>>) -> bool {
        let reverted = self.settle_draft_of(edit);
        let mut slots = self.slots();
        let state = edit.state();
        // By now another may stand there: whoever closes last while this waits settles it, too.
        let slot = &state.place.slot;
        let stands = slots.edit(slot).is_some_and(|own| Arc::ptr_eq(own, edit));
        if stands && state.unused() && state.draft.is_none() {
            slots.remove_edit(slot);
        }
        drop(state);
        reverted
    }

    fn settle_draft_of(&self, edit: &Edit<D>) -> bool {
        let (draft, mode, finished) = {
            let state = edit.state();
            let Some(draft) = state.draft.clone() else {
                return false;
            };
            if state.editors.iter().any(|record| record.wrote) {
                return false; // Somebody wrote in the meantime: the last one settles.
            }
            (draft, state.mode, state.finished)
        };
        let dropped = match mode {
            Mode::Orphan { own: true } => None,
            Mode::Orphan { own: false } => Some(Reason::NameTaken),
            _ if draft.poisoned().is_some() => self.reason_of_loss(&draft),
            _ if !finished => Some(Reason::WriterKilled),
            _ => match self.publish_edit(edit) {
                Ok(_) => return false,
                Err(error) => {
                    self.ledger.note(
                        &edit.path,
                        draft.who.uid,
                        format_args!("cannot be published: {error}"),
                    );
                    Some(Reason::Unpublishable)
                }
            },
        };
        {
            let mut state = edit.state();
            state.start_over();
            state.note_outdated();
        }
        self.discard(&draft, dropped);
        true
    }

    /// Publishes what is written so far; whoever writes next starts from it. Has to run alone.
    /// Whether there was anything.
    ///
    /// # Errors
    /// Those of the disk, or of an earlier write; the draft stays what it was.
    pub fn publish_edit(&self, edit: &Edit<D>) -> io::Result<bool> {
        let (draft, place) = {
            let state = edit.state();
            match &state.draft {
                Some(draft) if state.mode == Mode::Shared => (draft.clone(), state.place.clone()),
                _ => return Ok(false),
            }
        };
        if let Some(error) = draft.poisoned() {
            return Err(error);
        }
        self.keep_replaced(&draft, &place);
        self.publish(&draft, &place)?;
        let mut state = edit.state();
        state.start_over();
        let id = draft.file_id;
        state.show(Content::Draft(draft), id, true);
        Ok(true)
    }

    /// A version that the draft was not made from is about to be replaced: somebody wrote it
    /// meanwhile, and is not to lose it.
    fn keep_replaced(&self, draft: &Draft<D>, place: &Place<D>) {
        let current = self.disk.stat(&place.dir, place.name());
        if let Ok(Some(stat)) = current
            && Some(stat.id) != draft.made_from
            && stat.len > 0
        {
            let what = Description {
                path: Some(draft.path.clone()),
                ..Description::unknown(Reason::Replaced)
            };
            self.keep_version(place, place.name(), &what);
        }
    }

    /// Keeps the version `name` in salvage, as the same file.
    pub(in crate::engine) fn keep_version(
        &self,
        place: &Place<D>,
        name: &OsStr,
        what: &Description,
    ) {
        let Some(salvage) = &self.salvage else { return };
        let kept = self
            .disk
            .open(&place.dir, name, false)
            .and_then(|file| salvage.link(&file, what));
        if let Err(error) = kept {
            self.ledger.note(
                what.path.as_deref().unwrap_or(Path::new("?")),
                what.uid.unwrap_or(self.settings.uid),
                format_args!("replaced version not kept: {error}"),
            );
        }
    }
}
