//! MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR and RENAME.
//!
//! All of them run in their turn (see `engine/order.rs`): no publish of the
//! same name is under way while they do.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fuser::RenameFlags;
use polystore::disk::{Kind, SystemDisk};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::attr;
use super::fs::{Entry, Fs};
use super::locking::file_as_slot;
use super::made_locks::is_made_lock;
use super::nodes::{Nodes, ROOT};
use super::opening::masked;
use crate::engine::editing::Edit;
use crate::engine::process::Caller;
use crate::engine::slot::Place;
use crate::engine::staging::is_hidden;

/// Mode and umask of a new file, as the kernel sends them.
#[derive(Clone, Copy, Debug)]
pub struct NewMode {
    /// Type and permission bits.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

impl Fs {
    /// The place of a name that is to be made.
    fn new_place(&self, parent: u64, name: &OsStr) -> io::Result<Place<SystemDisk>> {
        if is_hidden(parent == ROOT, name) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let place = self.tree.place(parent, name)?;
        if self.engine.is_reserved(&place.slot) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // What is in the way is told by the system call itself.
        let _ = self.yield_lock(&place);
        Ok(place)
    }

    /// What is hidden is not there; the control channel is, and stays.
    fn must_not_be_hidden(&self, parent: u64, name: &OsStr) -> io::Result<()> {
        if Fs::is_channel_dir(parent, name) {
            return Err(Errno::PERM.into());
        }
        match is_hidden(parent == ROOT, name) {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(()),
        }
    }

    /// Does what makes a name, as `caller`, and tells of it.
    fn make(
        &self,
        caller: Caller,
        parent: u64,
        place: &Place<SystemDisk>,
        make: impl Fn() -> Result<(), Errno>,
    ) -> io::Result<Entry> {
        let who = self.credentials(caller);
        self.engine.for_user(&who, || Ok(make()?))?;
        let stat = attr::of_name(&*place.dir, place.name())?;
        let volatile = self.is_volatile(&place.slot);
        Ok(self.entry(caller, parent, place.name(), &stat, volatile))
    }

    fn mode_of_new(&self, caller: Caller, place: &Place<SystemDisk>, new: NewMode) -> Mode {
        let mode = masked(&place.dir, new.mode, new.umask);
        let mode = self.engine.mode_of_new(&self.credentials(caller), mode);
        Mode::from_raw_mode(mode)
    }

    /// Makes a file, FIFO, socket or device.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        new: NewMode,
        device: u32,
    ) -> io::Result<Entry> {
        let place = self.new_place(parent, name)?;
        let mode = self.mode_of_new(caller, &place, new);
        let kind = FileType::from_raw_mode(new.mode);
        let kind = if kind == FileType::Unknown {
            FileType::RegularFile
        } else {
            kind
        };
        let (major, minor) = attr::device_of(device);
        let device = rustix::fs::makedev(major, minor);
        self.make(caller, parent, &place, || {
            rustix::fs::mknodat(&*place.dir, name, kind, mode, device)
        })
    }

    /// Makes a directory.
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        new: NewMode,
    ) -> io::Result<Entry> {
        let place = self.new_place(parent, name)?;
        let mode = self.mode_of_new(caller, &place, new);
        self.make(caller, parent, &place, || {
            rustix::fs::mkdirat(&*place.dir, name, mode)
        })
    }

    /// Makes a symbolic link to `target`.
    pub fn symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        target: &Path,
    ) -> io::Result<Entry> {
        let place = self.new_place(parent, name)?;
        self.make(caller, parent, &place, || {
            rustix::fs::symlinkat(target, &*place.dir, name)
        })
    }

    /// Gives the file that `node` is the further name `name` in `parent`.
    pub fn link(&self, caller: Caller, node: u64, parent: u64, name: &OsStr) -> io::Result<Entry> {
        let place = self.new_place(parent, name)?;
        if let Some(draft) = self.tree.draft(node) {
            self.engine.publish_for_link(&draft)?;
        }
        // What is edited is linked as it is published.
        let source = match self.tree.edit(node) {
            Some(_) => self.tree.reach_by_name(node)?,
            None => self.tree.reach(node)?,
        };
        let path = source.path();
        let link = || {
            let follow = AtFlags::SYMLINK_FOLLOW;
            Ok(rustix::fs::linkat(
                rustix::fs::CWD,
                &path,
                &*place.dir,
                name,
                follow,
            )?)
        };
        self.engine.for_user(&self.credentials(caller), link)?;
        let stat = attr::of_name(&*place.dir, name)?;
        let known_as = self.tree.nodes().slot(node);
        if let Some(slot) = known_as.filter(|_| !self.locks.is_empty()) {
            self.locks.linked(&slot, file_as_slot(attr::id(&stat)));
        }
        Ok(self.entry(caller, parent, name, &stat, true))
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, caller: Caller, parent: u64, name: &OsStr) -> io::Result<()> {
        self.must_not_be_hidden(parent, name)?;
        let place = self.tree.place(parent, name)?;
        let file = attr::of_name(&*place.dir, name)
            .ok()
            .map(|stat| attr::id(&stat));
        let edit = self.engine.edit_at(&place.slot);
        if self.second_looks.any() {
            // One of them may be on its way to this file, and will not look a third time.
            self.tree.keep_removed(&place);
        }
        self.engine.unlink(caller, &place)?;
        self.locks.removed(&place.slot);
        let mut nodes = self.tree.nodes();
        let edited = edit.and_then(|edit| nodes.of_edit(&edit));
        let gone = file.and_then(|id| nodes.of(id));
        for node in gone.into_iter().chain(edited) {
            nodes.unlinked(node, parent, name);
        }
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: Caller, parent: u64, name: &OsStr) -> io::Result<()> {
        self.must_not_be_hidden(parent, name)?;
        let place = self.tree.place(parent, name)?;
        let id = attr::id(&attr::of_name(&*place.dir, name)?);
        let who = self.credentials(caller);
        self.engine.judge_removing(&who, &place)?;
        let remove = || {
            let remove = || Ok(rustix::fs::unlinkat(&*place.dir, name, AtFlags::REMOVEDIR)?);
            self.engine.for_user(&who, remove)
        };
        match remove() {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.yield_locks_in(&place)?;
                remove()?;
            }
            other => other?,
        }
        self.engine.directory_removed(caller, id);
        let node = {
            let mut nodes = self.tree.nodes();
            let node = nodes.of(id);
            if let Some(node) = node {
                nodes.unlinked(node, parent, name);
            }
            node
        };
        if let Some(node) = node {
            self.tree.close(node);
        }
        Ok(())
    }

    /// Renames `from` to `to`, each a directory and a name in it.
    pub fn rename(
        &self,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
    ) -> io::Result<()> {
        self.must_not_be_hidden(from.0, from.1)?;
        if is_hidden(to.0 == ROOT, to.1) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (source, target) = (
            self.tree.place(from.0, from.1)?,
            self.tree.place(to.0, to.1)?,
        );
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return self.exchange(caller, from, to, &source, &target);
        }
        if flags.contains(RenameFlags::RENAME_WHITEOUT) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let id_at = |place: &Place<SystemDisk>| {
            attr::of_name(&*place.dir, place.name())
                .ok()
                .map(|stat| (attr::id(&stat), attr::kind(&stat)))
        };
        let (moved, replaced) = (id_at(&source), id_at(&target));
        let edits = (
            self.engine.edit_at(&source.slot),
            self.engine.edit_at(&target.slot),
        );
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        // A lock file that is not shown is no file that the kernel has judged: it goes if it is free, and is
        // in the way if not. Two would hold one turn else.
        if is_made_lock(&target.dir, to.1) {
            self.yield_lock(&target)?;
        }
        // Somebody may be on his way to what is replaced.
        self.tree.supersede(&target, Some(caller.tid));
        let draft = self.engine.rename(caller, &source, &target, replace)?;
        let same = moved.map(|(id, _)| id) == replaced.map(|(id, _)| id);
        if same && moved.is_some() && draft.is_none() {
            return Ok(()); // Two names of one file: rename(2) does nothing.
        }
        // The kernel remembers the new name for as long as it would have the old one.
        self.channel.told.tell(to.0, to.1);
        self.locks.renamed(&source.slot, &target.slot);
        self.locks.moved(&target.slot, target.dir.clone());
        let gone = {
            let mut nodes = self.tree.nodes();
            let of_edit = |edit: &Option<Arc<Edit<SystemDisk>>>, nodes: &Nodes| {
                edit.as_ref().and_then(|edit| nodes.of_edit(edit))
            };
            if source.slot != target.slot {
                if let Some(node) = of_edit(&edits.1, &nodes) {
                    nodes.unlinked(node, to.0, to.1);
                }
                match of_edit(&edits.0, &nodes) {
                    Some(node) if draft.is_some() => nodes.unlinked(node, from.0, from.1),
                    Some(node) => nodes.renamed(node, to.0, to.1),
                    None => {}
                }
            }
            let gone = replaced
                .filter(|_| !same)
                .and_then(|(id, kind)| Some((nodes.of(id)?, kind)));
            if let Some((node, _)) = gone {
                nodes.unlinked(node, to.0, to.1);
            }
            // The old version under a name whose draft was moved away is gone with it.
            let old = draft.and(moved).and_then(|(id, _)| nodes.of(id));
            if let Some(node) = old {
                nodes.unlinked(node, from.0, from.1);
            }
            if let Some(node) = draft
                .or(moved.map(|(id, _)| id))
                .and_then(|id| nodes.of(id))
            {
                nodes.renamed(node, to.0, to.1);
            }
            gone
        };
        if let Some((node, Kind::Directory)) = gone {
            self.tree.close(node);
        }
        Ok(())
    }

    fn exchange(
        &self,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        source: &Place<SystemDisk>,
        target: &Place<SystemDisk>,
    ) -> io::Result<()> {
        let who = self.credentials(caller);
        for place in [source, target] {
            self.engine.judge_removing(&who, place)?;
        }
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let exchange = || {
            let (from_dir, to_dir) = (&*source.dir, &*target.dir);
            Ok(rustix::fs::renameat_with(
                from_dir, from.1, to_dir, to.1, flags,
            )?)
        };
        self.engine.for_user(&who, exchange)?;
        self.engine.exchanged(caller, source, target);
        self.locks.exchanged(&source.slot, &target.slot);
        for place in [source, target] {
            self.locks.moved(&place.slot, place.dir.clone());
        }
        let now_at = |place: &Place<SystemDisk>| {
            attr::of_name(&*place.dir, place.name()).map(|stat| attr::id(&stat))
        };
        let (at_source, at_target) = (now_at(source)?, now_at(target)?);
        let edits = (
            self.engine.edit_at(&source.slot),
            self.engine.edit_at(&target.slot),
        );
        let mut nodes = self.tree.nodes();
        for (file, edit, (parent, name)) in [(at_source, edits.0, from), (at_target, edits.1, to)] {
            let edited = edit.and_then(|edit| nodes.of_edit(&edit));
            for node in nodes.of(file).into_iter().chain(edited) {
                nodes.renamed(node, parent, name);
            }
        }
        Ok(())
    }
}
