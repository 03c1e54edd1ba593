//! What there is at this moment, for people who want to see it.

use std::sync::Arc;

use polystore::disk::Disk;

use super::Engine;
use super::draft::{Draft, Phase};
use super::process::Processes;
use super::slot::SlotKey;

/// A draft that somebody has open.
pub struct OpenDraft<D: Disk> {
    /// It.
    pub draft: Arc<Draft<D>>,
    /// Whether it is an edit's.
    pub edit: bool,
    /// How many handles have it open for writing.
    pub handles: usize,
}

impl<D: Disk, P: Processes> Engine<D, P> {
    /// All drafts that somebody has open.
    pub fn open_drafts(&self) -> Vec<OpenDraft<D>> {
        let (drafts, edits): (Vec<_>, Vec<_>) = {
            let slots = self.slots();
            let edits = slots.all_edits().cloned().collect();
            (slots.all().cloned().collect(), edits)
        };
        let of_edits = edits.into_iter().filter_map(|edit| {
            Some(OpenDraft {
                draft: edit.draft()?,
                edit: true,
                handles: edit.handles(),
            })
        });
        let drafts = drafts.into_iter().filter_map(|draft| {
            let handles = draft.state().writers;
            (handles > 0).then_some(OpenDraft {
                draft,
                edit: false,
                handles,
            })
        });
        drafts.chain(of_edits).collect()
    }

    /// The drafts of `slot` that have been written, oldest first.
    pub fn written_drafts_at(&self, slot: &SlotKey) -> Vec<Arc<Draft<D>>> {
        let drafts = self.slots().drafts(slot).to_vec();
        let written = |draft: &Arc<Draft<D>>| draft.is_written() && draft.phase() == Phase::Private;
        drafts.into_iter().filter(written).collect()
    }
}
