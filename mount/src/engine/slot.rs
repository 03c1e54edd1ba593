//! Slots: where versions are published, and the drafts that are on their way there.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use polystore::disk::{Disk, FileId};

use super::draft::Draft;
use super::editing::Edit;

/// A name in a directory. The directory is told by its inode, so a slot follows
/// every rename of a directory above it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotKey {
    /// The directory's inode.
    pub dir: FileId,
    /// The name in it: one component.
    pub name: OsString,
}

/// A slot together with the open directory it lies in.
pub struct Place<D: Disk> {
    /// Which slot.
    pub slot: SlotKey,
    /// The directory, to reach it.
    pub dir: Arc<D::Dir>,
}

impl<D: Disk> Place<D> {
    /// The name, without its directory.
    pub fn name(&self) -> &OsStr {
        &self.slot.name
    }
}

impl<D: Disk> Clone for Place<D> {
    fn clone(&self) -> Self {
        Place {
            slot: self.slot.clone(),
            dir: self.dir.clone(),
        }
    }
}

/// A slot that has drafts.
pub struct Slot<D: Disk> {
    /// Its private drafts, oldest first.
    pub drafts: Vec<Arc<Draft<D>>>,
    /// How many versions were published here since the first of them was opened.
    pub published: Published,
}

/// How many versions were published in a slot while it had drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// All of them.
    pub any: u64,
    /// Those whose opener asked to be the one who makes the name.
    pub exclusive: u64,
}

/// All slots that have drafts or edits; a slot without them takes no room.
pub struct Slots<D: Disk> {
    map: HashMap<SlotKey, Slot<D>>,
    edits: HashMap<SlotKey, Arc<Edit<D>>>,
    // How many of both there are in each directory.
    busy: HashMap<FileId, usize>,
}

impl<D: Disk> Default for Slots<D> {
    fn default() -> Self {
        Slots {
            map: HashMap::new(),
            edits: HashMap::new(),
            busy: HashMap::new(),
        }
    }
}

impl<D: Disk> Slots<D> {
    /// The drafts of a slot.
    pub fn drafts(&self, slot: &SlotKey) -> &[Arc<Draft<D>>] {
        self.map.get(slot).map_or(&[], |slot| &slot.drafts)
    }

    /// The edit of a slot.
    pub fn edit(&self, slot: &SlotKey) -> Option<&Arc<Edit<D>>> {
        self.edits.get(slot)
    }

    /// How many versions were published in `slot` while it had drafts.
    pub fn published(&self, slot: &SlotKey) -> Published {
        self.map
            .get(slot)
            .map_or_else(Published::default, |slot| slot.published)
    }

    /// Adds a draft to its slot.
    pub fn add(&mut self, draft: Arc<Draft<D>>) {
        *self.busy.entry(draft.place.slot.dir).or_default() += 1;
        self.map
            .entry(draft.place.slot.clone())
            .or_insert_with(|| Slot {
                drafts: Vec::new(),
                published: Published::default(),
            })
            .drafts
            .push(draft);
    }

    /// Removes a draft from its slot, if it is there.
    pub fn remove(&mut self, draft: &Draft<D>) {
        let key = &draft.place.slot;
        let Some(slot) = self.map.get_mut(key) else {
            return;
        };
        let before = slot.drafts.len();
        slot.drafts.retain(|other| other.id != draft.id);
        let removed = before - slot.drafts.len();
        if slot.drafts.is_empty() {
            self.map.remove(key);
        }
        self.less_busy(key.dir, removed);
    }

    /// Makes `edit` that of `slot`, where there is none.
    pub fn add_edit(&mut self, slot: SlotKey, edit: Arc<Edit<D>>) {
        *self.busy.entry(slot.dir).or_default() += 1;
        let before = self.edits.insert(slot, edit);
        debug_assert!(before.is_none(), "a slot has one edit");
    }

    /// Takes the edit of `slot` away from it.
    pub fn remove_edit(&mut self, slot: &SlotKey) -> Option<Arc<Edit<D>>> {
        let edit = self.edits.remove(slot)?;
        self.less_busy(slot.dir, 1);
        Some(edit)
    }

    fn less_busy(&mut self, dir: FileId, by: usize) {
        if let Some(count) = self.busy.get_mut(&dir) {
            *count -= by.min(*count);
            if *count == 0 {
                self.busy.remove(&dir);
            }
        }
    }

    /// Remembers that a version was published, for the drafts that are older.
    pub fn note_published(&mut self, slot: &SlotKey, exclusive: bool) {
        if let Some(slot) = self.map.get_mut(slot) {
            slot.published.any += 1;
            slot.published.exclusive += u64::from(exclusive);
        }
    }

    /// Whether some draft of a new name reserves this one.
    pub fn reserved(&self, slot: &SlotKey) -> bool {
        self.drafts(slot).iter().any(|draft| draft.new_name)
    }

    /// Whether any slot in this directory has a draft or an edit.
    pub fn any_in(&self, dir: FileId) -> bool {
        self.busy.contains_key(&dir)
    }

    /// Whether `slot` has a draft or an edit.
    pub fn any(&self, slot: &SlotKey) -> bool {
        self.map.contains_key(slot) || self.edits.contains_key(slot)
    }

    /// Every draft in a slot.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Draft<D>>> {
        self.map.values().flat_map(|slot| &slot.drafts)
    }

    /// Every edit in a slot.
    pub fn all_edits(&self) -> impl Iterator<Item = &Arc<Edit<D>>> {
        self.edits.values()
    }
}
