//! Nodes: what the kernel calls files, and how many times it was told of each.
//!
//! A node's number is the inode's where that is free: fuser 0.18 sends one number as the
//! node's and as st_ino when it tells of a name. But inode numbers are used again as soon as a
//! file is gone, while the kernel may still know its node, so a new file may have to get a
//! made-up one; then the kernel is not allowed to remember what it was told with the name, and
//! asks for the attributes, which have the true st_ino.
//!
//! An edit has a node of its own, with a made-up number, beside those of the versions that it
//! starts from: it has its own content and page cache.
//!
//! There are as many nodes as the kernel remembers, a million after a walk of a big tree, so they are
//! small, and what they took is given back when the kernel has forgotten them.
//!
//! Invariants:
//! 1. A node is in the table as long as the kernel has been told of it more often than it forgot it.
//! 2. A number stands for one file as long as it is in the table.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::sync::{Arc, Weak};

use fuser::FileAttr;
use polystore::disk::{FileId, Kind, SystemDisk};
use rustix::fs::Statx;

use super::attr;
use super::told::Told;
use crate::engine::draft::Draft;
use crate::engine::editing::Edit;
use crate::engine::slot::SlotKey;

/// The root's number, fixed by the kernel.
pub const ROOT: u64 = 1;

/// Numbers from here on are given to files whose inode number is taken or ambiguous.
const MADE_UP: u64 = 1 << 63;

/// Tables of fewer nodes than this are left as big as they once were.
const WORTH_SHRINKING: usize = 1 << 14;

/// What is known of a node.
pub struct Node {
    /// Which file it is.
    pub id: FileId,
    /// What sort of thing.
    pub kind: Kind,
    /// The directory it was last found in.
    pub parent: u64,
    /// Its name there.
    pub name: OsString,
    /// Whether that name was taken from it.
    pub unlinked: bool,
    /// Whether the name stands for another file, of which the kernel has not heard: it may still find this one.
    pub misnamed: bool,
    /// The draft that it is, while there is one.
    pub draft: Weak<Draft<SystemDisk>>,
    /// The edit that it is, while there is one.
    pub edit: Weak<Edit<SystemDisk>>,
    /// A file that reaches it without its name, while handles are open.
    pub pin: Option<Arc<File>>,
    /// Whether that is a later version, which who reads it was moved to by a lock.
    pub moved: bool,
    /// How many handles are open.
    pub pins: u32,
    /// Who was told of it just now.
    pub told: Told,
    /// When it was made, in nanoseconds, as far as the file system says.
    born: Option<i64>,
    lookups: u64,
}

impl Node {
    /// Whether `stat` tells of its file, and not of a later one with the same inode number.
    pub fn is(&self, stat: &Statx) -> bool {
        self.id == attr::id(stat) && self.born == born(stat)
    }
}

/// A file's birth, as nodes note it: enough to tell it from another one with its number.
fn born(stat: &Statx) -> Option<i64> {
    let (seconds, nanoseconds) = attr::born(stat)?;
    let whole = seconds.wrapping_mul(1_000_000_000);
    Some(whole.wrapping_add(i64::from(nanoseconds)))
}

/// What stands for an edit where others have the inode of their file: no file is on that device.
fn edit_id(edit: &Edit<SystemDisk>) -> FileId {
    FileId {
        device: u64::MAX,
        inode: edit.id,
    }
}

/// Seconds and nanoseconds since 1970.
pub type Moment = (i64, u32);

/// A ctime that the mount itself has moved.
struct Ctime {
    real: Moment,
    shown: Moment,
}

/// The mtime of a content that another took the place of, under the same node.
struct Mtime {
    real: Moment,
    /// Whether it is shown one nanosecond later.
    moved: bool,
}

/// All nodes.
pub struct Nodes {
    /// Boxed, so that the table takes little more than they do, however it grows.
    map: HashMap<u64, Box<Node>>,
    made_up: HashMap<FileId, u64>,
    ctimes: HashMap<u64, Ctime>,
    mtimes: HashMap<u64, Mtime>,
    next: u64,
    device: u64,
    root: FileId,
}

impl Nodes {
    /// A table that knows the root only.
    pub fn new(root: &Statx) -> Nodes {
        let id = attr::id(root);
        Nodes {
            map: HashMap::new(),
            made_up: HashMap::new(),
            ctimes: HashMap::new(),
            mtimes: HashMap::new(),
            next: MADE_UP,
            device: id.device,
            root: id,
        }
    }

    /// How many nodes the kernel knows, beside the root.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// The inode of a directory node.
    pub fn id(&self, node: u64) -> Option<FileId> {
        if node == ROOT {
            Some(self.root)
        } else {
            self.map.get(&node).map(|node| node.id)
        }
    }

    /// A node other than the root.
    pub fn get(&self, node: u64) -> Option<&Node> {
        self.map.get(&node).map(Box::as_ref)
    }

    /// Whether `stat` tells of the file that node `number` is.
    pub fn is(&self, number: u64, stat: &Statx) -> bool {
        self.map.get(&number).is_some_and(|node| node.is(stat))
    }

    /// A node other than the root, to change it.
    pub fn get_mut(&mut self, node: u64) -> Option<&mut Node> {
        self.map.get_mut(&node).map(Box::as_mut)
    }

    /// Whether `node` is a directory.
    pub fn is_dir(&self, node: u64) -> bool {
        node == ROOT
            || self
                .map
                .get(&node)
                .is_some_and(|node| node.kind == Kind::Directory)
    }

    /// The slot that a node's file was last found under.
    pub fn slot(&self, node: u64) -> Option<SlotKey> {
        let node = self.map.get(&node).filter(|node| !node.unlinked)?;
        Some(SlotKey {
            dir: self.id(node.parent)?,
            name: node.name.clone(),
        })
    }

    /// The node of a file, if the kernel knows it.
    pub fn of(&self, id: FileId) -> Option<u64> {
        let number = self.number(id)?;
        self.map
            .get(&number)
            .filter(|node| node.id == id)
            .map(|_| number)
    }

    fn number(&self, id: FileId) -> Option<u64> {
        let natural = || {
            (id.device == self.device && id.inode > ROOT && id.inode < MADE_UP).then_some(id.inode)
        };
        self.made_up.get(&id).copied().or_else(natural)
    }

    fn make_up(&mut self, id: FileId) -> u64 {
        let number = self.next;
        self.next += 1;
        self.made_up.insert(id, number);
        number
    }

    /// Tells the kernel of the file `stat`, found as `name` in `parent`: returns its number.
    pub fn remember(&mut self, parent: u64, name: &OsStr, stat: &Statx) -> u64 {
        let (id, kind, born) = (attr::id(stat), attr::kind(stat), born(stat));
        let another = |node: &Node| !node.is(stat) || node.kind != kind;
        let number = match self.number(id) {
            Some(number) if !self.get(number).is_some_and(another) => number,
            _ => self.make_up(id),
        };
        let node = self.map.entry(number).or_insert_with(|| {
            Box::new(Node {
                id,
                kind,
                parent,
                name: name.to_owned(),
                unlinked: false,
                misnamed: false,
                draft: Weak::new(),
                edit: Weak::new(),
                pin: None,
                moved: false,
                pins: 0,
                told: Told::default(),
                born,
                lookups: 0,
            })
        });
        if node.parent != parent || node.name != name {
            node.parent = parent;
            node.name = name.to_owned();
        }
        node.unlinked = false;
        node.misnamed = false;
        node.lookups += 1;
        number
    }

    /// Tells the kernel of an edit, found as `name` in `parent`: returns its number.
    pub fn remember_edit(
        &mut self,
        parent: u64,
        name: &OsStr,
        edit: &Arc<Edit<SystemDisk>>,
    ) -> u64 {
        let id = edit_id(edit);
        let number = match self.made_up.get(&id) {
            Some(number) => *number,
            None => self.make_up(id),
        };
        let node = self.map.entry(number).or_insert_with(|| {
            Box::new(Node {
                id,
                kind: Kind::File,
                parent,
                name: name.to_owned(),
                unlinked: false,
                misnamed: false,
                draft: Weak::new(),
                edit: Arc::downgrade(edit),
                pin: None,
                moved: false,
                pins: 0,
                told: Told::default(),
                born: None,
                lookups: 0,
            })
        });
        node.lookups += 1;
        number
    }

    /// The node of an edit, if the kernel knows it.
    pub fn of_edit(&self, edit: &Edit<SystemDisk>) -> Option<u64> {
        self.made_up.get(&edit_id(edit)).copied()
    }

    /// What st_ino is for `node`: the inode's number, except that files of other file systems
    /// in the tree must not be taken for those of this one.
    pub fn shown_inode(&self, node: u64, stat: &Statx) -> u64 {
        let edit = self
            .map
            .get(&node)
            .is_some_and(|node| node.id.device == u64::MAX);
        if edit || attr::id(stat).device == self.device {
            stat.stx_ino
        } else {
            node
        }
    }

    /// The kernel forgot `count` of the times it was told of `node`. Whether the node is gone now.
    pub fn forget(&mut self, number: u64, count: u64) -> bool {
        let Some(node) = self.map.get_mut(&number) else {
            return false;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 {
            return false;
        }
        let id = node.id;
        self.map.remove(&number);
        self.ctimes.remove(&number);
        self.mtimes.remove(&number);
        if self.made_up.get(&id) == Some(&number) {
            self.made_up.remove(&id);
        }
        true
    }

    /// What the mount did itself to the file with the inode `id`, to publish it, has moved its ctime from
    /// `before` to `after`: it is shown as it was. A program that looked at its file before it closed
    /// it (git does) shall find it unchanged.
    pub fn ctime_moved(&mut self, id: FileId, before: Moment, after: Moment) {
        let Some(number) = self.of(id).filter(|_| before != after) else {
            return;
        };
        let earlier = self.ctimes.get(&number);
        let shown = earlier.filter(|ctime| ctime.real == before);
        let shown = shown.map_or(before, |ctime| ctime.shown);
        self.ctimes.insert(number, Ctime { real: after, shown });
    }

    /// Node `number` has other content than before, which is known by `stat`; `before` was the mtime of the
    /// old one, where that is known. The kernel tells contents from each other by size and mtime only, and keeps its
    /// pages where these are the same: then the new mtime is shown one nanosecond later.
    pub fn content_changed(&mut self, number: u64, before: Option<Moment>, stat: &Statx) {
        if !self.map.contains_key(&number) {
            return;
        }
        let real = attr::mtime(stat);
        let known = self.mtimes.get(&number);
        let before = before.or(known.map(|known| known.real));
        let was_moved = known.is_some_and(|known| Some(known.real) == before && known.moved);
        let moved = before == Some(real) && !was_moved;
        self.mtimes.insert(number, Mtime { real, moved });
    }

    /// What the kernel is told of `stat` as node `number`, which has the inode number `shown`.
    pub fn attr(&self, stat: &Statx, number: u64, shown: u64) -> FileAttr {
        let mut attr = attr::to_kernel(stat, shown);
        let moved = self.ctimes.get(&number);
        if let Some(moved) = moved.filter(|ctime| ctime.real == attr::ctime(stat)) {
            attr.ctime = attr::since_epoch(moved.shown.0, moved.shown.1);
        }
        let mtime = self.mtimes.get(&number);
        if mtime.is_some_and(|mtime| mtime.moved && mtime.real == attr::mtime(stat)) {
            attr.mtime += std::time::Duration::from_nanos(1);
        }
        attr
    }

    /// Gives back what the table does not need any more. Whether that was much.
    pub fn shrink(&mut self) -> bool {
        let needless = |len: usize, room: usize| room > WORTH_SHRINKING && len < room / 8;
        if !needless(self.map.len(), self.map.capacity()) {
            return false;
        }
        self.map.shrink_to(self.map.len() * 2);
        self.made_up.shrink_to(self.made_up.len() * 2);
        true
    }

    /// What stood under `name` in `parent` does no longer.
    pub fn unlinked(&mut self, number: u64, parent: u64, name: &OsStr) {
        if let Some(node) = self.map.get_mut(&number)
            && node.parent == parent
            && node.name == name
        {
            node.unlinked = true;
        }
    }

    /// A node got another name.
    pub fn renamed(&mut self, number: u64, parent: u64, name: &OsStr) {
        if let Some(node) = self.map.get_mut(&number) {
            node.parent = parent;
            node.name = name.to_owned();
            node.unlinked = false;
        }
    }
}
