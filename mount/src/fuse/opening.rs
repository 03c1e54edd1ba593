//! OPEN and CREATE.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use fuser::FopenFlags;
use polystore::disk::{Kind, SystemDisk};
use rustix::fs::{Mode, OFlags, Statx};
use rustix::io::Errno;

use super::attr;
use super::errno::{looks_again, stale};
use super::fs::{Entry, Fs, NOT_REMEMBERED};
use super::handles::{Counted, Handle, NewHandle, Target};
use super::leases::is_leased;
use super::made_locks::show_lock;
use super::nodes::ROOT;
use super::overtaken::is_overtaken;
use super::quota::too_many_files;
use super::redirect::Promised;
use super::rights::TO_RUN;
use super::tree::{Dir, path_of};
use crate::engine::draft::{Draft, Phase};
use crate::engine::locks::Refused;
use crate::engine::opening::{Access, Existing, New, Plan};
use crate::engine::order::Claim;
use crate::engine::process::{Caller, Processes};
use crate::engine::slot::Place;
use crate::engine::staging::is_hidden;

/// How often CREATE looks again what there is under its name.
const CREATE_TRIES: usize = 8;

/// A handle, as the kernel is told of it.
pub struct Opened {
    /// Its number.
    pub handle: u64,
    /// How the kernel is to treat it.
    pub flags: FopenFlags,
}

/// Flags that are passed on to the backing file. O_DIRECT asks for aligned buffers, which
/// the kernel does not promise here; it keeps the page cache of the mount out of it by itself.
/// O_APPEND is done write by write: what comes from a mapping has its own place.
pub fn passed_on(flags: OFlags) -> OFlags {
    flags
        & (OFlags::RDONLY
            | OFlags::WRONLY
            | OFlags::RDWR
            | OFlags::SYNC
            | OFlags::DSYNC
            | OFlags::NOATIME
            | OFlags::TRUNC
            | TO_RUN)
}

/// What a program's open flags ask for.
pub fn access(flags: OFlags) -> Access {
    let mode = flags & (OFlags::WRONLY | OFlags::RDWR);
    Access {
        truncate: flags.contains(OFlags::TRUNC),
        append: flags.contains(OFlags::APPEND) && !mode.is_empty(),
        exclusive: flags.contains(OFlags::EXCL),
        read: mode == OFlags::RDWR,
        read_only: mode.is_empty(),
        alone: false,
    }
}

/// Whether who opens with these flags may be kept waiting.
pub fn may_wait(flags: i32) -> bool {
    !OFlags::from_bits_retain(flags as u32).contains(OFlags::NONBLOCK)
}

impl Fs {
    /// Whether an open of `node` has to wait for the publish that is about to happen, and looks
    /// again after that.
    pub fn waits_for_publish(&self, caller: Caller, node: u64) -> Option<Arc<Draft<SystemDisk>>> {
        self.tree
            .draft(node)
            .filter(|draft| self.engine.must_wait_for(caller, draft))
    }

    /// Whether `node` is written in place by its name: to cut it frees what it has on the disk.
    fn is_direct(&self, node: u64) -> bool {
        let named = self
            .tree
            .nodes()
            .get(node)
            .map(|node| (node.parent, node.name.clone()));
        named.is_some_and(|(parent, name)| {
            let path = self.tree.path(parent, &name);
            self.engine.settings.direct.covers(&path)
        })
    }

    /// What an open of `node` has to wait for, and whether it can take long: an edit looks at the
    /// first bytes of its file, and cuts alone.
    pub fn claim_of_open(&self, node: u64, flags: i32) -> io::Result<(Claim, bool)> {
        let wanted = access(OFlags::from_bits_retain(flags as u32));
        let claim = self.look(node)?;
        if wanted.read_only && !wanted.truncate {
            return Ok((claim, false));
        }
        if let Some(edit) = self.tree.edit(node).filter(|_| wanted.truncate) {
            return Ok((claim.and(Claim::alone(edit.id)), true));
        }
        let edits = !wanted.truncate && !wanted.append && self.tree.draft(node).is_none();
        Ok((claim, edits || (wanted.truncate && self.is_direct(node))))
    }

    /// Opens `node`. An error of ESTALE makes the kernel look the name up again and come back, once.
    pub fn open(self: &Arc<Self>, caller: Caller, node: u64, flags: i32) -> io::Result<Opened> {
        let flags = OFlags::from_bits_retain(flags as u32);
        let turn = self.turn_of_node(caller, node, flags);
        // Its lock file may have been removed since the turn came.
        let opened = match &turn {
            Some(ask) if !self.has_turn(caller, ask) => Err(stale()),
            _ => self.open_counted(caller, node, flags),
        };
        if opened.as_ref().is_err_and(is_leased) && may_wait(flags.bits() as i32) {
            return opened; // It is tried again, and keeps its turn until then.
        }
        self.note_second_look(caller, &opened);
        self.settle_turn(caller, turn.as_ref(), &opened);
        opened
    }

    fn open_counted(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        flags: OFlags,
    ) -> io::Result<Opened> {
        let share = match self.descriptors_of_handle(caller) {
            Ok(share) => share,
            Err(error) => {
                self.give_up_open(caller, node);
                return Err(error);
            }
        };
        let opened = self.open_once(caller, node, flags);
        self.opened_with(share, &opened);
        opened
    }

    fn note_second_look<T>(&self, caller: Caller, opened: &io::Result<T>) {
        match opened {
            Ok(_) => self.second_looks.seen(caller.tid),
            Err(error) if looks_again(error) => {
                self.second_looks.asked(caller.tid);
            }
            Err(_) => {}
        }
    }

    fn open_once(self: &Arc<Self>, caller: Caller, node: u64, flags: OFlags) -> io::Result<Opened> {
        match self.open_node(caller, node, flags) {
            Err(error) if is_overtaken(&error) => {
                if self.second_looks.asked_before(caller.tid) {
                    self.open_overtaken(caller, node, flags)
                } else {
                    Err(stale())
                }
            }
            other => other,
        }
    }

    fn open_node(self: &Arc<Self>, caller: Caller, node: u64, flags: OFlags) -> io::Result<Opened> {
        let wanted = access(flags);
        let reading = wanted.read_only && !wanted.truncate;
        if let Some(draft) = self.tree.draft(node)
            && matches!(draft.phase(), Phase::Private | Phase::Orphan { .. })
        {
            if self.engine.must_wait_for(caller, &draft) {
                return Err(stale());
            }
            return if reading {
                self.draft_reader(caller, node, &draft)
            } else if let Some(opened) = self.open_made_meanwhile(caller, node, &draft, flags) {
                opened
            } else {
                self.open_draft(caller, node, &draft, flags, false)
            };
        }
        let edit = self.tree.edit(node);
        match edit {
            Some(edit) if reading => self.edit_reader(caller, node, &edit),
            Some(edit) if edit.is_orphan() => self.open_edit(caller, node, &edit, flags, false),
            _ if reading => self.open_to_read(caller, node, flags),
            _ => self.open_to_write(caller, node, flags),
        }
    }

    fn open_to_read(&self, caller: Caller, node: u64, flags: OFlags) -> io::Result<Opened> {
        let who = self.credentials(caller);
        let file = self.open_version(&who, node, passed_on(flags))?;
        Ok(self.version_handle(caller, node, file, flags))
    }

    pub fn version_handle(&self, caller: Caller, node: u64, file: File, flags: OFlags) -> Opened {
        let file = Arc::new(file);
        let wanted = access(flags);
        let id = attr::of_file(&*file).ok().map(|stat| attr::id(&stat));
        let counted = match id {
            Some(id) if wanted.append => Some(Counted::Append(id)),
            Some(id) if !wanted.read_only => Some(Counted::Write(id)),
            _ => None,
        };
        match counted {
            Some(Counted::Append(id)) => self.engine.append_opened(id),
            Some(Counted::Write(id)) => self.engine.in_place_opened(id, 1),
            None => {}
        }
        self.tree.pinned(node, &file);
        let target = Target::Version { file, counted };
        let handle = self.add_handle(caller, node, target, flags);
        Opened {
            handle: handle.id,
            flags: FopenFlags::FOPEN_KEEP_CACHE,
        }
    }

    pub fn add_handle(
        &self,
        caller: Caller,
        node: u64,
        target: Target,
        flags: OFlags,
    ) -> Arc<Handle> {
        let wanted = access(flags);
        if !wanted.read_only {
            self.engine.ledger.counters.opened.one();
        }
        let opener = match &target {
            Target::Writer(writer) => writer.opener,
            Target::Editor(editor) => editor.opener,
            // Who reads is never asked for again.
            _ if wanted.read_only => None,
            _ => self.engine.processes.process_of(caller.tid),
        };
        self.handles.add(NewHandle {
            node,
            target,
            synchronous: flags.intersects(OFlags::SYNC | OFlags::DSYNC),
            writable: !wanted.read_only,
            opener,
            user: self.credentials(caller),
        })
    }

    fn draft_reader(
        &self,
        caller: Caller,
        node: u64,
        draft: &Arc<Draft<SystemDisk>>,
    ) -> io::Result<Opened> {
        let who = self.credentials(caller);
        self.judge(&who, &draft.file, OFlags::RDONLY)?;
        let target = Target::DraftReader(draft.clone());
        let handle = self.add_handle(caller, node, target, OFlags::RDONLY);
        Ok(Opened {
            handle: handle.id,
            flags: FopenFlags::FOPEN_KEEP_CACHE,
        })
    }

    /// Opens what was published under the name of `draft` while the thread it was promised to waited
    /// for its turn. The kernel has looked twice already: the handle goes around its cache.
    fn open_made_meanwhile(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        draft: &Arc<Draft<SystemDisk>>,
        flags: OFlags,
    ) -> Option<io::Result<Opened>> {
        let place = &draft.place;
        let promised = Promised::Draft(draft.clone());
        if !draft.new_name || draft.is_written() || draft.state().writers > 0 {
            return None;
        }
        let kept = self.promises.see(caller.tid, &place.slot)?;
        let stat = attr::of_name(&*place.dir, place.name()).ok()?;
        if !kept.is(&promised) || attr::kind(&stat) != Kind::File {
            return None;
        }
        if let Some(promised) = self.promises.take(caller.tid, &place.slot) {
            self.promise_broken(&promised);
        }
        let (file, stat) = match self.open_as(caller, place, flags) {
            Ok(opened) => opened,
            Err(error) => return Some(Err(error)),
        };
        // The draft that is not wanted any more may still be there.
        let wanted = Access {
            alone: true,
            ..access(flags)
        };
        let plan = match self.plan_open(caller, node, place, &stat, wanted) {
            Ok(plan) => plan,
            Err(error) => return Some(Err(error)),
        };
        Some(match plan {
            Plan::Draft(draft) => self.open_draft(caller, node, &draft, flags, true),
            Plan::Edit(edit) => self.open_edit(caller, node, &edit, flags, true),
            Plan::InPlace => Ok(self.around_the_cache(caller, node, file, flags)),
        })
    }

    /// Opens a draft for writing. `direct` where the kernel has to be kept from caching its
    /// content under the node of the published file.
    pub fn open_draft(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        draft: &Arc<Draft<SystemDisk>>,
        flags: OFlags,
        direct: bool,
    ) -> io::Result<Opened> {
        let promised = self.keep_promise(caller, &Promised::Draft(draft.clone()));
        let who = self.credentials(caller);
        // Its maker may write what he has made, whatever its mode.
        let own = promised || draft.state().is_unclaimed() && draft.who == who;
        if !own {
            self.judge(&who, &draft.file, flags)?;
        }
        let writer = self.engine.attach(draft, caller, promised);
        if access(flags).truncate
            && draft.is_written()
            && let Err(error) = self.engine.cut(draft, 0)
        {
            if self.engine.detach(&writer) {
                self.settle_in_turn(draft.clone(), None);
            }
            return Err(error);
        }
        let handle = self.add_handle(caller, node, Target::Writer(writer), flags);
        let flags = if direct {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::FOPEN_KEEP_CACHE
        };
        Ok(Opened {
            handle: handle.id,
            flags,
        })
    }

    /// Ends the promise that `caller` has for the slot of `what`. Whether it was `what`.
    pub fn keep_promise(self: &Arc<Self>, caller: Caller, what: &Promised) -> bool {
        match self.promises.take(caller.tid, &what.slot()) {
            Some(promised) if promised.is(what) => true,
            Some(other) => {
                self.promise_broken(&other);
                false
            }
            None => false,
        }
    }

    fn open_to_write(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        flags: OFlags,
    ) -> io::Result<Opened> {
        let place = match self.tree.place_of(node) {
            Ok(place) => place,
            Err(error) => match self.reopen_pinned(caller, node, flags) {
                // A file that lost its name, through /proc/PID/fd: there is nothing to publish.
                Some(opened) => return opened,
                None => return Err(error),
            },
        };
        // The kernel was sent to look again and came back to the published file: it cannot be
        // shown the draft (/proc/self/fd/N), so the handle goes around its cache.
        match self.promises.see(caller.tid, &place.slot) {
            Some(promised) if !self.stands_for(&promised, node) => {
                return self.open_itself(caller, node, &promised, flags);
            }
            Some(Promised::Draft(draft)) => {
                return self.open_draft(caller, node, &draft, flags, true);
            }
            Some(Promised::Edit(edit)) => {
                let direct = self.tree.nodes().of_edit(&edit) != Some(node);
                return self.open_edit(caller, node, &edit, flags, direct);
            }
            None => {}
        }
        let stat = match attr::of_name(&*place.dir, place.name()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self
                    .reopen_pinned(caller, node, flags)
                    .unwrap_or(Err(error));
            }
            other => other?,
        };
        // The name was given to another file behind the mount: the edit is what it was.
        if let Some(edit) = self.tree.edit(node)
            && edit.version() != attr::id(&stat)
        {
            return self.open_edit(caller, node, &edit, flags, false);
        }
        match self.plan_open(caller, node, &place, &stat, access(flags))? {
            Plan::InPlace => {
                let who = self.credentials(caller);
                let file = self.open_version(&who, node, passed_on(flags))?;
                Ok(self.version_handle(caller, node, file, flags))
            }
            Plan::Edit(edit) if self.tree.nodes().of_edit(&edit) == Some(node) => {
                self.open_edit(caller, node, &edit, flags, false)
            }
            Plan::Draft(draft) if self.cannot_look_again(caller, node, &place, &stat, flags)? => {
                self.open_draft(caller, node, &draft, flags, true)
            }
            Plan::Edit(edit) if self.cannot_look_again(caller, node, &place, &stat, flags)? => {
                self.open_edit(caller, node, &edit, flags, true)
            }
            Plan::Draft(draft) => {
                self.engine.promise(&draft);
                Err(self.redirect(caller, Promised::Draft(draft)))
            }
            Plan::Edit(edit) => {
                self.engine.promise_edit(&edit);
                Err(self.redirect(caller, Promised::Edit(edit)))
            }
        }
    }

    /// Whether the kernel cannot be sent to look for what the file at `place`, which is now known by
    /// `stat`, is to be opened as: the handle then goes around the cache of `node`.
    ///
    /// # Errors
    /// It is not the file that the kernel has asked for, and `caller` may not open it.
    fn cannot_look_again(
        &self,
        caller: Caller,
        node: u64,
        place: &Place<SystemDisk>,
        stat: &Statx,
        flags: OFlags,
    ) -> io::Result<bool> {
        if caller.tid != 0 && !self.second_looks.asked_before(caller.tid) {
            return Ok(false);
        }
        if !self.tree.nodes().is(node, stat) {
            self.open_as(caller, place, flags)?;
        }
        Ok(true)
    }

    /// Whether `promised` is to take the place of the file that `node` is.
    fn stands_for(&self, promised: &Promised, node: u64) -> bool {
        let nodes = self.tree.nodes();
        match promised {
            Promised::Draft(draft) => draft.made_from == nodes.id(node),
            Promised::Edit(edit) => {
                nodes.of_edit(edit) == Some(node) || Some(edit.version()) == nodes.id(node)
            }
        }
    }

    /// The kernel was sent to look again and came back without having looked (/proc/self/fd/N), while the name
    /// stands for another file by now: `node` itself is meant, and what was promised is not wanted.
    fn open_itself(
        self: &Arc<Self>,
        caller: Caller,
        node: u64,
        promised: &Promised,
        flags: OFlags,
    ) -> io::Result<Opened> {
        if let Some(broken) = self.promises.take(caller.tid, &promised.slot()) {
            self.promise_broken(&broken);
        }
        self.reopen_pinned(caller, node, flags)
            .or_else(|| self.reopen_superseded(caller, node, flags))
            .unwrap_or_else(|| Err(stale()))
    }

    /// Promises `what` to the thread that opens, and has the kernel look again.
    pub fn redirect(self: &Arc<Self>, caller: Caller, what: Promised) -> io::Error {
        if let Some(before) = self.promises.make(caller.tid, what) {
            self.promise_broken(&before);
        }
        stale()
    }

    /// What an open of the existing file at `place` means. What is made for it counts as the caller's.
    ///
    /// # Errors
    /// Those of making a draft or an edit; EMFILE where the caller's user has his share.
    pub fn plan_open(
        &self,
        caller: Caller,
        node: u64,
        place: &Place<SystemDisk>,
        stat: &Statx,
        wanted: Access,
    ) -> io::Result<Plan<SystemDisk>> {
        let share = self.descriptors_to_write(caller, wanted)?;
        let plan = self.plan_existing(caller, node, place, stat, wanted)?;
        match &plan {
            Plan::Draft(draft) => draft.counts_as(share),
            Plan::Edit(edit) => edit.counts_as(share),
            Plan::InPlace => {}
        }
        Ok(plan)
    }

    /// The same for a name at which there is nothing.
    fn plan_new(
        &self,
        caller: Caller,
        place: &Place<SystemDisk>,
        new: &New<'_>,
        wanted: Access,
    ) -> io::Result<Option<Arc<Draft<SystemDisk>>>> {
        let share = self.descriptors_to_write(caller, wanted)?;
        let plan = self.engine.plan_new(caller, place, new, wanted)?;
        if let Some(draft) = &plan {
            draft.counts_as(share);
        }
        Ok(plan)
    }

    pub fn plan_existing(
        &self,
        caller: Caller,
        node: u64,
        place: &Place<SystemDisk>,
        stat: &Statx,
        wanted: Access,
    ) -> io::Result<Plan<SystemDisk>> {
        let parent = self.tree.nodes().get(node).map_or(ROOT, |node| node.parent);
        let path = self.tree.path(parent, place.name());
        let existing = Existing {
            path: &path,
            stat: attr::stat(stat),
            dir: attr::stat(&attr::of_file(&*place.dir)?),
            flagged: attr::flagged(stat),
        };
        self.engine.plan_existing(caller, place, &existing, wanted)
    }

    /// Opens a file that has no name any more, through a handle that is still open.
    pub fn reopen_pinned(
        &self,
        caller: Caller,
        node: u64,
        flags: OFlags,
    ) -> Option<io::Result<Opened>> {
        let pin = self.tree.own_pin(node)?;
        Some(self.opened_again(caller, node, &pin, flags))
    }

    /// Opens a version that is no longer published, while it is kept.
    pub fn reopen_superseded(
        &self,
        caller: Caller,
        node: u64,
        flags: OFlags,
    ) -> Option<io::Result<Opened>> {
        let file = self.tree.superseded(node)?;
        Some(self.opened_again(caller, node, &file, flags))
    }

    fn opened_again(
        &self,
        caller: Caller,
        node: u64,
        file: &File,
        flags: OFlags,
    ) -> io::Result<Opened> {
        let who = self.credentials(caller);
        let file = self.reopen(&who, file, passed_on(flags))?;
        self.cut_if_asked(&who, &file, flags)?;
        Ok(self.version_handle(caller, node, file, flags))
    }

    /// A promise will not be kept.
    pub fn promise_broken(self: &Arc<Self>, promised: &Promised) {
        // Either nobody ever opened it, or its last writer left the settling to whom it was promised.
        match promised {
            Promised::Draft(draft) => {
                if self.engine.break_promise(draft) {
                    self.settle_in_turn(draft.clone(), None);
                }
            }
            Promised::Edit(edit) => {
                if self.engine.break_edit_promise(edit) {
                    self.settle_edit_in_turn(edit.clone(), None);
                }
            }
        }
    }

    /// Makes `name` in `parent` and opens it.
    pub fn create(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        modes: (u32, u32),
        flags: i32,
    ) -> io::Result<(Entry, Opened)> {
        let open_flags = OFlags::from_bits_retain(flags as u32);
        let ask = self
            .turn_of_name(caller, parent, name, open_flags)
            .filter(|_| !access(open_flags).exclusive);
        let created = match ask.as_ref().map(|ask| self.turn_at_once(caller, ask)) {
            None | Some(Ok(())) => self.create_counted(caller, parent, name, modes, open_flags),
            Some(Err(Refused::NoDescriptors)) => Err(too_many_files()),
            Some(Err(Refused::Deadlock)) => Err(io::Error::from_raw_os_error(libc::EDEADLK)),
            Some(Err(_)) if open_flags.contains(OFlags::NONBLOCK) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Some(Err(_)) => Err(self.make_and_wait(caller, parent, name, modes, open_flags)),
        };
        // Here it must not wait: the kernel looks again, and waits in OPEN.
        let created = created.map_err(|error| match is_leased(&error) && may_wait(flags) {
            true => stale(),
            false => error,
        });
        self.note_second_look(caller, &created);
        let created = match created {
            Ok((entry, opened)) => (Some(entry), Ok(opened)),
            Err(error) => (None, Err(error)),
        };
        self.settle_turn(caller, ask.as_ref(), &created.1);
        match created {
            (Some(entry), Ok(opened)) => Ok((entry, opened)),
            (_, Err(error)) => Err(error),
            (None, Ok(_)) => Err(stale()),
        }
    }

    fn create_counted(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        modes: (u32, u32),
        flags: OFlags,
    ) -> io::Result<(Entry, Opened)> {
        let share = self.descriptors_of_handle(caller)?;
        let (entry, opened) = self.create_once(caller, parent, name, modes, flags)?;
        let opened = Ok(opened);
        self.opened_with(share, &opened);
        opened.map(|opened| (entry, opened))
    }

    /// CREATE of a name at which somebody else has the turn. It must not wait, so the kernel is sent
    /// to look for what is made here, and comes back to open that, and waits then.
    fn make_and_wait(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        (mode, umask): (u32, u32),
        flags: OFlags,
    ) -> io::Error {
        let made = self.tree.place(parent, name).and_then(|place| {
            if attr::of_name(&*place.dir, name).is_ok() {
                return Ok(());
            }
            let path = self.tree.path(parent, name);
            let new = New {
                path: &path,
                dir: attr::stat(&attr::of_file(&*place.dir)?),
                mode: masked(&place.dir, mode, umask),
            };
            match self.plan_new(caller, &place, &new, access(flags))? {
                None => {
                    let (entry, opened) =
                        self.create_published(caller, parent, &place, &new, flags)?;
                    self.release(opened.handle);
                    self.forget(entry.attr.ino.0, 1);
                }
                Some(draft) => {
                    self.engine.promise(&draft);
                    let _ = self.redirect(caller, Promised::Draft(draft));
                }
            }
            Ok(())
        });
        made.err().unwrap_or_else(stale)
    }

    /// The kernel comes once or twice, while others may make and remove the name all the time.
    fn create_once(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        modes: (u32, u32),
        flags: OFlags,
    ) -> io::Result<(Entry, Opened)> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.create_now(caller, parent, name, modes, flags) {
                Err(error) if tries < CREATE_TRIES && is_overtaken(&error) => {}
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && !access(flags).exclusive =>
                {
                    // Made behind the mount since it looked.
                    if tries >= CREATE_TRIES {
                        return Err(stale());
                    }
                }
                other => return other,
            }
        }
    }

    fn create_now(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        (mode, umask): (u32, u32),
        flags: OFlags,
    ) -> io::Result<(Entry, Opened)> {
        if is_hidden(parent == ROOT, name) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let wanted = access(flags);
        let place = self.tree.place(parent, name)?;
        if let Ok(stat) = attr::of_name(&*place.dir, name) {
            // Published since the kernel looked; or a lock file that it is not shown.
            if !wanted.exclusive {
                show_lock(&place);
                return self.create_existing(caller, parent, &place, &stat, flags);
            }
            self.yield_lock(&place)?;
        }
        let path = self.tree.path(parent, name);
        let dir = attr::stat(&attr::of_file(&*place.dir)?);
        let new = New {
            path: &path,
            dir,
            mode: masked(&place.dir, mode, umask),
        };
        match self.plan_new(caller, &place, &new, wanted)? {
            None => self.create_published(caller, parent, &place, &new, flags),
            Some(draft) => {
                let entry = self.draft_entry(parent, name, &draft)?;
                let opened = self.open_draft(caller, entry.attr.ino.0, &draft, flags, false)?;
                Ok((entry, opened))
            }
        }
    }

    /// CREATE of a name that has come to exist: the kernel takes any file for an answer, so this needs no
    /// second look, of which it has one only.
    fn create_existing(
        self: &Arc<Self>,
        caller: Caller,
        parent: u64,
        place: &Place<SystemDisk>,
        stat: &Statx,
        flags: OFlags,
    ) -> io::Result<(Entry, Opened)> {
        self.check_create(caller, place, stat, flags)?;
        let mut entry = self.entry(caller, parent, place.name(), stat, true);
        let node = entry.attr.ino.0;
        let plan = if access(flags).read_only {
            Plan::InPlace
        } else {
            self.plan_open(caller, node, place, stat, access(flags))?
        };
        let opened = match plan {
            Plan::InPlace => {
                let who = self.credentials(caller);
                let file = self.open_version(&who, node, passed_on(flags))?;
                Ok(self.version_handle(caller, node, file, flags))
            }
            Plan::Draft(draft) => {
                self.forget(node, 1);
                entry = self.draft_entry(parent, place.name(), &draft)?;
                self.open_draft(caller, entry.attr.ino.0, &draft, flags, false)
            }
            Plan::Edit(edit) => {
                self.forget(node, 1);
                entry = self.edit_entry(parent, place.name(), &edit)?;
                self.open_edit(caller, entry.attr.ino.0, &edit, flags, false)
            }
        };
        if opened.is_err() {
            self.forget(entry.attr.ino.0, 1);
        }
        Ok((entry, opened?))
    }

    fn create_published(
        &self,
        caller: Caller,
        parent: u64,
        place: &Place<SystemDisk>,
        new: &New<'_>,
        flags: OFlags,
    ) -> io::Result<(Entry, Opened)> {
        let how =
            passed_on(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let who = self.credentials(caller);
        let mode = Mode::from_raw_mode(self.engine.mode_of_new(&who, new.mode));
        let make = || Ok(rustix::fs::openat(&*place.dir, place.name(), how, mode)?);
        let fd = self.engine.for_user(&who, make)?;
        let stat = attr::of_file(&fd)?;
        let mut entry = self.entry(caller, parent, place.name(), &stat, true);
        entry.entry_ttl = NOT_REMEMBERED;
        let opened = self.version_handle(caller, entry.attr.ino.0, File::from(fd), flags);
        Ok((entry, opened))
    }
}

/// The mode of a new file: the caller's umask counts only where the directory has no default ACL
/// (acl(5), "object creation and default ACLs").
pub fn masked(dir: &Dir, mode: u32, umask: u32) -> u32 {
    const DEFAULT_ACL: &str = "system.posix_acl_default";
    let len = match rustix::fs::fgetxattr_query(dir, DEFAULT_ACL) {
        // A directory that may be searched but not listed is open only as a name.
        Err(Errno::BADF) => rustix::fs::getxattr_query(path_of(dir.as_fd()), DEFAULT_ACL),
        other => other,
    };
    let has_default = len.is_ok_and(|len| len > 0);
    if has_default {
        mode & 0o7777
    } else {
        mode & 0o7777 & !umask
    }
}
