//! OPENDIR, READDIR and READDIRPLUS.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{FileType, FopenFlags, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

use super::attr;
use super::errno::stale;
use super::filesystem::GENERATION;
use super::fs::Fs;
use super::handles::{Handle, NewHandle, Target};
use super::made_locks::is_made_lock;
use super::nodes::ROOT;
use super::opening::Opened;
use crate::engine::process::Caller;
use crate::engine::slot::SlotKey;
use crate::engine::staging::is_hidden;

/// How much of a directory is read from the system at a time.
const CHUNK: usize = 32 * 1024;

/// A name in a directory.
struct Item {
    name: OsString,
    inode: u64,
    kind: rustix::fs::FileType,
    /// Where the next one starts, as the backing file system counts.
    next: u64,
}

/// An open directory that is being listed.
pub struct Stream {
    fd: OwnedFd,
    ahead: VecDeque<Item>,
    at: u64,
}

impl Stream {
    fn seek(&mut self, offset: u64) -> io::Result<()> {
        if self.at != offset || self.ahead.is_empty() {
            rustix::fs::seek(&self.fd, SeekFrom::Start(offset))?;
            self.ahead.clear();
            self.at = offset;
        }
        Ok(())
    }

    /// The next item, which stays the next one until it is [`taken`](Self::taken).
    fn peek(&mut self) -> io::Result<Option<&Item>> {
        if self.ahead.is_empty() {
            self.refill()?;
        }
        Ok(self.ahead.front())
    }

    fn taken(&mut self) {
        if let Some(item) = self.ahead.pop_front() {
            self.at = item.next;
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); CHUNK];
        let mut raw = RawDir::new(&self.fd, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            self.ahead.push_back(Item {
                name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
                inode: entry.ino(),
                kind: entry.file_type(),
                next: entry.next_entry_cookie(),
            });
            if raw.is_buffer_empty() {
                break;
            }
        }
        Ok(())
    }
}

fn kind(kind: rustix::fs::FileType) -> FileType {
    match kind {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

impl Fs {
    /// Opens directory `node` to list it.
    pub fn opendir(&self, caller: Caller, node: u64) -> io::Result<Opened> {
        let share = self.descriptors_of_handle(caller)?;
        let dir = self.tree.dir(node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*dir, ".", flags, Mode::empty())?;
        let stream = Stream {
            fd,
            ahead: VecDeque::new(),
            at: 0,
        };
        let handle = self.handles.add(NewHandle {
            node,
            target: Target::Directory(Mutex::new(stream)),
            synchronous: false,
            writable: false,
            opener: None,
            user: self.credentials(caller),
        });
        handle.counts_as(share);
        Ok(Opened {
            handle: handle.id,
            flags: FopenFlags::empty(),
        })
    }

    /// Goes through the names from `offset` on; `add` says whether the reply is full.
    fn list(
        &self,
        handle: &Handle,
        offset: u64,
        mut add: impl FnMut(&Item) -> bool,
    ) -> io::Result<()> {
        let Target::Directory(stream) = &handle.target else {
            return Err(stale());
        };
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.seek(offset)?;
        let dir = self.tree.dir(handle.node)?;
        while let Some(item) = stream.peek()? {
            let hidden =
                is_hidden(handle.node == ROOT, &item.name) || is_made_lock(&dir, &item.name);
            if !hidden && add(item) {
                return Ok(());
            }
            stream.taken();
        }
        Ok(())
    }

    /// Lists names.
    pub fn readdir(&self, id: u64, offset: u64, reply: &mut ReplyDirectory) -> io::Result<()> {
        let handle = self.handles.get(id).ok_or_else(stale)?;
        self.list(&handle, offset, |item| {
            // 0 would make programs skip the name.
            let inode = INodeNo(item.inode.max(1));
            reply.add(inode, item.next, kind(item.kind), &item.name)
        })
    }

    /// Lists names and tells the kernel of what they stand for.
    pub fn readdirplus(
        self: &Arc<Self>,
        caller: Caller,
        id: u64,
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> io::Result<()> {
        let handle = self.handles.get(id).ok_or_else(stale)?;
        let dir = self.tree.dir(handle.node)?;
        let dir_id = self.dir_id(handle.node)?;
        self.list(&handle, offset, |item| {
            let Ok(stat) = attr::of_name(&*dir, &item.name) else {
                return false; // Gone since it was read.
            };
            if item.name == "." || item.name == ".." {
                // The kernel does not take these two for nodes.
                let seen = attr::to_kernel(&stat, item.inode.max(1));
                return reply.add(
                    seen.ino,
                    item.next,
                    &item.name,
                    &Duration::ZERO,
                    &seen,
                    GENERATION,
                );
            }
            let slot = SlotKey {
                dir: dir_id,
                name: item.name.clone(),
            };
            let volatile = self.is_volatile(&slot);
            let entry = self.entry(caller, handle.node, &item.name, &stat, volatile);
            let full = reply.add(
                entry.attr.ino,
                item.next,
                &item.name,
                &entry.entry_ttl,
                &entry.attr,
                GENERATION,
            );
            if full {
                self.forget(entry.attr.ino.0, 1);
            }
            full
        })
    }
}
