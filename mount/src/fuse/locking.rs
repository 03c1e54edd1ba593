//! SETLK, SETLKW and GETLK.
//!
//! fuser 0.18 does not say whether a request is flock(2)'s or fcntl(2)'s. A lock of a range
//! is fcntl's; for a whole file the system call of the waiting thread tells.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use fuser::{Errno, ReplyEmpty};
use polystore::disk::{FileId, Kind as FileKind, SystemDisk};
use rustix::fs::{OFlags, Statx};

use super::attr;
use super::errno::errno;
use super::fs::Fs;
use super::handles::{Handle, Target};
use super::proc::{SystemCall, system_call_of};
use super::tree::content_stat;
use crate::engine::draft::Draft;
use crate::engine::locks::{Answer, Class, Kind, Refused, Request, Table, Terms, Wait};
use crate::engine::order::Claim;
use crate::engine::process::Caller;
use crate::engine::slot::{Place, SlotKey};
use crate::pool::working_for;

/// The last byte of a whole file, as the kernel sends it.
const LAST_BYTE: u64 = i64::MAX as u64;

/// How often the thread that has sent its request but does not sleep yet is looked at again before
/// others have their turn.
const LOOKS: usize = 16;

/// How long the same is looked at beside other work: on a crowded machine it may not run for a while.
const PATIENCE: Duration = Duration::from_secs(10);

/// A lock as the kernel asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Handle it comes through.
    pub handle: u64,
    /// The kernel's number for who asks.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub typ: i32,
    /// Process that asks.
    pub pid: u32,
    /// Thread that asks.
    pub tid: u32,
    /// Its user.
    pub uid: u32,
}

impl Asked {
    fn is_whole(&self) -> bool {
        self.start == 0 && self.end >= LAST_BYTE
    }

    /// What the calling thread tells of it; `None` while it does not sleep yet.
    fn class(&self) -> Option<Class> {
        if !self.is_whole() {
            return Some(Class::Posix);
        }
        match system_call_of(self.tid) {
            SystemCall::Number(call) if call == libc::SYS_fcntl => Some(Class::Posix),
            SystemCall::Number(_) | SystemCall::Unknown => Some(Class::Flock),
            SystemCall::Running => None,
        }
    }

    fn request(&self, class: Class) -> io::Result<Request> {
        let kind = match self.typ {
            libc::F_RDLCK => Kind::Shared,
            libc::F_WRLCK => Kind::Exclusive,
            libc::F_UNLCK => Kind::Unlock,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok(Request {
            class,
            owner: self.owner,
            start: self.start,
            end: self.end,
            kind,
            pid: self.pid,
            tid: self.tid,
            uid: self.uid,
            handle: self.handle,
            terms: Terms::default(),
        })
    }
}

fn yield_once<T>() -> Option<T> {
    std::thread::yield_now();
    None
}

/// Taking one kind of lock for the other would let two in, or keep a lock for ever: it is known, or refused.
fn class_when_asleep(asked: &Asked) -> Option<Class> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(50);
    while Instant::now() < deadline {
        if let Some(class) = asked.class() {
            return Some(class);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
    None
}

/// What a program is told that gets no lock, or no turn.
pub fn of_refused(refused: Refused) -> Errno {
    match refused {
        Refused::WouldBlock => Errno::EAGAIN,
        Refused::Interrupted => Errno::EINTR,
        Refused::Deadlock => Errno::EDEADLK,
        Refused::TimedOut => Errno::ETIMEDOUT,
        // ESTALE would have the kernel ask again.
        Refused::Failed(libc::ESTALE) => Errno::EIO,
        Refused::Failed(number) => Errno::from_i32(number),
        Refused::TooMany => Errno::EBUSY,
        Refused::NoDescriptors => Errno::EMFILE,
    }
}

/// The same for a lock: flock(2) and fcntl(2) know one error for what there is too little of.
fn of_refused_lock(refused: Refused) -> Errno {
    match refused {
        Refused::TooMany | Refused::NoDescriptors => Errno::ENOLCK,
        refused => of_refused(refused),
    }
}

/// The key of the locks of a file that has no name, or several.
pub fn file_as_slot(file: FileId) -> SlotKey {
    SlotKey {
        dir: file,
        name: OsString::new(),
    }
}

impl Fs {
    /// The table that `handle` locks in: that of its slot, or of the file itself if that has
    /// no name or several.
    fn table(&self, handle: &Handle) -> Arc<Table> {
        handle
            .table
            .get_or_init(|| {
                let key = self.lock_key(handle);
                let parent = self.tree.nodes().get(handle.node).map(|node| node.parent);
                let fair = parent
                    .filter(|_| self.locks_turns(handle))
                    .and_then(|parent| self.table_of_lock_file(parent, &key));
                fair.unwrap_or_else(|| self.locks.table(&key))
            })
            .clone()
    }

    /// The table that a close of `handle` concerns, if there is one: the process may have locked
    /// the file through another handle.
    pub fn table_to_close(&self, handle: &Handle) -> Option<Arc<Table>> {
        if let Some(table) = handle.table.get() {
            return Some(table.clone());
        }
        if self.locks.is_empty() {
            return None;
        }
        self.locks.existing(&self.lock_key(handle))
    }

    fn lock_key(&self, handle: &Handle) -> SlotKey {
        if let Some(writer) = handle.writer() {
            return writer.draft.place.slot.clone();
        }
        if let Some(edit) = handle.edit() {
            return edit.place().slot;
        }
        let stat = self.stat_of(handle);
        let slot = self.tree.nodes().slot(handle.node);
        if let Some(slot) = slot.clone().filter(|_| self.locks_turns(handle)) {
            // That several names are one lock file, its flock outside sees to.
            return slot;
        }
        match (slot, stat) {
            (Some(slot), Some(stat)) if stat.stx_nlink <= 1 => slot,
            (slot, Some(stat)) if stat.stx_nlink > 1 || slot.is_none() => {
                file_as_slot(attr::id(&stat))
            }
            (Some(slot), _) => slot,
            (None, _) => file_as_slot(self.tree.root_id()),
        }
    }

    fn stat_of(&self, handle: &Handle) -> Option<Statx> {
        let content = self.content(handle).ok()?;
        content_stat(&content).ok()
    }

    /// Counts what the first lock through `handle` takes.
    fn count_locks(&self, handle: &Handle, typ: i32) -> Result<(), Refused> {
        if typ != libc::F_UNLCK && handle.table.get().is_none() {
            handle.counts_as(self.descriptors_of_locks(handle.user.uid)?);
        }
        Ok(())
    }

    /// Locks or unlocks, and answers when that is decided.
    pub fn setlk(self: &Arc<Self>, asked: Asked, wait: bool, reply: ReplyEmpty) {
        let handle = match self.file_handle(asked.handle) {
            Ok(handle) => handle,
            Err(error) => return reply.error(errno(&error)),
        };
        if let Err(refused) = self.count_locks(&handle, asked.typ) {
            return reply.error(of_refused_lock(refused));
        }
        let table = self.table(&handle);
        // What is given up is what is held: that needs no look at the thread.
        let held = match asked.typ {
            libc::F_UNLCK => self.locks.class_held(&table, asked.owner),
            _ => None,
        };
        let looked = || (0..LOOKS).find_map(|_| asked.class().or_else(yield_once));
        if let Some(class) = held.or_else(looked) {
            return self.setlk_as(class, handle, asked, wait, reply);
        }
        self.aside(move |fs| match class_when_asleep(&asked) {
            Some(class) => fs.setlk_as(class, handle, asked, wait, reply),
            None => reply.error(Errno::EINTR),
        });
    }

    fn setlk_as(
        self: &Arc<Self>,
        class: Class,
        handle: Arc<Handle>,
        asked: Asked,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let mut request = match asked.request(class) {
            Ok(request) => request,
            Err(error) => return reply.error(errno(&error)),
        };
        let table = self.table(&handle);
        let caller = Caller {
            tid: asked.tid,
            uid: handle.user.uid,
            gid: handle.user.gid,
        };
        request.terms = self.lock_terms(caller, &handle, request.kind);
        if request.kind == Kind::Unlock && self.locks.held_by(&table, handle.id) {
            return self.unlock(handle, table, request, reply);
        }
        let fs = self.clone();
        let answer: Answer = Box::new(move |outcome| {
            // Whoever has let him in may be another.
            let _working = working_for(asked.uid);
            match outcome {
                Ok(()) if request.kind == Kind::Unlock => reply.ok(),
                Ok(()) => fs.granted(&handle, &asked, request, reply),
                Err(refused) => reply.error(of_refused_lock(refused)),
            }
        });
        let nobody_waited = !self.locks.anyone_waiting();
        // A lock's own thread may have the turn: that ends here, see `Terms::ends_turn`.
        let passable = self.passable(&table, &request).unwrap_or_default();
        let wait = if wait { Wait::Forever } else { Wait::No };
        self.locks
            .set_past(&table, request, &passable, wait, answer);
        if nobody_waited {
            self.hurry_if_waiting();
        }
    }

    /// Gives up a lock, after what was written under it can be seen.
    fn unlock(
        self: &Arc<Self>,
        handle: Arc<Handle>,
        table: Arc<Table>,
        request: Request,
        reply: ReplyEmpty,
    ) {
        let fs = self.clone();
        let unlock = move || {
            let answer: Answer = Box::new(move |outcome| match outcome {
                Ok(()) => reply.ok(),
                Err(refused) => reply.error(of_refused_lock(refused)),
            });
            fs.locks.set(&table, request, false, answer);
        };
        let Some(edit) = handle.editor().map(|editor| editor.edit.clone()) else {
            return unlock();
        };
        let user = handle.user.uid;
        if edit.draft().is_some() {
            return self.settling(edit, move |fs, edit| {
                // What cannot be published is told to close, if it still can be.
                if let Err(error) = fs.publish_at_unlock(edit) {
                    fs.engine.ledger.note(
                        &edit.path,
                        user,
                        format_args!("not published at unlock: {error}"),
                    );
                }
                unlock();
            });
        }
        if handle.wrote_in_place.load(Ordering::Acquire) {
            return self.show_in_place(&edit, Box::new(unlock));
        }
        unlock();
    }

    /// A lock was granted: files are told from streams and databases by it.
    fn granted(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        asked: &Asked,
        request: Request,
        reply: ReplyEmpty,
    ) {
        let ranged = handle.writable && !asked.is_whole();
        if let Some(editor) = handle.editor().filter(|_| ranged) {
            let handle = handle.clone();
            return self.settling(editor.edit.clone(), move |fs, edit| {
                let locked = match handle.editor() {
                    Some(editor) => fs.engine.range_locked(editor),
                    None => Ok(false),
                };
                match locked {
                    Ok(true) => fs.note_locked_in_place(&handle),
                    Ok(false) => {}
                    Err(error) => log::warn!("{}: not in place: {error}", edit.path.display()),
                }
                reply.ok();
            });
        }
        let fresh = handle
            .writer()
            .map(|writer| writer.draft.clone())
            .filter(|draft| draft.new_name && !draft.is_written() && Fs::is_private(draft));
        let Some(draft) = fresh else {
            if ranged {
                self.note_locked_in_place(handle);
            }
            return self.catch_up(handle.clone(), reply);
        };
        let (handle, whole) = (handle.clone(), asked.is_whole());
        self.queue(Claim::change(draft.place.slot.clone()), move |fs| {
            let error = match fs.engine.publish_for_lock(&draft) {
                Ok(_) => {
                    if ranged {
                        fs.note_locked_in_place(&handle);
                    }
                    return reply.ok();
                }
                // A lock file that another has made first: the lock is the slot's, whichever inode.
                Err(error) if whole && error.kind() == io::ErrorKind::AlreadyExists => {
                    return reply.ok();
                }
                Err(error) => error,
            };
            let path = draft.path.display();
            log::warn!("{path}: cannot be published for a lock: {error}");
            let unlock = Request {
                kind: Kind::Unlock,
                ..request
            };
            fs.locks
                .set(&fs.table(&handle), unlock, false, Box::new(|_| ()));
            // Another has made the file meanwhile: to the program that is somebody who was faster.
            reply.error(match error.kind() {
                io::ErrorKind::AlreadyExists => Errno::EAGAIN,
                _ => errno(&error),
            });
        });
    }

    /// Programs open, then lock, then read: who reads goes on with the version that is published
    /// now, and with him all who read the same node, because they share its pages.
    fn catch_up(self: &Arc<Self>, handle: Arc<Handle>, reply: ReplyEmpty) {
        let reads = matches!(&handle.target, Target::Version { counted: None, .. });
        let place = self.tree.place_of(handle.node);
        let (true, Ok(place)) = (reads, place) else {
            return reply.ok();
        };
        self.inline(Ok(Claim::look(place.slot.clone())), move |fs| {
            let current = attr::of_name(&*place.dir, place.name());
            let shown = fs.stat_of(&handle);
            let (Ok(current), Some(shown)) = (current, shown) else {
                return reply.ok();
            };
            if attr::id(&current) == attr::id(&shown) || attr::kind(&current) != FileKind::File {
                return reply.ok();
            }
            match fs.open_for_all(&handle, &place) {
                Ok(file) => {
                    fs.move_node(handle.node, Arc::new(file));
                    let before = Some(attr::mtime(&shown));
                    fs.tree
                        .nodes()
                        .content_changed(handle.node, before, &current);
                }
                // He reads on what he has, as he would in a plain directory.
                Err(error) => {
                    log::debug!("{:?}: not moved: {error}", place.name());
                    return reply.ok();
                }
            }
            let answer = Box::new(move || reply.ok());
            fs.notices.invalidate_attributes_then(handle.node, answer);
        });
    }

    /// Opens what stands at `place` for `handle` and all who read the same node.
    ///
    /// # Errors
    /// One of them may not open it.
    fn open_for_all(&self, handle: &Handle, place: &Place<SystemDisk>) -> io::Result<File> {
        let read = OFlags::RDONLY;
        let (file, _) = self.open_at(&handle.user, &place.dir, place.name(), read)?;
        for other in self.handles.of_node(handle.node) {
            if matches!(&other.target, Target::Version { counted: None, .. }) {
                self.judge(&other.user, &file, read)?;
            }
        }
        Ok(file)
    }

    fn move_node(&self, node: u64, file: Arc<File>) {
        self.tree.moved(node, &file);
        for handle in self.handles.of_node(node) {
            if matches!(&handle.target, Target::Version { counted: None, .. }) {
                let mut moved = handle.moved.lock().unwrap_or_else(PoisonError::into_inner);
                *moved = Some(file.clone());
            }
        }
    }

    fn is_private(draft: &Draft<SystemDisk>) -> bool {
        draft.phase() == crate::engine::draft::Phase::Private
    }

    fn note_locked_in_place(&self, handle: &Handle) {
        let written_draft = handle.writer().is_some_and(|w| {
            Fs::is_private(&w.draft) && (w.draft.is_written() || !w.draft.new_name)
        });
        if written_draft || handle.locked_in_place.swap(true, Ordering::AcqRel) {
            return;
        }
        let dir = self.tree.nodes().slot(handle.node).map(|slot| slot.dir);
        let stat = self.stat_of(handle);
        if let (Some(dir), Some(stat)) = (dir, stat) {
            self.engine
                .note_locked_in_place(handle.id, attr::id(&stat), dir, handle.opener);
        }
    }

    /// Who holds a lock that conflicts with what is asked.
    pub fn getlk(&self, asked: Asked) -> io::Result<Option<Request>> {
        let handle = self.file_handle(asked.handle)?;
        let request = asked.request(Class::Posix)?;
        Ok(self.locks.blocker(&self.table(&handle), &request))
    }
}
