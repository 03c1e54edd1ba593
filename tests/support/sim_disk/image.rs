//! What is on a simulated disk, and how it is changed and torn.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};

use polystore::disk::Kind;

use super::{Attributes, ROOT, errno};

/// Content is torn in pieces of this many bytes.
const BLOCK: usize = 512;

#[derive(Clone, Default)]
pub(super) struct Image {
    pub(super) inodes: HashMap<u64, Inode>,
}

#[derive(Clone)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) content: Vec<u8>,
    pub(super) attributes: Attributes,
    pub(super) names: BTreeMap<OsString, u64>,
}

#[derive(Clone)]
pub(super) enum Step {
    Made {
        inode: u64,
        kind: Kind,
        attributes: Attributes,
    },
    Named {
        dir: u64,
        name: OsString,
        inode: u64,
    },
    Unnamed {
        dir: u64,
        name: OsString,
    },
    Renamed {
        from_dir: u64,
        from: OsString,
        to_dir: u64,
        to: OsString,
    },
    Changed {
        inode: u64,
        attributes: Attributes,
    },
    /// The content that had reached the disk when the next step began.
    Reached {
        inode: u64,
        content: Vec<u8>,
    },
}

impl Image {
    pub(super) fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes
            .get_mut(&number)
            .expect("inodes are never forgotten")
    }

    pub(super) fn links(&self, number: u64) -> u64 {
        self.inodes
            .values()
            .flat_map(|inode| inode.names.values())
            .filter(|named| **named == number)
            .count() as u64
    }

    pub(super) fn walk(&self, path: &Path) -> io::Result<u64> {
        let mut inode = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                inode = *self.inodes[&inode]
                    .names
                    .get(name)
                    .ok_or_else(|| errno(libc::ENOENT))?;
            }
        }
        Ok(inode)
    }

    pub(super) fn apply(&mut self, step: &Step) {
        match step.clone() {
            Step::Made {
                inode,
                kind,
                attributes,
            } => {
                let made = Inode {
                    kind,
                    content: Vec::new(),
                    attributes,
                    names: BTreeMap::new(),
                };
                self.inodes.insert(inode, made);
            }
            Step::Named { dir, name, inode } => {
                self.inode(dir).names.insert(name, inode);
            }
            Step::Unnamed { dir, name } => {
                self.inode(dir).names.remove(&name);
            }
            Step::Renamed {
                from_dir,
                from,
                to_dir,
                to,
            } => {
                let inode = self
                    .inode(from_dir)
                    .names
                    .remove(&from)
                    .expect("the name was there");
                self.inode(to_dir).names.insert(to, inode);
            }
            Step::Changed { inode, attributes } => self.inode(inode).attributes = attributes,
            Step::Reached { inode, content } => self.inode(inode).content = content,
        }
    }
}

/// What a disk may show of a change from `old` to `new` that it had begun to write.
pub(super) fn torn(old: &[u8], new: &[u8], random: &mut Random) -> Vec<u8> {
    let mut mixed = match random.below(6) {
        0 => return old.to_vec(),
        1 => return new.to_vec(),
        2 => return new[..random.below(new.len() + 1)].to_vec(),
        // The length came first.
        3 => vec![0; new.len()],
        _ => old.to_vec(),
    };
    mixed.resize(new.len(), 0);
    for (mixed, new) in mixed.chunks_mut(BLOCK).zip(new.chunks(BLOCK)) {
        if random.below(2) == 0 {
            mixed.copy_from_slice(new);
        }
    }
    mixed
}

/// SplitMix64: all that a crash needs, and the same for a seed everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
