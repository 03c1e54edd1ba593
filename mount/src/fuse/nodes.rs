//! Nodes: what the kernel calls files, and how many times it was told of each.
//!
//! A node's number is the inode's where that is possible (fuser 0.18 sends one
//! number as the node's and as st_ino). Numbers of inodes are used again, so a node has a
//! generation, too: the kernel never takes a new file for an old one with its number.
//!
//! Invariants:
//! 1. A node is in the table as long as the kernel has been told of it more often than it forgot it.
//! 2. Two files that exist at one time have two node numbers.
//! 3. A node whose generation changed belongs to another file: nothing of the old one is kept.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::sync::{Arc, Weak};
use std::time::Instant;

use polystore::disk::{FileId, Kind, SystemDisk};
use rustix::fs::Statx;

use super::attr;
use crate::engine::draft::Draft;
use crate::engine::slot::SlotKey;

/// The root's number, fixed by the kernel.
pub const ROOT: u64 = 1;

/// Numbers from here on are given to files whose inode number is taken or ambiguous.
const MADE_UP: u64 = 1 << 63;

/// What is known of a node.
pub struct Node {
    /// Which file it is.
    pub id: FileId,
    /// What sort of thing.
    pub kind: Kind,
    /// See the module.
    pub generation: u64,
    /// The directory it was last found in.
    pub parent: u64,
    /// Its name there.
    pub name: OsString,
    /// Whether that name was taken from it.
    pub unlinked: bool,
    /// The draft that it is, while there is one.
    pub draft: Weak<Draft<SystemDisk>>,
    /// A file that reaches it without its name, while handles are open.
    pub pin: Option<Arc<File>>,
    /// How many handles are open.
    pub pins: usize,
    /// Who was told of it last, and when.
    pub looked_up: Option<(u32, Instant)>,
    born: Option<(i64, u32)>,
    lookups: u64,
}

/// All nodes.
pub struct Nodes {
    map: HashMap<u64, Node>,
    made_up: HashMap<FileId, u64>,
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
            next: MADE_UP,
            device: id.device,
            root: id,
        }
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
        self.map.get(&node)
    }

    /// A node other than the root, to change it.
    pub fn get_mut(&mut self, node: u64) -> Option<&mut Node> {
        self.map.get_mut(&node)
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
        if id.device == self.device && id.inode > ROOT && id.inode < MADE_UP {
            Some(id.inode)
        } else {
            self.made_up.get(&id).copied()
        }
    }

    /// Tells the kernel of the file `stat`, found as `name` in `parent`: returns its number and generation.
    pub fn remember(&mut self, parent: u64, name: &OsStr, stat: &Statx) -> (u64, u64) {
        let id = attr::id(stat);
        let number = self.number(id).unwrap_or_else(|| {
            let number = self.next;
            self.next += 1;
            self.made_up.insert(id, number);
            number
        });
        let (kind, born) = (attr::kind(stat), attr::born(stat));
        let node = self.map.entry(number).or_insert_with(|| Node {
            id,
            kind,
            generation: 0,
            parent,
            name: name.to_owned(),
            unlinked: false,
            draft: Weak::new(),
            pin: None,
            pins: 0,
            looked_up: None,
            born,
            lookups: 0,
        });
        if node.kind != kind || node.born != born {
            node.generation += 1;
            node.kind = kind;
            node.born = born;
            node.draft = Weak::new();
            node.pin = None;
            node.pins = 0;
        }
        if node.parent != parent || node.name != name {
            node.parent = parent;
            node.name = name.to_owned();
        }
        node.unlinked = false;
        node.lookups += 1;
        (number, node.generation)
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
        if number >= MADE_UP {
            self.made_up.remove(&id);
        }
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
