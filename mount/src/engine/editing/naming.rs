//! What becomes of an edit when its name is removed, taken or moved.

use polystore::disk::Disk;

use super::{Edit, Mode};
use crate::engine::Engine;
use crate::engine::draft::{Draft, Phase};
use crate::engine::process::{Process, Processes};
use crate::engine::slot::{Place, SlotKey};

impl<D: Disk, P: Processes> Engine<D, P> {
    /// The name of an edit is gone, or stands for something else.
    pub(in crate::engine) fn orphan_edit(&self, process: Option<Process>, slot: &SlotKey) {
        let Some(edit) = self.slots().remove_edit(slot) else {
            return;
        };
        let own = edit.is_edited_by(process);
        let mut state = edit.state();
        state.mode = Mode::Orphan { own };
        if let Some(draft) = &state.draft {
            draft.set_phase(Phase::Orphan { own });
        }
        // The file may have another name.
        self.in_place_opened(state.version_id, state.editors.len());
    }

    /// Another version than the draft of `edit`, if it has one, was published under its name. What is
    /// written in place goes on in the file that it is written in, which is not to be found any more.
    pub(in crate::engine) fn overtake(&self, edit: &Edit<D>, by: &Draft<D>) {
        if edit.is_in_place() {
            return self.orphan_edit(None, &edit.place().slot);
        }
        {
            let mut state = edit.state();
            state.note_outdated();
            if by.made_from == state.heir.or(Some(state.version_id)) {
                state.heir = Some(by.file_id);
            }
        }
        // At once: should it lose its name, it goes on with this version.
        if edit.draft().is_none()
            && let Err(error) = self.catch_up(edit)
        {
            log::debug!("{}: the new version: {error}", edit.path.display());
        }
    }

    /// The file that is edited got another name.
    pub(in crate::engine) fn move_edit(&self, from: &SlotKey, to: &Place<D>) {
        let mut slots = self.slots();
        if let Some(edit) = slots.remove_edit(from) {
            edit.state().place = to.clone();
            slots.add_edit(to.slot.clone(), edit);
        }
    }

    /// Two files changed places, and their edits with them.
    pub(in crate::engine) fn exchange_edits(&self, a: &Place<D>, b: &Place<D>) {
        let mut slots = self.slots();
        let (of_a, of_b) = (slots.remove_edit(&a.slot), slots.remove_edit(&b.slot));
        for (edit, to) in [(of_a, b), (of_b, a)] {
            if let Some(edit) = edit {
                edit.state().place = to.clone();
                slots.add_edit(to.slot.clone(), edit);
            }
        }
    }
}
