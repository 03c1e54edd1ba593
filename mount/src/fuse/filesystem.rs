//! The kernel's requests: each is taken apart, put in its place in the order, and answered.
//!
//! What cannot take long is done by the thread that reads requests (LOOKUP, OPEN, GETATTR and
//! the like); what can wait for the disk goes to the pool.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use rustix::fs::Statx;

use super::attr;
use super::attrs::Change;
use super::channel::{REMEMBERED as CHANNEL_TTL, is_channel};
use super::errno::errno;
use super::fs::{Entry, Fs, caller};
use super::io::WriteHow;
use super::leases::{Tried, is_leased};
use super::locking::{Asked, of_refused};
use super::names::NewMode;
use super::opening::may_wait;
use super::watchdog::Kind;
use crate::engine::locks::{Kind as LockKind, Refused};
use crate::engine::order::{Claim, User};
use crate::engine::process::Caller;
use crate::pool::working_for;
use crate::shares::NOBODY;

/// Biggest write request. Bigger ones save nothing that could be measured.
const MAX_WRITE: u32 = 1 << 20;

/// Requests that nobody waits for (releases, readahead) which the kernel keeps in flight: a
/// release must never be held back behind others.
const MAX_BACKGROUND: u16 = 4096;

/// Reads up to this size are tried from the page cache by the reading thread itself.
const INLINE_READ: usize = 256 * 1024;

/// A number stands for one file as long as the kernel knows it (see `nodes.rs`): that is what
/// generations would be for.
pub const GENERATION: Generation = Generation(0);

/// The adapter between fuser and [`Fs`].
pub struct Adapter(pub Arc<Fs>);

fn send_entry(reply: ReplyEntry, entry: io::Result<Entry>) {
    match entry {
        Ok(entry) => {
            reply.entry_with_ttls(&entry.attr_ttl, &entry.entry_ttl, &entry.attr, GENERATION)
        }
        Err(error) => reply.error(errno(&error)),
    }
}

fn send_empty(reply: ReplyEmpty, done: io::Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn send_written(reply: ReplyWrite, written: io::Result<u32>) {
    match written {
        Ok(count) => reply.written(count),
        Err(error) => reply.error(errno(&error)),
    }
}

fn send_xattr(reply: ReplyXattr, size: u32, value: io::Result<(usize, Vec<u8>)>) {
    match value {
        Ok((len, _)) if size == 0 => reply.size(len as u32),
        Ok((_, value)) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Whether a handle that is open with these `flags` at this moment writes at the end: fcntl(F_SETFL) sets
/// and clears O_APPEND after open, and only the requests tell.
fn appends_now(flags: OpenFlags) -> bool {
    rustix::fs::OFlags::from_bits_retain(flags.0 as u32).contains(rustix::fs::OFlags::APPEND)
}

impl Adapter {
    /// For whom a request of `handle` is to be done: it may come from nobody, when the kernel writes pages
    /// of a mapping, or releases what was open.
    fn user(&self, request: &Request, handle: FileHandle) -> User {
        let opener = || Some(self.0.handles.get(handle.0)?.user.uid);
        match request.pid() {
            0 => opener().unwrap_or(NOBODY),
            _ => request.uid(),
        }
    }

    /// The claim of changing `name` in `parent`.
    fn change(&self, parent: INodeNo, name: &OsStr) -> Claim {
        self.0
            .tree
            .slot(parent.0, name)
            .map_or_else(|_| Claim::default(), Claim::change)
    }
}

impl Adapter {
    /// The claim of everything in the directory `name`, if it is one: what is being published
    /// inside comes first.
    fn inside(&self, parent: INodeNo, name: &OsStr) -> Claim {
        let found = self
            .0
            .tree
            .dir(parent.0)
            .and_then(|dir| attr::of_name(&*dir, name));
        match found {
            Ok(stat) if attr::kind(&stat) == polystore::disk::Kind::Directory => {
                Claim::whole(attr::id(&stat))
            }
            _ => Claim::default(),
        }
    }
}

impl Fs {
    /// Opens `node` when nothing that concerns it is unfinished. `now` where this thread is the one
    /// that reads requests, and no other has come meanwhile.
    fn open_in_order(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        flags: i32,
        now: bool,
        reply: ReplyOpen,
    ) {
        let open = move |fs: &Arc<Fs>| fs.open_and_answer(caller, node, flags, None, reply);
        let (claim, long) = self
            .claim_of_open(node, flags)
            .unwrap_or_else(|_| (Claim::default(), false));
        match self.waits_for_publish(caller, node) {
            None if long || !now => self.queue(claim, open),
            None => self.inline(Ok(claim), open),
            // Published by then, in all likelihood; else the open says that there is no such file.
            Some(draft) => self.aside(move |fs| {
                draft.wait_until_settled(fs.patience_with(caller, &draft, flags));
                fs.queue(claim, open);
            }),
        }
    }

    /// Opens `node`; who meets a lease and may wait gets his answer later.
    fn open_and_answer(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        flags: i32,
        tried: Option<Tried>,
        reply: ReplyOpen,
    ) {
        match self.open(caller, node, flags) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), opened.flags),
            Err(error) if is_leased(&error) && may_wait(flags) => {
                self.wait_for_lease(caller, tried, move |fs, go_on| match go_on {
                    Ok(tried) => {
                        let claim = fs.claim_of_open(node, flags);
                        let (claim, _) = claim.unwrap_or_else(|_| (Claim::default(), false));
                        fs.queue(claim, move |fs| {
                            fs.open_and_answer(caller, node, flags, tried, reply);
                        });
                    }
                    Err(error) => {
                        fs.give_up_open(caller, node);
                        let number = errno(&error);
                        fs.settle_turn(caller, None, &Err(error));
                        reply.error(number);
                    }
                });
            }
            Err(error) => reply.error(errno(&error)),
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Not FUSE_ASYNC_DIO: the thread that answers the last part of a direct read would then do what
        // the reader's own thread does otherwise, and wait for the pages that the data were read into.
        // These may be of another file of this mount, and wait for a request of their own.
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_FLOCK_LOCKS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                log::debug!("the kernel does not offer {flag:?}");
            }
        }
        let needed = InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS;
        if !config.capabilities().contains(needed) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel's FUSE is too old",
            ));
        }
        // Both take any value from 1 on and, of what is too much, name the most there is.
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_max_write(MAX_WRITE);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _busy = self.0.reading.begin(Kind::Lookup, parent.0);
        let _working = working_for(request.uid());
        if let Some(entry) = self.0.channel_entry(parent.0, name) {
            return send_entry(reply, entry);
        }
        let (caller, name) = (caller(request), name.to_owned());
        let claim = self.0.tree.slot(parent.0, &name).map(Claim::look);
        self.0.inline(claim, move |fs| {
            send_entry(reply, fs.lookup(caller, parent.0, &name))
        });
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        let _busy = self.0.reading.begin(Kind::Forget, node.0);
        self.0.forget(node.0, count);
    }

    fn getattr(
        &self,
        request: &Request,
        node: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let _busy = self.0.reading.begin(Kind::Getattr, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            return reply.attr(&CHANNEL_TTL, &self.0.channel_attr(node.0));
        }
        let claim = self.0.look(node.0);
        let caller = caller(request);
        self.0.inline(claim, move |fs| {
            let known = fs.getattr(caller, node.0, handle.map(|handle| handle.0));
            fs.note_overtaken(caller, known.as_ref().err());
            match known {
                Ok((attr, ttl)) => reply.attr(&ttl, &attr),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _busy = self.0.reading.begin(Kind::Setattr, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            let unchanged = mode.is_none() && uid.is_none() && gid.is_none();
            return match unchanged {
                true => reply.attr(&CHANNEL_TTL, &self.0.channel_attr(node.0)),
                false => reply.error(Errno::EPERM),
            };
        }
        let caller = caller(request);
        let change = Change {
            mode,
            uid,
            gid,
            atime,
            mtime,
        };
        let handle = handle.map(|handle| handle.0);
        let answer = move |fs: &Arc<Fs>, done: io::Result<Option<Statx>>| match done
            .and_then(|cut| fs.setattr(caller, node.0, handle, &change, cut.as_ref()))
        {
            Ok((attr, ttl)) => reply.attr(&ttl, &attr),
            Err(error) => reply.error(errno(&error)),
        };
        if let Some(len) = size {
            return self.0.set_len(caller, node.0, handle, len, answer);
        }
        let answer = move |fs: &Arc<Fs>| answer(fs, Ok(None));
        let claim = self.0.look(node.0).unwrap_or_default();
        // Attributes of a draft are nobody's business yet: no journal to wait for in all likelihood.
        if self.0.tree.draft(node.0).is_some() {
            self.0.inline(Ok(claim), answer)
        } else {
            self.0.queue(claim, answer)
        }
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        let _busy = self.0.reading.begin(Kind::Readlink, node.0);
        match self.0.readlink(node.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let _busy = self.0.reading.begin(Kind::Mknod, parent.0);
        let _working = working_for(request.uid());
        let (caller, claim, name) = (caller(request), self.change(parent, name), name.to_owned());
        let new = NewMode { mode, umask };
        self.0.queue(claim, move |fs| {
            send_entry(reply, fs.mknod(caller, parent.0, &name, new, rdev))
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let _busy = self.0.reading.begin(Kind::Mkdir, parent.0);
        let _working = working_for(request.uid());
        let (caller, claim, name) = (caller(request), self.change(parent, name), name.to_owned());
        let new = NewMode { mode, umask };
        self.0.queue(claim, move |fs| {
            send_entry(reply, fs.mkdir(caller, parent.0, &name, new))
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.0.reading.begin(Kind::Unlink, parent.0);
        let _working = working_for(request.uid());
        let (caller, claim, name) = (caller(request), self.change(parent, name), name.to_owned());
        self.0.queue(claim, move |fs| {
            send_empty(reply, fs.unlink(caller, parent.0, &name))
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.0.reading.begin(Kind::Rmdir, parent.0);
        let _working = working_for(request.uid());
        let (caller, name) = (caller(request), name.to_owned());
        let claim = self.change(parent, &name).and(self.inside(parent, &name));
        self.0.queue(claim, move |fs| {
            send_empty(reply, fs.rmdir(caller, parent.0, &name))
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let _busy = self.0.reading.begin(Kind::Symlink, parent.0);
        let _working = working_for(request.uid());
        let (caller, claim) = (caller(request), self.change(parent, name));
        let (name, target) = (name.to_owned(), target.to_owned());
        self.0.queue(claim, move |fs| {
            send_entry(reply, fs.symlink(caller, parent.0, &name, &target))
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Rename, parent.0);
        let _working = working_for(request.uid());
        let caller = caller(request);
        let claim = self
            .change(parent, name)
            .and(self.change(to_parent, to_name));
        let claim = claim.and(self.inside(to_parent, to_name));
        let (name, to_name) = (name.to_owned(), to_name.to_owned());
        self.0.queue(claim, move |fs| {
            send_empty(
                reply,
                fs.rename(caller, (parent.0, &name), (to_parent.0, &to_name), flags),
            );
        });
    }

    fn link(
        &self,
        request: &Request,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let _busy = self.0.reading.begin(Kind::Link, node.0);
        let _working = working_for(request.uid());
        let caller = caller(request);
        let claim = self.change(parent, name);
        let claim = match self.0.tree.nodes().slot(node.0) {
            Some(slot) => claim.and(Claim::change(slot)),
            None => claim,
        };
        let name = name.to_owned();
        self.0.queue(claim, move |fs| {
            send_entry(reply, fs.link(caller, node.0, parent.0, &name))
        });
    }

    fn open(&self, request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _busy = self.0.reading.begin(Kind::Open, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            let caller = caller(request);
            // What there is to report of salvage lies on the disk.
            return self
                .0
                .aside(move |fs| match fs.open_channel(caller, node.0, flags.0) {
                    Ok(opened) => reply.opened(FileHandle(opened.handle), opened.flags),
                    Err(error) => reply.error(errno(&error)),
                });
        }
        let caller = caller(request);
        let open_flags = rustix::fs::OFlags::from_bits_retain(flags.0 as u32);
        let Some(ask) = self.0.turn_of_node(caller, node.0, open_flags) else {
            return self.0.open_in_order(caller, node.0, flags.0, true, reply);
        };
        let wait = self.0.patience(&ask);
        let (node, flags) = (node.0, flags.0);
        let go = move |fs: &Arc<Fs>, came: Result<bool, Refused>| {
            // Whoever has let him in may be another.
            let _working = working_for(caller.uid);
            match came {
                Ok(at_once) => fs.open_in_order(caller, node, flags, at_once, reply),
                Err(refused) => {
                    fs.give_up_open(caller, node);
                    reply.error(of_refused(refused));
                }
            }
        };
        self.0.with_turn(caller, &ask, wait, Box::new(go));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let _busy = self.0.reading.begin(Kind::Create, parent.0);
        let _working = working_for(request.uid());
        let (caller, name) = (caller(request), name.to_owned());
        let claim = Ok(self.change(parent, &name));
        self.0.inline(claim, move |fs| {
            match fs.create(caller, parent.0, &name, (mode, umask), flags) {
                Ok((entry, opened)) => {
                    let handle = FileHandle(opened.handle);
                    reply.created(
                        &entry.entry_ttl,
                        &entry.attr,
                        GENERATION,
                        handle,
                        opened.flags,
                    );
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _busy = self.0.reading.begin(Kind::Read, node.0);
        let _working = working_for(self.user(request, handle));
        if is_channel(node.0) {
            return match self.0.read_channel(caller(request), handle.0, offset, size) {
                Ok(data) => reply.data(&data),
                Err(error) => reply.error(Errno::from_i32(error.code.errno())),
            };
        }
        let handle = match self.0.file_handle(handle.0) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(&error)),
        };
        let fs = self.0.clone();
        let read = move || {
            let mut buffer = vec![0; size as usize];
            if buffer.len() <= INLINE_READ
                && let Some(read) = fs.read_cached(&handle, offset, &mut buffer)
            {
                return reply.data(&buffer[..read]);
            }
            fs.aside(move |fs| match fs.read(&handle, offset, &mut buffer) {
                Ok(read) => reply.data(&buffer[..read]),
                Err(error) => reply.error(errno(&error)),
            });
        };
        if let Some(read) = self.0.writes.before(node.0, read) {
            read();
        }
    }

    fn write(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _busy = self.0.reading.begin(Kind::Write, node.0);
        let _working = working_for(self.user(request, handle));
        if is_channel(node.0) {
            return self.0.write_channel(caller(request), handle.0, data, reply);
        }
        let handle = match self.0.file_handle(handle.0) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(&error)),
        };
        let data = data.to_vec();
        let caller = caller(request);
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let how = WriteHow {
            mapped,
            appends: appends_now(flags),
        };
        let to = handle.clone();
        let write = self.0.writes.begin(node.0);
        self.0.change(&to, move |fs| {
            let written = fs.write(caller, &handle, offset, &data, how);
            if let Some(editor) = handle.editor().filter(|_| mapped) {
                fs.engine.note_mapped_write(&editor.edit);
            }
            send_written(reply, written);
            drop(write);
        });
    }

    fn flush(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Flush, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            return send_empty(reply, self.0.channel.close(handle.0));
        }
        let handle = match self.0.file_handle(handle.0) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(&error)),
        };
        self.0.flush(caller(request), handle, owner.0, move |done| {
            send_empty(reply, done)
        });
    }

    fn release(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Release, node.0);
        let _working = working_for(self.user(request, handle));
        if is_channel(node.0) {
            self.0.channel.release(handle.0);
            return reply.ok();
        }
        self.0.release(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Fsync, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            return reply.ok();
        }
        match self.0.file_handle(handle.0) {
            Ok(handle) => self
                .0
                .aside(move |fs| send_empty(reply, fs.fsync(&handle, datasync))),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn opendir(&self, request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _busy = self.0.reading.begin(Kind::Opendir, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            return match self.0.open_channel(caller(request), node.0, 0) {
                Ok(opened) => reply.opened(FileHandle(opened.handle), FopenFlags::empty()),
                Err(error) => reply.error(errno(&error)),
            };
        }
        match self.0.opendir(caller(request), node.0) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), opened.flags),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _busy = self.0.reading.begin(Kind::Readdir, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            let mut names = Fs::channel_names(offset);
            while let Some((name, number, kind, next)) = names.next()
                && !reply.add(INodeNo(number), next, kind, name)
            {}
            return reply.ok();
        }
        let claim = self.0.look(node.0).unwrap_or_default();
        self.0.queue(claim, move |fs| {
            match fs.readdir(handle.0, offset, &mut reply) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _busy = self.0.reading.begin(Kind::Readdirplus, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            for (name, number, _, next) in Fs::channel_names(offset) {
                let seen = self.0.channel_attr(number);
                if reply.add(seen.ino, next, name, &CHANNEL_TTL, &seen, GENERATION) {
                    break;
                }
            }
            return reply.ok();
        }
        let caller = caller(request);
        let claim = self.0.look(node.0).unwrap_or_default();
        self.0.queue(claim, move |fs| {
            match fs.readdirplus(caller, handle.0, offset, &mut reply) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn releasedir(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Releasedir, node.0);
        let _working = working_for(self.user(request, handle));
        if is_channel(node.0) {
            self.0.channel.release(handle.0);
            return reply.ok();
        }
        self.0.release(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Fsyncdir, node.0);
        let _working = working_for(request.uid());
        let claim = self.0.look(node.0).unwrap_or_default();
        self.0
            .queue(claim, move |fs| send_empty(reply, fs.fsyncdir(node.0)));
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        let _busy = self.0.reading.begin(Kind::Statfs, node.0);
        self.0.aside(move |fs| match fs.statfs() {
            Ok(vfs) => reply.statfs(
                vfs.f_blocks,
                vfs.f_bfree,
                vfs.f_bavail,
                vfs.f_files,
                vfs.f_ffree,
                vfs.f_bsize as u32,
                vfs.f_namemax as u32,
                vfs.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Setxattr, node.0);
        let _working = working_for(request.uid());
        let (caller, name, value) = (caller(request), name.to_owned(), value.to_vec());
        let claim = self.0.look(node.0).unwrap_or_default();
        self.0.queue(claim, move |fs| {
            send_empty(reply, fs.setxattr(caller, node.0, &name, &value, flags))
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let _busy = self.0.reading.begin(Kind::Getxattr, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            return reply.error(Errno::ENODATA);
        }
        let (caller, name) = (caller(request), name.to_owned());
        let claim = self.0.look(node.0);
        self.0.inline(claim, move |fs| {
            let value = fs.getxattr(caller, node.0, &name, size);
            fs.note_overtaken(caller, value.as_ref().err());
            send_xattr(reply, size, value)
        });
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let _busy = self.0.reading.begin(Kind::Listxattr, node.0);
        let _working = working_for(request.uid());
        if is_channel(node.0) {
            return send_xattr(reply, size, Ok((0, Vec::new())));
        }
        let caller = caller(request);
        let claim = self.0.look(node.0);
        self.0.inline(claim, move |fs| {
            send_xattr(reply, size, fs.listxattr(caller, node.0, size))
        });
    }

    fn removexattr(&self, request: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _busy = self.0.reading.begin(Kind::Removexattr, node.0);
        let _working = working_for(request.uid());
        let (caller, name) = (caller(request), name.to_owned());
        let claim = self.0.look(node.0).unwrap_or_default();
        self.0.queue(claim, move |fs| {
            send_empty(reply, fs.removexattr(caller, node.0, &name))
        });
    }

    fn getlk(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let _busy = self.0.reading.begin(Kind::Getlk, node.0);
        let _working = working_for(request.uid());
        let asked = Asked {
            handle: handle.0,
            owner: owner.0,
            start,
            end,
            typ,
            pid,
            tid: request.pid(),
            uid: request.uid(),
        };
        match self.0.getlk(asked) {
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Ok(Some(held)) => {
                let typ = if held.kind == LockKind::Shared {
                    libc::F_RDLCK
                } else {
                    libc::F_WRLCK
                };
                reply.locked(held.start, held.end, typ, held.pid);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setlk(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Setlk, node.0);
        let _working = working_for(request.uid());
        let asked = Asked {
            handle: handle.0,
            owner: owner.0,
            start,
            end,
            typ,
            pid,
            tid: request.pid(),
            uid: request.uid(),
        };
        self.0.setlk(asked, sleep, reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _busy = self.0.reading.begin(Kind::Fallocate, node.0);
        let _working = working_for(request.uid());
        let caller = caller(request);
        match self.0.file_handle(handle.0) {
            Ok(handle) => {
                let to = handle.clone();
                self.0.change(&to, move |fs| {
                    let range = (offset, length);
                    send_empty(reply, fs.fallocate(caller, &handle, range, mode));
                });
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn lseek(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _busy = self.0.reading.begin(Kind::Lseek, node.0);
        let _working = working_for(request.uid());
        let handle = match self.0.file_handle(handle.0) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(&error)),
        };
        // It can wait for whoever writes the file.
        self.0
            .aside(move |fs| match fs.lseek(&handle, offset, whence) {
                Ok(offset) => reply.offset(offset),
                Err(error) => reply.error(errno(&error)),
            });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _busy = self.0.reading.begin(Kind::CopyFileRange, from.0);
        let _working = working_for(request.uid());
        let caller = caller(request);
        let both = self
            .0
            .file_handle(from_handle.0)
            .and_then(|from| Ok((from, self.0.file_handle(to_handle.0)?)));
        match both {
            Ok((from, to)) => {
                let changed = to.clone();
                self.0.change(&changed, move |fs| {
                    let (from, to) = ((&*from, from_offset), (&*to, to_offset));
                    send_written(reply, fs.copy_range(caller, from, to, len));
                });
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        let _busy = self.0.reading.begin(Kind::Ioctl, node.0);
        reply.error(Errno::ENOTTY);
    }
}
