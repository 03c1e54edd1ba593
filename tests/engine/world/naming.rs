//! Renames, exchanges, links, removals and truncations by path.

use std::ffi::OsStr;
use std::io;

use polystore::disk::Disk;
use polystore_mount::engine::editing::{Content, Edit};
use polystore_mount::engine::opening::Plan;
use polystore_mount::engine::slot::Place;
use polystore_mount::engine::visibility::View;

use super::handles::file_as_slot;
use super::{EDIT, World};
use crate::processes::Pid;
use crate::sim_disk::SimDisk;

impl World {
    pub fn try_rename(&self, pid: Pid, from: &str, to: &str, replace: bool) -> io::Result<()> {
        let (moved, replaced) = (self.published_id(from), self.published_id(to));
        let (from, to) = (self.place(from)?, self.place(to)?);
        let draft = self
            .engine
            .rename(self.tree.caller(pid), &from, &to, replace)?;
        if draft.is_some() || moved != replaced {
            self.locks.renamed(&from.slot, &to.slot);
        }
        Ok(())
    }

    pub fn rename(&self, pid: Pid, from: &str, to: &str) {
        self.try_rename(pid, from, to, true).expect("renamed");
    }

    /// RENAME_EXCHANGE.
    pub fn try_exchange(&self, pid: Pid, one: &str, two: &str) -> io::Result<()> {
        let (first, second) = (self.published_id(one), self.published_id(two));
        let (one, two) = (self.place(one)?, self.place(two)?);
        if first.is_none() || second.is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if first == second {
            return Ok(());
        }
        // The disk of the tests knows no exchange, and nobody looks in between.
        let aside = OsStr::new(".aside");
        let disk = &self.disk;
        disk.rename(&one.dir, one.name(), &one.dir, aside, false)?;
        disk.rename(&two.dir, two.name(), &one.dir, one.name(), false)?;
        disk.rename(&one.dir, aside, &two.dir, two.name(), false)?;
        self.engine.exchanged(self.tree.caller(pid), &one, &two);
        self.locks.exchanged(&one.slot, &two.slot);
        Ok(())
    }

    /// link(2).
    pub fn try_link(&self, pid: Pid, from: &str, to: &str) -> io::Result<()> {
        let taken = self.published_id(to).is_some();
        let (from, to) = (self.place(from)?, self.place(to)?);
        if taken || self.engine.is_reserved(&to.slot) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let View::Draft(draft) = self.view(pid, &from) {
            self.engine.publish_for_link(&draft)?;
            self.disk.link(&draft.file, &to.dir, to.name())?;
        } else {
            let file = self.disk.open(&from.dir, from.name(), false)?;
            self.disk.link(&file, &to.dir, to.name())?;
        }
        let file = self.disk.stat(&to.dir, to.name())?;
        if let Some(stat) = file {
            self.locks.linked(&from.slot, file_as_slot(stat.id));
        }
        Ok(())
    }

    pub fn try_unlink(&self, pid: Pid, path: &str) -> io::Result<()> {
        let place = self.place(path)?;
        self.engine.unlink(self.tree.caller(pid), &place)?;
        self.locks.removed(&place.slot);
        Ok(())
    }

    pub fn unlink(&self, pid: Pid, path: &str) {
        self.try_unlink(pid, path).expect("unlinked");
    }

    /// truncate(2).
    pub fn try_truncate(&self, pid: Pid, path: &str, len: u64) -> io::Result<()> {
        let place = self.place(path)?;
        if let View::Draft(draft) = self.view(pid, &place) {
            return self.cut(&Content::Draft(draft), len);
        }
        if self.published_id(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let existing = self.existing(path, &place);
        let caller = self.tree.caller(pid);
        match self.engine.plan_existing(caller, &place, &existing, EDIT)? {
            Plan::Draft(draft) => self.cut(&Content::Draft(draft), len),
            Plan::Edit(edit) => self.cut_edit(pid, &edit, len),
            Plan::InPlace => self.cut_published(&place, len),
        }
    }

    fn cut_published(&self, place: &Place<SimDisk>, len: u64) -> io::Result<()> {
        let file = self.disk.open(&place.dir, place.name(), true)?;
        self.disk.set_len(&file, len)
    }

    /// An edit in one step.
    fn cut_edit(&self, pid: Pid, edit: &std::sync::Arc<Edit<SimDisk>>, len: u64) -> io::Result<()> {
        // Others decide what becomes of what they have written.
        if self.engine.cut_written(edit, len)? {
            return Ok(());
        }
        self.engine.promise_edit(edit);
        let editor = self
            .engine
            .attach_edit(edit, self.tree.caller(pid), EDIT, true);
        let content = self.engine.begin_write(&editor, len);
        let done = content.and_then(|content| self.cut(&content, len));
        if done.is_err() {
            self.engine.interrupt_edit(&editor);
        }
        if self.engine.detach_edit(&editor) {
            self.engine.settle_edit(edit);
        }
        done
    }

    pub(super) fn cut(&self, content: &Content<SimDisk>, len: u64) -> io::Result<()> {
        match content {
            Content::Draft(draft) => self.engine.cut(draft, len),
            Content::Version(file) => self.disk.set_len(file, len),
        }
    }
}
