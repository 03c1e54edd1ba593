//! Slots: where versions are published, and the drafts that are on their way there.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use polystore::disk::{Disk, FileId};

use super::draft::Draft;

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

/// All slots that have drafts; a slot without drafts takes no room.
pub struct Slots<D: Disk> {
    map: HashMap<SlotKey, Slot<D>>,
}

impl<D: Disk> Default for Slots<D> {
    fn default() -> Self {
        Slots {
            map: HashMap::new(),
        }
    }
}

impl<D: Disk> Slots<D> {
    /// The drafts of a slot.
    pub fn drafts(&self, slot: &SlotKey) -> &[Arc<Draft<D>>] {
        self.map.get(slot).map_or(&[], |slot| &slot.drafts)
    }

    /// How many versions were published in `slot` while it had drafts.
    pub fn published(&self, slot: &SlotKey) -> Published {
        self.map
            .get(slot)
            .map_or_else(Published::default, |slot| slot.published)
    }

    /// Adds a draft to its slot.
    pub fn add(&mut self, draft: Arc<Draft<D>>) {
        self.map
            .entry(draft.place.slot.clone())
            .or_insert_with(|| Slot {
                drafts: Vec::new(),
                published: Published::default(),
            })
            .drafts
            .push(draft);
    }

    /// Removes a draft from its slot.
    pub fn remove(&mut self, draft: &Draft<D>) {
        let key = &draft.place.slot;
        if let Some(slot) = self.map.get_mut(key) {
            slot.drafts.retain(|other| other.id != draft.id);
            if slot.drafts.is_empty() {
                self.map.remove(key);
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

    /// Whether any slot in this directory has a draft.
    pub fn any_in(&self, dir: FileId) -> bool {
        self.map.keys().any(|slot| slot.dir == dir)
    }

    /// Every draft there is.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Draft<D>>> {
        self.map.values().flat_map(|slot| &slot.drafts)
    }
}
