//! LOOKUP, GETATTR, READLINK and FORGET.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};
use polystore::disk::{Kind, SystemDisk};
use rustix::fs::Statx;

use super::attr;
use super::fs::{Entry, Fs, NOT_REMEMBERED, REMEMBERED};
use super::limits;
use super::made_locks::is_made_lock;
use super::nodes::ROOT;
use super::overtaken::is_overtaken;
use super::redirect::Promised;
use super::tree::{content_stat, draft_stat};
use crate::engine::draft::Draft;
use crate::engine::process::Caller;
use crate::engine::staging::is_hidden;
use crate::engine::visibility::View;
use crate::shares::NOBODY;

impl Fs {
    /// What `name` in `parent` is to `caller`.
    pub fn lookup(&self, caller: Caller, parent: u64, name: &OsStr) -> io::Result<Entry> {
        if is_hidden(parent == ROOT, name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.second_looks.looks(caller.tid);
        let slot = self.tree.slot(parent, name)?;
        match self.promises.see(caller.tid, &slot) {
            Some(Promised::Draft(draft)) => return self.draft_entry(parent, name, &draft),
            Some(Promised::Edit(edit)) => return self.edit_entry(parent, name, &edit),
            None => {}
        }
        let volatile = match self.engine.view(caller, &slot) {
            View::Draft(draft) => return self.draft_entry(parent, name, &draft),
            View::Edit(edit) => return self.edit_entry(parent, name, &edit),
            View::Published { volatile } => volatile || self.channel.recent.has(&slot),
        };
        let dir = self.tree.dir(parent)?;
        let stat = match attr::of_name(&*dir, name) {
            Ok(_) if is_made_lock(&dir, name) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.second_looks.missed(caller.tid);
                return match volatile {
                    true => Err(error),
                    false => Ok(self.nothing(parent, name)),
                };
            }
            Err(error) => return Err(error),
        };
        Ok(self.entry(caller, parent, name, &stat, volatile))
    }

    /// Tells the kernel of a published file.
    pub fn entry(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        stat: &Statx,
        volatile: bool,
    ) -> Entry {
        let node = {
            let mut nodes = self.tree.nodes();
            let told = nodes.remember(parent, name, stat);
            if attr::kind(stat) == Kind::File
                && let Some(node) = nodes.get_mut(told)
            {
                node.told.tell(caller.tid);
            }
            told
        };
        // OPEN does not tell by which of a file's names: the last one that was looked up is taken for it, and with
        // it the directory's rights and the turn. So each name is looked up every time.
        let volatile = volatile || (attr::kind(stat) == Kind::File && stat.stx_nlink > 1);
        let ttl = if volatile { NOT_REMEMBERED } else { REMEMBERED };
        if !volatile {
            self.channel.told.tell(parent, name);
        }
        Entry {
            attr: self.tree.nodes().attr(stat, node, node),
            attr_ttl: attr_ttl(stat, node),
            entry_ttl: ttl,
        }
    }

    /// Tells the kernel that there is no `name` in `parent`, which it may remember.
    fn nothing(&self, parent: u64, name: &OsStr) -> Entry {
        self.channel.told.tell(parent, name);
        nothing()
    }

    /// Tells the kernel of a draft.
    pub fn draft_entry(
        &self,
        parent: u64,
        name: &OsStr,
        draft: &Arc<Draft<SystemDisk>>,
    ) -> io::Result<Entry> {
        let stat = draft_stat(draft)?;
        let node = {
            let mut nodes = self.tree.nodes();
            let told = nodes.remember(parent, name, &stat);
            if let Some(node) = nodes.get_mut(told) {
                node.draft = Arc::downgrade(draft);
            }
            told
        };
        Ok(Entry {
            attr: self.tree.nodes().attr(&stat, node, node),
            attr_ttl: attr_ttl(&stat, node),
            entry_ttl: NOT_REMEMBERED,
        })
    }

    /// What is known of `node`, and for how long that may be remembered.
    pub fn getattr(&self, node: u64, handle: Option<u64>) -> io::Result<(FileAttr, Duration)> {
        let handle = handle.and_then(|id| self.handles.get(id));
        let content = match (&handle, self.tree.edit(node)) {
            (_, Some(edit)) => Some(self.engine.edit_content(&edit)),
            // A handle on a draft that could not be shown under its own node.
            (Some(handle), None) if handle.node == node && self.tree.draft(node).is_none() => {
                self.content(handle).ok()
            }
            _ => None,
        };
        let stat = match content {
            Some(content) => content_stat(&content)?,
            None => match self.tree.stat(node) {
                // fstat(2) comes without its handle: of one that was opened around the cache of a file
                // which is gone.
                Err(error) if is_overtaken(&error) => self.stat_of_handles(node).ok_or(error)?,
                other => other?,
            },
        };
        let in_motion =
            attr::kind(&stat) == Kind::Directory && self.engine.has_drafts_in(attr::id(&stat));
        // One without a name, or a handle's that is another's.
        let superseded = attr::kind(&stat) == Kind::File
            && (stat.stx_nlink == 0 || !self.tree.nodes().is(node, &stat));
        let ttl = if in_motion || superseded {
            NOT_REMEMBERED
        } else {
            REMEMBERED
        };
        let nodes = self.tree.nodes();
        let shown = nodes.shown_inode(node, &stat);
        Ok((nodes.attr(&stat, node, shown), ttl))
    }

    /// What is known of what is open as `node`.
    fn stat_of_handles(&self, node: u64) -> Option<Statx> {
        let handles = self.handles.of_node(node);
        let contents = handles
            .iter()
            .filter_map(|handle| self.content(handle).ok());
        let mut stats = contents.filter_map(|content| content_stat(&content).ok());
        stats.next()
    }

    /// Where the symbolic link `node` points to.
    pub fn readlink(&self, node: u64) -> io::Result<Vec<u8>> {
        let place = self.tree.place_of(node)?;
        Ok(rustix::fs::readlinkat(&*place.dir, place.name(), Vec::new())?.into_bytes())
    }

    /// The kernel forgot `node` `count` times.
    pub fn forget(&self, node: u64, count: u64) {
        let (gone, fewer) = {
            let mut nodes = self.tree.nodes();
            let gone = nodes.forget(node, count);
            (gone, gone && nodes.shrink())
        };
        if gone {
            self.tree.close(node);
        }
        if fewer {
            self.pool.spawn(NOBODY, Box::new(limits::give_back_memory));
        }
    }
}

/// How long the attributes may be remembered that come with a name: not at all where the
/// node's number is not the inode's, because they say a wrong st_ino.
fn attr_ttl(stat: &Statx, node: u64) -> Duration {
    if node == stat.stx_ino {
        REMEMBERED
    } else {
        NOT_REMEMBERED
    }
}

/// "There is no such name", to be remembered.
fn nothing() -> Entry {
    let attr = FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    };
    Entry {
        attr,
        attr_ttl: REMEMBERED,
        entry_ttl: REMEMBERED,
    }
}
